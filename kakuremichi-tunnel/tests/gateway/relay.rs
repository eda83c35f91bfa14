//! Two gateways and an agent: what one gateway cannot reach, the other passes on.

use std::{
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use kakuremichi_core::{
    id::{GatewayId, PeerId},
    net::{Cidr, Endpoint},
    plan::{
        AgentGateway, AgentNode, AgentPlan, AgentRecord, GatewayNode, GatewayPeer, GatewayPlan,
        GatewayRecord, GatewaySibling, Revision,
    },
};
use kakuremichi_tunnel::{
    agent::{Agent, LanePreference},
    gateway::{Gateway, GatewayStatus, PeerState},
};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::TlsConnector;

use crate::scene::{
    AGENT, AGENT_ADDRESS, Changing, HOST, ORGANIZATION, Published, builder, client, echoing, free_port,
    is_up, saying, soon, state,
};
use crate::udp;

const IDS: [GatewayId; 2] = [GatewayId::from_bytes([2; 16]), GatewayId::from_bytes([4; 16])];
const ADDRESSES: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 4),
];

/// Two gateways, and an agent that at first reaches only the second.
struct Pair {
    gateways: Vec<Gateway>,
    plans: [watch::Sender<GatewayPlan>; 2],
    agent: Agent,
    agent_plan: watch::Sender<AgentPlan>,
    peer: GatewayRecord,
    siblings: [GatewayRecord; 2],
    services: Vec<Published>,
    revision: u64,
    /// Swallows what the agent sends to the first gateway.
    _hole: UdpSocket,
    _directory: TempDir,
}

impl Pair {
    async fn start(services: &[Published]) -> Self {
        Self::with(services, LanePreference::WireGuard).await
    }

    async fn with(services: &[Published], lane: LanePreference) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let agent_state = state(&directory, "agent");
        let agent_keys = agent_state.keys().unwrap();
        let peer = GatewayRecord::Peer(GatewayPeer {
            id: PeerId::Agent(AGENT),
            name: "edge".parse().unwrap(),
            identity: Some(agent_keys.identity()),
            wireguard: agent_keys.wireguard(),
            address: AGENT_ADDRESS,
            allowed_ips: vec![Cidr::host(AGENT_ADDRESS.into())],
            endpoint: None,
        });
        let (one, first) = watch::channel(GatewayPlan::default());
        let (two, second) = watch::channel(GatewayPlan::default());
        let mut gateways = Vec::new();
        for (number, plans) in [(0, first), (1, second)] {
            // Each has the same port of a TCP service.
            let https = format!("127.0.0.{}:0", number + 1);
            let builder = builder(plans).https(&https);
            let state = state(&directory, &format!("gateway-{number}"));
            gateways.push(builder.state(state).spawn().await.unwrap());
        }
        let sibling = |number: usize| {
            GatewayRecord::Sibling(GatewaySibling {
                id: IDS[number],
                organization: ORGANIZATION,
                name: format!("gate-{number}").parse().unwrap(),
                wireguard: gateways[number].wireguard_key(),
                address: ADDRESSES[number],
                endpoints: vec![endpoint(gateways[number].wireguard_addresses()[0])],
            })
        };
        let siblings = [sibling(0), sibling(1)];
        let hole = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (agent_plan, plans) = watch::channel(AgentPlan::default());
        let agent = Agent::with_source(Changing(plans)).lane(lane).state(agent_state);
        let mut pair = Self {
            siblings,
            gateways,
            plans: [one, two],
            agent: agent.spawn().await.unwrap(),
            agent_plan,
            peer,
            services: services.to_vec(),
            revision: 0,
            _hole: hole,
            _directory: directory,
        };
        pair.publish();
        let hole = pair._hole.local_addr().unwrap();
        pair.reach(hole, Vec::new());
        soon(pair.agent.online()).await;
        pair.status(1, |status| status.peers.iter().any(is_up)).await;
        let told = |status: &GatewayStatus| {
            let up = |state| matches!(state, PeerState::Up { .. });
            status.siblings.iter().any(|one| up(one.state) && one.agents == 1)
        };
        pair.status(0, told).await;
        pair
    }

    /// Publishes the services at both gateways.
    fn publish(&mut self) {
        for number in [0, 1] {
            self.publish_at(number, &self.services.clone());
        }
    }

    fn publish_at(&mut self, number: usize, services: &[Published]) {
        self.revision += 1;
        let node = GatewayRecord::Node(GatewayNode {
            id: IDS[number],
            organization: ORGANIZATION,
            name: format!("gate-{number}").parse().unwrap(),
            address: ADDRESSES[number],
            address_v4: [100, 64, 0, number as u8 + 1].into(),
        });
        let records = [node, self.peer.clone(), self.siblings[1 - number].clone()];
        let services = services.iter().map(Published::for_gateway);
        let plan = GatewayPlan::new(Revision(self.revision), records.into_iter().chain(services));
        self.plans[number].send_replace(plan);
    }

    /// Tells the agent where it finds the first gateway.
    fn reach(&mut self, wireguard: SocketAddr, streams: Vec<Endpoint>) {
        self.revision += 1;
        let node = AgentRecord::Node(AgentNode {
            id: AGENT,
            organization: ORGANIZATION,
            name: "edge".parse().unwrap(),
            address: AGENT_ADDRESS,
        });
        let gateway = |number: usize, at: SocketAddr, streams: Vec<Endpoint>| {
            let gateway = &self.gateways[number];
            AgentRecord::Gateway(AgentGateway {
                id: IDS[number],
                name: format!("gate-{number}").parse().unwrap(),
                identity: gateway.identity(),
                wireguard: gateway.wireguard_key(),
                address: ADDRESSES[number],
                endpoints: vec![endpoint(at)],
                streams,
            })
        };
        let second = self.gateways[1].wireguard_addresses()[0];
        let records = [
            node,
            gateway(0, wireguard, streams),
            gateway(1, second, vec![endpoint(self.gateways[1].https_address())]),
        ];
        let services = self.services.iter().map(Published::for_agent);
        let plan = AgentPlan::new(Revision(self.revision), records.into_iter().chain(services));
        self.agent_plan.send_replace(plan);
    }

    async fn status(&self, gateway: usize, holds: impl Fn(&GatewayStatus) -> bool) {
        let mut status = self.gateways[gateway].watch_status();
        soon(status.wait_for(|status| holds(status))).await.unwrap();
    }

    /// How many flows the first had passed on, and the second passed on.
    fn relayed(&self) -> (u64, u64) {
        let (one, two) = (self.gateways[0].metrics(), self.gateways[1].metrics());
        (one.relay_flows, two.relays_taken)
    }

    /// One GET at the first gateway.
    async fn get(&self) -> String {
        let gateway = &self.gateways[0];
        let stream = TcpStream::connect(gateway.https_address()).await.unwrap();
        let connector = TlsConnector::from(client(gateway.ca_certificate().unwrap(), &[b"http/1.1"]));
        let name = ServerName::try_from(HOST.to_owned()).unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let ask = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    address.to_string().parse().unwrap()
}

/// A visitor of a TCP service at the first gateway, whose first words came back.
async fn visitor(port: u16) -> TcpStream {
    let mut visitor = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert!(is_echoed(&mut visitor, b"hello").await);
    visitor
}

async fn is_echoed(stream: &mut TcpStream, text: &[u8]) -> bool {
    let mut back = vec![0; text.len()];
    stream.write_all(text).await.is_ok() && soon(stream.read_exact(&mut back)).await.is_ok() && back == text
}

/// LESSONS: "502 when DNS picks a gateway without the tunnel".
#[tokio::test]
async fn a_gateway_without_the_lane_serves_through_one_that_has_it() {
    let port = free_port().await;
    let services = [
        Published::http(vec![saying("relayed").await]),
        Published::tcp(2, port, echoing().await),
    ];
    let mut pair = Pair::start(&services).await;
    assert!(pair.get().await.contains("relayed"));
    assert_eq!(pair.relayed(), (1, 1));
    let mut early = visitor(port).await;
    assert_eq!(pair.relayed().1, 2);
    // The agent reaches the first gateway again: new flows go straight, what is open stays where it is.
    let first = pair.gateways[0].wireguard_addresses()[0];
    pair.reach(first, Vec::new());
    pair.status(0, |status| status.peers.iter().any(is_up)).await;
    assert!(pair.get().await.contains("relayed"));
    visitor(port).await;
    assert_eq!(pair.relayed().1, 2);
    assert!(is_echoed(&mut early, b"still here").await);
}

#[tokio::test]
async fn a_sibling_passes_on_over_tls_streams_too() {
    let port = free_port().await;
    let services = [
        Published::http(vec![saying("relayed").await]),
        Published::tcp(2, port, echoing().await),
    ];
    let pair = Pair::with(&services, LanePreference::Tls).await;
    assert!(pair.get().await.contains("relayed"));
    visitor(port).await;
    assert_eq!(pair.relayed().1, 2);
    assert!(pair.gateways[1].metrics().lane_flows >= 2);
}

/// UDP services likewise, over whichever lane the second has.
#[tokio::test]
async fn a_session_goes_through_the_gateway_that_has_the_lane() {
    for lane in [LanePreference::WireGuard, LanePreference::Tls] {
        let port = free_port().await;
        let services = [Published::udp(2, port, udp::echoing().await)];
        let mut pair = Pair::with(&services, lane).await;
        let visitor = udp::visitor(port).await;
        for length in [0, 1, 1_200, 4_000, 30_000] {
            udp::is_echoed(&visitor, &vec![length as u8; length]).await;
        }
        let second = pair.gateways[1].metrics();
        assert_eq!((second.relayed_sessions, second.relays_denied), (1, 0));
        assert_eq!(second.lane_sessions, u64::from(lane == LanePreference::Tls));
        if lane == LanePreference::Tls {
            continue;
        }
        // New sessions go straight, as soon as they can.
        let first = pair.gateways[0].wireguard_addresses()[0];
        pair.reach(first, Vec::new());
        pair.status(0, |status| status.peers.iter().any(is_up)).await;
        udp::is_echoed(&udp::visitor(port).await, b"straight").await;
        udp::is_echoed(&visitor, b"still here").await;
        assert_eq!(pair.gateways[1].metrics().relayed_sessions, 1);
    }
}

#[tokio::test]
async fn a_session_ends_when_the_siblings_plan_has_its_service_no_more() {
    let port = free_port().await;
    let mut pair = Pair::start(&[Published::udp(2, port, udp::echoing().await)]).await;
    let visitor = udp::visitor(port).await;
    udp::is_echoed(&visitor, b"hello").await;
    pair.publish_at(1, &[]);
    let revision = Revision(pair.revision);
    pair.status(1, |status| status.revision == Some(revision)).await;
    // It is not passed on any more, either, and the first gateway learns of it.
    soon(async {
        while pair.gateways[1].metrics().relays_denied == 0 || pair.gateways[0].metrics().relay_failures == 0
        {
            udp::answers(&visitor, b"gone").await;
        }
    })
    .await;
    assert!(!udp::answers(&visitor, b"late").await);
    pair.publish();
    udp::is_echoed(&visitor, b"again").await;
}

/// DESIGN, "Relay": a target that refuses is told through both gateways, and asked again.
#[tokio::test]
async fn a_refusal_comes_back_through_the_sibling() {
    let port = free_port().await;
    let target = SocketAddr::from(([127, 0, 0, 1], free_port().await));
    let pair = Pair::start(&[Published::udp(2, port, target)]).await;
    let visitor = udp::visitor(port).await;
    soon(async {
        while pair.gateways[0].metrics().udp_refusals == 0 {
            udp::answers(&visitor, b"anybody?").await;
        }
    })
    .await;
    let server = tokio::net::UdpSocket::bind(target).await.unwrap();
    tokio::spawn(udp::echo(server));
    udp::is_echoed(&visitor, b"at last").await;
}

/// DESIGN, invariant 5: what is open is judged again when the plan changes, at the sibling too.
#[tokio::test]
async fn a_flow_ends_when_the_siblings_plan_has_its_service_no_more() {
    let port = free_port().await;
    let mut pair = Pair::start(&[Published::tcp(2, port, echoing().await)]).await;
    let mut visitor = visitor(port).await;
    pair.publish_at(1, &[]);
    let revision = Revision(pair.revision);
    pair.status(1, |status| status.revision == Some(revision)).await;
    assert!(!is_echoed(&mut visitor, b"gone").await);
    // It is not passed on any more, either, and the first gateway learns why.
    let mut late = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert!(!is_echoed(&mut late, b"late").await);
    let denied = || pair.gateways[1].metrics().relays_denied == 1;
    // Of the early one it was no failure to be opened, of the late one it was.
    let failed = || pair.gateways[0].metrics().relay_failures > 0;
    soon(async {
        while !(denied() && failed()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn bytes_are_complete_and_each_direction_ends_by_itself() {
    let port = free_port().await;
    let pair = Pair::start(&[Published::tcp(2, port, echoing().await)]).await;
    let mut visitor = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let sent: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut reading, mut writing) = visitor.split();
    let write = async {
        writing.write_all(&sent).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, read) = soon(async { tokio::join!(write, reading.read_to_end(&mut back)) }).await;
    read.unwrap();
    assert!(back == sent);
    let relayed = || pair.gateways[1].metrics().relayed_bytes;
    soon(async {
        while relayed() < 2 * sent.len() as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// DESIGN, invariant 4: losing a gateway costs what was in flight there. Whoever stops in order costs
/// nothing: it waits for what it passes on, and takes nothing new.
#[tokio::test]
async fn a_sibling_that_stops_finishes_what_it_passes_on() {
    let port = free_port().await;
    let services = [
        Published::http(vec![saying("relayed").await]),
        Published::tcp(2, port, echoing().await),
    ];
    let mut pair = Pair::start(&services).await;
    let mut open = visitor(port).await;
    let second = pair.gateways.remove(1);
    let stopping = tokio::spawn(async move { second.shutdown(Duration::from_secs(20)).await });
    pair.status(0, |status| status.siblings.iter().all(|one| one.agents == 0))
        .await;
    assert!(pair.get().await.contains("503"), "nobody reaches the agent");
    assert!(is_echoed(&mut open, b"still carried").await);
    drop(open);
    assert_eq!(soon(stopping).await.unwrap().cut, 0);
}
