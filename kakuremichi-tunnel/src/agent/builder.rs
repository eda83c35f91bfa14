//! How an agent is set up.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use data_encoding::BASE32_NOPAD;
use kakuremichi_core::{
    model::Role,
    name::{Label, NameError},
    plan::AgentRecord,
    time::Timestamp,
};
use kakuremichi_proto::report::NodeInfo;
use rustls::crypto::CryptoProvider;
use tokio::sync::{broadcast, mpsc, watch};

use super::{
    Agent,
    conductor::{Conductor, Parts},
    lanes::StreamSetup,
    streams::Dialling,
    transport::{LaneTransport, Tcp},
    view,
};
use crate::{
    crypto,
    engine::{ShardConfig, ShardHandle},
    error::SpawnError,
    keys::{self, MIN_KEY_AGE, NodeKeys},
    lane::{LanePreference, PoolLimits},
    link::{self, ControlLink, EgressProxy, EgressProxyError, OwnKeys, PlanSource},
    state::StateDir,
    status::EVENTS,
};

/// The requests of handles that wait for the agent; further ones wait with their callers.
const REQUESTS: usize = 64;

/// What flows may hold in memory unless something else is set, in bytes.
const FLOW_MEMORY: usize = 256 << 20;

/// What an agent is made of; see [`Agent::builder`].
#[derive(Debug)]
pub struct AgentBuilder {
    source: Source,
    state: State,
    name: Option<Result<Label, NameError>>,
    bind: Vec<SocketAddr>,
    lane: LanePreference,
    standby: bool,
    pool: PoolLimits,
    flow_memory: usize,
    egress: Option<Result<EgressProxy, EgressProxyError>>,
    transport: Option<Arc<dyn LaneTransport>>,
    provider: Option<Arc<CryptoProvider>>,
    rotate_keys_after: Option<Duration>,
    software: String,
}

/// Where the plan comes from.
#[derive(Debug)]
enum Source {
    Control(ControlLink),
    Other(Arc<dyn PlanSource<AgentRecord>>),
}

#[derive(Debug)]
enum State {
    Path(PathBuf),
    Open(StateDir),
}

impl AgentBuilder {
    pub(super) fn new(source: impl PlanSource<AgentRecord>) -> Self {
        Self::from_source(Source::Other(Arc::new(source)))
    }

    pub(super) fn control(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self::from_source(Source::Control(ControlLink::new(url, token)))
    }

    fn from_source(source: Source) -> Self {
        Self {
            source,
            state: State::Open(StateDir::memory()),
            name: None,
            bind: vec![
                (Ipv6Addr::UNSPECIFIED, 0).into(),
                (Ipv4Addr::UNSPECIFIED, 0).into(),
            ],
            flow_memory: FLOW_MEMORY,
            lane: LanePreference::Auto,
            standby: true,
            pool: PoolLimits::default(),
            egress: None,
            transport: None,
            provider: None,
            rotate_keys_after: None,
            software: concat!("kakuremichi ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    // What everybody should say.

    /// Where the agent remembers who it is and what it serves; made when it is missing. Without one it
    /// enrols anew each time it starts, and cannot start while Control is away.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state = State::Path(path.into());
        self
    }

    // What many say.

    /// The name that the agent would like to have; Control gives it another one if that is taken.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.parse());
        self
    }

    // What few need.

    /// A state directory that is open already.
    #[must_use]
    pub fn state(mut self, state: StateDir) -> Self {
        self.state = State::Open(state);
        self
    }

    /// The addresses at which WireGuard's datagrams are received: at most one of each family. Ports of
    /// the system's choice, without.
    #[must_use]
    pub fn wireguard(mut self, addresses: Vec<SocketAddr>) -> Self {
        self.bind = addresses;
        self
    }

    /// How many bytes of memory flows over WireGuard may hold, at least a MiB; 256 MiB by itself. One
    /// gateway's flows may hold three quarters of it. Well before, flows are slowed down; beyond, data is
    /// not taken in and the largest flows are reset.
    #[must_use]
    pub fn flow_memory(mut self, bytes: usize) -> Self {
        self.flow_memory = bytes;
        self
    }

    /// Which lane takes flows. By itself the agent takes TLS streams while WireGuard does not get through.
    #[must_use]
    pub const fn lane(mut self, preference: LanePreference) -> Self {
        self.lane = preference;
        self
    }

    /// Whether TLS streams stand by while flows take WireGuard: one idle connection to each gateway that is asked
    /// a few times a minute whether it works. With it flows leave a WireGuard lane that stops carrying about a
    /// second after a probe is lost; without, some seconds later, when the lane is known to be dead and TLS
    /// streams have been dialled. They stand by unless it is said otherwise, or a lane is pinned.
    #[must_use]
    pub const fn standby(mut self, standby: bool) -> Self {
        self.standby = standby;
        self
    }

    /// The most connections for flows that TLS streams to one gateway have, 1 to 65,535; 256 without. Each carries
    /// one flow at a time. Beyond, flows wait at the gateway, which has a bound of its own (512 without a
    /// setting) and refuses connections beyond that.
    #[must_use]
    pub fn lane_connections(mut self, connections: u16) -> Self {
        self.pool.connections = usize::from(connections).max(1);
        self
    }

    /// The proxy through which TCP connections leave: `http://proxy:3128` or `socks5://proxy:1080`, with
    /// `user:password@` where it asks for a login; see [`EgressProxy`]. It is used for TLS streams, and for
    /// the link to Control if the builder was given Control's URL; a source that was set up by hand has its
    /// own. No environment is read for it.
    #[must_use]
    pub fn egress_proxy(mut self, url: &str) -> Self {
        self.egress = Some(url.parse());
        self
    }

    /// How gateways are reached for TLS streams; see [`LaneTransport`]. Without one that is TCP, through the egress
    /// proxy if there is one; with one the proxy is used for the link to Control only.
    #[must_use]
    pub fn lane_transport(mut self, transport: impl LaneTransport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// The cryptography of TLS streams, and of health checks inside TLS; without, what
    /// [`crypto::default_provider`](crate::crypto::default_provider) says. It is used for this agent, and not installed process-wide.
    #[must_use]
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// The age of its keys at which the agent [rotates](Agent::rotate_keys) them by itself, at least
    /// [`MIN_KEY_AGE`](crate::keys::MIN_KEY_AGE); without, it does not. The age is that of the file.
    #[must_use]
    pub fn rotate_keys_after(mut self, age: Duration) -> Self {
        self.rotate_keys_after = Some(age.max(MIN_KEY_AGE));
        self
    }

    /// How the program calls itself, name and version, for those who look at the agent in Control.
    #[must_use]
    pub fn software(mut self, software: impl Into<String>) -> Self {
        self.software = software.into();
        self
    }

    /// Starts the agent. It never waits for the network: what is on the disk is served at once, and
    /// Control is looked for from then on.
    ///
    /// # Errors
    /// When what it was given cannot work, or the system has no thread, socket or memory for it.
    /// Nothing is left running then.
    pub async fn spawn(self) -> Result<Agent, SpawnError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        // The disk may take its time, and the caller's runtime has others to serve.
        std::thread::Builder::new()
            .name("kakuremichi-start".to_owned())
            .spawn(move || {
                // Whoever asked may be gone: then the agent ends with its handle.
                let _ = answer.send(self.start());
            })
            .map_err(|source| SpawnError::Engine(crate::engine::SpawnError::Thread(source)))?;
        answered.await.unwrap_or_else(|_| {
            Err(SpawnError::Engine(crate::engine::SpawnError::Thread(
                std::io::Error::other("it panicked"),
            )))
        })
    }

    #[expect(clippy::disallowed_methods, reason = "keys of before end by the clock")]
    fn start(self) -> Result<Agent, SpawnError> {
        let state = match self.state {
            State::Path(path) => StateDir::open(&path)?,
            State::Open(state) => state,
        };
        let (ring, previous_until) = state.key_ring(Timestamp::from(SystemTime::now()))?;
        let keys = ring.current();
        let name = match self.name {
            Some(name) => name.map_err(SpawnError::Name)?,
            None => presumed_name(&keys).map_err(SpawnError::Name)?,
        };
        let mut config = ShardConfig::new("agent", ring.held().first_wireguard(), self.bind, keys::random()?);
        let flows = &mut config.flows.limits;
        flows.memory = self.flow_memory;
        // One gateway leaves something for the others.
        flows.memory_per_peer = self.flow_memory / 4 * 3;
        let info = NodeInfo {
            software: self.software,
            gateway: None,
        };
        let own = OwnKeys {
            ring: ring.clone(),
            previous_until,
            rotate_after: self.rotate_keys_after,
        };
        let (supply, node) = link::supply(Role::Agent, name, own, state, info);
        let rotations = node.rotations.clone();
        let egress = self.egress.transpose()?;
        let source = match self.source {
            Source::Control(link) => match &egress {
                Some(proxy) => link.egress_proxy(proxy.clone()).open(supply)?,
                None => link.open(supply)?,
            },
            Source::Other(source) => source.open(supply)?,
        };
        let streams = StreamSetup {
            preference: self.lane,
            standby: self.standby,
            pool: self.pool,
            keys: ring.clone(),
            dialling: Dialling {
                transport: self.transport.unwrap_or_else(|| Arc::new(Tcp { egress })),
                provider: self.provider.unwrap_or_else(crypto::default_provider),
            },
        };
        let (requests, requested) = mpsc::channel(REQUESTS);
        let (status, statuses) = watch::channel(view::initial());
        let (events, _) = broadcast::channel(EVENTS);
        let weak_events = events.downgrade();
        let shard = ShardHandle::spawn(config, move |local| {
            let parts = Parts {
                node,
                source: local.spawn(source),
                status,
                events,
                requests: requested,
                streams,
            };
            let conductor = Conductor::new(local.clone(), parts);
            local.spawn(conductor.run());
        })?;
        Ok(Agent::new(
            shard,
            requests,
            statuses,
            weak_events,
            ring,
            rotations,
        ))
    }
}

/// `agent-` and the start of the node's identity: another name for each agent.
fn presumed_name(keys: &NodeKeys) -> Result<Label, NameError> {
    let identity = BASE32_NOPAD.encode(&keys.identity().as_bytes()[..5]);
    format!("agent-{identity}").parse()
}
