//! One session with Control, from the open WebSocket to its end.

#![expect(
    clippy::disallowed_methods,
    reason = "a session waits for sockets and for time"
)]

use std::{
    future::{pending, poll_fn},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use kakuremichi_core::code::Code;
use kakuremichi_proto::{
    plan::WirePlan,
    report::Refusal,
    session::{ClientEvent, Closed, Command, Reason, RequestId},
};
use tokio::time;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{
    LinkStatus, NodeRecord, Order,
    driver::{Driver, on_disk},
    socket::Socket,
    supply,
};
use crate::keys::{self, Renewed};

/// How often usage is sent.
const USAGE_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest time between two reports of lanes and targets; only the newest is sent.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The time for the last words: what was counted, what is no longer declared, why the link ends.
const GOODBYE: Duration = Duration::from_secs(2);
/// The time that a node has to serve a plan; it takes a moment.
const SERVED: Duration = Duration::from_secs(10);

/// How a session ended.
pub(super) enum SessionEnd {
    /// The node stops.
    Stopped,
    /// The transport failed.
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// One side ended it.
    Closed(Closed),
}

/// The sending half, and what it is about to send.
struct Out {
    sink: SplitSink<Socket, Message>,
    next: Option<Vec<u8>>,
    unflushed: bool,
}

impl Out {
    /// Moves one step: makes room, hands over a frame, or flushes. Pends when there is nothing to do.
    /// Nothing is lost when it is dropped half way.
    async fn step(&mut self) -> Result<(), tungstenite::Error> {
        if self.next.is_some() {
            poll_fn(|cx| self.sink.poll_ready_unpin(cx)).await?;
            if let Some(frame) = self.next.take() {
                self.unflushed = true;
                self.sink.start_send_unpin(Message::Binary(frame.into()))?;
            }
            return Ok(());
        }
        if self.unflushed {
            poll_fn(|cx| self.sink.poll_flush_unpin(cx)).await?;
            self.unflushed = false;
            return Ok(());
        }
        pending().await
    }

    const fn is_idle(&self) -> bool {
        self.next.is_none() && !self.unflushed
    }
}

impl<R: NodeRecord> Driver<R> {
    /// Has a session over `socket`.
    pub(super) async fn session(&mut self, socket: Socket) -> SessionEnd {
        let nonce = match keys::random() {
            Ok(nonce) => nonce,
            Err(error) => return SessionEnd::Broken(Box::new(error)),
        };
        let (sink, mut stream) = socket.split();
        let mut out = Out {
            sink,
            next: None,
            unflushed: false,
        };
        self.client.connect(nonce, Instant::now());
        self.client.set_info(self.supply.info().clone());
        let status = self.supply.report.borrow_and_update().as_ref().clone();
        self.client.set_status(status);
        self.tell_signing_keys();
        self.sync_wishes();
        self.count_usage().await;
        let mut usage_due = time::Instant::now() + USAGE_INTERVAL;
        let mut report_due = time::Instant::now();
        let mut leaving: Option<time::Instant> = None;
        let mut broken = None;
        loop {
            let mut closed = None;
            while let Some(event) = self.client.poll_event() {
                if let ClientEvent::Closed(how) = event {
                    closed = Some(how);
                } else {
                    self.obey(event).await;
                }
            }
            if let Some(closed) = closed {
                if let Some(error) = broken {
                    return SessionEnd::Broken(error);
                }
                self.finish(out).await;
                return SessionEnd::Closed(closed);
            }
            if out.next.is_none() {
                out.next = self.client.poll_transmit();
            }
            if leaving.is_some() && out.is_idle() && self.client.usage().sealed().len() == 0 {
                self.finish(out).await;
                return SessionEnd::Stopped;
            }
            let deadline = self.client.poll_timeout().map(|(deadline, _)| deadline.into());
            tokio::select! {
                sent = out.step() => if let Err(error) = sent {
                    self.client.handle_disconnect(Instant::now());
                    broken = Some(error.into());
                },
                received = stream.next() => match received {
                    Some(Ok(Message::Binary(frame))) => self.client.handle_frame(&frame, Instant::now()),
                    Some(Ok(Message::Text(_))) => self.client.close(
                        Reason::passing(Code::PROTOCOL_VIOLATION, "frames are binary"),
                        Instant::now(),
                    ),
                    // Pings are answered by the WebSocket itself, at the next flush.
                    Some(Ok(_)) => out.unflushed = true,
                    Some(Err(error)) => {
                        self.client.handle_disconnect(Instant::now());
                        broken = Some(error.into());
                    }
                    None => self.client.handle_disconnect(Instant::now()),
                },
                () = at(deadline) => self.client.handle_timeout(Instant::now()),
                Ok(()) = self.supply.wishes.changed() => self.sync_wishes(),
                Ok(()) = self.supply.signing.changed() => self.tell_signing_keys(),
                // A change marks the report as seen only when it is taken, so it waits its turn here.
                () = time::sleep_until(report_due), if self.supply.report.has_changed().unwrap_or(false) => {
                    let status = self.supply.report.borrow_and_update().as_ref().clone();
                    self.client.set_status(status);
                    report_due = time::Instant::now() + REPORT_INTERVAL;
                }
                Ok(()) = changed(&self.supply.report), if !self.supply.report.has_changed().unwrap_or(true) => {}
                Some(incident) = self.supply.incidents.recv() => self.client.report(incident),
                Some(answer) = self.supply.rotations.recv() => self.rotate_for(answer).await,
                () = time::sleep_until(usage_due) => {
                    self.ask_again();
                    self.tend_keys().await;
                    self.count_usage().await;
                    usage_due = time::Instant::now() + USAGE_INTERVAL;
                }
                () = supply::stopped(self.supply.stop.clone()), if leaving.is_none() => {
                    self.sync_wishes();
                    self.count_usage().await;
                    leaving = Some(time::Instant::now() + GOODBYE);
                }
                () = at(leaving) => return SessionEnd::Stopped,
            }
        }
    }

    fn tell_signing_keys(&mut self) {
        let keys = self.supply.signing.borrow_and_update().to_vec();
        if !keys.is_empty() {
            self.client.set_signing_keys(keys);
        }
    }

    async fn obey(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Connected(membership) => {
                self.enrolled(membership.node).await;
                self.let_in().await;
                tracing::info!(node = %membership.node, name = %membership.name, session = membership.session, "linked to Control");
                self.supply.set_status(LinkStatus::Up {
                    since: SystemTime::now(),
                    session: membership.session,
                });
            }
            ClientEvent::Plan(plan) => self.apply(&plan).await,
            ClientEvent::PlanFault(fault) => {
                tracing::warn!(%fault, "a plan could not be used, the whole one was asked for");
            }
            ClientEvent::Declared { name, result } => self.answered(&name, result),
            ClientEvent::Undeclared { name } => tracing::debug!(%name, "no longer declared"),
            ClientEvent::Command {
                request,
                command: Command::RotateKeys,
            } => {
                let result = self.rotate(Renewed::Both).await;
                self.client.answer_command(request, result);
            }
            ClientEvent::KeysRotated { result, .. } => self.rotated(result).await,
            ClientEvent::Command { request, command } => self.command(request, command),
            ClientEvent::Closed(_) => {}
        }
    }

    /// Has a plan served, keeps it on disk, and acknowledges it when both are done.
    async fn apply(&mut self, wire: &Arc<WirePlan>) {
        let Some(node) = self.client.node() else { return };
        let decoded = match wire.to_plan::<R>(node) {
            Ok(decoded) => decoded,
            Err(error) => {
                let reason = Reason::passing(Code::PROTOCOL_VIOLATION, error.to_string());
                self.client.close(reason, Instant::now());
                return;
            }
        };
        for rejected in &decoded.rejected {
            tracing::warn!(tag = rejected.tag, service = ?rejected.service, why = %rejected.why, "a record of the plan is not understood");
        }
        let denied = decoded.denied();
        tracing::debug!(revision = decoded.plan.revision().0, "a plan came");
        self.supply.publish(decoded.plan);
        let state = self.supply.state().clone();
        let stored = Arc::clone(wire);
        on_disk("the plan", move || state.store_plan(&stored.to_bytes())).await;
        if !matches!(time::timeout(SERVED, self.supply.served()).await, Ok(true)) {
            // Nothing false is told: Control goes on to think that the node has the plan before.
            tracing::warn!("the node does not serve the plan that came: it is not acknowledged");
            return;
        }
        self.client.applied(wire, &denied, Instant::now());
    }

    fn command(&mut self, request: RequestId, command: Command) {
        let order = match command {
            Command::Drain { .. } => Order::Drain,
            Command::Undrain => Order::Undrain,
            // It is the link's own to do.
            Command::RotateKeys => return,
        };
        let result = if self.supply.order(order) {
            Ok(())
        } else {
            Err(Refusal::new(Code::TRY_LATER, "the node has too much to do"))
        };
        self.client.answer_command(request, result);
    }

    /// Sends what is left to say, within [`GOODBYE`], and ends the transport.
    async fn finish(&mut self, mut out: Out) {
        let saying = async {
            loop {
                if out.next.is_none() {
                    out.next = self.client.poll_transmit();
                }
                if out.is_idle() {
                    // How the transport ends no longer matters.
                    let _ = out.sink.close().await;
                    return;
                }
                if out.step().await.is_err() {
                    return;
                }
            }
        };
        let _ = time::timeout(GOODBYE, saying).await;
        self.client.handle_disconnect(Instant::now());
    }
}

async fn at(deadline: Option<time::Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Waits for a change without marking it as seen.
async fn changed<T>(
    watched: &tokio::sync::watch::Receiver<T>,
) -> Result<(), tokio::sync::watch::error::RecvError> {
    watched.clone().changed().await
}
