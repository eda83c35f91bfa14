//! The life of a flow: what becomes of it as its connection goes on, and what the engine is told.

use super::{
    CloseReason, Event, Stack,
    flow::{Queued, Stage},
    tcp::{Phase, Tcp},
};

/// A flow on which nothing passed for so long is served as a new one when it becomes active again,
/// whatever it sent before, in ticks: longer than most round trips, in which a transfer has its
/// acknowledgements.
pub(super) const QUIET: u64 = 200;

/// Why a flow is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A segment came in; whether it was a reset.
    Segment { reset: bool },
    /// It had a turn to send.
    Turn,
}

impl Stack {
    /// Puts a flow on the list of those with something to send.
    pub(super) fn enqueue(&mut self, slot: u32) {
        let (id, tick) = (self.table.name(slot), self.tick);
        let Some(flow) = self.table.at_mut(slot) else {
            return;
        };
        if flow.queued == Queued::Yes {
            return;
        }
        flow.queued = Queued::Yes;
        flow.heavy &= tick < flow.active + QUIET;
        self.schedule.push(flow.peer, id, flow.heavy);
    }

    /// Has the engine told that a flow is ready.
    pub(super) fn notify(&mut self, slot: u32) {
        let id = self.table.name(slot);
        let Some(flow) = self.table.at_mut(slot) else {
            return;
        };
        if !flow.ready && !flow.released && matches!(flow.stage, Stage::Open | Stage::Draining) {
            flow.ready = true;
            self.ready.push_back(id);
        }
    }

    /// Follows a connection's state after something was done with it.
    pub(super) fn settle(&mut self, slot: u32, cause: Cause, tick: u64) {
        let Some((phase, stage)) = self
            .table
            .at(slot)
            .and_then(|flow| Some((flow.tcp.as_ref()?.phase(), flow.stage)))
        else {
            return;
        };
        if matches!(stage, Stage::Draining | Stage::Ended) {
            return;
        }
        match phase {
            // Its SYN was no use, or was taken back.
            Phase::Listening => self.remove(slot),
            Phase::Opening => {}
            Phase::Open | Phase::TimeWait => {
                self.open(slot);
                if phase == Phase::TimeWait {
                    self.wait(slot, tick);
                }
            }
            Phase::Closed => self.closed(slot, stage, cause),
        }
    }

    /// The handshake is complete, maybe just now.
    fn open(&mut self, slot: u32) {
        let id = self.table.name(slot);
        let Some(flow) = self.table.at_mut(slot) else {
            return;
        };
        let Some(tcp) = &mut flow.tcp else { return };
        let stage = flow.stage;
        let finished = tcp.peer_finished() && !flow.peer_finished;
        flow.peer_finished |= finished;
        if stage != Stage::Open {
            tcp.established(&self.settings);
            if flow.shut {
                tcp.shutdown();
            }
            flow.wants_room = false;
            let event = if stage == Stage::Accepting {
                self.counters.accepted += 1;
                Event::Incoming {
                    flow: id,
                    peer: flow.peer,
                    local: flow.local,
                    remote: flow.remote,
                }
            } else {
                self.counters.connected += 1;
                Event::Established(id)
            };
            if !flow.released {
                self.events.push_back(event);
            }
            self.table.set_stage(slot, Stage::Open);
        }
        if finished {
            self.notify(slot);
        }
    }

    /// Both directions ended: once the peer's FIN is acknowledged, only the addresses are kept.
    fn wait(&mut self, slot: u32, tick: u64) {
        let Some(flow) = self.table.at_mut(slot) else {
            return;
        };
        flow.waits = true;
        let Some((next, expected)) = flow.tcp.as_ref().and_then(Tcp::waiting) else {
            return;
        };
        self.time_wait.insert(flow.key, next, expected, tick);
        self.end(slot, CloseReason::Finished);
    }

    fn closed(&mut self, slot: u32, stage: Stage, cause: Cause) {
        let Some(flow) = self.table.at(slot) else { return };
        let delivered =
            flow.shut && flow.peer_finished && flow.tcp.as_ref().is_some_and(|tcp| tcp.unacknowledged() == 0);
        let reason = match (stage, cause) {
            (Stage::Accepting, _) => {
                self.remove(slot);
                return;
            }
            (Stage::Connecting, Cause::Segment { reset: true }) => CloseReason::Refused,
            (Stage::Connecting, _) => CloseReason::Timeout,
            // The peer forgot the flow before it acknowledged our FIN; all data had been.
            (_, Cause::Segment { reset: true }) if delivered => CloseReason::Finished,
            (_, Cause::Segment { reset: true }) => CloseReason::Reset,
            (_, Cause::Segment { reset: false }) => CloseReason::Finished,
            (_, Cause::Turn) if flow.waits => CloseReason::Finished,
            (_, Cause::Turn) => CloseReason::Timeout,
        };
        self.end(slot, reason);
    }

    /// The connection is over.
    pub(super) fn end(&mut self, slot: u32, reason: CloseReason) {
        let Some(flow) = self.table.at(slot) else { return };
        if flow.released {
            self.remove(slot);
            return;
        }
        if reason == CloseReason::Timeout {
            self.counters.timed_out += 1;
        }
        let unread = flow.tcp.as_ref().is_some_and(|tcp| tcp.received() > 0);
        self.table.forget_key(slot);
        self.wheel.clear(slot);
        if reason == CloseReason::Finished && unread {
            self.table.set_stage(slot, Stage::Draining);
            self.notify(slot);
        } else {
            self.tell_end(slot, reason);
        }
    }

    pub(super) fn tell_end(&mut self, slot: u32, reason: CloseReason) {
        let flow = self.table.name(slot);
        self.table.set_stage(slot, Stage::Ended);
        self.events.push_back(Event::Closed { flow, reason });
        let tcp = self.table.at(slot).and_then(|flow| flow.tcp.as_ref());
        if tcp.is_some_and(|tcp| tcp.received() == 0) {
            self.free_rings(slot);
        }
    }

    /// Takes a flow out of everything, and tells the engine if it knew the flow.
    pub(super) fn drop_flow(&mut self, slot: u32, reason: CloseReason) {
        let id = self.table.name(slot);
        let known = self.table.at(slot).is_some_and(|flow| {
            !flow.released && matches!(flow.stage, Stage::Connecting | Stage::Open | Stage::Draining)
        });
        self.remove(slot);
        if known {
            self.events.push_back(Event::Closed { flow: id, reason });
        }
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.wheel.clear(slot);
        self.table.remove(slot);
    }
}
