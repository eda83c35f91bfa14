//! Declarations, commands, usage, status and incidents.

use std::time::Duration;

use kakuremichi_core::code::Code;
use kakuremichi_proto::{
    frame::Message,
    message::MAX_DECLARATIONS,
    report::{LaneEnd, Refusal, Status},
    session::{
        Command, CommandError, DeclareError, MAX_COMMANDS, MAX_DECLARES_IN_FLIGHT, MAX_INCIDENTS,
        MAX_USAGE_BATCHES, REQUEST_TIMEOUT,
    },
    testing::{Direction, samples},
};

use crate::common::{ONE, SECOND, count, messages, online, plan, service};

fn label(text: &str) -> kakuremichi_core::name::Label {
    text.parse().unwrap()
}

#[test]
fn what_is_declared_is_answered_item_by_item() {
    let mut pair = online();
    pair.node.declare(samples::declaration("billing"));
    pair.node.declare(samples::declaration("shop"));
    pair.converge();
    let billing = pair.node.declared[&label("billing")].as_ref().unwrap();
    assert_eq!(billing.urls, ["https://billing.example"]);
    assert_ne!(
        billing.service,
        pair.node.declared[&label("shop")].as_ref().unwrap().service
    );
}

#[test]
fn declarations_are_replayed_after_a_reconnect_and_change_nothing() {
    let mut pair = online();
    pair.node.declare(samples::declaration("billing"));
    pair.converge();
    for _ in 0..3 {
        pair.disconnect();
        pair.converge();
    }
    let declares = count(&messages(&pair, Direction::Up), |message| {
        matches!(message, Message::Declare(_))
    });
    assert_eq!((declares, pair.hub.live.len()), (4, 1));
}

/// LESSONS: "Process stop deletes a reserved name": stopping is not deleting.
#[test]
fn a_declaration_that_is_not_replayed_is_no_longer_live_but_may_stay() {
    let mut pair = online();
    pair.node.declare(samples::declaration("gone"));
    let stays = kakuremichi_proto::declare::Declaration {
        ephemeral: false,
        ..samples::declaration("stays")
    };
    pair.node.declare(stays);
    pair.converge();
    pair.restart_node();
    pair.converge();
    assert!(pair.hub.live.is_empty());
    assert!(pair.hub.stored.contains(&label("stays")) && !pair.hub.stored.contains(&label("gone")));
}

#[test]
fn a_declaration_that_is_repeated_after_its_end_is_not_live_again() {
    let mut pair = online();
    pair.node.declare(samples::declaration("billing"));
    pair.run(Duration::from_millis(1));
    let declare = pair.history(Direction::Up).pop().unwrap();
    pair.converge();
    pair.node.undeclare(&label("billing"), true);
    pair.run(SECOND);
    pair.inject(Direction::Up, &declare);
    pair.converge();
    assert!(pair.hub.live.is_empty());
}

#[test]
fn the_end_of_a_declaration_arrives_even_across_a_reconnect() {
    let mut pair = online();
    let stays = kakuremichi_proto::declare::Declaration {
        ephemeral: false,
        ..samples::declaration("stays")
    };
    pair.node.declare(stays);
    pair.converge();
    pair.reachable = false;
    pair.disconnect();
    pair.node.undeclare(&label("stays"), true);
    pair.run(5 * SECOND);
    pair.converge();
    pair.run(SECOND);
    assert!(pair.hub.stored.is_empty());
}

#[test]
fn an_answer_that_is_late_is_reported_and_still_taken() {
    let mut pair = online();
    pair.hub.answers = false;
    pair.node.declare(samples::declaration("billing"));
    pair.run(REQUEST_TIMEOUT + SECOND);
    let late = pair.node.declared[&label("billing")].clone();
    assert_eq!(late.map_err(|refusal| refusal.code()), Err(Some(Code::TRY_LATER)));
    assert!(pair.is_online(), "one late answer does not end the link");
    pair.hub.answers = true;
    pair.disconnect();
    pair.converge();
}

#[test]
fn many_declarations_go_a_few_at_a_time() {
    let mut pair = online();
    pair.hub.answers = false;
    for number in 0..MAX_DECLARATIONS {
        pair.node
            .declare(samples::declaration(&format!("service-{number}")));
    }
    let one_more = pair.node.client.declare(samples::declaration("one-more"));
    assert_eq!(one_more, Err(DeclareError::TooMany));
    pair.run(SECOND);
    let declares = count(&messages(&pair, Direction::Up), |message| {
        matches!(message, Message::Declare(_))
    });
    assert_eq!(declares, MAX_DECLARES_IN_FLIGHT);
    pair.hub.answers = true;
    pair.disconnect();
    pair.converge();
    assert_eq!(pair.hub.live.len(), MAX_DECLARATIONS);
}

#[test]
fn a_declaration_larger_than_a_frame_is_refused_at_home() {
    let mut pair = online();
    let large = kakuremichi_proto::declare::Declaration {
        policy: kakuremichi_core::policy::Policy {
            access: kakuremichi_core::policy::Access::AnyOf(vec![kakuremichi_core::policy::Method::Basic {
                users: vec![
                    kakuremichi_core::policy::BasicUser {
                        name: "a".to_owned(),
                        password_hash: "x".repeat(2000),
                    };
                    256
                ],
            }]),
            ..Default::default()
        },
        ..samples::declaration("large")
    };
    assert_eq!(pair.node.client.declare(large), Err(DeclareError::TooLarge));
}

#[test]
fn commands_are_answered_or_time_out() {
    let mut pair = online();
    let drain = Command::Drain { grace: 10 * SECOND };
    let now = pair.now;
    let request = pair.hub.current().unwrap().command(drain, now).unwrap();
    pair.run(SECOND);
    assert_eq!(pair.node.commands, [drain]);
    assert_eq!(pair.hub.commanded, [(request, Ok(()))]);

    pair.node.answers_commands = false;
    let now = pair.now;
    let server = pair.hub.current().unwrap();
    for _ in 0..MAX_COMMANDS {
        server.command(Command::Undrain, now).unwrap();
    }
    assert_eq!(server.command(Command::Undrain, now), Err(CommandError::TooMany));
    pair.run(REQUEST_TIMEOUT + SECOND);
    let late = pair.hub.commanded[1..].iter().filter(|(_, result)| {
        result
            .as_ref()
            .is_err_and(|refusal| refusal.code() == Some(Code::TRY_LATER))
    });
    assert_eq!(late.count(), MAX_COMMANDS);
    assert!(pair.is_online());
}

#[test]
fn usage_waits_for_control_and_is_stored_once() {
    let mut pair = online();
    pair.reachable = false;
    pair.disconnect();
    for minute in 0..100 {
        pair.node.record(service(minute % 7), ONE, pair.time_of_day());
        pair.run(60 * SECOND);
    }
    assert_eq!(pair.node.client.usage().sealed().len(), MAX_USAGE_BATCHES);
    pair.restart_node();
    pair.reachable = true;
    pair.wait("usage to be stored", |pair| {
        pair.node.client.usage().sealed().len() == 0
    });
    // What had no room is sent with the next flush.
    let until = pair.time_of_day();
    pair.node.client.flush_usage(until);
    pair.converge();
    assert_eq!(pair.hub.used.connections, 100);
}

#[test]
fn usage_that_control_cannot_store_is_sent_again() {
    let mut pair = online();
    pair.hub.stores = false;
    pair.node.record(service(1), ONE, pair.time_of_day());
    pair.run(5 * SECOND);
    assert_eq!(pair.node.client.usage().sealed().len(), 1);
    pair.hub.stores = true;
    pair.disconnect();
    pair.converge();
}

#[test]
fn a_batch_of_usage_that_overtakes_another_is_not_taken_for_it() {
    let mut pair = online();
    pair.node.record(service(1), ONE, pair.time_of_day());
    pair.node.record(service(2), ONE, pair.time_of_day());
    pair.run(Duration::from_millis(1));
    // Both are under way; the second is seen first, and then again.
    let second = pair.history(Direction::Up).pop().unwrap();
    pair.inject(Direction::Up, &second);
    assert_eq!(pair.hub.batches, 0);
    pair.converge();
    pair.inject(Direction::Up, &second);
    pair.converge();
    assert_eq!(pair.hub.batches, 2);
}

#[test]
fn a_node_that_lost_its_usage_counts_in_a_new_stream() {
    let mut pair = online();
    pair.node.record(service(1), ONE, pair.time_of_day());
    pair.converge();
    pair.node.lose_usage();
    pair.restart_node();
    pair.node.record(service(1), ONE, pair.time_of_day());
    pair.converge();
    assert_eq!(pair.hub.used.connections, 2);
}

#[test]
fn status_and_incidents_arrive_within_their_bounds() {
    let mut pair = online();
    let lane = samples::status().lanes[0].clone();
    let lanes: Vec<_> = (0..1300u32)
        .map(|number| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.to_be_bytes());
            let end = LaneEnd::Agent(kakuremichi_core::id::AgentId::from_bytes(id));
            kakuremichi_proto::report::LaneStatus { end, ..lane.clone() }
        })
        .collect();
    let status = Status {
        lanes,
        ..samples::status()
    };
    pair.node.client.set_status(status.clone());
    pair.run(SECOND);
    assert_eq!(pair.hub.status, status);

    pair.reachable = false;
    pair.disconnect();
    (0..MAX_INCIDENTS + 5).for_each(|_| pair.node.client.report(samples::incident()));
    pair.converge();
    pair.run(SECOND);
    assert_eq!(
        (pair.hub.incidents.len(), pair.hub.lost_incidents),
        (MAX_INCIDENTS, 5)
    );
    assert_eq!(
        pair.hub.status, status,
        "a status is said again after a reconnect"
    );
}

#[test]
fn a_drain_ends_what_is_open_and_sends_the_node_away_for_a_while() {
    let mut pair = online();
    pair.node.record(service(1), ONE, pair.time_of_day());
    pair.hub.publish(plan(2, 900), pair.now);
    pair.hub.drain(pair.now);
    let asked = pair.now;
    pair.wait("the connection to end", |pair| !pair.node.closed.is_empty());
    let reason = pair.node.closed[0].reason().unwrap().clone();
    assert_eq!(
        (reason.refusal.code(), reason.permanent),
        (Some(Code::TRY_LATER), false)
    );
    assert_eq!(pair.node.plans.len(), 2, "the plan was sent to its end");
    assert!(pair.now - asked < SECOND, "nothing was open for longer");
    pair.converge();
}

#[test]
fn a_drain_does_not_wait_for_ever() {
    let mut pair = online();
    pair.node.applies = false;
    pair.hub.publish(plan(2, 4), pair.now);
    pair.run(SECOND);
    pair.hub.drain(pair.now);
    pair.node.declare(samples::declaration("late"));
    pair.run(SECOND);
    let refused = pair.node.declared[&label("late")].as_ref().map_err(Refusal::code);
    assert_eq!(refused, Err(Some(Code::TRY_LATER)));
    pair.run(10 * SECOND);
    assert_eq!(pair.node.closed.len(), 1);
    pair.node.applies = true;
    pair.converge();
}
