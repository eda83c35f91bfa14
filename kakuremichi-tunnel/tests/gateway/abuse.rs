//! What strangers and an agent can do to a gateway over TLS streams: each has a bound.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kakuremichi_proto::lane::record::ALPN;
use kakuremichi_tunnel::gateway::{GatewayMetrics, LaneKind, Limits, Timeouts};
use rustls::{ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::scene::{Published, Scene, client, echoing, free_port, soon};

/// A connection from a host that is not the agent's.
async fn stranger(scene: &Scene) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.66:0".parse().unwrap()).unwrap();
    socket.connect(scene.gateway.https_address()).await.unwrap()
}

/// The beginning of a handshake that asks for the lane's protocol.
fn hello(scene: &Scene) -> Vec<u8> {
    let config = client(scene.gateway.ca_certificate().unwrap(), &[ALPN]);
    let name = ServerName::try_from("lane.test").unwrap();
    let mut session = ClientConnection::new(Arc::clone(&config), name).unwrap();
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).unwrap();
    bytes
}

/// Waits until the gateway's counters say so.
async fn counts(scene: &Scene, holds: impl Fn(&GatewayMetrics) -> bool) {
    soon(async {
        while !holds(&scene.gateway.metrics()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn over_tls(scene: &Scene) {
    scene
        .status(|status| status.peers[0].kind == LaneKind::TlsStream)
        .await;
}

/// A visitor whose byte has come back.
async fn visit(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))
        .await
        .unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(soon(stream.read_u8()).await.unwrap(), b'x');
    stream
}

/// LESSONS, advisory 7: a deadline and a cap per address before anybody is known. Who holds all the connections
/// that may be without a proof, as far as one address may, keeps no agent from opening its own.
#[tokio::test]
async fn strangers_who_say_nothing_keep_no_agent_away() {
    let port = free_port().await;
    let mut limits = Limits::default();
    limits.lane_handshakes = 64;
    limits.lane_handshakes_per_address = 32;
    let mut timeouts = Timeouts::default();
    timeouts.hello = Duration::from_secs(3);
    let set =
        move |builder: kakuremichi_tunnel::gateway::GatewayBuilder| builder.limits(limits).timeouts(timeouts);
    let scene = Scene::over_tls_with(&[Published::tcp(1, port, echoing().await)], set).await;
    let (before, hello) = (scene.gateway.metrics(), hello(&scene));
    let mut strangers = Vec::new();
    for _ in 0..100 {
        let mut stream = stranger(&scene).await;
        stream.write_all(&hello).await.unwrap();
        strangers.push(stream);
    }
    counts(&scene, |now| now.lanes_refused >= before.lanes_refused + 68).await;
    // More flows than there are connections: the agent opens new ones meanwhile.
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(visit(port).await);
    }
    // And those who go on saying nothing are cut.
    counts(&scene, |now| now.lanes_failed >= before.lanes_failed + 32).await;
    for stream in &mut strangers {
        // Behind what the gateway said of itself comes the end, or a reset.
        let _ = soon(stream.read_to_end(&mut Vec::new())).await;
    }
}

/// Before TLS and the proof are complete little is read, however much is said.
#[tokio::test]
async fn strangers_who_say_too_much_are_cut() {
    let port = free_port().await;
    let scene = Scene::over_tls(&[Published::tcp(1, port, echoing().await)]).await;
    over_tls(&scene).await;
    let (before, hello) = (scene.gateway.metrics(), hello(&scene));
    for kind in [0x16, 0x17, 0] {
        let mut stream = stranger(&scene).await;
        stream.write_all(&hello).await.unwrap();
        let record = [vec![kind, 3, 3, 0x40, 0], vec![7; 16_384]].concat();
        soon(async { while stream.write_all(&record).await.is_ok() {} }).await;
    }
    counts(&scene, |now| now.lanes_failed >= before.lanes_failed + 3).await;
    visit(port).await;
}

/// An agent has no more connections than the bound; flows beyond wait, and of those no more than 256.
#[tokio::test]
async fn connections_and_waiting_flows_of_an_agent_are_bounded() {
    let port = free_port().await;
    let mut limits = Limits::default();
    limits.lane_connections = 4;
    let mut timeouts = Timeouts::default();
    timeouts.connect = Duration::from_secs(5);
    let set =
        move |builder: kakuremichi_tunnel::gateway::GatewayBuilder| builder.limits(limits).timeouts(timeouts);
    let scene = Scene::over_tls_with(&[Published::tcp(1, port, echoing().await)], set).await;
    let before = scene.gateway.metrics();
    let mut visitors = Vec::new();
    for _ in 0..300 {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        visitors.push(stream);
    }
    counts(&scene, |now| {
        now.lane_overflows > before.lane_overflows && now.lanes_refused > before.lanes_refused
    })
    .await;
    let flows = scene.gateway.metrics().lane_flows - before.lane_flows;
    assert!(flows <= 3, "{flows} flows on three connections");
    drop(visitors);
    // What has gone frees its place; who comes now is served.
    soon(async {
        loop {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"y").await.unwrap();
            if matches!(stream.read_u8().await, Ok(b'y')) {
                return;
            }
        }
    })
    .await;
}
