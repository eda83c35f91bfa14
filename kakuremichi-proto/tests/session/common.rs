//! What the tests have in common.

use std::{sync::Arc, time::Duration};

use kakuremichi_core::{id::ServiceId, model::Role};
use kakuremichi_proto::{
    frame::{self, Incoming, Message},
    message,
    plan::WirePlan,
    report::Amount,
    session::ClientState,
    testing::{Direction, Pair, samples},
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const ONE: Amount = Amount {
    connections: 1,
    requests: 2,
    received: 30,
    sent: 400,
};

pub(crate) fn service(number: u8) -> ServiceId {
    ServiceId::from_bytes([number; 16])
}

pub(crate) fn plan(revision: u64, services: u32) -> WirePlan {
    WirePlan::from_plan(&samples::agent_plan(revision, services)).unwrap()
}

/// An agent that has enrolled and agrees with Control on a plan.
pub(crate) fn online() -> Pair {
    let mut pair = Pair::new(Role::Agent);
    pair.hub.publish(plan(1, 3), pair.now);
    pair.converge();
    pair
}

/// The messages that were sent so far.
pub(crate) fn messages(pair: &Pair, direction: Direction) -> Vec<Message> {
    let decode = |frame: &Vec<u8>| match frame::decode(frame).unwrap() {
        Incoming::Known(message) => message,
        Incoming::Unknown(tag) => panic!("unknown tag {tag}"),
    };
    pair.history(direction).iter().map(decode).collect()
}

pub(crate) fn count(messages: &[Message], wanted: impl Fn(&Message) -> bool) -> usize {
    messages.iter().filter(|message| wanted(message)).count()
}

/// Everything that an agent does in its first minutes.
pub(crate) fn first_minutes(pair: &mut Pair) {
    pair.hub.publish(plan(1, 3), pair.now);
    pair.node.declare(samples::declaration("billing"));
    pair.run(SECOND);
    pair.node.record(service(1), ONE, pair.time_of_day());
    pair.node.client.set_status(samples::status());
    pair.run(SECOND);
    pair.hub.publish(plan(2, 4), pair.now);
    pair.node.record(service(2), ONE, pair.time_of_day());
    pair.run(20 * SECOND);
    pair.node.declare(samples::declaration("shop"));
    pair.node.undeclare(&"billing".parse().unwrap(), false);
    pair.run(SECOND);
    pair.converge();
    assert_eq!(pair.hub.used.connections, 2);
    assert!(Arc::ptr_eq(
        pair.node.client.plan().unwrap(),
        pair.node.applied.as_ref().unwrap()
    ));
}

/// The node, in its session.
pub(crate) fn subject(pair: &Pair) -> message::Subject {
    let ClientState::Online { session } = pair.node.client.state() else {
        panic!("the node is offline");
    };
    message::Subject {
        node: pair.hub.node.unwrap().0.into(),
        session,
    }
}
