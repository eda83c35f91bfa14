//! The peers as the engine knows them: probes through their lanes, and what is told about them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    ops::AddAssign,
    time::{Duration, Instant},
};

use kakuremichi_core::key::WireGuardKey;

use super::{EngineLimits, turn::PROBE_TICK};
use crate::{
    lane::{PaddedProbe, PathHealth, PathMtu, PathState, Probe, Timing},
    netstack,
    peer::PeerId,
    random::SplitMix64,
    wg::{self, Device, Standing},
};

/// How soon a change is published: changes that come together are told together.
const PUBLISH_SOON: Duration = Duration::from_millis(20);
/// How often what changes all the time is published, such as counters.
const PUBLISH: Duration = Duration::from_secs(1);
/// Publishing takes time for each peer, here and where it is read. With many peers it is done so much less
/// often that it never takes more than a few hundredths of a core: for each peer, a change waits this long
/// at least, and the rest that.
const PUBLISH_SOON_PER_PEER: Duration = Duration::from_micros(20);
const PUBLISH_PER_PEER: Duration = Duration::from_millis(1);
/// Handshakes that are begun at once; the pause behind them follows from
/// [`EngineLimits::calls_per_second`].
const CALLS_AT_ONCE: u32 = 8;
/// What no event tells (that a session is over, that another shard owns a peer) is looked for with each
/// tick; of more peers than this in as many more ticks.
const PEERS_PER_LOOK: usize = 1024;
/// And in so many at most.
const MAX_LOOKS: u32 = 4;
/// So many probes without an answer suggest that the peer lost its session.
const SUSPICIOUS: u8 = 2;
/// More than so much since the last padded probe is traffic; probes alone are less. In bytes.
const ACTIVE: u64 = 4 * 1024;
/// A peer without a session whose lane has been down for so long is not called any more: nothing keeps its
/// address, and it calls by itself when it is back. One with a keepalive is called by the device for ever.
const CALLED_FOR: Duration = Duration::from_secs(180);
/// Without probes, a peer that was heard from within this time is online: sessions are renewed every
/// two minutes and die after three.
const SESSION_LIFE: Duration = Duration::from_secs(180);

/// All peers by their public key, the newest where a peer has two.
pub type Peers = BTreeMap<WireGuardKey, PeerView>;

/// One peer, as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerView {
    /// Whether a probe through the lane was answered recently; for a peer that is not probed, whether
    /// it has a session.
    pub health: PathHealth,
    /// The lane is up, and its last probe has stayed without an answer so far.
    pub doubtful: bool,
    /// Since when there is a session, by the last handshake.
    pub session_since: Option<Instant>,
    /// When an authentic message of it came last.
    pub last_received: Option<Instant>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// The longest packet to it that passes, as far as is known; zero for a peer that is not probed.
    pub mtu: u16,
    /// Bytes of the IP packets it sent, in this process.
    pub received_bytes: u64,
    /// Bytes of the IP packets sent to it, in this process.
    pub sent_bytes: u64,
}

impl PeerView {
    /// Whether the data path to it works.
    #[must_use]
    pub const fn is_online(&self) -> bool {
        matches!(self.health, PathHealth::Up { .. })
    }
}

/// What the engine itself counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// System calls that sent them.
    pub sends: u64,
    /// Datagrams dropped: the socket was full or refused them.
    pub datagrams_dropped: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Flows that were opened with a broken or slow preface; reset. Datagrams without one, where no session
    /// was known; refused.
    pub bad_prefaces: u64,
    /// Datagrams that were handed over to another shard.
    pub handed_over: u64,
    /// Datagrams that were dropped, since too many waited for their shard.
    pub handover_dropped: u64,
    /// How often packets to a peer were made shorter because long ones did not pass.
    pub mtu_lowered: u64,
    /// Datagrams of sessions that were dropped because too many waited.
    pub datagrams_shed: u64,
}

/// What a shard, or all shards of a node, counted since they were started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Of WireGuard.
    pub wireguard: wg::Counters,
    /// Of TCP and UDP inside it.
    pub netstack: netstack::Counters,
    /// Of the engine.
    pub engine: EngineCounters,
    /// Flows that are open now.
    pub flows: usize,
    /// UDP sessions that there are now.
    pub sessions: usize,
    /// Bytes of memory that the rings of flows hold now, at most.
    pub flow_memory: usize,
}

impl AddAssign for EngineCounters {
    /// The sum over the shards of a node.
    fn add_assign(&mut self, other: Self) {
        let Self {
            datagrams_received,
            datagrams_sent,
            sends,
            datagrams_dropped,
            turns,
            bad_prefaces,
            handed_over,
            handover_dropped,
            mtu_lowered,
            datagrams_shed,
        } = other;
        self.datagrams_received += datagrams_received;
        self.datagrams_sent += datagrams_sent;
        self.sends += sends;
        self.datagrams_dropped += datagrams_dropped;
        self.turns += turns;
        self.bad_prefaces += bad_prefaces;
        self.handed_over += handed_over;
        self.handover_dropped += handover_dropped;
        self.mtu_lowered += mtu_lowered;
        self.datagrams_shed += datagrams_shed;
    }
}

impl AddAssign for Metrics {
    /// The sum over the shards of a node.
    fn add_assign(&mut self, other: Self) {
        self.wireguard += other.wireguard;
        self.netstack += other.netstack;
        self.engine += other.engine;
        self.flows += other.flows;
        self.sessions += other.sessions;
        self.flow_memory += other.flow_memory;
    }
}

/// The probes of all peers, by slot. Only the shard that owns a peer probes it.
pub(super) struct PeerTable {
    peers: Vec<Option<Entry>>,
    /// When there is something to look at, of each slot. By itself, since it is gone through with every tick:
    /// entries are many times as long.
    due: Vec<Instant>,
    timing: Timing,
    peer_lost: Duration,
    /// The longest packet of the netstack's.
    mtu: u16,
    /// For the nonces of probes.
    random: SplitMix64,
    publish_at: Option<Instant>,
    calls: Calls,
}

/// The peers with which a handshake is to be begun, in turn: a node that starts with thousands of peers
/// does not call them all at once. Each stands in it at most once, so that the peers are its bound; one that
/// was removed meanwhile is passed over.
struct Calls {
    waiting: VecDeque<PeerId>,
    /// From one round to the next.
    pause: Duration,
    next: Instant,
}

struct Entry {
    id: PeerId,
    key: WireGuardKey,
    probe: Option<(IpAddr, PathState)>,
    mtu: PathMtu,
    /// Where it was when its path was asked last, and what had been sent to it.
    asked: (Option<SocketAddr>, u64),
    health: PathHealth,
    /// This shard owned it when it was looked at last.
    owned: bool,
    /// Its flows were closed since the lane is down.
    abandoned: bool,
    call: Call,
}

/// Whether a handshake is to be begun with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    No,
    Wanted,
    /// It stands in line for it.
    Waiting,
}

/// What is to be done for a peer.
pub(super) enum Task {
    /// Send an echo request.
    Ping(PeerId, IpAddr, Probe),
    /// Send a padded echo request.
    Pad(PeerId, IpAddr, PaddedProbe),
    /// Send packets of at most so many bytes.
    Mtu(PeerId, u16),
    /// Begin a handshake: the peer may have lost its session.
    Initiate(PeerId),
    /// Close its flows that are not connected: nobody would get a new one, either.
    GiveUp(PeerId),
    /// Close its flows.
    Abandon(PeerId),
}

impl PeerTable {
    /// The table of one of so many shards.
    pub(super) fn new(
        timing: Timing,
        limits: &EngineLimits,
        shards: u8,
        mtu: u16,
        seed: u64,
        now: Instant,
    ) -> Self {
        let rounds = f64::from(limits.calls_per_second.max(1)) / f64::from(CALLS_AT_ONCE * u32::from(shards));
        Self {
            peers: Vec::new(),
            due: Vec::new(),
            timing,
            peer_lost: limits.peer_lost,
            mtu,
            random: SplitMix64::new(seed),
            publish_at: None,
            calls: Calls {
                waiting: VecDeque::new(),
                pause: Duration::from_secs(1).div_f64(rounds),
                next: now,
            },
        }
    }

    /// Takes note of a peer that was configured.
    pub(super) fn set(&mut self, id: PeerId, key: WireGuardKey, probe: Option<IpAddr>, now: Instant) {
        if self.peers.len() <= id.slot() {
            self.peers.resize_with(id.slot() + 1, || None);
            self.due.resize(id.slot() + 1, now);
        }
        let nonce = self.random.next();
        let fresh = |address| (address, PathState::new(self.timing, nonce, now));
        self.due[id.slot()] = now;
        let place = &mut self.peers[id.slot()];
        match place {
            Some(entry) if entry.id == id => {
                entry.key = key;
                if entry.probe.as_ref().map(|(address, _)| *address) != probe {
                    entry.probe = probe.map(fresh);
                }
            }
            _ => {
                let health = PathHealth::Unknown;
                *place = Some(Entry {
                    id,
                    key,
                    probe: probe.map(fresh),
                    mtu: PathMtu::new(self.mtu, self.random.next(), now),
                    asked: (None, 0),
                    health,
                    owned: false,
                    abandoned: false,
                    call: Call::No,
                });
            }
        }
        self.changed(now);
    }

    pub(super) fn remove(&mut self, id: PeerId, now: Instant) {
        if let Some(place) = self.peers.get_mut(id.slot()) {
            *place = None;
        }
        self.changed(now);
    }

    pub(super) fn key(&self, id: PeerId) -> Option<WireGuardKey> {
        self.entry(id).map(|entry| entry.key)
    }

    /// Whether the lane is known to be down. Of a peer that is not probed it is only known that it has
    /// been silent: it may answer when spoken to.
    pub(super) fn is_down(&self, id: PeerId) -> bool {
        self.entry(id).is_some_and(Entry::is_down)
    }

    pub(super) fn handle_pong(&mut self, id: PeerId, sequence: u16, payload: [u8; 8], now: Instant) {
        let Some(Some(entry)) = self.peers.get_mut(id.slot()) else {
            return;
        };
        let Some((_, path)) = entry.probe.as_mut().filter(|_| entry.id == id) else {
            return;
        };
        let doubtful = is_doubtful(path);
        let change = path.handle_answer(sequence, payload, now);
        entry.health = path.health();
        if change.is_some() || doubtful != is_doubtful(path) {
            self.changed(now);
        }
    }

    /// The answer to a padded probe; returns how long packets may be, if that changed.
    pub(super) fn handle_padded_pong(
        &mut self,
        id: PeerId,
        sequence: u16,
        payload: [u8; 8],
        now: Instant,
    ) -> Option<u16> {
        let entry = self.peers.get_mut(id.slot())?.as_mut()?;
        let changed = entry.id == id && entry.mtu.handle_answer(sequence, payload, now);
        changed.then(|| entry.mtu.current())
    }

    /// Looks at all peers; `tasks` gets what is to be done.
    pub(super) fn handle_timeout(&mut self, device: &Device, now: Instant, tasks: &mut Vec<Task>) {
        let mut changed = false;
        let looks = u32::try_from(self.peers.len() / PEERS_PER_LOOK).unwrap_or(MAX_LOOKS);
        let look = now + PROBE_TICK * looks.clamp(1, MAX_LOOKS);
        for (slot, due) in self.due.iter_mut().enumerate().filter(|(_, due)| **due <= now) {
            *due = look;
            let Some(Some(entry)) = self.peers.get_mut(slot) else {
                continue;
            };
            let Some(standing) = device.standing(entry.id) else {
                continue;
            };
            let fresh = (self.timing, self.random.next(), now);
            changed |= entry.settle(&standing, fresh, tasks);
            changed |= entry.check(&standing, self.peer_lost, now, tasks);
            if let Some((_, path)) = &entry.probe
                && standing.owned
                && standing.ready
            {
                *due = look.min(path.poll_timeout());
            }
            self.calls.put(entry);
        }
        if changed {
            self.changed(now);
        }
        self.call(device, now, tasks);
    }

    /// Calls those whose turn it is.
    pub(super) fn call(&mut self, device: &Device, now: Instant, tasks: &mut Vec<Task>) {
        if self.calls.waiting.is_empty() || now < self.calls.next {
            return;
        }
        let mut left = CALLS_AT_ONCE;
        while left > 0
            && let Some(id) = self.calls.waiting.pop_front()
        {
            let entry = self.peers.get_mut(id.slot()).and_then(Option::as_mut);
            if let Some(entry) = entry.filter(|entry| entry.id == id) {
                left -= u32::from(entry.call(device, now, tasks));
                self.due[id.slot()] = now;
            }
        }
        self.calls.next = now + self.calls.pause;
    }

    /// The next time at which somebody is to be called.
    pub(super) fn call_at(&self) -> Option<Instant> {
        (!self.calls.waiting.is_empty()).then_some(self.calls.next)
    }

    /// Something happened to a peer's session or address: asks at once.
    pub(super) fn nudge(&mut self, id: PeerId, device: &Device, now: Instant, tasks: &mut Vec<Task>) {
        let Some(Some(entry)) = self.peers.get_mut(id.slot()) else {
            return;
        };
        self.due[id.slot()] = now;
        if entry.id == id
            && let Some(standing) = device.standing(id)
        {
            let fresh = (self.timing, self.random.next(), now);
            entry.settle(&standing, fresh, tasks);
            if let Some((_, path)) = entry.probe.as_mut() {
                path.nudge(now);
                entry.check(&standing, self.peer_lost, now, tasks);
                self.calls.put(entry);
            }
        }
        self.call(device, now, tasks);
        self.changed(now);
    }

    /// Something happened to all paths: asks at once.
    pub(super) fn nudge_all(&mut self, now: Instant) {
        self.due.fill(now);
        let probes = self
            .peers
            .iter_mut()
            .flatten()
            .filter_map(|entry| entry.probe.as_mut());
        for (_, path) in probes {
            path.nudge(now);
        }
    }

    /// Something is sent to a peer that it has to answer.
    pub(super) fn used(&mut self, id: PeerId, now: Instant) {
        let entry = self.peers.get_mut(id.slot()).and_then(Option::as_mut);
        if let Some(entry) = entry.filter(|entry| entry.id == id)
            && let Some((_, path)) = entry.probe.as_mut()
        {
            path.handle_use(now);
            if path.is_due(now) {
                self.due[id.slot()] = now;
            }
        }
    }

    /// The next time at which there is something to publish.
    pub(super) const fn publish_at(&self) -> Option<Instant> {
        self.publish_at
    }

    /// What is to be published, if it is time.
    pub(super) fn publish(&mut self, device: &Device, now: Instant) -> Option<Peers> {
        self.publish_at.filter(|at| *at <= now)?;
        let next = PUBLISH.max(self.share(PUBLISH_PER_PEER));
        self.publish_at = (!self.peers.is_empty()).then_some(now + next);
        Some(
            self.peers
                .iter()
                .flatten()
                .filter_map(|entry| view(entry, device, now))
                .collect(),
        )
    }

    fn entry(&self, id: PeerId) -> Option<&Entry> {
        self.peers.get(id.slot())?.as_ref().filter(|entry| entry.id == id)
    }

    fn changed(&mut self, now: Instant) {
        let soon = now + PUBLISH_SOON.max(self.share(PUBLISH_SOON_PER_PEER));
        self.publish_at = Some(self.publish_at.map_or(soon, |at| at.min(soon)));
    }

    /// So much for each peer.
    fn share(&self, each: Duration) -> Duration {
        each * u32::try_from(self.peers.len()).unwrap_or(u32::MAX)
    }
}

impl Calls {
    /// Puts a peer that waits at the end, unless it stands in line.
    fn put(&mut self, entry: &mut Entry) {
        if entry.call == Call::Wanted {
            entry.call = Call::Waiting;
            self.waiting.push_back(entry.id);
        }
    }
}

impl Entry {
    /// Notes whether this shard owns the peer; returns whether that is news. What another shard took
    /// over ends here, and what this one takes over begins anew.
    fn settle(&mut self, standing: &Standing, fresh: (Timing, u64, Instant), tasks: &mut Vec<Task>) -> bool {
        let owned = standing.owned;
        if owned == self.owned {
            return false;
        }
        self.owned = owned;
        self.health = PathHealth::Unknown;
        self.abandoned = false;
        if let Some((_, path)) = &mut self.probe {
            *path = PathState::new(fresh.0, fresh.1, fresh.2);
        }
        if !owned {
            tasks.push(Task::Abandon(self.id));
        }
        true
    }

    /// The last probe through a lane that is up stayed without an answer so far.
    fn is_doubtful(&self) -> bool {
        self.probe.as_ref().is_some_and(|(_, path)| is_doubtful(path))
    }

    /// The lane is known to be down.
    const fn is_down(&self) -> bool {
        self.probe.is_some() && matches!(self.health, PathHealth::Down { .. })
    }

    /// Judges the path as of now; returns whether it went up or down, or into doubt or out of it.
    fn check(
        &mut self,
        standing: &Standing,
        peer_lost: Duration,
        now: Instant,
        tasks: &mut Vec<Task>,
    ) -> bool {
        if !standing.owned {
            return false;
        }
        let before = (self.health, self.is_doubtful());
        let was_down = self.is_down();
        match &mut self.probe {
            Some((address, path)) if standing.endpoint.is_some() => {
                let misses = path.misses();
                path.handle_timeout(now);
                if standing.ready
                    && let Some(probe) = path.poll_probe(now)
                {
                    tasks.push(Task::Ping(self.id, *address, probe));
                }
                // Without a session a probe waits for the handshake, and there is nothing to be suspicious of.
                let suspicious = path.misses() > misses && path.misses() >= SUSPICIOUS;
                let gone = matches!(path.health(), PathHealth::Down { since }
                    if now.saturating_duration_since(since) >= CALLED_FOR);
                let due = !standing.ready && !gone && path.is_due(now);
                if self.call == Call::No && (suspicious || due) {
                    self.call = Call::Wanted;
                }
                self.health = path.health();
                if path.is_up() {
                    let address = *address;
                    self.check_mtu(standing, address, now, tasks);
                }
            }
            // Nowhere to send a probe to.
            Some(_) => {}
            None => self.health = by_session(before.0, standing, now),
        }
        if self.is_down() && !was_down {
            tasks.push(Task::GiveUp(self.id));
        }
        if let PathHealth::Down { since } = self.health
            && !self.abandoned
            && now.saturating_duration_since(since) >= peer_lost
        {
            self.abandoned = true;
            tasks.push(Task::Abandon(self.id));
        }
        self.abandoned &= matches!(self.health, PathHealth::Down { .. });
        std::mem::discriminant(&before.0) != std::mem::discriminant(&self.health)
            || before.1 != self.is_doubtful()
    }

    /// It is the peer's turn to be called: returns whether it still has to be.
    fn call(&mut self, device: &Device, now: Instant, tasks: &mut Vec<Task>) -> bool {
        self.call = Call::No;
        let Some(standing) = device.standing(self.id).filter(|standing| standing.owned) else {
            return false;
        };
        let Some((address, path)) = self.probe.as_mut().filter(|_| standing.endpoint.is_some()) else {
            return false;
        };
        if standing.ready && path.misses() < SUSPICIOUS {
            return false;
        }
        tasks.push(Task::Initiate(self.id));
        if let Some(probe) = path.poll_probe(now) {
            tasks.push(Task::Ping(self.id, *address, probe));
        }
        true
    }

    /// Asks how long packets may be, and judges what came of it.
    fn check_mtu(&mut self, standing: &Standing, address: IpAddr, now: Instant, tasks: &mut Vec<Task>) {
        let moved = self.asked.0 != standing.endpoint;
        self.asked.0 = standing.endpoint;
        let reset = moved && self.mtu.reset(now);
        if reset || self.mtu.handle_timeout(now) {
            tasks.push(Task::Mtu(self.id, self.mtu.current()));
        }
        let active = standing.sent_bytes.saturating_sub(self.asked.1) > ACTIVE;
        if let Some(probe) = self.mtu.poll_probe(active, now) {
            self.asked.1 = standing.sent_bytes;
            tasks.push(Task::Pad(self.id, address, probe));
        }
    }
}

fn view(entry: &Entry, device: &Device, now: Instant) -> Option<(WireGuardKey, PeerView)> {
    let status = device.status(entry.id).filter(|status| status.owned)?;
    let view = PeerView {
        health: entry.health,
        doubtful: entry.is_doubtful(),
        session_since: status.session_age.and_then(|age| now.checked_sub(age)),
        last_received: status.last_received,
        endpoint: status.endpoint,
        mtu: if entry.probe.is_some() {
            entry.mtu.current()
        } else {
            0
        },
        received_bytes: status.received_bytes,
        sent_bytes: status.sent_bytes,
    };
    Some((entry.key, view))
}

const fn is_doubtful(path: &PathState) -> bool {
    path.is_up() && path.misses() > 0
}

fn by_session(before: PathHealth, standing: &Standing, now: Instant) -> PathHealth {
    let heard = standing
        .last_received
        .is_some_and(|at| now.saturating_duration_since(at) < SESSION_LIFE);
    match (standing.ready && heard, before) {
        (true, PathHealth::Up { .. }) | (false, PathHealth::Down { .. } | PathHealth::Unknown) => before,
        (true, _) => PathHealth::Up {
            since: now,
            rtt: Duration::ZERO,
        },
        (false, PathHealth::Up { .. }) => PathHealth::Down { since: now },
    }
}
