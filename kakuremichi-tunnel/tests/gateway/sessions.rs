//! UDP services over TLS streams.

use std::{net::SocketAddr, time::Duration};

use kakuremichi_core::policy::Policy;
use kakuremichi_tunnel::{
    gateway::{Limits, Timeouts},
    status::AgentEvent,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::{
    scene::{self, Published, Scene, soon},
    udp::{answers, echo, echoing, free_port, is_echoed, visitor},
};

async fn until(holds: impl Fn() -> bool) {
    soon(async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn datagrams_pass_over_tls_and_each_visitor_has_a_session() {
    let (target, port) = (echoing().await, free_port().await);
    let scene = Scene::over_tls_with(&[Published::udp(1, port, target)], |gateway| gateway).await;
    for _ in 0..5 {
        let visitor = visitor(port).await;
        for length in [0, 1, 1_200, 4_000, 30_000, 65_000] {
            is_echoed(&visitor, &vec![length as u8; length]).await;
        }
    }
    let counted = scene.gateway.metrics();
    assert_eq!((counted.lane_sessions, counted.udp_sessions), (5, 5));
    assert_eq!((counted.udp_refusals, counted.lane_sessions_overflowed), (0, 0));
}

/// A session that idles gives its connection back, and the next one takes it.
#[tokio::test]
async fn one_session_after_the_other_uses_the_same_few_connections() {
    let (target, port) = (echoing().await, free_port().await);
    let scene = Scene::over_tls_with(&[Published::udp(1, port, target)], |gateway| {
        let mut timeouts = Timeouts::default();
        timeouts.udp_idle = Duration::from_millis(100);
        gateway.timeouts(timeouts)
    })
    .await;
    for _ in 0..10 {
        is_echoed(&visitor(port).await, b"short").await;
        until(|| scene.gateway.metrics().open == 0).await;
    }
    let counted = scene.gateway.metrics();
    assert!(counted.lane_sessions >= 10, "{counted:?}");
    assert!(counted.lanes_accepted < 9, "{counted:?}");
}

/// DESIGN invariant 7: sessions that idle do not take the connections of flows.
#[tokio::test]
async fn sessions_are_bounded_and_leave_connections_to_flows() {
    let (target, port, tcp) = (echoing().await, free_port().await, free_port().await);
    let services = [
        Published::udp(1, port, target),
        Published::tcp(2, tcp, scene::echoing().await),
    ];
    let scene = Scene::over_tls_with(&services, |gateway| {
        let mut limits = Limits::default();
        limits.lane_connections = 8;
        gateway.limits(limits)
    })
    .await;
    let (one, two, three) = (visitor(port).await, visitor(port).await, visitor(port).await);
    is_echoed(&one, b"one").await;
    is_echoed(&two, b"two").await;
    assert!(!answers(&three, b"three").await);
    assert!(scene.gateway.metrics().lane_sessions_overflowed > 0);
    let mut flow = TcpStream::connect(("127.0.0.1", tcp)).await.unwrap();
    flow.write_all(b"x").await.unwrap();
    assert_eq!(soon(flow.read_u8()).await.unwrap(), b'x');
    is_echoed(&one, b"goes on").await;
}

#[tokio::test]
async fn a_target_that_refuses_is_counted_and_found_when_it_comes() {
    let port = free_port().await;
    let target = SocketAddr::from(([127, 0, 0, 1], free_port().await));
    let scene = Scene::over_tls_with(&[Published::udp(1, port, target)], |gateway| gateway).await;
    let visitor = visitor(port).await;
    soon(async {
        while scene.gateway.metrics().udp_refusals < 2 {
            assert!(!answers(&visitor, b"anybody?").await);
        }
    })
    .await;
    tokio::spawn(echo(UdpSocket::bind(target).await.unwrap()));
    is_echoed(&visitor, b"at last").await;
    // The refusals cost no connection.
    assert!(scene.gateway.metrics().lanes_accepted <= 5);
}

/// DESIGN invariant 5, at the gateway; LESSONS, advisory 14, at the agent.
#[tokio::test]
async fn sessions_end_with_their_permit_and_with_the_agents_plan() {
    let (target, port) = (echoing().await, free_port().await);
    let services = [Published::udp(1, port, target)];
    let scene = Scene::over_tls_with(&services, |gateway| gateway).await;
    let visitor = visitor(port).await;
    is_echoed(&visitor, b"hello").await;
    let mut denied = Published::udp(1, port, target);
    denied.policy = Policy::deny();
    scene.publish(&[denied]).await;
    until(|| scene.gateway.metrics().revoked == 1).await;
    soon(async { while answers(&visitor, b"still?").await {} }).await;
    scene.publish(&services).await;
    is_echoed(&visitor, b"again").await;
    // The gateway goes on asking for what the agent's plan has no more.
    let mut events = scene.agent.as_ref().unwrap().events();
    scene.publish_agent(&[]);
    soon(async { while answers(&visitor, b"gone?").await {} }).await;
    soon(async {
        loop {
            let _ = visitor.send(b"denied?").await;
            tokio::select! {
                event = events.next() => {
                    if matches!(event, Some(AgentEvent::Denied { .. })) {
                        break;
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    })
    .await;
}
