//! A hostile agent beside one that is in order: what it sends is bounded and counted, keeps nobody else from
//! anything, and leaves nothing behind.

#![expect(clippy::disallowed_methods, reason = "an attack is paced")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use kakuremichi_core::{net::Cidr, secret::Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;
use crate::{
    engine::{
        Connect, IncomingSession, Listen, Metrics, Network, PeerSettings, PeerView, ShardConfig,
        proxy_v2_length,
    },
    testing::hostile::{Attack, Heard, Hostile, Place},
    wg::PeerConfig,
};

const GATE: u8 = 1;
const HONEST: u8 = 2;
const HOSTILE: u8 = 3;

/// Flows, half-open flows and sessions that one peer may have.
const FLOWS: usize = 40;
const HALF_OPEN: usize = 20;
const SESSIONS: usize = 30;

/// What is sent to the honest agent and back while the attack goes on.
const TRANSFER: usize = 2 << 20;

/// A gateway with two agents, one of which is hostile.
struct Scene {
    gate: Node,
    honest: Node,
    hostile: Hostile,
}

/// A node that does not give up soon: the machine has an attack to make besides.
fn patient(number: u8) -> ShardConfig {
    let mut config = config(number, "127.0.0.1:0");
    config.probes.patience = Duration::from_secs(3);
    config.probes.patience_cap = Duration::from_secs(3);
    config.limits.peer_lost = Duration::from_secs(1);
    config
}

fn gateway() -> ShardConfig {
    let mut config = patient(GATE);
    config.flows.limits.flows_per_peer = FLOWS;
    config.flows.limits.half_open_per_peer = HALF_OPEN;
    config.flows.limits.sessions_per_peer = SESSIONS;
    config.flows.connect_timeout = Duration::from_millis(500);
    config.flows.session_idle = Duration::from_millis(500);
    config
}

impl Scene {
    /// Both agents are online.
    async fn start() -> Self {
        let gate = Node::start(gateway(), GATE, |shard| {
            shard.on_incoming(echo);
            shard.on_session(keep);
        });
        let honest = Node::start(patient(HONEST), HONEST, |shard| shard.on_incoming(echo));
        gate.shard.configure(Network {
            addresses: vec![overlay(GATE)],
            peers: [HONEST, HOSTILE].map(agent).to_vec(),
            listen: listen(),
            listen_udp: listen(),
        });
        honest.meet(GATE, Some(gate.address()));
        gate.sees(HONEST, PeerView::is_online).await;
        let mut hostile = Hostile::new(Place {
            private_key: Secret::new([HOSTILE; 32]),
            own: overlay(HOSTILE),
            gateway: key(GATE),
            overlay: overlay(GATE),
            endpoint: gate.address(),
        })
        .unwrap();
        let online = async {
            let peers = gate.shard.watch_peers();
            while !peers.borrow().get(&key(HOSTILE)).is_some_and(PeerView::is_online) {
                hostile.attend();
                tokio::task::yield_now().await;
            }
        };
        within(online).await;
        Self {
            gate,
            honest,
            hostile,
        }
    }

    async fn metrics(&self) -> Metrics {
        self.gate.shard.metrics().await.unwrap()
    }

    /// Bytes go to the honest agent and come back unharmed while the attack goes on, until what it leads to
    /// shows in the counters. Afterwards the gateway is as it was.
    async fn withstands(self, attack: Attack, shows: impl Fn(&Metrics) -> bool) -> (Metrics, Heard) {
        let Self {
            gate,
            honest,
            hostile,
        } = self;
        let assault = Assault::begin(hostile, attack);
        let data = pattern(TRANSFER, 7);
        let connect = || Connect::new(key(HONEST), SocketAddr::new(overlay(HONEST), PLAIN));
        loop {
            let mut stream = within(gate.shard.connect(connect())).await.unwrap();
            let mut back = vec![0; 64 * 1024];
            for piece in data.chunks(back.len()) {
                within(stream.write_all(piece)).await.unwrap();
                within(stream.read_exact(&mut back)).await.unwrap();
                assert!(back == piece);
            }
            let metrics = gate.shard.metrics().await.unwrap();
            assert!(
                metrics.flows <= FLOWS + 2 && metrics.sessions <= SESSIONS,
                "{metrics:?}"
            );
            if shows(&metrics) {
                break;
            }
            drop(stream);
        }
        let hostile = assault.end();
        let heard = hostile.heard();
        drop(hostile);
        // Its lane is down soon, and nothing of it stays.
        gate.has_flows(0).await;
        within(async {
            while gate.shard.metrics().await.unwrap().sessions > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        gate.sees(HONEST, PeerView::is_online).await;
        drop(honest);
        (gate.shard.metrics().await.unwrap(), heard)
    }
}

fn agent(number: u8) -> PeerSettings {
    PeerSettings {
        wireguard: PeerConfig::new(key(number), vec![Cidr::host(overlay(number))]),
        probe: Some(overlay(number)),
    }
}

fn listen() -> Vec<Listen> {
    let with = Listen {
        port: WITH_PREFACE,
        preface: Some(proxy_v2_length),
    };
    let without = Listen {
        port: PLAIN,
        preface: None,
    };
    vec![with, without]
}

/// Takes a session and reads nothing.
fn keep(session: IncomingSession) {
    let mut session = session.accept(Arc::default());
    spawn(async move { while session.recv(&mut []).await.is_ok() {} });
}

/// An attack under way, on a thread of its own.
struct Assault {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Hostile>,
}

impl Assault {
    /// Sixteen thousand datagrams a second, if the system is as fast.
    fn begin(mut hostile: Hostile, attack: Attack) -> Self {
        hostile.prepare(attack);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = start(move || {
            while !stopped.load(Ordering::Relaxed) {
                hostile.attend();
                hostile.strike(attack, 32);
                thread::sleep(Duration::from_millis(2));
            }
            hostile
        });
        Self { stop, thread }
    }

    fn end(self) -> Hostile {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[tokio::test]
async fn a_syn_flood_is_bounded() {
    let scene = Scene::start().await;
    let flooded = |metrics: &Metrics| metrics.netstack.overflowed > 500;
    scene.withstands(Attack::Syns(PLAIN), flooded).await;
}

#[tokio::test]
async fn a_port_scan_is_refused() {
    let scene = Scene::start().await;
    let refused = |metrics: &Metrics| metrics.netstack.refused > 500;
    let (_, heard) = scene.withstands(Attack::Scan, refused).await;
    assert!(heard.resets > 0);
}

/// LESSONS, advisory 7: what is begun and never introduced ends, and there is never much of it.
#[tokio::test]
async fn flows_without_a_word_are_bounded_and_end() {
    let scene = Scene::start().await;
    let silent =
        |metrics: &Metrics| metrics.netstack.overflowed > 100 && metrics.engine.bad_prefaces > FLOWS as u64;
    scene.withstands(Attack::Flows(WITH_PREFACE), silent).await;
}

#[tokio::test]
async fn segments_that_belong_to_nothing_are_reset() {
    let scene = Scene::start().await;
    let stray = |metrics: &Metrics| metrics.netstack.stray > 500;
    scene.withstands(Attack::Segments(PLAIN), stray).await;
}

#[tokio::test]
async fn datagrams_for_nobody_are_refused_a_few_times_a_second() {
    let scene = Scene::start().await;
    let shed = |metrics: &Metrics| metrics.netstack.answers_shed > 200 && metrics.netstack.refused > 500;
    scene.withstands(Attack::Datagrams, shed).await;
}

#[tokio::test]
async fn sessions_are_bounded() {
    let scene = Scene::start().await;
    let flooded = |metrics: &Metrics| metrics.netstack.sessions_overflowed > 500;
    scene.withstands(Attack::Sessions(PLAIN), flooded).await;
}

#[tokio::test]
async fn echoes_are_answered_a_few_times_a_second() {
    let scene = Scene::start().await;
    let shed = |metrics: &Metrics| metrics.netstack.answers_shed > 500;
    let (metrics, _) = scene.withstands(Attack::Echoes, shed).await;
    assert!(metrics.netstack.echoed > 0);
}

#[tokio::test]
async fn halves_of_datagrams_are_dropped() {
    let scene = Scene::start().await;
    let dropped = |metrics: &Metrics| metrics.netstack.fragments_dropped > 500;
    scene.withstands(Attack::Fragments, dropped).await;
}

#[tokio::test]
async fn packets_from_elsewhere_are_dropped() {
    let scene = Scene::start().await;
    let dropped = |metrics: &Metrics| metrics.wireguard.disallowed > 500;
    scene.withstands(Attack::Foreign, dropped).await;
}

#[tokio::test]
async fn a_flood_of_handshakes_is_limited() {
    for attack in [Attack::Initiations, Attack::ForgedSenders] {
        let scene = Scene::start().await;
        let limited = |metrics: &Metrics| metrics.wireguard.limited + metrics.wireguard.challenged > 500;
        let (metrics, _) = scene.withstands(attack, limited).await;
        assert!(metrics.wireguard.sessions < 1_000, "{metrics:?}");
    }
}

#[tokio::test]
async fn what_strangers_send_is_dropped_and_counted() {
    type Shown = (Attack, fn(&Metrics) -> u64);
    let shown: [Shown; 3] = [
        (Attack::WrongMac, |metrics| metrics.wireguard.bad_mac),
        (Attack::Replays, |metrics| metrics.wireguard.replayed),
        (Attack::Garbage, |metrics| metrics.wireguard.malformed),
    ];
    for (attack, count) in shown {
        let scene = Scene::start().await;
        let before = count(&scene.metrics().await);
        scene
            .withstands(attack, |metrics| count(metrics) - before > 500)
            .await;
    }
}
