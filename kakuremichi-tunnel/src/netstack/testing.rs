//! The schedule and the timers by themselves, for benches.

use super::{FlowId, schedule::Schedule, wheel::Wheel};
use crate::peer::PeerId;

/// Whose turn it is to send, among flows that are known by numbers.
#[derive(Debug, Default)]
pub struct Turns(Schedule);

impl Turns {
    /// Queues a flow that is not queued.
    pub fn push(&mut self, peer: PeerId, flow: u32, heavy: bool) {
        let flow = FlowId {
            slot: flow,
            generation: 0,
        };
        self.0.push(peer, flow, heavy);
    }

    /// The slot of the peer whose turn it is, and its flow; [`charge`](Self::charge) follows.
    pub fn pop(&mut self) -> Option<(u32, u32)> {
        self.0.pop().map(|(slot, flow)| (slot, flow.slot))
    }

    /// A flow of the peer in that slot has sent so many bytes.
    pub fn charge(&mut self, slot: u32, sent: usize) {
        self.0.charge(slot, sent);
    }
}

/// The timers of flows, in ticks.
#[derive(Debug)]
pub struct Timers(Wheel);

impl Timers {
    /// No timers, at tick zero.
    #[must_use]
    pub fn new() -> Self {
        Self(Wheel::new())
    }

    /// Sets a flow's timer, or moves it.
    pub fn set(&mut self, flow: u32, deadline: u64) {
        self.0.set(flow, deadline);
    }

    /// Moves on to `now`, and appends the flows whose timers ran out.
    pub fn expire(&mut self, now: u64, due: &mut Vec<u32>) {
        self.0.expire(now, due);
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}
