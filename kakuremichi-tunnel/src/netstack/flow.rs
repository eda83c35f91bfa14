//! Flows, and the table that finds them: by name, by addresses, by peer.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher},
    net::{IpAddr, SocketAddr},
};

use rustc_hash::FxHashMap;

use super::{
    FlowId,
    memory::{Memory, Scope},
    tcp::Tcp,
};
use crate::peer::PeerId;

const NIL: u32 = u32::MAX;

/// How many vacant slots in a row are looked at in search of a flow.
const VACANT: usize = 64;

/// What tells one flow from another: the same addresses may be used by two peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    peer: PeerId,
    local: u128,
    remote: u128,
    /// Both ports, and the IP version.
    ports: u64,
}

/// A hash of keys that a peer cannot foresee: it chooses its ports, and within its networks its
/// addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seeded {
    seed: u64,
}

#[derive(Debug)]
pub(super) struct SeededHasher {
    seed: u64,
    state: u64,
}

/// Where a flow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// We sent a SYN.
    Connecting,
    /// A peer did; the engine does not know of the flow yet.
    Accepting,
    /// The handshake is complete.
    Open,
    /// The connection is over; some of what it brought is still to be read.
    Draining,
    /// The engine was told so.
    Ended,
}

/// Whether a flow is queued among those with something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queued {
    No,
    Yes,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) peer: PeerId,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// None once the connection is over and all was read: the rings have gone back.
    pub(super) tcp: Option<Tcp>,
    pub(super) stage: Stage,
    /// The engine gave the name up.
    pub(super) released: bool,
    /// We ended our direction.
    pub(super) shut: bool,
    /// The peer ended its direction.
    pub(super) peer_finished: bool,
    /// Both directions ended, and the peer's FIN may not be acknowledged yet.
    pub(super) waits: bool,
    /// The engine found too little room to send, and wants to know when there is some.
    pub(super) wants_room: bool,
    /// It found no memory to send anything, and looks again at this tick.
    pub(super) starved: Option<u64>,
    /// On the list of flows that are ready.
    pub(super) ready: bool,
    pub(super) queued: Queued,
    /// Its last turn sent much: it waits behind those whose last turn sent little.
    pub(super) heavy: bool,
    /// What is left of its turn's bytes; below zero what it took too much.
    pub(super) credit: isize,
    /// The tick of the last segment, in or out.
    pub(super) active: u64,
    /// The memory of its rings as it was noted last, in bytes.
    pub(super) held: usize,
    /// The flow's neighbours in the list of its peer's flows.
    previous: u32,
    next: u32,
}

/// All flows.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    keys: HashMap<Key, u32, Seeded>,
    peers: FxHashMap<PeerId, Peer>,
    half_open: usize,
    pub(super) memory: Memory,
    /// Where the next look at flows begins.
    hand: u32,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    flow: Option<Flow>,
}

#[derive(Debug)]
struct Peer {
    first: u32,
    flows: usize,
    half_open: usize,
    /// What its flows' rings hold, in bytes.
    held: usize,
    /// Where the next look at its flows begins.
    hand: u32,
}

impl Key {
    pub(super) fn new(peer: PeerId, local: SocketAddr, remote: SocketAddr) -> Self {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        };
        Self {
            peer,
            local: bits(local.ip()),
            remote: bits(remote.ip()),
            ports: u64::from(local.is_ipv4()) << 32
                | u64::from(local.port()) << 16
                | u64::from(remote.port()),
        }
    }
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.local);
        state.write_u128(self.remote);
        let peer = (self.peer.slot() as u64) << 32 | u64::from(self.peer.generation());
        state.write_u128(u128::from(peer) << 64 | u128::from(self.ports));
    }
}

impl Seeded {
    pub(super) const fn new(seed: u64) -> Self {
        Self { seed }
    }
}

impl BuildHasher for Seeded {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher {
            seed: self.seed.rotate_left(32),
            state: self.seed,
        }
    }
}

impl Hasher for SeededHasher {
    fn write_u128(&mut self, value: u128) {
        // A folded multiplication of two halves, each hidden by the seed.
        let (low, high) = (value as u64 ^ self.state, (value >> 64) as u64 ^ self.seed);
        let product = u128::from(low) * u128::from(high);
        self.state = product as u64 ^ (product >> 64) as u64 ^ self.seed;
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(16) {
            let mut value = [0; 16];
            value[..chunk.len()].copy_from_slice(chunk);
            self.write_u128(u128::from_ne_bytes(value));
        }
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

impl Flow {
    pub(super) fn new(peer: PeerId, local: SocketAddr, remote: SocketAddr, tcp: Tcp, stage: Stage) -> Self {
        Self {
            key: Key::new(peer, local, remote),
            peer,
            local,
            remote,
            tcp: Some(tcp),
            stage,
            released: false,
            shut: false,
            peer_finished: false,
            waits: false,
            wants_room: false,
            starved: None,
            ready: false,
            queued: Queued::No,
            heavy: false,
            credit: 0,
            active: 0,
            held: 0,
            previous: NIL,
            next: NIL,
        }
    }
}

impl Table {
    pub(super) fn new(hasher: Seeded, memory: Memory) -> Self {
        Self {
            memory,
            hand: 0,
            slots: Vec::new(),
            vacant: Vec::new(),
            keys: HashMap::with_hasher(hasher),
            peers: FxHashMap::default(),
            half_open: 0,
        }
    }

    /// How many flows there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// How many flows a peer has.
    pub(super) fn of_peer(&self, peer: PeerId) -> usize {
        self.peers.get(&peer).map_or(0, |peer| peer.flows)
    }

    /// How many flows peers began to open, and how many this peer did.
    pub(super) fn half_open(&self, peer: PeerId) -> (usize, usize) {
        (
            self.half_open,
            self.peers.get(&peer).map_or(0, |peer| peer.half_open),
        )
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }

    /// The slot of the flow with these addresses.
    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.keys.get(key).copied()
    }

    /// Adds a flow whose key is not in the table.
    pub(super) fn insert(&mut self, mut flow: Flow) -> u32 {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                flow: None,
            });
            (self.slots.len() - 1) as u32
        });
        self.keys.insert(flow.key, slot);
        let peer = self.peers.entry(flow.peer).or_insert(Peer {
            first: NIL,
            flows: 0,
            half_open: 0,
            held: 0,
            hand: NIL,
        });
        peer.flows += 1;
        if flow.stage == Stage::Accepting {
            peer.half_open += 1;
            self.half_open += 1;
        }
        flow.next = peer.first;
        peer.first = slot;
        let next = flow.next;
        self.slots[slot as usize].flow = Some(flow);
        if let Some(next) = self.at_mut(next) {
            next.previous = slot;
        }
        slot
    }

    /// Moves a flow on to another stage.
    pub(super) fn set_stage(&mut self, slot: u32, stage: Stage) {
        let Some(flow) = self
            .slots
            .get_mut(slot as usize)
            .and_then(|slot| slot.flow.as_mut())
        else {
            return;
        };
        if flow.stage == Stage::Accepting && stage != Stage::Accepting {
            self.half_open -= 1;
            if let Some(peer) = self.peers.get_mut(&flow.peer) {
                peer.half_open -= 1;
            }
        }
        flow.stage = stage;
    }

    /// Frees a flow's addresses for another flow.
    pub(super) fn forget_key(&mut self, slot: u32) {
        let Some(key) = self.at(slot).map(|flow| flow.key) else {
            return;
        };
        // The key may belong to a later flow already.
        if self.keys.get(&key) == Some(&slot) {
            self.keys.remove(&key);
        }
    }

    /// Takes a flow out; its name is void from now on.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Flow> {
        self.set_stage(slot, Stage::Ended);
        self.forget_key(slot);
        self.charge(slot, 0);
        let entry = self.slots.get_mut(slot as usize)?;
        let flow = entry.flow.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.vacant.push(slot);
        if let Some(next) = self.at_mut(flow.next) {
            next.previous = flow.previous;
        }
        if let Some(previous) = self.at_mut(flow.previous) {
            previous.next = flow.next;
        }
        if let Some(peer) = self.peers.get_mut(&flow.peer) {
            if peer.first == slot {
                peer.first = flow.next;
            }
            peer.flows -= 1;
            if peer.flows == 0 {
                self.peers.remove(&flow.peer);
            }
        }
        Some(flow)
    }

    /// Notes what a flow's rings hold, in bytes.
    pub(super) fn charge(&mut self, slot: u32, held: usize) {
        let flow = self
            .slots
            .get_mut(slot as usize)
            .and_then(|slot| slot.flow.as_mut());
        let Some(flow) = flow.filter(|flow| flow.held != held) else {
            return;
        };
        let before = std::mem::replace(&mut flow.held, held);
        if let Some(peer) = self.peers.get_mut(&flow.peer) {
            self.memory.change(&mut peer.held, before, held);
        }
    }

    /// What the rings of a peer's flows hold, in bytes.
    pub(super) fn held_by(&self, peer: PeerId) -> usize {
        self.peers.get(&peer).map_or(0, |peer| peer.held)
    }

    /// One flow after the other, again and again; `None` where there is none.
    pub(super) fn next_in(&mut self, scope: Scope) -> Option<u32> {
        match scope {
            Scope::All => {
                let begin = self.hand as usize % self.slots.len().max(1);
                let rest = self.slots[begin..].iter().zip(begin as u32..);
                let all = rest.chain(self.slots[..begin].iter().zip(0..));
                let slot = all
                    .take(VACANT)
                    .find_map(|(slot, at)| slot.flow.is_some().then_some(at));
                self.hand = slot.map_or(begin + VACANT, |slot| slot as usize + 1) as u32;
                slot
            }
            Scope::Peer(peer) => {
                let entry = self.peers.get(&peer)?;
                let is_of = |slot: &u32| self.at(*slot).is_some_and(|flow| flow.peer == peer);
                let slot = Some(entry.hand).filter(is_of).unwrap_or(entry.first);
                let next = self.at(slot)?.next;
                self.peers.get_mut(&peer)?.hand = next;
                Some(slot)
            }
        }
    }

    /// The slot of one of a peer's flows.
    pub(super) fn first_of(&self, peer: PeerId) -> Option<u32> {
        self.peers.get(&peer).map(|peer| peer.first)
    }

    /// The slots of the flows to a peer that it has not answered yet.
    pub(super) fn connecting_to(&self, peer: PeerId) -> Vec<u32> {
        let named = |slot: u32| self.at(slot).map(|flow| (slot, flow));
        let first = self.first_of(peer).and_then(named);
        std::iter::successors(first, |(_, flow)| named(flow.next))
            .filter_map(|(slot, flow)| (flow.stage == Stage::Connecting).then_some(slot))
            .collect()
    }

    /// The slots in use.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots
            .iter()
            .zip(0..)
            .filter_map(|(slot, index)| slot.flow.is_some().then_some(index))
    }

    /// The name of the flow in a slot.
    pub(super) fn name(&self, slot: u32) -> FlowId {
        FlowId {
            slot,
            generation: self.slots.get(slot as usize).map_or(0, |slot| slot.generation),
        }
    }

    /// The flow in a slot.
    pub(super) fn at(&self, slot: u32) -> Option<&Flow> {
        self.slots.get(slot as usize)?.flow.as_ref()
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut Flow> {
        self.slots.get_mut(slot as usize)?.flow.as_mut()
    }

    /// The flow of that name.
    pub(super) fn get(&self, id: FlowId) -> Option<&Flow> {
        let slot = self.slots.get(id.slot())?;
        slot.flow.as_ref().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        let slot = self.slots.get_mut(id.slot())?;
        slot.flow.as_mut().filter(|_| slot.generation == id.generation)
    }
}
