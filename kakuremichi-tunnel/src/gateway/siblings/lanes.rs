//! The lanes to the siblings of the plan: each gateway looks for the others, and is found by them.

#![expect(
    clippy::disallowed_methods,
    reason = "lanes are kept by the clock, as tasks of the shard"
)]

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kakuremichi_core::{
    backoff::Backoff,
    id::GatewayId,
    net::{Cidr, Endpoint},
    plan::{GatewayPlan, GatewaySibling},
};
use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{MAX_SIBLINGS, Siblings, Told, feed, table};
use crate::{
    engine::{LocalShard, PeerSettings, Peers, ShardSet, WatchPeers},
    gateway::{
        http::TaskGuard,
        status::{PeerState, SiblingStatus},
    },
    link::candidates::candidates,
    peer::PeerKeys,
};

/// The endpoints that wait to be configured; who found them waits beyond.
const FOUND: usize = 16;
/// How long an endpoint has to carry before the next is tried.
const ATTEMPT: Duration = Duration::from_secs(4);
/// The first and the longest pause when no endpoint of a sibling carries.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// All lanes to siblings. It lives with the conductor.
pub(crate) struct SiblingLanes {
    local: LocalShard,
    shards: ShardSet,
    siblings: Siblings,
    lanes: BTreeMap<GatewayId, Lane>,
    found: mpsc::Receiver<(GatewayId, SocketAddr)>,
    find: mpsc::Sender<(GatewayId, SocketAddr)>,
    told: watch::Sender<Arc<Told>>,
    seen: Vec<SiblingStatus>,
}

struct Lane {
    sibling: GatewaySibling,
    /// Its seeker and its feed go on when it has other keys.
    keys: Rc<Cell<PeerKeys>>,
    endpoint: Option<SocketAddr>,
    _seeker: TaskGuard,
    _feed: TaskGuard,
}

impl SiblingLanes {
    pub(crate) fn new(local: LocalShard, shards: ShardSet, siblings: Siblings) -> Self {
        let (find, found) = mpsc::channel(FOUND);
        Self {
            local,
            shards,
            siblings,
            lanes: BTreeMap::new(),
            found,
            find,
            told: watch::Sender::default(),
            seen: Vec::new(),
        }
    }

    /// Has lanes to the siblings of the plan, and to no others.
    pub(crate) fn apply(&mut self, plan: &GatewayPlan) {
        let own = plan.node().map(|node| node.id);
        let mut before = std::mem::take(&mut self.lanes);
        let siblings = plan.siblings().filter(|sibling| Some(sibling.id) != own);
        for sibling in siblings {
            if self.lanes.len() >= MAX_SIBLINGS {
                tracing::warn!(
                    most = MAX_SIBLINGS,
                    "the plan has too many gateways: some are left out"
                );
                break;
            }
            let keys = table::keys(plan, sibling);
            let lane = match before.remove(&sibling.id) {
                Some(mut lane) if lane.is_where(sibling) && lane.keys.get().meet(keys) => {
                    lane.keys.set(keys);
                    lane.sibling = sibling.clone();
                    lane
                }
                other => {
                    let stays = |lane: &Lane| lane.keys.get().meet(keys);
                    let endpoint = other.filter(stays).and_then(|lane| lane.endpoint);
                    self.begin(sibling, keys, endpoint)
                }
            };
            self.lanes.insert(sibling.id, lane);
        }
    }

    fn begin(&self, sibling: &GatewaySibling, keys: PeerKeys, endpoint: Option<SocketAddr>) -> Lane {
        let keys = Rc::new(Cell::new(keys));
        let seeker = Seeker {
            id: sibling.id,
            keys: Rc::clone(&keys),
            endpoints: sibling.endpoints.clone(),
            shards: self.shards.clone(),
            found: self.find.clone(),
        };
        let feed = feed::run(
            self.shards.clone(),
            Rc::clone(&keys),
            sibling.address,
            self.told.subscribe(),
        );
        Lane {
            sibling: sibling.clone(),
            keys,
            endpoint,
            _seeker: TaskGuard(self.local.spawn(seeker.run()).abort_handle()),
            _feed: TaskGuard(self.local.spawn(feed).abort_handle()),
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Waits until an endpoint is found. Returns whether the peers have to be configured anew.
    pub(crate) async fn found(&mut self) -> bool {
        match self.found.recv().await {
            Some((sibling, endpoint)) => self
                .lanes
                .get_mut(&sibling)
                .is_some_and(|lane| lane.endpoint.replace(endpoint) != Some(endpoint)),
            None => std::future::pending().await,
        }
    }

    /// The peers, for the engine.
    pub(crate) fn peers(&self) -> Vec<PeerSettings> {
        let settings = |lane: &Lane| {
            let address = IpAddr::from(lane.sibling.address);
            let mut wireguard = lane.keys.get().config(vec![Cidr::host(address)]);
            wireguard.endpoint = lane.endpoint;
            PeerSettings {
                wireguard,
                probe: Some(address),
            }
        };
        self.lanes.values().map(settings).collect()
    }

    /// Tells all siblings, if it is news.
    pub(crate) fn tell(&self, told: Told) {
        self.told.send_if_modified(|last| {
            let changed = **last != told;
            if changed {
                *last = Arc::new(told);
            }
            changed
        });
    }

    /// Looks at the lanes; whether anything is to be shown.
    pub(crate) fn observe(&mut self, peers: &Peers, now: SystemTime) -> bool {
        let mut seen = Vec::with_capacity(self.lanes.len());
        for lane in self.lanes.values() {
            let before = self.seen.iter().find(|before| before.id == lane.sibling.id);
            let view = lane.keys.get().find(|key| peers.get(&key));
            let agents = self.siblings.agents(lane.sibling.id);
            let is = SiblingStatus::observe(&lane.sibling, view, agents, before, now);
            if before.is_some_and(|before| before.state.is_other(is.state)) {
                turned(&is);
            }
            seen.push(is);
        }
        let news = seen != self.seen;
        self.seen = seen;
        news
    }

    /// All lanes as they were when they were looked at last.
    pub(crate) fn status(&self) -> &[SiblingStatus] {
        &self.seen
    }
}

impl Lane {
    /// Whether the sibling is where it was, whatever keys it has.
    fn is_where(&self, now: &GatewaySibling) -> bool {
        let before = GatewaySibling {
            wireguard: now.wireguard,
            ..self.sibling.clone()
        };
        before == *now
    }
}

fn turned(sibling: &SiblingStatus) {
    match sibling.state {
        PeerState::Probing => {}
        PeerState::Up { rtt } => {
            tracing::info!(gateway = %sibling.id, name = %sibling.name, ?rtt, "the lane to a sibling is up");
        }
        PeerState::Down => {
            tracing::warn!(gateway = %sibling.id, name = %sibling.name, "the lane to a sibling is down");
        }
    }
}

/// Whether the lane to a peer is up.
fn is_up(shards: &ShardSet, keys: &Cell<PeerKeys>) -> bool {
    let view = keys.get().find(|key| shards.peer(&key));
    view.is_some_and(|view| view.is_online())
}

/// Waits until the lane to a peer is up.
pub(super) async fn up(shards: &ShardSet, peers: &mut WatchPeers, keys: &Cell<PeerKeys>) {
    while !is_up(shards, keys) {
        peers.changed().await;
        let _ = peers.latest();
    }
}

/// Looks for the endpoint of one sibling at which its lane carries (LESSONS: "name resolved once"): while
/// the lane is down, all names are resolved anew and the addresses tried in turn. Where the sibling was
/// first, nothing has to be looked for.
struct Seeker {
    id: GatewayId,
    keys: Rc<Cell<PeerKeys>>,
    endpoints: Vec<Endpoint>,
    shards: ShardSet,
    found: mpsc::Sender<(GatewayId, SocketAddr)>,
}

impl Seeker {
    async fn run(self) {
        let mut peers = self.shards.watch_peers();
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            while is_up(&self.shards, &self.keys) {
                backoff.reset();
                peers.changed().await;
                let _ = peers.latest();
            }
            let found = candidates(&self.endpoints).await;
            if found.addresses.is_empty() {
                tracing::warn!(sibling = %self.id, reasons = ?found.failures, "a sibling cannot be found");
            }
            for candidate in found.addresses {
                if is_up(&self.shards, &self.keys) {
                    break;
                }
                if self.found.send((self.id, candidate)).await.is_err() {
                    return;
                }
                let carries = up(&self.shards, &mut peers, &self.keys);
                if time::timeout(ATTEMPT, carries).await.is_ok() {
                    break;
                }
            }
            if !is_up(&self.shards, &self.keys) {
                let random = crate::keys::random().map_or(u32::MAX, u32::from_le_bytes);
                time::sleep(backoff.next(random)).await;
            }
        }
    }
}
