//! The life of single flows.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use kakuremichi_proto::flow::FlowReply;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::support::*;
use crate::{
    engine::{Connect, ConnectError, EndReason, IncomingFlow},
    stream::FlowRefused,
};

/// Hands incoming flows to the test.
fn handed_over() -> (
    impl Fn(IncomingFlow) + Clone + Send + 'static,
    mpsc::UnboundedReceiver<IncomingFlow>,
) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (move |flow| sender.send(flow).unwrap(), receiver)
}

#[tokio::test]
async fn a_stream_carries_bytes_both_ways() {
    let (one, _two) = pair(echo).await;
    for port in [WITH_PREFACE, PLAIN] {
        let connect = to(port);
        let meter = Arc::clone(&connect.meter);
        let mut stream = one.shard.connect(connect).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        within(stream.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, b"hello");
        assert_eq!(
            (meter.sent(), meter.received()),
            (5, 5),
            "preface and reply are nobody's"
        );
    }
    one.has_flows(0).await;
}

#[tokio::test]
async fn ipv4_in_the_overlay_and_ipv6_below_work() {
    let (one, _two) = pair_at("[::1]:0", echo).await;
    let remote = SocketAddr::new(overlay_v4(2), PLAIN);
    let mut stream = one.shard.connect(Connect::new(key(2), remote)).await.unwrap();
    stream.write_all(b"four in six").await.unwrap();
    let mut back = [0; 11];
    within(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"four in six");
}

#[tokio::test]
async fn the_handler_sees_preface_and_addresses() {
    let (handler, mut flows) = handed_over();
    let (one, _two) = pair(handler).await;
    let mut stream = one.shard.connect(to(WITH_PREFACE)).await.unwrap();
    stream.write_all(b"early data").await.unwrap();
    let flow = within(flows.recv()).await.unwrap();
    assert_eq!((flow.peer, flow.preface.clone()), (key(1), preface()));
    assert_eq!(
        (flow.local, flow.remote.ip()),
        (SocketAddr::new(overlay(2), WITH_PREFACE), overlay(1))
    );
    let mut accepted = flow.accept_stream(Arc::default());
    let mut data = [0; 10];
    within(accepted.read_exact(&mut data)).await.unwrap();
    assert_eq!(&data, b"early data");
}

#[tokio::test]
async fn a_refusal_names_its_reason() {
    let (one, _two) = pair(|flow| flow.refuse(FlowReply::Denied)).await;
    let mut stream = one.shard.connect(to(WITH_PREFACE)).await.unwrap();
    let error = within(stream.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let refused = error.get_ref().unwrap().downcast_ref::<FlowRefused>();
    assert_eq!(refused, Some(&FlowRefused(FlowReply::Denied)));
    // Without a preface there is nobody to tell: a reset.
    let mut stream = one.shard.connect(to(PLAIN)).await.unwrap();
    assert_eq!(
        within(stream.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    // A socket is reset, and the reason is told.
    let (mut visitor, inside) = sockets();
    let end = within(one.shard.splice(inside, to(WITH_PREFACE))).await;
    assert_eq!(end.reason, EndReason::Refused(FlowReply::Denied));
    assert_eq!(
        visitor.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn what_cannot_be_connected_says_why() {
    let (one, _two) = pair(echo).await;
    let connect = async |connect| within(one.shard.connect(connect)).await.map(drop);
    assert_eq!(connect(to(9)).await, Err(ConnectError::Refused));
    let stranger = Connect {
        peer: key(9),
        ..to(PLAIN)
    };
    assert_eq!(connect(stranger).await, Err(ConnectError::UnknownPeer));
    let elsewhere = Connect {
        remote: "[fd00::9]:1".parse().unwrap(),
        ..to(PLAIN)
    };
    assert_eq!(connect(elsewhere).await, Err(ConnectError::Unroutable));
    let (_visitor, inside) = sockets();
    let end = within(one.shard.splice(inside, to(9))).await;
    assert_eq!(end.reason, EndReason::NotConnected(ConnectError::Refused));
}

/// LESSONS: "EOF in one direction closes both": it must not.
#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (handler, mut flows) = handed_over();
    let (one, two) = pair(handler).await;
    let (mut visitor, near) = sockets();
    let (mut target, far) = sockets();
    let splice = one.shard.splice(near, to(WITH_PREFACE));
    let accepted = within(flows.recv())
        .await
        .unwrap()
        .accept_socket(far, Arc::default());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            visitor.write_all(b"question").unwrap();
            visitor.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            visitor.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "answer");
        });
        scope.spawn(move || {
            let mut question = String::new();
            target.read_to_string(&mut question).unwrap();
            assert_eq!(question, "question");
            target.write_all(b"answer").unwrap();
        });
    });
    let end = within(splice).await;
    assert_eq!((end.sent, end.received, end.reason), (8, 6, EndReason::Finished));
    assert_eq!(within(accepted).await.reason, EndReason::Finished);
    one.has_flows(0).await;
    two.has_flows(0).await;
}

/// A visitor's reset reaches the target as one, and a target's the visitor: neither is an end in order.
#[tokio::test]
async fn a_reset_goes_through() {
    let (handler, mut flows) = handed_over();
    let (one, _two) = pair(handler).await;
    // From the target's socket to the visitor's.
    let (mut visitor, near) = sockets();
    let (target, far) = sockets();
    let splice = one.shard.splice(near, to(PLAIN));
    let accepted = within(flows.recv())
        .await
        .unwrap()
        .accept_socket(far, Arc::default());
    super::super::net::reset_on_close(&target);
    drop(target);
    assert_eq!(within(splice).await.reason, EndReason::Reset);
    assert_eq!(
        within(accepted).await.reason,
        EndReason::Socket(ErrorKind::ConnectionReset)
    );
    assert_eq!(
        visitor.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    // From the visitor's socket to the target's.
    let (visitor, near) = sockets();
    let (mut target, far) = sockets();
    let splice = one.shard.splice(near, to(PLAIN));
    let accepted = within(flows.recv())
        .await
        .unwrap()
        .accept_socket(far, Arc::default());
    super::super::net::reset_on_close(&visitor);
    drop(visitor);
    assert_eq!(
        within(splice).await.reason,
        EndReason::Socket(ErrorKind::ConnectionReset)
    );
    assert_eq!(within(accepted).await.reason, EndReason::Reset);
    assert_eq!(
        target.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    // From a dropped stream to a stream.
    let mut stream = one.shard.connect(to(PLAIN)).await.unwrap();
    drop(within(flows.recv()).await.unwrap().accept_stream(Arc::default()));
    assert_eq!(
        within(stream.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    // From a cancelled splice to a stream: how a revoked visitor is closed.
    let (_visitor, near) = sockets();
    let splice = one.shard.splice(near, to(PLAIN));
    let mut stream = within(flows.recv()).await.unwrap().accept_stream(Arc::default());
    drop(splice);
    assert_eq!(
        within(stream.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_stream_that_was_ended_and_dropped_still_delivers() {
    let (handler, mut flows) = handed_over();
    let (one, two) = pair(handler).await;
    let mut stream = one.shard.connect(to(PLAIN)).await.unwrap();
    let mut accepted = within(flows.recv()).await.unwrap().accept_stream(Arc::default());
    let data = pattern(200_000, 1);
    within(accepted.write_all(&data)).await.unwrap();
    accepted.shutdown().await.unwrap();
    drop(accepted);
    let mut received = Vec::new();
    within(stream.read_to_end(&mut received)).await.unwrap();
    assert!(received == data);
    stream.shutdown().await.unwrap();
    two.has_flows(0).await;
}

/// What its user left behind reaches a slow peer, too: only a peer that takes nothing is given up.
#[tokio::test]
async fn a_dropped_stream_delivers_for_as_long_as_the_peer_takes() {
    let (handler, mut flows) = handed_over();
    let (one, two) = pair(handler).await;
    let mut stream = one.shard.connect(to(PLAIN)).await.unwrap();
    let mut accepted = within(flows.recv()).await.unwrap().accept_stream(Arc::default());
    // What two rings and two buffers hold, nearly.
    let data = pattern(1_300_000, 3);
    within(accepted.write_all(&data)).await.unwrap();
    accepted.shutdown().await.unwrap();
    drop(accepted);
    let mut received = vec![0; data.len()];
    let (slow, rest) = received.split_at_mut(900_000);
    // A piece a second, as often as counters are published: together thrice as long as a flow lingers that is
    // stuck.
    for piece in slow.chunks_mut(150_000) {
        within(stream.read_exact(piece)).await.unwrap();
        let seen = two
            .shard
            .watch_peers()
            .borrow()
            .get(&key(1))
            .unwrap()
            .received_bytes;
        two.sees(1, |view| view.received_bytes > seen).await;
    }
    within(stream.read_exact(rest)).await.unwrap();
    assert!(received == data);
    stream.shutdown().await.unwrap();
    two.has_flows(0).await;
}

#[tokio::test]
async fn an_undecided_or_slow_flow_is_given_up() {
    let (handler, mut flows) = handed_over();
    let (one, two) = pair(handler).await;
    // Half a preface.
    let connect = Connect {
        preface: Some(preface()[..20].to_vec()),
        ..to(WITH_PREFACE)
    };
    let mut stream = one.shard.connect(connect).await.unwrap();
    assert_eq!(
        within(stream.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    // Something else than a preface.
    let connect = Connect {
        preface: Some(b"GET / HTTP/1.1\r\n".to_vec()),
        ..to(WITH_PREFACE)
    };
    let mut stream = one.shard.connect(connect).await.unwrap();
    assert_eq!(
        within(stream.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(two.shard.metrics().await.unwrap().engine.bad_prefaces, 2);
    // Nobody decides.
    let mut stream = one.shard.connect(to(WITH_PREFACE)).await.unwrap();
    drop(within(flows.recv()).await.unwrap());
    assert_eq!(
        within(stream.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert!(flows.is_empty());
}

/// DESIGN invariant 7: back-pressure goes through windows; nothing grows.
#[tokio::test]
async fn a_slow_reader_stops_the_writer() {
    let (handler, mut flows) = handed_over();
    let (one, _two) = pair(handler).await;
    let connect = to(PLAIN);
    let meter = Arc::clone(&connect.meter);
    let mut stream = one.shard.connect(connect).await.unwrap();
    let mut accepted = within(flows.recv()).await.unwrap().accept_stream(Arc::default());
    // Two rings and two buffers hold 1.5 MiB; four times as much is on offer.
    let data = pattern(6 << 20, 2);
    let copy = data.clone();
    let writer = start(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            stream.write_all(&copy).await.unwrap();
            stream.shutdown().await.unwrap();
        });
    });
    // The writer comes to a stop: two looks at what was sent, with a probe's round trip in between.
    let mut stopped_at = 0;
    let stop = async {
        loop {
            let before = meter.sent();
            let since = one
                .shard
                .watch_peers()
                .borrow()
                .get(&key(2))
                .unwrap()
                .received_bytes;
            one.sees(2, |view| view.received_bytes > since + 1000).await;
            if meter.sent() == before && before > 0 {
                stopped_at = before;
                return;
            }
        }
    };
    within(stop).await;
    assert!(
        stopped_at < 2 << 20,
        "{stopped_at} bytes went out to a reader that does not read"
    );
    let mut received = Vec::new();
    within(accepted.read_to_end(&mut received)).await.unwrap();
    assert!(received == data);
    writer.join().unwrap();
}

/// LESSONS: "an accept loop that spins after the stack under it died": what is left is told that it ended.
#[tokio::test]
async fn a_shard_that_panics_leaves_nobody_waiting() {
    let (sender, mut streams) = mpsc::unbounded_channel();
    let (one, two) = pair(move |flow| {
        assert!(flow.local.port() != PLAIN, "a bug of the embedder");
        sender.send(flow.accept_stream(Arc::default())).unwrap();
    })
    .await;
    let _kept = one.shard.connect(to(WITH_PREFACE)).await.unwrap();
    let mut accepted = within(streams.recv()).await.unwrap();
    let _fatal = one.shard.connect(to(PLAIN)).await;
    assert_eq!(
        within(accepted.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionAborted
    );
    assert!(within(two.shard.metrics()).await.is_none());
    assert_eq!(within(two.shard.shutdown(Duration::ZERO)).await.cut, 0);
}

#[tokio::test]
async fn a_shutdown_waits_and_then_cuts() {
    let (handler, mut flows) = handed_over();
    let (one, two) = pair(handler).await;
    let mut stream = one.shard.connect(to(PLAIN)).await.unwrap();
    let mut accepted = within(flows.recv()).await.unwrap().accept_stream(Arc::default());
    let shard = two.shard.clone();
    let shutdown = tokio::join!(within(shard.shutdown(Duration::from_secs(20))), async {
        // No new flows, but the open one goes on.
        while one.shard.connect(to(PLAIN)).await.is_ok() {}
        stream.write_all(b"last words").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut words = String::new();
        within(accepted.read_to_string(&mut words)).await.unwrap();
        assert_eq!(words, "last words");
        accepted.shutdown().await.unwrap();
        assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0);
    });
    assert_eq!(shutdown.0.cut, 0);
    assert!(two.shard.is_stopped());
    assert_eq!(
        two.shard.connect(to(PLAIN)).await.map(drop),
        Err(ConnectError::Stopped)
    );
}

#[tokio::test]
async fn a_shutdown_without_grace_and_the_last_handle_reset_flows() {
    let (handler, mut flows) = handed_over();
    let (one, two) = pair(handler).await;
    let mut stream = one.shard.connect(to(PLAIN)).await.unwrap();
    let mut accepted = within(flows.recv()).await.unwrap().accept_stream(Arc::default());
    assert_eq!(within(two.shard.shutdown(Duration::ZERO)).await.cut, 1);
    assert_eq!(
        within(accepted.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionAborted
    );
    assert_eq!(
        within(stream.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let one_still = one.shard.downgrade();
    drop(one);
    let gone = async {
        while !one_still.is_stopped() {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
}
