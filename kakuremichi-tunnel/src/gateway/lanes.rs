//! The way to targets: through the engine to agents and sites, over TLS streams to agents, or through
//! another gateway that has a lane to the agent.

#![expect(
    clippy::disallowed_methods,
    reason = "a spliced connection is counted, and found idle, by the clock"
)]

mod counted;
mod relay;
mod sessions;

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::{Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use kakuremichi_core::{
    id::{AgentId, GatewayId, PeerId},
    key::WireGuardKey,
    model::VirtualPort,
    plan::{GatewayPlan, PlannedTarget, Via},
};
use kakuremichi_proto::{
    lane::record::Record,
    preface::{Preface, PrefaceError},
    report::LaneKind,
};
use tokio::time::sleep;

use self::counted::Counted;
use super::{
    balance::{Health, Reach},
    network,
    siblings::{Candidate, Siblings},
    streams::{StreamView, Streams},
    upstream::{FlowError, FlowRequest, OpenedSession, SessionWay, SpliceOutcome, Upstream},
};
use crate::{
    engine::{Connect, EndReason, Meter, PeerView, ShardSet},
    lane::PathHealth,
    peer::PeerKeys,
    stream::TunnelStream,
    streams::{connection::Connection, flow::LaneFlow},
};

/// How often an open connection to a TCP service is counted.
const COUNT: Duration = Duration::from_secs(5);

/// How long an agent takes at most to say that it has reached a target, or not.
const DIALLED: Duration = Duration::from_secs(15);

/// Opens flows: through the engine on the shard that owns the agent, or over TLS streams, from whichever
/// shard they are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Lanes {
    shards: ShardSet,
    streams: Streams,
    siblings: Siblings,
    known: Arc<ArcSwap<Known>>,
    connect: Duration,
    idle: Duration,
}

/// What the plan says of this gateway and its peers.
#[derive(Debug, Default)]
struct Known {
    gateway: Option<GatewayId>,
    peers: BTreeMap<PeerId, (PeerKeys, Ipv6Addr)>,
}

impl Lanes {
    /// Gives a flow `connect` to be connected; a spliced one ends when nothing moves for `idle`.
    pub(crate) fn new(
        shards: ShardSet,
        streams: Streams,
        siblings: Siblings,
        (connect, idle): (Duration, Duration),
    ) -> Self {
        Self {
            shards,
            streams,
            siblings,
            known: Arc::default(),
            connect,
            idle,
        }
    }

    /// Follows a new plan.
    pub(crate) fn apply(&self, plan: &GatewayPlan) {
        self.streams.apply(plan);
        self.siblings.apply(plan);
        self.known.store(Arc::new(Known {
            gateway: plan.node().map(|node| node.id),
            peers: plan
                .peers()
                .map(|peer| (peer.id, (network::keys(plan, peer), peer.address)))
                .collect(),
        }));
    }

    /// The same, for another shard.
    pub(crate) fn on_shard(self, shard: u8) -> Self {
        Self {
            streams: self.streams.on_shard(shard),
            ..self
        }
    }

    /// What agents keep open.
    pub(crate) const fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The other gateways.
    pub(crate) const fn siblings(&self) -> &Siblings {
        &self.siblings
    }

    /// How a flow to a target goes.
    fn way(&self, target: &PlannedTarget) -> Way {
        if let Some(agent) = self.over_streams(&target.via) {
            return Way::Streams(agent);
        }
        if self.direct(&target.via) == Reach::Online {
            return Way::Engine;
        }
        let candidates = self.candidates(target);
        if candidates.is_empty() {
            return Way::Engine;
        }
        Way::Siblings(candidates)
    }

    /// The siblings that reach a target's agent, best first.
    fn candidates(&self, target: &PlannedTarget) -> Vec<Candidate> {
        match target.via {
            Via::Agent { agent, .. } => self
                .siblings
                .candidates(agent, target.id, |keys| self.round_trip(keys)),
            Via::Site { .. } => Vec::new(),
        }
    }

    /// The round trip of a lane that is up.
    fn round_trip(&self, keys: PeerKeys) -> Option<Duration> {
        match self.view(keys)?.health {
            PathHealth::Up { rtt, .. } => Some(rtt),
            PathHealth::Unknown | PathHealth::Down { .. } => None,
        }
    }

    /// The agent to whose TLS streams a flow goes: where it wants them, or where WireGuard does not carry.
    fn over_streams(&self, via: &Via) -> Option<AgentId> {
        let Via::Agent { agent, .. } = via else {
            return None;
        };
        let view = self.streams.view(*agent).filter(StreamView::is_up)?;
        let wireguard = self.health(PeerId::Agent(*agent));
        let takes = view.choice == LaneKind::TlsStream || !matches!(wireguard, Some(PathHealth::Up { .. }));
        takes.then_some(*agent)
    }

    /// What is known of the WireGuard lane to a peer.
    fn health(&self, peer: PeerId) -> Option<PathHealth> {
        let known = self.known.load();
        let (keys, _) = known.peers.get(&peer)?;
        self.view(*keys).map(|view| view.health)
    }

    /// A peer as the engine knows it.
    fn view(&self, keys: PeerKeys) -> Option<PeerView> {
        keys.find(|key| self.shards.peer(&key))
    }

    /// The key by which the engine opens flows to a peer now.
    fn key(&self, keys: PeerKeys) -> WireGuardKey {
        keys.known(|key| self.shards.peer(&key).is_some())
    }

    /// Takes a connection for a flow to an agent, with the flow's beginning queued.
    async fn begin(&self, agent: AgentId, request: &FlowRequest<'_>) -> Result<Connection, FlowError> {
        let gateway = self.known.load().gateway.ok_or(FlowError::Offline)?;
        let preface = encoded(request, gateway)?;
        let Via::Agent { port, .. } = request.target.via else {
            return Err(FlowError::Broken);
        };
        self.begin_with(agent, port, &preface).await
    }

    async fn begin_with(
        &self,
        agent: AgentId,
        port: VirtualPort,
        preface: &[u8],
    ) -> Result<Connection, FlowError> {
        let mut connection = self.streams.take(agent, self.connect).await?;
        connection.queue(Record::Begin {
            port: port.get(),
            preface,
        });
        Ok(connection)
    }

    async fn open_over_streams(
        &self,
        agent: AgentId,
        request: &FlowRequest<'_>,
    ) -> Result<TunnelStream, FlowError> {
        let connection = self.begin(agent, request).await?;
        let home = self.streams.home(&connection);
        let flow = LaneFlow::opened(connection, home, Arc::default());
        let (local, remote) = (request.visitor.local, request.visitor.address);
        let mut stream = TunnelStream::over_lane(flow, local, remote);
        if request.wait {
            stream.connected().await.map_err(|error| reason(&error))?;
        }
        Ok(stream)
    }

    async fn open_through_engine(&self, request: &FlowRequest<'_>) -> Result<TunnelStream, FlowError> {
        let mut stream = self.shards.connect(self.connect(request)?).await?;
        if request.wait {
            stream.connected().await.map_err(|error| reason(&error))?;
        }
        Ok(stream)
    }

    async fn splice_over_streams(
        &self,
        agent: AgentId,
        socket: std::net::TcpStream,
        request: &FlowRequest<'_>,
    ) -> SpliceOutcome {
        let connection = match self.begin(agent, request).await {
            Ok(connection) => connection,
            Err(error) => return SpliceOutcome::failed(error, Some(socket)),
        };
        let meter: Arc<Meter> = Arc::default();
        let counted = Counted::new(Arc::clone(&meter), request.usage);
        let served = {
            let serving = pin!(self.streams.splice(socket, connection, Arc::clone(&meter)));
            self.watched(serving, counted, || {}).await
        };
        match served {
            Some(served) => outcome(&meter, served.reason, |again| served.socket.filter(|_| again)),
            // Dropping it resets both ends.
            None => SpliceOutcome::failed(FlowError::TimedOut, None),
        }
    }

    /// Waits for the end of a splice, and charges the service meanwhile; tells when a target has it, so that
    /// there will be no other. `None` when nothing moved for too long.
    async fn watched<T>(
        &self,
        mut splice: impl Future<Output = T> + Unpin,
        mut counted: Counted<'_>,
        mut settled: impl FnMut(),
    ) -> Option<T> {
        let (mut quiet, mut age) = (Duration::ZERO, Duration::ZERO);
        loop {
            tokio::select! {
                end = &mut splice => return Some(end),
                () = sleep(COUNT) => {
                    quiet = if counted.count() { Duration::ZERO } else { quiet + COUNT };
                    age += COUNT;
                    // Descriptors are few.
                    if quiet.is_zero() || age >= self.connect + DIALLED {
                        settled();
                    }
                    if quiet >= self.idle {
                        return None;
                    }
                }
            }
        }
    }

    /// Serves a socket inside the engine, with a flow to whomever. The engine has it at once: what it takes
    /// to open the flow is not kept until its end.
    fn splice_through_engine<'a>(
        &'a self,
        mut connect: Connect,
        socket: std::net::TcpStream,
        request: &FlowRequest<'a>,
    ) -> impl Future<Output = SpliceOutcome> + use<'a> {
        // Another descriptor of the socket outlives the engine's, in case another target is to be asked.
        let mut spare = socket.try_clone().ok();
        let meter: Arc<Meter> = Arc::default();
        connect.meter = Arc::clone(&meter);
        let counted = Counted::new(Arc::clone(&meter), request.usage);
        let splice = self.shards.splice(socket, connect);
        async move {
            match self.watched(splice, counted, || drop(spare.take())).await {
                Some(end) => outcome(&meter, end.reason, |again| {
                    spare.filter(|_| again).filter(|spare| {
                        // The engine let go of it with a reset in mind.
                        socket2::SockRef::from(spare).set_linger(None).is_ok()
                    })
                }),
                None => SpliceOutcome::failed(FlowError::TimedOut, None),
            }
        }
    }

    /// Whether the WireGuard lane to an agent or a site works.
    fn direct(&self, via: &Via) -> Reach {
        let Some((keys, _)) = self.known.load().peers.get(&peer(via)).copied() else {
            return Reach::Offline;
        };
        let Some(view) = self.view(keys) else {
            return Reach::Unknown;
        };
        match (view.health, via) {
            (PathHealth::Up { .. }, _) => Reach::Online,
            (PathHealth::Unknown, Via::Agent { .. }) => Reach::Unknown,
            (PathHealth::Down { .. }, Via::Agent { .. }) => Reach::Offline,
            // A stock device that is silent may answer when spoken to, if it is known where it is.
            (PathHealth::Unknown | PathHealth::Down { .. }, Via::Site { .. }) => match view.endpoint {
                Some(_) => Reach::Unknown,
                None => Reach::Offline,
            },
        }
    }

    fn connect(&self, request: &FlowRequest<'_>) -> Result<Connect, FlowError> {
        let known = self.known.load();
        let peer = peer(&request.target.via);
        let (keys, address) = known.peers.get(&peer).copied().ok_or(FlowError::Offline)?;
        let key = self.key(keys);
        let mut connect = match request.target.via {
            Via::Agent { port, .. } => {
                let gateway = known.gateway.ok_or(FlowError::Offline)?;
                let preface = encoded(request, gateway)?;
                let mut connect = Connect::new(key, SocketAddr::from((address, port.get())));
                connect.preface = Some(preface);
                connect.expect_reply = true;
                connect
            }
            Via::Site { address, .. } => Connect::new(key, address),
        };
        connect.timeout = self.connect;
        Ok(connect)
    }
}

/// How a flow goes.
#[derive(Debug)]
enum Way {
    /// Over TLS streams.
    Streams(AgentId),
    /// Over WireGuard, straight.
    Engine,
    /// To another gateway that has a lane to the agent.
    Siblings(Vec<Candidate>),
}

const fn peer(via: &Via) -> PeerId {
    match via {
        Via::Agent { agent, .. } => PeerId::Agent(*agent),
        Via::Site { site, .. } => PeerId::Site(*site),
    }
}

fn encoded(request: &FlowRequest<'_>, gateway: GatewayId) -> Result<Vec<u8>, FlowError> {
    written(&preface(request, gateway), Preface::encode)
}

/// What an agent is told before the visitor's bytes.
fn written(
    preface: &Preface,
    encode: impl Fn(&Preface, &mut Vec<u8>) -> Result<(), PrefaceError>,
) -> Result<Vec<u8>, FlowError> {
    let mut bytes = Vec::new();
    encode(preface, &mut bytes).map_err(|error| {
        tracing::warn!(%error, "the visitor cannot be described to the agent");
        FlowError::Broken
    })?;
    Ok(bytes)
}

fn preface(request: &FlowRequest<'_>, gateway: GatewayId) -> Preface {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Preface {
        source: canonical(request.visitor.address),
        destination: canonical(request.visitor.local),
        gateway,
        relay: None,
        connection: request.visitor.connection,
        service: request.permit.subject().service,
        target: request.target.id,
        tls: request.visitor.tls.clone(),
        principal: request.permit.principal().cloned(),
    }
}

impl Upstream for Lanes {
    type Stream = TunnelStream;

    async fn open(&self, request: FlowRequest<'_>) -> Result<TunnelStream, FlowError> {
        match self.way(request.target) {
            Way::Streams(agent) => self.open_over_streams(agent, &request).await,
            Way::Engine => match self.open_through_engine(&request).await {
                // The lane went down meanwhile: nobody has seen anything of the flow.
                Err(FlowError::Offline) => {
                    let candidates = self.candidates(request.target);
                    self.open_through_siblings(&candidates, &request).await
                }
                opened => opened,
            },
            Way::Siblings(candidates) => self.open_through_siblings(&candidates, &request).await,
        }
    }

    async fn splice(&self, socket: std::net::TcpStream, request: FlowRequest<'_>) -> SpliceOutcome {
        match self.way(request.target) {
            // The ways that few flows take are in boxes, as each connection has room for any of them for as
            // long as it lives.
            Way::Streams(agent) => Box::pin(self.splice_over_streams(agent, socket, &request)).await,
            Way::Engine => {
                let connect = match self.connect(&request) {
                    Ok(connect) => connect,
                    Err(error) => return SpliceOutcome::failed(error, Some(socket)),
                };
                match self.splice_through_engine(connect, socket, &request).await {
                    // The same.
                    SpliceOutcome {
                        error: Some(FlowError::Offline),
                        returned: Some(socket),
                        ..
                    } => {
                        let candidates = self.candidates(request.target);
                        Box::pin(self.splice_through_siblings(&candidates, socket, &request)).await
                    }
                    outcome => outcome,
                }
            }
            Way::Siblings(candidates) => {
                Box::pin(self.splice_through_siblings(&candidates, socket, &request)).await
            }
        }
    }

    async fn session(&self, request: FlowRequest<'_>, idle: Duration) -> Result<OpenedSession, FlowError> {
        self.open_session(&request, idle).await
    }

    fn stays(&self, target: &PlannedTarget, way: SessionWay) -> bool {
        self.session_stays(target, way)
    }

    fn refused(&self, way: SessionWay) {
        if let SessionWay::Sibling(sibling) = way {
            self.siblings.refused_session(sibling);
        }
    }

    fn reach(&self, via: &Via) -> Reach {
        if self.over_streams(via).is_some() {
            return Reach::Online;
        }
        let direct = self.direct(via);
        match via {
            Via::Agent { agent, .. }
                if direct != Reach::Online && self.siblings.reach(*agent, |keys| self.round_trip(keys)) =>
            {
                Reach::Relayed
            }
            Via::Agent { .. } | Via::Site { .. } => direct,
        }
    }

    fn relayed_health(&self, target: &PlannedTarget) -> Health {
        match target.via {
            Via::Agent { agent, .. } => self
                .siblings
                .health(agent, target.id, |keys| self.round_trip(keys)),
            Via::Site { .. } => Health::Unknown,
        }
    }
}

/// What became of a spliced connection. `again` gives its socket back if it may be offered to another
/// target.
fn outcome(
    meter: &Meter,
    reason: EndReason,
    again: impl FnOnce(bool) -> Option<std::net::TcpStream>,
) -> SpliceOutcome {
    let (sent, received) = (meter.sent(), meter.received());
    let untouched = sent == 0 && received == 0;
    let (error, may) = match reason {
        EndReason::Finished | EndReason::Socket(_) | EndReason::Cancelled => (None, false),
        EndReason::NotConnected(error) => (Some(error.into()), true),
        EndReason::Refused(reply) => (Some(reply.into()), untouched),
        // An end of the target's own making.
        EndReason::Reset => (None, false),
        EndReason::TimedOut => (Some(FlowError::TimedOut), false),
        EndReason::PeerGone => (Some(FlowError::Offline), false),
        EndReason::Protocol | EndReason::Stopped => (Some(FlowError::Broken), false),
    };
    SpliceOutcome {
        sent,
        received,
        error,
        returned: again(may),
    }
}

/// Why a stream failed.
fn reason(error: &io::Error) -> FlowError {
    FlowError::find(error).unwrap_or_else(|| match error.kind() {
        io::ErrorKind::TimedOut => FlowError::TimedOut,
        _ => FlowError::Broken,
    })
}
