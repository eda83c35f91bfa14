//! Whose turn it is to send: the peers by turns, and among each peer's flows those that send little first.
//!
//! Deficit round robin over peers, not over flows: a peer with a thousand flows has the share of one that has
//! a single one. A peer's light flows go ahead of everybody's heavy ones for as long as its share lasts, so
//! that a request stays fast beside transfers, whoever's they are.

use std::collections::VecDeque;

use super::{FlowId, egress::QUANTUM};
use crate::peer::PeerId;

/// One turn in so many belongs to a heavy flow however many light ones wait.
const HEAVY_SHARE: usize = 16;

/// What a flow's turn takes of its peer's share besides the bytes that it sent: looking at a thousand flows
/// with nothing but an acknowledgement costs time, too. In bytes that are sealed in the same time.
pub(super) const TURN_COST: usize = 512;

/// A queue that once was longer gives its memory back when it is empty, in flows.
const KEPT: usize = 1_024;

/// The flows that may have something to send, each once.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// By the peers' slots. Bounded by the peers there ever were at once.
    peers: Vec<Turns>,
    /// Peers with light flows who have something left of their share.
    ahead: VecDeque<u32>,
    /// Peers with other flows, or without a share. The first one has its turn.
    round: VecDeque<u32>,
    /// How many flows are queued.
    queued: usize,
    served: usize,
}

/// One peer's flows.
#[derive(Debug, Default)]
struct Turns {
    /// Flows whose last turn sent little, and those whose last turn sent much.
    light: VecDeque<FlowId>,
    heavy: VecDeque<FlowId>,
    /// What is left of the peer's share; below zero what it took too much. In bytes.
    credit: isize,
    /// On which lists it is.
    ahead: bool,
    in_round: bool,
    /// It has its turn, and got its share.
    begun: bool,
}

impl Schedule {
    /// Whether no flow is queued.
    pub(super) const fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Queues a flow that is not queued.
    pub(super) fn push(&mut self, peer: PeerId, flow: FlowId, heavy: bool) {
        let slot = peer.slot();
        if self.peers.len() <= slot {
            self.peers.resize_with(slot + 1, || Turns {
                credit: QUANTUM as isize,
                ..Turns::default()
            });
        }
        let turns = &mut self.peers[slot];
        if heavy { &mut turns.heavy } else { &mut turns.light }.push_back(flow);
        self.queued += 1;
        self.list(slot as u32);
    }

    /// The next flow to be served, and whose it is; [`charge`](Self::charge) follows.
    pub(super) fn pop(&mut self) -> Option<(u32, FlowId)> {
        self.served = self.served.wrapping_add(1);
        let heavy_first = self.served.is_multiple_of(HEAVY_SHARE);
        let next = if heavy_first { None } else { self.pop_ahead() };
        let next = next
            .or_else(|| self.pop_round(heavy_first))
            .or_else(|| self.pop_ahead())?;
        self.queued -= 1;
        Some(next)
    }

    /// A flow of that peer had its turn and sent so many bytes.
    pub(super) fn charge(&mut self, slot: u32, sent: usize) {
        let Some(turns) = self.peers.get_mut(slot as usize) else {
            return;
        };
        turns.credit -= (sent + TURN_COST) as isize;
        if turns.begun && turns.credit <= 0 {
            // The turn is over. Only the first one has one.
            turns.begun = false;
            turns.in_round = false;
            self.round.pop_front();
        }
        turns.give_back();
        self.list(slot);
    }

    fn pop_ahead(&mut self) -> Option<(u32, FlowId)> {
        while let Some(slot) = self.ahead.pop_front() {
            let turns = self.peers.get_mut(slot as usize)?;
            turns.ahead = false;
            if turns.credit > 0
                && let Some(flow) = turns.light.pop_front()
            {
                return Some((slot, flow));
            }
            self.list(slot);
        }
        None
    }

    fn pop_round(&mut self, heavy_first: bool) -> Option<(u32, FlowId)> {
        while let Some(&slot) = self.round.front() {
            let turns = self.peers.get_mut(slot as usize)?;
            let flow = if heavy_first {
                turns.heavy.pop_front().or_else(|| turns.light.pop_front())
            } else {
                turns.light.pop_front().or_else(|| turns.heavy.pop_front())
            };
            if let Some(flow) = flow {
                if !std::mem::replace(&mut turns.begun, true) {
                    turns.credit = (turns.credit + QUANTUM as isize).min(QUANTUM as isize);
                }
                return Some((slot, flow));
            }
            (turns.begun, turns.in_round) = (false, false);
            self.round.pop_front();
        }
        None
    }

    /// Puts a peer on the lists where it belongs.
    fn list(&mut self, slot: u32) {
        let Some(turns) = self.peers.get_mut(slot as usize) else {
            return;
        };
        let has_credit = turns.credit > 0;
        if has_credit && !turns.light.is_empty() && !turns.ahead {
            turns.ahead = true;
            self.ahead.push_back(slot);
        }
        let waits = !turns.heavy.is_empty() || !has_credit && !turns.light.is_empty();
        if waits && !turns.in_round {
            turns.in_round = true;
            self.round.push_back(slot);
        }
    }
}

impl Turns {
    fn give_back(&mut self) {
        for queue in [&mut self.light, &mut self.heavy] {
            if queue.is_empty() && queue.capacity() > KEPT {
                *queue = VecDeque::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(slot: u32) -> FlowId {
        FlowId { slot, generation: 0 }
    }

    fn peer(slot: u32) -> PeerId {
        PeerId::new(slot, 0)
    }

    /// Serves flows that always have more to send, `bytes` in a turn, and returns what each peer sent.
    fn shares(flows: &[(u32, bool)], bytes: usize, turns: usize) -> Vec<usize> {
        let mut schedule = Schedule::default();
        for (number, &(slot, heavy)) in flows.iter().enumerate() {
            schedule.push(peer(slot), flow(number as u32), heavy);
        }
        let mut sent = vec![0; 4];
        for _ in 0..turns {
            let (slot, flow) = schedule.pop().unwrap();
            let (_, heavy) = flows[flow.slot()];
            let bytes = if heavy { QUANTUM } else { bytes };
            sent[slot as usize] += bytes;
            schedule.push(peer(slot), flow, heavy);
            schedule.charge(slot, bytes);
        }
        sent
    }

    #[test]
    fn flows_have_their_turns_in_order_and_then_there_are_none() {
        let mut schedule = Schedule::default();
        for (number, heavy) in [(1, true), (2, false), (3, true), (4, false)] {
            schedule.push(peer(0), flow(number), heavy);
        }
        let mut order = Vec::new();
        while let Some((slot, flow)) = schedule.pop() {
            order.push(flow.slot);
            schedule.charge(slot, 100);
        }
        assert_eq!(order, [2, 4, 1, 3]);
        assert!(schedule.is_empty() && schedule.pop().is_none());
    }

    #[test]
    fn a_peer_with_a_thousand_flows_has_the_share_of_one_with_a_single_one() {
        let mut flows = vec![(0, true); 1_000];
        flows.push((1, true));
        let sent = shares(&flows, 0, 10_000);
        assert!(sent[0].abs_diff(sent[1]) <= 2 * QUANTUM, "{sent:?}");
    }

    /// Flows that send little go first, but not for ever: their peer's share ends.
    #[test]
    fn a_thousand_light_flows_do_not_push_a_transfer_of_another_peer_aside() {
        let mut flows = vec![(0, false); 1_000];
        flows.push((1, true));
        for bytes in [60, 1_000, 8_000] {
            let sent = shares(&flows, bytes, 100_000);
            assert!(sent[1] * 10 >= sent[0] * 9, "{bytes}: {sent:?}");
        }
    }

    #[test]
    fn a_request_goes_ahead_of_the_transfers_of_everybody() {
        let mut schedule = Schedule::default();
        for number in 0..30 {
            schedule.push(peer(number % 3), flow(number), true);
        }
        for _ in 0..5 {
            let (slot, flow) = schedule.pop().unwrap();
            schedule.push(peer(slot), flow, true);
            schedule.charge(slot, QUANTUM);
        }
        schedule.push(peer(3), flow(100), false);
        let next: Vec<_> = (0..2)
            .map(|_| {
                let (slot, flow) = schedule.pop().unwrap();
                schedule.charge(slot, QUANTUM);
                flow.slot
            })
            .collect();
        assert!(next.contains(&100), "{next:?}");
    }

    /// And one turn in sixteen is a transfer's, also of the same peer.
    #[test]
    fn light_flows_do_not_starve_the_transfers_of_their_own_peer() {
        let mut schedule = Schedule::default();
        schedule.push(peer(0), flow(1_000), true);
        for number in 0..100 {
            schedule.push(peer(0), flow(number), false);
        }
        let mut heavy = 0;
        for _ in 0..1_600 {
            let (slot, flow) = schedule.pop().unwrap();
            heavy += usize::from(flow.slot == 1_000);
            schedule.push(peer(slot), flow, flow.slot == 1_000);
            schedule.charge(slot, 60);
        }
        assert!(heavy >= 100, "{heavy}");
    }
}
