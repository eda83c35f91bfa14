//! The lanes to the gateways of the plan: all of them, at once.

#![expect(
    clippy::disallowed_methods,
    reason = "lanes are kept by the clock, as tasks of the shard"
)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use kakuremichi_core::{
    backoff::Backoff,
    id::GatewayId,
    net::{Cidr, Endpoint},
    plan::{AgentGateway, AgentPlan},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
    time,
};

use super::{
    feed,
    incoming::Shared,
    streams::{Dialling, StreamLane, StreamParts},
    table::keys,
};
use crate::{
    engine::{PeerSettings, PeerView, Peers, Shard},
    keys::KeyRing,
    lane::{
        ChoiceTiming, LaneChoice, LanePreference, PathHealth, PoolLimits, TlsWanted, is_another_round_trip,
    },
    link::candidates::candidates,
    peer::PeerKeys,
    status::{LaneKind, LaneState, LaneStatus},
    streams::hello::Identities,
};

/// The endpoints that wait to be configured; who found them waits beyond.
pub(super) const FOUND: usize = 64;
/// How long an endpoint has to carry before the next is tried: time for a handshake and its repetition
/// after two probes without an answer.
const ATTEMPT: Duration = Duration::from_secs(4);
/// The first and the longest pause when no endpoint of a gateway carries.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// NATs forget a mapping after 30 seconds of silence, the impatient ones.
const KEEP_ALIVE: Duration = Duration::from_secs(25);

/// What was found out about where a gateway is.
#[derive(Debug)]
pub(super) struct Found {
    gateway: GatewayId,
    keys: PeerKeys,
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
    setup: StreamSetup,
    shared: Rc<Shared>,
    /// Something about TLS streams has changed.
    news: Rc<Notify>,
}

/// How lanes of TLS streams are made.
#[derive(Debug)]
pub(super) struct StreamSetup {
    pub(super) preference: LanePreference,
    pub(super) standby: bool,
    pub(super) pool: PoolLimits,
    pub(super) keys: KeyRing,
    pub(super) dialling: Dialling,
}

#[derive(Debug)]
struct Lane {
    gateway: AgentGateway,
    keys: PeerKeys,
    identities: Identities,
    choice: LaneChoice,
    /// None while there is nowhere to dial, or WireGuard is pinned.
    stream: Option<StreamLane>,
    kind: LaneKind,
    standby: bool,
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
    pub(super) fn new(
        found: mpsc::Sender<Found>,
        peers: watch::Receiver<Arc<Peers>>,
        shard: Shard,
        report: watch::Receiver<feed::Report>,
        setup: StreamSetup,
        shared: Rc<Shared>,
    ) -> Self {
        Self {
            lanes: BTreeMap::new(),
            found,
            peers,
            shard,
            report,
            setup,
            shared,
            news: Rc::default(),
        }
    }

    /// Has lanes to the gateways of the plan, and to no others. A gateway that stays as it was keeps its
    /// lane; one that only moved is looked for anew.
    pub(super) fn plan(&mut self, plan: &AgentPlan) {
        let mut before = std::mem::take(&mut self.lanes);
        for gateway in plan.gateways() {
            let lane = match before.remove(&gateway.id) {
                Some(mut lane) if lane.gateway == *gateway => {
                    lane.keys = keys(plan, gateway);
                    lane.known_as(identities(plan, gateway));
                    lane
                }
                Some(mut lane) if lane.is_same(plan, gateway) => {
                    lane.known_as(identities(plan, gateway));
                    let stream = lane.stream.take();
                    if let Some(stream) = &stream {
                        stream.moved(&gateway.streams);
                    }
                    let mut moved = self.begin(plan, gateway, stream);
                    (moved.endpoint, moved.state) = (lane.endpoint, lane.state);
                    (moved.since, moved.turned) = (lane.since, lane.turned);
                    (moved.choice, moved.kind) = (lane.choice.clone(), lane.kind);
                    moved
                }
                _ => {
                    let stream = self.stream(plan, gateway);
                    self.begin(plan, gateway, stream)
                }
            };
            self.lanes.insert(gateway.id, lane);
        }
    }

    /// The lane of TLS streams to a gateway, which does nothing yet.
    fn stream(&self, plan: &AgentPlan, gateway: &AgentGateway) -> Option<StreamLane> {
        let node = plan.node()?;
        if self.setup.preference == LanePreference::WireGuard || gateway.streams.is_empty() {
            return None;
        }
        Some(StreamLane::begin(StreamParts {
            agent: node.id,
            gateway: gateway.id,
            gateway_keys: identities(plan, gateway),
            keys: self.setup.keys.clone(),
            name: gateway.name.clone(),
            local: node.address,
            remote: gateway.address,
            endpoints: gateway.streams.clone(),
            dialling: self.setup.dialling.clone(),
            pool: self.setup.pool,
            shared: Rc::clone(&self.shared),
            report: self.report.clone(),
            news: Rc::clone(&self.news),
        }))
    }

    fn begin(&self, plan: &AgentPlan, gateway: &AgentGateway, stream: Option<StreamLane>) -> Lane {
        let seeker = Seeker {
            gateway: gateway.id,
            keys: keys(plan, gateway),
            endpoints: gateway.endpoints.clone(),
            peers: self.peers.clone(),
            found: self.found.clone(),
        };
        let feed = feed::run(
            self.shard.clone(),
            keys(plan, gateway),
            gateway.address,
            self.peers.clone(),
            self.report.clone(),
        );
        let (preference, standby) = (self.setup.preference, self.setup.standby);
        let choice = LaneChoice::new(preference, standby, ChoiceTiming::default(), Instant::now());
        Lane {
            gateway: gateway.clone(),
            keys: keys(plan, gateway),
            identities: identities(plan, gateway),
            kind: choice.chosen(),
            standby: false,
            choice,
            stream,
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
        let Some(lane) = lane.filter(|lane| lane.keys.meet(found.keys)) else {
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
            let mut wireguard = lane.keys.config(vec![Cidr::host(address)]);
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
            let wireguard = lane.keys.find(|key| peers.get(&key));
            let wireguard = wireguard.map(|peer| (peer.health, peer.doubtful));
            let (health, error) = lane.choose(wireguard.unwrap_or((PathHealth::Unknown, false)));
            let (state, turned) = state(health);
            let moved = std::mem::replace(&mut lane.kind, lane.choice.chosen()) != lane.kind;
            let stands_by = lane.stands_by();
            let told = std::mem::replace(&mut lane.standby, stands_by) != stands_by;
            if moved {
                tracing::info!(gateway = %id, kind = ?lane.kind, "new flows take another lane");
            }
            let failed = error.is_some() && lane.last_error != error;
            if failed {
                lane.last_error = error;
            }
            if turned != lane.turned {
                lane.turned = turned;
                lane.since = turned.map_or_else(SystemTime::now, moment);
            } else if !moved && !told && !failed && !worth_showing(lane.state, state) {
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
            kind: lane.kind,
            standby: lane.standby,
            state: lane.state,
            since: lane.since,
            last_error: lane.last_error.clone(),
        })
    }

    /// Waits until there is news of a lane, or time has passed for one.
    pub(super) async fn changed(&mut self) {
        let now = Instant::now();
        let due = self
            .lanes
            .values()
            .filter_map(|lane| lane.choice.poll_timeout(now))
            .min();
        tokio::select! {
            changed = self.peers.changed() => if changed.is_err() {
                std::future::pending().await
            },
            () = self.news.notified() => {}
            () = until(due) => {}
        }
    }

    /// Gives up all lanes; open flows go on.
    pub(super) fn close_feeds(&self) {
        self.lanes.values().for_each(|lane| lane.feed.abort());
    }
}

impl Lane {
    /// Whether the gateway is the one that it was, wherever it is.
    fn is_same(&self, plan: &AgentPlan, now: &AgentGateway) -> bool {
        self.keys.meet(keys(plan, now))
            && self.identities.meet(identities(plan, now))
            && self.gateway.address == now.address
            && self.gateway.streams.is_empty() == now.streams.is_empty()
    }

    fn known_as(&mut self, identities: Identities) {
        self.identities = identities;
        if let Some(stream) = &self.stream {
            stream.known_as(identities);
        }
    }

    /// Chooses between the two lanes, by what is known now. Returns what is known of the chosen one, and
    /// what is wrong with TLS streams where they are needed.
    fn choose(&mut self, (wireguard, doubtful): (PathHealth, bool)) -> (PathHealth, Option<String>) {
        let now = Instant::now();
        self.choice.handle_wireguard(wireguard, doubtful, now);
        let mut error = None;
        if let Some(stream) = &self.stream {
            let view = stream.view();
            self.choice.handle_tls(view.health, view.heard, now);
            error = view.error;
        }
        self.choice.handle_timeout(now);
        let wanted = self.choice.wants_tls(now);
        if let Some(stream) = &self.stream {
            stream.order(wanted, self.choice.chosen());
        }
        (
            self.choice.health(),
            error.filter(|_| wanted == TlsWanted::Everything),
        )
    }

    /// Whether TLS streams are ready to take over from WireGuard.
    fn stands_by(&self) -> bool {
        let up = |stream: &StreamLane| matches!(stream.view().health, PathHealth::Up { .. });
        self.choice.chosen() == LaneKind::WireGuard && self.stream.as_ref().is_some_and(up)
    }
}

/// Who a gateway is.
fn identities(plan: &AgentPlan, gateway: &AgentGateway) -> Identities {
    Identities {
        current: gateway.identity,
        previous: plan.previous_keys(gateway.id).map(|keys| keys.identity),
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn state(health: PathHealth) -> (LaneState, Option<Instant>) {
    match health {
        PathHealth::Unknown => (LaneState::Probing, None),
        PathHealth::Up { since, rtt } => (LaneState::Up { rtt }, Some(since)),
        PathHealth::Down { since } => (LaneState::Down, Some(since)),
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
pub(super) fn is_up(peers: &Peers, keys: PeerKeys) -> bool {
    keys.find(|key| peers.get(&key)).is_some_and(PeerView::is_online)
}

/// Looks for the endpoint of one gateway at which its lane carries (LESSONS: "name resolved once"): as
/// soon as the lane is down, all names are resolved anew and the addresses tried in turn.
struct Seeker {
    gateway: GatewayId,
    keys: PeerKeys,
    endpoints: Vec<Endpoint>,
    peers: watch::Receiver<Arc<Peers>>,
    found: mpsc::Sender<Found>,
}

impl Seeker {
    async fn run(mut self) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            for candidate in self.candidates().await {
                if !self.tell(Ok(candidate)).await {
                    return;
                }
                let keys = self.keys;
                let up = self.peers.wait_for(|peers| is_up(peers, keys));
                let carries = match time::timeout(ATTEMPT, up).await {
                    Ok(Err(_)) => return,
                    Ok(Ok(_)) => true,
                    Err(_) => false,
                };
                if carries {
                    backoff.reset();
                    let down = self.peers.wait_for(|peers| !is_up(peers, keys)).await;
                    if down.is_err() {
                        return;
                    }
                    break;
                }
            }
            if !is_up(&self.peers.borrow(), self.keys) {
                let random = crate::keys::random().map_or(u32::MAX, u32::from_le_bytes);
                time::sleep(backoff.next(random)).await;
            }
        }
    }

    async fn candidates(&self) -> Vec<SocketAddr> {
        let found = candidates(&self.endpoints).await;
        for failure in found.failures {
            self.tell(Err(failure)).await;
        }
        found.addresses
    }

    async fn tell(&self, result: Result<SocketAddr, String>) -> bool {
        let found = Found {
            gateway: self.gateway,
            keys: self.keys,
            result,
        };
        self.found.send(found).await.is_ok()
    }
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
}
