//! The state machine.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::key::WireGuardKey;
use rustc_hash::FxHashMap;

#[cfg(test)]
use super::cipher::Identity;
use super::{
    Counters, DeviceConfig, OuterPath, OwnKeys, Owners,
    allowed_ips::AllowedIps,
    cipher::{DATA_OVERHEAD, HANDSHAKE_ROOM},
    common::Common,
    inbound::Way,
    index::IndexTable,
    keys::Keys,
    peer::Peer,
};
use crate::{peer::PeerId, random::SplitMix64};

/// What a sealed packet is longer than the packet, in bytes; [`Device::seal`] needs so much room.
pub const OVERHEAD: usize = DATA_OVERHEAD;

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

/// A datagram is for another shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elsewhere {
    /// For which one.
    pub shard: u8,
    /// It is an initiation that was counted and admitted: it is not judged again there.
    pub admitted: bool,
}

/// One peer, as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name in this device.
    pub id: PeerId,
    /// Its public key, the newest.
    pub public_key: WireGuardKey,
    /// Whether this shard owns it.
    pub owned: bool,
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

/// What is needed of a peer again and again. Cheaper than its [`PeerStatus`]: it asks boringtun for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether this shard owns it.
    pub owned: bool,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Whether there is a session.
    pub ready: bool,
    /// When an authentic message of it came last.
    pub last_received: Option<Instant>,
    /// Bytes of the packets sealed for it, in this process.
    pub sent_bytes: u64,
}

/// WireGuard for many peers.
///
/// Its methods are of four kinds:
/// - commands: [`set_peers`](Self::set_peers), [`rekey`](Self::rekey), [`initiate`](Self::initiate);
/// - input from the network: [`open`](Self::open) and [`open_handed`](Self::open_handed), and from the
///   clock: [`handle_timeout`](Self::handle_timeout);
/// - packets for peers: [`seal`](Self::seal);
/// - output: [`poll_changed`](Self::poll_changed) and [`poll_timeout`](Self::poll_timeout), to be
///   read after any of the above, and [`poll_elsewhere`](Self::poll_elsewhere) after each datagram
///   where there are several shards. Handshake messages leave through the [`DatagramSink`] given.
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
    pub(super) common: Arc<Common>,
    pub(super) shard: u8,
    /// Our keys as they were when they were looked at last.
    pub(super) keys: Arc<Keys>,
    pub(super) indices: IndexTable,
    pub(super) allowed: AllowedIps,
    pub(super) slots: Vec<Option<Box<Peer>>>,
    /// How often each slot was filled.
    pub(super) generations: Vec<u32>,
    /// Slots without a peer.
    pub(super) free: Vec<u32>,
    /// By each of the peers' keys.
    pub(super) by_key: FxHashMap<WireGuardKey, u32>,
    /// Peers whose status is news, each at most once.
    pub(super) changed: VecDeque<PeerId>,
    pub(super) counters: Counters,
    pub(super) next_tick: Instant,
    /// The share of the peers whose timers were looked at last, and the one that was asked for flows.
    pub(super) shares: (usize, usize),
    /// Where the datagram given last belongs, if it is not here.
    pub(super) elsewhere: Option<Elsewhere>,
}

impl Device {
    /// Makes a device without peers, the only one of its node.
    #[must_use]
    pub fn new(config: &DeviceConfig, now: Instant) -> Self {
        Self::of(Arc::new(Common::new(config, 1, now)), 0, config.seed, now)
    }

    /// Makes the devices of a node with so many shards, 1 to [`MAX_SHARDS`](super::MAX_SHARDS), the first shard's first.
    /// They share the limits of handshakes, and who owns which peer.
    #[must_use]
    pub fn for_shards(config: &DeviceConfig, shards: u8, now: Instant) -> Vec<Self> {
        Self::sharing(Common::new(config, shards, now), config, now)
    }

    /// A device whose peers have the model that stands for boringtun, as all of theirs must.
    #[cfg(test)]
    pub(crate) fn modelled(config: &DeviceConfig, now: Instant) -> Self {
        let common = Common::of(Identity::model(&config.private_key), config, 1, now);
        Self::of(Arc::new(common), 0, config.seed, now)
    }

    /// The same for a node with so many shards.
    #[cfg(test)]
    pub(crate) fn modelled_for_shards(config: &DeviceConfig, shards: u8, now: Instant) -> Vec<Self> {
        let common = Common::of(Identity::model(&config.private_key), config, shards, now);
        Self::sharing(common, config, now)
    }

    fn sharing(common: Common, config: &DeviceConfig, now: Instant) -> Vec<Self> {
        let common = Arc::new(common);
        let mut random = SplitMix64::new(config.seed);
        (0..common.owners.shards())
            .map(|shard| Self::of(Arc::clone(&common), shard, random.next(), now))
            .collect()
    }

    fn of(common: Arc<Common>, shard: u8, seed: u64, now: Instant) -> Self {
        Self {
            keys: common.keys.current(),
            common,
            shard,
            indices: IndexTable::new(shard, seed),
            allowed: AllowedIps::default(),
            slots: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            by_key: FxHashMap::default(),
            changed: VecDeque::new(),
            counters: Counters::default(),
            next_tick: now,
            shares: (0, 0),
            elsewhere: None,
        }
    }

    /// Our public key, the newest.
    #[must_use]
    pub fn public_key(&self) -> WireGuardKey {
        self.common.keys.public_key()
    }

    /// Our keys, those of all devices of the node.
    #[must_use]
    pub fn own_keys(&self) -> &Arc<OwnKeys> {
        &self.common.keys
    }

    /// Which shard owns which peer.
    #[must_use]
    pub fn owners(&self) -> &Arc<Owners> {
        &self.common.owners
    }

    /// The peer with this key, or with this one before.
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
            owned: peer.ownership.get().shard == self.shard,
            endpoint: peer.endpoint.map(|path| path.remote),
            session_age: peer
                .tunnel
                .as_ref()
                .and_then(|pairing| pairing.tunnel.session_age()),
            last_received: peer.last_received,
            received_bytes: peer.received_bytes,
            sent_bytes: peer.sent_bytes,
        })
    }

    /// What is needed of a peer again and again; `None` when it is gone.
    #[must_use]
    pub fn standing(&self, peer: PeerId) -> Option<Standing> {
        self.get(peer).map(|peer| Standing {
            owned: peer.ownership.get().shard == self.shard,
            endpoint: peer.endpoint.map(|path| path.remote),
            ready: peer.is_ready(),
            last_received: peer.last_received,
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
        self.receive(Way::Straight, from, datagram, out, sink, now)
    }

    /// Takes a datagram that came from `from` to another shard, which handed it over; `admitted` as its
    /// [`Elsewhere`] said. Otherwise as [`open`](Self::open).
    pub fn open_handed(
        &mut self,
        admitted: bool,
        from: OuterPath,
        datagram: &[u8],
        out: &mut [u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) -> Option<(PeerId, usize)> {
        self.receive(Way::Handed { admitted }, from, datagram, out, sink, now)
    }

    /// Where the datagram given to [`open`](Self::open) just now belongs, if it is another shard's.
    pub const fn poll_elsewhere(&mut self) -> Option<Elsewhere> {
        self.elsewhere.take()
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
        let sealed = state
            .tunnel
            .as_mut()
            .and_then(|pairing| pairing.tunnel.seal(packet, out));
        if let Some(length) = sealed {
            state.last_sent = Some(now);
            state.sent_bytes += packet.len() as u64;
            self.counters.sealed += 1;
            return Sealed::Datagram { to, length };
        }
        if state.is_ready() {
            self.counters.malformed += 1;
            return Sealed::Dropped;
        }
        if state.ownership.get().shard != self.shard {
            self.counters.unreachable += 1;
            return Sealed::Dropped;
        }
        self.counters.overflowed += state.enqueue(packet);
        begin(state, &self.keys, false, sink, now);
        Sealed::Queued
    }

    /// Begins a handshake, also when a session exists; at most once per second. Meant for a peer
    /// that seems to have lost its session. Only the shard that owns the peer does it.
    pub fn initiate(&mut self, peer: PeerId, sink: &mut impl DatagramSink, now: Instant) {
        if let Some(state) = get_mut(&mut self.slots, peer)
            && state.ownership.get().shard == self.shard
        {
            begin(state, &self.keys, true, sink, now);
        }
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
}

pub(super) fn get_mut(slots: &mut [Option<Box<Peer>>], peer: PeerId) -> Option<&mut Peer> {
    slots
        .get_mut(peer.slot())?
        .as_deref_mut()
        .filter(|state| state.id == peer)
}

pub(super) fn send(state: &mut Peer, datagram: &[u8], sink: &mut impl DatagramSink, now: Instant) {
    if let Some(to) = state.endpoint {
        state.last_sent = Some(now);
        sink.datagram(to, datagram);
    }
}

/// The peer may be silent since our address is not ours any more: the system chooses another one.
pub(super) fn forget_source(state: &mut Peer) {
    if let Some(path) = &mut state.endpoint {
        path.local = None;
    }
}

/// Sends an initiation, if an address is known; `again` also when a handshake is under way.
pub(super) fn begin(
    state: &mut Peer,
    keys: &Keys,
    again: bool,
    sink: &mut impl DatagramSink,
    now: Instant,
) -> bool {
    if state.endpoint.is_none() {
        return false;
    }
    let pairing = state.tunnel(keys.newest());
    if pairing.initiated_within(INITIATION_PAUSE, now) {
        return false;
    }
    let mut out = [0; HANDSHAKE_ROOM];
    let Some(length) = pairing.tunnel.initiate(again, &mut out) else {
        return false;
    };
    pairing.last_initiation = Some(now);
    state.try_others(keys);
    state.expect_response();
    forget_source(state);
    send(state, &out[..length], sink, now);
    true
}

pub(super) fn mark(changed: &mut VecDeque<PeerId>, state: &mut Peer) {
    if !std::mem::replace(&mut state.changed, true) {
        changed.push_back(state.id);
    }
}
