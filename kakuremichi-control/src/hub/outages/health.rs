//! What was told of a node.

use std::time::Duration;

use kakuremichi_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A node that goes down so often within [`WINDOW`] flaps.
const FLAPS: usize = 4;
/// How long it is remembered that a node went down.
const WINDOW: Duration = Duration::from_secs(60 * 60);
/// A node that flaps has settled when nothing changed for so long.
const CALM: Duration = Duration::from_secs(30 * 60);

/// A node is down.
pub(super) const DOWN: &str = "node.down";
/// It is up again.
pub(super) const UP: &str = "node.up";
/// It goes up and down: what is told next of it is how it settled.
pub(super) const FLAPPING: &str = "node.flapping";

/// What was told of a node that was ever up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    down: bool,
    flapping: bool,
    /// When it changed last.
    since: i64,
    /// When it went down lately; at most [`FLAPS`].
    downs: Vec<i64>,
}

impl Health {
    /// What is to be remembered of a node, and what is to be told. Of a node that was never up nothing is.
    pub(super) fn next(
        before: Option<&Self>,
        down: bool,
        now: Timestamp,
    ) -> (Option<Self>, Option<&'static str>) {
        let Some(before) = before else {
            let first = Self {
                down: false,
                flapping: false,
                since: now.as_millis(),
                downs: Vec::new(),
            };
            return ((!down).then_some(first), None);
        };
        let mut after = before.clone();
        if before.down == down {
            let settled = now >= Timestamp::from_millis(before.since).after(CALM);
            if !before.flapping || !settled {
                return (Some(after), None);
            }
            after.flapping = false;
            after.downs.clear();
            return (Some(after), Some(if down { DOWN } else { UP }));
        }
        (after.down, after.since) = (down, now.as_millis());
        if down {
            let lately = |at: &i64| now < Timestamp::from_millis(*at).after(WINDOW);
            after.downs.retain(lately);
            after.downs.push(now.as_millis());
            let surplus = after.downs.len().saturating_sub(FLAPS);
            after.downs.drain(..surplus);
        }
        if before.flapping {
            return (Some(after), None);
        }
        if down && after.downs.len() >= FLAPS {
            after.flapping = true;
            return (Some(after), Some(FLAPPING));
        }
        (Some(after), Some(if down { DOWN } else { UP }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memo;

    /// What is told of a node that is so at these minutes.
    fn told(states: &[(u64, bool)]) -> Vec<(u64, &'static str)> {
        let (mut health, mut told) = (None, Vec::new());
        for (minute, down) in states {
            let now = Timestamp::from_millis(0).after(Duration::from_secs(minute * 60));
            let (after, event) = Health::next(health.as_ref(), *down, now);
            told.extend(event.map(|event| (*minute, event)));
            // It is kept as text.
            health = after.map(|after| memo::read("test", &memo::text(&after)).unwrap());
        }
        told
    }

    #[test]
    fn a_node_that_was_never_up_is_not_down() {
        assert_eq!(told(&[(0, true), (1, true)]), []);
        assert_eq!(told(&[(0, true), (1, false), (2, true)]), [(2, DOWN)]);
    }

    #[test]
    fn each_change_is_told_once() {
        let states = [
            (0, false),
            (1, false),
            (2, true),
            (3, true),
            (9, false),
            (10, false),
        ];
        assert_eq!(told(&states), [(2, DOWN), (9, UP)]);
    }

    #[test]
    fn a_node_that_flaps_is_told_of_once_until_it_settles() {
        let mut states: Vec<_> = (0..40).map(|minute| (minute, minute % 2 == 1)).collect();
        states.extend([(50, true), (68, true), (69, true), (100, true), (200, false)]);
        assert_eq!(
            told(&states),
            [
                (1, DOWN),
                (2, UP),
                (3, DOWN),
                (4, UP),
                (5, DOWN),
                (6, UP),
                (7, FLAPPING),
                (69, DOWN),
                (200, UP)
            ]
        );
    }

    #[test]
    fn a_node_that_goes_down_now_and_then_does_not_flap() {
        let states: Vec<_> = (0..40).map(|n| (n * 30, n % 2 == 1)).collect();
        assert_eq!(
            told(&states)
                .iter()
                .filter(|(_, event)| *event == FLAPPING)
                .count(),
            0
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut health = None;
        for n in 0..1000 {
            let now = Timestamp::from_millis(n * 1000);
            health = Health::next(health.as_ref(), n % 2 == 1, now).0;
        }
        assert!(health.unwrap().downs.len() <= FLAPS);
    }
}
