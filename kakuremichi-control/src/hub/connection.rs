//! One connection: bytes between the WebSocket and proto's session.

use std::{
    collections::VecDeque,
    future::{pending, poll_fn},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::extract::ws::{Message, WebSocket};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use kakuremichi_core::{code::Code, id::NodeId};
use kakuremichi_proto::{
    frame::{TAG_LEN, Tag},
    report::NodeInfo,
    session::{Accepted, Closed, Reason, Server, ServerEvent},
};
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use super::{
    Hub, HubState, PlanStatus, Presence,
    counters::count,
    limits::Unauthenticated,
    member::{Member, Turn},
    work::{Admission, Done, Work, perform},
};
use crate::service::random;

/// What a node asked for and was not begun. While there is so much, nothing is read from the node.
const MAX_WORK: usize = 64;
/// Pings and pongs of the WebSocket's own that somebody may send before it is let in. More end the
/// connection.
const MAX_CONTROL_FRAMES: usize = 32;
/// How long a node that does not read, or does not stop to write, is waited for when its connection ends.
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
    let (mut sink, mut stream) = socket.split();
    connection.drive(&mut sink, &mut stream).await;
    // Others are to know at once; only whoever has proven nothing keeps its place until it is gone.
    let _admitted = connection.admitted.take();
    connection.end();
    let farewell = async {
        let _ = sink.close().await;
        // Who closes a socket on which something arrives resets it, and takes back what it said last.
        while let Some(Ok(_)) = stream.next().await {}
    };
    let _ = timeout(LAST_WORDS, farewell).await;
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

impl Connection<'_> {
    async fn drive(&mut self, sink: &mut SplitSink<WebSocket, Message>, stream: &mut SplitStream<WebSocket>) {
        let hub = self.hub;
        let mut state = hub.state.clone();
        let mut draining = false;
        let mut doing: Option<Doing<'_>> = None;
        let mut outgoing = Outgoing::default();
        let mut last_words = None;
        loop {
            self.take_events();
            if doing.is_none()
                && let Some(mut work) = self.work.pop_front()
            {
                if let (Work::CheckKeys(identity), Some(member)) = (&mut work, &self.member) {
                    // It may have become another since that was put there.
                    *identity = member.identity;
                }
                let seat = self.member.as_ref().map(|member| member.seat.clone());
                doing = Some(Box::pin(perform(hub, seat, work)));
            }
            if outgoing.frame.is_none() {
                outgoing.frame = self.next_frame();
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
                written = outgoing.write(sink) => if written.is_err() {
                    self.server.handle_disconnect(Instant::now());
                    self.take_events();
                    break;
                },
                message = stream.next(), if open && self.work.len() < MAX_WORK => self.take_message(message),
                done = working(&mut doing) => {
                    doing = None;
                    self.take(done);
                }
                () = until(timer) => {
                    if !open {
                        break;
                    }
                    self.server.handle_timeout(Instant::now());
                }
                turn = turned(self.member.as_mut()), if open => match turn {
                    Turn::Plan => self.take_plan(),
                    Turn::Keys => self.take_keys(),
                    Turn::End => self.take_end(),
                },
                () = drains(&mut state), if open && !draining => {
                    draining = true;
                    self.server.drain(Hub::draining(), Instant::now());
                }
            }
        }
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        let frame = self.server.poll_transmit()?;
        if frame.get(..TAG_LEN) == Some(Tag::PlanBegin.code().to_be_bytes().as_slice()) {
            count(&self.hub.tally.plans_sent);
        }
        Some(frame)
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
                ServerEvent::SigningKeys(keys) => {
                    // Only the newest word counts.
                    self.work.retain(|work| !matches!(work, Work::SigningKeys(_)));
                    self.work.push_back(Work::SigningKeys(keys));
                }
                ServerEvent::RotateKeys(request) => self.work.push_back(Work::RotateKeys(request)),
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
                    count(&self.hub.tally.plans_acknowledged);
                    if let Some(member) = &mut self.member {
                        member.applied(&self.hub.registry, (revision, hash));
                    }
                }
                ServerEvent::PlanResent => {
                    count(&self.hub.tally.plans_resent);
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
                ServerEvent::Certificates(certificates) => {
                    self.update(|presence| presence.status.certificates = certificates);
                }
                ServerEvent::Incident { incident, lost } => {
                    tracing::debug!(node = ?self.server.node(), ?incident, lost, "a node reports");
                    self.update(|presence| presence.remember(incident));
                }
                ServerEvent::Usage(batch) => self.work.push_back(Work::Usage(batch)),
                ServerEvent::Commanded { request, result } => {
                    tracing::debug!(node = ?self.server.node(), request = request.0, ?result, "a command was answered");
                }
                ServerEvent::Closed(closed) => {
                    if let Closed::Local(reason) = &closed {
                        self.refused(reason.refusal.code());
                    }
                    self.closed = Some(closed);
                }
            }
        }
    }

    fn refused(&self, code: Option<Code>) {
        self.hub.tally.refused(code.unwrap_or(Code::INTERNAL));
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

    fn take(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Admitted(admission) => self.admit(*admission),
            Done::Refused(reason) => self.server.refuse(reason, now),
            Done::Resumed(resumed) => {
                if let Some(member) = &mut self.member {
                    member.resume(&self.hub.registry, &mut self.server, resumed.plan);
                }
                let plan = resumed.plan.map(|(revision, hash)| PlanStatus {
                    revision,
                    hash,
                    denied: resumed.denied,
                });
                self.update(|presence| presence.plan = plan);
                // They may have turned before the node was let in.
                self.take_keys();
            }
            Done::Rotated(identity, result) => {
                match (&result, &mut self.member) {
                    (Ok(_), Some(member)) => member.identity = identity,
                    (Err(refusal), _) => self.refused(refusal.code()),
                    (Ok(_), None) => {}
                }
                self.server.answer_rotation(result, now);
            }
            Done::Declared(request, result) => {
                if let Err(refusal) = &result {
                    self.refused(refusal.code());
                }
                self.server.answer_declare(request, result, now);
            }
            Done::Undeclared(request) => self.server.answer_undeclare(request, now),
            Done::Counted(upto) => {
                count(&self.hub.tally.usage_batches);
                self.server.acknowledge_usage(upto, now);
            }
            Done::Nothing => {}
            Done::Failed(reason) => self.server.close(reason, now),
        }
    }

    fn admit(&mut self, admission: Admission) {
        // A connection that was lost while it was decided about supersedes nobody.
        if self.closed.is_some() || self.server.is_closed() {
            return;
        }
        let Admission {
            node,
            identity,
            start,
            plans,
            keys,
        } = admission;
        let session = self.hub.next_session();
        let (seat, ended) = self.hub.registry.open(&node, session);
        self.hub.note(&seat);
        self.member = Some(Member::new(seat, identity, plans, keys, ended));
        self.admitted = None;
        count(&self.hub.tally.sessions);
        tracing::info!(node = %node.id, session, "a node is connected");
        let accepted = Accepted {
            node: node.id,
            organization: node.organization,
            name: node.name,
            overlay: start.overlay,
            session,
        };
        self.server.accept(accepted, Instant::now());
    }

    fn take_plan(&mut self) {
        if let Some(member) = &mut self.member {
            member.take_plan(&self.hub.registry, &mut self.server);
        }
    }

    fn take_keys(&mut self) {
        let Some(member) = &mut self.member else { return };
        if member.take_keys(&mut self.server) {
            self.work.push_back(Work::CheckKeys(member.identity));
        }
    }

    fn take_end(&mut self) {
        let reason = self.member.as_mut().and_then(Member::end);
        if let Some(reason) = reason {
            self.server.close(reason, Instant::now());
        }
    }

    fn end(self) {
        let unknown = self.server.unknown_frames();
        self.hub
            .tally
            .unknown_frames
            .fetch_add(unknown, Ordering::Relaxed);
        let Some(Member { seat, .. }) = self.member else {
            return;
        };
        tracing::info!(node = %seat.node, session = seat.session, closed = ?self.closed, "a node is disconnected");
        if !self.hub.registry.close(&seat) {
            return;
        }
        self.hub.note(&seat);
        if let NodeId::Agent(agent) = seat.node {
            self.hub.leases.begin(agent, seat.actor);
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

/// Waits until the member's plan turns, or its session has to end.
async fn turned(member: Option<&mut Member>) -> Turn {
    match member {
        Some(member) => member.turned().await,
        None => pending().await,
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
