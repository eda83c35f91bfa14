//! Peers that come and go.

use std::{io::ErrorKind, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;
use crate::{
    engine::{ConnectError, Network, PeerView, ShardHandle, SpawnError},
    lane::PathHealth,
};

/// DESIGN invariant 6: online means that a probe was answered.
#[tokio::test]
async fn a_peer_is_online_when_a_probe_was_answered() {
    let (one, two) = pair(echo).await;
    let peers = one.shard.watch_peers().borrow().clone();
    let view = peers[&key(2)];
    assert!(matches!(view.health, PathHealth::Up { rtt, .. } if rtt < Duration::from_secs(1)));
    assert_eq!(view.endpoint, Some(two.address()));
    assert!(view.session_since.is_some() && view.last_received.is_some());
}

#[tokio::test]
async fn a_peer_that_vanishes_goes_offline_and_its_flows_end() {
    let (one, two) = pair(echo).await;
    let mut stream = one.shard.connect(to(PLAIN)).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    within(stream.read_u8()).await.unwrap();
    // It forgets us, as if its power was cut: nothing is said.
    two.shard.configure(Network::default());
    one.sees(2, |view| matches!(view.health, PathHealth::Down { .. }))
        .await;
    assert_eq!(
        within(stream.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionAborted
    );
    assert_eq!(
        one.shard.connect(to(PLAIN)).await.map(drop),
        Err(ConnectError::Offline)
    );
    one.has_flows(0).await;
}

/// A flow that is being connected while the lane goes down ends with it, long before its own time is up.
#[tokio::test]
async fn whoever_connects_hears_that_the_peer_is_offline() {
    let (one, two) = pair(echo).await;
    two.shard.configure(Network::default());
    let refused = within(one.shard.connect(to(PLAIN))).await.map(drop);
    // Its own timer would have said that the time is up.
    assert_eq!(refused, Err(ConnectError::Offline));
    one.has_flows(0).await;
}

#[tokio::test]
async fn a_peer_that_restarts_is_back_soon() {
    let (one, two) = pair(echo).await;
    let mut stream = one.shard.connect(to(PLAIN)).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    within(stream.read_u8()).await.unwrap();
    let address = two.address();
    two.shard.shutdown(Duration::ZERO).await;
    drop(two);
    assert_eq!(
        within(stream.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let again = async {
        // The socket of the first is closed when its thread has ended.
        loop {
            match ShardHandle::spawn(config(2, &address.to_string()), |shard| shard.on_incoming(echo)) {
                Ok(shard) => return shard,
                Err(SpawnError::Bind { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let shard = within(again).await;
    let two = Node::wrap(shard, 2);
    two.meet(1, Some(one.address()));
    two.sees(1, PeerView::is_online).await;
    one.sees(2, PeerView::is_online).await;
    let mut stream = within(one.shard.connect(to(PLAIN))).await.unwrap();
    stream.write_all(b"y").await.unwrap();
    assert_eq!(within(stream.read_u8()).await.unwrap(), b'y');
}

#[tokio::test]
async fn a_node_that_restarts_calls_whom_it_remembers() {
    let (one, two) = pair(echo).await;
    let address = one.address();
    one.shard.shutdown(Duration::ZERO).await;
    drop(one);
    let again = async {
        loop {
            match ShardHandle::spawn(config(1, &address.to_string()), |_| {}) {
                Ok(shard) => return shard,
                Err(SpawnError::Bind { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let one = Node::wrap(within(again).await, 1);
    // It was told by its disk where the other one is.
    one.meet(2, Some(two.address()));
    one.sees(2, PeerView::is_online).await;
    assert!(within(one.shard.connect(to(PLAIN))).await.is_ok());
}

#[tokio::test]
async fn garbage_at_the_port_changes_nothing() {
    let (one, _two) = pair(echo).await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in 0..300 {
        let mut datagram = pattern(length, length as u64);
        if let [kind, rest @ ..] = &mut datagram[..] {
            *kind = (length % 6) as u8;
            rest.iter_mut().take(3).for_each(|byte| *byte = 0);
        }
        socket.send_to(&datagram, one.address()).unwrap();
    }
    let mut stream = within(one.shard.connect(to(PLAIN))).await.unwrap();
    stream.write_all(b"z").await.unwrap();
    assert_eq!(within(stream.read_u8()).await.unwrap(), b'z');
    assert!(one.shard.metrics().await.unwrap().wireguard.malformed > 200);
}

#[test]
fn one_socket_of_each_family_is_bound() {
    let bind = |addresses: &[&str]| {
        let mut config = config(1, "127.0.0.1:0");
        config.bind = addresses.iter().map(|address| address.parse().unwrap()).collect();
        ShardHandle::spawn(config, |_| {}).map(|shard| shard.local_addresses().len())
    };
    assert_eq!(bind(&["[::]:0"]).unwrap(), 2);
    assert_eq!(bind(&["127.0.0.1:0", "[::1]:0"]).unwrap(), 2);
    assert_eq!(bind(&["[::1]:0"]).unwrap(), 1);
    assert!(matches!(bind(&[]), Err(SpawnError::Addresses)));
    assert!(matches!(
        bind(&["127.0.0.1:0", "127.0.0.1:0"]),
        Err(SpawnError::Addresses)
    ));
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(matches!(bind(&[&address]), Err(SpawnError::Bind { .. })));
}
