use std::sync::Arc;

use kakuremichi_core::{
    code::Code,
    key::WireGuardKey,
    model::{DeclareScope, Labels, Role},
    store::MemoryStore,
};
use kakuremichi_proto::{identity::TokenText, session::EnrolRequest};

use super::*;
use crate::service::{SiteDraft, TokenDraft, Wiring};

fn identity(n: u8) -> IdentityKey {
    IdentityKey::from_bytes([n; 32])
}

fn request(old: u8, new: u8) -> RotateRequest {
    RotateRequest {
        old: identity(old),
        new: identity(new),
        wireguard: WireGuardKey::from_bytes([new; 32]),
    }
}

async fn enrol(control: &UseCases, n: u8) -> Node {
    enrol_as(control, n, Role::Agent).await
}

async fn enrol_as(control: &UseCases, n: u8, role: Role) -> Node {
    let draft = TokenDraft {
        name: format!("token-{n}").parse().unwrap(),
        role,
        uses: Some(1),
        expires: None,
        declare: DeclareScope::default(),
        approval: false,
        labels: Labels::default(),
    };
    let actor = control.control().await.unwrap();
    let made = control.create_token(&actor, draft).await.unwrap();
    let token: TokenText = made.text.expose().parse().unwrap();
    let enrolment = EnrolRequest {
        secret_hash: token.secret_hash(),
        role,
        name: format!("node-{n}").parse().unwrap(),
        identity: identity(n),
        wireguard: WireGuardKey::from_bytes([n; 32]),
    };
    control.enrol(&enrolment).await.unwrap()
}

/// A Control with one node, 1.
async fn world() -> (UseCases, Actor, NodeId) {
    let control = UseCases::new(Wiring::tests(Arc::new(MemoryStore::new())));
    let actor = control.control().await.unwrap();
    let id = enrol(&control, 1).await.id;
    (control, actor, id)
}

async fn node(control: &UseCases, id: NodeId) -> Node {
    let found = control.store().get(id.into()).await.unwrap();
    found.and_then(Stored::narrow::<Node>).unwrap().value
}

async fn login(control: &UseCases, id: NodeId, n: u8) -> Result<Node, Code> {
    let login = control.login(id, identity(n), WireGuardKey::from_bytes([n; 32]));
    login.await.map_err(|error| error.code())
}

#[tokio::test]
async fn keys_of_before_count_beside_new_ones_until_their_time_is_over() {
    let (control, actor, id) = world().await;
    let asked = control
        .ask_for_keys(&actor, id, Some(Duration::from_secs(60)))
        .await
        .unwrap();
    assert_eq!(
        asked.value.rotation.asked.unwrap().overlap,
        Duration::from_secs(60)
    );
    let until = control.rotate_keys(id, &request(1, 2)).await.unwrap().unwrap();
    assert!(until > now() && until <= now().after(Duration::from_secs(60)));
    // Whoever did not hear of it asks again, as who it was or as who it is, and that changes nothing.
    let known = node(&control, id).await;
    assert_eq!(
        control.rotate_keys(id, &request(1, 2)).await.unwrap(),
        Some(until)
    );
    assert_eq!(
        control.rotate_keys(id, &request(2, 2)).await.unwrap(),
        Some(until)
    );
    assert_eq!(node(&control, id).await, known);
    assert_eq!((known.identity, known.rotation.asked), (identity(2), None));

    // Both are the node, and the WireGuard key of before does not take the place of the new one.
    assert_eq!(login(&control, id, 2).await.as_ref(), Ok(&known));
    assert_eq!(login(&control, id, 1).await.as_ref(), Ok(&known));
    assert!(control.check_keys(id, &identity(1)).await.is_ok());

    control.end_overlaps(now()).await.unwrap();
    assert_eq!(node(&control, id).await, known, "its time is not over");
    control.end_overlaps(until).await.unwrap();
    assert_eq!(login(&control, id, 1).await, Err(Code::NODE_KEYS));
    assert!(login(&control, id, 2).await.is_ok());
    let error = control.check_keys(id, &identity(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::NODE_KEYS);
}

/// Keys that somebody found must be of no more use than until their end.
#[tokio::test]
async fn keys_of_before_make_no_others() {
    let (control, _, id) = world().await;
    control.rotate_keys(id, &request(1, 2)).await.unwrap();
    let error = control.rotate_keys(id, &request(1, 3)).await.unwrap_err();
    assert_eq!(error.code(), Code::NODE_KEYS);
    assert_eq!(node(&control, id).await.identity, identity(2));
    // Nor do those of somebody else.
    let error = control.rotate_keys(id, &request(7, 3)).await.unwrap_err();
    assert_eq!(error.code(), Code::NODE_KEYS);
}

#[tokio::test]
async fn keys_that_are_or_were_a_nodes_are_no_other_nodes() {
    let (control, _, id) = world().await;
    let other = enrol(&control, 5).await.id;
    control.rotate_keys(other, &request(5, 6)).await.unwrap();
    for taken in [5, 6] {
        let error = control.rotate_keys(id, &request(1, taken)).await.unwrap_err();
        assert_eq!(error.code(), Code::CONFLICT, "{taken}");
        let wireguard = RotateRequest {
            new: identity(9),
            ..request(1, taken)
        };
        let error = control.rotate_keys(id, &wireguard).await.unwrap_err();
        assert_eq!(error.code(), Code::CONFLICT, "{taken}");
    }
    // And nobody takes up again what it gave up.
    control.rotate_keys(other, &request(6, 8)).await.unwrap();
    let error = control.rotate_keys(other, &request(8, 6)).await.unwrap_err();
    assert_eq!(error.code(), Code::REQUEST_INVALID);
    assert!(
        control.rotate_keys(id, &request(1, 5)).await.is_ok(),
        "its time is over"
    );
}

#[tokio::test]
async fn keys_that_somebody_has_are_cut_off_at_once() {
    let (control, actor, id) = world().await;
    control.rotate_keys(id, &request(1, 2)).await.unwrap();
    control.revoke_previous_keys(&actor, id).await.unwrap();
    assert_eq!(login(&control, id, 1).await, Err(Code::NODE_KEYS));
    control.rotate_keys(id, &request(2, 3)).await.unwrap();
    // Asking for new keys without an overlap cuts off those of before, and then those of now.
    control
        .ask_for_keys(&actor, id, Some(Duration::ZERO))
        .await
        .unwrap();
    assert_eq!(login(&control, id, 2).await, Err(Code::NODE_KEYS));
    assert_eq!(control.rotate_keys(id, &request(3, 4)).await.unwrap(), None);
    assert_eq!(login(&control, id, 3).await, Err(Code::NODE_KEYS));
    assert!(login(&control, id, 4).await.is_ok());
}

#[tokio::test]
async fn who_does_not_take_part_gets_no_keys_and_revocation_is_of_both() {
    let (control, actor, id) = world().await;
    let error = control
        .ask_for_keys(&actor, id, Some(MAX_KEY_OVERLAP + Duration::from_secs(1)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::REQUEST_INVALID);
    control.rotate_keys(id, &request(1, 2)).await.unwrap();
    control.revoke_node(&actor, id).await.unwrap();
    for n in [1, 2] {
        assert_eq!(login(&control, id, n).await, Err(Code::NODE_REVOKED));
        let error = control.rotate_keys(id, &request(n, 3)).await.unwrap_err();
        assert_eq!(error.code(), Code::NODE_REVOKED);
    }
    let error = control.ask_for_keys(&actor, id, None).await.unwrap_err();
    assert_eq!(error.code(), Code::NODE_REVOKED);
    // Neither can enrol as another one.
    let error = control.check_keys(id, &identity(2)).await.unwrap_err();
    assert_eq!(error.code(), Code::NODE_REVOKED);
}

/// Stock devices were configured by hand with the gateway's WireGuard key.
#[tokio::test]
async fn sites_are_not_cut_off_by_a_rotation() {
    let (control, actor, agent) = world().await;
    let gateway = enrol_as(&control, 11, Role::Gateway).await.id;
    assert!(control.rotate_keys(gateway, &request(11, 12)).await.is_ok());
    let site = SiteDraft {
        name: "office".parse().unwrap(),
        wireguard: WireGuardKey::from_bytes([99; 32]),
        networks: Vec::new(),
        endpoint: None,
    };
    control.create_site(&actor, site).await.unwrap();
    let error = control.rotate_keys(gateway, &request(12, 13)).await.unwrap_err();
    assert_eq!(error.code(), Code::WIREGUARD_KEY_KNOWN);
    assert_eq!(node(&control, gateway).await.identity, identity(12));
    let same = RotateRequest {
        wireguard: WireGuardKey::from_bytes([12; 32]),
        ..request(12, 13)
    };
    control.rotate_keys(gateway, &same).await.unwrap();
    let known = node(&control, gateway).await;
    assert_eq!((known.identity, known.wireguard), (identity(13), same.wireguard));
    // What somebody else has is replaced, whoever knows it.
    let leaked = control.ask_for_keys(&actor, gateway, Some(Duration::ZERO));
    leaked.await.unwrap();
    // Also by who has proposed an identity only, and was not answered.
    let identity_only = RotateRequest {
        wireguard: same.wireguard,
        ..request(13, 15)
    };
    let error = control.rotate_keys(gateway, &identity_only).await.unwrap_err();
    assert_eq!(error.code(), Code::WIREGUARD_KEY_WANTED);
    assert!(node(&control, gateway).await.rotation.asked.is_some());
    assert_eq!(
        control.rotate_keys(gateway, &request(13, 14)).await.unwrap(),
        None
    );
    assert!(
        control.rotate_keys(agent, &request(1, 2)).await.is_ok(),
        "no site knows an agent"
    );
}
