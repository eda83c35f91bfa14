//! The pause between attempts: exponential, capped, jittered, without end.

use std::time::Duration;

/// Grows from `first` by doubling up to `cap`; each pause is drawn between half of the step and the
/// whole of it, so that many nodes which lost the same Control do not come back in one instant.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// Starts at `first`; no pause is longer than `cap`.
    #[must_use]
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            attempt: 0,
        }
    }

    /// The next pause. `random` is a fresh random number, all 32 bits of it.
    pub fn next(&mut self, random: u32) -> Duration {
        // 2^20 times any sensible first step is past any sensible cap; it keeps the shift in range.
        let step = self.first.saturating_mul(1 << self.attempt.min(20)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        let half = step / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// How many pauses were taken since the last success.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempt
    }

    /// The attempt succeeded: the next pause is short again.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LESSONS: "Back-off 50 ms, 2.5 s, 125 s, 6250 s: no cap, no jitter".
    #[test]
    fn backoff_is_capped_and_jittered() {
        let (first, cap) = (Duration::from_millis(100), Duration::from_secs(30));
        let (mut low, mut high) = (Backoff::new(first, cap), Backoff::new(first, cap));
        for attempt in 0..100 {
            let (a, b) = (low.next(0), high.next(u32::MAX));
            assert!(a < b && b <= cap, "attempt {attempt}: {a:?} {b:?}");
        }
        assert_eq!(high.next(u32::MAX), cap);
        high.reset();
        assert_eq!(high.next(u32::MAX), first);
    }
}
