//! A token for an identity, and an identity for a session.

use std::{sync::Arc, time::SystemTime};

use kakuremichi_control::service::TokenDraft;
use kakuremichi_core::{
    code::Code,
    id::{AgentId, NodeId, TokenId},
    key::WireGuardKey,
    model::{DeclareScope, EnrolmentToken, Labels, Node as NodeRecord, NodeState, Role},
    secret::Secret,
    store::{Batch, Mutation, Store, UniqueKey, conformance::sample},
    time::Timestamp,
};
use kakuremichi_proto::{
    identity::{Signature, Signer, TokenText},
    session::{ClientConfig, Credential, Reason},
};

use super::{
    node::{Keys, Node, random},
    store::on_each_store,
    world::World,
};

on_each_store! {
    a_token_lets_a_node_in
    a_node_that_did_not_hear_of_its_enrolment_is_told_again
    tokens_of_no_use_are_refused_with_the_reason
    only_the_key_that_enrolled_is_let_in
    a_new_wireguard_key_reaches_the_gateways
    a_node_that_waits_for_approval_is_in_nobodys_plan
}

fn code(refused: &Reason) -> Code {
    refused.refusal.code().unwrap()
}

async fn a_token_lets_a_node_in(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let token = world
        .scoped_token(Role::Agent, Some(2), DeclareScope::default())
        .await;
    let mut node = Node::new(&world, Role::Agent, "edge", &token);
    let membership = node.join(&world).await.unwrap();
    let actor = world.actor().await;
    assert_eq!(membership.organization, actor.organization);
    assert_eq!(membership.name.as_str(), "edge");
    let plan = node.agent_plan().await;
    let own = plan.node().unwrap();
    assert_eq!(own.address, membership.overlay.address(own.id.as_bytes()));

    // The second of the same name gets another, and from then on the identity counts.
    let mut other = Node::new(&world, Role::Agent, "edge", &token);
    assert_eq!(other.join(&world).await.unwrap().name.as_str(), "edge-2");
    node.cut();
    let again = node.join(&world).await.unwrap();
    assert_eq!(again.node, membership.node);
    assert!(again.session > membership.session);
}

async fn a_node_that_did_not_hear_of_its_enrolment_is_told_again(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let token = world
        .scoped_token(Role::Agent, Some(1), DeclareScope::default())
        .await;
    let mut node = Node::new(&world, Role::Agent, "edge", &token);
    let first = node.join(&world).await.unwrap().node;
    let mut again = Node::with(node.config.clone());
    assert_eq!(again.join(&world).await.unwrap().node, first);
    let mut other = Node::new(&world, Role::Agent, "other", &token);
    assert_eq!(code(&other.join(&world).await.unwrap_err()), Code::TOKEN_USED_UP);
}

async fn tokens_of_no_use_are_refused_with_the_reason(store: Arc<dyn Store>) {
    let world = World::start(Arc::clone(&store)).await;
    let actor = world.actor().await;
    let refused = async |role: Role, token: &TokenText| {
        let mut node = Node::new(&world, role, "edge", token);
        let reason = node.join(&world).await.unwrap_err();
        assert!(reason.permanent, "the same token is refused for ever: {reason:?}");
        assert!(!reason.refusal.message().is_empty());
        code(&reason)
    };

    let unknown = TokenText::new(Secret::new(random()), world.identity(), None);
    assert_eq!(refused(Role::Agent, &unknown).await, Code::TOKEN_UNKNOWN);

    let gateways = world.token(Role::Gateway).await;
    assert_eq!(refused(Role::Agent, &gateways).await, Code::TOKEN_ROLE);

    let revoked = world.token(Role::Agent).await;
    let found = store
        .find(&UniqueKey::TokenSecret(*revoked.secret_hash().as_bytes()))
        .await
        .unwrap()
        .unwrap();
    let id = found.narrow::<EnrolmentToken>().unwrap().value.id;
    world.use_cases().revoke_token(&actor, id).await.unwrap();
    assert_eq!(refused(Role::Agent, &revoked).await, Code::TOKEN_REVOKED);

    let once = world
        .scoped_token(Role::Agent, Some(1), DeclareScope::default())
        .await;
    Node::new(&world, Role::Agent, "edge", &once)
        .join(&world)
        .await
        .unwrap();
    assert_eq!(refused(Role::Agent, &once).await, Code::TOKEN_USED_UP);

    let expired = TokenText::new(Secret::new(random()), world.identity(), None);
    let now = Timestamp::from(SystemTime::now());
    let record = EnrolmentToken {
        id: TokenId::from_bytes(random()),
        organization: actor.organization,
        name: "expired".parse().unwrap(),
        role: Role::Agent,
        secret_hash: expired.secret_hash(),
        uses_left: None,
        expires: Some(Timestamp::from_millis(now.as_millis() - 1)),
        revoked: None,
        approval: false,
        labels: Default::default(),
        declare: DeclareScope::default(),
        created: now,
    };
    let batch = Batch {
        mutations: vec![Mutation::Create(record.into())],
        audit: sample::audit("token.create"),
        request: None,
    };
    store.commit(batch).await.unwrap();
    assert_eq!(refused(Role::Agent, &expired).await, Code::TOKEN_EXPIRED);
}

/// Signs with another key than the one it shows.
#[derive(Debug)]
struct Forger(Arc<Keys>, Arc<Keys>);

impl Signer for Forger {
    fn public_key(&self) -> kakuremichi_core::key::IdentityKey {
        self.0.public_key()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.1.sign(message)
    }
}

async fn only_the_key_that_enrolled_is_let_in(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let node = Node::enrolled(&world, Role::Agent, "edge").await;
    let refused = async |config: ClientConfig| {
        let reason = Node::with(config).join(&world).await.unwrap_err();
        code(&reason)
    };
    let known = node.twin().config;

    let other_key = ClientConfig {
        signer: Keys::new(),
        ..known.clone()
    };
    assert_eq!(refused(other_key).await, Code::NODE_KEYS);

    let shown = Keys::new();
    let forged = ClientConfig {
        signer: Arc::new(Forger(shown, Keys::new())),
        ..known.clone()
    };
    assert_eq!(refused(forged).await, Code::PROOF_INVALID);

    let unknown = ClientConfig {
        credential: Credential::Known(AgentId::from_bytes(random()).into()),
        ..known.clone()
    };
    assert_eq!(refused(unknown).await, Code::NODE_UNKNOWN);

    let elsewhere = ClientConfig {
        url: "https://other.example.net".parse().unwrap(),
        ..known
    };
    assert_eq!(refused(elsewhere).await, Code::URL_MISMATCH);
    assert!(
        world.control.presence(node.id()).connected.is_some(),
        "who was refused superseded nobody"
    );
}

async fn a_new_wireguard_key_reaches_the_gateways(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut gateway = Node::enrolled(&world, Role::Gateway, "gate").await;
    let agent = Node::enrolled(&world, Role::Agent, "edge").await;
    let key = |plan: &kakuremichi_core::plan::GatewayPlan| plan.peers().next().map(|peer| peer.wireguard);
    assert_eq!(key(&gateway.gateway_plan().await), Some(agent.config.wireguard));
    let rotated = WireGuardKey::from_bytes(random());
    let mut restarted = Node::with(ClientConfig {
        wireguard: rotated,
        ..agent.twin().config
    });
    restarted.join(&world).await.unwrap();
    assert_eq!(key(&gateway.gateway_plan().await), Some(rotated));
}

async fn a_node_that_waits_for_approval_is_in_nobodys_plan(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut gateway = Node::enrolled(&world, Role::Gateway, "gate").await;
    let actor = world.actor().await;
    let draft = TokenDraft {
        name: "asks".parse().unwrap(),
        role: Role::Agent,
        uses: Some(1),
        expires: None,
        declare: DeclareScope::default(),
        approval: true,
        labels: Labels::default(),
    };
    let made = world.use_cases().create_token(&actor, draft).await.unwrap();
    let token: TokenText = made.text.expose().parse().unwrap();
    let mut node = Node::new(&world, Role::Agent, "edge", &token);
    for _ in 0..2 {
        let refused = node.join(&world).await.unwrap_err();
        assert_eq!(code(&refused), Code::NODE_PENDING);
        assert!(
            !refused.permanent && refused.retry_after.is_some(),
            "it asks again"
        );
        assert!(refused.refusal.message().contains("nodes.approve"), "{refused:?}");
        node = Node::with(node.config.clone());
    }
    let waiting = world
        .use_cases()
        .list(&actor, None, 10, |node: &NodeRecord| {
            node.state() == NodeState::Pending
        })
        .await
        .unwrap();
    let [waiting] = waiting.items.as_slice() else {
        panic!("one waits")
    };
    // Services can be given to it beforehand.
    let NodeId::Agent(agent) = waiting.value.id else {
        panic!("an agent")
    };
    let service = world.publish("first", agent).await.value;
    let plan = gateway.gateway_plan().await;
    assert_eq!(
        plan.services().map(|service| service.id).collect::<Vec<_>>(),
        [service.id]
    );
    assert_eq!(plan.peers().count(), 0);
    world
        .use_cases()
        .approve_node(&actor, waiting.value.id)
        .await
        .unwrap();
    let joined = node.join(&world).await.unwrap();
    assert_eq!(joined.node, waiting.value.id);
    assert!(node.agent_plan().await.services().next().is_some());
    assert_eq!(gateway.gateway_plan().await.peers().count(), 1);
}
