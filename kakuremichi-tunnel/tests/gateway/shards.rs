//! A gateway with several shards.

use std::{net::SocketAddr, time::Duration};

use kakuremichi_core::policy::Policy;
use kakuremichi_tunnel::gateway::{GatewayBuilder, Phase, SpawnError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::client::TlsStream;

use crate::scene::{HOST, Published, Scene, builder, echoing, free_port, saying, soon};

const SHARDS: u8 = 4;

fn four(builder: GatewayBuilder) -> GatewayBuilder {
    builder.shards(SHARDS)
}

#[tokio::test]
async fn every_shard_serves_visitors_and_reaches_the_agent() {
    let port = free_port().await;
    let services = [
        Published::http(vec![saying("hello").await]),
        Published::tcp(2, port, echoing().await),
    ];
    let scene = Scene::with(&services, four).await;
    assert_eq!(scene.gateway.shards(), usize::from(SHARDS));
    // The system spreads sixty-four connections over four sockets: each shard has some.
    for _ in 0..64 {
        assert!(scene.get("/").await.contains("hello"));
    }
    let mut visitors = JoinSet::new();
    for number in 0..16 {
        visitors.spawn(async move {
            let mut visitor = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
            let (sent, mut back) = (vec![number; 100_000], vec![0; 100_000]);
            let (mut reading, mut writing) = visitor.split();
            tokio::try_join!(writing.write_all(&sent), reading.read_exact(&mut back))?;
            Ok::<_, std::io::Error>(back == sent)
        });
    }
    while let Some(echoed) = soon(visitors.join_next()).await {
        assert!(echoed.unwrap().unwrap());
    }
    // What each shard counted is counted once.
    let counted = scene.gateway.metrics();
    assert_eq!((counted.requests, counted.tcp_connections), (64, 16));
    assert_eq!((counted.accepted, counted.permitted), (80, 80));
    let engine = scene.gateway.engine_metrics().await.unwrap();
    assert!(engine.netstack.connected >= 80, "{engine:?}");
}

/// DESIGN invariant 5: it is decided anew when the plan changes, about what is open on every shard; a
/// plan is served when all of them follow it.
#[tokio::test]
async fn a_plan_is_served_when_all_shards_follow_it() {
    let (_tell, told) = watch::channel(false);
    let target = waiting(told).await;
    let scene = Scene::with(&[Published::http(vec![target])], four).await;
    let _open = visitors(&scene, 32).await;
    let mut denied = Published::http(vec![target]);
    denied.policy = Policy::deny();
    scene.publish(&[denied]).await;
    assert_eq!(scene.gateway.metrics().revoked, 32);
    for _ in 0..16 {
        assert!(scene.get("/").await.starts_with("HTTP/1.1 403"));
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_the_visitors_of_all_shards() {
    let (tell, told) = watch::channel(false);
    let port = free_port().await;
    let services = [
        Published::http(vec![waiting(told).await]),
        Published::tcp(2, port, echoing().await),
    ];
    let scene = Scene::with(&services, four).await;
    let open = visitors(&scene, 24).await;
    let mut raw = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))
        .await
        .unwrap();
    raw.write_all(b"x").await.unwrap();
    soon(raw.read_u8()).await.unwrap();
    let gateway = scene.gateway.clone();
    let stopping = tokio::spawn(async move { gateway.shutdown(Duration::from_secs(20)).await });
    scene.status(|status| status.phase == Phase::Draining).await;
    tell.send(true).unwrap();
    for mut visitor in open {
        let mut answer = Vec::new();
        soon(visitor.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.ends_with(b"late"), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(soon(scene.tls(HOST, &[])).await.is_err());
    assert!(!stopping.is_finished(), "one visitor is left");
    drop(raw);
    assert_eq!(soon(stopping).await.unwrap().cut, 0);
}

/// A target that answers when it is told to.
async fn waiting(told: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut told = told.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = told.wait_for(|told| *told).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
                    .await;
            });
        }
    });
    address
}

/// So many visitors that wait for their answers.
async fn visitors(scene: &Scene, count: u64) -> Vec<TlsStream<TcpStream>> {
    let ask = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let before = scene.gateway.metrics().open;
    let mut open = Vec::new();
    for _ in 0..count {
        let mut visitor = scene.tls(HOST, &[b"http/1.1"]).await.unwrap();
        visitor.write_all(ask.as_bytes()).await.unwrap();
        open.push(visitor);
    }
    let all = async {
        while scene.gateway.metrics().open < before + count {
            tokio::task::yield_now().await;
        }
    };
    soon(all).await;
    open
}

#[tokio::test]
async fn a_number_of_shards_out_of_range_is_refused() {
    for shards in [0, GatewayBuilder::MAX_SHARDS + 1] {
        let (_keep, plans) = watch::channel(Default::default());
        let error = builder(plans).shards(shards).spawn().await.unwrap_err();
        assert!(matches!(error, SpawnError::Engine(_)), "{error}");
    }
}
