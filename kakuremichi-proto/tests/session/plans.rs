//! Plans: newest wins, deltas when they can, snapshots when they must.

use kakuremichi_core::code::Code;
use kakuremichi_proto::{
    codec::Bytes,
    frame::Message,
    message::{self, PlanKind},
    session::{Closed, MAX_PLAN_RETRIES, PLAN_ACK_TIMEOUT, Timer},
    testing::{Direction, Pair},
};

use crate::common::{SECOND, count, messages, online, plan, service, subject};

fn begins(pair: &Pair) -> Vec<PlanKind> {
    let kind = |message| match message {
        Message::PlanBegin(begin) => Some(begin.kind),
        _ => None,
    };
    messages(pair, Direction::Down)
        .into_iter()
        .filter_map(kind)
        .collect()
}

fn is_delta(kind: &PlanKind) -> bool {
    matches!(kind, PlanKind::Delta { .. })
}

#[test]
fn a_change_travels_as_a_delta() {
    let mut pair = online();
    let before = pair.sent(Direction::Down);
    pair.hub.publish(plan(2, 500), pair.now);
    pair.converge();
    let middle = pair.sent(Direction::Down);
    pair.hub.publish(plan(3, 501), pair.now);
    pair.converge();
    assert!(middle - before > 50_000, "500 services are many");
    assert!(pair.sent(Direction::Down) - middle < 1000, "one more is few");
    assert_eq!(
        begins(&pair).iter().map(is_delta).collect::<Vec<_>>(),
        [false, true, true]
    );
}

#[test]
fn a_node_that_has_the_plan_gets_nothing() {
    let mut pair = online();
    pair.restart_node();
    pair.converge();
    pair.restart_hub();
    pair.converge();
    assert_eq!(begins(&pair).len(), 1);
    assert_eq!(pair.hub.resumed.len(), 3);
    assert!(pair.hub.resumed[1..].iter().all(|resumed| resumed.plan.is_some()));
}

#[test]
fn a_node_that_comes_back_gets_what_changed() {
    let mut pair = online();
    pair.reachable = false;
    pair.disconnect();
    pair.run(60 * SECOND);
    pair.hub.publish(plan(2, 4), pair.now);
    pair.hub.publish(plan(3, 5), pair.now);
    pair.converge();
    assert_eq!(
        begins(&pair).iter().map(is_delta).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(pair.node.plans.len(), 2, "only the newest is sent");
}

#[test]
fn a_control_that_has_forgotten_the_old_plan_sends_the_whole_new_one() {
    let mut pair = online();
    pair.restart_hub();
    pair.hub.publish(plan(2, 4), pair.now);
    pair.hub.restart();
    pair.converge();
    assert_eq!(
        begins(&pair).iter().map(is_delta).collect::<Vec<_>>(),
        [false, false]
    );
}

#[test]
fn a_restored_control_with_an_older_revision_still_converges() {
    let mut pair = online();
    pair.hub.publish(plan(9, 9), pair.now);
    pair.converge();
    pair.restart_hub();
    pair.hub.publish(plan(4, 2), pair.now);
    pair.converge();
    assert_eq!(pair.node.applied.as_ref().unwrap().revision().0, 4);
}

#[test]
fn the_newest_plan_wins_while_another_is_sent() {
    let mut pair = online();
    let now = pair.now;
    pair.hub.publish(plan(2, 5000), now);
    // The transport takes a few frames, then a newer plan is there.
    let server = pair.hub.current().unwrap();
    let taken: Vec<_> = (0..3).filter_map(|_| server.poll_transmit()).collect();
    pair.hub.publish(plan(3, 4), now);
    taken.iter().for_each(|frame| pair.inject(Direction::Down, frame));
    pair.converge();
    assert_eq!(
        pair.node.plans.len(),
        2,
        "the plan in between was never completed"
    );
    assert_eq!(pair.node.faults, 0);
}

#[test]
fn plans_that_change_all_the_time_still_arrive() {
    let mut pair = online();
    let now = pair.now;
    let mut arrived = 0;
    for revision in 2..60 {
        pair.hub.publish(plan(revision, 3000 + revision as u32), now);
        // Between two changes the transport takes less than a plan.
        for _ in 0..4 {
            if let Some(frame) = pair.hub.current().unwrap().poll_transmit() {
                pair.node.client.handle_frame(&frame, now);
            }
        }
        while let Some(event) = pair.node.client.poll_event() {
            if let kakuremichi_proto::session::ClientEvent::Plan(plan) = event {
                arrived += 1;
                pair.node.client.applied(&plan, &[], now);
            }
        }
        while let Some(frame) = pair.node.client.poll_transmit() {
            pair.hub.current().unwrap().handle_frame(&frame, now);
        }
    }
    assert!(arrived >= 4, "{arrived} plans arrived");
}

#[test]
fn a_plan_that_arrives_damaged_is_sent_whole() {
    let mut pair = online();
    let now = pair.now;
    pair.hub.publish(plan(2, 500), now);
    let server = pair.hub.current().unwrap();
    let begin = server.poll_transmit().unwrap();
    let _lost = server.poll_transmit().unwrap();
    pair.inject(Direction::Down, &begin);
    pair.converge();
    assert_eq!((pair.node.faults, pair.hub.resent), (1, 1));
    assert_eq!(
        begins(&pair).iter().map(is_delta).collect::<Vec<_>>(),
        [false, false]
    );
}

#[test]
fn a_delta_to_another_plan_is_answered_with_a_request() {
    let mut pair = online();
    let begin = message::PlanBegin {
        subject: subject(&pair),
        transfer: 2,
        revision: 7,
        kind: PlanKind::Delta {
            base: 99,
            base_hash: [0; 32],
        },
    };
    pair.inject(Direction::Down, &Message::from(begin).encode().unwrap());
    assert_eq!(pair.node.faults, 1);
    // Control did not send it, and has nothing to send again.
    pair.converge();
    assert_eq!(pair.hub.resent, 0);
}

#[test]
fn a_node_that_can_never_use_its_plan_does_not_spin() {
    let mut pair = online();
    let now = pair.now;
    pair.hub.publish(plan(2, 4), now);
    for attempt in 0..=MAX_PLAN_RETRIES {
        // Every transmission is damaged on its way.
        while let Some(frame) = pair.hub.current().and_then(|server| server.poll_transmit()) {
            if !matches!(frame[..2], [0, 0x31]) {
                pair.node.client.handle_frame(&frame, now);
            }
        }
        while let Some(frame) = pair.node.client.poll_transmit() {
            if let Some(server) = pair.hub.current() {
                server.handle_frame(&frame, now);
            }
        }
        assert_eq!(
            pair.hub.current().is_some(),
            attempt < MAX_PLAN_RETRIES,
            "attempt {attempt}"
        );
    }
    pair.converge();
}

#[test]
fn a_plan_that_is_not_acknowledged_ends_the_connection() {
    let mut pair = online();
    pair.node.applies = false;
    pair.hub.publish(plan(2, 4), pair.now);
    pair.run(SECOND);
    // Heartbeats go on: it is the plan that is waited for.
    let timers = pair.hub.current().unwrap().poll_timeout().unwrap();
    assert_ne!(timers.1, Timer::PlanAck, "pings are due before it");
    pair.run(PLAN_ACK_TIMEOUT);
    let code = pair
        .node
        .closed
        .last()
        .and_then(Closed::reason)
        .unwrap()
        .refusal
        .code();
    assert_eq!(code, Some(Code::TRY_LATER));
    pair.node.applies = true;
    pair.converge();
}

#[test]
fn what_a_node_denies_is_known_to_control_and_after_a_restart_too() {
    let mut pair = online();
    pair.node.denies = vec![service(7)];
    pair.hub.publish(plan(2, 4), pair.now);
    pair.converge();
    assert_eq!(pair.hub.denied, [service(7)]);
    pair.restart_node();
    pair.restart_hub();
    pair.hub.denied.clear();
    pair.converge();
    assert_eq!(pair.hub.denied, [service(7)]);
}

#[test]
fn frames_of_a_plan_that_come_twice_change_nothing() {
    let mut pair = online();
    let now = pair.now;
    pair.hub.publish(plan(2, 3000), now);
    while let Some(frame) = pair.hub.current().unwrap().poll_transmit() {
        pair.inject(Direction::Down, &frame);
        pair.inject(Direction::Down, &frame);
    }
    pair.converge();
    assert_eq!((pair.node.faults, pair.node.plans.len()), (0, 2));
}

#[test]
fn without_the_capability_every_plan_comes_whole() {
    let mut pair = Pair::new(kakuremichi_core::model::Role::Agent);
    pair.hub
        .configure(|config| config.capabilities = Default::default());
    pair.converge();
    pair.hub.publish(plan(2, 4), pair.now);
    pair.converge();
    pair.hub.publish(plan(3, 5), pair.now);
    pair.converge();
    assert!(!begins(&pair).iter().any(is_delta));
}

#[test]
fn a_piece_beyond_any_plan_is_refused() {
    let mut pair = online();
    let begin = message::PlanBegin {
        subject: subject(&pair),
        transfer: 2,
        revision: 7,
        kind: PlanKind::Snapshot,
    };
    pair.inject(Direction::Down, &Message::from(begin).encode().unwrap());
    let mut record = (5u32 << 20).to_be_bytes().to_vec();
    record.resize(60_000, 1);
    let piece = message::PlanRecords {
        transfer: 2,
        offset: 0,
        bytes: Bytes(record),
    };
    pair.inject(Direction::Down, &Message::from(piece).encode().unwrap());
    assert_eq!(pair.node.faults, 1);
    let acks = |pair: &Pair| {
        count(&messages(pair, Direction::Up), |message| {
            matches!(message, Message::PlanAck(_))
        })
    };
    let before = acks(&pair);
    pair.run(SECOND);
    assert_eq!(acks(&pair), before);
}
