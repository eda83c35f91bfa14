//! A node gets other keys within its session.

use kakuremichi_core::{code::Code, id::AgentId, model::Role};
use kakuremichi_proto::{
    capability::Capabilities,
    codec::Array,
    frame::Message,
    identity::Signer,
    message,
    session::{Closed, Command, CommandError},
    testing::{Direction, Hub, Node, Pair, ToyKeys},
};

use crate::common::{SECOND, messages, online, subject};

const NEXT: ToyKeys = ToyKeys([0x11; 32]);
const OTHERS: ToyKeys = ToyKeys([0x22; 32]);

/// The newest proposal that the node sent.
fn proposal(pair: &Pair) -> message::RotateKeys {
    let proposals = messages(pair, Direction::Up).into_iter().rev();
    let mut proposals = proposals.filter_map(|message| match message {
        Message::RotateKeys(rotate) => Some(rotate),
        _ => None,
    });
    proposals.next().unwrap()
}

/// How Control ended the connection, if it did.
fn ended(pair: &Pair) -> Option<Code> {
    match pair.hub.closed.last()? {
        Closed::Local(reason) => reason.refusal.code(),
        Closed::Remote(_) | Closed::Lost => None,
    }
}

#[test]
fn a_node_gets_other_keys_and_its_session_goes_on() {
    let mut pair = online();
    let session = subject(&pair).session;
    let node = pair.hub.node.unwrap().0;
    assert_eq!(
        pair.hub
            .current()
            .unwrap()
            .command(Command::RotateKeys, pair.now)
            .map(|_| ()),
        Ok(())
    );
    pair.run(SECOND);
    assert_eq!(pair.node.commands, [Command::RotateKeys]);
    for (n, next) in [NEXT, OTHERS].into_iter().enumerate() {
        pair.node.rotate(next);
        pair.converge();
        assert_eq!(pair.hub.node, Some((node, next.public_key())));
        assert_eq!(pair.node.rotations.len(), n + 1);
        assert!(
            pair.node
                .rotations
                .iter()
                .all(|result| *result == Ok(Some(Hub::PREVIOUS_UNTIL)))
        );
        assert_eq!(subject(&pair).session, session, "no connection was made anew");
    }
    // The next session is one of the new keys.
    pair.hub.previous = None;
    pair.disconnect();
    pair.converge();
    assert_eq!(pair.node.keys().0, OTHERS.0);
}

/// Control died, or the node did, after the keys were committed and before the node heard of it.
#[test]
fn keys_that_were_committed_and_not_answered_are_answered_alike() {
    for node_dies in [false, true] {
        let mut pair = online();
        pair.hub.answers_rotations = false;
        pair.node.rotate(NEXT);
        pair.run(SECOND);
        assert_eq!(pair.hub.node.unwrap().1, NEXT.public_key());
        assert_eq!(pair.node.keys().0, Node::KEYS.0);
        pair.hub.answers_rotations = true;
        if node_dies {
            pair.restart_node();
        } else {
            pair.restart_hub();
        }
        pair.converge();
        assert_eq!(
            (pair.node.keys().0, pair.hub.previous),
            (NEXT.0, Some(Node::KEYS.public_key()))
        );
    }
}

#[test]
fn keys_that_nobody_heard_of_are_proposed_again() {
    let mut pair = online();
    pair.reachable = false;
    pair.disconnect();
    pair.node.rotate(NEXT);
    pair.run(SECOND);
    pair.restart_node();
    // Other ones are not made meanwhile: Control may know of those there are.
    pair.node.rotate(OTHERS);
    pair.converge();
    assert_eq!(pair.node.keys().0, NEXT.0);
}

#[test]
fn who_was_refused_keeps_what_it_has() {
    let mut pair = online();
    // Somebody else rotated the node's keys meanwhile.
    let (node, identity) = pair.hub.node.unwrap();
    pair.hub.node = Some((node, OTHERS.public_key()));
    pair.node.rotate(NEXT);
    pair.run(SECOND);
    let refused = pair.node.rotations.last().unwrap().as_ref().unwrap_err();
    assert_eq!(refused.code(), Some(Code::NODE_KEYS));
    pair.hub.node = Some((node, identity));
    pair.converge();
    assert_eq!(pair.node.keys().0, Node::KEYS.0);
}

#[test]
fn a_side_that_does_not_know_how_is_not_asked() {
    let mut pair = Pair::new(Role::Agent);
    pair.hub
        .configure(|config| config.capabilities = Capabilities::PLAN_DELTA);
    pair.converge();
    assert_eq!(
        pair.hub.current().unwrap().command(Command::RotateKeys, pair.now),
        Err(CommandError::Unsupported)
    );
    pair.node.rotate(NEXT);
    pair.converge();
    let refused = pair.node.rotations.last().unwrap().as_ref().unwrap_err();
    assert_eq!(refused.code(), Some(Code::VERSION_UNSUPPORTED));
    // Nor does it take what it did not offer.
    let mut other = online();
    other.node.rotate(NEXT);
    other.converge();
    let forged = message::RotateKeys {
        subject: subject(&pair),
        ..proposal(&other)
    };
    pair.inject(Direction::Up, &Message::from(forged).encode().unwrap());
    assert_eq!(ended(&pair), Some(Code::PROTOCOL_VIOLATION));
}

/// LESSONS, advisory 10.
#[test]
fn advisory_10_keys_are_those_of_the_node_and_the_session_that_the_channel_authenticated() {
    type Forge = fn(message::RotateKeys) -> message::RotateKeys;
    let forgeries: [(Forge, Option<Code>); 6] = [
        // Sent again as it was: it is of another session.
        (|rotate| rotate, None),
        // Said to be of this one.
        (|rotate| rotate, Some(Code::PROOF_INVALID)),
        (
            |rotate| message::RotateKeys {
                subject: message::Subject {
                    node: message::NodeId::from(kakuremichi_core::id::NodeId::from(AgentId::from_bytes(
                        [7; 16],
                    ))),
                    ..rotate.subject
                },
                ..rotate
            },
            Some(Code::PROTOCOL_VIOLATION),
        ),
        (
            |rotate| message::RotateKeys {
                wireguard: [7; 32],
                ..rotate
            },
            Some(Code::PROOF_INVALID),
        ),
        (
            |rotate| message::RotateKeys {
                identity: *ToyKeys([0x33; 32]).public_key().as_bytes(),
                ..rotate
            },
            Some(Code::PROOF_INVALID),
        ),
        (
            |rotate| message::RotateKeys {
                by_old: Array(OTHERS.sign(b"something else").0),
                ..rotate
            },
            Some(Code::PROOF_INVALID),
        ),
    ];
    for (n, (forge, expected)) in forgeries.into_iter().enumerate() {
        let mut pair = online();
        pair.node.rotate(NEXT);
        pair.converge();
        let genuine = proposal(&pair);
        pair.node.rotate(OTHERS);
        pair.converge();
        pair.disconnect();
        pair.converge();
        let current = subject(&pair);
        let of_now = if n == 0 {
            genuine
        } else {
            message::RotateKeys {
                subject: current,
                ..genuine
            }
        };
        let before = pair.hub.closed.len();
        pair.inject(Direction::Up, &Message::from(forge(of_now)).encode().unwrap());
        let told = (pair.hub.closed.len() > before).then(|| ended(&pair)).flatten();
        assert_eq!(told, expected, "forgery {n}");
        pair.converge();
        assert_eq!(pair.hub.node.unwrap().1, OTHERS.public_key(), "forgery {n}");
    }
}
