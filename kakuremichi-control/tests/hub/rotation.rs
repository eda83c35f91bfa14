//! A node gets other keys, and everybody is told.

use std::{sync::Arc, time::Duration};

use kakuremichi_core::{code::Code, id::NodeId, key::WireGuardKey, model::Role, store::Store};
use kakuremichi_proto::{
    identity::Signer as _,
    session::{ClientConfig, ClientEvent, Command, Credential, OwnKeys},
};

use super::{
    node::{Keys, Node, random},
    store::on_each_store,
    world::{World, eventually},
};

on_each_store! {
    a_nodes_keys_follow_each_other_and_plans_have_both
    a_node_that_is_away_is_asked_when_it_is_back
    keys_that_are_cut_off_end_the_session_that_was_proven_by_them
}

struct Next {
    keys: Arc<Keys>,
    wireguard: WireGuardKey,
}

impl Next {
    fn new() -> Self {
        Self {
            keys: Keys::new(),
            wireguard: WireGuardKey::from_bytes(random()),
        }
    }

    fn config(&self, node: &Node) -> ClientConfig {
        ClientConfig {
            signer: Arc::clone(&self.keys) as _,
            wireguard: self.wireguard,
            ..node.twin().config
        }
    }
}

/// Waits until the node is asked for keys, and answers.
async fn asked(node: &mut Node) {
    let request = node
        .until(|event| match event {
            ClientEvent::Command {
                request,
                command: Command::RotateKeys,
            } => Some(request),
            _ => None,
        })
        .await;
    node.client.answer_command(request, Ok(()));
}

/// Proposes keys; whether Control took them, and whether those of before count.
async fn rotate(node: &mut Node, next: &Next) -> Result<bool, Code> {
    node.client.rotate_keys(OwnKeys {
        signer: Arc::clone(&next.keys) as _,
        wireguard: next.wireguard,
    });
    let result = node
        .until(|event| match event {
            ClientEvent::KeysRotated { result, .. } => Some(result),
            _ => None,
        })
        .await;
    result
        .map(|until| until.is_some())
        .map_err(|refusal| refusal.code().unwrap())
}

async fn a_nodes_keys_follow_each_other_and_plans_have_both(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let (use_cases, actor) = (world.use_cases(), world.actor().await);
    let mut gateway = Node::enrolled(&world, Role::Gateway, "gate").await;
    let mut agent = Node::enrolled(&world, Role::Agent, "edge").await;
    gateway.gateway_plan().await;
    for rotating_agent in [true, false] {
        let (node, other) = match rotating_agent {
            true => (&mut agent, &mut gateway),
            false => (&mut gateway, &mut agent),
        };
        let id = node.id();
        let before = node.config.clone();
        use_cases.ask_for_keys(&actor, id, None).await.unwrap();
        asked(node).await;
        let next = Next::new();
        assert_eq!(rotate(node, &next).await, Ok(true));
        // Keys, and those of before, as the other one is told.
        let keys = match id {
            NodeId::Agent(_) => {
                let plan = other.gateway_plan().await;
                let peer = plan.peers().next().unwrap().clone();
                (peer.wireguard, peer.identity, plan.previous_keys(id).copied())
            }
            NodeId::Gateway(gateway) => {
                let plan = other.agent_plan().await;
                let peer = plan.gateways().next().unwrap().clone();
                (
                    peer.wireguard,
                    Some(peer.identity),
                    plan.previous_keys(gateway).copied(),
                )
            }
        };
        let previous = keys.2.unwrap();
        assert_eq!((keys.0, keys.1), (next.wireguard, Some(next.keys.public_key())));
        assert_eq!(
            (previous.wireguard, previous.identity),
            (before.wireguard, before.signer.public_key())
        );
        // Whoever did not hear of it comes as who it was, and is told; so does the process that did.
        let mut deaf = Node::with(ClientConfig {
            credential: Credential::Known(id),
            ..before.clone()
        });
        deaf.join(&world).await.unwrap();
        assert_eq!(rotate(&mut deaf, &next).await, Ok(true));
        let mut new = Node::with(next.config(node));
        new.join(&world).await.unwrap();
        new.plan().await;
        // Once their time is over nobody is told of them.
        use_cases.revoke_previous_keys(&actor, id).await.unwrap();
        let gone = match id {
            NodeId::Agent(_) => other.gateway_plan().await.previous_keys(id).is_none(),
            NodeId::Gateway(gateway) => other.agent_plan().await.previous_keys(gateway).is_none(),
        };
        assert!(gone);
        let mut old = Node::with(ClientConfig {
            credential: Credential::Known(id),
            ..before
        });
        let refused = old.join(&world).await.unwrap_err();
        assert_eq!(refused.refusal.code(), Some(Code::NODE_KEYS));
        *node = new;
    }
}

/// Several instances: whoever is asked, the node hears of it where it is.
async fn a_node_that_is_away_is_asked_when_it_is_back(store: Arc<dyn Store>) {
    let world = World::start(Arc::clone(&store)).await;
    let mut agent = Node::enrolled(&world, Role::Agent, "edge").await;
    let elsewhere = world.another_instance(store, Duration::from_secs(60)).await;
    agent.cut();
    let actor = elsewhere.actor().await;
    elsewhere
        .use_cases()
        .ask_for_keys(&actor, agent.id(), None)
        .await
        .unwrap();
    agent.join(&world).await.unwrap();
    asked(&mut agent).await;
    // It is asked once in a session, and again in the next one, until it has them.
    agent.cut();
    agent.join(&world).await.unwrap();
    asked(&mut agent).await;
    let next = Next::new();
    assert_eq!(rotate(&mut agent, &next).await, Ok(true));
    let node = world.node(agent.id()).await.value;
    assert_eq!(
        (node.identity, node.rotation.asked),
        (next.keys.public_key(), None)
    );
    let mut there = Node::with(next.config(&agent));
    there.join(&elsewhere).await.unwrap();
}

async fn keys_that_are_cut_off_end_the_session_that_was_proven_by_them(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let (use_cases, actor) = (world.use_cases(), world.actor().await);
    let mut agent = Node::enrolled(&world, Role::Agent, "edge").await;
    let id = agent.id();
    // Without an overlap the session in which it happens goes on: it proved the new keys.
    use_cases
        .ask_for_keys(&actor, id, Some(Duration::ZERO))
        .await
        .unwrap();
    asked(&mut agent).await;
    let next = Next::new();
    assert_eq!(rotate(&mut agent, &next).await, Ok(false));
    world.publish("shop", agent.agent()).await;
    agent.plan().await;

    // With one, a session of before goes on, too, until the keys of before are cut off.
    let newer = Next::new();
    assert_eq!(rotate(&mut agent, &newer).await, Ok(true));
    let mut thief = Node::with(next.config(&agent));
    thief.join(&world).await.unwrap();
    let thirds = Next::new();
    assert_eq!(rotate(&mut thief, &thirds).await, Err(Code::NODE_KEYS));
    use_cases.revoke_previous_keys(&actor, id).await.unwrap();
    let reason = thief.closed().await;
    assert_eq!(
        (reason.refusal.code(), reason.permanent),
        (Some(Code::NODE_KEYS), false)
    );
    let mut agent = Node::with(newer.config(&agent));
    agent.join(&world).await.unwrap();
    eventually("the node is connected", async || {
        world.control.presence(id).connected.is_some()
    })
    .await;
}
