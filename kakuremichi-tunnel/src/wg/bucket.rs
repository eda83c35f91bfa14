//! A token bucket in one word (the generic cell rate algorithm).

use std::time::{Duration, Instant};

/// How fast, and how much at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    interval: Duration,
    burst: Duration,
}

impl Rate {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self {
            interval,
            burst: interval * burst.max(1),
        }
    }
}

/// When the bucket will be full again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    pub(super) const fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let admitted = self.has(rate, now);
        if admitted {
            self.full_at = self.full_at.max(now) + rate.interval;
        }
        admitted
    }

    /// Whether there is a token.
    pub(super) fn has(&self, rate: Rate, now: Instant) -> bool {
        self.full_at.max(now) + rate.interval <= now + rate.burst
    }

    pub(super) const fn full_at(&self) -> Instant {
        self.full_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test's first instant")]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let rate = Rate::new(10, 3);
        let mut bucket = Bucket::full(start);
        let takes = |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(rate, now)).count();
        assert_eq!(takes(&mut bucket, start), 3);
        assert_eq!(takes(&mut bucket, start + Duration::from_millis(250)), 2);
        assert_eq!(takes(&mut bucket, start + Duration::from_secs(60)), 3);
    }
}
