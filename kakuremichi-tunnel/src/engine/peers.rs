//! The peers as the engine knows them: probes through their lanes, and what is told about them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::AddAssign,
    time::{Duration, Instant},
};

use kakuremichi_core::key::WireGuardKey;

use super::EngineLimits;
use crate::{
    lane::{PaddedProbe, PathHealth, PathMtu, PathState, Probe, Timing},
    netstack,
    peer::PeerId,
    random::SplitMix64,
    wg::{self, Device},
};

/// How soon a change is published: changes that come together are told together.
const PUBLISH_SOON: Duration = Duration::from_millis(20);
/// How much later for each peer: what is published tells of all of them, and a peer that moves without end must
/// not have the others told about more often than that costs.
const PUBLISH_EACH: Duration = Duration::from_micros(25);
/// How often counters are published.
const PUBLISH: Duration = Duration::from_secs(1);
/// So many probes without an answer suggest that the peer lost its session.
const SUSPICIOUS: u8 = 2;
/// More than so much since the last padded probe is traffic; probes alone are less. In bytes.
const ACTIVE: u64 = 4 * 1024;
/// Without probes, a peer that was heard from within this time is online: sessions are renewed every
/// two minutes and die after three.
const SESSION_LIFE: Duration = Duration::from_secs(180);

/// All peers by their public key.
pub type Peers = BTreeMap<WireGuardKey, PeerView>;

/// One peer, as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerView {
    /// Whether a probe through the lane was answered recently; for a peer that is not probed, whether
    /// it has a session.
    pub health: PathHealth,
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
    }
}

/// The probes of all peers, by slot. Only the shard that owns a peer probes it.
pub(super) struct PeerTable {
    peers: Vec<Option<Entry>>,
    timing: Timing,
    peer_lost: Duration,
    /// The longest packet of the netstack's.
    mtu: u16,
    /// For the nonces of probes.
    random: SplitMix64,
    publish_at: Option<Instant>,
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
    pub(super) const fn new(timing: Timing, limits: &EngineLimits, mtu: u16, seed: u64) -> Self {
        Self {
            peers: Vec::new(),
            timing,
            peer_lost: limits.peer_lost,
            mtu,
            random: SplitMix64::new(seed),
            publish_at: None,
        }
    }

    /// Takes note of a peer that was configured.
    pub(super) fn set(&mut self, id: PeerId, key: WireGuardKey, probe: Option<IpAddr>, now: Instant) {
        if self.peers.len() <= id.slot() {
            self.peers.resize_with(id.slot() + 1, || None);
        }
        let nonce = self.random.next();
        let fresh = |address| (address, PathState::new(self.timing, nonce, now));
        let place = &mut self.peers[id.slot()];
        match place {
            Some(entry) if entry.id == id => {
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
        let change = path.handle_answer(sequence, payload, now);
        entry.health = path.health();
        if change.is_some() {
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
        for entry in self.peers.iter_mut().flatten() {
            let fresh = (self.timing, self.random.next(), now);
            changed |= entry.settle(device, fresh, tasks);
            changed |= entry.check(device, self.peer_lost, now, tasks);
        }
        if changed {
            self.changed(now);
        }
    }

    /// Something happened to a peer's session or address: asks at once.
    pub(super) fn nudge(&mut self, id: PeerId, device: &Device, now: Instant, tasks: &mut Vec<Task>) {
        let Some(Some(entry)) = self.peers.get_mut(id.slot()) else {
            return;
        };
        if entry.id == id {
            let fresh = (self.timing, self.random.next(), now);
            entry.settle(device, fresh, tasks);
            if let Some((_, path)) = entry.probe.as_mut() {
                path.nudge(now);
                entry.check(device, self.peer_lost, now, tasks);
            }
        }
        self.changed(now);
    }

    /// Something happened to all paths: asks at once.
    pub(super) fn nudge_all(&mut self, now: Instant) {
        let probes = self
            .peers
            .iter_mut()
            .flatten()
            .filter_map(|entry| entry.probe.as_mut());
        for (_, path) in probes {
            path.nudge(now);
        }
    }

    /// The next time at which there is something to publish.
    pub(super) const fn publish_at(&self) -> Option<Instant> {
        self.publish_at
    }

    /// What is to be published, if it is time.
    pub(super) fn publish(&mut self, device: &Device, now: Instant) -> Option<Peers> {
        self.publish_at.filter(|at| *at <= now)?;
        self.publish_at = (!self.peers.is_empty()).then_some(now + PUBLISH);
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
        let soon = now + PUBLISH_SOON + PUBLISH_EACH * self.peers.len() as u32;
        self.publish_at = Some(self.publish_at.map_or(soon, |at| at.min(soon)));
    }
}

impl Entry {
    /// Notes whether this shard owns the peer; returns whether that is news. What another shard took
    /// over ends here, and what this one takes over begins anew.
    fn settle(&mut self, device: &Device, fresh: (Timing, u64, Instant), tasks: &mut Vec<Task>) -> bool {
        let owned = device.status(self.id).is_some_and(|status| status.owned);
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

    /// The lane is known to be down.
    const fn is_down(&self) -> bool {
        self.probe.is_some() && matches!(self.health, PathHealth::Down { .. })
    }

    /// Judges the path as of now; returns whether it went up or down.
    fn check(&mut self, device: &Device, peer_lost: Duration, now: Instant, tasks: &mut Vec<Task>) -> bool {
        let Some(status) = device.status(self.id).filter(|status| status.owned) else {
            return false;
        };
        let before = self.health;
        let was_down = self.is_down();
        match &mut self.probe {
            Some((address, path)) if status.endpoint.is_some() => {
                let misses = path.misses();
                path.handle_timeout(now);
                // Without a session the first handshake got lost, or came before its peer knew of us.
                let enough = if status.session_age.is_some() {
                    SUSPICIOUS
                } else {
                    1
                };
                if path.misses() > misses && path.misses() >= enough {
                    tasks.push(Task::Initiate(self.id));
                }
                if let Some(probe) = path.poll_probe(now) {
                    tasks.push(Task::Ping(self.id, *address, probe));
                }
                self.health = path.health();
                if path.is_up() {
                    let address = *address;
                    self.check_mtu(&status, address, now, tasks);
                }
            }
            // Nowhere to send a probe to.
            Some(_) => {}
            None => self.health = by_session(before, &status, now),
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
        std::mem::discriminant(&before) != std::mem::discriminant(&self.health)
    }

    /// Asks how long packets may be, and judges what came of it.
    fn check_mtu(&mut self, status: &wg::PeerStatus, address: IpAddr, now: Instant, tasks: &mut Vec<Task>) {
        let moved = self.asked.0 != status.endpoint;
        self.asked.0 = status.endpoint;
        let reset = moved && self.mtu.reset(now);
        if reset || self.mtu.handle_timeout(now) {
            tasks.push(Task::Mtu(self.id, self.mtu.current()));
        }
        let active = status.sent_bytes.saturating_sub(self.asked.1) > ACTIVE;
        if let Some(probe) = self.mtu.poll_probe(active, now) {
            self.asked.1 = status.sent_bytes;
            tasks.push(Task::Pad(self.id, address, probe));
        }
    }
}

fn view(entry: &Entry, device: &Device, now: Instant) -> Option<(WireGuardKey, PeerView)> {
    let status = device.status(entry.id).filter(|status| status.owned)?;
    let view = PeerView {
        health: entry.health,
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

fn by_session(before: PathHealth, status: &wg::PeerStatus, now: Instant) -> PathHealth {
    let heard = status
        .last_received
        .is_some_and(|at| now.saturating_duration_since(at) < SESSION_LIFE);
    match (status.session_age.is_some() && heard, before) {
        (true, PathHealth::Up { .. }) | (false, PathHealth::Down { .. } | PathHealth::Unknown) => before,
        (true, _) => PathHealth::Up {
            since: now,
            rtt: Duration::ZERO,
        },
        (false, PathHealth::Up { .. }) => PathHealth::Down { since: now },
    }
}
