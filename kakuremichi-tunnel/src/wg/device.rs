//! The state machine.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use kakuremichi_core::key::WireGuardKey;
use rustc_hash::FxHashMap;

use super::{
    Counters, DeviceConfig, OuterPath,
    allowed_ips::AllowedIps,
    index::IndexTable,
    limiter::{Limiter, Verdict},
    peer::Peer,
    tunn::{DATA_OVERHEAD, HANDSHAKE_ROOM, Identity, Message, Received, Refusal, Tick},
};
use crate::{packet::IpPacket, peer::PeerId};

/// What a sealed packet is longer than the packet, in bytes; [`Device::seal`] needs so much room.
pub const OVERHEAD: usize = DATA_OVERHEAD;

/// How often the timers of all peers are looked at. Ten thousand peers take a millisecond.
const TICK: Duration = Duration::from_millis(250);

/// Initiations that keepalives begin within one tick, so that a gateway that starts with thousands of
/// peers does not ask all of them at once. The others wait for the next tick.
const INITIATIONS_PER_TICK: usize = 64;

/// The least time between two initiations to one peer, whoever asks for them.
const INITIATION_PAUSE: Duration = Duration::from_secs(1);

/// Where a [`Device`] puts datagrams that are not the packets of a [`Device::seal`].
pub trait DatagramSink {
    /// Sends `datagram` to `to`. What cannot be sent may be dropped.
    fn datagram(&mut self, to: OuterPath, datagram: &[u8]);
}

/// What became of a packet given to [`Device::seal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Sealed {
    /// The first `length` bytes of the buffer are to be sent to `to`.
    Datagram {
        /// Where the peer is.
        to: OuterPath,
        /// The length of the datagram.
        length: usize,
    },
    /// The packet waits for a session.
    Queued,
    /// The packet was dropped and counted.
    Dropped,
}

/// One peer, as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name in this device.
    pub id: PeerId,
    /// Its public key.
    pub public_key: WireGuardKey,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// How long ago the handshake of the current session was; `None` without a session.
    pub session_age: Option<Duration>,
    /// When an authentic message of it came last.
    pub last_received: Option<Instant>,
    /// Bytes of the packets it sent, in this process.
    pub received_bytes: u64,
    /// Bytes of the packets sealed for it, in this process.
    pub sent_bytes: u64,
}

/// WireGuard for many peers.
///
/// Its methods are of four kinds:
/// - commands: [`set_peers`](Self::set_peers), [`initiate`](Self::initiate);
/// - input from the network: [`open`](Self::open), and from the clock:
///   [`handle_timeout`](Self::handle_timeout);
/// - packets for peers: [`seal`](Self::seal);
/// - output: [`poll_changed`](Self::poll_changed) and [`poll_timeout`](Self::poll_timeout), to be
///   read after any of the above. Handshake messages leave through the [`DatagramSink`] given.
///
/// `now` must never go back. Nothing here allocates per packet, except for packets that wait for a
/// session.
///
/// ```
/// # use std::{net::SocketAddr, time::Instant};
/// # use kakuremichi_core::secret::Secret;
/// # use kakuremichi_tunnel::wg::{DatagramSink, Device, DeviceConfig, OuterPath};
/// struct Socket;
/// impl DatagramSink for Socket {
///     fn datagram(&mut self, to: OuterPath, datagram: &[u8]) { /* send_to(datagram, to.remote) */ }
/// }
///
/// # let now = Instant::now();
/// let mut device = Device::new(&DeviceConfig::new(Secret::new([7; 32]), 1), now);
/// # let (from, datagram) = ("127.0.0.1:1".parse::<SocketAddr>().unwrap(), [0; 9]);
/// let mut buffer = [0; 2048];
/// if let Some((peer, length)) = device.open(from.into(), &datagram, &mut buffer, &mut Socket, now) {
///     let ip_packet = &buffer[..length];
/// }
/// device.handle_timeout(&mut Socket, now);
/// while let Some(peer) = device.poll_changed() { /* device.status(peer) is news */ }
/// let deadline = device.poll_timeout();
/// ```
#[derive(Debug)]
pub struct Device {
    pub(super) identity: Identity,
    pub(super) limiter: Limiter,
    pub(super) indices: IndexTable,
    pub(super) allowed: AllowedIps,
    pub(super) slots: Vec<Option<Box<Peer>>>,
    /// How often each slot was filled.
    pub(super) generations: Vec<u32>,
    /// Slots without a peer.
    pub(super) free: Vec<u32>,
    pub(super) by_key: FxHashMap<WireGuardKey, u32>,
    /// Peers whose status is news, each at most once.
    pub(super) changed: VecDeque<PeerId>,
    pub(super) counters: Counters,
    pub(super) next_tick: Instant,
}

impl Device {
    /// Makes a device without peers.
    #[must_use]
    pub fn new(config: &DeviceConfig, now: Instant) -> Self {
        Self {
            identity: Identity::new(&config.private_key),
            limiter: Limiter::new(&config.handshakes, config.seed, now),
            indices: IndexTable::new(config.shard, config.seed),
            allowed: AllowedIps::default(),
            slots: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            by_key: FxHashMap::default(),
            changed: VecDeque::new(),
            counters: Counters::default(),
            next_tick: now,
        }
    }

    /// Our public key.
    #[must_use]
    pub fn public_key(&self) -> WireGuardKey {
        self.identity.public_key()
    }

    /// The peer with this key.
    #[must_use]
    pub fn peer(&self, key: &WireGuardKey) -> Option<PeerId> {
        let slot = *self.by_key.get(key)?;
        Some(self.slots.get(slot as usize)?.as_ref()?.id)
    }

    /// The peer that packets to `address` are for: the one whose allowed network is the closest.
    #[must_use]
    pub fn route(&self, address: std::net::IpAddr) -> Option<PeerId> {
        let slot = self.allowed.slot(address)?;
        Some(self.slots.get(slot as usize)?.as_ref()?.id)
    }

    /// One peer as it is; `None` when it is gone.
    #[must_use]
    pub fn status(&self, peer: PeerId) -> Option<PeerStatus> {
        self.get(peer).map(|peer| PeerStatus {
            id: peer.id,
            public_key: peer.key,
            endpoint: peer.endpoint.map(|path| path.remote),
            session_age: peer.tunnel.session_age(),
            last_received: peer.last_received,
            received_bytes: peer.received_bytes,
            sent_bytes: peer.sent_bytes,
        })
    }

    /// All peers, in the order of their slots.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.slots.iter().flatten().map(|peer| peer.id)
    }

    /// What became of datagrams and packets.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes a datagram that came from `from`. When it holds an IP packet of a peer, the packet is in
    /// the first so many bytes of `out`.
    ///
    /// `out` must be at least as long as the datagram, or the datagram is dropped and counted. Answers
    /// of the handshake, and packets that waited for it, go to `sink`.
    pub fn open(
        &mut self,
        from: OuterPath,
        datagram: &[u8],
        out: &mut [u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) -> Option<(PeerId, usize)> {
        let Some(message) = Message::of(datagram).filter(|_| out.len() >= datagram.len()) else {
            self.counters.malformed += 1;
            return None;
        };
        if let Message::Data { receiver } = message {
            return self.open_data(receiver, from, datagram, out, sink, now);
        }
        self.handshake(message, from, datagram, sink, now);
        None
    }

    /// Encrypts a packet for a peer into `out`, which needs [`OVERHEAD`] more bytes than the packet.
    ///
    /// Without a session the packet waits (at most 32 do per peer, the oldest is dropped for one
    /// more), and a handshake is begun.
    pub fn seal(
        &mut self,
        peer: PeerId,
        packet: &[u8],
        out: &mut [u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) -> Sealed {
        let Some(state) = get_mut(&mut self.slots, peer) else {
            self.counters.unknown_peer += 1;
            return Sealed::Dropped;
        };
        let Some(to) = state.endpoint else {
            self.counters.unreachable += 1;
            return Sealed::Dropped;
        };
        if let Some(length) = state.tunnel.seal(packet, out) {
            state.last_sent = Some(now);
            state.sent_bytes += packet.len() as u64;
            self.counters.sealed += 1;
            return Sealed::Datagram { to, length };
        }
        if state.tunnel.is_ready() {
            self.counters.malformed += 1;
            return Sealed::Dropped;
        }
        self.counters.overflowed += state.enqueue(packet);
        begin(state, false, sink, now);
        Sealed::Queued
    }

    /// Begins a handshake, also when a session exists; at most once per second. Meant for a peer
    /// that seems to have lost its session.
    pub fn initiate(&mut self, peer: PeerId, sink: &mut impl DatagramSink, now: Instant) {
        if let Some(state) = get_mut(&mut self.slots, peer) {
            begin(state, true, sink, now);
        }
    }

    /// Runs what is due: retransmissions, rekeying, keepalives.
    pub fn handle_timeout(&mut self, sink: &mut impl DatagramSink, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        let mut initiations = INITIATIONS_PER_TICK;
        for state in self.slots.iter_mut().flatten() {
            let was_ready = state.tunnel.is_ready();
            let mut out = [0; HANDSHAKE_ROOM];
            match state.tunnel.tick(&mut out) {
                Tick::Idle => {}
                Tick::Send(length) => {
                    if Message::of(&out[..length]) == Some(Message::Initiation) {
                        forget_source(state);
                    }
                    send(state, &out[..length], sink, now);
                }
                Tick::Expired => {
                    self.counters.overflowed += state.queue.len() as u64;
                    state.queue.clear();
                }
            }
            if was_ready && !state.tunnel.is_ready() {
                mark(&mut self.changed, state);
            }
            if !state.keepalive_due(now) || state.endpoint.is_none() {
                continue;
            }
            if let Some(length) = state.tunnel.seal(&[], &mut out) {
                send(state, &out[..length], sink, now);
            } else if initiations > 0 {
                // Does nothing while a handshake is under way: its timer repeats it.
                initiations -= usize::from(begin(state, false, sink, now));
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.by_key.is_empty()).then_some(self.next_tick)
    }

    /// The next peer that got or lost its session, or moved.
    pub fn poll_changed(&mut self) -> Option<PeerId> {
        loop {
            let id = self.changed.pop_front()?;
            if let Some(state) = get_mut(&mut self.slots, id) {
                state.changed = false;
                return Some(id);
            }
        }
    }

    fn get(&self, peer: PeerId) -> Option<&Peer> {
        self.slots
            .get(peer.slot())?
            .as_deref()
            .filter(|state| state.id == peer)
    }

    fn open_data(
        &mut self,
        receiver: u32,
        from: OuterPath,
        datagram: &[u8],
        out: &mut [u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) -> Option<(PeerId, usize)> {
        let Some(state) = by_index(&self.indices, &mut self.slots, receiver) else {
            self.counters.unknown_session += 1;
            return None;
        };
        let was_ready = state.tunnel.is_ready();
        let received = match state.tunnel.receive(datagram, out) {
            Ok(received) => received,
            Err(refusal) => {
                count(&mut self.counters, refusal);
                return None;
            }
        };
        if heard(state, from, &mut self.counters, now) | state.proves(receiver) {
            mark(&mut self.changed, state);
        }
        if !was_ready && state.tunnel.is_ready() {
            drain(state, &mut self.counters, sink, now);
        }
        let Received::Packet(length) = received else {
            return None;
        };
        let source = IpPacket::parse(&out[..length]).ok().map(|packet| packet.source());
        let owner = source.and_then(|source| self.allowed.slot(source));
        if owner != Some(state.id.slot() as u32) {
            self.counters.disallowed += 1;
            return None;
        }
        state.received_bytes += length as u64;
        self.counters.opened += 1;
        Some((state.id, length))
    }

    fn handshake(
        &mut self,
        message: Message,
        from: OuterPath,
        datagram: &[u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) {
        let mut out = [0; HANDSHAKE_ROOM];
        // A cookie has no mac1; it names a handshake of ours, and is authentic.
        if !matches!(message, Message::Cookie { .. }) {
            match self
                .limiter
                .judge(&self.identity, from.remote.ip(), datagram, now, &mut out)
            {
                Verdict::Admit => {}
                Verdict::Challenge(length) => {
                    self.counters.challenged += 1;
                    return sink.datagram(from, &out[..length]);
                }
                Verdict::Limited => return self.counters.limited += 1,
                Verdict::BadMac => return self.counters.bad_mac += 1,
            }
        }
        let state = match message {
            Message::Initiation => {
                let slot = self
                    .identity
                    .initiator(datagram)
                    .and_then(|key| self.by_key.get(&key));
                let Some(state) = slot.and_then(|slot| self.slots.get_mut(*slot as usize)?.as_deref_mut())
                else {
                    return self.counters.unknown_peer += 1;
                };
                state
            }
            Message::Response { receiver } | Message::Cookie { receiver } | Message::Data { receiver } => {
                let Some(state) = by_index(&self.indices, &mut self.slots, receiver) else {
                    return self.counters.unknown_session += 1;
                };
                state
            }
        };
        match state.tunnel.receive(datagram, &mut out) {
            Err(refusal) => count(&mut self.counters, refusal),
            // A cookie proves that the peer's address can be reached, but not that it moved here.
            Ok(Received::Nothing | Received::Packet(_)) => {}
            Ok(Received::Reply(length)) => {
                heard(state, from, &mut self.counters, now);
                send(state, &out[..length], sink, now);
                self.counters.sessions += 1;
                // The initiator can send now. The responder can once it has heard in the new session:
                // until then a session before it is the one that it sends in, and there is no news.
                if let Message::Response { receiver } = message {
                    state.proves(receiver);
                    mark(&mut self.changed, state);
                }
                if state.tunnel.is_ready() {
                    drain(state, &mut self.counters, sink, now);
                }
            }
        }
    }
}

pub(super) fn get_mut(slots: &mut [Option<Box<Peer>>], peer: PeerId) -> Option<&mut Peer> {
    slots
        .get_mut(peer.slot())?
        .as_deref_mut()
        .filter(|state| state.id == peer)
}

fn by_index<'a>(
    indices: &IndexTable,
    slots: &'a mut [Option<Box<Peer>>],
    receiver: u32,
) -> Option<&'a mut Peer> {
    slots.get_mut(indices.slot(receiver)? as usize)?.as_deref_mut()
}

fn count(counters: &mut Counters, refusal: Refusal) {
    match refusal {
        Refusal::Replay => counters.replayed += 1,
        Refusal::NoSession => counters.unknown_session += 1,
        Refusal::Forged => counters.forged += 1,
    }
}

fn mark(changed: &mut VecDeque<PeerId>, state: &mut Peer) {
    if !std::mem::replace(&mut state.changed, true) {
        changed.push_back(state.id);
    }
}

/// Roaming: the peer is where its newest authentic message came from. Returns whether it moved.
fn heard(state: &mut Peer, from: OuterPath, counters: &mut Counters, now: Instant) -> bool {
    state.last_received = Some(now);
    let before = state.endpoint.replace(from).map(|path| path.remote);
    let moved = before != Some(from.remote);
    counters.roamed += u64::from(moved && before.is_some());
    moved
}

/// Sends what waited for a session.
fn drain(state: &mut Peer, counters: &mut Counters, sink: &mut impl DatagramSink, now: Instant) {
    let mut out = [0; super::peer::MAX_QUEUED_LENGTH + DATA_OVERHEAD];
    while let Some(packet) = state.queue.pop_front() {
        if let Some(length) = state.tunnel.seal(&packet, &mut out) {
            counters.sealed += 1;
            state.sent_bytes += packet.len() as u64;
            send(state, &out[..length], sink, now);
        }
    }
}

fn send(state: &mut Peer, datagram: &[u8], sink: &mut impl DatagramSink, now: Instant) {
    if let Some(to) = state.endpoint {
        state.last_sent = Some(now);
        sink.datagram(to, datagram);
    }
}

/// The peer may be silent since our address is not ours any more: the system chooses another one.
fn forget_source(state: &mut Peer) {
    if let Some(path) = &mut state.endpoint {
        path.local = None;
    }
}

/// Sends an initiation, if an address is known; `again` also when a handshake is under way.
fn begin(state: &mut Peer, again: bool, sink: &mut impl DatagramSink, now: Instant) -> bool {
    if state.endpoint.is_none() || state.initiated_within(INITIATION_PAUSE, now) {
        return false;
    }
    let mut out = [0; HANDSHAKE_ROOM];
    let Some(length) = state.tunnel.initiate(again, &mut out) else {
        return false;
    };
    state.last_initiation = Some(now);
    forget_source(state);
    send(state, &out[..length], sink, now);
    true
}
