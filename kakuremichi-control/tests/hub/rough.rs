//! Whoever proves nothing: garbage, silence and crowds cost little, and nothing that lasts.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use kakuremichi_control::hub::MAX_UNAUTHENTICATED_PER_ADDRESS;
use kakuremichi_core::{code::Code, model::Role};
use kakuremichi_proto::{
    frame::{self, Incoming, MAX_FRAME, Message},
    message::{Ping, Pong},
    session::{HELLO_TIMEOUT, MAX_HANDSHAKE_BYTES},
    version::{LINK_PATH, SUBPROTOCOL},
};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, ClientRequestBuilder, http},
};

use super::{
    node::{Node, WebSocket, dial},
    store::memory,
    world::{LIMIT, World, eventually},
};

/// Reads until Control ends the connection. Returns what it said at the end.
async fn ended(socket: &mut WebSocket) -> Option<Code> {
    let read = async {
        let mut said = None;
        while let Some(Ok(message)) = socket.next().await {
            if let tungstenite::Message::Binary(bytes) = message
                && let Ok(Incoming::Known(Message::Close(close))) = frame::decode(&bytes)
            {
                said = Code::from_text(&close.code);
            }
        }
        said
    };
    timeout(LIMIT, read).await.expect("the connection ends in time")
}

async fn lets_nodes_in(world: &World) {
    Node::enrolled(world, Role::Agent, "edge").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_a_connection_and_nothing_else() {
    let (store, _) = memory().await;
    let world = World::start(store).await;
    let binary = |bytes: Vec<u8>| tungstenite::Message::Binary(bytes.into());
    // Unknown frames are skipped, until they are too many.
    let unknown = vec![0xff; MAX_HANDSHAKE_BYTES / 4];
    let known = |message: Message| binary(message.encode().unwrap());
    let violations = [
        vec![tungstenite::Message::text("GET / HTTP/1.1")],
        vec![binary(Vec::new())],
        vec![binary(vec![0x00, 0x01, 0xff, 0xff, 0xff])],
        vec![binary(unknown); 5],
        vec![known(Pong { number: 1 }.into()); 6000],
        vec![known(Ping { number: 1 }.into()); 6000],
        vec![tungstenite::Message::Ping(vec![0; 100].into()); 1000],
    ];
    for (index, messages) in violations.into_iter().enumerate() {
        let mut socket = dial(&world).await.unwrap();
        for message in messages {
            // Control may have had enough before the end.
            if socket.send(message).await.is_err() {
                break;
            }
        }
        let said = ended(&mut socket).await;
        assert_eq!(said, Some(Code::PROTOCOL_VIOLATION), "case {index}");
    }
    // Longer than any message: not even read.
    let mut socket = dial(&world).await.unwrap();
    let _ = socket.send(binary(vec![0xff; MAX_FRAME + 1])).await;
    ended(&mut socket).await;
    assert_eq!(world.control.connected(), 0);
    lets_nodes_in(&world).await;
}

/// LESSONS, advisory 7: every state before authentication has a deadline, and a cap per address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_has_a_deadline_and_crowds_a_cap() {
    let (store, _) = memory().await;
    let world = World::start(store).await;
    let start = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..MAX_UNAUTHENTICATED_PER_ADDRESS {
        silent.push(dial(&world).await.unwrap());
    }
    let tungstenite::Error::Http(response) = dial(&world).await.unwrap_err() else {
        panic!("an HTTP answer");
    };
    assert_eq!(response.status(), http::StatusCode::SERVICE_UNAVAILABLE);
    let wait = response.headers()[http::header::RETRY_AFTER].to_str().unwrap();
    assert!(wait.parse::<u64>().is_ok_and(|seconds| seconds > 0), "{wait}");

    // Who leaves makes room.
    drop(silent.pop());
    eventually("there is room again", async || dial(&world).await.is_ok()).await;
    for socket in &mut silent {
        assert_eq!(ended(socket).await, Some(Code::HEARTBEAT_LOST));
    }
    let took = start.elapsed();
    assert!(
        took >= HELLO_TIMEOUT && took < HELLO_TIMEOUT + Duration::from_secs(10),
        "{took:?}"
    );
    lets_nodes_in(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_are_told_what_this_is() {
    let (store, _) = memory().await;
    let world = World::start(store).await;
    let uri: http::Uri = format!("ws://{}{LINK_PATH}", world.address).parse().unwrap();
    let none = ClientRequestBuilder::new(uri.clone());
    let other = ClientRequestBuilder::new(uri).with_sub_protocol("kakuremichi.v999");
    for request in [none, other] {
        let Err(tungstenite::Error::Http(response)) = connect_async(request).await else {
            panic!("an HTTP answer");
        };
        assert_eq!(response.status(), http::StatusCode::BAD_REQUEST);
        let body = String::from_utf8(response.body().clone().unwrap_or_default()).unwrap();
        assert!(body.contains(SUBPROTOCOL), "{body}");
    }
    lets_nodes_in(&world).await;
}
