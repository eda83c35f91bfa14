//! Whether a target passes its check, by thresholds.

use kakuremichi_core::model::HealthCheck;
use kakuremichi_proto::report::TargetState;

/// Counts the outcomes of one target's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    state: TargetState,
    /// How many outcomes in a row contradicted the state.
    streak: u8,
}

impl Tally {
    pub(super) const fn new() -> Self {
        Self {
            state: TargetState::Unknown,
            streak: 0,
        }
    }

    pub(super) const fn state(&self) -> TargetState {
        self.state
    }

    /// Takes one outcome; says whether the state changed. The first success of all counts at once, so
    /// that a service serves as soon as its target does; a failure never does.
    pub(super) fn record(&mut self, passed: bool, check: &HealthCheck) -> bool {
        let (target, needed) = if passed {
            (TargetState::Passing, check.healthy_after)
        } else {
            (TargetState::Failing, check.unhealthy_after)
        };
        if self.state == target {
            self.streak = 0;
            return false;
        }
        if self.state == TargetState::Unknown && passed {
            self.streak = needed;
        } else {
            self.streak = self.streak.saturating_add(1);
        }
        if self.streak < needed {
            return false;
        }
        *self = Self {
            state: target,
            streak: 0,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use kakuremichi_core::model::Health;

    fn run(outcomes: &str) -> String {
        let check = HealthCheck {
            check: Health::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let mut tally = Tally::new();
        let letter = |tally: Tally| match tally.state() {
            TargetState::Unknown => '?',
            TargetState::Passing => 'P',
            TargetState::Failing => 'F',
        };
        outcomes
            .chars()
            .map(|outcome| {
                let before = tally.state();
                assert_eq!(tally.record(outcome == '+', &check), before != tally.state());
                letter(tally)
            })
            .collect()
    }

    #[test]
    fn thresholds_decide() {
        assert_eq!(run("+--+---+-++"), "PPPPPPFFFFP");
    }

    #[test]
    fn the_first_success_counts_at_once_and_failures_do_not() {
        assert_eq!(run("--+"), "??P");
        assert_eq!(run("---++"), "??FFP");
    }
}
