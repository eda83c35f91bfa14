//! UDP services.

use std::{net::SocketAddr, time::Duration};

use kakuremichi_core::policy::{Condition, Effect, Policy, Rule};
use kakuremichi_tunnel::gateway::{Limits, Timeouts};
use tokio::{net::UdpSocket, time::timeout};

pub(crate) use crate::scene::free_port;
use crate::scene::{Published, Scene, soon};

/// How long a datagram may take before it is sent again.
const AGAIN: Duration = Duration::from_millis(200);

/// A target that sends back what it gets.
pub(crate) async fn echoing() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(echo(socket));
    address
}

pub(crate) async fn echo(socket: UdpSocket) {
    let mut buffer = vec![0; 65_535];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let _ = socket.send_to(&buffer[..length], from).await;
    }
}

/// A visitor of a port.
pub(crate) async fn visitor(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(("127.0.0.1", port)).await.unwrap();
    socket
}

/// Whether `data` comes back, asked once.
pub(crate) async fn answers(visitor: &UdpSocket, data: &[u8]) -> bool {
    let mut buffer = vec![0; 65_535];
    // A port that is closed is an error of the socket's.
    if visitor.send(data).await.is_err() {
        return false;
    }
    matches!(timeout(AGAIN, visitor.recv(&mut buffer)).await, Ok(Ok(length)) if buffer[..length] == *data)
}

/// Asks until `data` comes back: datagrams may be lost.
pub(crate) async fn is_echoed(visitor: &UdpSocket, data: &[u8]) {
    soon(async { while !answers(visitor, data).await {} }).await;
}

#[tokio::test]
async fn udp_ports_open_and_close_with_the_plan() {
    let (target, port) = (echoing().await, free_port().await);
    let scene = Scene::start(&[Published::udp(1, port, target)]).await;
    scene
        .status(|status| status.ports.len() == 1 && status.ports[0].error.is_none())
        .await;
    let one = visitor(port).await;
    for length in [0, 1, 1_200, 4_000, 30_000] {
        is_echoed(&one, &vec![length as u8; length]).await;
    }
    // TCP may have the same port.
    let other = free_port().await;
    let both = [Published::udp(1, port, target), Published::udp(2, other, target)];
    scene.publish(&both).await;
    scene.status(|status| status.ports.len() == 2).await;
    is_echoed(&one, b"still here").await;
    is_echoed(&visitor(other).await, b"new").await;
    scene.publish(&[Published::udp(2, other, target)]).await;
    scene.status(|status| status.ports.len() == 1).await;
    soon(async { while answers(&one, b"gone?").await {} }).await;
    is_echoed(&visitor(other).await, b"stays").await;
    let counted = scene.gateway.metrics();
    assert_eq!((counted.udp_overflowed, counted.udp_refusals), (0, 0));
    assert!(counted.udp_sessions >= 3 && counted.bytes_out >= 35_201);
}

#[tokio::test]
async fn many_visitors_have_their_own_sessions() {
    let (target, port) = (echoing().await, free_port().await);
    let scene = Scene::start(&[Published::udp(1, port, target)]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100_u32 {
        tasks.spawn(async move {
            let visitor = visitor(port).await;
            for count in 0..10_u32 {
                is_echoed(&visitor, &[number.to_be_bytes(), count.to_be_bytes()].concat()).await;
            }
        });
    }
    while let Some(done) = soon(tasks.join_next()).await {
        done.unwrap();
    }
    assert_eq!(scene.gateway.metrics().udp_sessions, 100);
}

/// DESIGN invariant 5: what is no longer permitted is closed, and what is permitted anew is let in.
#[tokio::test]
async fn addresses_are_let_in_and_shut_out_of_sessions() {
    let (target, port) = (echoing().await, free_port().await);
    let ruled = |effect| {
        let mut service = Published::udp(1, port, target);
        service.policy = Policy {
            rules: vec![Rule {
                name: "home".parse().unwrap(),
                when: Condition::Source("127.0.0.0/8".parse().unwrap()),
                effect,
                dry_run: false,
            }],
            ..Policy::deny()
        };
        service
    };
    let scene = Scene::start(&[ruled(Effect::Allow)]).await;
    let visitor = visitor(port).await;
    is_echoed(&visitor, b"hello").await;
    scene.publish(&[ruled(Effect::Deny)]).await;
    soon(async { while answers(&visitor, b"still?").await {} }).await;
    for _ in 0..3 {
        assert!(!answers(&visitor, b"no").await);
    }
    let counted = scene.gateway.metrics();
    assert_eq!((counted.revoked, counted.permitted), (1, 1));
    // Not each of its datagrams is decided about.
    assert!(counted.denied <= 1);
    scene.publish(&[ruled(Effect::Allow)]).await;
    is_echoed(&visitor, b"again").await;
}

#[tokio::test]
async fn a_target_that_refuses_is_counted_and_found_when_it_comes() {
    let port = free_port().await;
    let target = SocketAddr::from(([127, 0, 0, 1], free_port().await));
    let scene = Scene::start(&[Published::udp(1, port, target)]).await;
    let visitor = visitor(port).await;
    soon(async {
        while scene.gateway.metrics().udp_refusals == 0 {
            assert!(!answers(&visitor, b"anybody?").await);
        }
    })
    .await;
    tokio::spawn(echo(UdpSocket::bind(target).await.unwrap()));
    is_echoed(&visitor, b"at last").await;
}

#[tokio::test]
async fn sessions_end_when_they_idle_and_are_bounded() {
    let (target, port) = (echoing().await, free_port().await);
    let scene = Scene::with(&[Published::udp(1, port, target)], |builder| {
        let mut timeouts = Timeouts::default();
        timeouts.udp_idle = Duration::from_millis(500);
        let mut limits = Limits::default();
        limits.udp_sessions_per_address = 2;
        builder.timeouts(timeouts).limits(limits)
    })
    .await;
    let (one, two, three) = (visitor(port).await, visitor(port).await, visitor(port).await);
    is_echoed(&one, b"one").await;
    is_echoed(&two, b"two").await;
    assert!(!answers(&three, b"three").await);
    assert!(scene.gateway.metrics().udp_overflowed > 0);
    soon(async {
        while scene.gateway.metrics().open > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    is_echoed(&three, b"three").await;
}
