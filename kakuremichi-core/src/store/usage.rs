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

/// The streams of one node of which the last report is remembered; that which was reported to least lately
/// gives way.
pub const MAX_STREAMS: usize = 8;

/// The last reports of one node, one for each stream: the stream that was reported to last comes first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageReports(Vec<UsageReport>);

impl UsageReports {
    /// Takes reports as they were, the newest first; what is beyond [`MAX_STREAMS`] is left out.
    pub fn new(reports: impl IntoIterator<Item = UsageReport>) -> Self {
        Self(reports.into_iter().take(MAX_STREAMS).collect())
    }

    /// The last report of each stream, the newest first.
    #[must_use]
    pub fn as_slice(&self) -> &[UsageReport] {
        &self.0
    }

    /// Notes that a report is recorded.
    ///
    /// # Errors
    /// When it was before: the last one of its stream.
    pub fn note(&mut self, report: UsageReport) -> Result<(), UsageReport> {
        if let Some(at) = self.0.iter().position(|last| last.epoch == report.epoch) {
            if self.0[at].sequence >= report.sequence {
                return Err(self.0[at]);
            }
            self.0.remove(at);
        }
        self.0.insert(0, report);
        self.0.truncate(MAX_STREAMS);
        Ok(())
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
