//! The node's side of the control link.

mod declarations;
mod link;
mod outbox;
mod told;

pub use declarations::DeclareError;

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    code::Code,
    id::{NodeId, OrganizationId, ServiceId},
    key::{IdentityKey, SigningKey, WireGuardKey},
    model::Role,
    name::Label,
    net::Overlay,
    secret::Secret,
    time::Timestamp,
};

use self::{link::Link, outbox::Outbox};
use super::{Closed, Command, PlanFault, Reason, RequestId, Timer, UsageQueue};
use crate::{
    capability::Capabilities,
    declare::{Declaration, DeclaredService},
    identity::{CanonicalUrl, Signer, Verifier},
    plan::WirePlan,
    report::{Amount, Incident, NodeInfo, Refusal, Status},
};

/// Who the node is, and which Control it wants.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Control's URL as the node was given it.
    pub url: CanonicalUrl,
    /// The key that Control has to prove.
    pub control: IdentityKey,
    /// What the node is.
    pub role: Role,
    /// What the node shows.
    pub credential: Credential,
    /// The node's WireGuard key.
    pub wireguard: WireGuardKey,
    /// What the node can do; usually [`Capabilities::SUPPORTED`].
    pub capabilities: Capabilities,
    /// Signs with the node's identity.
    pub signer: Arc<dyn Signer>,
    /// Verifies what Control signed.
    pub verifier: Arc<dyn Verifier>,
}

/// Keys of the node's own.
#[derive(Debug, Clone)]
pub struct OwnKeys {
    /// Signs with the identity.
    pub signer: Arc<dyn Signer>,
    /// The public half of the WireGuard key.
    pub wireguard: WireGuardKey,
}

/// What a node shows to be let in.
#[derive(Debug, Clone)]
pub enum Credential {
    /// It enrols, with the secret of a token.
    Enrol {
        /// The secret.
        secret: Secret<[u8; 32]>,
        /// The name that it would like to have.
        name: Label,
    },
    /// It has enrolled, and its identity is enough.
    Known(NodeId),
}

/// What a node is in its organization, as Control says at the start of each session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The node.
    pub node: NodeId,
    /// Its organization.
    pub organization: OrganizationId,
    /// Its name.
    pub name: Label,
    /// The overlay.
    pub overlay: Overlay,
    /// The number of the session.
    pub session: u64,
}

/// Where the link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// There is no connection.
    Offline,
    /// The two sides are proving themselves.
    Connecting,
    /// The node was let in.
    Online {
        /// The number of the session.
        session: u64,
    },
}

/// What the caller has to know.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// The node was let in. A node that enrolled is known from now on: its identifier is to be kept,
    /// before anything else, so that it need not enrol again.
    Connected(Membership),
    /// There is a new plan. Decode it ([`WirePlan::to_plan`]), apply it, keep it on the disk, and call
    /// [`Client::applied`].
    Plan(Arc<WirePlan>),
    /// A plan could not be used; the whole one was asked for.
    PlanFault(PlanFault),
    /// A declaration was answered. It may be answered again, and otherwise, after a reconnect.
    Declared {
        /// The declaration.
        name: Label,
        /// The answer.
        result: Result<DeclaredService, Refusal>,
    },
    /// Control knows that a declaration ended.
    Undeclared {
        /// The declaration.
        name: Label,
    },
    /// Control asks for something. Answer it with [`Client::answer_command`].
    Command {
        /// The number to answer under.
        request: RequestId,
        /// What to do.
        command: Command,
    },
    /// Control answered the keys that were [proposed](Client::rotate_keys).
    KeysRotated {
        /// Who the node would be.
        identity: IdentityKey,
        /// Whether it is that now, and until when the keys of before count: with `None` they do not. If it
        /// was refused, the node has the keys that it had.
        result: Result<Option<Timestamp>, Refusal>,
    },
    /// The connection ended. It may be made again with [`Client::connect`], unless the reason is
    /// permanent.
    Closed(Closed),
}

/// The node's side of the control link. It outlives connections: see the [module](super) for how it is
/// driven.
///
/// What it keeps is bounded: declarations by [`MAX_DECLARATIONS`](crate::message::MAX_DECLARATIONS)
/// (more are refused), incidents by [`MAX_INCIDENTS`](super::MAX_INCIDENTS) (the oldest gives way),
/// usage as [`UsageQueue`] says, and one status (the newest).
pub struct Client {
    config: ClientConfig,
    plan: Option<Arc<WirePlan>>,
    denied: Vec<ServiceId>,
    outbox: Outbox,
    /// The keys that are proposed, on each connection until they are answered.
    next: Option<OwnKeys>,
    link: Option<Link>,
    events: VecDeque<ClientEvent>,
    unknown_frames: u64,
    now: Instant,
}

impl Client {
    /// A node without a connection. `usage` is what the last process left over, or a new queue.
    #[must_use]
    pub fn new(config: ClientConfig, usage: UsageQueue, now: Instant) -> Self {
        Self {
            config,
            plan: None,
            denied: Vec::new(),
            outbox: Outbox::new(usage),
            next: None,
            link: None,
            events: VecDeque::new(),
            unknown_frames: 0,
            now,
        }
    }

    /// Says which plan the node has from its disk, and which services it denies of it. To be called
    /// before the first connection.
    pub fn restore_plan(&mut self, plan: Arc<WirePlan>, denied: &[ServiceId]) {
        self.plan = Some(plan);
        self.denied = denied.to_vec();
    }

    // Getters.

    /// Where the link stands.
    #[must_use]
    pub fn state(&self) -> ClientState {
        self.link.as_ref().map_or(ClientState::Offline, Link::state)
    }

    /// Who the node is, if it has enrolled.
    #[must_use]
    pub const fn node(&self) -> Option<NodeId> {
        match self.config.credential {
            Credential::Known(node) => Some(node),
            Credential::Enrol { .. } => None,
        }
    }

    /// The newest plan that arrived whole.
    #[must_use]
    pub const fn plan(&self) -> Option<&Arc<WirePlan>> {
        self.plan.as_ref()
    }

    /// What was counted and is not acknowledged.
    #[must_use]
    pub const fn usage(&self) -> &UsageQueue {
        self.outbox.usage()
    }

    /// The time from a ping to its answer, of the newest that was answered.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.link.as_ref().and_then(Link::rtt)
    }

    /// How many frames were skipped because their tag is not known.
    #[must_use]
    pub const fn unknown_frames(&self) -> u64 {
        self.unknown_frames
    }

    // Input.

    /// A transport to Control is open. `nonce` is 32 fresh random bytes. A connection that was open
    /// before is abandoned: its frames must not be handed in any more.
    pub fn connect(&mut self, nonce: [u8; 32], now: Instant) {
        self.now = self.now.max(now);
        self.outbox.disconnected(&nonce);
        self.link = Some(Link::connect(&self.config, nonce, self.now));
    }

    /// A frame came. Whatever it holds, the worst it can do is to end the connection.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        self.now = self.now.max(now);
        let Some(mut link) = self.link.take() else {
            return;
        };
        let result = link.handle_frame(frame, self);
        self.link = Some(link);
        self.check(result);
    }

    /// The deadline of [`poll_timeout`](Self::poll_timeout) is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        for name in self.outbox.expire(self.now) {
            let late = Refusal::new(Code::TRY_LATER, "Control has not answered the declaration yet");
            self.push(ClientEvent::Declared {
                name,
                result: Err(late),
            });
        }
        if let Some(link) = &mut self.link {
            let result = link.handle_timeout(self.now);
            self.check(result);
        }
    }

    /// The transport ended.
    pub fn handle_disconnect(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if let Some(link) = self.link.take()
            && !link.is_closed()
        {
            self.events.push_back(ClientEvent::Closed(Closed::Lost));
        }
    }

    // Commands.

    /// A plan was applied. `denied` are the services that the node does not serve because it did not
    /// understand a record of theirs.
    pub fn applied(&mut self, plan: &WirePlan, denied: &[ServiceId], now: Instant) {
        self.now = self.now.max(now);
        self.denied = denied.to_vec();
        if let Some(link) = &mut self.link {
            link.applied(plan, denied);
        }
    }

    /// Tells Control about the node's process, now and after each reconnect.
    pub fn set_info(&mut self, info: NodeInfo) {
        self.outbox.set_info(info);
    }

    /// Tells Control what a gateway signs session cookies with, now and after each reconnect: all keys, of which at
    /// most [`MAX_SIGNING_KEYS`](kakuremichi_core::plan::MAX_SIGNING_KEYS) are sent.
    pub fn set_signing_keys(&mut self, keys: Vec<SigningKey>) {
        self.outbox.set_signing_keys(keys);
    }

    /// Tells Control the state of lanes and targets: all of it after each reconnect, and then what differs from
    /// what was told. Only the newest is sent; do not call this more than about once a second.
    pub fn set_status(&mut self, status: Status) {
        self.outbox.set_status(status);
    }

    /// Declares a service, now and after each reconnect. Another declaration of the same name is
    /// replaced.
    ///
    /// # Errors
    /// When it cannot be sent, or there are too many.
    pub fn declare(&mut self, declaration: Declaration) -> Result<(), DeclareError> {
        self.outbox.declarations().declare(declaration)
    }

    /// Ends a declaration. With `delete` a service that would stay is deleted too. Returns whether
    /// there was one.
    pub fn undeclare(&mut self, name: &Label, delete: bool) -> bool {
        self.outbox.declarations().undeclare(name, delete)
    }

    /// Counts what was used of a service.
    pub fn record_usage(&mut self, service: ServiceId, amount: Amount, at: Timestamp) {
        self.outbox.usage_mut().record(service, amount, at);
    }

    /// Sends what was counted since the last call, as far as there is room for it. To be called every
    /// minute or so, and before the end.
    pub fn flush_usage(&mut self, until: Timestamp) {
        self.outbox.usage_mut().seal(until);
    }

    /// Tells Control that something happened.
    pub fn report(&mut self, incident: Incident) {
        self.outbox.report(incident);
    }

    /// Answers a command.
    pub fn answer_command(&mut self, request: RequestId, result: Result<(), Refusal>) {
        if let Some(link) = &mut self.link {
            link.answer_command(request, result);
        }
    }

    /// Proposes other keys to Control, now and after each reconnect until they are answered. They have to be on
    /// the disk before, beside those that the node has: it cannot know on which side of Control's decision it dies.
    /// Other keys that were proposed and are not answered are forgotten. A Control that cannot rotate keys is not
    /// asked: that is [told](ClientEvent::KeysRotated), as refused with [`Code::VERSION_UNSUPPORTED`].
    pub fn rotate_keys(&mut self, next: OwnKeys) {
        self.next = Some(next);
        if let Some(mut link) = self.link.take() {
            link.propose(self);
            self.link = Some(link);
        }
    }

    /// Proposes nothing any more.
    pub fn keep_keys(&mut self) {
        self.next = None;
    }

    /// Shows these keys from the next connection on: to be called between connections.
    pub fn set_keys(&mut self, keys: OwnKeys) {
        self.config.signer = keys.signer;
        self.config.wireguard = keys.wireguard;
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
        let link = self.link.as_mut()?;
        while let Some(message) = link.poll_transmit(
            &self.config,
            self.next.as_ref(),
            &mut self.outbox,
            self.plan.as_deref(),
            &self.denied,
            self.now,
        ) {
            // What does not fit was refused where it came in; only texts of others' making are left.
            if let Ok(frame) = message.encode() {
                return Some(frame);
            }
        }
        None
    }

    /// The next thing that the caller has to know.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let link = self.link.as_ref().filter(|link| !link.is_closed())?;
        let requests = self.outbox.poll_timeout().map(|at| (at, Timer::Request));
        super::earlier(link.poll_timeout(), requests)
    }

    fn push(&mut self, event: ClientEvent) {
        self.events.push_back(event);
    }

    /// Ends the connection, if that is what came of something.
    fn check(&mut self, result: Result<(), End>) {
        let (Err(end), Some(link)) = (result, &mut self.link) else {
            return;
        };
        if link.is_closed() {
            return;
        }
        let closed = match end {
            End::Local(reason) => {
                link.close(Some(reason.to_message()));
                Closed::Local(reason)
            }
            End::Remote(reason) => {
                link.close(None);
                Closed::Remote(reason)
            }
        };
        self.push(ClientEvent::Closed(closed));
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("node", &self.node())
            .field("state", &self.state())
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
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
