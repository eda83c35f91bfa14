//! Plans in transmission.

use serde::{Deserialize, Serialize};

use super::{MAX_DENIED, Subject};
use crate::codec::{Bytes, List};

/// Whether a plan comes whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlanKind {
    /// It does.
    Snapshot,
    /// It is what leads from a plan that the node has to the new one.
    Delta {
        /// The revision of the plan that the node has.
        base: u64,
        /// Its hash.
        base_hash: [u8; 32],
    },
}

/// A plan follows. Another that was being sent is abandoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanBegin {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// Counts the transmissions of the session.
    pub transfer: u32,
    /// The revision of the plan.
    pub revision: u64,
    /// How it comes.
    pub kind: PlanKind,
}

/// A piece of the stream of records. Records may cross the border of two pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecords {
    /// The transmission that it belongs to.
    pub transfer: u32,
    /// Where in the stream the piece starts.
    pub offset: u64,
    /// The piece.
    pub bytes: Bytes,
}

/// The stream of records is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEnd {
    /// The transmission.
    pub transfer: u32,
    /// The length of the stream.
    pub length: u64,
    /// The hash of the new plan.
    pub hash: [u8; 32],
}

/// The node has applied a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanAck {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// The revision of the plan.
    pub revision: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// The services that the node denies because it does not understand a record of theirs.
    pub denied: List<[u8; 16], MAX_DENIED>,
    /// How many they are, where they are more than can be named.
    pub denied_count: u32,
}

/// The node wants the whole plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// The transmission that could not be used.
    pub transfer: u32,
}
