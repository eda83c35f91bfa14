//! What services were used.

use std::time::Duration;

use crate::{
    id::{NodeId, OrganizationId, ServiceId},
    time::Timestamp,
};

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

/// A report of a node, and what it counted.
///
/// A flow is counted at both of its ends. What was used is what gateways counted: each visitor comes through
/// exactly one. What agents counted says what went through which agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUsage {
    /// The node.
    pub node: NodeId,
    /// The organization of the node.
    pub organization: OrganizationId,
    /// The time to which it is counted.
    pub at: Timestamp,
    /// The name of the report.
    pub report: UsageReport,
    /// What it counted for each service.
    pub entries: Vec<UsageEntry>,
    /// What it counted for services that are gone, or that it could not tell apart.
    pub unattributed: UsageCounts,
}

/// How finely usage over time is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageLevel {
    /// By the minute.
    Minute,
    /// By the hour.
    Hour,
    /// By the day (UTC).
    Day,
}

impl UsageLevel {
    /// Every level, the finest first.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// The length of its steps.
    #[must_use]
    pub const fn step(self) -> Duration {
        match self {
            Self::Minute => Duration::from_secs(60),
            Self::Hour => Duration::from_secs(60 * 60),
            Self::Day => Duration::from_secs(24 * 60 * 60),
        }
    }

    /// How long its steps are kept: two days, two months, more than two years.
    #[must_use]
    pub const fn kept(self) -> Duration {
        let days = match self {
            Self::Minute => 2,
            Self::Hour => 62,
            Self::Day => 800,
        };
        Duration::from_secs(days * 24 * 60 * 60)
    }

    /// The beginning of the step that a time is in.
    #[must_use]
    pub const fn start_of(self, at: Timestamp) -> Timestamp {
        let step = self.step().as_secs().cast_signed() * 1000;
        Timestamp::from_millis(at.as_millis().saturating_sub(at.as_millis().rem_euclid(step)))
    }
}

/// By what usage is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageGroup {
    /// Not at all: all services together.
    Whole,
    /// By service.
    Service,
    /// By gateway.
    Gateway,
    /// By agent, as the agents count.
    Agent,
}

/// What usage is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageOf {
    /// All services together.
    Whole,
    /// A service; none for those that were gone or could not be told apart.
    Service(Option<ServiceId>),
    /// What a node counted.
    Node(NodeId),
}

/// Which usage over time to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageQuery {
    /// Of this organization.
    pub organization: OrganizationId,
    /// How finely.
    pub level: UsageLevel,
    /// From the step that begins at this time or later.
    pub from: Timestamp,
    /// To the last step that begins before this time.
    pub to: Timestamp,
    /// By what.
    pub group: UsageGroup,
    /// Only of this service.
    pub service: Option<ServiceId>,
    /// At most so many points.
    pub limit: usize,
}

/// What was used in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsagePoint {
    /// When the step begins.
    pub start: Timestamp,
    /// What it is of.
    pub of: UsageOf,
    /// What was counted.
    pub counts: UsageCounts,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_one_step_of_each_level() {
        let at = Timestamp::from_millis(1_700_000_000_123);
        for level in UsageLevel::ALL {
            let start = level.start_of(at);
            assert!(start <= at && start.after(level.step()) > at);
            assert_eq!(level.start_of(start), start);
        }
        // Steps do not jump at the epoch.
        assert_eq!(
            UsageLevel::Minute.start_of(Timestamp::from_millis(-1)),
            Timestamp::from_millis(-60_000)
        );
    }
}
