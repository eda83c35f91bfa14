//! The connection is cut at any byte, frames come again, old connections linger, processes restart.

use std::time::Duration;

use kakuremichi_core::{code::Code, model::Role};
use kakuremichi_proto::{
    session::{Closed, HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT},
    testing::{Direction, Pair, samples},
};

use crate::common::{ONE, SECOND, first_minutes, online, plan, service, subject};

#[test]
fn a_connection_that_is_cut_at_any_byte_resumes() {
    let mut whole = Pair::new(Role::Agent);
    first_minutes(&mut whole);
    for direction in [Direction::Up, Direction::Down] {
        let bytes = whole.sent(direction);
        assert!(bytes > 500, "{bytes}");
        for at in 0..bytes {
            let mut pair = Pair::new(Role::Agent);
            pair.cuts = vec![(direction, at)];
            first_minutes(&mut pair);
            assert!(!pair.node.closed.is_empty(), "cut {direction:?} at {at}");
        }
    }
}

#[test]
fn connections_that_are_cut_again_and_again_make_progress() {
    let mut pair = Pair::new(Role::Agent);
    pair.cuts = (0..200)
        .map(|round| match round % 2 {
            0 => (Direction::Up, 100 + round * 3),
            _ => (Direction::Down, 100 + round * 3),
        })
        .collect();
    pair.hub.publish(plan(1, 3), pair.now);
    pair.node.declare(samples::declaration("billing"));
    pair.node.record(service(1), ONE, pair.time_of_day());
    pair.wait("a session", Pair::is_online);
    pair.converge();
}

#[test]
fn frames_of_an_old_connection_that_come_again_after_a_resume_do_no_harm() {
    let mut pair = Pair::new(Role::Agent);
    first_minutes(&mut pair);
    let up = pair.history(Direction::Up);
    let down = pair.history(Direction::Down);
    for (direction, frames) in [(Direction::Up, up), (Direction::Down, down)] {
        for frame in &frames {
            // One by one, each on a fresh connection.
            pair.disconnect();
            pair.converge();
            pair.inject(direction, frame);
            pair.converge();
        }
        // All in a row, in their order and against it.
        pair.disconnect();
        pair.converge();
        frames.iter().for_each(|frame| pair.inject(direction, frame));
        pair.converge();
        frames
            .iter()
            .rev()
            .for_each(|frame| pair.inject(direction, frame));
        pair.converge();
    }
}

#[test]
fn an_old_connection_that_drains_beside_the_new_one_changes_nothing() {
    let mut pair = online();
    // Half a megabyte is under way on the old connection, and slow.
    for round in 0..5 {
        pair.node.record(service(1), ONE, pair.time_of_day());
        pair.node.declare(samples::declaration("old"));
        pair.hub.publish(plan(10 + round, 900 + round as u32), pair.now);
        pair.run(Duration::from_millis(5));
        pair.lose_node(3 * SECOND);
        pair.node.undeclare(&"old".parse().unwrap(), false);
        pair.node.declare(samples::declaration("new"));
        // The new connection is made while frames of the old one still arrive.
        pair.run(2 * SECOND);
        assert!(pair.is_online());
        pair.hub.publish(plan(20 + round, 3), pair.now);
        pair.run(10 * SECOND);
        pair.converge();
    }
    let superseded = |closed: &&Closed| {
        closed
            .reason()
            .is_some_and(|reason| reason.refusal.code() == Some(Code::SUPERSEDED))
    };
    assert_eq!(pair.hub.closed.iter().filter(superseded).count(), 5);
}

#[test]
fn either_side_restarts_at_any_moment() {
    for millis in (0..400).step_by(5) {
        for restart in [Pair::restart_node, Pair::restart_hub] {
            let mut pair = Pair::new(Role::Agent);
            pair.hub.publish(plan(1, 50), pair.now);
            pair.node.record(service(1), ONE, pair.time_of_day());
            pair.run(Duration::from_millis(millis));
            restart(&mut pair);
            pair.node.declare(samples::declaration("billing"));
            pair.run(Duration::from_millis(millis));
            restart(&mut pair);
            pair.converge();
        }
    }
}

#[test]
fn both_sides_restart_at_once() {
    let mut pair = online();
    pair.node.record(service(1), ONE, pair.time_of_day());
    pair.restart_hub();
    pair.restart_node();
    pair.converge();
}

#[test]
fn an_idle_link_stays_open() {
    let mut pair = online();
    pair.run(3600 * SECOND);
    assert!(pair.is_online() && pair.node.closed.is_empty());
    assert_eq!(pair.node.client.rtt(), Some(Duration::from_millis(40)));
    assert_eq!(pair.hub.current().unwrap().rtt(), Some(Duration::from_millis(40)));
}

/// LESSONS: "WebSocket ping taken for liveness": both sides notice by themselves that the other is gone.
#[test]
fn a_silent_other_side_is_given_up_in_time() {
    let mut pair = online();
    // Nobody hears of the end.
    pair.lose_node(3600 * SECOND);
    pair.reachable = false;
    pair.run(HEARTBEAT_INTERVAL + HEARTBEAT_TIMEOUT + SECOND);
    let code = pair
        .hub
        .closed
        .last()
        .and_then(Closed::reason)
        .unwrap()
        .refusal
        .code();
    assert_eq!(code, Some(Code::HEARTBEAT_LOST));
    assert!(pair.hub.servers.is_empty());
    pair.converge();

    // Control's process hangs: its transport stays open.
    let now = pair.now;
    let client = &mut pair.node.client;
    let mut now_silent = now;
    while let Some((deadline, _)) = client.poll_timeout() {
        now_silent = deadline;
        client.handle_timeout(deadline);
        while client.poll_transmit().is_some() {}
    }
    assert!(now_silent - now <= HEARTBEAT_INTERVAL + HEARTBEAT_TIMEOUT);
}

#[test]
fn a_flood_of_pings_makes_no_queue() {
    let mut pair = online();
    let now = pair.now;
    let server = pair.hub.current().unwrap();
    for number in 1..100_000u64 {
        let ping = kakuremichi_proto::message::Ping { number };
        let frame = kakuremichi_proto::frame::Message::from(ping).encode().unwrap();
        server.handle_frame(&frame, now);
    }
    assert_eq!(std::iter::from_fn(|| server.poll_transmit()).count(), 1);
}

#[test]
fn a_caller_that_does_not_listen_loses_the_link_and_not_its_memory() {
    let mut pair = online();
    let now = pair.now;
    let info = kakuremichi_proto::message::NodeInfo {
        subject: subject(&pair),
        software: "x".to_owned(),
        gateway: None,
    };
    let frame = kakuremichi_proto::frame::Message::from(info).encode().unwrap();
    let server = pair.hub.current().unwrap();
    (0..10_000).for_each(|_| server.handle_frame(&frame, now));
    assert!(server.is_closed());
    let events = std::iter::from_fn(|| server.poll_event()).count();
    assert_eq!(events, kakuremichi_proto::session::MAX_EVENTS + 1);
}
