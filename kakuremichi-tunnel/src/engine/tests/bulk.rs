//! Much data, and many flows.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    thread,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;
use crate::engine::{EndReason, IncomingFlow};

/// Sends `data`, ends, and returns what came, at the same time.
fn exchange(socket: &TcpStream, data: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = socket;
            writer.write_all(data).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        let mut reader = socket;
        reader.read_to_end(&mut received).unwrap();
        received
    })
}

#[tokio::test]
async fn sixty_four_mebibytes_both_ways_are_identical() {
    let up = pattern(64 << 20, 1);
    let down = pattern(64 << 20, 2);
    let (target, far) = sockets();
    let answer = down.clone();
    let target = start(move || exchange(&target, &answer));
    let far = Arc::new(std::sync::Mutex::new(Some(far)));
    let (one, _two) = pair(move |flow: IncomingFlow| {
        let far = far.lock().unwrap().take().unwrap();
        let splice = flow.accept_socket(far, Arc::default());
        spawn(async move { assert_eq!(splice.await.reason, EndReason::Finished) });
    })
    .await;
    let (visitor, near) = sockets();
    let question = up.clone();
    let visitor = start(move || exchange(&visitor, &question));
    let end = within(one.shard.splice(near, to(WITH_PREFACE))).await;
    assert_eq!((end.sent, end.received), (64 << 20, 64 << 20));
    assert_eq!(end.reason, EndReason::Finished);
    assert!(visitor.join().unwrap() == down);
    assert!(target.join().unwrap() == up);
    let metrics = one.shard.metrics().await.unwrap();
    assert!(
        metrics.engine.datagrams_sent > metrics.engine.sends,
        "datagrams leave in batches"
    );
}

#[tokio::test]
async fn many_flows_at_once_are_kept_apart() {
    let (one, two) = pair(echo).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..300u64 {
        let shard = one.shard.downgrade();
        tasks.spawn(async move {
            let port = if number % 2 == 0 { WITH_PREFACE } else { PLAIN };
            let stream = shard.connect(to(port)).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let data = pattern(30_000, number);
            let mut back = Vec::new();
            let write = async {
                writer.write_all(&data).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let ((), read) = tokio::join!(write, reader.read_to_end(&mut back));
            read.unwrap();
            assert!(back == data);
        });
    }
    within(tasks.join_all()).await;
    one.has_flows(0).await;
    two.has_flows(0).await;
}
