//! What was used of services.

use serde::{Deserialize, Serialize};

use super::Subject;
use crate::codec::List;

/// The most entries of one batch.
pub const MAX_USAGE_ENTRIES: usize = 2048;

/// A batch of usage. Its content never changes under the same epoch and sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// The stream of batches; another stream starts when a node loses what it had not reported.
    pub epoch: u64,
    /// The number in the stream, from 1 without gaps.
    pub sequence: u64,
    /// Where the counted time starts, in milliseconds since the epoch of time.
    pub from: i64,
    /// Where it ends.
    pub to: i64,
    /// The amounts.
    pub entries: List<UsageEntry, MAX_USAGE_ENTRIES>,
}

/// What was used of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageEntry {
    /// The service; none where there were too many to tell them apart.
    pub service: Option<[u8; 16]>,
    /// Connections of visitors.
    pub connections: u64,
    /// Requests.
    pub requests: u64,
    /// Bytes from visitors.
    pub received: u64,
    /// Bytes to visitors.
    pub sent: u64,
}

/// Control has stored each batch of the stream up to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageAck {
    /// The stream.
    pub epoch: u64,
    /// The number in the stream.
    pub sequence: u64,
}
