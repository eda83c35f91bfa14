//! The lanes to the gateways of the plan: all of them, at once.

#![expect(
    clippy::disallowed_methods,
    reason = "lanes are kept by the clock, as tasks of the shard"
)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use kakuremichi_core::{
    backoff::Backoff,
    id::GatewayId,
    key::WireGuardKey,
    net::{Cidr, Endpoint},
    plan::{AgentGateway, AgentPlan},
};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time,
};

use super::feed;
use crate::{
    engine::{PeerSettings, PeerView, Peers, Shard},
    lane::{PathHealth, is_another_round_trip},
    link::dial,
    status::{LaneKind, LaneState, LaneStatus},
    wg::PeerConfig,
};

/// The endpoints that wait to be configured; who found them waits beyond.
pub(super) const FOUND: usize = 64;
/// How long an endpoint has to carry before the next is tried: time for a handshake and its repetition
/// after two probes without an answer.
const ATTEMPT: Duration = Duration::from_secs(4);
/// How long names have to resolve.
const RESOLVE: Duration = Duration::from_secs(5);
/// The first and the longest pause when no endpoint of a gateway carries.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// NATs forget a mapping after 30 seconds of silence, the impatient ones.
const KEEP_ALIVE: Duration = Duration::from_secs(25);

/// What was found out about where a gateway is.
#[derive(Debug)]
pub(super) struct Found {
    gateway: GatewayId,
    key: WireGuardKey,
    result: Result<SocketAddr, String>,
}

/// All lanes, by gateway.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: BTreeMap<GatewayId, Lane>,
    found: mpsc::Sender<Found>,
    peers: watch::Receiver<Arc<Peers>>,
    shard: Shard,
    report: watch::Receiver<feed::Report>,
}

#[derive(Debug)]
struct Lane {
    gateway: AgentGateway,
    endpoint: Option<SocketAddr>,
    last_error: Option<String>,
    state: LaneState,
    since: SystemTime,
    /// The engine's own time of the same moment.
    turned: Option<Instant>,
    seeker: AbortHandle,
    feed: AbortHandle,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.seeker.abort();
        self.feed.abort();
    }
}

/// A lane that went up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Up(GatewayId, Duration),
    Down(GatewayId),
}

impl Lanes {
    pub(super) const fn new(
        found: mpsc::Sender<Found>,
        peers: watch::Receiver<Arc<Peers>>,
        shard: Shard,
        report: watch::Receiver<feed::Report>,
    ) -> Self {
        Self {
            lanes: BTreeMap::new(),
            found,
            peers,
            shard,
            report,
        }
    }

    /// Has lanes to the gateways of the plan, and to no others. A gateway that stays as it was keeps its
    /// lane; one that only moved is looked for anew.
    pub(super) fn plan(&mut self, plan: &AgentPlan) {
        let mut before = std::mem::take(&mut self.lanes);
        for gateway in plan.gateways() {
            let lane = match before.remove(&gateway.id) {
                Some(lane) if lane.gateway == *gateway => lane,
                Some(lane) if lane.gateway.wireguard == gateway.wireguard => {
                    let mut moved = self.begin(gateway);
                    (moved.endpoint, moved.state) = (lane.endpoint, lane.state);
                    (moved.since, moved.turned) = (lane.since, lane.turned);
                    moved
                }
                _ => self.begin(gateway),
            };
            self.lanes.insert(gateway.id, lane);
        }
    }

    fn begin(&self, gateway: &AgentGateway) -> Lane {
        let seeker = Seeker {
            gateway: gateway.id,
            key: gateway.wireguard,
            endpoints: gateway.endpoints.clone(),
            peers: self.peers.clone(),
            found: self.found.clone(),
        };
        let feed = feed::run(
            self.shard.clone(),
            gateway.wireguard,
            gateway.address,
            self.peers.clone(),
            self.report.clone(),
        );
        Lane {
            gateway: gateway.clone(),
            endpoint: None,
            last_error: None,
            state: LaneState::Probing,
            since: SystemTime::now(),
            turned: None,
            seeker: tokio::task::spawn_local(seeker.run()).abort_handle(),
            feed: tokio::task::spawn_local(feed).abort_handle(),
        }
    }

    /// Takes an endpoint. Returns whether the peers have to be configured anew.
    pub(super) fn found(&mut self, found: Found) -> bool {
        let lane = self.lanes.get_mut(&found.gateway);
        let Some(lane) = lane.filter(|lane| lane.gateway.wireguard == found.key) else {
            return false;
        };
        match found.result {
            Ok(endpoint) => lane.endpoint.replace(endpoint) != Some(endpoint),
            Err(error) => {
                lane.last_error = Some(error);
                false
            }
        }
    }

    /// The peers, for the engine.
    pub(super) fn peers(&self) -> Vec<PeerSettings> {
        let settings = |lane: &Lane| {
            let address = IpAddr::from(lane.gateway.address);
            let mut wireguard = PeerConfig::new(lane.gateway.wireguard, vec![Cidr::host(address)]);
            wireguard.endpoint = lane.endpoint;
            wireguard.persistent_keepalive = Some(KEEP_ALIVE);
            PeerSettings {
                wireguard,
                probe: Some(address),
            }
        };
        self.lanes.values().map(settings).collect()
    }

    /// Looks at what the engine knows; returns the lanes that went up or down, and whether anything is
    /// to be shown.
    pub(super) fn observe(&mut self) -> (Vec<Turn>, bool) {
        let peers = Arc::clone(&self.peers.borrow_and_update());
        let (mut turns, mut changed) = (Vec::new(), false);
        for (id, lane) in &mut self.lanes {
            let (state, turned) = state(peers.get(&lane.gateway.wireguard));
            if turned != lane.turned {
                lane.turned = turned;
                lane.since = turned.map_or_else(SystemTime::now, moment);
            } else if !worth_showing(lane.state, state) {
                continue;
            }
            changed = true;
            match (std::mem::replace(&mut lane.state, state), state) {
                (LaneState::Up { .. }, LaneState::Up { .. }) => {}
                (_, LaneState::Up { rtt }) => {
                    lane.last_error = None;
                    turns.push(Turn::Up(*id, rtt));
                }
                (before, LaneState::Down) => {
                    if matches!(before, LaneState::Up { .. }) {
                        turns.push(Turn::Down(*id));
                    }
                    lane.last_error
                        .get_or_insert_with(|| "no probe is answered".to_owned());
                }
                (_, LaneState::Probing) => {}
            }
        }
        (turns, changed)
    }

    /// The lanes, as status.
    pub(super) fn statuses(&self) -> impl Iterator<Item = LaneStatus> {
        self.lanes.values().map(|lane| LaneStatus {
            gateway: lane.gateway.id,
            name: lane.gateway.name.clone(),
            kind: LaneKind::WireGuard,
            state: lane.state,
            since: lane.since,
            last_error: lane.last_error.clone(),
        })
    }

    /// Waits until the engine has news of the peers.
    pub(super) async fn changed(&mut self) {
        if self.peers.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Gives up all lanes; open flows go on.
    pub(super) fn close_feeds(&self) {
        self.lanes.values().for_each(|lane| lane.feed.abort());
    }
}

fn state(peer: Option<&PeerView>) -> (LaneState, Option<Instant>) {
    match peer.map(|peer| peer.health) {
        None | Some(PathHealth::Unknown) => (LaneState::Probing, None),
        Some(PathHealth::Up { since, rtt }) => (LaneState::Up { rtt }, Some(since)),
        Some(PathHealth::Down { since }) => (LaneState::Down, Some(since)),
    }
}

fn moment(instant: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(instant.elapsed()).unwrap_or(now)
}

fn worth_showing(shown: LaneState, now: LaneState) -> bool {
    match (shown, now) {
        (LaneState::Up { rtt: shown }, LaneState::Up { rtt: now }) => is_another_round_trip(shown, now),
        (shown, now) => shown != now,
    }
}

/// Whether the lane to a peer is up.
pub(super) fn is_up(peers: &Peers, key: &WireGuardKey) -> bool {
    peers.get(key).is_some_and(PeerView::is_online)
}

/// Looks for the endpoint of one gateway at which its lane carries (LESSONS: "name resolved once"): as
/// soon as the lane is down, all names are resolved anew and the addresses tried in turn.
struct Seeker {
    gateway: GatewayId,
    key: WireGuardKey,
    endpoints: Vec<Endpoint>,
    peers: watch::Receiver<Arc<Peers>>,
    found: mpsc::Sender<Found>,
}

impl Seeker {
    async fn run(mut self) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            for candidate in self.resolve().await {
                if !self.tell(Ok(candidate)).await {
                    return;
                }
                let key = self.key;
                let up = self.peers.wait_for(|peers| is_up(peers, &key));
                let carries = match time::timeout(ATTEMPT, up).await {
                    Ok(Err(_)) => return,
                    Ok(Ok(_)) => true,
                    Err(_) => false,
                };
                if carries {
                    backoff.reset();
                    let down = self.peers.wait_for(|peers| !is_up(peers, &key)).await;
                    if down.is_err() {
                        return;
                    }
                    break;
                }
            }
            if !is_up(&self.peers.borrow(), &self.key) {
                let random = crate::keys::random().map_or(u32::MAX, u32::from_le_bytes);
                time::sleep(backoff.next(random)).await;
            }
        }
    }

    async fn resolve(&self) -> Vec<SocketAddr> {
        let mut candidates = Vec::new();
        for endpoint in &self.endpoints {
            match time::timeout(RESOLVE, dial::resolve(endpoint)).await {
                Ok(Ok(addresses)) => {
                    for address in addresses {
                        if !candidates.contains(&address) {
                            candidates.push(address);
                        }
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(%endpoint, %error, "a gateway's endpoint cannot be resolved");
                    self.tell(Err(format!("{endpoint}: {error}"))).await;
                }
                Err(_) => {
                    self.tell(Err(format!("{endpoint}: the name does not resolve in time")))
                        .await;
                }
            }
        }
        // A host without IPv6, or without IPv4, need not wait for what cannot be reached.
        if candidates.iter().any(routable) {
            candidates.retain(routable);
        }
        candidates
    }

    async fn tell(&self, result: Result<SocketAddr, String>) -> bool {
        let found = Found {
            gateway: self.gateway,
            key: self.key,
            result,
        };
        self.found.send(found).await.is_ok()
    }
}

/// Whether the host has a way to an address. Nothing is sent to find out.
fn routable(address: &SocketAddr) -> bool {
    let any: IpAddr = if address.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect(address).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_of_a_round_trip_are_not_shown() {
        let up = |micros| LaneState::Up {
            rtt: Duration::from_micros(micros),
        };
        assert!(!worth_showing(up(300), up(900)));
        assert!(!worth_showing(up(20_000), up(24_000)));
        assert!(worth_showing(up(20_000), up(26_000)));
        assert!(worth_showing(up(300), LaneState::Down));
        assert!(!worth_showing(LaneState::Down, LaneState::Down));
    }

    #[test]
    fn loopback_is_routable() {
        assert!(routable(&"127.0.0.1:9".parse().unwrap()));
    }
}
