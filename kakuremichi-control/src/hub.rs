//! Where nodes connect: one WebSocket each, over which proto's session runs.
//!
//! The hub keeps no configuration: it brings each node the newest plan from the planner's board, and what
//! nodes say to the use cases. A node that is not connected stays in everybody's plan; what the hub knows of
//! nodes is their [`Presence`], in memory.

mod connection;
mod counters;
mod elsewhere;
mod expiry;
mod lease;
mod limits;
mod member;
mod outages;
mod presence;
mod registry;
mod sightings;
mod work;

pub use counters::Counters;
pub(crate) use expiry::OWN_CERTIFICATE;
pub(crate) use limits::{Limits, Unauthenticated};
pub use limits::{MAX_UNAUTHENTICATED, MAX_UNAUTHENTICATED_PER_ADDRESS};
pub(crate) use outages::LEASE as OUTAGES;
pub use presence::{MAX_INCIDENTS_KEPT, MAX_STATES_KEPT, NodeStatus, PlanStatus, Presence};
pub(crate) use registry::Seen;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::extract::ws::WebSocket;
use kakuremichi_core::{
    code::Code,
    id::NodeId,
    store::{Sighting, StoreError},
    time::Timestamp,
};
use kakuremichi_proto::session::{Reason, ServerConfig};
use tokio::{sync::watch, time::timeout};

use self::{counters::Tally, lease::Leases, registry::Registry, sightings::Sightings};
use crate::{planner::PlanBoard, service::UseCases};

/// A node that is told to come back later waits at least so long.
const COME_BACK: Duration = Duration::from_secs(1);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Hub {
    config: Arc<ServerConfig>,
    use_cases: UseCases,
    board: Arc<PlanBoard>,
    registry: Registry,
    leases: Leases,
    sightings: Sightings,
    limits: Arc<Limits>,
    tally: Tally,
    session: AtomicU64,
    state: watch::Receiver<HubState>,
    /// Connections that are open.
    open: watch::Sender<usize>,
}

/// What the hub is doing. When its sender is gone, everything ends at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum HubState {
    /// Takes connections.
    #[default]
    Open,
    /// Takes no more, and asks those there are to end.
    Draining,
    /// Those there are end at once.
    Ended,
}

impl Hub {
    pub(crate) fn new(
        config: ServerConfig,
        use_cases: UseCases,
        board: Arc<PlanBoard>,
        lease: Duration,
        instance: [u8; 16],
        state: watch::Receiver<HubState>,
    ) -> Self {
        Self {
            config: Arc::new(config),
            use_cases,
            board,
            registry: Registry::default(),
            leases: Leases::new(lease),
            sightings: Sightings::new(instance),
            limits: Arc::new(Limits::default()),
            tally: Tally::default(),
            session: AtomicU64::new(0),
            state,
            open: watch::Sender::new(0),
        }
    }

    /// Lets somebody who has proven nothing yet open a connection; `None` when there are too many of those,
    /// or when the hub drains.
    pub(crate) fn admit(&self, address: Option<IpAddr>) -> Option<Unauthenticated> {
        let open = *self.state.borrow() == HubState::Open;
        let admitted = open.then(|| self.limits.enter(address)).flatten();
        if admitted.is_none() {
            self.tally.refused(Code::TRY_LATER);
        }
        admitted
    }

    /// Speaks with a node until its connection ends.
    pub(crate) async fn serve(self: Arc<Self>, socket: WebSocket, admitted: Unauthenticated) {
        self.open.send_modify(|open| *open += 1);
        let _open = Open(&self.open);
        let mut state = self.state.clone();
        tokio::select! {
            () = connection::run(&self, socket, admitted) => {}
            // Its time is over, or the handle is gone and nobody owns this connection any more.
            _ = state.wait_for(|state| *state == HubState::Ended) => {}
        }
    }

    /// Removes what agents declared as ephemeral once their lease has ended. Runs for ever.
    pub(crate) async fn watch_leases(&self) {
        self.leases.watch(self).await;
    }

    /// Tells other instances of the nodes that are connected here. Runs for ever.
    pub(crate) async fn tell_instances(&self) {
        self.sightings.tell(self.use_cases.store()).await;
    }

    /// Waits until every connection has ended, at most for `grace`. Returns how many had not.
    pub(crate) async fn drained(&self, grace: Duration) -> usize {
        let mut open = self.open.subscribe();
        let _ = timeout(grace, open.wait_for(|open| *open == 0)).await;
        *open.borrow_and_update()
    }

    /// What this instance knows of a node's connection.
    pub(crate) fn presence(&self, node: NodeId) -> Presence {
        self.registry.presence(node)
    }

    /// Since when each of these nodes is connected, and when its last connection ended, at whichever instance.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn seen(&self, nodes: &[NodeId]) -> Result<BTreeMap<NodeId, Seen>, StoreError> {
        let mut seen: BTreeMap<_, _> = nodes
            .iter()
            .map(|node| (*node, self.registry.seen(*node)))
            .collect();
        let absent = seen.iter().filter(|(_, seen)| seen.connected.is_none());
        let absent: Vec<_> = absent.map(|(node, _)| *node).collect();
        for (node, other) in self.sightings.elsewhere(self.use_cases.store(), &absent).await? {
            let here = seen.entry(node).or_default();
            here.connected = other.connected;
            here.disconnected = here.disconnected.max(other.disconnected);
        }
        Ok(seen)
    }

    /// Notes for other instances how it is with a node whose newest session began or ended.
    fn note(&self, seat: &registry::Seat) {
        let Seen {
            connected,
            disconnected,
        } = self.registry.seen(seat.node);
        if connected.or(disconnected).is_none() {
            // It was deleted meanwhile.
            return;
        }
        self.sightings.note(Sighting {
            node: seat.node,
            session: seat.session,
            connected,
            disconnected,
        });
    }

    /// Whether a node is connected to another instance, or was less than `lately` ago.
    async fn is_elsewhere(&self, node: NodeId, lately: Duration) -> Result<bool, StoreError> {
        let now = Timestamp::from(SystemTime::now()).as_millis();
        let lately = i64::try_from(lately.as_millis()).unwrap_or(i64::MAX);
        let found = self.sightings.elsewhere(self.use_cases.store(), &[node]).await?;
        Ok(found.get(&node).is_some_and(|seen| {
            let since = seen.disconnected.map(|at| now.saturating_sub(at.as_millis()));
            seen.connected.is_some() || since.is_some_and(|since| since < lately)
        }))
    }

    /// A node was deleted: nothing is to be known of it.
    pub(crate) fn forget(&self, node: NodeId) {
        self.registry.forget(node);
    }

    /// How many nodes are connected.
    pub(crate) fn connected(&self) -> usize {
        self.registry.connected()
    }

    /// What was counted so far.
    pub(crate) fn counters(&self) -> Counters {
        let open = *self.open.borrow();
        self.tally.read(open, self.limits.inside(), self.connected())
    }

    /// The number of a new session: larger than any before, also before a restart.
    fn next_session(&self) -> u64 {
        let millis = Timestamp::from(SystemTime::now()).as_millis();
        let floor = u64::try_from(millis).unwrap_or_default();
        let next = |last: u64| Some(floor.max(last + 1));
        match self
            .session
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        {
            Ok(last) | Err(last) => floor.max(last + 1),
        }
    }

    fn draining() -> Reason {
        Reason::passing(Code::TRY_LATER, "Control is about to restart").retry_after(COME_BACK)
    }
}

struct Open<'a>(&'a watch::Sender<usize>);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}
