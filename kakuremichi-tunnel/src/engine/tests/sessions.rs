//! UDP sessions between two shards.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::support::*;
use crate::{
    engine::{ConnectError, IncomingSession, Meter, OpenSession},
    session::TunnelSession,
    wg::public_key,
};

/// Node 1, and node 2, which hands its sessions to the test.
async fn pair() -> (Node, Node, mpsc::UnboundedReceiver<IncomingSession>) {
    let (sender, sessions) = mpsc::unbounded_channel();
    let one = Node::start(config(1, "127.0.0.1:0"), 1, |_| {});
    let two = Node::start(config(2, "127.0.0.1:0"), 2, move |shard| {
        shard.on_session(move |session| sender.send(session).unwrap());
    });
    one.meet(2, None);
    two.meet(1, Some(one.address()));
    one.sees(2, crate::engine::PeerView::is_online).await;
    two.sees(1, crate::engine::PeerView::is_online).await;
    (one, two, sessions)
}

fn session_to(port: u16) -> OpenSession {
    OpenSession {
        peer: key(2),
        remote: SocketAddr::new(overlay(2), port),
        preface: (port == WITH_PREFACE).then(preface),
        idle: Duration::from_secs(60),
        meter: Arc::default(),
    }
}

async fn receive(session: &mut TunnelSession) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = within(session.recv(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    buffer
}

/// Waits until a session was told that nobody wants its datagrams.
async fn refused(session: &TunnelSession, times: u64) {
    let wait = async {
        while session.refusals() < times {
            tokio::task::yield_now().await;
        }
    };
    within(wait).await;
}

#[tokio::test]
async fn datagrams_pass_both_ways_and_are_counted() {
    let (one, _two, mut sessions) = pair().await;
    for port in [WITH_PREFACE, PLAIN] {
        let open = session_to(port);
        let meter = Arc::clone(&open.meter);
        let mut near = one.shard.open_session(open).await.unwrap();
        near.try_send(b"question").unwrap();
        let incoming = within(sessions.recv()).await.unwrap();
        let expected = if port == PLAIN { Vec::new() } else { preface() };
        assert_eq!(incoming.preface, expected);
        let theirs = Arc::new(Meter::default());
        let mut far = incoming.accept(Arc::clone(&theirs));
        assert_eq!(receive(&mut far).await, b"question");
        for length in [0, 1, 1_400, 20_000] {
            let data = pattern(length, 3);
            far.try_send(&data).unwrap();
            assert_eq!(receive(&mut near).await, data);
            near.try_send(&data).unwrap();
            assert_eq!(receive(&mut far).await, data);
        }
        let bytes = 1 + 1_400 + 20_000;
        // The first one came before anybody decided, and is counted all the same.
        let counted = async {
            while (meter.sent(), meter.received()) != (8 + bytes, bytes)
                || (theirs.sent(), theirs.received()) != (bytes, 8 + bytes)
            {
                tokio::task::yield_now().await;
            }
        };
        within(counted).await;
    }
}

/// DESIGN section 6: the preface is on each datagram until the first answer.
#[tokio::test]
async fn the_preface_is_repeated_until_an_answer_comes() {
    let (one, _two, mut sessions) = pair().await;
    let mut near = one.shard.open_session(session_to(WITH_PREFACE)).await.unwrap();
    for number in 0..5_u8 {
        near.try_send(&[number]).unwrap();
    }
    let mut far = within(sessions.recv()).await.unwrap().accept(Arc::default());
    for number in 0..5_u8 {
        assert_eq!(receive(&mut far).await, [number]);
    }
    far.try_send(b"answer").unwrap();
    assert_eq!(receive(&mut near).await, b"answer");
    near.try_send(b"short").unwrap();
    assert_eq!(receive(&mut far).await, b"short");
    assert!(sessions.try_recv().is_err());
}

/// The other end was started anew: it refuses what it does not know, and is introduced again.
#[tokio::test]
async fn a_session_that_the_other_end_forgot_is_introduced_again() {
    let (one, two, mut sessions) = pair().await;
    let mut near = one.shard.open_session(session_to(WITH_PREFACE)).await.unwrap();
    near.try_send(b"first").unwrap();
    let mut far = within(sessions.recv()).await.unwrap().accept(Arc::default());
    assert_eq!(receive(&mut far).await, b"first");
    far.try_send(b"answer").unwrap();
    receive(&mut near).await;
    drop(far);
    let gone = async {
        while two.shard.metrics().await.unwrap().sessions > 0 {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
    near.try_send(b"lost").unwrap();
    refused(&near, 1).await;
    near.try_send(b"again").unwrap();
    let mut far = within(sessions.recv()).await.unwrap().accept(Arc::default());
    assert_eq!(receive(&mut far).await, b"again");
    assert_eq!(two.shard.metrics().await.unwrap().engine.bad_prefaces, 1);
}

/// A visitor cannot write a preface: what looks like one is data.
#[tokio::test]
async fn data_that_looks_like_a_preface_stays_data() {
    let (one, _two, mut sessions) = pair().await;
    let mut near = one.shard.open_session(session_to(WITH_PREFACE)).await.unwrap();
    let mut forged = preface();
    forged[20] ^= 1;
    forged.extend_from_slice(b"forged");
    near.try_send(&forged).unwrap();
    let incoming = within(sessions.recv()).await.unwrap();
    assert_eq!(incoming.preface, preface());
    let mut far = incoming.accept(Arc::default());
    assert_eq!(receive(&mut far).await, forged);
    far.try_send(&forged).unwrap();
    assert_eq!(receive(&mut near).await, forged);
    near.try_send(&forged).unwrap();
    assert_eq!(receive(&mut far).await, forged);
    assert!(sessions.try_recv().is_err());
}

#[tokio::test]
async fn a_refusal_is_told_and_the_next_datagram_asks_again() {
    let (one, _two, mut sessions) = pair().await;
    let near = one.shard.open_session(session_to(WITH_PREFACE)).await.unwrap();
    for round in 1..=3 {
        near.try_send(b"anybody?").unwrap();
        within(sessions.recv()).await.unwrap().refuse();
        refused(&near, round).await;
    }
    let closed = SocketAddr::new(overlay(2), 9);
    let open = OpenSession {
        remote: closed,
        ..session_to(PLAIN)
    };
    let near = one.shard.open_session(open).await.unwrap();
    near.try_send(b"anybody?").unwrap();
    refused(&near, 1).await;
}

#[tokio::test]
async fn a_session_ends_when_nothing_passes_or_the_peer_goes() {
    let (one, _two, mut sessions) = pair().await;
    let mut open = session_to(PLAIN);
    open.idle = Duration::from_millis(100);
    let mut idle = one.shard.open_session(open).await.unwrap();
    let error = within(idle.recv(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(idle.try_send(b"late").is_err());
    let mut near = one.shard.open_session(session_to(PLAIN)).await.unwrap();
    near.try_send(b"x").unwrap();
    let _far = within(sessions.recv()).await.unwrap().accept(Arc::default());
    one.shard.configure(crate::engine::Network {
        addresses: vec![overlay(1)],
        ..Default::default()
    });
    let error = within(near.recv(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    let stranger = OpenSession {
        peer: public_key(&kakuremichi_core::secret::Secret::new([9; 32])),
        ..session_to(PLAIN)
    };
    let refused = one.shard.open_session(stranger).await;
    assert!(matches!(refused, Err(ConnectError::UnknownPeer)));
}

/// Many datagrams at once: nothing is reordered within a session, and none is mixed with another.
#[tokio::test]
async fn sessions_do_not_mix() {
    let (one, _two, mut sessions) = pair().await;
    let mut near = Vec::new();
    for number in 0..8_u8 {
        let open = OpenSession {
            idle: Duration::from_secs(60),
            ..session_to(PLAIN)
        };
        let session = one.shard.open_session(open).await.unwrap();
        session.try_send(&[number, 0]).unwrap();
        near.push(session);
    }
    for _ in 0..8 {
        let mut far = within(sessions.recv()).await.unwrap().accept(Arc::default());
        let number = receive(&mut far).await[0];
        for count in 1..100_u8 {
            near[usize::from(number)].try_send(&[number, count]).unwrap();
        }
        let mut last = 0;
        while last < 99 {
            let data = receive(&mut far).await;
            assert_eq!((data[0], data[1]), (number, last + 1));
            last = data[1];
        }
    }
}
