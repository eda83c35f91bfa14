//! The lanes of TLS streams at the gateway: which agents have one, and their connections.

mod accept;
mod control;
mod errands;
mod pace;
mod places;
mod sessions;

pub(crate) use accept::{Wanted, accept, accept_websocket, begins_as_lane, wanted};
pub(crate) use errands::{Errands, tend};

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use kakuremichi_core::{
    id::{AgentId, GatewayId, PeerId},
    key::IdentityKey,
    name::Hostname,
    plan::GatewayPlan,
};
use kakuremichi_proto::report::LaneKind;
use tokio::{
    sync::{Notify, oneshot, watch},
    task::AbortHandle,
    time::timeout,
};

use self::errands::{Desk, desk};
use super::{metrics::Counters, per_address::PerAddress, settings::Limits, upstream::FlowError};
use crate::{
    keys::KeyRing,
    lane::PathHealth,
    streams::{connection::Connection, finish::Home, hello::Identities, socket::Cut, tls::ServerConfigs},
};

/// The flows that wait for a connection of one agent. Beyond, a flow is refused as overload.
const WAITING: usize = 256;

/// What agents keep open, as one shard sees it. All share it.
#[derive(Clone)]
pub(crate) struct Streams {
    inner: Arc<Inner>,
    shard: u8,
}

struct Inner {
    keys: KeyRing,
    tls: ServerConfigs,
    /// The gateway's own names, for which agents ask.
    names: Vec<Hostname>,
    /// Connections of one agent. Beyond, a new one is refused.
    connections: usize,
    /// Sessions of one agent. Beyond, no new one begins.
    sessions: usize,
    /// Connections whose ends have not proven who they are. Beyond, a new one is closed at once.
    handshakes: usize,
    handshaking: AtomicUsize,
    handshaking_per_address: Arc<PerAddress>,
    /// Locked for the beginning and the end of a flow, never for what moves in between. No connection is
    /// dropped under it: that takes it again.
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// One for each shard.
    desks: Vec<Desk>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct State {
    gateway: Option<GatewayId>,
    lanes: BTreeMap<AgentId, Lane>,
    /// The number of the connection that comes next.
    next: u64,
}

/// One agent's.
struct Lane {
    identities: Identities,
    /// Every connection of the agent, and who it was that proved it.
    cuts: BTreeMap<u64, (IdentityKey, Cut)>,
    /// Those without a flow; the one that was used last is used next.
    idle: Vec<Connection>,
    waiting: VecDeque<oneshot::Sender<Connection>>,
    /// How many sessions of datagrams there are.
    sessions: Arc<AtomicUsize>,
    control: Option<Control>,
}

/// The connection that concerns a lane as a whole.
struct Control {
    /// Tells it from the one before.
    place: u64,
    health: PathHealth,
    choice: LaneKind,
    demand: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of an agent's lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamView {
    pub(crate) health: PathHealth,
    /// On which lane the agent wants its flows.
    pub(crate) choice: LaneKind,
}

impl Lane {
    /// Takes the connection that was used last, of those of a shard if there is one.
    fn newest(&mut self, shard: u8) -> Option<Connection> {
        let own = self.idle.iter().rposition(|idle| idle.shard == shard);
        let newest = self.idle.len().checked_sub(1)?;
        Some(self.idle.remove(own.unwrap_or(newest)))
    }
}

impl StreamView {
    pub(crate) const fn is_up(&self) -> bool {
        matches!(self.health, PathHealth::Up { .. })
    }
}

impl Streams {
    /// Nobody's, as the first of so many shards sees it. The other half is for each of them; see [`tend`].
    pub(crate) fn new(
        keys: KeyRing,
        tls: ServerConfigs,
        names: Vec<Hostname>,
        limits: &Limits,
        counters: Arc<Counters>,
        shards: usize,
    ) -> (Self, Vec<Errands>) {
        let (desks, errands) = (0..shards).map(|_| desk()).unzip();
        let inner = Inner {
            keys,
            tls,
            names,
            connections: limits.lane_connections,
            sessions: sessions::most(limits),
            handshakes: limits.lane_handshakes,
            handshaking: AtomicUsize::new(0),
            handshaking_per_address: PerAddress::new(limits.lane_handshakes_per_address),
            state: Mutex::default(),
            changed: watch::Sender::default(),
            desks,
            counters,
        };
        let this = Self {
            inner: Arc::new(inner),
            shard: 0,
        };
        (this, errands)
    }

    /// The same, as another shard sees it.
    pub(crate) fn on_shard(&self, shard: u8) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            shard,
        }
    }

    /// Follows a new plan. Who is no longer in it, or is another, is cut off with everything that is open; and so is
    /// what was proven by keys that count no more.
    pub(crate) fn apply(&self, plan: &GatewayPlan) {
        let known: BTreeMap<_, _> = plan
            .peers()
            .filter_map(|peer| match (peer.id, peer.identity) {
                (PeerId::Agent(agent), Some(current)) => {
                    let previous = plan.previous_keys(agent.into()).map(|keys| keys.identity);
                    Some((agent, Identities { current, previous }))
                }
                _ => None,
            })
            .collect();
        let mut state = self.lock();
        state.gateway = plan.node().map(|node| node.id);
        let before = std::mem::take(&mut state.lanes);
        let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) = before
            .into_iter()
            .partition(|(agent, lane)| known.get(agent).is_some_and(|now| now.meet(lane.identities)));
        state.lanes = stay;
        let mut old = Vec::new();
        for (agent, identities) in known {
            let lane = state.lanes.entry(agent).or_insert_with(|| Lane {
                identities,
                cuts: BTreeMap::new(),
                idle: Vec::new(),
                waiting: VecDeque::new(),
                sessions: Arc::default(),
                control: None,
            });
            if lane.identities != identities {
                lane.identities = identities;
                let by_others = lane.cuts.values().filter(|(key, _)| !identities.has(*key));
                old.extend(by_others.map(|(_, cut)| cut.clone()));
            }
        }
        drop(state);
        old.iter().for_each(Cut::cut);
        for (agent, lane) in go {
            if !lane.cuts.is_empty() {
                tracing::info!(%agent, connections = lane.cuts.len(), "an agent's streams are cut");
            }
            lane.cuts.values().for_each(|(_, cut)| cut.cut());
        }
    }

    /// Cuts everything.
    pub(crate) fn close(&self) {
        self.apply(&GatewayPlan::default());
    }

    /// What is known of an agent's lane; nothing while there is none.
    pub(crate) fn view(&self, agent: AgentId) -> Option<StreamView> {
        let state = self.lock();
        let control = state.lanes.get(&agent)?.control.as_ref()?;
        Some(StreamView {
            health: control.health,
            choice: control.choice,
        })
    }

    /// Tells when something that [`view`](Self::view) says has changed.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }

    /// Where a connection goes when its flow is over.
    pub(crate) fn home(&self, connection: &Connection) -> Home {
        self.desk(connection.shard).home.clone()
    }

    fn desk(&self, shard: u8) -> &Desk {
        &self.inner.desks[usize::from(shard)]
    }

    /// A connection to an agent for one flow, within `limit`; one of the shard's own, if any of these is free.
    pub(crate) async fn take(&self, agent: AgentId, limit: Duration) -> Result<Connection, FlowError> {
        loop {
            let found = self.lane(agent, |lane| lane.newest(self.shard));
            match found.ok_or(FlowError::Offline)? {
                Some(mut connection) => {
                    if is_fresh(&mut connection) {
                        self.inner.counters.lane_flows.one();
                        return Ok(connection);
                    }
                }
                None => break,
            }
        }
        let waiting = self.lane(agent, |lane| {
            let control = lane.control.as_ref().ok_or(FlowError::Offline)?;
            lane.waiting.retain(|waiting| !waiting.is_closed());
            if lane.waiting.len() >= WAITING {
                return Err(FlowError::Overloaded);
            }
            let (sender, receiver) = oneshot::channel();
            lane.waiting.push_back(sender);
            control.demand.notify_one();
            Ok(receiver)
        });
        let waiting = waiting.unwrap_or(Err(FlowError::Offline)).inspect_err(|error| {
            if *error == FlowError::Overloaded {
                self.inner.counters.lane_overflows.one();
            }
        })?;
        match wait(waiting, limit).await {
            Some(Ok(connection)) => {
                self.inner.counters.lane_flows.one();
                Ok(connection)
            }
            Some(Err(_)) => Err(FlowError::Offline),
            None => Err(FlowError::TimedOut),
        }
    }

    /// Takes a connection that is free for a flow.
    fn put(&self, mut connection: Connection) {
        if !is_fresh(&mut connection) {
            return;
        }
        let agent = connection.agent;
        let mut offered = Some(connection);
        self.lane(agent, |lane| {
            // Without a control connection nobody is told of flows; the agent begins anew.
            if lane.control.is_none() {
                return;
            }
            while let Some(connection) = offered.take() {
                let Some(waiting) = lane.waiting.pop_front() else {
                    lane.idle.push(connection);
                    return;
                };
                offered = waiting.send(connection).err();
            }
        });
    }

    /// Lets go of connections without a flow that have ended, or that the agent is about to end.
    fn sweep(&self, agent: AgentId) {
        let mut gone = Vec::new();
        self.lane(agent, |lane| {
            for mut connection in std::mem::take(&mut lane.idle) {
                let place = if is_fresh(&mut connection) {
                    &mut lane.idle
                } else {
                    &mut gone
                };
                place.push(connection);
            }
        });
        // Not under the lock.
        drop(gone);
    }

    fn lane<R>(&self, agent: AgentId, work: impl FnOnce(&mut Lane) -> R) -> Option<R> {
        self.inner.lane(agent, work)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.lock()
    }
}

impl Inner {
    fn lane<R>(&self, agent: AgentId, work: impl FnOnce(&mut Lane) -> R) -> Option<R> {
        self.lock().lanes.get_mut(&agent).map(work)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("handshaking", &self.inner.handshaking.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a flow waits for a connection, within a time"
)]
async fn wait<T>(
    waiting: oneshot::Receiver<T>,
    limit: Duration,
) -> Option<Result<T, oneshot::error::RecvError>> {
    timeout(limit, waiting).await.ok()
}

/// Whether a connection without a flow can have one: nothing was said on it. An agent that is about to
/// close it has said so.
fn is_fresh(connection: &mut Connection) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    connection.is_drained() && connection.poll_signal(&mut cx).is_pending()
}
