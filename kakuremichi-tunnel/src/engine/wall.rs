//! Notices that the clock of the day was set, or that the machine has slept.

use std::time::{Duration, Instant, SystemTime};

/// By so much the clock of the day may leave the other one between two looks: it is slewed by half a
/// millisecond per second, and seldom looked at less often than once per second.
const TOLERATED: Duration = Duration::from_secs(2);

/// Compares the two clocks. The one of [`Instant`] is never set, and stands still while the machine sleeps.
#[derive(Debug, Default)]
pub(super) struct WallWatch {
    seen: Option<(Instant, SystemTime)>,
}

impl WallWatch {
    /// Whether the clock of the day left the other one since the last look.
    pub(super) fn has_stepped(&mut self, now: Instant, wall: SystemTime) -> bool {
        let Some((before, wall_before)) = self.seen.replace((now, wall)) else {
            return false;
        };
        let expected = wall_before + now.saturating_duration_since(before);
        let apart = wall
            .duration_since(expected)
            .unwrap_or_else(|behind| behind.duration());
        apart > TOLERATED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "some time to begin with")]
    fn steps_are_noticed_once_and_drift_is_none() {
        let (mut now, mut wall) = (Instant::now(), SystemTime::now());
        let mut watch = WallWatch::default();
        let mut look = |passed: Duration, stepped: i64| {
            now += passed;
            wall += passed;
            let by = Duration::from_millis(stepped.unsigned_abs());
            wall = if stepped < 0 { wall - by } else { wall + by };
            watch.has_stepped(now, wall)
        };
        let second = Duration::from_secs(1);
        assert!(!look(second, 0));
        assert!(!look(second, 1));
        assert!(!look(1000 * second, -500));
        assert!(look(second, 3_600_000));
        assert!(!look(second, 0));
        assert!(look(second, -3_600_000));
        assert!(!look(second, 0));
    }
}
