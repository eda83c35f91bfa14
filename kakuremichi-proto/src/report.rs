//! What a node tells Control: about its process, its lanes and targets, and what was used.

use std::{borrow::Cow, fmt, time::Duration};

use kakuremichi_core::{
    code::Code,
    id::{AgentId, GatewayId, ServiceId, SiteId, TargetId},
    net::Endpoint,
    time::Timestamp,
};

pub use crate::message::{LaneKind, LaneState, Severity, TargetState};

/// The longest text for people in a message, in bytes. Longer ones are cut.
pub const MAX_TEXT: usize = 512;

/// What Control should know about a node's process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeInfo {
    /// The version of its software.
    pub software: String,
    /// What only a gateway has.
    pub gateway: Option<GatewayInfo>,
}

/// How a gateway is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayInfo {
    /// Where agents reach its WireGuard socket, best first; at most
    /// [`MAX_ENDPOINTS`](crate::message::MAX_ENDPOINTS) are sent.
    pub endpoints: Vec<Endpoint>,
    /// Where visitors reach its HTTPS listener.
    pub https_port: u16,
}

/// The state of what a node has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Whether the node is draining.
    pub draining: bool,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
    /// The targets that it checks.
    pub targets: Vec<TargetStatus>,
    /// The certificates that visitors may see; only a gateway has any.
    pub certificates: Vec<CertificateStatus>,
}

/// A certificate that visitors may see.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateStatus {
    /// When it ends.
    pub expires: Timestamp,
    /// From when on it is valid.
    pub since: Timestamp,
    /// Its first name. At most [`MAX_CERTIFICATE_NAME`] bytes are sent.
    pub name: String,
    /// How many further names it has.
    pub more: u16,
}

/// The longest name of a certificate that is sent, in bytes: the longest name there is in DNS (RFC 1035, section 2.3.4).
pub const MAX_CERTIFICATE_NAME: usize = 255;

/// The far end of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneEnd {
    /// An agent.
    Agent(AgentId),
    /// A gateway.
    Gateway(GatewayId),
    /// A stock WireGuard device.
    Site(SiteId),
}

/// The state of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStatus {
    /// The far end.
    pub end: LaneEnd,
    /// What it is made of.
    pub kind: LaneKind,
    /// Whether it carries.
    pub state: LaneState,
    /// The round-trip time, in whole microseconds.
    pub rtt: Option<Duration>,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// What went wrong last.
    pub error: Option<String>,
}

/// The state of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// The target.
    pub target: TargetId,
    /// Whether it passes its check.
    pub state: TargetState,
    /// Since when.
    pub since: Timestamp,
    /// What went wrong last.
    pub error: Option<String>,
}

/// Something that happened on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// When.
    pub at: Timestamp,
    /// How grave it is.
    pub severity: Severity,
    /// Its code, if it has one.
    pub code: Option<Code>,
    /// One sentence for people.
    pub message: String,
}

/// What was used of a service. Counts are exact until they saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Connections of visitors.
    pub connections: u64,
    /// Requests.
    pub requests: u64,
    /// Bytes from visitors.
    pub received: u64,
    /// Bytes to visitors.
    pub sent: u64,
}

impl Amount {
    /// Adds another amount.
    pub const fn add(&mut self, other: Self) {
        self.connections = self.connections.saturating_add(other.connections);
        self.requests = self.requests.saturating_add(other.requests);
        self.received = self.received.saturating_add(other.received);
        self.sent = self.sent.saturating_add(other.sent);
    }
}

/// The name of a batch of usage. Control stores each at most once: see
/// [`UsageCursor`](crate::session::UsageCursor).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageKey {
    /// The stream of batches.
    pub epoch: u64,
    /// The number in the stream, from 1.
    pub sequence: u64,
}

/// A batch of usage. Its content never changes under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageBatch {
    /// Its name.
    pub key: UsageKey,
    /// Where the counted time starts.
    pub from: Timestamp,
    /// Where it ends.
    pub to: Timestamp,
    /// The amount of each service; under `None` what could not be told apart.
    pub entries: Vec<(Option<ServiceId>, Amount)>,
}

/// Why something was refused: a stable code and a sentence for people.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    code: Cow<'static, str>,
    message: String,
}

impl Refusal {
    /// Refuses with a code. The message is cut to [`MAX_TEXT`] bytes.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self::received(Cow::Borrowed(code.as_str()), message.into())
    }

    /// The code, if this build knows it.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        Code::from_text(&self.code)
    }

    /// The text of the code.
    #[must_use]
    pub fn code_text(&self) -> &str {
        &self.code
    }

    /// One sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn received(mut code: Cow<'static, str>, message: String) -> Self {
        if code.len() > MAX_CODE {
            code = Cow::Borrowed("");
        }
        Self {
            code,
            message: cut(message, MAX_TEXT),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Refusal {}

const MAX_CODE: usize = 16;

/// Cuts a text to at most `limit` bytes, at the border of a character.
pub(crate) fn cut(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_a_newer_build_is_kept_as_text() {
        let refusal = Refusal::received(Cow::Borrowed("KKM-Z999"), "no".to_owned());
        assert_eq!((refusal.code(), refusal.code_text()), (None, "KKM-Z999"));
        assert_eq!(Refusal::new(Code::SUPERSEDED, "x").code(), Some(Code::SUPERSEDED));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("隠れ道".to_owned(), 4), "隠");
        assert_eq!(cut("ab".to_owned(), 4), "ab");
    }
}
