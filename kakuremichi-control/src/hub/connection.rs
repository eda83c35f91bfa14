//! One connection: bytes between the WebSocket and proto's session.

use std::{
    collections::VecDeque,
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::extract::ws::{Message, WebSocket};
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use kakuremichi_core::{code::Code, id::NodeId, model::Node};
use kakuremichi_proto::{
    report::NodeInfo,
    session::{Accepted, Closed, Reason, Resumed, Server, ServerEvent},
};
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use super::{
    Hub, HubState, PlanStatus, Presence,
    limits::Unauthenticated,
    registry::Seat,
    work::{Done, Work, perform},
};
use crate::{
    planner::Planned,
    service::{Start, random},
};

/// What a node asked for and was not begun. While there is so much, nothing is read from the node.
const MAX_WORK: usize = 64;
/// Pings and pongs of the WebSocket's own that somebody may send before it is let in. More end the
/// connection.
const MAX_CONTROL_FRAMES: usize = 32;
/// How long a node that does not read is waited for when its connection ends.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Speaks with a node until its connection ends.
pub(super) async fn run(hub: &Hub, socket: WebSocket, admitted: Unauthenticated) {
    let Ok(nonce) = random() else {
        tracing::error!("the system gave no random numbers");
        return;
    };
    let mut connection = Connection {
        hub,
        server: Server::new(Arc::clone(&hub.config), nonce, Instant::now()),
        admitted: Some(admitted),
        control_frames: 0,
        member: None,
        work: VecDeque::new(),
        closed: None,
    };
    connection.drive(socket).await;
    connection.end().await;
}

struct Connection<'a> {
    hub: &'a Hub,
    server: Server,
    /// The place among those who have proven nothing; given back when the node is let in.
    admitted: Option<Unauthenticated>,
    control_frames: usize,
    member: Option<Member>,
    work: VecDeque<Work>,
    closed: Option<Closed>,
}

/// A node that was let in.
struct Member {
    seat: Seat,
    plans: watch::Receiver<Planned>,
    ended: watch::Receiver<Option<Reason>>,
    /// What it has, once it said so; only then it is sent plans.
    resumed: Option<Resumed>,
}

impl Connection<'_> {
    async fn drive(&mut self, socket: WebSocket) {
        let hub = self.hub;
        let (mut sink, mut stream) = socket.split();
        let mut state = hub.state.clone();
        let mut draining = false;
        let mut doing: Option<Doing<'_>> = None;
        let mut outgoing = Outgoing::default();
        let mut last_words = None;
        loop {
            self.take_events();
            if doing.is_none()
                && let Some(work) = self.work.pop_front()
            {
                let seat = self.member.as_ref().map(|member| member.seat.clone());
                doing = Some(Box::pin(perform(hub, seat, work)));
            }
            if outgoing.frame.is_none() {
                outgoing.frame = self.server.poll_transmit();
            }
            let open = self.closed.is_none();
            if !open && outgoing.is_done() {
                break;
            }
            if !open && last_words.is_none() {
                last_words = Some(Instant::now() + LAST_WORDS);
            }
            let timer = last_words.or_else(|| self.server.poll_timeout().map(|(at, _)| at));
            // A node that does not read is still heard: writing is one of the things waited for.
            tokio::select! {
                written = outgoing.write(&mut sink) => if written.is_err() {
                    self.server.handle_disconnect(Instant::now());
                    self.take_events();
                    break;
                },
                message = stream.next(), if open && self.work.len() < MAX_WORK => self.take_message(message),
                done = working(&mut doing) => {
                    doing = None;
                    self.take(done).await;
                }
                () = until(timer) => {
                    if !open {
                        break;
                    }
                    self.server.handle_timeout(Instant::now());
                }
                turn = turned(self.member.as_mut()), if open => match turn {
                    Turn::Plan => self.take_plan(),
                    Turn::End => self.take_end(),
                },
                () = drains(&mut state), if open && !draining => {
                    draining = true;
                    self.server.drain(Hub::draining(), Instant::now());
                }
            }
        }
        let _ = timeout(LAST_WORDS, sink.close()).await;
    }

    fn take_message(&mut self, message: Option<Result<Message, axum::Error>>) {
        let now = Instant::now();
        match message {
            Some(Ok(Message::Binary(bytes))) => self.server.handle_frame(&bytes, now),
            Some(Ok(Message::Text(_))) => self.violation("the control link carries binary frames"),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                self.control_frames += 1;
                if self.member.is_none() && self.control_frames > MAX_CONTROL_FRAMES {
                    self.violation("pings instead of a handshake");
                }
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => self.server.handle_disconnect(now),
        }
    }

    fn violation(&mut self, what: &str) {
        let reason = Reason::passing(Code::PROTOCOL_VIOLATION, what);
        self.server.close(reason, Instant::now());
    }

    fn take_events(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Enrol(request) => self.work.push_back(Work::Enrol(request)),
                ServerEvent::Authenticate(request) => self.work.push_back(Work::Authenticate(request)),
                ServerEvent::Ready(resumed) => self.work.push_back(Work::Resume(resumed)),
                ServerEvent::Info(info) => self.take_info(info),
                ServerEvent::PlanApplied {
                    revision,
                    hash,
                    denied,
                    denied_count,
                } => {
                    if denied_count > 0 {
                        tracing::warn!(node = ?self.server.node(), denied_count, "a node does not understand its plan");
                    }
                    let plan = PlanStatus {
                        revision,
                        hash,
                        denied,
                    };
                    self.update(|presence| presence.plan = Some(plan));
                }
                ServerEvent::PlanResent => {
                    tracing::warn!(node = ?self.server.node(), "a node could not use its plan, and gets it whole");
                }
                ServerEvent::Declare { request, declaration } => self.work.push_back(Work::Declare {
                    request,
                    declaration: Box::new(declaration),
                }),
                ServerEvent::Undeclare {
                    request,
                    name,
                    delete,
                } => self.work.push_back(Work::Undeclare {
                    request,
                    name,
                    delete,
                }),
                ServerEvent::Status { status, replace } => {
                    let rtt = self.server.rtt();
                    self.update(|presence| {
                        presence.status.apply(status, replace);
                        presence.rtt = rtt;
                    });
                }
                ServerEvent::Incident { incident, lost } => {
                    tracing::debug!(node = ?self.server.node(), ?incident, lost, "a node reports");
                    self.update(|presence| presence.remember(incident));
                }
                ServerEvent::Usage(batch) => self.work.push_back(Work::Usage(batch)),
                ServerEvent::Commanded { request, result } => {
                    tracing::debug!(node = ?self.server.node(), request = request.0, ?result, "a command was answered");
                }
                ServerEvent::Closed(closed) => self.closed = Some(closed),
            }
        }
    }

    fn take_info(&mut self, info: NodeInfo) {
        if let Some(gateway) = info.gateway {
            // Only the newest word counts.
            self.work.retain(|work| !matches!(work, Work::Gateway(_)));
            self.work.push_back(Work::Gateway(gateway));
        }
        self.update(|presence| presence.software = Some(info.software));
    }

    fn update(&self, change: impl FnOnce(&mut Presence)) {
        if let Some(member) = &self.member {
            self.hub.registry.update(&member.seat, change);
        }
    }

    async fn take(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Admitted(node, start) => self.admit(*node, start).await,
            Done::Refused(reason) => self.server.refuse(reason, now),
            Done::Resumed(resumed) => {
                if let Some(member) = &mut self.member {
                    member.resumed = Some(resumed);
                    self.take_plan();
                }
            }
            Done::Declared(request, result) => self.server.answer_declare(request, result, now),
            Done::Undeclared(request) => self.server.answer_undeclare(request, now),
            Done::Counted(upto) => self.server.acknowledge_usage(upto, now),
            Done::Nothing => {}
            Done::Failed(reason) => self.server.close(reason, now),
        }
    }

    async fn admit(&mut self, node: Node, start: Start) {
        let id = node.id;
        let plans = self.hub.board.subscribe(id);
        // Whoever deleted the node before this is seen now, and whoever does after it is seen on the board.
        let still = self.hub.use_cases.login(id, node.identity, node.wireguard);
        if let Err(error) = still.await {
            let reason = Reason::passing(error.code(), error.sentence());
            return self.server.refuse(reason, Instant::now());
        }
        if let NodeId::Agent(agent) = id {
            self.hub.leases.renew(agent).await;
        }
        let session = self.hub.next_session();
        let (seat, ended) = self.hub.registry.open(&node, session);
        self.member = Some(Member {
            seat,
            plans,
            ended,
            resumed: None,
        });
        self.admitted = None;
        let accepted = Accepted {
            node: id,
            organization: node.organization,
            name: node.name,
            overlay: start.overlay,
            session,
        };
        self.server.accept(accepted, Instant::now());
        tracing::info!(node = %id, session, "a node is connected");
    }

    fn take_plan(&mut self) {
        let Some(member) = &mut self.member else { return };
        let planned = member.plans.borrow_and_update().clone();
        let now = Instant::now();
        match (planned, &member.resumed) {
            (Planned::Plan(plan), Some(resumed)) => {
                // The revision that the node has may be of before a restart; its records may be these.
                let known = resumed.plan.filter(|(_, hash)| *hash == plan.hash());
                let base = known.map(|(revision, _)| Arc::new((*plan).clone().with_revision(revision)));
                self.server.set_plan(plan, base, now);
            }
            (Planned::Revoked, _) => {
                let reason = Reason::permanent(Code::NODE_REVOKED, "the node was revoked");
                self.server.close(reason, now);
            }
            (Planned::Deleted, _) => {
                let reason = Reason::permanent(Code::NODE_UNKNOWN, "the node was deleted");
                self.hub.registry.forget(member.seat.node);
                self.server.close(reason, now);
            }
            (Planned::Pending, _) | (Planned::Plan(_), None) => {}
        }
    }

    fn take_end(&mut self) {
        let Some(member) = &mut self.member else { return };
        let reason = member.ended.borrow_and_update().clone();
        if let Some(reason) = reason {
            self.server.close(reason, Instant::now());
        }
    }

    async fn end(self) {
        let Some(Member { seat, .. }) = self.member else {
            return;
        };
        tracing::info!(node = %seat.node, session = seat.session, closed = ?self.closed, "a node is disconnected");
        if self.hub.registry.close(&seat)
            && let NodeId::Agent(agent) = seat.node
        {
            self.hub.leases.begin(agent, seat.actor).await;
        }
    }
}

/// What is being done for the node.
type Doing<'a> = Pin<Box<dyn Future<Output = Done> + Send + 'a>>;

/// Waits for what is being done, if anything is.
async fn working(doing: &mut Option<Doing<'_>>) -> Done {
    match doing {
        Some(doing) => doing.await,
        None => pending().await,
    }
}

/// Waits until the hub drains.
async fn drains(state: &mut watch::Receiver<HubState>) {
    if state
        .wait_for(|state| *state == HubState::Draining)
        .await
        .is_err()
    {
        pending::<()>().await;
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

/// What turned.
enum Turn {
    Plan,
    End,
}

/// Waits until the plan turns, or the session has to end.
async fn turned(member: Option<&mut Member>) -> Turn {
    let Some(member) = member else {
        return pending().await;
    };
    tokio::select! {
        Ok(()) = member.plans.changed() => Turn::Plan,
        Ok(()) = member.ended.changed() => Turn::End,
        else => pending().await,
    }
}

/// A frame on its way.
#[derive(Default)]
struct Outgoing {
    frame: Option<Vec<u8>>,
    /// Frames were handed over that may not be sent yet.
    unsent: bool,
}

impl Outgoing {
    const fn is_done(&self) -> bool {
        self.frame.is_none() && !self.unsent
    }

    /// Takes one step; waits for ever when there is none to take. Nothing is lost when it is dropped.
    async fn write(&mut self, sink: &mut SplitSink<WebSocket, Message>) -> Result<(), axum::Error> {
        if self.frame.is_some() {
            poll_fn(|context| sink.poll_ready_unpin(context)).await?;
            if let Some(frame) = self.frame.take() {
                sink.start_send_unpin(Message::Binary(frame.into()))?;
                self.unsent = true;
            }
            Ok(())
        } else if self.unsent {
            sink.flush().await?;
            self.unsent = false;
            Ok(())
        } else {
            pending().await
        }
    }
}
