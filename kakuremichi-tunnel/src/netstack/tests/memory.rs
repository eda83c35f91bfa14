//! How much memory flows may hold, and who bears what is too much.

use std::time::Duration;

use super::net::{Link, Net, Program, byte, settings, v6};
use crate::{
    netstack::{CloseReason, FlowId, flow::Queued},
    peer::PeerId,
};

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;

/// What the flows of node 1 may hold, and those of each of its peers.
const MEMORY: usize = 8 * MIB;
const PER_PEER: usize = 4 * MIB;

/// Node 1, whose peer 0 is node 0, the hostile one, and whose peer 1 is node 2.
fn net() -> Net {
    let mut net = Net::new(Link::default());
    for host in 1..=3 {
        let mut settings = settings(host);
        settings.limits.flows = 400;
        if host == 2 {
            settings.limits.memory = MEMORY;
            settings.limits.memory_per_peer = PER_PEER;
        }
        net.add(settings);
    }
    net.join(0, 1);
    net.join(2, 1);
    net
}

/// Opens a flow to node 1.
fn connect(net: &mut Net, from: usize, program: Program) -> FlowId {
    net.connect_to(from, PeerId::new(0, 0), v6(2).into(), program)
}

fn sending(to_send: u64) -> Program {
    Program {
        to_send,
        ..Program::default()
    }
}

/// Runs, and holds node 1 to what its flows may hold.
fn run_within(net: &mut Net, time: Duration) {
    let end = net.now + time;
    while net.now < end {
        net.run_for((time / 1_000).max(Duration::from_millis(1)));
        let stack = &net.nodes[1].stack;
        let (all, hostile) = (stack.memory(), stack.table.held_by(PeerId::new(0, 0)));
        assert!(all <= MEMORY && hostile <= PER_PEER, "{all} {hostile}");
    }
    // What is counted is what there is, or more, besides the rings of flows that have ended.
    #[cfg(target_os = "linux")]
    if net.nodes[1]
        .programs
        .values()
        .all(|program| program.closed.is_none())
    {
        assert!(net.nodes[1].stack.arena.resident() <= net.nodes[1].stack.memory());
    }
}

/// What node 1 got of a flow, by the flow's other end.
fn received(net: &Net, from: usize) -> Vec<u64> {
    let of = PeerId::new(u32::from(from == 2), 0);
    let flows = net.nodes[1].incoming.iter().filter(|(_, peer, ..)| *peer == of);
    flows.map(|(flow, ..)| net.program(1, *flow).received).collect()
}

/// Has node 1 take what it got, or not.
fn take(net: &mut Net, take: Option<usize>) {
    let programs = net.nodes[1].programs.values_mut();
    programs.for_each(|program| program.take = take);
}

/// Nobody reads what many flows bring. Their peer keeps to the windows that it is told.
#[test]
fn flows_that_nobody_reads_are_slowed_down_and_go_on_when_they_are_read() {
    let mut net = net();
    net.nodes[1].server = Program {
        take: Some(0),
        ..Program::default()
    };
    for _ in 0..100 {
        connect(&mut net, 0, sending(300_000));
    }
    run_within(&mut net, 2 * SECOND);
    assert!(net.nodes[1].stack.table.held_by(PeerId::new(0, 0)) > PER_PEER / 2);
    // Each has its part.
    let unread: Vec<usize> = net.nodes[1]
        .incoming
        .iter()
        .map(|(flow, ..)| {
            let flow = net.nodes[1].stack.table.get(*flow).unwrap();
            flow.tcp.as_ref().unwrap().received()
        })
        .collect();
    assert!(unread.iter().all(|unread| *unread >= 8 * 1024), "{unread:?}");
    take(&mut net, None);
    net.run_until(120 * SECOND, |net| {
        received(net, 0).iter().all(|bytes| *bytes == 300_000)
    });
    assert_eq!(net.nodes[1].stack.counters().flows_shed, 0);
    net.run_for(20 * SECOND);
    assert_eq!(net.nodes[1].stack.memory(), 0);
}

/// The same with a peer that sends what it likes: another peer's flows go on as if it were not there.
#[test]
fn a_peer_that_fills_every_ring_stays_within_its_memory_and_harms_no_other() {
    let mut net = net();
    net.boundless = true;
    net.nodes[1].server = Program {
        take: Some(0),
        ..Program::default()
    };
    for _ in 0..100 {
        connect(&mut net, 0, sending(10_000_000));
    }
    run_within(&mut net, SECOND);
    let counters = net.nodes[1].stack.counters();
    assert!(counters.data_refused > 0);
    // Whoever is read meanwhile gets what it is sent, and is reset by nobody.
    net.nodes[1].server = sending(2_000_000);
    let flows: Vec<_> = (0..4).map(|_| connect(&mut net, 2, sending(2_000_000))).collect();
    run_within(&mut net, 2 * SECOND);
    assert_eq!(received(&net, 2), [2_000_000; 4]);
    for flow in flows {
        let program = net.program(2, flow);
        assert_eq!((program.received, program.closed), (2_000_000, None));
    }
    // What it held is free again once it has gone.
    net.nodes[1].stack.remove_peer(PeerId::new(0, 0));
    net.run_for(10 * SECOND);
    assert_eq!(net.nodes[1].stack.memory(), 0);
    assert_eq!(net.nodes[1].stack.rings_in_use(), 4);
}

/// A flow that has not got its share gets it, and the one that holds the most pays for it.
#[test]
fn beyond_the_bound_the_largest_flow_is_reset_for_one_without_its_share() {
    let mut net = net();
    net.boundless = true;
    net.nodes[1].server = Program {
        take: Some(0),
        ..Program::default()
    };
    let large: Vec<_> = (0..20)
        .map(|_| connect(&mut net, 0, sending(10_000_000)))
        .collect();
    run_within(&mut net, SECOND);
    assert_eq!(net.nodes[1].stack.counters().flows_shed, 0);
    net.nodes[1].server = Program::default();
    for _ in 0..10 {
        connect(&mut net, 0, sending(10_000));
        run_within(&mut net, SECOND);
    }
    assert_eq!(received(&net, 0)[20..], [10_000; 10]);
    let shed = net.nodes[1].stack.counters().flows_shed;
    assert!((1..=10).contains(&shed), "{shed}");
    // Both ends are told.
    let told = net.nodes[1].programs.values();
    let told = told
        .filter(|program| program.closed == Some(CloseReason::Shed))
        .count();
    assert_eq!(told as u64, shed);
    let reset = large
        .iter()
        .filter(|flow| net.program(0, **flow).closed == Some(CloseReason::Reset));
    assert_eq!(reset.count() as u64, shed);
}

/// A peer that takes nothing of what it is sent and acknowledges none of it.
#[test]
fn a_peer_that_never_acknowledges_stays_within_its_memory() {
    let mut net = net();
    net.nodes[1].server = sending(10_000_000);
    for _ in 0..100 {
        connect(&mut net, 0, Program::default());
    }
    run_within(&mut net, Duration::from_millis(12));
    assert!(net.nodes[1].incoming.len() == 100);
    net.nodes[0].routes.clear();
    run_within(&mut net, 20 * SECOND);
    assert!(net.nodes[1].stack.table.held_by(PeerId::new(0, 0)) > PER_PEER / 4);
    // Others have all that they ask for.
    let flow = connect(&mut net, 2, sending(2_000_000));
    run_within(&mut net, 20 * SECOND);
    assert_eq!(received(&net, 2), [2_000_000]);
    assert_eq!(net.program(2, flow).received, 10_000_000);
    run_within(&mut net, 180 * SECOND);
    let closed = net.nodes[1]
        .programs
        .values()
        .filter(|program| program.closed.is_some());
    assert_eq!(closed.count(), 100);
    assert_eq!(net.nodes[1].stack.memory(), 0);
}

/// What flows do not need is given back before any of them feels anything.
#[test]
fn empty_rings_give_their_memory_back_for_others() {
    let mut net = net();
    net.nodes[1].server = Program::default();
    // Six times what the peer may hold, and none of it is quiet for long.
    for _ in 0..100 {
        let flow = connect(&mut net, 0, sending(250_000));
        net.run_until(SECOND, |net| net.program(0, flow).sent == 250_000);
        run_within(&mut net, Duration::from_millis(20));
    }
    net.run_until(SECOND, |net| received(net, 0) == [250_000; 100]);
    let counters = net.nodes[1].stack.counters();
    assert!(counters.rings_reclaimed > 0);
    assert_eq!((counters.data_refused, counters.flows_shed), (0, 0));
}

/// A flow that sent much and was quiet then goes ahead of transfers again, as a new one does.
#[test]
fn a_flow_that_was_quiet_is_served_as_a_new_one() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program::default();
    let flow = net.connect(sending(100));
    net.run_for(SECOND);
    let mut sent = 100;
    let mut queue = |quiet: u64| {
        net.run_for(Duration::from_millis(quiet));
        let stack = &mut net.nodes[0].stack;
        stack.handle_timeout(net.now);
        let entry = stack.table.get_mut(flow).unwrap();
        (entry.heavy, entry.active) = (true, stack.tick - quiet);
        let sending = stack.send(flow, |room| {
            room[0] = byte(sent);
            (1, ())
        });
        sending.unwrap();
        sent += 1;
        let entry = stack.table.get_mut(flow).unwrap();
        assert_eq!(entry.queued, Queued::Yes);
        !entry.heavy
    };
    assert!(!queue(50));
    assert!(queue(400));
}
