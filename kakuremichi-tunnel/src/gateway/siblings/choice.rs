//! Which siblings a flow is offered to, and in which order.

use std::time::Duration;

use kakuremichi_core::id::GatewayId;

use crate::gateway::balance::Health;

/// How many siblings one flow is offered to.
const MAX_OFFERS: usize = 2;

/// A sibling that reaches the agent, by a lane that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The sibling.
    pub(crate) sibling: GatewayId,
    /// The round trip of the lane to it.
    pub(crate) rtt: Duration,
    /// What it says about the target.
    pub(crate) health: Health,
}

/// Puts them in order: where the target passes its check before where that is not known, the nearest first.
/// Who says that the target fails is not asked.
pub(super) fn order(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.retain(|candidate| candidate.health != Health::Failing);
    candidates.sort_by_key(|candidate| {
        let unsure = candidate.health != Health::Passing;
        (unsure, candidate.rtt, candidate.sibling)
    });
    candidates.truncate(MAX_OFFERS);
    candidates
}

/// The best that is said about the target.
pub(super) fn best_word(candidates: Vec<Candidate>) -> Health {
    let goodness = |health: &Health| match health {
        Health::Failing => 0,
        Health::Unknown => 1,
        Health::Passing => 2,
    };
    candidates
        .into_iter()
        .map(|candidate| candidate.health)
        .max_by_key(goodness)
        .unwrap_or(Health::Unknown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(number: u8, millis: u64, health: Health) -> Candidate {
        Candidate {
            sibling: GatewayId::from_bytes([number; 16]),
            rtt: Duration::from_millis(millis),
            health,
        }
    }

    #[test]
    fn the_nearest_sibling_where_the_target_works_comes_first() {
        let near = candidate(3, 1, Health::Unknown);
        let (far, farther) = (
            candidate(1, 20, Health::Passing),
            candidate(2, 90, Health::Passing),
        );
        let failing = candidate(4, 1, Health::Failing);
        assert_eq!(order(vec![near, failing, farther, far]), [far, farther]);
        assert_eq!(order(vec![failing, near, far]), [far, near]);
        assert_eq!(order(vec![failing]), []);
    }

    #[test]
    fn the_best_word_about_a_target_counts() {
        let (good, bad) = (candidate(1, 1, Health::Passing), candidate(2, 1, Health::Failing));
        let unsure = candidate(3, 1, Health::Unknown);
        assert_eq!(best_word(vec![bad, good, unsure]), Health::Passing);
        assert_eq!(best_word(vec![bad, unsure]), Health::Unknown);
        assert_eq!(best_word(vec![bad]), Health::Failing);
        assert_eq!(best_word(Vec::new()), Health::Unknown);
    }

    proptest! {
        #[test]
        fn few_are_asked_none_twice_and_none_in_vain(
            states in prop::collection::vec((0_u64..5, 0_usize..3), 0..9)
        ) {
            let health = [Health::Passing, Health::Failing, Health::Unknown];
            let all: Vec<_> = (0..).zip(&states).map(|(number, (millis, state))| {
                candidate(number, *millis, health[*state])
            }).collect();
            let asked = order(all.clone());
            let able = all.iter().filter(|candidate| candidate.health != Health::Failing).count();
            prop_assert_eq!(asked.len(), able.min(MAX_OFFERS));
            prop_assert!(asked.iter().all(|one| one.health != Health::Failing));
            prop_assert!(asked.windows(2).all(|pair| pair[0].sibling != pair[1].sibling));
        }
    }
}
