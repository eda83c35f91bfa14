//! What leaves the stack, in which order and when.

use std::time::Instant;

use super::{
    FlowId, PacketSink, Stack,
    flow::{Queued, Stage},
    life::Cause,
    schedule::TURN_COST,
    tcp::{IDLE, Way},
};

/// How many bytes one [`Stack::transmit`] sends at most, give or take one large segment, turns of flows that
/// send nothing counted as 512 each: new packets are looked at in between.
pub const TURN_BYTES: usize = 256 * 1024;

/// How many bytes one flow, and one peer, sends before the next one has its turn, give or take one large
/// segment.
pub const QUANTUM: usize = 64 * 1024;

/// A flow that sends no more than this in a turn is light: it goes ahead of those that do. A request,
/// a small answer and every acknowledgement is; a transfer is not.
const LIGHT_BYTES: usize = 8 * 1024;

impl Stack {
    /// Sends what flows have to send, up to [`TURN_BYTES`] or until the sink is full. Returns whether
    /// something may be left to send. Flows that timed out are found out here, so look for
    /// [events](Stack::has_events) afterwards.
    pub fn transmit(&mut self, now: Instant, sink: &mut (impl PacketSink + ?Sized)) -> bool {
        self.tick = self.host.tick(now);
        self.send_resets(sink);
        let mut left = TURN_BYTES as isize;
        while left > 0 && sink.ready() {
            let Some((peer, id)) = self.schedule.pop() else {
                break;
            };
            let sent = self.serve(id, now, sink);
            self.schedule.charge(peer, sent);
            left -= (sent + TURN_COST) as isize;
        }
        !self.schedule.is_empty()
    }

    /// Lets every timer that is due by `now` run out. What follows from it is sent by
    /// [`transmit`](Self::transmit).
    pub fn handle_timeout(&mut self, now: Instant) {
        let tick = self.host.tick(now);
        self.tick = tick;
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(tick, &mut due);
        for slot in due.drain(..) {
            self.enqueue(slot);
        }
        self.due = due;
        self.expire_sessions(tick);
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next, if at all. May be
    /// earlier than a timer needs it, and changes with every other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = [self.wheel.next(), self.sessions.next_timeout()];
        let next = next.into_iter().flatten().min();
        next.map(|tick| self.host.instant(tick))
    }

    /// One flow's turn; returns how many bytes it sent.
    fn serve(&mut self, id: FlowId, now: Instant, sink: &mut (impl PacketSink + ?Sized)) -> usize {
        let Some(flow) = self.table.get_mut(id) else {
            return 0;
        };
        flow.queued = Queued::No;
        if matches!(flow.stage, Stage::Draining | Stage::Ended) {
            return 0;
        }
        let Some(tcp) = &flow.tcp else { return 0 };
        let held_back = tcp.is_held_back();
        if held_back || self.table.memory.is_tight() {
            self.allow(id.slot);
        }
        let Some(flow) = self.table.get_mut(id) else {
            return 0;
        };
        let Some(tcp) = &mut flow.tcp else { return 0 };
        let tick = self.host.tick(now);
        flow.credit = (flow.credit + QUANTUM as isize).min(QUANTUM as isize);
        let mut sent = 0;
        let mut way = Way {
            host: &mut self.host,
            rim: &mut self.rim,
            peer: flow.peer,
            now,
            sink,
        };
        while flow.credit > 0 {
            let bytes = tcp.egress(&mut way);
            if bytes == 0 {
                break;
            }
            sent += bytes;
            flow.credit -= bytes as isize;
        }
        let more = flow.credit <= 0 || !way.sink.ready();
        if !more {
            flow.credit = 0;
        }
        flow.heavy = sent > LIGHT_BYTES;
        if sent > 0 {
            flow.active = tick;
        }
        if flow.starved.is_some_and(|at| tick >= at) {
            flow.starved = None;
            self.notify(id.slot);
        }
        if held_back {
            self.tell_window(id.slot, false, sink);
        }
        self.settle(id.slot, Cause::Turn, tick);
        if more {
            self.enqueue(id.slot);
        }
        self.arm(id, now, tick);
        sent
    }

    /// Sets the flow's timer to what it waits for next.
    fn arm(&mut self, id: FlowId, now: Instant, tick: u64) {
        let Some(flow) = self.table.get_mut(id) else {
            return;
        };
        if matches!(flow.stage, Stage::Draining | Stage::Ended) {
            return;
        }
        let Some(tcp) = &mut flow.tcp else { return };
        let mut at = tcp.poll_at(&mut self.host, now);
        if tcp.held() > 0 {
            if tick >= flow.active + IDLE {
                tcp.discard();
                flow.active = tick;
            }
            if tcp.held() > 0 {
                let idle = flow.active + IDLE;
                at = Some(at.map_or(idle, |at| at.min(idle)));
            }
        }
        at = at.into_iter().chain(flow.starved).min();
        match at {
            Some(at) => self.wheel.set(id.slot, at),
            None => self.wheel.clear(id.slot),
        }
        self.charge(id.slot);
    }
}
