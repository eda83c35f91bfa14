use std::time::Duration;

use super::net::{Link, Net, PORT, Program, begin, settings, v6};
use crate::{
    netstack::{BuildError, CloseReason, ConnectError, PacketSink, Settings, Stack},
    peer::PeerId,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn flows_beyond_the_bound_are_reset_and_counted() {
    let mut second = settings(2);
    second.limits.flows = 5;
    let mut net = Net::pair_of(Link::default(), settings(1), second);
    let flows: Vec<_> = (0..8).map(|_| net.connect(Program::default())).collect();
    net.run_for(SECOND);
    let refused = flows
        .iter()
        .filter(|flow| net.program(0, **flow).closed == Some(CloseReason::Refused))
        .count();
    assert_eq!(refused, 3);
    assert_eq!(net.nodes[1].stack.counters().overflowed, 3);
    assert_eq!(net.nodes[1].stack.flows(), 5);
    // Room is made, and used.
    let (first, ..) = net.nodes[1].incoming[0];
    net.nodes[1].programs.remove(&first);
    net.nodes[1].stack.abort(first);
    net.run_for(SECOND);
    let flow = net.connect(Program::default());
    net.run_until(SECOND, |net| net.program(0, flow).established);
}

#[test]
fn half_open_flows_beyond_the_bound_are_reset_and_counted() {
    let mut second = settings(2);
    second.limits.half_open_per_peer = 3;
    second.limits.half_open = 5;
    let mut net = Net::new(Link::default());
    net.add(settings(1));
    net.add(second);
    net.add(settings(3));
    net.join(0, 1);
    net.join(2, 1);
    for node in [0, 2] {
        for _ in 0..8 {
            net.connect_to(node, PeerId::new(0, 0), v6(2).into(), Program::default());
        }
    }
    // All SYNs arrive before any answer gets back.
    net.step();
    net.now += net.link.delay;
    net.step();
    assert_eq!(net.nodes[1].stack.flows(), 5);
    assert_eq!(net.nodes[1].stack.counters().overflowed, 11);
    net.run_for(SECOND);
    assert_eq!(net.nodes[1].incoming.len(), 5);
    // Flows that are open count no more.
    let flow = net.connect(Program::default());
    net.run_until(SECOND, |net| net.program(0, flow).established);
}

/// What is beyond is not answered, and gets through when it is sent again.
#[test]
fn flows_that_a_peer_opens_in_a_second_are_bounded() {
    let mut second = settings(2);
    second.limits.accepted_per_second = 3;
    let mut net = Net::pair_of(Link::default(), settings(1), second);
    net.run_for(SECOND);
    let flows: Vec<_> = (0..5).map(|_| net.connect(Program::default())).collect();
    net.run_for(SECOND / 4);
    let open = |net: &mut Net| {
        flows
            .iter()
            .filter(|flow| net.program(0, **flow).established)
            .count()
    };
    assert_eq!((open(&mut net), net.nodes[1].stack.counters().overflowed), (3, 2));
    assert_eq!(net.nodes[0].stack.counters().refused, 0);
    net.run_for(5 * SECOND);
    assert_eq!(open(&mut net), 5);
}

#[test]
fn flows_of_one_peer_are_bounded_both_ways() {
    let mut first = settings(1);
    first.limits.flows_per_peer = 4;
    let mut net = Net::pair_of(Link::default(), first, settings(2));
    let connect = |net: &mut Net| {
        let stack = &mut net.nodes[0].stack;
        stack.connect(PeerId::new(0, 0), v6(1).into(), (v6(2), PORT).into(), net.now)
    };
    for _ in 0..4 {
        connect(&mut net).unwrap();
    }
    assert_eq!(connect(&mut net), Err(ConnectError::TooManyFlows));
    net.nodes[0].stack.remove_peer(PeerId::new(0, 0));
    while net.nodes[0].stack.poll_event().is_some() {}
    for _ in 0..6 {
        net.connect_to(1, PeerId::new(0, 0), v6(1).into(), Program::default());
    }
    net.run_for(SECOND);
    assert_eq!(net.nodes[0].stack.flows(), 4);
    assert_eq!(net.nodes[0].stack.counters().overflowed, 2);
}

#[test]
fn settings_out_of_range_are_refused() {
    let build = |settings: Settings| Stack::new(settings, 1, begin());
    assert!(matches!(
        build(Settings {
            mtu: 1_279,
            ..settings(1)
        }),
        Err(BuildError::Mtu(1_279))
    ));
    assert!(matches!(
        build(Settings {
            mtu: 65_536,
            ..settings(1)
        }),
        Err(BuildError::Mtu(65_536))
    ));
    let multicast = Some("ff02::1".parse().unwrap());
    assert!(matches!(
        build(Settings {
            ipv6: multicast,
            ..settings(1)
        }),
        Err(BuildError::Address(_))
    ));
    let mut huge = settings(1);
    huge.limits.flows = usize::MAX;
    assert!(matches!(build(huge), Err(BuildError::Memory { .. })));
    assert!(
        build(Settings {
            ipv6: None,
            ipv4: None,
            ..settings(1)
        })
        .is_ok()
    );
}

#[cfg(target_pointer_width = "64")]
#[test]
fn less_memory_than_asked_for_means_fewer_flows() {
    let mut greedy = settings(1);
    greedy.limits.flows = 1 << 28;
    greedy.ring = 64 << 20;
    let stack = Stack::new(greedy, 1, begin()).unwrap();
    let flows = stack.settings().limits.flows;
    assert!((64..1 << 28).contains(&flows), "{flows}");
}

#[test]
fn ports_toward_one_destination_do_not_repeat_while_in_use() {
    let mut first = settings(1);
    first.limits.flows = 3_000;
    first.ring = 1;
    let mut net = Net::pair_of(Link::default(), first, settings(2));
    let stack = &mut net.nodes[0].stack;
    let (peer, local, remote) = (PeerId::new(0, 0), v6(1).into(), (v6(2), PORT).into());
    for _ in 0..3_000 {
        stack.connect(peer, local, remote, net.now).unwrap();
    }
    let mut ports: Vec<u16> = (0..3_000)
        .map(|slot| stack.table.at(slot).unwrap().local.port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3_000);
    assert_eq!(
        stack.connect(peer, local, remote, net.now),
        Err(ConnectError::TooManyFlows)
    );
}

/// Ten thousand flows that are open and idle cost nothing per packet of another, no page per ring,
/// and no walk per turn.
#[test]
fn ten_thousand_idle_flows_are_cheap() {
    let many = |host| {
        let mut settings = settings(host);
        settings.limits.flows = 10_050;
        settings.limits.flows_per_peer = 10_050;
        settings.limits.half_open = 10_050;
        settings.limits.half_open_per_peer = 10_050;
        settings
    };
    let mut net = Net::pair_of(Link::default(), many(1), many(2));
    net.nodes[1].server = Program::default();
    for _ in 0..10_000 {
        net.connect(Program::default());
    }
    net.run_until(10 * SECOND, |net| net.nodes[1].incoming.len() == 10_000);
    net.run_for(10 * SECOND);
    // Only the flows that do something are looked at: the harness itself would walk all programs.
    for node in &mut net.nodes {
        node.programs.clear();
    }
    let quiet = |net: &Net| {
        net.nodes
            .iter()
            .map(|node| node.stack.counters().received)
            .sum::<u64>()
    };
    let before = quiet(&net);
    net.nodes[1].server = Program {
        to_send: 3_000_000,
        shut: true,
        ..Program::default()
    };
    let flow = net.connect(Program {
        to_send: 100,
        shut: true,
        ..Program::default()
    });
    let begin = net.now;
    net.run_until(SECOND, |net| net.program(0, flow).finished);
    assert!(net.now - begin < SECOND);
    // Some hundred segments for three megabytes, and none for the idle ones.
    assert!(quiet(&net) - before < 3_000);
    assert!(net.nodes[0].stack.schedule.is_empty());
}

#[test]
fn rings_give_their_pages_back_when_a_flow_idles_and_keep_working() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program {
        to_send: 1_000_000,
        ..Program::default()
    };
    let flow = net.connect(Program {
        to_send: 1_000_000,
        ..Program::default()
    });
    net.run_for(2 * SECOND);
    let held = |net: &Net| net.nodes.iter().map(|node| node.stack.memory()).sum::<usize>();
    assert!(held(&net) > 100_000);
    net.run_for(10 * SECOND);
    assert_eq!(held(&net), 0);
    #[cfg(target_os = "linux")]
    assert_eq!(
        net.nodes[0].stack.arena.resident() + net.nodes[1].stack.arena.resident(),
        0
    );
    let accepted = net.accepted();
    net.nodes[0].programs.get_mut(&flow).unwrap().to_send = 2_000_000;
    net.nodes[1].programs.get_mut(&accepted).unwrap().to_send = 2_000_000;
    net.run_for(2 * SECOND);
    assert_eq!(net.program(0, flow).received, 2_000_000);
    assert_eq!(net.program(1, accepted).received, 2_000_000);
}

#[test]
fn rings_that_hold_something_keep_their_pages() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program {
        to_send: 100_000,
        ..Program::default()
    };
    let flow = net.connect(Program {
        to_send: 100_000,
        take: Some(50_000),
        ..Program::default()
    });
    net.run_for(Duration::from_millis(8));
    net.nodes[0].programs.get_mut(&flow).unwrap().take = Some(0);
    net.run_for(60 * SECOND);
    assert!(net.nodes[0].stack.can_recv(flow));
    net.nodes[0].programs.get_mut(&flow).unwrap().take = None;
    // The harness checks every byte.
    net.run_until(SECOND, |net| net.program(0, flow).received == 100_000);
}

#[test]
fn what_waits_behind_a_gap_survives_an_idle_time() {
    for seed in 0..40 {
        let mut net = Net::pair(Link::default());
        net.random = super::net::Random::new(seed);
        net.nodes[1].server = Program::default();
        let flow = net.connect(Program {
            to_send: 200_000,
            ..Program::default()
        });
        net.run_for(Duration::from_millis(8));
        net.nodes[0].programs.get_mut(&flow).unwrap().to_send = 400_000;
        net.link.loss = 300;
        net.run_for(Duration::from_millis(6));
        net.link.loss = 1_000;
        net.run_for(12 * SECOND);
        net.link.loss = 0;
        // The harness checks every byte.
        net.run_until(60 * SECOND, |net| {
            net.program(1, net.accepted()).received == 400_000
        });
    }
}

/// A peer has its share of a turn however many flows another one has.
#[test]
fn a_peer_with_many_flows_does_not_push_another_one_aside() {
    struct Count([usize; 2]);
    impl PacketSink for Count {
        fn packet(&mut self, peer: PeerId, packet: &[u8]) {
            self.0[peer.slot()] += packet.len();
        }
        fn ready(&self) -> bool {
            true
        }
    }
    let mut net = Net::new(Link::default());
    for host in 1..=3 {
        net.add(settings(host));
    }
    net.join(0, 1);
    net.join(0, 2);
    for node in [1, 2] {
        net.nodes[node].server = Program::default();
    }
    let greedy: Vec<_> = (0..40).map(|_| net.connect(Program::default())).collect();
    let modest = net.connect_to(0, PeerId::new(1, 0), v6(3).into(), Program::default());
    net.run_for(SECOND);
    let stack = &mut net.nodes[0].stack;
    for flow in greedy.into_iter().chain([modest]) {
        let filled = stack.send(flow, |room| (room.len(), room.len()));
        assert!(filled.is_some_and(|filled| filled > 10_000), "{filled:?}");
    }
    let mut sent = Count([0; 2]);
    assert!(stack.transmit(net.now, &mut sent), "there is more to send");
    // Its first flight: all that it may send before it is acknowledged.
    assert!(sent.0[1] > 10_000, "{:?}", sent.0);
}

/// Peers that take all they can get leave places for others.
#[test]
fn a_few_greedy_peers_leave_places_for_others() {
    const GREEDY: u16 = 2;
    let mut first = settings(1);
    first.limits.half_open = 30;
    first.limits.half_open_per_peer = 20;
    let mut net = Net::new(Link::default());
    net.add(first);
    for host in 2..=GREEDY + 2 {
        let node = net.add(settings(host as u8));
        net.join(node, 0);
    }
    let connect = |net: &mut Net, node, count| {
        for _ in 0..count {
            net.connect_to(node, PeerId::new(0, 0), v6(1).into(), Program::default());
        }
        net.run_for(SECOND);
    };
    // Opened and not ended: all places are wanted, twice over.
    for node in 1..=usize::from(GREEDY) {
        for _ in 0..14 {
            connect(&mut net, node, 3);
        }
    }
    let before = net.nodes[0].stack.flows();
    assert!(before < 64, "{before}");
    let node = usize::from(GREEDY) + 1;
    let flow = net.connect_to(node, PeerId::new(0, 0), v6(1).into(), Program::default());
    net.run_until(SECOND, |net| net.program(node, flow).established);
    assert!(net.nodes[0].stack.counters().overflowed > 0);
}
