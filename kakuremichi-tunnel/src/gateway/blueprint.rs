//! Puts a gateway together, on the threads of its shards.

use std::{net::IpAddr, rc::Rc, sync::Arc};

use arc_swap::ArcSwap;
use kakuremichi_core::plan::GatewayRecord;
use rustls::ServerConfig;
use tokio::sync::{mpsc, watch};

use super::{
    access::AccessControl,
    certificates::{CertificateSource, Refreshing},
    conductor::{Conductor, Parts, Request},
    drain::{BeginDrain, Drain},
    draining::{Draining, DrainingAgents},
    flows::{OpenFlows, Total},
    health::SharedHealth,
    http::TargetTls,
    ingress::{
        Admissions, Bound,
        https::{Door, Spoken},
        tcp::TcpPorts,
        udp::UdpPorts,
    },
    lanes::Lanes,
    member::{Follower, Member, Others},
    metrics::Counters,
    network,
    per_address::PerAddress,
    serving::{Numbers, Serving},
    settings::{Limits, Timeouts},
    sign_in::SignInDesk,
    status::GatewayStatus,
    streams::{Errands, Streams, tend},
    table::RouteTable,
    usage::UsageBook,
};
use crate::{
    engine::{LocalShard, ShardSet},
    keys::KeyRing,
    link::{self, SourceFuture},
    state::StateDir,
};

/// What all shards of a gateway share.
#[derive(Debug, Clone)]
pub(super) struct Blueprint {
    pub(super) table: Arc<ArcSwap<RouteTable>>,
    pub(super) tls: Arc<ServerConfig>,
    /// What agents keep open.
    pub(super) streams: Streams,
    pub(super) target_tls: Arc<TargetTls>,
    pub(super) access: Arc<AccessControl>,
    pub(super) sign_in: Arc<SignInDesk>,
    pub(super) requests: Arc<PerAddress>,
    pub(super) draining: DrainingAgents,
    pub(super) health: SharedHealth,
    pub(super) admissions: Arc<Admissions>,
    pub(super) numbers: Numbers,
    pub(super) timeouts: Timeouts,
    pub(super) limits: Limits,
    pub(super) counters: Arc<Counters>,
    pub(super) usage: Arc<UsageBook>,
    pub(super) open: Total,
    pub(super) drain: Drain,
    pub(super) public_port: u16,
    pub(super) tcp: IpAddr,
}

/// What a shard could only be given once all of them were there.
pub(super) struct Wiring {
    pub(super) lanes: Lanes,
    /// What is to be done with connections of the shard.
    pub(super) errands: Errands,
    pub(super) sockets: Vec<(Bound, Spoken)>,
    pub(super) part: Part,
}

/// What a shard does besides serving.
pub(super) enum Part {
    /// The first one conducts.
    Conduct(Box<Conducting>),
    /// The others follow.
    Follow(Follower),
}

/// What the conductor is made of.
pub(super) struct Conducting {
    pub(super) shards: ShardSet,
    pub(super) node: link::NodeSide<GatewayRecord>,
    pub(super) state: StateDir,
    pub(super) source: SourceFuture,
    pub(super) others: Others,
    pub(super) begin: BeginDrain,
    pub(super) status: watch::Sender<Arc<GatewayStatus>>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) certificates: Arc<dyn CertificateSource>,
    pub(super) keys: KeyRing,
    pub(super) last: network::Endpoints,
}

impl Blueprint {
    /// Puts together what stands on one shard.
    pub(super) fn build(self, local: &LocalShard, wiring: Wiring) {
        let serving = Rc::new(Serving {
            upstream: wiring.lanes.on_shard(local.number()),
            table: self.table,
            access: self.access,
            sign_in: self.sign_in,
            requests: self.requests,
            flows: Rc::new(OpenFlows::new(self.open.clone())),
            draining: Rc::new(Draining::new(self.draining)),
            health: self.health,
            target_tls: self.target_tls,
            timeouts: self.timeouts,
            limits: self.limits,
            counters: self.counters,
            usage: self.usage,
            numbers: self.numbers,
        });
        let door = Rc::new(Door {
            serving: Rc::clone(&serving),
            admissions: Arc::clone(&self.admissions),
            tls: self.tls,
            streams: self.streams.on_shard(local.number()),
            drain: self.drain.clone(),
            public_port: self.public_port,
        });
        local.spawn(tend(door.streams.clone(), wiring.errands));
        let member = Member::new(local, &door, wiring.sockets);
        match wiring.part {
            Part::Follow(follower) => {
                local.spawn(follower.run(member, self.drain));
            }
            Part::Conduct(conducting) => {
                let Conducting {
                    shards,
                    node,
                    state,
                    source,
                    others,
                    begin,
                    status,
                    requests,
                    certificates,
                    keys,
                    last,
                } = *conducting;
                let parts = Parts {
                    shards,
                    node,
                    state,
                    source: local.spawn(source),
                    udp_ports: UdpPorts::new(Rc::clone(&serving), self.drain.clone(), self.tcp),
                    ports: TcpPorts::new(Rc::clone(&serving), self.admissions, self.drain, self.tcp),
                    serving,
                    member,
                    others,
                    open: self.open,
                    begin,
                    status,
                    requests,
                    certificates: Refreshing::new(certificates),
                    keys,
                    last,
                };
                local.spawn(Conductor::new(local.clone(), parts).run());
            }
        }
    }
}
