//! The control link as two state machines: [`Client`] on a node, [`Server`] on Control.
//!
//! Neither does IO. Both speak the same grammar:
//!
//! - **in**: `handle_frame`, `handle_timeout`, `handle_disconnect`;
//! - **commands** between: what the caller wants or answers;
//! - **out**: `poll_transmit` for frames, `poll_event` for what the caller has to know, `poll_timeout`
//!   for the next deadline and its reason.
//!
//! After each call of the first two kinds drain `poll_event`, answering as events ask, then send what
//! `poll_transmit` gives for as long as the transport takes more, then set the timer to `poll_timeout`.
//! Take frames from `poll_transmit` only as the transport can send them: large plans are made frame by
//! frame, and a plan that is not yet sent gives way to a newer one. After a `Closed` event send what
//! `poll_transmit` still gives, and end the transport. Time must not go backwards; `now` is always the
//! last argument.
//!
//! ```
//! # use std::time::Instant;
//! # use kakuremichi_proto::session::{Client, ClientEvent};
//! # fn send(_: Vec<u8>) {}
//! fn turn(client: &mut Client, frame: &[u8], now: Instant) -> Option<Instant> {
//!     client.handle_frame(frame, now);
//!     while let Some(event) = client.poll_event() {
//!         match event {
//!             ClientEvent::Plan(plan) => client.applied(&plan, &[], now),
//!             _ => {}
//!         }
//!     }
//!     while let Some(frame) = client.poll_transmit() {
//!         send(frame);
//!     }
//!     client.poll_timeout().map(|(deadline, _reason)| deadline)
//! }
//! ```
//!
//! A [`Client`] outlives connections: it keeps the plan, what is declared and what was used, and tells
//! all of it to the next connection. A [`Server`] is one connection.

mod client;
mod heartbeat;
mod request;
mod server;
mod sync;
mod usage;

pub use client::{
    Client, ClientConfig, ClientEvent, ClientState, Credential, DeclareError, Membership, OwnKeys,
};
pub use server::{
    Accepted, AuthenticateRequest, CommandError, EnrolRequest, Resumed, RotateRequest, Server, ServerConfig,
    ServerEvent,
};
pub use sync::PlanFault;
pub use usage::{RestoreUsageError, UsageCursor, UsageQueue};

use std::time::Duration;

use kakuremichi_core::code::Code;

use crate::{
    message::{self, Subject},
    report::Refusal,
};

/// A ping is sent this long after the last.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// A ping that is not answered for this long ends the connection.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(30);
/// A node waits this long for Control's challenge.
pub const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A node waits this long to be let in.
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(40);
/// Control waits this long for the first frame.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Control waits this long for the node's proof.
pub const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
/// Control's caller has this long to accept or to refuse a node.
pub const DECISION_TIMEOUT: Duration = Duration::from_secs(30);
/// Control waits this long for what the node has.
pub const RESUME_TIMEOUT: Duration = Duration::from_secs(10);
/// A plan that is sent and not acknowledged for this long ends the connection.
pub const PLAN_ACK_TIMEOUT: Duration = Duration::from_secs(60);
/// A declaration or a command that is not answered for this long counts as refused with
/// [`Code::TRY_LATER`].
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that drains ends after this long, whatever is still open on it.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Before a node is let in, at most so many bytes are taken from the other side; more end the connection.
pub const MAX_HANDSHAKE_BYTES: usize = 16 * 1024;
/// The bytes of a plan in one frame.
pub const PLAN_PIECE: usize = 64 * 1024;
/// A plan in transmission gives way to a newer one so many times in a row; then one is sent to its end,
/// so that plans which change all the time still arrive.
pub const MAX_SUPERSEDED: u32 = 3;
/// So many times in a row a node may ask for the whole plan; then the connection ends.
pub const MAX_PLAN_RETRIES: u32 = 3;
/// Events that are not polled. A caller that lets more pile up loses the connection.
pub const MAX_EVENTS: usize = 1024;
/// Declarations that a node has sent and that are not answered; the others wait their turn.
pub const MAX_DECLARES_IN_FLIGHT: usize = 32;
/// Requests of one node that Control has open. A node that sends more breaks the protocol.
pub const MAX_OPEN_REQUESTS: usize = 64;
/// Commands to one node that are open. The caller is told when there are more.
pub const MAX_COMMANDS: usize = 16;
/// Incidents that wait to be sent. The oldest gives way, and is counted.
pub const MAX_INCIDENTS: usize = 64;
/// Usage batches that are sealed and not acknowledged. While there are so many, usage adds up in the
/// batch that is open.
pub const MAX_USAGE_BATCHES: usize = 16;
/// Services that the open batch of usage tells apart. What is used of others is added up as one amount.
pub const MAX_USAGE_SERVICES: usize = 16 * 1024;

/// The number of a request, under which it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something that Control asks a node to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Take no new flows, and let those there are end.
    Drain {
        /// How long they have, in whole milliseconds.
        grace: Duration,
    },
    /// Take flows again.
    Undrain,
    /// Make new keys, and propose them with [`Client::rotate_keys`]. Only a node that has
    /// [`KEY_ROTATION`](crate::capability::Capabilities::KEY_ROTATION) is asked.
    RotateKeys,
}

/// What the next deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The other side has so long to go on with the handshake.
    Handshake,
    /// A ping is due.
    Ping,
    /// The other side has so long to answer a ping.
    Pong,
    /// The node has so long to acknowledge a plan.
    PlanAck,
    /// The other side has so long to answer a request.
    Request,
    /// The connection drains for so long.
    Drain,
}

/// Why a side ends a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The code and a sentence for people.
    pub refusal: Refusal,
    /// Whether coming back is of no use until something is changed by hand.
    pub permanent: bool,
    /// How long a node should wait, at least, before it comes back; whole milliseconds.
    pub retry_after: Option<Duration>,
}

impl Reason {
    /// A reason that passes: the node may come back.
    #[must_use]
    pub fn passing(code: Code, message: impl Into<String>) -> Self {
        Self {
            refusal: Refusal::new(code, message),
            permanent: false,
            retry_after: None,
        }
    }

    /// A reason that stays: coming back is of no use.
    #[must_use]
    pub fn permanent(code: Code, message: impl Into<String>) -> Self {
        Self {
            permanent: true,
            ..Self::passing(code, message)
        }
    }

    /// Asks the node to wait.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..self
        }
    }

    fn to_message(&self) -> message::Close {
        message::Close {
            code: self.refusal.code_text().to_owned(),
            message: self.refusal.message().to_owned(),
            permanent: self.permanent,
            retry_after: self
                .retry_after
                .map(|wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)),
        }
    }
}

impl From<message::Close> for Reason {
    fn from(close: message::Close) -> Self {
        Self {
            refusal: Refusal::received(close.code.into(), close.message),
            permanent: close.permanent,
            retry_after: close
                .retry_after
                .map(|millis| Duration::from_millis(millis.into())),
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// This side ended it.
    Local(Reason),
    /// The other side ended it.
    Remote(Reason),
    /// The transport ended, without a word.
    Lost,
}

impl Closed {
    /// Whether coming back is of no use.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        match self {
            Self::Local(reason) | Self::Remote(reason) => reason.permanent,
            Self::Lost => false,
        }
    }

    /// The reason, unless the transport just ended.
    #[must_use]
    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Local(reason) | Self::Remote(reason) => Some(reason),
            Self::Lost => None,
        }
    }
}

/// Whether a message is of this session. One of an earlier session was sent again.
fn is_current(subject: Subject, channel: Subject) -> Result<bool, Reason> {
    if subject.node != channel.node {
        let what = "a message is about another node than the channel's";
        return Err(Reason::passing(Code::PROTOCOL_VIOLATION, what));
    }
    Ok(subject.session == channel.session)
}

/// The earlier of two deadlines.
fn earlier<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
