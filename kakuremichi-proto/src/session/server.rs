//! Control's side of the control link: one connection.

mod event;
mod handshake;
mod online;

pub use event::{
    Accepted, AuthenticateRequest, CommandError, EnrolRequest, Resumed, RotateRequest, ServerEvent,
};

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{code::Code, id::NodeId, time::Timestamp};

use self::{handshake::Handshake, online::Online};
use super::{Closed, Command, MAX_EVENTS, MAX_HANDSHAKE_BYTES, Reason, RequestId, Timer};
use crate::{
    capability::Capabilities,
    declare::DeclaredService,
    frame::{self, Incoming, Message, Tag},
    identity::{CanonicalUrl, Signer, Verifier},
    plan::WirePlan,
    report::{Refusal, UsageKey},
};

/// Who Control is.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The public URL. A node that dialled another is refused.
    pub url: CanonicalUrl,
    /// What Control can do; usually [`Capabilities::SUPPORTED`].
    pub capabilities: Capabilities,
    /// Signs with Control's identity.
    pub signer: Arc<dyn Signer>,
    /// Verifies what nodes signed.
    pub verifier: Arc<dyn Verifier>,
}

/// Control's side of one connection: see the [module](super) for how it is driven.
///
/// The newest session of a node wins: when a node is let in, its caller ends the node's other sessions
/// with [`Code::SUPERSEDED`]. A session that was ended takes nothing more from its node.
pub struct Server {
    config: Arc<ServerConfig>,
    phase: Phase,
    /// Frames of the handshake, or the last frames of the connection.
    out: VecDeque<Message>,
    events: VecDeque<ServerEvent>,
    handshake_bytes: usize,
    unknown_frames: u64,
    now: Instant,
}

#[derive(Debug)]
enum Phase {
    Handshake(Box<Handshake>),
    Online(Box<Online>),
    Closed,
}

/// The connection has to end.
#[derive(Debug)]
enum End {
    Local(Reason),
    Remote(Reason),
}

impl From<Reason> for End {
    fn from(reason: Reason) -> Self {
        Self::Local(reason)
    }
}

impl Server {
    /// A node has opened a transport. `nonce` is 32 fresh random bytes.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, nonce: [u8; 32], now: Instant) -> Self {
        Self {
            config,
            phase: Phase::Handshake(Box::new(Handshake::new(nonce, now))),
            out: VecDeque::new(),
            events: VecDeque::new(),
            handshake_bytes: 0,
            unknown_frames: 0,
            now,
        }
    }

    // Getters.

    /// The node, once it was let in.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match &self.phase {
            Phase::Handshake(handshake) => handshake.node(),
            Phase::Online(online) => Some(online.node()),
            Phase::Closed => None,
        }
    }

    /// Whether the connection has ended.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// The time from a ping to its answer, of the newest that was answered.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Online(online) => online.rtt(),
            Phase::Handshake(_) | Phase::Closed => None,
        }
    }

    /// How many frames were skipped because their tag is not known.
    #[must_use]
    pub const fn unknown_frames(&self) -> u64 {
        self.unknown_frames
    }

    // Input.

    /// A frame came. Whatever it holds, the worst it can do is to end the connection.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        self.now = self.now.max(now);
        let result = self.take_frame(frame);
        self.check(result);
        self.end_drain();
    }

    /// The deadline of [`poll_timeout`](Self::poll_timeout) is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let result = match &mut self.phase {
            Phase::Handshake(handshake) => handshake.handle_timeout(self.now).map_err(End::from),
            Phase::Online(online) => online
                .handle_timeout(self.now, &mut self.events)
                .map_err(End::from),
            Phase::Closed => Ok(()),
        };
        self.check(result);
        self.end_drain();
    }

    /// The transport ended.
    pub fn handle_disconnect(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if !self.is_closed() {
            self.phase = Phase::Closed;
            self.out.clear();
            self.events.push_back(ServerEvent::Closed(Closed::Lost));
        }
    }

    // Commands.

    /// Lets the node in that asked for it. Without such a request this does nothing.
    pub fn accept(&mut self, accepted: Accepted, now: Instant) {
        self.now = self.now.max(now);
        if let Phase::Handshake(handshake) = &mut self.phase {
            let result = handshake.accept(accepted, self.now);
            let result = result.map(|welcome| self.out.extend(welcome.map(Message::from)));
            self.check(result.map_err(End::from));
        }
    }

    /// Does not let the node in, and ends the connection.
    pub fn refuse(&mut self, reason: Reason, now: Instant) {
        self.close(reason, now);
    }

    /// The node is to have `plan`; of several, the newest. `base` is the plan that the node said it has
    /// ([`Resumed::plan`]), if its records are at hand: then less is sent. A plan that the node has
    /// already is not sent. Before [`ServerEvent::Ready`] this does nothing.
    pub fn set_plan(&mut self, plan: Arc<WirePlan>, base: Option<Arc<WirePlan>>, now: Instant) {
        self.now = self.now.max(now);
        if let Phase::Online(online) = &mut self.phase {
            online.set_plan(plan, base);
        }
    }

    /// Answers a declaration.
    pub fn answer_declare(
        &mut self,
        request: RequestId,
        result: Result<DeclaredService, Refusal>,
        now: Instant,
    ) {
        self.with_online(now, |online| online.answer_declare(request, result));
    }

    /// Answers the end of a declaration.
    pub fn answer_undeclare(&mut self, request: RequestId, now: Instant) {
        self.with_online(now, |online| online.answer_undeclare(request));
    }

    /// Each batch of usage up to this one is stored.
    pub fn acknowledge_usage(&mut self, upto: UsageKey, now: Instant) {
        self.with_online(now, |online| online.acknowledge_usage(upto));
    }

    /// Answers the keys that a node proposed: until when those of before count (`None`: they do not), or why the node
    /// keeps what it has. From then on the session is one of the new identity, whose possession was proven in it.
    pub fn answer_rotation(&mut self, result: Result<Option<Timestamp>, Refusal>, now: Instant) {
        self.with_online(now, |online| online.answer_rotation(result));
    }

    /// Asks the node to do something.
    ///
    /// # Errors
    /// When there is no node to ask, it is of a version that cannot, or [`MAX_COMMANDS`](super::MAX_COMMANDS) are open.
    pub fn command(&mut self, command: Command, now: Instant) -> Result<RequestId, CommandError> {
        self.now = self.now.max(now);
        match &mut self.phase {
            Phase::Online(online) => online.command(command, self.now),
            Phase::Handshake(_) | Phase::Closed => Err(CommandError::Offline),
        }
    }

    /// Ends the connection, once what is open on it is done, or after
    /// [`DRAIN_TIMEOUT`](super::DRAIN_TIMEOUT).
    pub fn drain(&mut self, reason: Reason, now: Instant) {
        self.now = self.now.max(now);
        match &mut self.phase {
            Phase::Online(online) => {
                online.drain(reason, self.now);
                self.end_drain();
            }
            Phase::Handshake(_) | Phase::Closed => self.close(reason, now),
        }
    }

    /// Ends the connection.
    pub fn close(&mut self, reason: Reason, now: Instant) {
        self.now = self.now.max(now);
        self.check(Err(End::Local(reason)));
    }

    // Output.

    /// The next frame to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        while let Some(message) = self.next_message() {
            if let Ok(frame) = message.encode() {
                return Some(frame);
            }
        }
        None
    }

    /// The next thing that the caller has to know.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        match &self.phase {
            Phase::Handshake(handshake) => Some((handshake.deadline(), Timer::Handshake)),
            Phase::Online(online) => online.poll_timeout(),
            Phase::Closed => None,
        }
    }

    fn next_message(&mut self) -> Option<Message> {
        if let Some(message) = self.out.pop_front() {
            return Some(message);
        }
        match &mut self.phase {
            Phase::Online(online) => online.poll_transmit(self.now),
            Phase::Handshake(_) | Phase::Closed => None,
        }
    }

    fn take_frame(&mut self, frame: &[u8]) -> Result<(), End> {
        if self.is_closed() {
            return Ok(());
        }
        if let Phase::Handshake(_) = self.phase {
            self.handshake_bytes = self.handshake_bytes.saturating_add(frame.len());
            if self.handshake_bytes > MAX_HANDSHAKE_BYTES {
                return Err(violation("too many bytes before the welcome").into());
            }
        }
        let message = match frame::decode(frame) {
            Ok(Incoming::Known(message)) => message,
            Ok(Incoming::Unknown(_)) => {
                self.unknown_frames = self.unknown_frames.saturating_add(1);
                return Ok(());
            }
            Err(error) => return Err(violation(error).into()),
        };
        if let Message::Close(close) = message {
            return Err(End::Remote(close.into()));
        }
        if self.events.len() >= MAX_EVENTS {
            return Err(Reason::passing(Code::TRY_LATER, "Control is overloaded").into());
        }
        match &mut self.phase {
            Phase::Handshake(handshake) => {
                let step = handshake.handle(message, &self.config, self.now)?;
                match step {
                    handshake::Step::Reply(challenge) => self.out.push_back(challenge.into()),
                    handshake::Step::Ask(event) => self.events.push_back(event),
                    handshake::Step::Wait => {}
                    handshake::Step::Done(online, event) => {
                        self.phase = Phase::Online(online);
                        self.events.push_back(event);
                    }
                }
                Ok(())
            }
            Phase::Online(online) => {
                Ok(online.handle(message, &*self.config.verifier, self.now, &mut self.events)?)
            }
            Phase::Closed => Ok(()),
        }
    }

    fn with_online(&mut self, now: Instant, act: impl FnOnce(&mut Online)) {
        self.now = self.now.max(now);
        if let Phase::Online(online) = &mut self.phase {
            act(online);
            self.end_drain();
        }
    }

    /// Ends a connection that drains and on which nothing is open, after what it still has to say.
    fn end_drain(&mut self) {
        let Phase::Online(online) = &mut self.phase else {
            return;
        };
        let Some(reason) = online.drained() else { return };
        let rest: Vec<_> = std::iter::from_fn(|| online.poll_transmit(self.now)).collect();
        self.check(Err(reason.into()));
        rest.into_iter()
            .rev()
            .for_each(|message| self.out.push_front(message));
    }

    /// Ends the connection, if that is what came of something.
    fn check(&mut self, result: Result<(), End>) {
        let Err(end) = result else { return };
        if self.is_closed() {
            return;
        }
        self.phase = Phase::Closed;
        self.out.clear();
        let closed = match end {
            End::Local(reason) => {
                self.out.push_back(reason.to_message().into());
                Closed::Local(reason)
            }
            End::Remote(reason) => Closed::Remote(reason),
        };
        self.events.push_back(ServerEvent::Closed(closed));
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("node", &self.node())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

fn unexpected(tag: Tag) -> Reason {
    violation(format_args!("a {tag} is not expected now"))
}

fn violation(what: impl ToString) -> Reason {
    Reason::passing(Code::PROTOCOL_VIOLATION, what.to_string())
}
