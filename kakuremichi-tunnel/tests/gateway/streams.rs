//! Lanes of TLS streams.

use std::{io, net::SocketAddr};

use kakuremichi_tunnel::{gateway::LaneKind, status::LaneState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    middlebox,
    scene::{Published, Scene, echoing, free_port, saying, soon},
};

async fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await
}

async fn echo(port: u16, text: &[u8]) -> io::Result<()> {
    let mut stream = connect(port).await?;
    stream.write_all(text).await?;
    let mut back = vec![0; text.len()];
    soon(stream.read_exact(&mut back)).await?;
    assert_eq!(back, text);
    // An end in order, so that the connection of the lane is free again.
    stream.shutdown().await?;
    assert_eq!(soon(stream.read(&mut [0])).await?, 0);
    Ok(())
}

#[tokio::test]
async fn services_are_served_over_tls_and_the_status_says_so() {
    let port = free_port().await;
    let services = [
        Published::http(vec![saying("over tls").await]),
        Published::tcp(2, port, echoing().await),
    ];
    let scene = Scene::over_tls(&services).await;
    scene
        .status(|status| status.peers[0].kind == LaneKind::TlsStream)
        .await;
    assert!(scene.get("/").await.contains("over tls"));
    scene.status(|status| status.ports.len() == 1).await;
    echo(port, b"hello").await.unwrap();
    let status = scene.agent.as_ref().unwrap().watch_status().borrow().clone();
    assert_eq!(status.lanes[0].kind, LaneKind::TlsStream);
    assert!(matches!(status.lanes[0].state, LaneState::Up { .. }));
    assert!(scene.gateway.metrics().lane_flows >= 2);
}

/// A connection is used again after a clean end, so that short flows pay no handshake.
#[tokio::test]
async fn one_flow_after_the_other_uses_the_same_few_connections() {
    let port = free_port().await;
    let scene = Scene::over_tls(&[Published::tcp(1, port, echoing().await)]).await;
    scene
        .status(|status| status.peers[0].kind == LaneKind::TlsStream)
        .await;
    for _ in 0..50 {
        echo(port, b"short").await.unwrap();
    }
    let counted = scene.gateway.metrics();
    assert_eq!(counted.lane_flows, 50);
    assert!(counted.lanes_accepted < 20, "{counted:?}");
}

#[tokio::test]
async fn many_flows_at_once_make_the_pool_grow() {
    let port = free_port().await;
    let scene = Scene::over_tls(&[Published::tcp(1, port, echoing().await)]).await;
    let mut open = Vec::new();
    for number in 0..60_u8 {
        let mut stream = connect(port).await.unwrap();
        stream.write_all(&[number]).await.unwrap();
        open.push(stream);
    }
    for (number, stream) in open.iter_mut().enumerate() {
        assert_eq!(usize::from(soon(stream.read_u8()).await.unwrap()), number);
    }
    assert_eq!(scene.gateway.metrics().lane_overflows, 0);
}

/// LESSONS: "EOF in one direction closes both".
#[tokio::test]
async fn each_direction_ends_by_itself_and_every_byte_arrives() {
    let port = free_port().await;
    let scene = Scene::over_tls(&[Published::tcp(1, port, echoing().await)]).await;
    let mut visitor = connect(port).await.unwrap();
    let sent: Vec<u8> = (0..4_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut reading, mut writing) = visitor.split();
    let write = async {
        writing.write_all(&sent).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, read) = soon(async { tokio::join!(write, reading.read_to_end(&mut back)) }).await;
    read.unwrap();
    assert!(back == sent);
    drop(scene);
}

#[tokio::test]
async fn a_reset_reaches_the_other_end() {
    let (listener, port) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), free_port().await);
    let target = listener.local_addr().unwrap();
    let _scene = Scene::over_tls(&[Published::tcp(1, port, target)]).await;
    let reset = |stream: TcpStream| stream.set_zero_linger().unwrap();
    // From the target to the visitor.
    let mut visitor = connect(port).await.unwrap();
    visitor.write_all(b"x").await.unwrap();
    let (mut served, _) = soon(listener.accept()).await.unwrap();
    assert_eq!(soon(served.read_u8()).await.unwrap(), b'x');
    reset(served);
    let error = soon(visitor.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    // From the visitor to the target.
    let mut visitor = connect(port).await.unwrap();
    visitor.write_all(b"y").await.unwrap();
    let (mut served, _) = soon(listener.accept()).await.unwrap();
    assert_eq!(soon(served.read_u8()).await.unwrap(), b'y');
    reset(visitor);
    let error = soon(served.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    // The next flow is served.
    let mut visitor = connect(port).await.unwrap();
    visitor.write_all(b"z").await.unwrap();
    let (mut served, _) = soon(listener.accept()).await.unwrap();
    assert_eq!(soon(served.read_u8()).await.unwrap(), b'z');
}

/// A target that speaks first, one byte, and then sends back what it gets.
async fn greeting() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"!").await;
                let (mut reading, mut writing) = stream.split();
                let _ = tokio::io::copy(&mut reading, &mut writing).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn the_next_target_is_asked_when_one_refuses() {
    let port = free_port().await;
    let dead = SocketAddr::from(([127, 0, 0, 1], free_port().await));
    let mut service = Published::tcp(1, port, dead);
    service.targets.push(greeting().await);
    let _scene = Scene::over_tls(&[service]).await;
    for _ in 0..4 {
        let mut visitor = connect(port).await.unwrap();
        // A visitor that has said nothing can be taken to the next target, which speaks first.
        assert_eq!(soon(visitor.read_u8()).await.unwrap(), b'!');
        visitor.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        soon(visitor.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"hello");
    }
}

/// A revoked agent's lane is cut, with what is open on it.
#[tokio::test]
async fn an_agent_that_is_no_longer_in_the_plan_is_cut_off() {
    let port = free_port().await;
    let services = [Published::tcp(1, port, echoing().await)];
    let scene = Scene::over_tls(&services).await;
    let mut visitor = connect(port).await.unwrap();
    visitor.write_all(b"x").await.unwrap();
    assert_eq!(soon(visitor.read_u8()).await.unwrap(), b'x');
    scene.revoke(&services).await;
    assert!(soon(visitor.read_u8()).await.is_err());
    let mut agent = scene.agent.as_ref().unwrap().watch_status();
    let refused = |lane: &kakuremichi_tunnel::status::LaneStatus| {
        lane.last_error
            .as_deref()
            .is_some_and(|error| error.contains("the gateway's plan does not know this agent"))
    };
    // TLS resumes its sessions; the plan is asked anew all the same.
    soon(agent.wait_for(|status| status.lanes.iter().any(refused)))
        .await
        .unwrap();
}

/// A middlebox that lets nothing pass but what browsers say: the agent speaks WebSocket then.
#[tokio::test]
async fn a_middlebox_that_insists_on_http_is_passed_as_a_websocket() {
    let port = free_port().await;
    let services = [Published::tcp(1, port, echoing().await)];
    let scene = Scene::over_tls_by(&services, middlebox::only_http).await;
    let flows = || scene.gateway.metrics().lane_flows;
    // Until the gateway has heard which lane the agent wants, a flow may take the other one.
    soon(async {
        while flows() == 0 {
            echo(port, b"inside a websocket").await.unwrap();
        }
    })
    .await;
    let mut visitor = connect(port).await.unwrap();
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
    assert!(flows() >= 2);
}

/// Who ends TLS in between has another secret with either end: the lane fails, and says why.
#[tokio::test]
async fn tls_that_is_intercepted_is_found_out() {
    let scene = Scene::intercepted(middlebox::intercepting).await;
    let mut agent = scene.agent.as_ref().unwrap().watch_status();
    let found_out = |lane: &kakuremichi_tunnel::status::LaneStatus| {
        lane.last_error
            .as_deref()
            .is_some_and(|error| error.contains("TLS is intercepted"))
    };
    soon(agent.wait_for(|status| status.lanes.iter().any(found_out)))
        .await
        .unwrap();
    assert!(!agent.borrow().is_online());
}

#[tokio::test]
async fn a_wrong_identity_is_refused_and_the_reason_is_shown() {
    let scene = Scene::with_a_stranger().await;
    let mut agent = scene.agent.as_ref().unwrap().watch_status();
    let refused = |lane: &kakuremichi_tunnel::status::LaneStatus| {
        lane.last_error
            .as_deref()
            .is_some_and(|error| error.contains("identity is not the one in the gateway's plan"))
    };
    soon(agent.wait_for(|status| status.lanes.iter().any(refused)))
        .await
        .unwrap();
    assert!(!agent.borrow().is_online());
    // The gateway counts behind its answer.
    soon(async {
        while scene.gateway.metrics().lanes_failed == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
