//! A gateway, an agent, and plans that the test changes.

use std::{
    future::Future,
    io,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use kakuremichi_core::{
    id::{AgentId, GatewayId, OrganizationId, PeerId, RouteId, ServiceId, TargetId},
    key::IdentityKey,
    model::{HealthCheck, IdentityForm, TargetAddress, TargetScheme, Transport, VirtualPort},
    net::Cidr,
    plan::{
        AgentGateway, AgentNode, AgentPlan, AgentRecord, AgentService, AgentTarget, GatewayNode, GatewayPeer,
        GatewayPlan, GatewayRecord, GatewayService, Plan, PlannedKind, PlannedPool, PlannedRoute,
        PlannedTarget, Revision, Via,
    },
    policy::Policy,
};
use kakuremichi_tunnel::{
    agent::{Agent, LanePreference},
    gateway::{Gateway, GatewayBuilder, GatewayStatus, LaneKind},
    link::{FixedPlan, LinkEnd, LinkStatus, NodeRecord, PlanSource, SetupError, SourceFuture, Supply},
    state::StateDir,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) const HOST: &str = "app.example.net";
const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([1; 16]);
const GATEWAY: GatewayId = GatewayId::from_bytes([2; 16]);
pub(crate) const AGENT: AgentId = AgentId::from_bytes([3; 16]);
const GATEWAY_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const AGENT_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);

/// Nothing takes longer.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("it takes too long")
}

/// A source whose plan the test changes.
#[derive(Debug)]
pub(crate) struct Changing<R: NodeRecord>(pub(crate) watch::Receiver<Plan<R>>);

impl<R: NodeRecord> PlanSource<R> for Changing<R> {
    fn open(&self, supply: Supply<R>) -> Result<SourceFuture, SetupError> {
        let mut plans = self.0.clone();
        supply.set_status(LinkStatus::Fixed);
        supply.publish(plans.borrow_and_update().clone());
        Ok(Box::pin(async move {
            loop {
                tokio::select! {
                    changed = plans.changed() => match changed {
                        Ok(()) => {
                            let plan = plans.borrow_and_update().clone();
                            supply.publish(plan);
                        }
                        Err(_) => {
                            supply.stopping().await;
                            return LinkEnd::Stopped;
                        }
                    },
                    () = supply.stopping() => return LinkEnd::Stopped,
                }
            }
        }))
    }
}

/// A service with targets that the agent dials.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) number: u8,
    pub(crate) port: Option<u16>,
    pub(crate) transport: Transport,
    pub(crate) policy: Policy,
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) health: Option<HealthCheck>,
}

impl Published {
    /// A public HTTP service at [`HOST`].
    pub(crate) fn http(targets: Vec<SocketAddr>) -> Self {
        Self {
            number: 1,
            port: None,
            transport: Transport::Tcp,
            policy: Policy::public(),
            targets,
            health: None,
        }
    }

    /// A public TCP service.
    pub(crate) fn tcp(number: u8, port: u16, target: SocketAddr) -> Self {
        Self {
            number,
            port: Some(port),
            ..Self::http(vec![target])
        }
    }

    /// A public UDP service.
    pub(crate) fn udp(number: u8, port: u16, target: SocketAddr) -> Self {
        Self {
            transport: Transport::Udp,
            ..Self::tcp(number, port, target)
        }
    }

    fn target(&self, index: usize) -> (TargetId, VirtualPort) {
        let index = u8::try_from(index).unwrap();
        let mut id = [self.number; 16];
        id[0] = index;
        let port = 2000 + u16::from(self.number) * 16 + u16::from(index);
        (TargetId::from_bytes(id), VirtualPort::new(port).unwrap())
    }

    fn pool(&self) -> PlannedPool {
        let target = |index| {
            let (id, port) = self.target(index);
            PlannedTarget {
                id,
                via: Via::Agent { agent: AGENT, port },
                scheme: TargetScheme::Plain,
                server_name: None,
                checked: self.health.is_some(),
            }
        };
        PlannedPool {
            targets: (0..self.targets.len()).map(target).collect(),
        }
    }

    pub(crate) fn for_gateway(&self) -> GatewayRecord {
        GatewayRecord::Service(GatewayService {
            id: ServiceId::from_bytes([self.number; 16]),
            organization: ORGANIZATION,
            name: format!("service-{}", self.number).parse().unwrap(),
            kind: match self.port {
                Some(port) if self.transport == Transport::Udp => PlannedKind::Udp {
                    port,
                    pool: self.pool(),
                },
                Some(port) => PlannedKind::Tcp {
                    port,
                    pool: self.pool(),
                },
                None => PlannedKind::Http {
                    hosts: vec![HOST.parse().unwrap()],
                    routes: vec![PlannedRoute {
                        id: RouteId::from_bytes([self.number; 16]),
                        path: "/".parse().unwrap(),
                        pool: self.pool(),
                        policies: Vec::new(),
                    }],
                    identity: IdentityForm::default(),
                },
            },
            policy: self.policy.clone(),
            policies: Vec::new(),
        })
    }

    pub(crate) fn for_agent(&self) -> AgentRecord {
        let target = |(index, address): (usize, &SocketAddr)| {
            let (id, port) = self.target(index);
            let address = address.to_string().parse().unwrap();
            AgentTarget {
                id,
                port,
                address: match self.transport {
                    Transport::Tcp => TargetAddress::Tcp(address),
                    Transport::Udp => TargetAddress::Udp(address),
                },
                tls: false,
                health: self.health.clone(),
            }
        };
        AgentRecord::Service(AgentService {
            id: ServiceId::from_bytes([self.number; 16]),
            name: format!("service-{}", self.number).parse().unwrap(),
            transport: self.transport,
            hosts: if self.port.is_none() {
                vec![HOST.parse().unwrap()]
            } else {
                Vec::new()
            },
            port: self.port,
            urls: Vec::new(),
            targets: self.targets.iter().enumerate().map(target).collect(),
        })
    }
}

/// How the agent differs from an ordinary one.
struct Variant {
    lane: LanePreference,
    /// Who stands before the gateway's HTTPS port.
    between: Option<fn(SocketAddr) -> SocketAddr>,
    /// The gateway's plan has the agent's own identity.
    known: bool,
    comes_up: bool,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            lane: LanePreference::Auto,
            between: None,
            known: true,
            comes_up: true,
        }
    }
}

impl Variant {
    fn tls() -> Self {
        Self {
            lane: LanePreference::Tls,
            ..Self::default()
        }
    }
}

/// A gateway and an agent.
pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    pub(crate) agent: Option<Agent>,
    gateway_plan: watch::Sender<GatewayPlan>,
    agent_plan: watch::Sender<AgentPlan>,
    peers: Vec<GatewayRecord>,
    streams: SocketAddr,
    revision: Mutex<u64>,
    directory: TempDir,
}

impl Scene {
    /// Starts both with these services, and waits for the lane.
    pub(crate) async fn start(services: &[Published]) -> Self {
        Self::with(services, |builder| builder).await
    }

    pub(crate) async fn with(
        services: &[Published],
        set: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
    ) -> Self {
        Self::prepared(services, set, Variant::default()).await
    }

    /// Both, with an agent that takes its flows over TLS streams only.
    pub(crate) async fn over_tls(services: &[Published]) -> Self {
        Self::prepared(services, |gateway| gateway, Variant::tls()).await
    }

    /// The same, with a gateway that is set otherwise.
    pub(crate) async fn over_tls_with(
        services: &[Published],
        set: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
    ) -> Self {
        let scene = Self::prepared(services, set, Variant::tls()).await;
        // Until the gateway has heard which lane the agent wants, a flow may take the other one.
        scene
            .status(|status| status.peers[0].kind == LaneKind::TlsStream)
            .await;
        scene
    }

    /// The same, with somebody between the agent and the gateway's HTTPS port.
    pub(crate) async fn over_tls_by(services: &[Published], between: fn(SocketAddr) -> SocketAddr) -> Self {
        let variant = Variant {
            between: Some(between),
            ..Variant::tls()
        };
        Self::prepared(services, |gateway| gateway, variant).await
    }

    /// The same, where no lane will ever be up.
    pub(crate) async fn intercepted(between: fn(SocketAddr) -> SocketAddr) -> Self {
        let variant = Variant {
            between: Some(between),
            comes_up: false,
            ..Variant::tls()
        };
        Self::prepared(&[], |gateway| gateway, variant).await
    }

    /// Both, with a gateway that takes the agent for somebody else. No lane will ever be up.
    pub(crate) async fn with_a_stranger() -> Self {
        let variant = Variant {
            known: false,
            comes_up: false,
            ..Variant::tls()
        };
        Self::prepared(&[], |gateway| gateway, variant).await
    }

    async fn prepared(
        services: &[Published],
        set: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
        variant: Variant,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (gateway_state, agent_state) = (state(&directory, "gateway"), state(&directory, "agent"));
        let agent_keys = agent_state.keys().unwrap();
        let peers = vec![
            GatewayRecord::Node(GatewayNode {
                id: GATEWAY,
                organization: ORGANIZATION,
                name: "gate".parse().unwrap(),
                address: GATEWAY_ADDRESS,
                address_v4: "100.64.0.1".parse().unwrap(),
            }),
            GatewayRecord::Peer(GatewayPeer {
                id: PeerId::Agent(AGENT),
                name: "edge".parse().unwrap(),
                identity: Some(if variant.known {
                    agent_keys.identity()
                } else {
                    IdentityKey::from_bytes([9; 32])
                }),
                wireguard: agent_keys.wireguard(),
                address: AGENT_ADDRESS,
                allowed_ips: vec![Cidr::host(AGENT_ADDRESS.into())],
                endpoint: None,
            }),
        ];
        let (gateway_plan, plans) = watch::channel(GatewayPlan::new(
            Revision(1),
            peers
                .iter()
                .cloned()
                .chain(services.iter().map(Published::for_gateway)),
        ));
        let gateway = set(builder(plans)).state(gateway_state).spawn().await.unwrap();
        let streams = gateway.https_address();
        let streams = variant.between.map_or(streams, |between| between(streams));
        let (agent_plan, plans) = watch::channel(agent_records(1, &gateway, streams, services));
        let agent = Agent::with_source(Changing(plans))
            .lane(variant.lane)
            .state(agent_state)
            .spawn()
            .await
            .unwrap();
        let scene = Self {
            gateway,
            agent: Some(agent),
            gateway_plan,
            agent_plan,
            peers,
            streams,
            revision: Mutex::new(1),
            directory,
        };
        if variant.comes_up {
            scene.online().await;
        }
        scene
    }

    /// Waits until the lane is up at both ends.
    pub(crate) async fn online(&self) {
        soon(self.status(|status| status.peers.iter().any(is_up))).await;
        soon(self.agent.as_ref().unwrap().online()).await;
    }

    /// Waits for a status of the gateway's.
    pub(crate) async fn status(&self, holds: impl Fn(&GatewayStatus) -> bool) {
        let mut status = self.gateway.watch_status();
        soon(status.wait_for(|status| holds(status))).await.unwrap();
    }

    /// Publishes other services.
    pub(crate) async fn publish(&self, services: &[Published]) {
        let revision = self.next();
        self.agent_plan
            .send_replace(agent_records(revision, &self.gateway, self.streams, services));
        self.publish_gateway(revision, services.iter().map(Published::for_gateway))
            .await;
    }

    /// Publishes other services at the agent only.
    pub(crate) fn publish_agent(&self, services: &[Published]) {
        let plan = agent_records(self.next(), &self.gateway, self.streams, services);
        self.agent_plan.send_replace(plan);
    }

    /// Takes the agent out of the gateway's plan.
    pub(crate) async fn revoke(&self, services: &[Published]) {
        let revision = self.next();
        let node = self
            .peers
            .iter()
            .filter(|record| matches!(record, GatewayRecord::Node(_)));
        let services = services.iter().map(Published::for_gateway);
        let plan = GatewayPlan::new(Revision(revision), node.cloned().chain(services));
        self.gateway_plan.send_replace(plan);
        self.status(|status| status.revision == Some(Revision(revision)))
            .await;
    }

    /// Adds records to the gateway's plan only.
    pub(crate) async fn publish_records(&self, records: impl IntoIterator<Item = GatewayRecord>) {
        let revision = self.next();
        self.publish_gateway(revision, records).await;
    }

    async fn publish_gateway(&self, revision: u64, records: impl IntoIterator<Item = GatewayRecord>) {
        let records = self.peers.iter().cloned().chain(records);
        self.gateway_plan
            .send_replace(GatewayPlan::new(Revision(revision), records));
        self.status(|status| status.revision == Some(Revision(revision)))
            .await;
    }

    fn next(&self) -> u64 {
        let mut revision = self.revision.lock().unwrap();
        *revision += 1;
        *revision
    }

    /// The plan that the gateway has.
    pub(crate) fn plan(&self) -> GatewayPlan {
        self.gateway_plan.borrow().clone()
    }

    pub(crate) fn gateway_state(&self) -> PathBuf {
        self.directory.path().join("gateway")
    }

    /// A TLS connection to the gateway for `name`.
    pub(crate) async fn tls(&self, name: &str, alpn: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.gateway.https_address()).await?;
        let connector = TlsConnector::from(client(self.gateway.ca_certificate().unwrap(), alpn));
        connector
            .connect(ServerName::try_from(name.to_owned()).unwrap(), stream)
            .await
    }

    /// One GET over HTTPS, and all that comes back.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = self.tls(HOST, &[b"http/1.1"]).await.unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

pub(crate) fn is_up(peer: &kakuremichi_tunnel::gateway::PeerStatus) -> bool {
    matches!(peer.state, kakuremichi_tunnel::gateway::PeerState::Up { .. })
}

pub(crate) fn state(directory: &TempDir, name: &str) -> StateDir {
    StateDir::open(&directory.path().join(name)).unwrap()
}

/// A gateway on ports of the system's choice.
pub(crate) fn builder(plans: watch::Receiver<GatewayPlan>) -> GatewayBuilder {
    local(Gateway::builder(Changing(plans)))
}

fn local(builder: GatewayBuilder) -> GatewayBuilder {
    builder
        .http("127.0.0.1:0")
        .https("127.0.0.1:0")
        .wireguard("127.0.0.1:0")
}

/// A gateway that runs on what another one left.
pub(crate) async fn again(plan: GatewayPlan, path: &Path, wireguard: SocketAddr) -> Gateway {
    let builder = local(Gateway::builder(FixedPlan::new(plan))).wireguard(&wireguard.to_string());
    soon(builder.state_dir(path).spawn()).await.unwrap()
}

fn agent_records(revision: u64, gateway: &Gateway, streams: SocketAddr, services: &[Published]) -> AgentPlan {
    let node = AgentNode {
        id: AGENT,
        organization: ORGANIZATION,
        name: "edge".parse().unwrap(),
        address: AGENT_ADDRESS,
    };
    let gateway = AgentGateway {
        id: GATEWAY,
        name: "gate".parse().unwrap(),
        identity: gateway.identity(),
        wireguard: gateway.wireguard_key(),
        address: GATEWAY_ADDRESS,
        endpoints: vec![gateway.wireguard_addresses()[0].to_string().parse().unwrap()],
        streams: vec![streams.to_string().parse().unwrap()],
    };
    let records = [AgentRecord::Node(node), AgentRecord::Gateway(gateway)];
    AgentPlan::new(
        Revision(revision),
        records
            .into_iter()
            .chain(services.iter().map(Published::for_agent)),
    )
}

/// A client that trusts the gateway's CA and nobody else.
pub(crate) fn client(ca: &str, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// A target that answers each connection's first request with `text`, and closes.
pub(crate) async fn saying(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let length = text.len() + head.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.write_all(&head).await;
            });
        }
    });
    address
}

/// A target that sends back what it gets, to the end.
pub(crate) async fn echoing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reading, mut writing) = stream.split();
                let _ = tokio::io::copy(&mut reading, &mut writing).await;
                let _ = writing.shutdown().await;
            });
        }
    });
    address
}

/// A port that is free, for TCP and for UDP, and stays so: the system chooses ports above it, and no other test of
/// this process is given it.
pub(crate) async fn free_port() -> u16 {
    static GIVEN: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 100).unwrap() * 100;
    loop {
        let port = 20_000 + (first + GIVEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) % 10_000;
        let tcp = TcpListener::bind(("127.0.0.1", port)).await;
        let udp = tokio::net::UdpSocket::bind(("127.0.0.1", port)).await;
        if tcp.is_ok() && udp.is_ok() {
            return port;
        }
    }
}
