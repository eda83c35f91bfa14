//! The stack: its parts, its configuration, and the commands on flows.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use rustc_hash::FxHashMap;

use super::{
    BuildError, CloseReason, ConnectError, Counters, Event, FlowId, InvalidAddress, Received, SessionId,
    Settings,
    errors::Answers,
    flow::{Flow, Key, Seeded, Stage, Table},
    host::Host,
    memory::{LEAST, LEAST_RINGS, Memory},
    ports::{EPHEMERAL, Ephemeral, PortSet},
    reassembly::Reassembly,
    rim::{Control, IPV4_HEADER, IPV6_HEADER, LONGEST, Rim, TCP_HEADER},
    schedule::Schedule,
    sessions::Sessions,
    tcp::Tcp,
    time_wait::TimeWait,
    wheel::Wheel,
};
use crate::{arena::Arena, peer::PeerId};

/// The least MTU of IPv6 (RFC 8200 section 5).
const MIN_MTU: usize = 1_280;

/// No path is narrower: datagrams of 1,280 bytes over IPv6.
const LEAST_PEER_MTU: usize = 1_200;

/// A flow that found no memory to send anything looks again after so many ticks: no acknowledgement may
/// come that tells of some.
const RETRY: u64 = 100;

/// A stack that cannot have as many flows is not worth having.
const LEAST_FLOWS: usize = 64;

/// How many times as many flows, half-open ones or sessions as are free one of several peers may have. Two peers
/// get 94 of a hundred, ten get 99, and one place in nine times their number stays free.
const FREE_SHARE: usize = 8;

/// The netstack of one shard. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Stack {
    pub(super) settings: Settings,
    pub(super) host: Host,
    pub(super) rim: Rim,
    pub(super) arena: Arena,
    pub(super) table: Table,
    pub(super) wheel: Wheel,
    pub(super) ports: PortSet,
    pub(super) ephemeral: Ephemeral,
    pub(super) time_wait: TimeWait,
    pub(super) sessions: Sessions,
    pub(super) udp_ports: PortSet,
    pub(super) udp_ephemeral: Ephemeral,
    pub(super) reassembly: Reassembly,
    pub(super) answers: Answers,
    /// The peers to which packets must be shorter than the MTU.
    pub(super) mtus: FxHashMap<PeerId, u16>,
    /// Datagrams for the engine. Bounded by [`RECEIVED_BYTES`](super::RECEIVED_BYTES).
    pub(super) received: Received,
    pub(super) counters: Counters,
    /// What happened. Bounded by the flows and the sessions, each of which adds two at most, and by
    /// [`MAX_PONGS`](super::icmp::MAX_PONGS).
    pub(super) events: VecDeque<Event>,
    /// How many of the events are pongs.
    pub(super) pongs: usize,
    /// Flows to tell the engine about; each is on it once.
    pub(super) ready: VecDeque<FlowId>,
    /// Flows that may have something to send.
    pub(super) schedule: Schedule,
    /// Resets of flows that held too much. Few, see [`memory`](super::memory).
    pub(super) resets: Vec<(PeerId, Control)>,
    /// The tick of the last turn.
    pub(super) tick: u64,
    /// Timers that ran out; kept for its memory.
    pub(super) due: Vec<u32>,
    /// The same of sessions.
    pub(super) idle_sessions: Vec<SessionId>,
}

impl Stack {
    /// Makes a stack. Where the system does not let so much address space be reserved, the bound on
    /// flows is lowered; [`settings`](Self::settings) tells. `seed` has to come from a cryptographic random source: initial sequence
    /// numbers, ports and the hash of the flow table follow from it.
    ///
    /// # Errors
    /// When a setting is out of range, or the rings' memory cannot be reserved.
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Result<Self, BuildError> {
        if !(MIN_MTU..=LONGEST).contains(&settings.mtu) {
            return Err(BuildError::Mtu(settings.mtu));
        }
        let arena = reserve(&settings)?;
        let mut settings = settings;
        settings.limits.flows = arena.pairs();
        let limits = &mut settings.limits;
        let least = LEAST.max(LEAST_RINGS * arena.ring());
        limits.memory = limits.memory.max(least);
        limits.memory_per_peer = limits.memory_per_peer.clamp(least, limits.memory);
        let memory = Memory::new(limits.memory, limits.memory_per_peer);
        let mut random = seed;
        let mut draw = || {
            // SplitMix64: one seed, several independent numbers.
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let mut rim = Rim::new(settings.mtu);
        let host = Host::new(&mut rim, draw(), now);
        let hasher = Seeded::new(draw());
        let (ipv6, ipv4) = (settings.ipv6, settings.ipv4);
        let mut stack = Self {
            time_wait: TimeWait::new(settings.limits.time_wait, hasher),
            settings,
            host,
            rim,
            arena,
            table: Table::new(hasher, memory),
            wheel: Wheel::new(),
            ports: PortSet::new(),
            ephemeral: Ephemeral::new(draw()),
            sessions: Sessions::new(hasher),
            udp_ports: PortSet::new(),
            udp_ephemeral: Ephemeral::new(draw()),
            reassembly: Reassembly::default(),
            answers: Answers::default(),
            mtus: FxHashMap::default(),
            received: Received::default(),
            counters: Counters::default(),
            events: VecDeque::new(),
            pongs: 0,
            ready: VecDeque::new(),
            schedule: Schedule::default(),
            resets: Vec::new(),
            tick: 0,
            due: Vec::new(),
            idle_sessions: Vec::new(),
        };
        stack.set_addresses(ipv6, ipv4)?;
        Ok(stack)
    }

    /// Sets the stack's addresses, both at once. Flows of an address that goes are closed with
    /// [`CloseReason::AddressGone`], and their peers are told nothing.
    ///
    /// # Errors
    /// When an address is no host's; then nothing changes.
    pub fn set_addresses(
        &mut self,
        ipv6: Option<Ipv6Addr>,
        ipv4: Option<Ipv4Addr>,
    ) -> Result<(), InvalidAddress> {
        let unusable = |address: &IpAddr| !is_host(*address);
        let both = [ipv6.map(IpAddr::from), ipv4.map(IpAddr::from)];
        if let Some(address) = both.into_iter().flatten().find(unusable) {
            return Err(InvalidAddress(address));
        }
        self.settings.ipv6 = ipv6;
        self.settings.ipv4 = ipv4;
        self.host.set_addresses(ipv6, ipv4);
        let gone = |stack: &Self, slot| {
            stack
                .table
                .at(slot)
                .is_some_and(|flow| !stack.is_ours(flow.local.ip()))
        };
        let slots: Vec<u32> = self.table.slots().filter(|&slot| gone(self, slot)).collect();
        for slot in slots {
            self.drop_flow(slot, CloseReason::AddressGone);
        }
        for session in self.sessions.select(|session| !self.is_ours(session.local.ip())) {
            self.end_session(session, CloseReason::AddressGone);
        }
        Ok(())
    }

    /// Sets the ports that peers may open flows to, all of them at once. Flows that are open stay.
    pub fn listen(&mut self, ports: impl IntoIterator<Item = u16>) {
        self.ports.replace(ports);
    }

    /// Opens a flow to a host behind a peer. [`Event::Established`] or [`Event::Closed`] follows.
    ///
    /// # Errors
    /// When an address does not fit, or a bound is reached.
    pub fn connect(
        &mut self,
        peer: PeerId,
        local: IpAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<FlowId, ConnectError> {
        if !self.is_ours(local) {
            return Err(ConnectError::NotOurs);
        }
        if !is_host(remote.ip()) || remote.port() == 0 || remote.is_ipv4() != local.is_ipv4() {
            return Err(ConnectError::Unaddressable);
        }
        if !self.may_have_flow(peer) {
            return Err(ConnectError::TooManyFlows);
        }
        let local = (0..EPHEMERAL)
            .map(|_| SocketAddr::new(local, self.ephemeral.next()))
            .find(|local| !self.table.contains(&Key::new(peer, *local, remote)))
            .ok_or(ConnectError::NoPorts)?;
        let Some(tcp) = Tcp::connect(&self.arena, &self.settings, &mut self.host, local, remote) else {
            self.counters.no_buffers += 1;
            return Err(ConnectError::NoBuffers);
        };
        let mut flow = Flow::new(peer, local, remote, tcp, Stage::Connecting);
        self.narrow(&mut flow);
        flow.active = self.host.tick(now);
        let slot = self.table.insert(flow);
        self.enqueue(slot);
        Ok(self.table.name(slot))
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            match event {
                Event::Pong { .. } => self.pongs -= 1,
                Event::SessionRefused(session) => {
                    if let Some(session) = self.sessions.get_mut(session) {
                        session.refused = false;
                    }
                }
                _ => {}
            }
            return Some(event);
        }
        while let Some(id) = self.ready.pop_front() {
            if let Some(flow) = self.known_mut(id) {
                flow.ready = false;
                return Some(Event::Ready(id));
            }
        }
        None
    }

    /// Whether [`poll_event`](Self::poll_event) may have something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty() || !self.ready.is_empty()
    }

    /// Calls `take` with received bytes, the longest piece that lies in one; `take` returns how many
    /// it used. `None`, and no call, when there are none. Received bytes may lie in two pieces, so
    /// call again until `None`.
    pub fn recv<R>(&mut self, flow: FlowId, take: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        let entry = self.known_mut(flow)?;
        let tcp = entry.tcp.as_mut()?;
        let result = tcp.recv(take)?;
        let drained = tcp.received() == 0;
        match entry.stage {
            Stage::Connecting | Stage::Accepting | Stage::Open => self.enqueue(flow.slot),
            Stage::Draining if drained => self.tell_end(flow.slot, CloseReason::Finished),
            Stage::Ended if drained => self.free_rings(flow.slot),
            Stage::Draining | Stage::Ended => {}
        }
        Some(result)
    }

    /// Calls `fill` with free room, the longest piece that lies in one; `fill` returns how many bytes
    /// it wrote to the start of it. `None`, and no call, when there is no room or the flow is not (yet,
    /// or any more) open for sending; [`Event::Established`] and [`Event::Ready`] tell when that
    /// changes. The room holds old bytes, which must not be read.
    pub fn send<R>(&mut self, flow: FlowId, fill: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        let tight = self.table.memory.is_tight() && self.known(flow).is_some();
        let most = if tight {
            self.room_to_send(flow.slot)
        } else {
            usize::MAX
        };
        let tick = self.tick;
        let entry = self.known_mut(flow)?;
        let tcp = entry.tcp.as_mut()?;
        let result = tcp.send(most, fill);
        let (full, starved) = (tcp.room() == 0, most == 0 && tcp.room() > 0);
        entry.starved = starved.then_some(tick + RETRY);
        entry.wants_room = full || starved;
        if result.is_some() {
            self.charge(flow.slot);
        }
        if result.is_some() || starved {
            self.enqueue(flow.slot);
        }
        result
    }

    /// Whether [`recv`](Self::recv) has bytes.
    #[must_use]
    pub fn can_recv(&self, flow: FlowId) -> bool {
        self.known(flow)
            .and_then(|flow| flow.tcp.as_ref())
            .is_some_and(|tcp| tcp.received() > 0)
    }

    /// Whether the peer ended its direction in order and all it sent was taken. False for a flow that
    /// is gone.
    #[must_use]
    pub fn recv_finished(&self, flow: FlowId) -> bool {
        self.known(flow)
            .is_some_and(|flow| flow.peer_finished && flow.tcp.as_ref().is_none_or(|tcp| tcp.received() == 0))
    }

    /// Whether [`send`](Self::send) has room.
    #[must_use]
    pub fn can_send(&self, flow: FlowId) -> bool {
        self.known(flow)
            .and_then(|flow| flow.tcp.as_ref())
            .is_some_and(|tcp| tcp.room() > 0)
    }

    /// How many bytes were sent but not acknowledged by the peer, or not yet put on the way.
    #[must_use]
    pub fn unacknowledged(&self, flow: FlowId) -> usize {
        self.known(flow)
            .and_then(|flow| flow.tcp.as_ref())
            .map_or(0, Tcp::unacknowledged)
    }

    /// Ends our direction behind what was sent (FIN), as soon as the flow is established. The peer's
    /// direction stays open.
    pub fn shutdown(&mut self, flow: FlowId) {
        let Some(entry) = self.known_mut(flow) else { return };
        if entry.shut {
            return;
        }
        entry.shut = true;
        entry.wants_room = false;
        if entry.stage == Stage::Open
            && let Some(tcp) = &mut entry.tcp
        {
            tcp.shutdown();
            self.enqueue(flow.slot);
        }
    }

    /// Resets the flow and gives its name up: no event follows.
    pub fn abort(&mut self, flow: FlowId) {
        let Some(entry) = self.known_mut(flow) else { return };
        match (entry.stage, &mut entry.tcp) {
            (Stage::Connecting | Stage::Accepting | Stage::Open, Some(tcp)) => {
                entry.released = true;
                tcp.abort();
                self.enqueue(flow.slot);
            }
            (Stage::Draining | Stage::Ended, _) | (_, None) => {
                self.remove(flow.slot);
            }
        }
    }

    /// Drops the flow and tells nobody: a segment that its peer still sends is answered with a reset. Meant
    /// for a flow of which the peer has everything, and which it does not end: a reset now would take from
    /// it what its user has not read.
    pub fn forget(&mut self, flow: FlowId) {
        if self.known(flow).is_some() {
            self.remove(flow.slot);
        }
    }

    /// Gives the flow's name up: no event follows. A flow whose both directions were ended, and whose
    /// received bytes were all taken, goes on in the background until the peer has everything; any
    /// other open flow is reset.
    pub fn release(&mut self, flow: FlowId) {
        let Some(entry) = self.known_mut(flow) else { return };
        let complete = entry.stage == Stage::Open
            && entry.shut
            && entry.peer_finished
            && entry.tcp.as_ref().is_some_and(|tcp| tcp.received() == 0);
        if complete {
            entry.released = true;
        } else {
            self.abort(flow);
        }
    }

    /// Drops those flows to a peer that it has not answered yet, sending nothing;
    /// [`CloseReason::PeerGone`] is told for each.
    pub fn remove_connecting(&mut self, peer: PeerId) {
        for slot in self.table.connecting_to(peer) {
            self.drop_flow(slot, CloseReason::PeerGone);
        }
    }

    /// Drops all flows and sessions of a peer at once, sending nothing; [`CloseReason::PeerGone`] is told
    /// for each.
    pub fn remove_peer(&mut self, peer: PeerId) {
        while let Some(slot) = self.table.first_of(peer) {
            self.drop_flow(slot, CloseReason::PeerGone);
        }
        if self.sessions.of_peer(peer) > 0 {
            for session in self.sessions.select(|session| session.peer == peer) {
                self.end_session(session, CloseReason::PeerGone);
            }
        }
        self.reassembly.remove_peer(peer);
    }

    /// Sets how long packets to a peer may be, at most the MTU, at least 1,200: shorter ones are sent on all
    /// its flows and sessions from now on, what is sent again included. What flows have under way that is longer
    /// counts as lost, and is sent again with the next [`transmit`](Self::transmit).
    pub fn set_peer_mtu(&mut self, peer: PeerId, mtu: usize) {
        if mtu >= self.settings.mtu {
            self.mtus.remove(&peer);
        } else {
            self.mtus.insert(peer, mtu.max(LEAST_PEER_MTU) as u16);
        }
        let slots: Vec<u32> = self.table.slots().collect();
        for slot in slots {
            let mss = self.table.at(slot).filter(|flow| flow.peer == peer);
            let mss = mss.map(|flow| self.mss_toward(flow));
            if let (Some(mss), Some(tcp)) = (mss, self.table.at_mut(slot).and_then(|flow| flow.tcp.as_mut()))
                && tcp.limit_mss(mss)
            {
                self.enqueue(slot);
            }
        }
    }

    /// How long packets to a peer may be.
    pub(super) fn peer_mtu(&self, peer: PeerId) -> usize {
        self.mtus
            .get(&peer)
            .map_or(self.settings.mtu, |mtu| usize::from(*mtu))
    }

    /// Has a new flow know how long its packets may be.
    pub(super) fn narrow(&self, flow: &mut Flow) {
        if self.mtus.contains_key(&flow.peer) {
            let mss = self.mss_toward(flow);
            if let Some(tcp) = &mut flow.tcp {
                tcp.limit_mss(mss);
            }
        }
    }

    fn mss_toward(&self, flow: &Flow) -> u16 {
        let header = if flow.local.is_ipv4() {
            IPV4_HEADER
        } else {
            IPV6_HEADER
        };
        (self.peer_mtu(flow.peer) - header - TCP_HEADER) as u16
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            sent: self.rim.sent,
            fragments_dropped: self.reassembly.dropped,
            ..self.counters
        }
    }

    /// How many flows there are: opening, open, closing, and ended but not released.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.table.len()
    }

    /// How many of them are a peer's.
    #[must_use]
    pub fn flows_of(&self, peer: PeerId) -> usize {
        self.table.of_peer(peer)
    }

    /// How many flows have rings.
    #[must_use]
    pub fn rings_in_use(&self) -> usize {
        self.arena.pairs() - self.arena.free()
    }

    /// How much memory the rings of flows take, in bytes, at most: see [`Limits::memory`](super::Limits::memory).
    #[must_use]
    pub fn memory(&self) -> usize {
        self.table.memory.held()
    }

    /// How it was set up, with the addresses it has now.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether there is a place for one more flow of a peer.
    pub(super) fn may_have_flow(&self, peer: PeerId) -> bool {
        let limits = &self.settings.limits;
        let of_peer = self.table.of_peer(peer);
        of_peer < limits.flows_per_peer && has_place(limits.flows, self.table.len(), of_peer)
    }

    pub(super) fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.settings.ipv4 == Some(v4),
            IpAddr::V6(v6) => self.settings.ipv6 == Some(v6),
        }
    }

    /// The flow of that name, unless the engine gave the name up.
    fn known(&self, id: FlowId) -> Option<&Flow> {
        self.table.get(id).filter(|flow| !flow.released)
    }

    fn known_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.table.get_mut(id).filter(|flow| !flow.released)
    }
}

/// Reserves the rings of all flows; of half as many, where that is refused (a 32-bit system, or one that
/// counts reserved memory as used), and so on.
fn reserve(settings: &Settings) -> Result<Arena, BuildError> {
    let mut flows = settings.limits.flows;
    loop {
        match Arena::new(flows, settings.ring) {
            Ok(arena) => {
                if flows < settings.limits.flows {
                    tracing::warn!(
                        wanted = settings.limits.flows,
                        flows,
                        "less memory for flows than asked for"
                    );
                }
                return Ok(arena);
            }
            // Only the system's word is worth another try.
            Err(error) if error.raw_os_error().is_some() && flows >= 2 * LEAST_FLOWS => flows /= 2,
            Err(source) => return Err(BuildError::Memory { flows, source }),
        }
    }
}

/// Whether a peer that has `of_peer` of something may have one more, of which there are `used` in all. Beside
/// others it has no more than [`FREE_SHARE`] times as many as are free: so some few peers that take what they can
/// get leave places for everybody else.
pub(super) const fn has_place(bound: usize, used: usize, of_peer: usize) -> bool {
    let free = bound.saturating_sub(used);
    free > 0 && (of_peer == used || of_peer < free.saturating_mul(FREE_SHARE))
}

/// Whether an address may be a host's.
pub(super) fn is_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}
