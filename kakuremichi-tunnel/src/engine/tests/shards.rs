//! A node with several shards.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    sync::watch,
};

use super::support::*;
use crate::{
    engine::{
        BuildShard, Connect, ConnectError, EngineLimits, IncomingFlow, Listen, LocalShard, Network,
        PeerSettings, PeerView, ShardConfig, ShardSetHandle, SpawnError,
    },
    stream::TunnelStream,
    wg::PeerConfig,
};

const SHARDS: usize = 4;
/// The node that has them.
pub(super) const GATE: u8 = 1;

pub(super) fn gate(steering: bool, address: &str) -> Result<ShardSetHandle, SpawnError> {
    gate_with(steering, address, echo)
}

fn gate_with(
    steering: bool,
    address: &str,
    handler: impl Fn(IncomingFlow) + Clone + Send + 'static,
) -> Result<ShardSetHandle, SpawnError> {
    let mut config = patient(GATE, address);
    config.steering = steering;
    let build = |_| {
        let handler = handler.clone();
        Box::new(move |shard: LocalShard| shard.on_incoming(handler)) as BuildShard
    };
    ShardSetHandle::spawn(&config, (0..SHARDS).map(build).collect())
}

/// Agents of these numbers that call the gate at `address`, and a gate that knows them.
pub(super) async fn agents(
    gate: &ShardSetHandle,
    numbers: impl Iterator<Item = u8>,
    address: SocketAddr,
) -> Vec<Node> {
    let agents: Vec<Node> = numbers.map(|number| agent(number, address)).collect();
    let settings = |agent: &Node| {
        let number = agent.number();
        let allowed = vec![kakuremichi_core::net::Cidr::host(overlay(number))];
        PeerSettings {
            wireguard: PeerConfig::new(key(number), allowed),
            probe: Some(overlay(number)),
        }
    };
    gate.configure(Network {
        addresses: vec![overlay(GATE)],
        peers: agents.iter().map(settings).collect(),
        listen: vec![Listen {
            port: PLAIN,
            preface: None,
        }],
        listen_udp: Vec::new(),
    });
    for agent in &agents {
        sees(gate, agent.number(), PeerView::is_online).await;
        agent.sees(GATE, PeerView::is_online).await;
    }
    agents
}

/// A lane that is down for a moment, since a NAT changed, costs no flow.
fn patient(number: u8, address: &str) -> ShardConfig {
    let mut config = config(number, address);
    config.limits.peer_lost = EngineLimits::default().peer_lost;
    config
}

fn agent(number: u8, gate: SocketAddr) -> Node {
    let agent = Node::start(patient(number, "127.0.0.1:0"), number, move |shard| {
        shard.on_incoming(echo);
    });
    agent.meet(GATE, Some(gate));
    agent
}

async fn sees(gate: &ShardSetHandle, number: u8, fits: impl Fn(&PeerView) -> bool) {
    let mut peers = gate.watch_peers();
    let seen = async {
        while !peers.latest().get(&key(number)).is_some_and(&fits) {
            peers.changed().await;
        }
    };
    within(seen).await;
}

pub(super) async fn open(gate: &ShardSetHandle, number: u8) -> TunnelStream {
    let connect = Connect::new(key(number), SocketAddr::new(overlay(number), PLAIN));
    within(gate.connect(connect)).await.unwrap()
}

pub(super) async fn echoes(stream: &mut TunnelStream, text: &[u8]) {
    let mut back = vec![0; text.len()];
    within(stream.write_all(text)).await.unwrap();
    within(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, text);
}

/// A NAT before a node: it is told to give it another port.
async fn nat(to: SocketAddr) -> (SocketAddr, watch::Sender<u32>) {
    let inner = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = inner.local_addr().unwrap();
    let (rebind, mut rebound) = watch::channel(0);
    spawn_anywhere(async move {
        let mut outer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (mut up, mut down) = (vec![0; 2048], vec![0; 2048]);
        let mut agent = None;
        loop {
            tokio::select! {
                Ok((length, from)) = inner.recv_from(&mut up) => {
                    agent = Some(from);
                    let _ = outer.send_to(&up[..length], to).await;
                }
                Ok((length, _)) = outer.recv_from(&mut down) => {
                    if let Some(agent) = agent {
                        let _ = inner.send_to(&down[..length], agent).await;
                    }
                }
                changed = rebound.changed() => match changed {
                    Ok(()) => outer = UdpSocket::bind("127.0.0.1:0").await.unwrap(),
                    Err(_) => return,
                },
            }
        }
    });
    (address, rebind)
}

#[tokio::test]
async fn agents_are_spread_over_the_shards_and_each_is_served() {
    let gate = gate(true, "127.0.0.1:0").unwrap();
    let agents = agents(&gate, 10..26, gate.local_addresses()[0]).await;
    let owners: BTreeSet<u8> = (10..26).map(|number| gate.owner_of(&key(number))).collect();
    // That one of four gets all sixteen happens once in a billion times.
    assert!(owners.len() > 1, "{owners:?}");
    for agent in &agents {
        echoes(&mut open(&gate, agent.number()).await, b"from the gate").await;
        let connect = Connect::new(key(GATE), SocketAddr::new(overlay(GATE), PLAIN));
        let mut stream = within(agent.shard.connect(connect)).await.unwrap();
        echoes(&mut stream, b"from the agent").await;
        let peers = gate.watch_peers().latest();
        assert_eq!(
            peers.get(&key(agent.number())).unwrap().endpoint,
            Some(agent.address())
        );
    }
    let metrics = gate.metrics().await.unwrap();
    assert_eq!(metrics.netstack.connected, 16);
    assert_eq!(metrics.netstack.accepted, 16);
    // The kernel finds the shard: nothing but a handshake that came twice is ever handed over.
    assert!(metrics.engine.handed_over < 16, "{metrics:?}");
}

/// A NAT that gives a peer another port changes the hash by which the kernel spreads datagrams.
#[tokio::test]
async fn a_peer_that_roams_keeps_its_flows() {
    for steering in [true, false] {
        let gate = gate(steering, "127.0.0.1:0").unwrap();
        let (address, rebind) = nat(gate.local_addresses()[0]).await;
        let _agents = agents(&gate, 10..11, address).await;
        let owner = gate.owner_of(&key(10));
        let mut stream = open(&gate, 10).await;
        let data = pattern(20_000, 1);
        for round in 1..=24 {
            rebind.send_replace(round);
            echoes(&mut stream, &data).await;
        }
        assert_eq!(gate.owner_of(&key(10)), owner);
        let metrics = gate.metrics().await.unwrap();
        assert!(metrics.wireguard.roamed > 8, "{metrics:?}");
        assert_eq!(metrics.engine.handed_over > 16, !steering, "{metrics:?}");
        assert_eq!(metrics.engine.handover_dropped, 0);
    }
}

#[tokio::test]
async fn a_peer_that_restarts_elsewhere_is_found_by_its_owner() {
    let gate = gate(true, "127.0.0.1:0").unwrap();
    let mut agents = agents(&gate, 10..11, gate.local_addresses()[0]).await;
    let owner = gate.owner_of(&key(10));
    let mut handed_over = 0;
    for _ in 0..8 {
        let before = agents[0].address();
        agents[0].shard.shutdown(Duration::ZERO).await;
        // A port of its own again, and perhaps another shard for its handshake.
        agents[0] = agent(10, gate.local_addresses()[0]);
        let now = agents[0].address();
        assert_ne!(before, now);
        sees(&gate, 10, |view| view.is_online() && view.endpoint == Some(now)).await;
        echoes(&mut open(&gate, 10).await, b"again").await;
        assert_eq!(gate.owner_of(&key(10)), owner, "there was a live session");
        handed_over = gate.metrics().await.unwrap().engine.handed_over;
    }
    // That all eight met the owner by chance happens once in 65,536 times.
    assert!(handed_over > 0);
}

#[tokio::test]
async fn a_shutdown_waits_for_the_flows_of_all_shards() {
    let gate = gate(true, "127.0.0.1:0").unwrap();
    let _agents = agents(&gate, 10..18, gate.local_addresses()[0]).await;
    let mut streams = Vec::new();
    for number in 10..18 {
        streams.push(open(&gate, number).await);
    }
    let ending = gate.clone();
    let (drained, ()) = tokio::join!(within(ending.shutdown(Duration::from_secs(20))), async {
        for mut stream in streams {
            echoes(&mut stream, b"last words").await;
            stream.shutdown().await.unwrap();
            assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0);
        }
    });
    assert_eq!(drained.cut, 0);
    assert!(gate.shards().iter().all(super::super::Shard::is_stopped));
    let late = gate.connect(Connect::new(key(10), SocketAddr::new(overlay(10), PLAIN)));
    assert_eq!(late.await.map(drop), Err(ConnectError::Stopped));
}

/// Otherwise the peers of that shard would be lost until somebody notices.
#[tokio::test]
async fn a_shard_that_panics_takes_the_others_with_it() {
    let gate = gate_with(true, "127.0.0.1:0", |_| panic!("a bug of the embedder")).unwrap();
    let agents = agents(&gate, 10..11, gate.local_addresses()[0]).await;
    let connect = Connect::new(key(GATE), SocketAddr::new(overlay(GATE), PLAIN));
    let _lost = agents[0].shard.connect(connect).await;
    let stopped = async {
        while !gate.shards().iter().all(super::super::Shard::is_stopped) {
            tokio::task::yield_now().await;
        }
    };
    within(stopped).await;
}

#[tokio::test]
async fn an_address_belongs_to_one_node() {
    let first = gate(true, "[::1]:0").unwrap();
    let address = first.local_addresses()[0].to_string();
    assert!(matches!(gate(true, &address), Err(SpawnError::Bind { .. })));
    let none = ShardSetHandle::spawn(&config(GATE, "127.0.0.1:0"), Vec::new());
    assert!(matches!(none, Err(SpawnError::Shards(0))));
}
