//! What services were used.

use crate::id::ServiceId;

/// The name of a node's report. A node numbers its reports upwards from 1 in a stream; it starts another
/// stream only after it lost what it had not yet reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageReport {
    /// The stream.
    pub epoch: u64,
    /// The number in the stream.
    pub sequence: u64,
}

impl UsageReport {
    /// Whether this report is yet to be recorded, when `last` was the last of its node.
    #[must_use]
    pub const fn is_news(self, last: Option<Self>) -> bool {
        match last {
            Some(last) => last.epoch != self.epoch || last.sequence < self.sequence,
            None => true,
        }
    }
}

/// What one node counted for one service since its previous report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageEntry {
    /// The service.
    pub service: ServiceId,
    /// What was counted.
    pub counts: UsageCounts,
}

/// Exact counts. Each stops at [`UsageCounts::MAX`], the largest integer that every database can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageCounts {
    /// Connections of visitors.
    pub connections: u64,
    /// HTTP requests.
    pub requests: u64,
    /// Bytes from visitors to targets.
    pub bytes_in: u64,
    /// Bytes from targets to visitors.
    pub bytes_out: u64,
}

impl UsageCounts {
    /// Where a count stops: 2^63 - 1.
    pub const MAX: u64 = i64::MAX as u64;

    /// The two together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let add = |a: u64, b: u64| a.saturating_add(b).min(Self::MAX);
        Self {
            connections: add(self.connections, other.connections),
            requests: add(self.requests, other.requests),
            bytes_in: add(self.bytes_in, other.bytes_in),
            bytes_out: add(self.bytes_out, other.bytes_out),
        }
    }
}
