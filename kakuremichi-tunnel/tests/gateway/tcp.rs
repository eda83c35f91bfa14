//! Raw TCP services.

use std::{io, net::SocketAddr, time::Duration};

use kakuremichi_core::policy::{Condition, Effect, Policy, Rule};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::scene::{Published, Scene, echoing, free_port, soon};

async fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await
}

async fn is_echoed(stream: &mut TcpStream, text: &[u8]) -> bool {
    let mut back = vec![0; text.len()];
    stream.write_all(text).await.is_ok() && soon(stream.read_exact(&mut back)).await.is_ok() && back == text
}

#[tokio::test]
async fn ports_open_and_close_with_the_plan() {
    let (target, port) = (echoing().await, free_port().await);
    let scene = Scene::start(&[Published::tcp(1, port, target)]).await;
    scene
        .status(|status| status.ports.len() == 1 && status.ports[0].error.is_none())
        .await;
    let mut visitor = connect(port).await.unwrap();
    assert!(is_echoed(&mut visitor, b"hello").await);
    // Another service comes: what is open stays open.
    let other = free_port().await;
    scene
        .publish(&[Published::tcp(1, port, target), Published::tcp(2, other, target)])
        .await;
    scene.status(|status| status.ports.len() == 2).await;
    assert!(is_echoed(&mut visitor, b"still here").await);
    assert!(is_echoed(&mut connect(other).await.unwrap(), b"new").await);
    // The first one goes, and with it what was open.
    scene.publish(&[Published::tcp(2, other, target)]).await;
    assert!(!is_echoed(&mut visitor, b"gone").await);
    soon(async { while connect(port).await.is_ok() {} }).await;
    assert!(is_echoed(&mut connect(other).await.unwrap(), b"stays").await);
}

/// LESSONS: "EOF in one direction closes both".
#[tokio::test]
async fn a_visitor_may_end_before_the_target() {
    let (target, port) = (echoing().await, free_port().await);
    let scene = Scene::start(&[Published::tcp(1, port, target)]).await;
    let mut visitor = connect(port).await.unwrap();
    let sent: Vec<u8> = (0..1_000_000_u32)
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let (mut reading, mut writing) = visitor.split();
    let write = async {
        writing.write_all(&sent).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, read) = soon(async { tokio::join!(write, reading.read_to_end(&mut back)) }).await;
    read.unwrap();
    assert!(back == sent);
    soon(async {
        while scene.gateway.metrics().bytes_out < sent.len() as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_port_in_use_is_reported_and_tried_again() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = holder.local_addr().unwrap().port();
    let scene = Scene::start(&[Published::tcp(1, port, echoing().await)]).await;
    scene
        .status(|status| status.ports.iter().any(|port| port.error.is_some()))
        .await;
    drop(holder);
    scene
        .status(|status| status.ports.iter().all(|port| port.error.is_none()))
        .await;
    assert!(is_echoed(&mut connect(port).await.unwrap(), b"at last").await);
}

#[tokio::test]
async fn addresses_are_let_in_and_shut_out_while_connected() {
    let (target, port) = (echoing().await, free_port().await);
    let ruled = |effect| {
        let mut service = Published::tcp(1, port, target);
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
    let mut visitor = connect(port).await.unwrap();
    assert!(is_echoed(&mut visitor, b"hello").await);
    // DESIGN invariant 5: it is decided anew when the plan changes.
    scene.publish(&[ruled(Effect::Deny)]).await;
    assert!(!is_echoed(&mut visitor, b"still?").await);
    let mut shut_out = connect(port).await.unwrap();
    assert!(!is_echoed(&mut shut_out, b"again?").await);
    let counted = scene.gateway.metrics();
    assert_eq!((counted.revoked, counted.permitted, counted.denied), (1, 1, 1));
}

#[tokio::test]
async fn the_next_target_is_asked_when_one_refuses() {
    let port = free_port().await;
    let dead = SocketAddr::from(([127, 0, 0, 1], free_port().await));
    let mut service = Published::tcp(1, port, dead);
    service.targets.push(echoing().await);
    let scene = Scene::start(&[service]).await;
    for _ in 0..4 {
        let mut visitor = connect(port).await.unwrap();
        // Nothing was read of a visitor that says nothing before the target is there.
        soon(async {
            while scene.gateway.metrics().open == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        tokio::time::timeout(Duration::from_millis(200), visitor.readable())
            .await
            .ok();
        assert!(is_echoed(&mut visitor, b"hello").await);
    }
}
