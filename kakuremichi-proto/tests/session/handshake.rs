//! Who is let in, and what is not even looked at.

use std::{sync::Arc, time::Duration};

use kakuremichi_core::{
    code::Code,
    id::{AgentId, OrganizationId},
    key::IdentityKey,
    model::Role,
    net::Overlay,
};
use kakuremichi_proto::{
    codec::Array,
    frame::Message,
    identity::{CanonicalUrl, Signer},
    message::{self, ProofKind},
    session::{
        Accepted, Closed, DECISION_TIMEOUT, HELLO_TIMEOUT, MAX_HANDSHAKE_BYTES, PROOF_TIMEOUT,
        RESUME_TIMEOUT, Reason, Server, ServerConfig, ServerEvent, Timer, WELCOME_TIMEOUT,
    },
    testing::{Direction, Hub, Node, Pair, ToyKeys, ToyVerifier, samples},
};

use crate::common::{SECOND, messages, online};

/// How the node's connection ended, and whether it comes back.
fn refused(pair: &mut Pair) -> (Option<Code>, bool) {
    pair.run(SECOND / 2);
    match pair.node.closed.last() {
        Some(closed) => (closed.reason().unwrap().refusal.code(), closed.is_permanent()),
        None => panic!("the node was not refused: {pair:?}"),
    }
}

#[test]
fn both_roles_enrol_and_come_back_as_themselves() {
    for role in [Role::Agent, Role::Gateway] {
        let mut pair = Pair::new(role);
        if role == Role::Gateway {
            pair.node.client.set_info(samples::info());
        }
        pair.converge();
        let (node, _) = pair.hub.node.unwrap();
        assert_eq!(pair.node.client.node(), Some(node));
        assert_eq!(
            pair.hub.info.as_ref().is_some_and(|info| info.gateway.is_some()),
            role == Role::Gateway
        );

        pair.restart_node();
        pair.converge();
        assert_eq!(pair.node.client.node(), Some(node));
        let proofs = messages(&pair, Direction::Up)
            .into_iter()
            .filter_map(|message| match message {
                Message::Proof(proof) => Some(proof.kind == ProofKind::Known),
                _ => None,
            });
        assert_eq!(proofs.collect::<Vec<_>>(), [false, true]);
    }
}

#[test]
fn the_token_is_shown_to_no_other_control() {
    let mut pair = Pair::new(Role::Agent);
    pair.hub
        .configure(|config| config.signer = Arc::new(ToyKeys([1; 32])));
    assert_eq!(refused(&mut pair), (Some(Code::OTHER_CONTROL), true));
    assert!(
        !messages(&pair, Direction::Up)
            .iter()
            .any(|message| matches!(message, Message::Proof(_)))
    );
}

/// Shows the key of the Control that the node wants, without having it.
#[derive(Debug)]
struct Impostor;

impl Signer for Impostor {
    fn public_key(&self) -> IdentityKey {
        Hub::key()
    }

    fn sign(&self, message: &[u8]) -> kakuremichi_proto::identity::Signature {
        ToyKeys([1; 32]).sign(message)
    }
}

#[test]
fn control_has_to_prove_its_key_before_the_node_shows_anything() {
    let mut pair = Pair::new(Role::Agent);
    pair.hub.configure(|config| config.signer = Arc::new(Impostor));
    assert_eq!(refused(&mut pair), (Some(Code::PROOF_INVALID), false));
    assert!(
        !messages(&pair, Direction::Up)
            .iter()
            .any(|message| matches!(message, Message::Proof(_)))
    );
}

#[test]
fn a_node_that_was_led_here_by_another_name_is_refused() {
    let mut pair = Pair::new(Role::Agent);
    pair.hub
        .configure(|config| config.url = "https://elsewhere.example".parse().unwrap());
    assert_eq!(refused(&mut pair), (Some(Code::URL_MISMATCH), true));
}

/// Control started once with a mistyped URL must not cost it its nodes.
#[test]
fn an_enrolled_node_outlives_a_control_under_another_url_or_with_another_key() {
    let mut pair = online();
    let right = CanonicalUrl::clone(&config().url);
    pair.hub
        .configure(|config| config.url = "https://elsewhere.example".parse().unwrap());
    pair.restart_hub();
    pair.run(SECOND);
    assert_eq!(refused(&mut pair), (Some(Code::URL_MISMATCH), false));
    pair.hub.configure(|config| config.url = right);
    pair.converge();

    pair.hub
        .configure(|config| config.signer = Arc::new(ToyKeys([1; 32])));
    pair.restart_hub();
    pair.run(SECOND);
    assert_eq!(refused(&mut pair), (Some(Code::OTHER_CONTROL), false));
    pair.hub.configure(|config| config.signer = Arc::new(Hub::KEYS));
    pair.converge();
}

/// LESSONS, "stuck tunnels": whoever ends TLS for Control, and has not proven to be it, sends nobody away for
/// good.
#[test]
fn nobody_who_has_proven_nothing_sends_a_node_away_for_good() {
    let revoked = message::Close {
        code: Code::NODE_REVOKED.as_str().to_owned(),
        message: "the node was revoked".to_owned(),
        permanent: true,
        retry_after: None,
    };
    let said = |pair: &mut Pair| {
        // The node has connected, and waits for the challenge.
        pair.inject(Direction::Down, &Message::from(revoked.clone()).encode().unwrap());
        match pair.node.closed.last() {
            Some(Closed::Remote(reason)) => (reason.refusal.code(), reason.permanent),
            other => panic!("the node was told: {other:?}"),
        }
    };
    let mut new = Pair::new(Role::Gateway);
    new.run(Duration::ZERO);
    assert_eq!(said(&mut new), (Some(Code::NODE_REVOKED), false));
    new.converge();

    let mut known = online();
    known.restart_node();
    known.run(Duration::from_millis(100));
    assert_eq!(said(&mut known), (Some(Code::NODE_REVOKED), false));
    known.converge();
}

#[test]
fn a_token_that_is_used_up_and_a_node_that_is_revoked_are_refused_for_good() {
    let mut pair = Pair::new(Role::Agent);
    pair.hub.uses = 0;
    assert_eq!(refused(&mut pair), (Some(Code::TOKEN_USED_UP), true));

    let mut pair = online();
    pair.hub.revoked = true;
    pair.restart_node();
    assert_eq!(refused(&mut pair), (Some(Code::NODE_REVOKED), true));
    pair.run(600 * SECOND);
    assert_eq!(
        pair.node.closed.len(),
        2,
        "a node that is refused for good stays away"
    );
}

fn config() -> Arc<ServerConfig> {
    Arc::new(ServerConfig {
        url: "https://control.example".parse().unwrap(),
        capabilities: kakuremichi_proto::capability::Capabilities::SUPPORTED,
        signer: Arc::new(Hub::KEYS),
        verifier: Arc::new(ToyVerifier),
    })
}

/// The handshake of a node that enrolled, as it was recorded on another connection.
fn recorded() -> (Pair, Vec<Vec<u8>>) {
    let mut pair = online();
    let skip = pair.history(Direction::Up).len();
    pair.restart_node();
    pair.converge();
    let frames = pair.history(Direction::Up).split_off(skip);
    (pair, frames)
}

fn closed_code(server: &mut Server) -> Option<Code> {
    std::iter::from_fn(|| server.poll_event()).find_map(|event| match event {
        ServerEvent::Closed(closed) => Some(closed.reason().unwrap().refusal.code().unwrap()),
        _ => None,
    })
}

#[test]
fn a_recorded_handshake_proves_nothing() {
    let (pair, frames) = recorded();
    let mut server = Server::new(config(), [9; 32], pair.now);
    frames
        .iter()
        .for_each(|frame| server.handle_frame(frame, pair.now));
    assert_eq!(closed_code(&mut server), Some(Code::PROOF_INVALID));
}

#[test]
fn a_proof_is_bound_to_the_token_and_the_name_that_it_came_with() {
    let mut pair = Pair::new(Role::Agent);
    pair.run(Duration::from_millis(50));
    let Some(Message::Proof(proof)) = messages(&pair, Direction::Up).pop() else {
        panic!("the node has sent its proof by now");
    };
    let ProofKind::Enrol { secret, .. } = proof.kind else {
        panic!("a new node enrols");
    };
    let kind = ProofKind::Enrol {
        secret,
        name: "mallory".to_owned(),
    };
    let forged = message::Proof { kind, ..proof };
    pair.inject(Direction::Up, &Message::from(forged).encode().unwrap());
    assert!(
        matches!(&pair.hub.closed[..], [Closed::Local(reason)] if reason.refusal.code() == Some(Code::PROOF_INVALID))
    );
    assert_eq!(pair.hub.enrolled, 0);
}

#[test]
fn the_two_sides_find_a_common_version_or_part() {
    let (pair, frames) = recorded();
    let Ok(kakuremichi_proto::frame::Incoming::Known(Message::Hello(hello))) =
        kakuremichi_proto::frame::decode(&frames[0])
    else {
        panic!("the first frame is a hello");
    };
    let newer = message::Hello {
        versions: kakuremichi_proto::codec::List::truncated([2, 3]),
        ..hello
    };
    let mut server = Server::new(config(), [9; 32], pair.now);
    server.handle_frame(&Message::from(newer).encode().unwrap(), pair.now);
    assert_eq!(closed_code(&mut server), Some(Code::VERSION_UNSUPPORTED));
    assert!(server.poll_transmit().is_some(), "the node is told why");
}

/// LESSONS, advisory 7: every state before authentication has a deadline.
#[test]
fn every_state_of_the_handshake_has_a_deadline() {
    let (pair, frames) = recorded();
    let now = pair.now;
    let deadline = |server: &Server| server.poll_timeout().unwrap();

    let mut silent = Server::new(config(), [9; 32], now);
    assert_eq!(deadline(&silent), (now + HELLO_TIMEOUT, Timer::Handshake));
    silent.handle_timeout(now + HELLO_TIMEOUT);
    assert_eq!(closed_code(&mut silent), Some(Code::HEARTBEAT_LOST));

    let mut greeted = Server::new(config(), [9; 32], now);
    greeted.handle_frame(&frames[0], now + SECOND);
    assert_eq!(
        deadline(&greeted),
        (now + SECOND + PROOF_TIMEOUT, Timer::Handshake)
    );

    // The rest needs the nonce that the proof was made for.
    let mut pair = Pair::new(Role::Agent);
    pair.hub.configure(|config| config.verifier = Arc::new(Anyone));
    let mut server = Server::new(
        Arc::new(ServerConfig {
            verifier: Arc::new(Anyone),
            ..ServerConfig::clone(&config())
        }),
        [9; 32],
        now,
    );
    frames[..2]
        .iter()
        .for_each(|frame| server.handle_frame(frame, now));
    assert_eq!(deadline(&server), (now + DECISION_TIMEOUT, Timer::Handshake));
    assert!(matches!(server.poll_event(), Some(ServerEvent::Authenticate(_))));
    let accepted = Accepted {
        node: AgentId::from_bytes([0xa0; 16]).into(),
        organization: OrganizationId::from_bytes([1; 16]),
        name: "node".parse().unwrap(),
        overlay: Overlay::from_global_id([0; 5]),
        session: 1,
    };
    server.accept(accepted, now + SECOND);
    assert_eq!(
        deadline(&server),
        (now + SECOND + RESUME_TIMEOUT, Timer::Handshake)
    );
    server.handle_timeout(now + SECOND + RESUME_TIMEOUT);
    assert_eq!(closed_code(&mut server), Some(Code::HEARTBEAT_LOST));
}

#[derive(Debug)]
struct Anyone;

impl kakuremichi_proto::identity::Verifier for Anyone {
    fn verify(&self, _: &IdentityKey, _: &[u8], _: &kakuremichi_proto::identity::Signature) -> bool {
        true
    }
}

#[test]
fn a_control_that_does_not_decide_is_given_up_by_both_sides() {
    let (pair, frames) = recorded();
    let mut server = Server::new(
        Arc::new(ServerConfig {
            verifier: Arc::new(Anyone),
            ..ServerConfig::clone(&config())
        }),
        [9; 32],
        pair.now,
    );
    frames[..2]
        .iter()
        .for_each(|frame| server.handle_frame(frame, pair.now));
    server.handle_timeout(pair.now + DECISION_TIMEOUT);
    assert_eq!(closed_code(&mut server), Some(Code::TRY_LATER));
    const { assert!(WELCOME_TIMEOUT.as_secs() > DECISION_TIMEOUT.as_secs()) };
}

/// LESSONS, advisory 7: every state before authentication has a byte bound.
#[test]
fn a_stranger_sends_a_few_kilobytes_at_most() {
    let now = online().now;
    let mut server = Server::new(config(), [9; 32], now);
    let unknown = [0xff; 1000];
    for _ in 0..=MAX_HANDSHAKE_BYTES / unknown.len() {
        server.handle_frame(&unknown, now);
    }
    assert_eq!(closed_code(&mut server), Some(Code::PROTOCOL_VIOLATION));
    let before = server.unknown_frames();
    server.handle_frame(&unknown, now);
    assert_eq!(server.unknown_frames(), before, "nothing is read after the end");
}

#[test]
fn a_caller_cannot_let_a_node_in_as_another() {
    let (pair, frames) = recorded();
    let mut server = Server::new(
        Arc::new(ServerConfig {
            verifier: Arc::new(Anyone),
            ..ServerConfig::clone(&config())
        }),
        [9; 32],
        pair.now,
    );
    frames[..2]
        .iter()
        .for_each(|frame| server.handle_frame(frame, pair.now));
    let accepted = Accepted {
        node: AgentId::from_bytes([0xbb; 16]).into(),
        organization: OrganizationId::from_bytes([1; 16]),
        name: "node".parse().unwrap(),
        overlay: Overlay::from_global_id([0; 5]),
        session: 1,
    };
    server.accept(accepted, pair.now);
    assert_eq!(closed_code(&mut server), Some(Code::INTERNAL));
}

/// LESSONS, advisory 10: each control message checks that its subject is the node that the channel
/// authenticated.
#[test]
fn a_message_about_another_node_ends_the_connection() {
    let other = message::Subject {
        node: message::NodeId::Agent([0xee; 16]),
        session: 1,
    };
    let up: Vec<Message> = vec![
        message::NodeInfo {
            subject: other,
            software: String::new(),
            gateway: None,
        }
        .into(),
        message::PlanAck {
            subject: other,
            revision: 1,
            hash: [0; 32],
            denied: Default::default(),
            denied_count: 0,
        }
        .into(),
        message::PlanRequest {
            subject: other,
            transfer: 1,
        }
        .into(),
        samples::message(kakuremichi_proto::frame::Tag::Declare),
        samples::message(kakuremichi_proto::frame::Tag::Undeclare),
        samples::message(kakuremichi_proto::frame::Tag::Status),
        samples::message(kakuremichi_proto::frame::Tag::Event),
        samples::message(kakuremichi_proto::frame::Tag::Usage),
        samples::message(kakuremichi_proto::frame::Tag::Commanded),
    ];
    for message in up {
        let mut pair = online();
        pair.inject(Direction::Up, &message.encode().unwrap());
        let code = pair
            .hub
            .closed
            .last()
            .and_then(Closed::reason)
            .unwrap()
            .refusal
            .code();
        assert_eq!(code, Some(Code::PROTOCOL_VIOLATION), "{message:?}");
        pair.converge();
    }
    for tag in [
        kakuremichi_proto::frame::Tag::PlanBegin,
        kakuremichi_proto::frame::Tag::Declared,
        kakuremichi_proto::frame::Tag::Undeclared,
        kakuremichi_proto::frame::Tag::Command,
    ] {
        let mut pair = online();
        pair.inject(Direction::Down, &samples::message(tag).encode().unwrap());
        let code = pair
            .node
            .closed
            .last()
            .and_then(Closed::reason)
            .unwrap()
            .refusal
            .code();
        assert_eq!(code, Some(Code::PROTOCOL_VIOLATION), "{tag}");
        pair.converge();
    }
}

#[test]
fn unknown_frames_are_skipped_and_counted() {
    let mut pair = online();
    let newer = [0x7f, 0xff, 1, 2, 3];
    pair.inject(Direction::Up, &newer);
    pair.inject(Direction::Down, &newer);
    assert_eq!(pair.node.client.unknown_frames(), 1);
    assert_eq!(pair.hub.current().unwrap().unknown_frames(), 1);
    assert!(pair.is_online());
}

#[test]
fn a_refusal_is_said_before_the_end() {
    let mut pair = online();
    let reason = Reason::passing(Code::TRY_LATER, "maintenance").retry_after(30 * SECOND);
    let now = pair.now;
    pair.hub.current().unwrap().close(reason.clone(), now);
    pair.run(SECOND);
    assert_eq!(pair.node.closed, [Closed::Remote(reason)]);
    pair.run(28 * SECOND);
    assert!(!pair.is_online(), "the node waits as it was asked to");
    pair.run(3 * SECOND);
    assert!(pair.is_online());
}

#[test]
fn a_signature_of_one_side_is_none_of_the_other() {
    // The node's key in Control's place: its signatures are of the other domain.
    let mut pair = Pair::new(Role::Agent);
    pair.hub.configure(|config| config.signer = Arc::new(Node::KEYS));
    assert_eq!(refused(&mut pair), (Some(Code::OTHER_CONTROL), true));
    assert_ne!(Array(Node::KEYS.sign(b"a").0), Array(Node::KEYS.sign(b"b").0));
}
