//! What siblings say.

use std::collections::{BTreeMap, BTreeSet};

use kakuremichi_core::id::{AgentId, GatewayId, TargetId};
use kakuremichi_proto::lane::{AgentReach, TargetHealth};

use crate::gateway::balance::Health;

/// The agents that are kept of what one sibling says. Further ones are taken for not reached, and counted.
pub(super) const MAX_TOLD_AGENTS: usize = 16_384;
/// The targets, the same. Of further ones nothing is known.
pub(super) const MAX_TOLD_TARGETS: usize = 65_536;

/// The last word of each sibling, as its newest feed has it. Bounded by the siblings of the plan and what
/// is kept of each.
#[derive(Debug, Default)]
pub(super) struct Board {
    siblings: BTreeMap<GatewayId, Word>,
    /// Numbers feeds: an older one that ends says nothing about a newer.
    feeds: u64,
}

#[derive(Debug, Default)]
struct Word {
    feed: u64,
    agents: BTreeSet<AgentId>,
    targets: BTreeMap<TargetId, bool>,
}

impl Board {
    /// Forgets the siblings that are not to be kept.
    pub(super) fn keep(&mut self, keep: impl Fn(GatewayId) -> bool) {
        self.siblings.retain(|sibling, _| keep(*sibling));
    }

    /// A feed begins, and with it a new word. Returns its number.
    pub(super) fn begin(&mut self, sibling: GatewayId) -> u64 {
        self.feeds += 1;
        let word = Word {
            feed: self.feeds,
            ..Word::default()
        };
        self.siblings.insert(sibling, word);
        self.feeds
    }

    /// A feed has ended: what it said is void.
    pub(super) fn end(&mut self, sibling: GatewayId, feed: u64) {
        if self.word(sibling, feed).is_some() {
            self.siblings.remove(&sibling);
        }
    }

    /// A sibling speaks of agents. Returns how many are too many.
    pub(super) fn tell_agents(
        &mut self,
        sibling: GatewayId,
        feed: u64,
        replace: bool,
        agents: &[AgentReach],
    ) -> usize {
        let Some(word) = self.word(sibling, feed) else {
            return 0;
        };
        if replace {
            word.agents.clear();
        }
        let mut beyond = 0;
        for told in agents {
            if !told.reached {
                word.agents.remove(&told.agent);
            } else if word.agents.len() < MAX_TOLD_AGENTS || word.agents.contains(&told.agent) {
                word.agents.insert(told.agent);
            } else {
                beyond += 1;
            }
        }
        beyond
    }

    /// A sibling speaks of targets. Returns how many are too many.
    pub(super) fn tell_targets(
        &mut self,
        sibling: GatewayId,
        feed: u64,
        replace: bool,
        targets: &[TargetHealth],
    ) -> usize {
        let Some(word) = self.word(sibling, feed) else {
            return 0;
        };
        if replace {
            word.targets.clear();
        }
        let mut beyond = 0;
        for told in targets {
            if word.targets.len() < MAX_TOLD_TARGETS || word.targets.contains_key(&told.target) {
                word.targets.insert(told.target, told.passing);
            } else {
                beyond += 1;
            }
        }
        beyond
    }

    /// The siblings that reach an agent, in the order of their identifiers.
    pub(super) fn reaching(&self, agent: AgentId) -> impl Iterator<Item = GatewayId> {
        let reaching = self.siblings.iter();
        reaching
            .filter(move |(_, word)| word.agents.contains(&agent))
            .map(|(sibling, _)| *sibling)
    }

    /// What a sibling says about a target.
    pub(super) fn health(&self, sibling: GatewayId, target: TargetId) -> Health {
        let said = self.siblings.get(&sibling).map(|word| word.targets.get(&target));
        match said.flatten() {
            Some(true) => Health::Passing,
            Some(false) => Health::Failing,
            None => Health::Unknown,
        }
    }

    /// How many agents a sibling reaches.
    pub(super) fn agents(&self, sibling: GatewayId) -> usize {
        self.siblings.get(&sibling).map_or(0, |word| word.agents.len())
    }

    fn word(&mut self, sibling: GatewayId, feed: u64) -> Option<&mut Word> {
        self.siblings.get_mut(&sibling).filter(|word| word.feed == feed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: GatewayId = GatewayId::from_bytes([1; 16]);
    const TWO: GatewayId = GatewayId::from_bytes([2; 16]);
    const AGENT: AgentId = AgentId::from_bytes([3; 16]);

    fn agent(reached: bool) -> [AgentReach; 1] {
        [AgentReach {
            agent: AGENT,
            reached,
        }]
    }

    fn reaching(board: &Board) -> Vec<GatewayId> {
        board.reaching(AGENT).collect()
    }

    #[test]
    fn a_word_stands_until_another_or_the_end_of_its_feed() {
        let mut board = Board::default();
        let (one, two) = (board.begin(ONE), board.begin(TWO));
        board.tell_agents(ONE, one, true, &agent(true));
        board.tell_agents(TWO, two, true, &agent(true));
        assert_eq!(reaching(&board), [ONE, TWO]);
        board.tell_agents(ONE, one, false, &agent(false));
        assert_eq!(reaching(&board), [TWO]);
        board.tell_agents(TWO, two, true, &[]);
        assert!(reaching(&board).is_empty());
        board.tell_agents(TWO, two, false, &agent(true));
        board.end(TWO, two);
        assert!(reaching(&board).is_empty());
    }

    #[test]
    fn an_older_feed_says_nothing_about_a_newer_one() {
        let mut board = Board::default();
        let old = board.begin(ONE);
        board.tell_agents(ONE, old, true, &agent(true));
        let new = board.begin(ONE);
        assert!(reaching(&board).is_empty(), "it was started again");
        board.tell_agents(ONE, new, true, &agent(true));
        board.tell_agents(ONE, old, true, &[]);
        board.end(ONE, old);
        assert_eq!(reaching(&board), [ONE]);
        board.keep(|sibling| sibling != ONE);
        board.tell_agents(ONE, new, true, &agent(true));
        assert!(reaching(&board).is_empty(), "the plan has it no more");
    }

    #[test]
    fn what_is_kept_of_a_sibling_is_bounded() {
        let mut board = Board::default();
        let feed = board.begin(ONE);
        let id = |number: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            id
        };
        let agents: Vec<_> = (0..MAX_TOLD_AGENTS + 2)
            .map(|number| AgentReach {
                agent: AgentId::from_bytes(id(number)),
                reached: true,
            })
            .collect();
        assert_eq!(board.tell_agents(ONE, feed, true, &agents), 2);
        assert_eq!(board.agents(ONE), MAX_TOLD_AGENTS);
        assert_eq!(board.tell_agents(ONE, feed, false, &agents[..9]), 0);
        let targets: Vec<_> = (0..MAX_TOLD_TARGETS + 3)
            .map(|number| TargetHealth {
                target: TargetId::from_bytes(id(number)),
                passing: true,
            })
            .collect();
        assert_eq!(board.tell_targets(ONE, feed, true, &targets), 3);
        assert_eq!(board.health(ONE, targets[0].target), Health::Passing);
        assert_eq!(
            board.health(ONE, targets[MAX_TOLD_TARGETS].target),
            Health::Unknown
        );
    }
}
