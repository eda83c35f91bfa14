//! What is measured, and how it is told.

/// A figure that every system has, unless something kept it from being measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Gbit/s from the visitor to the service, one stream.
    Up1,
    /// The same with eight streams.
    Up8,
    /// Gbit/s from the service to the visitor, one stream.
    Down1,
    /// The same with eight streams.
    Down8,
    /// Seconds of processor time of both ends per GB, one stream, over both directions.
    CpuPerGb,
    /// Microseconds until the middle one of the answers on one connection.
    OneP50,
    /// Microseconds that 99 of 100 answers on one connection stay below.
    OneP99,
    /// Requests per second over 32 connections.
    Rate32,
    /// Microseconds that 99 of 100 answers over 32 connections stay below.
    P99Of32,
    /// Microseconds of processor time of both ends per request, over 32 connections.
    CpuPerRequest,
    /// Requests per second over 256 connections.
    Rate256,
    /// Requests per second, each on a connection of its own.
    Closing,
    /// Microseconds until the middle one of the answers on 4 connections beside 4 bulk streams.
    LoadedP50,
    /// Microseconds that 99 of 100 of those answers stay below.
    LoadedP99,
    /// KiB of resident memory that an idle connection takes at both ends together.
    IdleFlow,
    /// MiB of resident memory of both ends when everything was done.
    Resident,
}

impl Figure {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 16] = [
        Self::Up1,
        Self::Up8,
        Self::Down1,
        Self::Down8,
        Self::CpuPerGb,
        Self::OneP50,
        Self::OneP99,
        Self::Rate32,
        Self::P99Of32,
        Self::CpuPerRequest,
        Self::Rate256,
        Self::Closing,
        Self::LoadedP50,
        Self::LoadedP99,
        Self::IdleFlow,
        Self::Resident,
    ];

    /// The heading of its column.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Up1 => "up, 1 stream, Gbit/s",
            Self::Up8 => "up, 8 streams, Gbit/s",
            Self::Down1 => "down, 1 stream, Gbit/s",
            Self::Down8 => "down, 8 streams, Gbit/s",
            Self::CpuPerGb => "CPU-s per GB",
            Self::OneP50 => "1 connection, p50, µs",
            Self::OneP99 => "1 connection, p99, µs",
            Self::Rate32 => "32 connections, requests/s",
            Self::P99Of32 => "32 connections, p99, µs",
            Self::CpuPerRequest => "CPU-µs per request",
            Self::Rate256 => "256 connections, requests/s",
            Self::Closing => "a connection each, requests/s",
            Self::LoadedP50 => "under bulk, p50, µs",
            Self::LoadedP99 => "under bulk, p99, µs",
            Self::IdleFlow => "idle connection, KiB",
            Self::Resident => "resident at the end, MiB",
        }
    }

    /// Whether more of it is better.
    pub(crate) const fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::Up1 | Self::Up8 | Self::Down1 | Self::Down8 | Self::Rate32 | Self::Rate256 | Self::Closing
        )
    }

    /// Digits behind the point.
    pub(crate) const fn digits(self) -> usize {
        match self {
            Self::Up1 | Self::Up8 | Self::Down1 | Self::Down8 | Self::CpuPerGb => 2,
            Self::IdleFlow | Self::Resident => 1,
            _ => 0,
        }
    }
}

/// What one system did in one round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample(Vec<(Figure, f64)>);

impl Sample {
    /// Notes a figure.
    pub(crate) fn put(&mut self, figure: Figure, value: f64) {
        self.0.push((figure, value));
    }

    /// A figure, if it was measured.
    pub(crate) fn get(&self, figure: Figure) -> Option<f64> {
        let mut found = self.0.iter().filter(|(name, _)| *name == figure);
        found.next().map(|(_, value)| *value)
    }
}
