//! Durations in numbers.

use std::{fmt, time::Duration};

/// Durations that were measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The one that so many hundredths of all are no longer than.
    fn percentile(&self, hundredths: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        let at = (sorted.len() * hundredths).div_ceil(100).max(1) - 1;
        sorted
            .get(at)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.1} / p99 {:.1} / longest {:.1} ms of {}",
            self.percentile(50),
            self.percentile(99),
            self.percentile(100),
            self.0.len()
        )
    }
}
