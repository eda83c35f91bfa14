//! The way to targets through the engine: lanes to agents and sites.

#![expect(
    clippy::disallowed_methods,
    reason = "a spliced connection is counted, and found idle, by the clock"
)]

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use kakuremichi_core::{
    id::{GatewayId, PeerId},
    key::WireGuardKey,
    plan::{GatewayPlan, Via},
};
use kakuremichi_proto::preface::{Preface, PrefaceError};
use tokio::time::sleep;

use super::{
    balance::Reach,
    upstream::{FlowError, FlowRequest, SpliceOutcome, Upstream},
    usage::ServiceUsage,
};
use crate::{
    engine::{Connect, EndReason, Meter, ShardSet},
    lane::PathHealth,
    stream::TunnelStream,
};

/// How often an open connection to a TCP service is counted.
const COUNT: Duration = Duration::from_secs(5);

/// How long an agent takes at most to say that it has reached a target, or not.
const DIALLED: Duration = Duration::from_secs(15);

/// Opens flows through the engine: on the shard that owns the agent, from whichever they are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Lanes {
    shards: ShardSet,
    known: Arc<ArcSwap<Known>>,
    connect: Duration,
    idle: Duration,
}

/// What the plan says of this gateway and its peers.
#[derive(Debug, Default)]
struct Known {
    gateway: Option<GatewayId>,
    peers: BTreeMap<PeerId, (WireGuardKey, Ipv6Addr)>,
}

impl Lanes {
    /// Gives a flow `connect` to be connected; a spliced one ends when nothing moves for `idle`.
    pub(crate) fn new(shards: ShardSet, connect: Duration, idle: Duration) -> Self {
        Self {
            shards,
            known: Arc::default(),
            connect,
            idle,
        }
    }

    /// Follows a new plan.
    pub(crate) fn apply(&self, plan: &GatewayPlan) {
        self.known.store(Arc::new(Known {
            gateway: plan.node().map(|node| node.id),
            peers: plan
                .peers()
                .map(|peer| (peer.id, (peer.wireguard, peer.address)))
                .collect(),
        }));
    }

    fn connect(&self, request: &FlowRequest<'_>) -> Result<Connect, FlowError> {
        let known = self.known.load();
        let peer = peer(&request.target.via);
        let (key, address) = known.peers.get(&peer).copied().ok_or(FlowError::Offline)?;
        let mut connect = match request.target.via {
            Via::Agent { port, .. } => {
                let gateway = known.gateway.ok_or(FlowError::Offline)?;
                let preface = preface(request, gateway).map_err(|error| {
                    tracing::warn!(%error, "the visitor cannot be described to the agent");
                    FlowError::Broken
                })?;
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

const fn peer(via: &Via) -> PeerId {
    match via {
        Via::Agent { agent, .. } => PeerId::Agent(*agent),
        Via::Site { site, .. } => PeerId::Site(*site),
    }
}

fn preface(request: &FlowRequest<'_>, gateway: GatewayId) -> Result<Vec<u8>, PrefaceError> {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let preface = Preface {
        source: canonical(request.visitor.address),
        destination: canonical(request.visitor.local),
        gateway,
        connection: request.visitor.connection,
        service: request.permit.subject().service,
        target: request.target.id,
        tls: request.visitor.tls.clone(),
        principal: request.permit.principal().cloned(),
    };
    let mut bytes = Vec::new();
    preface.encode(&mut bytes)?;
    Ok(bytes)
}

impl Upstream for Lanes {
    type Stream = TunnelStream;

    async fn open(&self, request: FlowRequest<'_>) -> Result<TunnelStream, FlowError> {
        let connect = self.connect(&request)?;
        let mut stream = self.shards.connect(connect).await?;
        if request.wait {
            stream.connected().await.map_err(|error| reason(&error))?;
        }
        Ok(stream)
    }

    async fn splice(&self, socket: std::net::TcpStream, request: FlowRequest<'_>) -> SpliceOutcome {
        let failed = |error, returned| SpliceOutcome {
            sent: 0,
            received: 0,
            error: Some(error),
            returned,
        };
        let mut connect = match self.connect(&request) {
            Ok(connect) => connect,
            Err(error) => return failed(error, Some(socket)),
        };
        // Another descriptor of the socket outlives the engine's, in case another target is to be asked.
        let mut spare = socket.try_clone().ok();
        let meter: Arc<Meter> = Arc::default();
        connect.meter = Arc::clone(&meter);
        let mut counted = Counted::new(meter, request.usage);
        let mut splice = self.shards.splice(socket, connect);
        let (mut quiet, mut age) = (Duration::ZERO, Duration::ZERO);
        let end = loop {
            tokio::select! {
                end = &mut splice => break end,
                () = sleep(COUNT) => {
                    quiet = if counted.count() { Duration::ZERO } else { quiet + COUNT };
                    age += COUNT;
                    // A target has it by now: there will be no other, and descriptors are few.
                    if quiet.is_zero() || age >= self.connect + DIALLED {
                        spare = None;
                    }
                    if quiet >= self.idle {
                        return failed(FlowError::TimedOut, None);
                    }
                }
            }
        };
        counted.count();
        let untouched = end.sent == 0 && end.received == 0;
        let (error, again) = match end.reason {
            EndReason::Finished | EndReason::Socket(_) | EndReason::Cancelled => (None, false),
            EndReason::NotConnected(error) => (Some(error.into()), true),
            EndReason::Refused(reply) => (Some(reply.into()), untouched),
            // An end of the target's own making.
            EndReason::Reset => (None, false),
            EndReason::TimedOut => (Some(FlowError::TimedOut), false),
            EndReason::PeerGone => (Some(FlowError::Offline), false),
            EndReason::Protocol | EndReason::Stopped => (Some(FlowError::Broken), false),
        };
        let spare = spare.filter(|_| again).filter(|spare| {
            // The engine let go of it with a reset in mind.
            socket2::SockRef::from(spare).set_linger(None).is_ok()
        });
        SpliceOutcome {
            sent: end.sent,
            received: end.received,
            error,
            returned: spare,
        }
    }

    fn reach(&self, via: &Via) -> Reach {
        let Some((key, _)) = self.known.load().peers.get(&peer(via)).copied() else {
            return Reach::Offline;
        };
        let Some(view) = self.shards.peer(&key) else {
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
}

/// Why a stream failed.
fn reason(error: &io::Error) -> FlowError {
    FlowError::find(error).unwrap_or_else(|| match error.kind() {
        io::ErrorKind::TimedOut => FlowError::TimedOut,
        _ => FlowError::Broken,
    })
}

/// Charges a service for what moved on a flow while it is open.
struct Counted<'a> {
    meter: Arc<Meter>,
    usage: &'a ServiceUsage,
    sent: u64,
    received: u64,
}

impl<'a> Counted<'a> {
    const fn new(meter: Arc<Meter>, usage: &'a ServiceUsage) -> Self {
        Self {
            meter,
            usage,
            sent: 0,
            received: 0,
        }
    }

    /// Charges what moved since the last time; whether something did.
    fn count(&mut self) -> bool {
        let (sent, received) = (self.meter.sent(), self.meter.received());
        let moved = sent != self.sent || received != self.received;
        self.usage.add_in(sent - self.sent);
        self.usage.add_out(received - self.received);
        (self.sent, self.received) = (sent, received);
        moved
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count();
    }
}
