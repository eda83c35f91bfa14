//! Connections, flows and proofs over pipes in memory.

#![cfg(all(feature = "agent", feature = "gateway"))]
#![expect(clippy::disallowed_methods, reason = "tests run both ends, within a time")]

mod hello;
#[cfg(target_os = "linux")]
mod simulation;

use std::{io, sync::Arc, time::Duration};

use kakuremichi_core::id::AgentId;
use kakuremichi_proto::{
    flow::FlowReply,
    lane::record::{Record, ResetCode},
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    runtime,
    sync::mpsc,
    time::timeout,
};

use super::{
    connection::{Connection, Signal},
    finish::{Fate, Returned, finish},
    flow::LaneFlow,
    pump::pump,
};
use crate::{
    engine::{EndReason, Meter},
    stream::TunnelStream,
};

const AGENT: AgentId = AgentId::from_bytes([1; 16]);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let soon = async { timeout(Duration::from_secs(20), test).await.unwrap() };
    runtime.unwrap().block_on(soon)
}

/// Two ends of a connection with so small a pipe that both sides often wait.
fn pair(pipe: usize) -> (Connection, Connection) {
    let (one, other) = duplex(pipe);
    let connection = |end: DuplexStream| Connection::new(AGENT, 0, Box::new(end), None);
    (connection(one), connection(other))
}

/// The connection under a flow as a stream, and where it comes back.
fn stream(
    make: impl FnOnce(mpsc::UnboundedSender<Returned>) -> LaneFlow,
) -> (TunnelStream, mpsc::UnboundedReceiver<Returned>) {
    let (home, returned) = mpsc::unbounded_channel();
    let any = "[::]:0".parse().unwrap();
    (TunnelStream::over_lane(make(home), any, any), returned)
}

fn opened(mut connection: Connection) -> (TunnelStream, mpsc::UnboundedReceiver<Returned>) {
    connection.queue(Record::Begin {
        port: 2000,
        preface: b"preface",
    });
    stream(|home| LaneFlow::opened(connection, home, Arc::default()))
}

async fn taken(mut connection: Connection) -> (TunnelStream, mpsc::UnboundedReceiver<Returned>) {
    let begin = Signal::Begin(2000, b"preface".to_vec());
    assert_eq!(connection.next().await.unwrap(), Some(begin));
    stream(|home| {
        let mut flow = LaneFlow::undecided(connection, home);
        flow.accept(Arc::default());
        flow
    })
}

async fn both_ways(a: &mut TunnelStream, b: &mut TunnelStream, sent: &[u8]) {
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    let ask = async {
        a.write_all(sent).await?;
        a.shutdown().await?;
        a.read_to_end(&mut at_a).await
    };
    let answer = async {
        b.read_to_end(&mut at_b).await?;
        b.write_all(sent).await?;
        b.shutdown().await
    };
    let (asked, answered) = tokio::join!(ask, answer);
    asked.unwrap();
    answered.unwrap();
    assert!(at_a == sent && at_b == sent);
}

#[test]
fn a_connection_serves_one_flow_after_the_other() {
    run(async {
        let (mut near, mut far) = pair(512);
        for round in 0..3_u32 {
            let (mut asks, mut near_home) = opened(near);
            let serving = async {
                let (mut serves, home) = taken(far).await;
                let _ = serves.flush().await;
                (serves, home)
            };
            let (flushed, (mut serves, mut far_home)) = tokio::join!(asks.flush(), serving);
            flushed.unwrap();
            asks.connected().await.unwrap();
            let sent: Vec<u8> = (0..10_000 + round).flat_map(u32::to_le_bytes).collect();
            both_ways(&mut asks, &mut serves, &sent).await;
            drop((asks, serves));
            let (one, other) = (near_home.recv().await.unwrap(), far_home.recv().await.unwrap());
            // Whoever has read the end of the other direction is done; the other one waits for it.
            let (one, other) = tokio::join!(finish(one), finish(other));
            (near, far) = (one.unwrap(), other.unwrap());
        }
    });
}

#[test]
fn a_refusal_is_the_end_of_a_flow_and_not_of_its_connection() {
    run(async {
        let (near, mut far) = pair(64 * 1024);
        let (mut asks, mut near_home) = opened(near);
        asks.write_all(b"data that nobody takes").await.unwrap();
        let (home, mut far_home) = mpsc::unbounded_channel();
        assert!(matches!(far.next().await.unwrap(), Some(Signal::Begin(..))));
        LaneFlow::undecided(far, home).refuse(FlowReply::Denied);
        let returned = far_home.recv().await.unwrap();
        assert_eq!(returned.fate, Fate::Ended);
        let freed = async { (finish(returned).await, ()) };
        let asked = async {
            let error = asks.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            assert!(asks.connected().await.is_err());
            drop(asks);
            finish(near_home.recv().await.unwrap()).await
        };
        let ((far, ()), near) = tokio::join!(freed, asked);
        assert!(far.is_some() && near.is_some());
    });
}

/// After an error a connection is never used again.
#[test]
fn a_flow_that_is_dropped_before_its_end_is_reset_and_takes_its_connection_along() {
    run(async {
        let (near, far) = pair(64 * 1024);
        let (mut asks, mut near_home) = opened(near);
        asks.flush().await.unwrap();
        let (mut serves, mut far_home) = taken(far).await;
        drop(asks);
        let returned = near_home.recv().await.unwrap();
        assert_eq!(returned.fate, Fate::Reset(ResetCode::Cancelled));
        assert!(finish(returned).await.is_none());
        let error = serves.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        drop(serves);
        assert_eq!(far_home.recv().await.unwrap().fate, Fate::Broken);
    });
}

#[test]
fn data_before_the_reply_breaks_the_protocol() {
    run(async {
        let (near, mut far) = pair(64 * 1024);
        let (mut asks, mut home) = opened(near);
        far.queue_data(b"too early");
        far.drain().await.unwrap();
        let error = asks.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(asks);
        let fate = home.recv().await.unwrap().fate;
        assert_eq!(fate, Fate::Reset(ResetCode::Protocol));
    });
}

#[test]
fn a_lane_that_breaks_off_is_no_end_in_order() {
    run(async {
        let (near, far) = pair(64 * 1024);
        let (mut socket, _visitor) = duplex(1024);
        drop(far);
        let mut near = near;
        let end = pump(&mut socket, &mut near, &Meter::default(), true).await;
        assert_eq!((end.reason, end.fate), (EndReason::Reset, Fate::Broken));
    });
}

/// Who has said and heard everything may close the connection at once. What it said is written all the same.
#[test]
fn what_came_before_the_end_of_a_connection_reaches_a_slow_socket() {
    run(async {
        let (mut near, mut far) = pair(64 * 1024);
        let (mut visitor, mut socket) = duplex(100);
        let sent: Vec<u8> = (0..10_000_u32).map(|at| at as u8).collect();
        let serve = async {
            assert_eq!(far.next().await.unwrap(), Some(Signal::End));
            far.queue_data(&sent);
            far.queue(Record::End);
            far.drain().await.unwrap();
            drop(far);
        };
        let visit = async {
            visitor.shutdown().await.unwrap();
            let mut got = Vec::new();
            visitor.read_to_end(&mut got).await.unwrap();
            got
        };
        let meter = Meter::default();
        let (end, (), got) = tokio::join!(pump(&mut socket, &mut near, &meter, true), serve, visit);
        assert_eq!((end.reason, end.fate), (EndReason::Finished, Fate::Clean));
        assert!(got == sent);
    });
}

proptest! {
    /// Two pumps, two sockets and a lane between them, all with pipes of any size: every byte arrives in
    /// both directions, each ends by itself, and the connection is free afterwards.
    #[test]
    fn what_goes_in_comes_out(
        pipes in (1_usize..70_000, 1_usize..70_000, 1_usize..70_000),
        up in 0_usize..300_000,
        down in 0_usize..300_000,
        up_ends_first: bool,
    ) {
        run(async {
            let (near, far) = pair(pipes.0.max(8));
            let (mut near, mut far) = (near, far);
            let (mut visitor, mut near_socket) = duplex(pipes.1);
            let (mut target, mut far_socket) = duplex(pipes.2);
            let (near_meter, far_meter) = (Meter::default(), Meter::default());
            near.queue(Record::Begin { port: 1, preface: b"" });
            let serve = async {
                assert!(matches!(far.next().await.unwrap(), Some(Signal::Begin(..))));
                far.queue(Record::Reply(FlowReply::Connected));
                pump(&mut far_socket, &mut far, &far_meter, true).await
            };
            let bytes = |length: usize, seed: u8| -> Vec<u8> {
                (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
            };
            let (to_target, to_visitor) = (bytes(up, 1), bytes(down, 2));
            let visit = async {
                let (mut read, mut write) = tokio::io::split(&mut visitor);
                let mut got = Vec::new();
                let sending = async { write.write_all(&to_target).await.unwrap(); write.shutdown().await.unwrap(); };
                if up_ends_first {
                    sending.await;
                    read.read_to_end(&mut got).await.unwrap();
                } else {
                    let ((), read) = tokio::join!(sending, read.read_to_end(&mut got));
                    read.unwrap();
                }
                got
            };
            let answer = async {
                let (mut read, mut write) = tokio::io::split(&mut target);
                let mut got = Vec::new();
                if up_ends_first {
                    read.read_to_end(&mut got).await.unwrap();
                    write.write_all(&to_visitor).await.unwrap();
                    write.shutdown().await.unwrap();
                } else {
                    let sending = async { write.write_all(&to_visitor).await.unwrap(); write.shutdown().await.unwrap(); };
                    let (read, ()) = tokio::join!(read.read_to_end(&mut got), sending);
                    read.unwrap();
                }
                got
            };
            let (one, other, at_visitor, at_target) = tokio::join!(
                pump(&mut near_socket, &mut near, &near_meter, false),
                serve,
                visit,
                answer,
            );
            for end in [one, other] {
                assert_eq!((end.reason, end.fate), (EndReason::Finished, Fate::Clean));
            }
            assert!(at_visitor == to_visitor && at_target == to_target);
            assert_eq!((near_meter.sent(), near_meter.received()), (up as u64, down as u64));
            assert_eq!((far_meter.sent(), far_meter.received()), (down as u64, up as u64));
            for connection in [near, far] {
                let returned = Returned { connection, fate: Fate::Clean };
                assert!(finish(returned).await.is_some());
            }
        });
    }
}
