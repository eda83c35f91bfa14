//! Clocks that are set.

use super::*;
use crate::virtual_clock::VirtualClock;

const DAY: Duration = Duration::from_secs(86_400);

fn passes(clock: &VirtualClock, time: Duration) {
    clock.advance_to(clock.now() + time);
}

fn joined(first: &mut Node, second: &mut Node) {
    let (one, two) = (first.as_peer(), second.as_peer());
    first.set_peers(&[two]);
    second.set_peers(&[one]);
}

/// Calls the other one and delivers what follows; whether there is a session then.
fn calls(clock: &VirtualClock, caller: &mut Node, called: &mut Node) -> bool {
    // Nobody is called twice in the same moment, nor answers to it.
    passes(clock, Duration::from_secs(20));
    let peer = caller.peer(called);
    caller.device.handle_timeout(&mut caller.wire, clock.now());
    called.device.handle_timeout(&mut called.wire, clock.now());
    caller.device.initiate(peer, &mut caller.wire, clock.now());
    settle(&mut [caller, called]);
    caller.device.status(peer).unwrap().session_age.is_some()
}

/// A machine without a clock of its own starts in the past, and learns the time of day a little later.
#[test]
fn a_node_that_started_in_the_past_is_heard_once_its_clock_is_set() {
    let clock = VirtualClock::start();
    let mut gateway = Node::new(1);
    let mut agent = Node::new(2);
    joined(&mut gateway, &mut agent);
    assert!(calls(&clock, &mut agent, &mut gateway));
    // It starts anew, a day ago.
    clock.set_back(DAY);
    let mut agent = Node::new(2);
    agent.set_peers(&[gateway.as_peer()]);
    assert!(
        !calls(&clock, &mut agent, &mut gateway),
        "older than what was heard before"
    );
    clock.set_back(Duration::ZERO);
    assert!(
        !calls(&clock, &mut agent, &mut gateway),
        "it has not looked at the clock"
    );
    agent.device.clock_stepped();
    assert!(calls(&clock, &mut agent, &mut gateway));
    let sealed = agent.send(&gateway, b"here");
    assert!(matches!(sealed, Sealed::Datagram { .. }));
    settle(&mut [&mut gateway, &mut agent]);
    assert_eq!(gateway.take(), [b"here".to_vec()]);
}

/// A session goes on when the clock is set, whichever way.
#[test]
fn a_session_outlives_a_step_of_the_clock() {
    let clock = VirtualClock::start();
    let mut gateway = Node::new(1);
    let mut agent = Node::new(2);
    joined(&mut gateway, &mut agent);
    assert!(calls(&clock, &mut agent, &mut gateway));
    for behind in [DAY, Duration::ZERO] {
        clock.set_back(behind);
        agent.device.clock_stepped();
        gateway.device.clock_stepped();
        let peer = agent.peer(&gateway);
        assert!(agent.device.status(peer).unwrap().session_age.is_some());
        let sealed = agent.send(&gateway, b"still here");
        assert!(matches!(sealed, Sealed::Datagram { .. }));
        settle(&mut [&mut gateway, &mut agent]);
        assert_eq!(gateway.take(), [b"still here".to_vec()]);
    }
}
