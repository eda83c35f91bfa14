//! How much memory flows may hold, and what is done about more.
//!
//! What counts is what the rings' pages take, not what the rings could: an upper bound that is known
//! without asking the system. Below half of what all flows, and the flows of each peer, may hold, nothing
//! is done. From there on
//!
//! 1. rings that have nothing in them give their pages back at once, some with every page that is taken;
//! 2. what a flow may keep in each of its rings becomes less, an [eighth](PART) of what is left for its
//!    peer and for all, but never less than [`SHARE`]: the windows that peers are told, and the room that
//!    the engine is given, follow. However many flows there are, they end up with equal parts.
//!
//! That holds for whoever keeps to what it is told. Beyond the bound, whatever comes,
//!
//! 3. data that is no part of a flow's share is not taken in: its sender is told of the window, and sends
//!    it again;
//! 4. for a flow that has not got its share the largest flow of the same peer is reset; of the peer that
//!    holds the most, where it is all peers together that hold too much.

use super::{
    CloseReason, Event, PacketSink, Stack,
    flow::{Flow, Stage, Table},
    rim::Control,
    tcp::{PAGE, Tcp},
};
use crate::{
    packet::{TcpFlags, TcpSegment},
    peer::PeerId,
};

/// Less than this is no bound that flows could live with, in bytes: a large segment for each of some.
pub(super) const LEAST: usize = 1024 * 1024;

/// The same in rings: below half of the bound a flow may fill one at once.
pub(super) const LEAST_RINGS: usize = 4;

/// What every flow may keep in each of its rings, in bytes.
pub(super) const SHARE: usize = 16 * 1024;

/// A flow may keep this part of what is left in each of its rings.
const PART: usize = 8;

/// How many flows are looked at for rings that are empty, each time that a flow takes pages.
const LOOKS: usize = 16;

/// Among how many flows the largest is looked for.
const CHOICE: usize = 64;

/// How many flows are reset for one segment at most.
const SHED: usize = 4;

/// How many resets wait to be sent. A peer whose reset is left out is told when it sends something.
const RESETS: usize = 64;

/// What flows hold, in all and by how many peers much.
#[derive(Debug)]
pub(super) struct Memory {
    /// [`Limits::memory`](super::Limits::memory).
    limit: usize,
    /// [`Limits::memory_per_peer`](super::Limits::memory_per_peer).
    per_peer: usize,
    held: usize,
    /// How many peers hold more than half of what they may.
    tight: usize,
}

/// Whose flows hold too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    Peer(PeerId),
}

impl Memory {
    pub(super) const fn new(limit: usize, per_peer: usize) -> Self {
        Self {
            limit,
            per_peer,
            held: 0,
            tight: 0,
        }
    }

    /// How many bytes flows hold.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Whether all, or some peer, hold so much that something is to be done about it.
    pub(super) const fn is_tight(&self) -> bool {
        self.tight > 0 || self.is_tight_for_all()
    }

    const fn is_tight_for_all(&self) -> bool {
        self.held > self.limit / 2
    }

    /// A peer holds other memory than before.
    pub(super) fn change(&mut self, of_peer: &mut usize, before: usize, now: usize) {
        self.held = self.held - before + now;
        let tight = |held: usize| usize::from(held > self.per_peer / 2);
        self.tight -= tight(*of_peer);
        *of_peer = *of_peer - before + now;
        self.tight += tight(*of_peer);
    }
}

impl Table {
    /// Whose flows would hold too much, had this peer so many bytes more.
    fn exceeds(&self, peer: PeerId, more: usize) -> Option<Scope> {
        if self.held_by(peer) + more > self.memory.per_peer {
            Some(Scope::Peer(peer))
        } else if self.memory.held + more > self.memory.limit {
            Some(Scope::All)
        } else {
            None
        }
    }

    /// Whose flows are to give back what they do not need, for this peer's sake.
    fn relief(&self, peer: PeerId) -> Option<Scope> {
        if self.memory.is_tight_for_all() {
            Some(Scope::All)
        } else {
            let tight = self.held_by(peer) > self.memory.per_peer / 2;
            tight.then_some(Scope::Peer(peer))
        }
    }

    /// What a flow of a peer may keep in each of its rings, in bytes.
    fn allowance(&self, peer: PeerId) -> usize {
        if !self.memory.is_tight() || self.relief(peer).is_none() {
            return usize::MAX;
        }
        let of_peer = self.memory.per_peer.saturating_sub(self.held_by(peer));
        let of_all = self.memory.limit.saturating_sub(self.memory.held);
        (of_peer.min(of_all) / PART).max(SHARE)
    }
}

impl Stack {
    /// Takes note of what a flow's rings hold now.
    pub(super) fn charge(&mut self, slot: u32) {
        let Some(flow) = self.table.at(slot) else { return };
        let held = flow.tcp.as_ref().map_or(0, Tcp::held);
        if held == flow.held {
            return;
        }
        let (grew, peer) = (held > flow.held, flow.peer);
        self.table.charge(slot, held);
        if grew
            && self.table.memory.is_tight()
            && let Some(scope) = self.table.relief(peer)
        {
            self.relieve(scope);
        }
    }

    /// Gives a flow's rings back.
    pub(super) fn free_rings(&mut self, slot: u32) {
        if let Some(flow) = self.table.at_mut(slot) {
            flow.tcp = None;
        }
        self.table.charge(slot, 0);
    }

    /// Gives the pages of some flows' empty rings back.
    fn relieve(&mut self, scope: Scope) {
        for _ in 0..LOOKS {
            let Some(slot) = self.table.next_in(scope) else {
                return;
            };
            self.reclaim(slot);
        }
    }

    /// Gives the pages of a flow's empty rings back.
    fn reclaim(&mut self, slot: u32) {
        let tcp = self.table.at_mut(slot).and_then(|flow| flow.tcp.as_mut());
        if let Some(tcp) = tcp
            && tcp.discard()
        {
            let held = tcp.held();
            self.table.charge(slot, held);
            self.counters.rings_reclaimed += 1;
        }
    }

    /// Whether the data of a segment is too much to be taken in, whatever is given back for it.
    pub(super) fn is_too_much(&mut self, slot: u32, segment: &TcpSegment<'_>) -> bool {
        let refused = !self.make_room(slot, |tcp| tcp.growth(segment));
        self.counters.data_refused += u64::from(refused);
        refused
    }

    /// How many bytes of room to send a flow is given.
    pub(super) fn room_to_send(&mut self, slot: u32) -> usize {
        let Some(flow) = self.table.at(slot) else { return 0 };
        let Some(tcp) = &flow.tcp else { return 0 };
        let allowance = self.table.allowance(flow.peer);
        if allowance == usize::MAX {
            return allowance;
        }
        let room = allowance.saturating_sub(tcp.unacknowledged()).min(tcp.room());
        if self.make_room(slot, |tcp| tcp.send_growth(room)) {
            return room;
        }
        let tcp = self.table.at(slot).and_then(|flow| flow.tcp.as_ref());
        tcp.map_or(0, |tcp| tcp.room_held().min(room))
    }

    /// Bounds what the flow's peer is told of our room.
    pub(super) fn allow(&mut self, slot: u32) {
        let Some(flow) = self.table.at(slot) else { return };
        let allowance = self.table.allowance(flow.peer);
        if let Some(tcp) = self.table.at_mut(slot).and_then(|flow| flow.tcp.as_mut()) {
            tcp.allow(allowance);
        }
    }

    /// Tells the flow's peer of our room, where TCP itself would not: `always`, or when it was told of less
    /// than there is now.
    pub(super) fn tell_window(&mut self, slot: u32, always: bool, sink: &mut (impl PacketSink + ?Sized)) {
        let Some(flow) = self.table.at_mut(slot) else {
            return;
        };
        let update = flow.tcp.as_mut().and_then(|tcp| tcp.window_update(always));
        let Some((sequence, acknowledgement, window)) = update else {
            return;
        };
        let update = Control {
            source: flow.local,
            destination: flow.remote,
            sequence,
            acknowledgement,
            flags: TcpFlags::ACK,
            window,
        };
        self.rim.control(&update, flow.peer, sink);
    }

    /// Makes room for what a flow is about to take; whether there is some.
    fn make_room(&mut self, slot: u32, growth: impl Fn(&Tcp) -> usize) -> bool {
        for shed in 0..=SHED {
            let Some(scope) = self.lack(slot, &growth) else {
                return true;
            };
            self.reclaim(slot);
            self.relieve(scope);
            let Some(scope) = self.lack(slot, &growth) else {
                return true;
            };
            let Some(flow) = self.table.at(slot) else {
                return false;
            };
            let held = flow.held;
            let wants = held + flow.tcp.as_ref().map_or(0, &growth);
            if shed == SHED || wants > 2 * (SHARE + PAGE) {
                return false;
            }
            match self.largest(scope) {
                Some(largest) if self.table.at(largest).is_some_and(|other| other.held > held) => {
                    self.shed(largest);
                }
                _ => return false,
            }
        }
        false
    }

    /// Whose flows hold too much for what a flow is about to take.
    fn lack(&self, slot: u32, growth: impl Fn(&Tcp) -> usize) -> Option<Scope> {
        let flow = self.table.at(slot)?;
        match growth(flow.tcp.as_ref()?) {
            0 => None,
            more => self.table.exceeds(flow.peer, more),
        }
    }

    /// The flow that holds the most, among some, of the peer that does.
    fn largest(&mut self, scope: Scope) -> Option<u32> {
        let mut largest = None;
        for _ in 0..CHOICE {
            let Some(slot) = self.table.next_in(scope) else {
                break;
            };
            let Some(flow) = self.table.at(slot).filter(|flow| flow.held > 0) else {
                continue;
            };
            let of_peer = match scope {
                Scope::All => self.table.held_by(flow.peer),
                Scope::Peer(_) => 0,
            };
            largest = largest.max(Some((of_peer, flow.held, slot)));
        }
        largest.map(|(_, _, slot)| slot)
    }

    /// Resets a flow at once, and frees its rings.
    fn shed(&mut self, slot: u32) {
        let id = self.table.name(slot);
        let Some(flow) = self.table.at_mut(slot) else {
            return;
        };
        self.counters.flows_shed += 1;
        let (stage, unknown) = (flow.stage, flow.released || flow.stage == Stage::Accepting);
        if matches!(stage, Stage::Accepting | Stage::Open | Stage::Connecting)
            && self.resets.len() < RESETS
            && let Some(reset) = reset_of(flow)
        {
            self.resets.push((flow.peer, reset));
        }
        // What was not read is lost: that is not an end in order.
        flow.peer_finished = false;
        if unknown {
            return self.remove(slot);
        }
        self.table.forget_key(slot);
        self.wheel.clear(slot);
        self.free_rings(slot);
        if stage == Stage::Ended {
            return;
        }
        self.table.set_stage(slot, Stage::Ended);
        let reason = CloseReason::Shed;
        self.events.push_back(Event::Closed { flow: id, reason });
    }

    /// Sends what tells peers of flows that were [shed](Self::shed).
    pub(super) fn send_resets(&mut self, sink: &mut (impl PacketSink + ?Sized)) {
        for (peer, reset) in self.resets.drain(..) {
            self.rim.control(&reset, peer, sink);
        }
    }
}

fn reset_of(flow: &Flow) -> Option<Control> {
    let (acknowledgement, sequence) = flow.tcp.as_ref()?.numbers();
    Some(Control {
        source: flow.local,
        destination: flow.remote,
        sequence,
        acknowledgement,
        flags: TcpFlags::RST.union(TcpFlags::ACK),
        window: 0,
    })
}
