//! What nodes report: the state of lanes and targets, and usage.

use std::{sync::Arc, time::Duration};

use kakuremichi_core::{
    code::Code,
    id::{AgentId, NodeId, ServiceId, TargetId},
    model::Role,
    store::{Store, UsageCounts},
    time::Timestamp,
};
use kakuremichi_proto::{
    codec::List,
    frame::Message,
    message,
    report::{Amount, LaneEnd, LaneKind, LaneState, LaneStatus, Status, TargetState, TargetStatus},
};

use super::{
    node::{Node, random},
    store::on_each_store,
    world::{World, eventually},
};

on_each_store! {
    usage_counts_once_however_often_it_is_sent
    usage_of_services_of_others_is_not_counted
    the_state_of_lanes_and_targets_is_known
    a_message_about_another_node_ends_the_connection
}

const AMOUNT: Amount = Amount {
    connections: 1,
    requests: 2,
    received: 300,
    sent: 4000,
};

async fn acknowledged(node: &mut Node) {
    while node.client.usage().sealed().len() > 0 {
        node.heard().await;
    }
}

async fn usage_counts_once_however_often_it_is_sent(store: Arc<dyn Store>) {
    const ROUNDS: u64 = 8;
    let world = World::start(store).await;
    let actor = world.actor().await;
    let mut node = Node::enrolled(&world, Role::Gateway, "gate").await;
    let agent = Node::enrolled(&world, Role::Agent, "edge").await;
    let service = world.publish("web", agent.agent()).await.value.id;
    for round in 0..ROUNDS {
        let at = Timestamp::from_millis(i64::try_from(round).unwrap());
        node.client.record_usage(service, AMOUNT, at);
        node.client.flush_usage(at);
        node.flush().await;
        // Control has it, or has not; the node does not know, and sends it again.
        node.cut();
        node.join(&world).await.unwrap();
    }
    acknowledged(&mut node).await;
    let counted = world.use_cases().usage(&actor, service).await.unwrap();
    assert_eq!(
        counted,
        UsageCounts {
            connections: ROUNDS,
            requests: 2 * ROUNDS,
            bytes_in: 300 * ROUNDS,
            bytes_out: 4000 * ROUNDS,
        }
    );
}

async fn usage_of_services_of_others_is_not_counted(store: Arc<dyn Store>) {
    let world = World::start(Arc::clone(&store)).await;
    let mut node = Node::enrolled(&world, Role::Gateway, "gate").await;
    let unknown = ServiceId::from_bytes(random());
    node.client
        .record_usage(unknown, AMOUNT, Timestamp::from_millis(1));
    node.client.flush_usage(Timestamp::from_millis(2));
    acknowledged(&mut node).await;
    assert_eq!(store.usage_totals(unknown).await.unwrap(), UsageCounts::default());
}

async fn the_state_of_lanes_and_targets_is_known(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut node = Node::enrolled(&world, Role::Gateway, "gate").await;
    let agent = AgentId::from_bytes(random());
    let target = TargetId::from_bytes(random());
    let status = Status {
        certificates: Vec::new(),
        draining: false,
        lanes: vec![LaneStatus {
            end: LaneEnd::Agent(agent),
            kind: LaneKind::WireGuard,
            state: LaneState::Up,
            rtt: Some(Duration::from_micros(1234)),
            since: Timestamp::from_millis(5),
            error: None,
        }],
        targets: vec![TargetStatus {
            target,
            state: TargetState::Failing,
            since: Timestamp::from_millis(6),
            error: Some("connection refused".to_owned()),
        }],
    };
    node.client.set_status(status.clone());
    node.flush().await;
    eventually("the status is known", async || {
        let known = world.control.presence(node.id()).status;
        known.lanes.values().eq(&status.lanes) && known.targets.values().eq(&status.targets)
    })
    .await;
    // What is left out of the next is no more.
    node.client.set_status(Status::default());
    node.flush().await;
    eventually("the status is replaced", async || {
        let known = world.control.presence(node.id()).status;
        known.lanes.is_empty() && known.targets.is_empty()
    })
    .await;
}

/// LESSONS, advisory 10: each control message checks that its subject is the node the channel authenticated.
async fn a_message_about_another_node_ends_the_connection(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let other = Node::enrolled(&world, Role::Agent, "other").await;
    let mut node = Node::enrolled(&world, Role::Agent, "edge").await;
    let about = |node: &Node, id: NodeId| -> Message {
        message::Status {
            subject: node.subject(id),
            replace: true,
            draining: true,
            lanes: List::truncated([]),
            targets: List::truncated([]),
        }
        .into()
    };
    let message = about(&node, other.id());
    node.inject(message).await;
    assert_eq!(node.closed_with().await, Code::PROTOCOL_VIOLATION);
    assert!(!world.control.presence(other.id()).status.draining);
}
