//! Which targets of a pool are tried, and in which order.

use kakuremichi_core::plan::PlannedTarget;
use std::sync::Arc;

/// How many targets one request is offered to before the visitor is told.
pub(crate) const MAX_ATTEMPTS: usize = 3;

/// Whether the path to an agent or a site works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Probes through it are answered.
    Online,
    /// They are not, but another gateway passes flows on.
    Relayed,
    /// They are not.
    Offline,
    /// It has not been found out yet.
    Unknown,
}

/// What an agent last said about a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// Its check passes.
    Passing,
    /// Its check fails.
    Failing,
    /// Nothing.
    Unknown,
}

/// Why no target can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// All agents and sites with a target are offline.
    Offline,
    /// No target passes its check, or there is none.
    Unhealthy,
}

/// Puts the targets to try into `order`: in turn those that are known to work, those that are reached
/// straight before those that another gateway reaches; behind them those of which it is not known; those
/// known not to work never.
///
/// # Errors
/// When none is left.
pub(crate) fn order(
    targets: &[Arc<PlannedTarget>],
    turn: usize,
    state: impl Fn(&PlannedTarget) -> (Reach, Health),
) -> Result<Vec<&Arc<PlannedTarget>>, Unavailable> {
    let (mut good, mut relayed, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    let mut reachable = targets.is_empty();
    for target in targets {
        let (reach, health) = state(target);
        reachable |= reach != Reach::Offline;
        match (reach, health) {
            (Reach::Offline, _) | (_, Health::Failing) => {}
            (Reach::Online, Health::Passing) => good.push(target),
            (Reach::Online, Health::Unknown) if !target.checked => good.push(target),
            (Reach::Relayed, Health::Passing) => relayed.push(target),
            (Reach::Relayed, Health::Unknown) if !target.checked => relayed.push(target),
            (Reach::Online | Reach::Relayed | Reach::Unknown, Health::Passing | Health::Unknown) => {
                unknown.push(target);
            }
        }
    }
    for tier in [&mut good, &mut relayed, &mut unknown] {
        if !tier.is_empty() {
            let first = turn % tier.len();
            tier.rotate_left(first);
        }
    }
    good.append(&mut relayed);
    good.append(&mut unknown);
    good.truncate(MAX_ATTEMPTS);
    match (good.is_empty(), reachable) {
        (false, _) => Ok(good),
        (true, false) => Err(Unavailable::Offline),
        (true, true) => Err(Unavailable::Unhealthy),
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{
        id::{AgentId, TargetId},
        model::{TargetScheme, VirtualPort},
        plan::Via,
    };
    use proptest::prelude::*;

    use super::*;

    fn pool(checked: &[bool]) -> Vec<Arc<PlannedTarget>> {
        let target = |(id, checked): (usize, &bool)| {
            Arc::new(PlannedTarget {
                id: TargetId::from_bytes([u8::try_from(id).unwrap(); 16]),
                via: Via::Agent {
                    agent: AgentId::from_bytes([1; 16]),
                    port: VirtualPort::FIRST,
                },
                scheme: TargetScheme::Plain,
                server_name: None,
                checked: *checked,
            })
        };
        checked.iter().enumerate().map(target).collect()
    }

    fn tried(
        pool: &[Arc<PlannedTarget>],
        turn: usize,
        states: &[(Reach, Health)],
    ) -> Result<Vec<usize>, Unavailable> {
        let index = |target: &PlannedTarget| usize::from(target.id.as_bytes()[0]);
        order(pool, turn, |target| states[index(target)])
            .map(|order| order.into_iter().map(|target| index(target)).collect())
    }

    const GOOD: (Reach, Health) = (Reach::Online, Health::Passing);
    const BAD: (Reach, Health) = (Reach::Online, Health::Failing);
    const GONE: (Reach, Health) = (Reach::Offline, Health::Passing);
    const NEW: (Reach, Health) = (Reach::Online, Health::Unknown);

    #[test]
    fn turns_are_shared_evenly_among_those_that_work() {
        let pool = pool(&[true; 4]);
        let states = [GOOD, BAD, GOOD, GOOD];
        let mut firsts = [0; 4];
        for turn in 0..30 {
            firsts[tried(&pool, turn, &states).unwrap()[0]] += 1;
        }
        assert_eq!(firsts, [10, 0, 10, 10]);
    }

    #[test]
    fn what_is_not_known_comes_last_and_what_is_broken_never() {
        let checked = pool(&[true, true, true]);
        assert_eq!(tried(&checked, 1, &[NEW, GOOD, BAD]), Ok(vec![1, 0]));
        assert_eq!(tried(&checked, 0, &[NEW, BAD, BAD]), Ok(vec![0]));
        let unchecked = pool(&[false, false]);
        assert_eq!(tried(&unchecked, 1, &[NEW, NEW]), Ok(vec![1, 0]));
    }

    #[test]
    fn what_is_reached_straight_comes_before_what_another_gateway_reaches() {
        const FAR: (Reach, Health) = (Reach::Relayed, Health::Passing);
        let pool = pool(&[true; 4]);
        let states = [FAR, NEW, GOOD, (Reach::Relayed, Health::Failing)];
        assert_eq!(tried(&pool, 0, &states), Ok(vec![2, 0, 1]));
        assert_eq!(tried(&pool, 0, &[GONE, GONE, FAR, GONE]), Ok(vec![2]));
    }

    #[test]
    fn the_reason_says_whether_the_agent_or_the_target_is_down() {
        let pool = pool(&[true, true]);
        assert_eq!(tried(&pool, 0, &[GONE, GONE]), Err(Unavailable::Offline));
        assert_eq!(tried(&pool, 0, &[GONE, BAD]), Err(Unavailable::Unhealthy));
        assert_eq!(tried(&[], 0, &[]), Err(Unavailable::Unhealthy));
    }

    proptest! {
        #[test]
        fn nothing_broken_is_tried_and_nothing_twice(
            states in prop::collection::vec((0_usize..4, 0_usize..3), 0..8), turn: usize,
        ) {
            let states: Vec<_> = states.into_iter().map(|(reach, health)| (
                [Reach::Online, Reach::Offline, Reach::Unknown, Reach::Relayed][reach],
                [Health::Passing, Health::Failing, Health::Unknown][health],
            )).collect();
            let pool = pool(&vec![true; states.len()]);
            if let Ok(order) = tried(&pool, turn, &states) {
                prop_assert!(!order.is_empty() && order.len() <= MAX_ATTEMPTS);
                let mut seen = order.clone();
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), order.len());
                for index in order {
                    prop_assert!(states[index].0 != Reach::Offline && states[index].1 != Health::Failing);
                }
            } else {
                prop_assert!(states.iter().all(|(reach, health)| *reach == Reach::Offline || *health == Health::Failing));
            }
        }
    }
}
