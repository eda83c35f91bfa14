//! How a node's lanes and targets are.

use serde::{Deserialize, Serialize};

use super::{LaneEnd, Subject};
use crate::codec::List;

/// The most lanes, and the most targets, of one frame. A larger status is sent as several.
pub const MAX_STATUS_ITEMS: usize = 512;

/// The state of lanes and targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// Whether what was said before is void; otherwise this adds to it.
    pub replace: bool,
    /// Whether the node is draining.
    pub draining: bool,
    /// Lanes.
    pub lanes: List<LaneStatus, MAX_STATUS_ITEMS>,
    /// Targets that this node checks.
    pub targets: List<TargetStatus, MAX_STATUS_ITEMS>,
}

/// What a lane is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaneKind {
    /// WireGuard over UDP.
    WireGuard,
    /// Streams over TLS.
    TlsStream,
}

/// Whether a lane carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaneState {
    /// A probe was answered lately.
    Up,
    /// None was.
    Down,
}

/// The state of a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// The far end.
    pub end: LaneEnd,
    /// What it is made of.
    pub kind: LaneKind,
    /// Whether it carries.
    pub state: LaneState,
    /// The round-trip time in microseconds.
    pub rtt: Option<u32>,
    /// Since when it is in this state, in milliseconds since the epoch.
    pub since: i64,
    /// What went wrong last.
    pub error: Option<String>,
}

/// Whether a target passes its check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetState {
    /// It was not checked yet.
    Unknown,
    /// It passes.
    Passing,
    /// It fails.
    Failing,
}

/// The state of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// The target.
    pub target: [u8; 16],
    /// Whether it passes.
    pub state: TargetState,
    /// Since when, in milliseconds since the epoch.
    pub since: i64,
    /// What went wrong last.
    pub error: Option<String>,
}
