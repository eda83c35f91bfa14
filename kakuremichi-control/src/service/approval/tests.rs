use std::sync::Arc;

use kakuremichi_core::{
    code::Code,
    key::{IdentityKey, WireGuardKey},
    model::{DeclareScope, Labels, Role, parse_label},
    store::{MAX_PAGE, MemoryStore, RecordId},
};
use kakuremichi_proto::{identity::TokenText, session::EnrolRequest};

use super::*;
use crate::service::{TokenDraft, Wiring};

fn control() -> UseCases {
    UseCases::new(Wiring::tests(Arc::new(MemoryStore::new())))
}

/// A token whose nodes wait.
async fn token(control: &UseCases, uses: Option<u32>) -> TokenText {
    let draft = TokenDraft {
        name: "test".parse().unwrap(),
        role: Role::Agent,
        uses,
        expires: None,
        declare: DeclareScope::default(),
        approval: true,
        labels: Labels::new([parse_label("env=prod").unwrap()]).unwrap(),
    };
    let actor = control.control().await.unwrap();
    let made = control.create_token(&actor, draft).await.unwrap();
    made.text.expose().parse().unwrap()
}

fn request(token: &TokenText, n: u8) -> EnrolRequest {
    EnrolRequest {
        secret_hash: token.secret_hash(),
        role: Role::Agent,
        name: format!("node-{n}").parse().unwrap(),
        identity: IdentityKey::from_bytes([n; 32]),
        wireguard: WireGuardKey::from_bytes([n; 32]),
    }
}

/// Asks to enrol; the node that waits now.
async fn ask(control: &UseCases, token: &TokenText, n: u8) -> Node {
    let request = request(token, n);
    let error = control.enrol(&request).await.unwrap_err();
    assert_eq!(error.code(), Code::NODE_PENDING);
    known(control, n).await.unwrap()
}

async fn known(control: &UseCases, n: u8) -> Option<Node> {
    let key = UniqueKey::Identity(IdentityKey::from_bytes([n; 32]));
    let found = control.store().find(&key).await.unwrap()?;
    Some(found.narrow::<Node>()?.value)
}

#[tokio::test]
async fn a_node_waits_until_somebody_approves_it() {
    let control = control();
    let actor = control.control().await.unwrap();
    let token = token(&control, Some(1)).await;
    let node = ask(&control, &token, 1).await;
    assert_eq!(node.state(), NodeState::Pending);
    assert!(node.pending.unwrap().until > now());
    // It asks again, and that uses the token no second time.
    assert_eq!(ask(&control, &token, 1).await.id, node.id);
    let login = async || control.login(node.id, node.identity, node.wireguard).await;
    assert_eq!(login().await.unwrap_err().code(), Code::NODE_PENDING);

    let approved = control.approve_node(&actor, node.id).await.unwrap();
    assert!(approved.value.is_active());
    assert_eq!(control.approve_node(&actor, node.id).await.unwrap(), approved);
    assert_eq!(control.enrol(&request(&token, 1)).await.unwrap().id, node.id);
    assert!(login().await.is_ok());
    let error = control.refuse_node(&actor, node.id).await.unwrap_err();
    assert_eq!(error.code(), Code::CONFLICT);
    let labels: Vec<_> = approved
        .value
        .labels
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(labels, [("env", "prod")], "it has the labels of its token");
}

#[tokio::test]
async fn a_node_that_was_refused_does_not_come_back() {
    let control = control();
    let actor = control.control().await.unwrap();
    let token = token(&control, None).await;
    let node = ask(&control, &token, 1).await;
    let refused = control.refuse_node(&actor, node.id).await.unwrap();
    assert_eq!(refused.value.state(), NodeState::Revoked);
    assert_eq!(control.refuse_node(&actor, node.id).await.unwrap(), refused);
    for error in [
        control.enrol(&request(&token, 1)).await.unwrap_err(),
        control.approve_node(&actor, node.id).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::NODE_REVOKED);
    }
    control.delete_node(&actor, node.id, None).await.unwrap();
    assert_ne!(ask(&control, &token, 1).await.id, node.id);
}

#[tokio::test]
async fn those_who_wait_are_bounded_and_expire() {
    let control = control();
    let token = token(&control, None).await;
    let most = u8::try_from(MAX_PENDING_NODES).unwrap();
    for n in 0..most {
        ask(&control, &token, n).await;
    }
    let error = control.enrol(&request(&token, most)).await.unwrap_err();
    assert_eq!(error.code(), Code::TRY_LATER);
    assert!(error.is_temporary() && known(&control, most).await.is_none());
    // One goes, and makes room for the next.
    let actor = control.control().await.unwrap();
    let gone = known(&control, 0).await.unwrap();
    control.refuse_node(&actor, gone.id).await.unwrap();
    ask(&control, &token, most).await;

    control.forget_unanswered(now()).await.unwrap();
    assert!(known(&control, most).await.is_some(), "their time is not over");
    control
        .approve_node(&actor, known(&control, 1).await.unwrap().id)
        .await
        .unwrap();
    let over = now().after(PENDING_LIFE + Duration::from_secs(60));
    control.forget_unanswered(over).await.unwrap();
    assert!(known(&control, most).await.is_none());
    let left = control
        .list(&actor, None, MAX_PAGE, |_: &Node| true)
        .await
        .unwrap();
    let left: Vec<RecordId> = left.items.iter().map(|node| node.value.id.into()).collect();
    assert_eq!(left.len(), 2, "what was decided about stays: {left:?}");
}
