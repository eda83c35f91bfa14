//! Starting, stopping, and starting again.

use std::{
    net::{Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kakuremichi_core::{
    id::{AgentId, PeerId},
    key::WireGuardKey,
    net::Cidr,
    plan::{GatewayPeer, GatewayPlan, GatewayRecord},
    secret::Secret,
};
use kakuremichi_tunnel::{
    engine::{Network, PeerSettings, ShardConfig, ShardHandle},
    gateway::{GatewayBuilder, GatewayStatus, Phase, SpawnError},
    wg::PeerConfig,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
};

use crate::scene::{HOST, Published, Scene, again, builder, is_up, saying, soon};

#[tokio::test]
async fn a_gateway_that_cannot_start_says_why_and_leaves_nothing() {
    let (_keep, plans) = watch::channel(GatewayPlan::default());
    let spawn = |change: fn(GatewayBuilder, &str) -> GatewayBuilder, with: &str| {
        change(builder(plans.clone()), with).spawn()
    };
    let error = spawn(|builder, text| builder.https(text), "no address")
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SpawnError::Address(text) if text == "no address"),
        "{error}"
    );
    let error = spawn(|builder, text| builder.public_address(text), "no name!")
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SpawnError::PublicAddress(text) if text == "no name!"),
        "{error}"
    );
    let error = spawn(|builder, text| builder.name(text), "no label!")
        .await
        .unwrap_err();
    assert!(matches!(error, SpawnError::Name(_)), "{error}");
    let error = spawn(|builder, text| builder.wireguard(text), "203.0.113.77:1")
        .await
        .unwrap_err();
    assert!(matches!(error, SpawnError::Engine(_)), "{error}");
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = spawn(|builder, text| builder.https(text), &address)
        .await
        .unwrap_err();
    assert!(matches!(error, SpawnError::Bind(_)), "{error}");
    let error = spawn(|builder, text| builder.http(text), &address)
        .await
        .unwrap_err();
    assert!(matches!(error, SpawnError::Bind(_)), "{error}");
}

#[tokio::test]
async fn without_a_plan_it_is_not_ready() {
    let (plan, plans) = watch::channel(GatewayPlan::default());
    let gateway = builder(plans).spawn().await.unwrap();
    let status = gateway.watch_status();
    assert!(!status.borrow().is_ready());
    drop(plan);
}

#[tokio::test]
async fn the_last_handle_ends_everything() {
    let scene = Scene::start(&[Published::http(vec![saying("hello").await])]).await;
    let (https, mut status) = (scene.gateway.https_address(), scene.gateway.watch_status());
    let clone = scene.gateway.clone();
    assert!(scene.get("/").await.contains("hello"));
    drop(scene);
    assert!(TcpStream::connect(https).await.is_ok());
    drop(clone);
    soon(async { while status.changed().await.is_ok() {} }).await;
    assert!(TcpStream::connect(https).await.is_err());
}

#[tokio::test]
async fn a_shutdown_finishes_requests_and_reports_what_it_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let (finish, finished) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut finished = finished.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
                    .await;
                let _ = finished.wait_for(|finished| *finished).await;
                let _ = stream.write_all(b"-last").await;
            });
        }
    });
    let scene = Scene::start(&[Published::http(vec![target])]).await;
    let ask = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut visitor = scene.tls(HOST, &[b"http/1.1"]).await.unwrap();
    visitor.write_all(ask.as_bytes()).await.unwrap();
    let mut seen = [0; 16];
    visitor.read_exact(&mut seen).await.unwrap();
    let gateway = scene.gateway.clone();
    let stopping = tokio::spawn(async move { gateway.shutdown(Duration::from_secs(20)).await });
    scene.status(|status| status.phase == Phase::Draining).await;
    soon(async { while TcpStream::connect(scene.gateway.https_address()).await.is_ok() {} }).await;
    finish.send(true).unwrap();
    let mut rest = Vec::new();
    soon(visitor.read_to_end(&mut rest)).await.unwrap();
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.ends_with("first-last"), "{rest}");
    assert_eq!(soon(stopping).await.unwrap().cut, 0);
}

/// DESIGN invariant 5 holds to the last moment.
#[tokio::test]
async fn a_visitor_who_is_revoked_while_the_gateway_drains_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scene = Scene::start(&[Published::http(vec![listener.local_addr().unwrap()])]).await;
    let mut visitor = scene.tls(HOST, &[b"http/1.1"]).await.unwrap();
    visitor
        .write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let (mut target, _) = soon(listener.accept()).await.unwrap();
    // An answer that comes before the request would be none.
    assert!(soon(target.read(&mut [0; 4096])).await.unwrap() > 0);
    target
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        .await
        .unwrap();
    let mut seen = [0; 16];
    visitor.read_exact(&mut seen).await.unwrap();
    let gateway = scene.gateway.clone();
    let stopping = tokio::spawn(async move { gateway.shutdown(Duration::from_secs(600)).await });
    scene.status(|status| status.phase == Phase::Draining).await;
    scene.publish_records([]).await;
    assert_eq!(soon(stopping).await.unwrap().cut, 0);
    assert_eq!(scene.gateway.metrics().revoked, 1);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut_and_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scene = Scene::start(&[Published::http(vec![listener.local_addr().unwrap()])]).await;
    let mut visitor = scene.tls(HOST, &[b"http/1.1"]).await.unwrap();
    visitor
        .write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let _held = soon(listener.accept()).await.unwrap();
    let report = soon(scene.gateway.shutdown(Duration::from_millis(500))).await;
    assert_eq!(report.cut, 1);
    let mut rest = Vec::new();
    let _ = soon(visitor.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

/// A gateway that was started again finds its agents where they were, and says that it is ready only
/// when they are there: from then on no request fails.
#[tokio::test]
async fn a_gateway_that_was_started_again_serves_as_soon_as_it_is_ready() {
    let mut scene = Scene::start(&[Published::http(vec![saying("hello").await])]).await;
    assert!(scene.get("/").await.contains("hello"));
    let (plan, wireguard) = (scene.plan(), scene.gateway.wireguard_addresses()[0]);
    soon(scene.gateway.shutdown(Duration::from_secs(5))).await;
    let state = scene.gateway_state();
    let ca = scene.gateway.ca_certificate().unwrap().to_owned();
    scene.gateway = again(plan, &state, wireguard).await;
    let started = std::time::Instant::now();
    soon(scene.gateway.ready()).await;
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    for _ in 0..10 {
        assert!(scene.get("/").await.contains("hello"));
    }
    assert_eq!(scene.gateway.ca_certificate(), Some(ca.as_str()));
}

/// DESIGN, section 6: a restarted gateway knows its agents' last endpoints from disk and initiates itself. The
/// agent here begins no handshake any more, as one that has not noticed yet, and a part of the file is damaged.
#[tokio::test]
async fn a_gateway_that_was_started_again_calls_its_agents() {
    let scene = Scene::start(&[]).await;
    let middle = Muting::start(scene.gateway.wireguard_addresses()[0]).await;
    let (agent, key) = silent_agent(&scene, middle.address);
    let peer = GatewayPeer {
        id: PeerId::Agent(AgentId::from_bytes([9; 16])),
        name: "silent".parse().unwrap(),
        identity: None,
        wireguard: key,
        address: SILENT,
        allowed_ips: vec![Cidr::host(SILENT.into())],
        endpoint: None,
    };
    scene.publish_records([GatewayRecord::Peer(peer)]).await;
    let up = |status: &GatewayStatus| {
        let mut silent = status.peers.iter().filter(|peer| peer.name.as_str() == "silent");
        silent.any(is_up)
    };
    soon(scene.status(up)).await;
    middle.mute.store(true, Ordering::Relaxed);
    let (plan, wireguard) = (scene.plan(), scene.gateway.wireguard_addresses()[0]);
    soon(scene.gateway.shutdown(Duration::from_secs(5))).await;
    let remembered = scene.gateway_state().join("peers");
    let mode = std::fs::metadata(&remembered).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut text = std::fs::read(&remembered).unwrap();
    text.extend_from_slice(b"\xff\0 no line\n");
    std::fs::write(&remembered, text).unwrap();
    let gateway = again(plan, &scene.gateway_state(), wireguard).await;
    let mut status = gateway.watch_status();
    soon(status.wait_for(|status| up(status))).await.unwrap();
    drop(agent);
}

const SILENT: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);

/// An agent at [`SILENT`] that finds the gateway at `through`.
fn silent_agent(scene: &Scene, through: SocketAddr) -> (ShardHandle, WireGuardKey) {
    let private = Secret::new([9; 32]);
    let key = kakuremichi_tunnel::wg::public_key(&private);
    let config = ShardConfig::new("silent", private, vec!["127.0.0.1:0".parse().unwrap()], [9; 16]);
    let shard = ShardHandle::spawn(config, |_| {}).unwrap();
    let mut wireguard = PeerConfig::new(scene.gateway.wireguard_key(), vec!["fd00::/16".parse().unwrap()]);
    wireguard.endpoint = Some(through);
    wireguard.persistent_keepalive = Some(Duration::from_secs(25));
    shard.configure(Network {
        addresses: vec![SILENT.into()],
        peers: vec![PeerSettings {
            wireguard,
            probe: None,
        }],
        ..Network::default()
    });
    (shard, key)
}

/// Stands between an agent and its gateway, and passes on no initiation of the agent's once it is muted.
struct Muting {
    address: SocketAddr,
    mute: Arc<AtomicBool>,
}

impl Muting {
    async fn start(gateway: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mute: Arc<AtomicBool> = Arc::default();
        let muted = Arc::clone(&mute);
        tokio::spawn(async move {
            let (mut agent, mut datagram) = (None, [0; 2048]);
            loop {
                // While the gateway is gone its port is closed, which is told as an error.
                let Ok((length, from)) = socket.recv_from(&mut datagram).await else {
                    continue;
                };
                let to = if from == gateway { agent } else { Some(gateway) };
                if from != gateway {
                    agent = Some(from);
                }
                let is_call = datagram[0] == 1 && from != gateway;
                if let Some(to) = to
                    && !(is_call && muted.load(Ordering::Relaxed))
                {
                    let _ = socket.send_to(&datagram[..length], to).await;
                }
            }
        });
        Self { address, mute }
    }
}
