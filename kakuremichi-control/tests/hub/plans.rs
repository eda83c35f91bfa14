//! From a change in the store to the plans of those whom it affects.

use std::sync::Arc;

use kakuremichi_control::service::NodeChange;
use kakuremichi_core::{code::Code, model::Role, name::Label, plan::Revision, store::Store};
use kakuremichi_proto::{
    message::PlanKind,
    report::{GatewayInfo, NodeInfo},
};

use super::{
    node::Node,
    store::on_each_store,
    world::{World, eventually},
};

on_each_store! {
    a_change_reaches_those_whom_it_affects_as_a_difference
    a_restart_of_control_sends_no_plan_again
    what_changed_while_a_node_was_away_reaches_it
    what_another_process_writes_is_noticed
    where_a_gateway_is_reached_reaches_the_agents
    a_revoked_or_deleted_node_is_cut_off_at_once
    a_node_that_is_away_stays_in_the_plans
}

async fn a_change_reaches_those_whom_it_affects_as_a_difference(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut gateway = Node::enrolled(&world, Role::Gateway, "gate").await;
    let mut one = Node::enrolled(&world, Role::Agent, "one").await;
    let mut two = Node::enrolled(&world, Role::Agent, "two").await;
    while gateway.gateway_plan().await.peers().count() < 2 {}
    for node in [&mut gateway, &mut one, &mut two] {
        node.plans.clear();
    }

    let first = world.publish("first", one.agent()).await.value;
    let told = one.agent_plan().await;
    let services: Vec<_> = told.services().map(|service| service.id).collect();
    assert_eq!(services, [first.id]);
    assert_eq!(one.plans.len(), 1);
    assert!(matches!(one.plans[0], PlanKind::Delta { .. }));
    let told = gateway.gateway_plan().await;
    assert_eq!(told.services().count(), 1);
    assert!(matches!(gateway.plans[0], PlanKind::Delta { .. }));

    // The other agent hears of the next change only: the first was none of its business.
    let second = world.publish("second", two.agent()).await.value;
    let told = two.agent_plan().await;
    assert_eq!(
        told.services().map(|service| service.id).collect::<Vec<_>>(),
        [second.id]
    );
    assert_eq!(two.plans.len(), 1);

    // Nothing at all comes of a change that no plan tells.
    world.token(Role::Agent).await;
    let renamed: Label = "three".parse().unwrap();
    let change = NodeChange {
        name: Some(renamed.clone()),
        labels: None,
    };
    let actor = world.actor().await;
    world
        .use_cases()
        .update_node(&actor, two.id(), &change, None)
        .await
        .unwrap();
    assert_eq!(two.agent_plan().await.node().unwrap().name, renamed);
    assert_eq!(two.plans.len(), 2);
}

async fn a_restart_of_control_sends_no_plan_again(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut node = Node::enrolled(&world, Role::Agent, "edge").await;
    world.publish("first", node.agent()).await;
    let before = node.plan().await;

    let world = world.restart().await;
    node.cut();
    node.join(&world).await.unwrap();
    node.flush().await;
    eventually("the node has said what it has", async || {
        let plan = world.control.presence(node.id()).plan;
        plan.is_some_and(|plan| plan.hash == before.hash())
    })
    .await;
    // The next plan is the first that comes, and it is a difference to the one from before the restart.
    world.publish("second", node.agent()).await;
    let after = node.plan().await;
    assert!(after.revision() > before.revision());
    let Revision(base) = before.revision();
    let difference = PlanKind::Delta {
        base,
        base_hash: before.hash().0,
    };
    assert_eq!(node.plans, [difference]);
    eventually("the plan is acknowledged", async || {
        let plan = world.control.presence(node.id()).plan;
        plan.is_some_and(|plan| plan.hash == after.hash() && plan.revision == after.revision())
    })
    .await;
}

async fn what_changed_while_a_node_was_away_reaches_it(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut node = Node::enrolled(&world, Role::Agent, "edge").await;
    eventually("the plan is acknowledged", async || {
        world.control.presence(node.id()).plan.is_some()
    })
    .await;
    node.cut();
    let published = world.publish("first", node.agent()).await.value;
    node.join(&world).await.unwrap();
    let told = node.agent_plan().await;
    assert_eq!(
        told.services().map(|service| service.id).collect::<Vec<_>>(),
        [published.id]
    );
    // Of the one before, Control still has the records.
    assert!(matches!(node.plans[..], [PlanKind::Delta { .. }]));
}

async fn what_another_process_writes_is_noticed(store: Arc<dyn Store>) {
    let world = World::start(Arc::clone(&store)).await;
    let mut node = Node::enrolled(&world, Role::Agent, "edge").await;
    // Another Control on the same store, as the command line is: nothing tells the first one.
    let other = World::start(store).await;
    let published = other.publish("first", node.agent()).await.value;
    let told = node.agent_plan().await;
    assert_eq!(
        told.services().map(|service| service.id).collect::<Vec<_>>(),
        [published.id]
    );
}

async fn where_a_gateway_is_reached_reaches_the_agents(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut agent = Node::enrolled(&world, Role::Agent, "edge").await;
    let mut gateway = Node::enrolled(&world, Role::Gateway, "gate").await;
    while agent.agent_plan().await.gateways().count() < 1 {}
    let info = GatewayInfo {
        endpoints: vec!["gate.example.net:51820".parse().unwrap()],
        https_port: 8443,
    };
    gateway.client.set_info(NodeInfo {
        software: "test 1".to_owned(),
        gateway: Some(info.clone()),
    });
    gateway.flush().await;
    let plan = agent.agent_plan().await;
    assert_eq!(plan.gateways().next().unwrap().endpoints, info.endpoints);
    assert_eq!(
        world.control.presence(gateway.id()).software.as_deref(),
        Some("test 1")
    );

    // The same again, after a reconnect, writes nothing.
    let version = world.node(gateway.id()).await.version;
    gateway.cut();
    gateway.join(&world).await.unwrap();
    gateway.flush().await;
    let published = world.publish("first", agent.agent()).await.value;
    while gateway
        .gateway_plan()
        .await
        .services()
        .all(|service| service.id != published.id)
    {}
    assert_eq!(world.node(gateway.id()).await.version, version);
}

async fn a_revoked_or_deleted_node_is_cut_off_at_once(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let actor = world.actor().await;
    let mut revoked = Node::enrolled(&world, Role::Agent, "revoked").await;
    world.use_cases().revoke_node(&actor, revoked.id()).await.unwrap();
    let reason = revoked.closed().await;
    assert!(reason.permanent && reason.refusal.code() == Some(Code::NODE_REVOKED));
    let reason = revoked.join(&world).await.unwrap_err();
    assert!(reason.permanent && reason.refusal.code() == Some(Code::NODE_REVOKED));

    let mut deleted = Node::enrolled(&world, Role::Agent, "deleted").await;
    world
        .use_cases()
        .delete_node(&actor, deleted.id(), None)
        .await
        .unwrap();
    let reason = deleted.closed().await;
    assert!(reason.permanent && reason.refusal.code() == Some(Code::NODE_UNKNOWN));
    let reason = deleted.join(&world).await.unwrap_err();
    assert!(reason.permanent && reason.refusal.code() == Some(Code::NODE_UNKNOWN));
    eventually("nobody is connected", async || world.control.connected() == 0).await;
}

/// DESIGN, invariant 3: a node that loses its WebSocket is not removed from anybody's plan.
async fn a_node_that_is_away_stays_in_the_plans(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut agent = Node::enrolled(&world, Role::Agent, "edge").await;
    let mut gateway = Node::enrolled(&world, Role::Gateway, "gate").await;
    agent.cut();
    eventually("the agent is away", async || {
        world.control.presence(agent.id()).connected.is_none()
    })
    .await;
    world.publish("first", agent.agent()).await;
    let plan = gateway.gateway_plan().await;
    assert_eq!((plan.peers().count(), plan.services().count()), (1, 1));
}
