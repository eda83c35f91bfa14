//! Which of a node's connections counts, and how all of them end.

use std::{sync::Arc, time::Duration};

use kakuremichi_core::{code::Code, model::Role, store::Store};
use kakuremichi_proto::{
    frame::Message,
    message::{Ping, Undeclare},
    report::Status,
    session::{ClientEvent, Closed},
};

use super::{
    declare::{agent, answer, declare, http, tcp},
    node::{Node, dial},
    store::{SlowStore, on_each_store},
    world::{World, eventually},
};

on_each_store! {
    the_newest_connection_of_a_node_wins
    control_tells_nodes_to_come_back_when_it_ends
    control_cuts_whoever_takes_longer_than_it_has
    what_happens_is_counted
}

async fn the_newest_connection_of_a_node_wins(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut old = Node::enrolled(&world, Role::Agent, "edge").await;
    let mut new = old.twin();
    let session = new.join(&world).await.unwrap().session;
    assert_eq!(new.subject(new.id()).session, session);
    let reason = old.closed().await;
    assert_eq!(reason.refusal.code(), Some(Code::SUPERSEDED));
    assert!(!reason.permanent, "two that fight must not both give up");

    // The end of the old one is not the end of the node.
    old.socket = None;
    new.plan().await;
    let status = Status {
        draining: true,
        ..Status::default()
    };
    new.client.set_status(status);
    new.flush().await;
    eventually("the newer one's status is known", async || {
        let presence = world.control.presence(new.id());
        presence.connected.is_some() && presence.status.draining
    })
    .await;
    assert_eq!(world.control.connected(), 1);
    new.cut();
    eventually("the node is away", async || {
        world.control.presence(new.id()).connected.is_none() && world.control.connected() == 0
    })
    .await;
}

async fn control_tells_nodes_to_come_back_when_it_ends(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut node = Node::enrolled(&world, Role::Agent, "edge").await;
    let control = world.control.clone();
    let (cut, reason) = tokio::join!(control.shutdown(Duration::from_secs(20)), node.closed());
    assert_eq!(cut, 0);
    assert_eq!(reason.refusal.code(), Some(Code::TRY_LATER));
    assert!(!reason.permanent && reason.retry_after.is_some());
    let refused = dial(&world).await.unwrap_err();
    assert!(refused.to_string().contains("503"), "{refused}");
}

async fn control_cuts_whoever_takes_longer_than_it_has(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let token = world.token(Role::Agent).await;
    let mut node = Node::new(&world, Role::Agent, "edge", &token);
    node.join(&world).await.unwrap();
    // It gets its plan and does not say that it has it: that is waited for.
    node.until(|event| matches!(event, ClientEvent::Plan(_)).then_some(()))
        .await;
    let cut = world.control.shutdown(Duration::from_millis(50)).await;
    assert_eq!(cut, 1);
    node.until(|event| matches!(event, ClientEvent::Closed(Closed::Lost)).then_some(()))
        .await;
}

async fn what_happens_is_counted(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut node = agent(&world, "edge").await;
    world.publish("shop", node.agent()).await;
    node.plan().await;
    declare(&mut node, http("web", "web.example.net"))
        .await
        .unwrap_err();
    let mut twin = node.twin();
    twin.join(&world).await.unwrap();
    assert_eq!(node.closed_with().await, Code::SUPERSEDED);
    twin.plan().await;
    is_read(&mut twin).await;
    let counted = world.control.counters();
    assert_eq!(
        (counted.connected, counted.sessions, counted.enrolments),
        (1, 2, 1)
    );
    assert_eq!((counted.plans_sent, counted.plans_acknowledged), (3, 3));
    assert_eq!((counted.plans_resent, counted.unauthenticated), (0, 0));
    let refused: Vec<_> = counted.refusals.into_iter().collect();
    assert_eq!(refused, [(Code::SCOPE_HOST, 1), (Code::SUPERSEDED, 1)]);
}

/// Waits until Control has read everything that the node has sent.
async fn is_read(node: &mut Node) {
    // A number that the session itself never comes to.
    const NUMBER: u64 = 1 << 40;
    node.inject(Ping { number: NUMBER }).await;
    while !matches!(node.heard().await, Message::Pong(pong) if pong.number == NUMBER) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_do_not_wait_for_the_store() {
    let store = Arc::new(SlowStore::new());
    let world = World::start(Arc::<SlowStore>::clone(&store)).await;
    let mut node = agent(&world, "edge").await;
    store.hold();
    let web = http("web", "web.agents.example.net");
    let name = web.name.clone();
    node.client.declare(web).unwrap();
    node.flush().await;
    store.held_up().await;
    is_read(&mut node).await;
    store.release();
    answer(&mut node, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_old_connection_asked_for_never_comes_after_what_a_newer_one_did() {
    let store = Arc::new(SlowStore::new());
    let world = World::start(Arc::<SlowStore>::clone(&store)).await;
    let mut old = agent(&world, "edge").await;
    let web = http("web", "web.agents.example.net");
    let name = web.name.clone();
    let service = declare(&mut old, web.clone()).await.unwrap().service;

    // The old connection has something under way, and the end of a declaration behind it.
    store.hold();
    old.client.declare(tcp("database", 5000)).unwrap();
    old.flush().await;
    store.held_up().await;
    let undeclare = Undeclare {
        request: 77,
        subject: old.subject(old.id()),
        name: name.to_string(),
        delete: true,
    };
    old.inject(undeclare).await;
    is_read(&mut old).await;

    let mut new = old.twin();
    new.client.declare(web).unwrap();
    new.join(&world).await.unwrap();
    store.release();
    assert_eq!(answer(&mut new, &name).await.unwrap().service, service);
    assert_eq!(old.closed_with().await, Code::SUPERSEDED);
    assert!(world.service(service).await.is_some());
}

/// LESSONS: "online but dead". A node that reads nothing is still heard, and costs no more than what is on its
/// way to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_read_is_heard() {
    let (store, _) = super::store::memory().await;
    let world = World::start(store).await;
    let mut node = Node::enrolled(&world, Role::Agent, "edge").await;
    // Answers pile up that nobody reads, until neither side's buffers take more; then Control still reads.
    let id = node.id();
    for number in 0..200_000 {
        let ping = Message::from(Ping {
            number: (1 << 40) + number,
        })
        .encode()
        .unwrap();
        let ping = tokio_tungstenite::tungstenite::Message::Binary(ping.into());
        futures_util::SinkExt::feed(node.socket.as_mut().unwrap(), ping)
            .await
            .unwrap();
    }
    let status = Status {
        draining: true,
        ..Status::default()
    };
    node.client.set_status(status);
    node.flush().await;
    eventually("the status is known", async || {
        world.control.presence(id).status.draining
    })
    .await;
}
