//! Puts a gateway together, on its shard's thread.

use std::{net::IpAddr, rc::Rc, sync::Arc};

use arc_swap::ArcSwap;
use kakuremichi_core::plan::GatewayRecord;
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    access::{AccessControl, Hooks},
    conductor::{Conductor, Parts, Request},
    drain::drain,
    http::TargetTls,
    ingress::{
        Admissions, Bound,
        https::{Door, Spoken, listen},
        tcp::TcpPorts,
    },
    lanes::Lanes,
    metrics::Counters,
    network,
    per_address::PerAddress,
    serving::{Numbers, Serving},
    settings::{Limits, Timeouts},
    status::GatewayStatus,
    table::RouteTable,
};
use crate::{
    engine,
    link::{self, SourceFuture},
    state::StateDir,
};

/// What is put together on the shard's thread.
pub(super) struct Blueprint {
    pub(super) table: Arc<ArcSwap<RouteTable>>,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) target_tls: TargetTls,
    pub(super) hooks: Hooks,
    pub(super) access_key: [u8; 32],
    pub(super) numbers: Numbers,
    pub(super) timeouts: Timeouts,
    pub(super) limits: Limits,
    pub(super) counters: Arc<Counters>,
    pub(super) public_port: u16,
    pub(super) tcp: IpAddr,
}

/// What could only be made once the shard was there.
pub(super) struct Wiring {
    pub(super) node: link::NodeSide<GatewayRecord>,
    pub(super) state: StateDir,
    pub(super) source: SourceFuture,
    pub(super) http: Option<Bound>,
    pub(super) https: Bound,
}

impl Blueprint {
    /// Puts it together. What is missing is given by the one who started the shard.
    pub(super) fn build(
        self,
        local: &engine::LocalShard,
        wiring: Wiring,
        status: watch::Sender<Arc<GatewayStatus>>,
        requests: mpsc::Receiver<Request>,
        last: network::Endpoints,
    ) {
        let lanes = Lanes::new(
            local.shard().clone(),
            self.timeouts.connect,
            self.timeouts.tcp_idle,
        );
        let access = AccessControl::new(
            &self.limits,
            &self.timeouts,
            self.hooks,
            &self.access_key,
            Arc::clone(&self.counters),
        );
        let serving = Rc::new(Serving {
            upstream: lanes,
            table: self.table,
            access,
            requests: PerAddress::new(self.limits.requests_per_address),
            flows: Rc::default(),
            draining: Rc::default(),
            health: std::cell::RefCell::default(),
            target_tls: self.target_tls,
            timeouts: self.timeouts,
            limits: self.limits,
            counters: Arc::clone(&self.counters),
            usage: Arc::default(),
            numbers: self.numbers,
        });
        let (begin, drain) = drain();
        let admissions = Rc::new(Admissions::new(&self.limits, self.counters));
        let door = Rc::new(Door {
            serving: Rc::clone(&serving),
            admissions: Rc::clone(&admissions),
            tls: self.tls,
            drain: drain.clone(),
            public_port: self.public_port,
        });
        let mut listeners = JoinSet::new();
        let sockets = [(Some(wiring.https), Spoken::Https), (wiring.http, Spoken::Http)];
        for (bound, spoken) in sockets {
            let Some(bound) = bound else { continue };
            match TcpListener::from_std(bound.listener) {
                Ok(listener) => {
                    listeners.spawn_local(listen(listener, spoken, Rc::clone(&door)));
                }
                Err(error) => tracing::error!(address = %bound.address, %error, "cannot listen"),
            }
        }
        let parts = Parts {
            node: wiring.node,
            state: wiring.state,
            source: local.spawn(wiring.source),
            ports: TcpPorts::new(Rc::clone(&serving), admissions, drain, self.tcp),
            serving,
            listeners,
            begin,
            status,
            requests,
            last,
        };
        local.spawn(Conductor::new(local.clone(), parts).run());
    }
}
