//! How a gateway starts: everything that can fail, before its shards have anything to do.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use data_encoding::BASE32_NOPAD;
use kakuremichi_core::{
    model::Role,
    name::{Hostname, Label, NameError},
    net::Endpoint,
};
use kakuremichi_proto::report::{GatewayInfo, NodeInfo};
use tokio::sync::{mpsc, oneshot, watch};

use super::{GatewayBuilder, SpawnError, State, WIREGUARD};
use crate::{
    crypto,
    engine::{self, BuildShard, LocalShard, ShardConfig, ShardSetHandle},
    gateway::{
        Gateway,
        access::{AccessControl, Hooks, wall_clock},
        blueprint::{Blueprint, Conducting, Part, Wiring},
        certificates::{CertificateSource, Certificates, LocalCa, LocalCaError, Resolver},
        drain::drain,
        draining::DrainingAgents,
        flows::Total,
        geo::Geo,
        handle::Inner,
        health::SharedHealth,
        http::TargetTls,
        ingress::{Admissions, bind_all, https::Spoken},
        lanes::Lanes,
        member::others,
        metrics::Counters,
        network,
        per_address::PerAddress,
        serving::Numbers,
        settings::Limits,
        siblings::Siblings,
        sign_in::{SignInDesk, SigningKeys},
        status::{GatewayStatus, Phase},
        streams::Streams,
        table::RouteTable,
    },
    keys::{self, NodeKeys},
    link::{self, LinkStatus, OwnKeys},
    state::{PEERS, StateDir},
    streams::tls,
};

/// The requests of handles that wait for the gateway; further ones wait with their callers.
const REQUESTS: usize = 16;

/// What the flows of each shard may hold in memory unless something else is set, in bytes.
const SHARD_MEMORY: usize = 512 << 20;

impl GatewayBuilder {
    pub(super) fn start(self) -> Result<Gateway, SpawnError> {
        let wireguard = self.wireguard.get()?;
        let tcp = match self.tcp {
            Some(address) => address,
            None => self.https.get()?.ip(),
        };
        let shards = self.shards.unwrap_or_else(cores);
        if !(1..=Self::MAX_SHARDS).contains(&shards) {
            return Err(engine::SpawnError::Shards(shards.into()).into());
        }
        let (https, https_address) = bind_all(self.https.get()?, shards)?;
        let http = self.http.as_ref().map(|given| {
            let given = given.get()?;
            bind_all(given, shards).map_err(SpawnError::from)
        });
        let (http, http_address) = http.transpose()?.unzip();
        let state = match self.state {
            State::Path(path) => StateDir::open(&path)?,
            State::Open(state) => state,
        };
        let (ring, previous_until) = state.key_ring(wall_clock())?;
        let keys = ring.current();
        let name = match self.name {
            Some(name) => name.map_err(SpawnError::Name)?,
            None => presumed_name(&keys).map_err(SpawnError::Name)?,
        };
        let provider = self.provider.unwrap_or_else(crypto::default_provider);
        let table: Arc<ArcSwap<RouteTable>> = Arc::default();
        let (certificates, ca) = certificates(self.certificates, &state, &self.limits)?;
        let lane_tls = tls::server_configs(&provider)?;
        let tls = Resolver::server_config(
            Arc::clone(&table),
            Arc::clone(&certificates),
            Arc::clone(&provider),
        )?;
        let target_tls = TargetTls::new(provider, self.roots.unwrap_or_else(link::system_roots))?;
        // The system may choose the port, which agents are told: the socket comes before them.
        let mut config = ShardConfig::new(
            "gateway",
            ring.held().first_wireguard(),
            vec![wireguard],
            keys::random()?,
        );
        let flows = &mut config.flows.limits;
        flows.memory = match self.limits.flow_memory {
            Some(bytes) => bytes / usize::from(shards),
            None => SHARD_MEMORY,
        };
        flows.memory_per_peer = self.limits.flow_memory_per_peer;
        flows.accepted_per_second = self.limits.flows_per_second_of_peer;
        let public_port = self.public_https.unwrap_or_else(|| https_address.port());
        let counters: Arc<Counters> = Arc::default();
        let hooks = Hooks {
            geo: Geo::open(self.geo).map_err(engine::SpawnError::Thread)?,
            ..self.hooks
        };
        let access = AccessControl::new(
            &self.limits,
            &self.timeouts,
            hooks,
            &keys::random()?,
            Arc::clone(&counters),
        );
        let signing = SigningKeys::open(&state, wall_clock())?;
        let sign_in = Arc::new(SignInDesk::new(signing, public_port));
        let (begin, drain) = drain();
        let (streams, errands) = Streams::new(
            ring.clone(),
            lane_tls,
            names(&self.public),
            &self.limits,
            Arc::clone(&counters),
            shards.into(),
        );
        let blueprint = Blueprint {
            table,
            tls,
            streams: streams.clone(),
            target_tls: Arc::new(target_tls),
            access: Arc::new(access),
            sign_in: Arc::clone(&sign_in),
            requests: PerAddress::new(self.limits.requests_per_address),
            draining: DrainingAgents::default(),
            health: SharedHealth::default(),
            admissions: Arc::new(Admissions::new(&self.limits, Arc::clone(&counters))),
            usage: Arc::default(),
            open: Total::default(),
            drain,
            numbers: Numbers::new(u64::from_be_bytes(keys::random()?)),
            timeouts: self.timeouts,
            limits: self.limits,
            counters: Arc::clone(&counters),
            public_port,
            tcp,
        };
        let siblings = Siblings::new(&self.limits, Arc::clone(&counters));
        let (requests, requested) = mpsc::channel(REQUESTS);
        let (status, statuses) = watch::channel(Arc::new(initial()));
        let last = network::from_text(&state.read_own(PEERS)?.unwrap_or_default());
        let (timeouts, mut wires, mut builds) = (self.timeouts, Vec::new(), Vec::new());
        for _ in 0..shards {
            let (wire, wired) = oneshot::channel();
            wires.push(wire);
            builds.push(build_shard(blueprint.clone(), wired));
        }
        let shards = ShardSetHandle::spawn(&config, builds)?;
        let info = NodeInfo {
            software: self.software,
            gateway: Some(GatewayInfo {
                endpoints: endpoints(&self.public, shards.local_addresses())?,
                https_port: public_port,
            }),
        };
        let own = OwnKeys {
            ring: ring.clone(),
            previous_until,
            rotate_after: self.rotate_keys_after,
        };
        let (supply, node) = link::supply(Role::Gateway, name, own, state.clone(), info);
        let inner = Inner {
            requests,
            status: statuses,
            counters,
            http: http_address,
            https: https_address,
            ca,
            keys: ring.clone(),
            rotations: node.rotations.clone(),
        };
        let source = self.source.open(supply)?;
        let (others, followers) = others(wires.len() - 1, &status);
        let conducting = Conducting {
            shards: shards.downgrade(),
            node,
            state,
            source,
            others,
            begin,
            status,
            requests: requested,
            certificates,
            keys: ring,
            last,
        };
        let parts = [Part::Conduct(Box::new(conducting))]
            .into_iter()
            .chain(followers.into_iter().map(Part::Follow));
        let lanes = Lanes::new(
            shards.downgrade(),
            streams,
            siblings,
            (timeouts.connect, timeouts.tcp_idle),
        );
        let mut http = http.unwrap_or_default().into_iter();
        let wires = wires.into_iter().zip(errands);
        for (((wire, errands), part), https) in wires.zip(parts).zip(https) {
            let http = http.next().map(|bound| (bound, Spoken::Http));
            let wiring = Wiring {
                lanes: lanes.clone(),
                errands,
                sockets: http.into_iter().chain([(https, Spoken::Https)]).collect(),
                part,
            };
            // The shards run as long as the handle that is returned.
            let _ = wire.send(wiring);
        }
        Ok(Gateway::new(shards, inner))
    }
}

/// What a shard begins with: it waits for what needs the shards' own addresses to be made. That may also
/// fail, and there is none.
fn build_shard(blueprint: Blueprint, wired: oneshot::Receiver<Wiring>) -> BuildShard {
    Box::new(move |local: LocalShard| {
        let start = local.clone();
        local.spawn(async move {
            if let Ok(wiring) = wired.await {
                blueprint.build(&start, wiring);
            }
        });
    })
}

/// As many shards as the process may use cores.
fn cores() -> u8 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u8::try_from(cores)
        .unwrap_or(u8::MAX)
        .min(GatewayBuilder::MAX_SHARDS)
}

fn certificates(
    certificates: Certificates,
    state: &StateDir,
    limits: &Limits,
) -> Result<(Arc<dyn CertificateSource>, Option<String>), LocalCaError> {
    match certificates {
        Certificates::LocalCa => {
            let ca = LocalCa::open(state, limits.certificates)?;
            let pem = ca.pem().to_owned();
            Ok((Arc::new(ca), Some(pem)))
        }
        Certificates::Source(source) => Ok((source, None)),
    }
}

/// Where agents find the gateway.
fn endpoints(public: &[String], bound: &[SocketAddr]) -> Result<Vec<Endpoint>, SpawnError> {
    let port = bound.first().map_or(WIREGUARD, SocketAddr::port);
    if public.is_empty() {
        let certain = bound.iter().filter(|address| !address.ip().is_unspecified());
        return Ok(certain
            .map(|address| Endpoint {
                host: kakuremichi_core::net::Host::Address(address.ip()),
                port: address.port(),
            })
            .collect());
    }
    public
        .iter()
        .map(|text| {
            Endpoint::parse_with_port(text, port).map_err(|_| SpawnError::PublicAddress(text.clone()))
        })
        .collect()
}

/// The names among the public addresses.
fn names(public: &[String]) -> Vec<Hostname> {
    let host = |text: &String| match Endpoint::parse_with_port(text, WIREGUARD).ok()?.host {
        kakuremichi_core::net::Host::Name(name) => Some(name),
        kakuremichi_core::net::Host::Address(_) => None,
    };
    public.iter().filter_map(host).collect()
}

/// `gateway-` and the start of the node's identity: another name for each gateway.
fn presumed_name(keys: &NodeKeys) -> Result<Label, NameError> {
    let identity = BASE32_NOPAD.encode(&keys.identity().as_bytes()[..5]);
    format!("gateway-{identity}").parse()
}

fn initial() -> GatewayStatus {
    GatewayStatus {
        phase: Phase::Running,
        link: LinkStatus::Idle,
        revision: None,
        settled: false,
        peers: Vec::new(),
        siblings: Vec::new(),
        services: Arc::default(),
        ports: Vec::new(),
        certificates: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_told_public_addresses_or_certain_ones() {
        let bound = ["127.0.0.1:1".parse().unwrap(), "[::]:1".parse().unwrap()];
        let told = |public: &[&str]| {
            let public: Vec<String> = public.iter().map(ToString::to_string).collect();
            let told = endpoints(&public, &bound)?;
            Ok::<_, SpawnError>(told.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(told(&[]).unwrap(), ["127.0.0.1:1"]);
        assert_eq!(
            told(&["gw.example.net", "[2001:db8::1]:7"]).unwrap(),
            ["gw.example.net:1", "[2001:db8::1]:7"]
        );
        assert!(matches!(told(&["no good"]), Err(SpawnError::PublicAddress(text)) if text == "no good"));
    }
}
