use std::time::Duration;

use super::net::{Link, Net, Program, settings};
use crate::{
    netstack::{CloseReason, Event},
    packet::{IpPacket, TcpFlags},
    peer::PeerId,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn our_direction_ends_and_the_peers_goes_on() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program::default();
    let flow = net.connect(Program {
        to_send: 10,
        shut: true,
        ..Program::default()
    });
    net.run_for(SECOND);
    let accepted = net.accepted();
    assert!(net.program(1, accepted).finished);
    assert!(!net.program(0, flow).finished);
    // Long after, and more than a ring.
    net.run_for(300 * SECOND);
    net.nodes[1].programs.get_mut(&accepted).unwrap().to_send = 1_000_000;
    net.run_for(SECOND);
    assert_eq!(net.program(0, flow).received, 1_000_000);
    assert_eq!(net.program(0, flow).closed, None);
    net.nodes[1].programs.get_mut(&accepted).unwrap().shut = true;
    net.run_until(SECOND, |net| {
        net.program(0, flow).closed.is_some() && net.program(1, accepted).closed.is_some()
    });
    assert!(net.program(0, flow).finished);
    assert_eq!(net.program(0, flow).closed, Some(CloseReason::Finished));
    assert_eq!(net.program(1, accepted).closed, Some(CloseReason::Finished));
}

#[test]
fn the_peers_direction_ends_and_ours_goes_on() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program::default());
    net.run_for(SECOND);
    assert!(net.program(0, flow).finished);
    assert!(!net.program(1, net.accepted()).finished);
    net.nodes[0].programs.get_mut(&flow).unwrap().to_send = 1_000_000;
    net.run_for(SECOND);
    assert_eq!(net.program(1, net.accepted()).received, 1_000_000);
    net.nodes[0].programs.get_mut(&flow).unwrap().shut = true;
    net.run_until(SECOND, |net| net.program(0, flow).closed.is_some());
}

/// Found by the simulation: smoltcp takes no notice of a window that opens once both ends are done.
#[test]
fn a_slow_reader_that_ended_first_gets_everything() {
    for ring in [16 * 1024, 256 * 1024] {
        let mut small = settings(1);
        small.ring = ring;
        let mut net = Net::pair_of(Link::default(), small, settings(2));
        net.nodes[1].server = Program {
            to_send: 230_000,
            shut: true,
            ..Program::default()
        };
        let flow = net.connect(Program {
            to_send: 10,
            shut: true,
            take: Some(0),
            ..Program::default()
        });
        net.run_for(30 * SECOND);
        let accepted = net.accepted();
        assert_eq!(net.program(1, accepted).sent, 230_000);
        for part in 1..=23 {
            net.nodes[0].programs.get_mut(&flow).unwrap().take = Some(10_000);
            net.step();
            net.nodes[0].programs.get_mut(&flow).unwrap().take = Some(0);
            net.run_for(SECOND);
            assert_eq!(net.program(0, flow).received, part * 10_000);
        }
        net.nodes[0].programs.get_mut(&flow).unwrap().take = None;
        net.run_until(SECOND, |net| {
            net.program(0, flow).closed.is_some() && net.program(1, accepted).closed.is_some()
        });
        assert_eq!(net.program(0, flow).closed, Some(CloseReason::Finished));
        assert_eq!(net.program(1, accepted).closed, Some(CloseReason::Finished));
    }
}

#[test]
fn both_end_at_the_same_moment() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program::default();
    let flow = net.connect(Program::default());
    net.run_for(SECOND);
    let accepted = net.accepted();
    net.nodes[0].programs.get_mut(&flow).unwrap().shut = true;
    net.nodes[1].programs.get_mut(&accepted).unwrap().shut = true;
    net.run_until(SECOND, |net| {
        net.program(0, flow).closed.is_some() && net.program(1, accepted).closed.is_some()
    });
    assert_eq!(net.program(0, flow).closed, Some(CloseReason::Finished));
    assert_eq!(net.program(1, accepted).closed, Some(CloseReason::Finished));
}

#[test]
fn the_end_is_told_after_the_last_byte_was_taken() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server.to_send = 1_000;
    let flow = net.connect(Program {
        shut: true,
        take: Some(0),
        ..Program::default()
    });
    net.run_for(30 * SECOND);
    assert_eq!(net.program(0, flow).closed, None);
    assert!(net.nodes[0].stack.can_recv(flow));
    assert!(!net.nodes[0].stack.recv_finished(flow));
    net.nodes[0].programs.get_mut(&flow).unwrap().take = None;
    net.step();
    net.step();
    assert_eq!(net.program(0, flow).received, 1_000);
    assert!(net.program(0, flow).finished);
    assert_eq!(net.program(0, flow).closed, Some(CloseReason::Finished));
    assert_eq!(net.nodes[0].stack.rings_in_use(), 0);
}

#[test]
fn a_reset_is_told_and_what_was_received_stays_readable() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program {
        to_send: 1_000,
        ..Program::default()
    };
    let flow = net.connect(Program {
        take: Some(0),
        ..Program::default()
    });
    net.run_for(SECOND);
    let accepted = net.accepted();
    net.nodes[1].programs.remove(&accepted);
    net.nodes[1].stack.abort(accepted);
    net.run_for(SECOND);
    assert_eq!(net.nodes[1].stack.flows(), 0);
    assert_eq!(net.program(0, flow).closed, Some(CloseReason::Reset));
    net.nodes[0].programs.get_mut(&flow).unwrap().take = None;
    net.step();
    assert_eq!(net.program(0, flow).received, 1_000);
    assert!(!net.program(0, flow).finished);
    net.nodes[0].stack.release(flow);
    assert_eq!(
        (net.nodes[0].stack.flows(), net.nodes[0].stack.rings_in_use()),
        (0, 0)
    );
}

#[test]
fn an_aborted_attempt_says_nothing_more() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program::default());
    net.step();
    net.nodes[0].programs.remove(&flow);
    net.nodes[0].stack.abort(flow);
    net.run_for(30 * SECOND);
    assert_eq!((net.nodes[0].stack.flows(), net.nodes[1].stack.flows()), (0, 0));
}

#[test]
fn names_that_outlived_their_flow_are_harmless() {
    let mut net = Net::pair(Link::default());
    let old = net.connect(Program::default());
    net.run_for(SECOND);
    net.nodes[0].programs.remove(&old);
    net.nodes[0].stack.abort(old);
    net.run_for(SECOND);
    let new = net.connect(Program {
        to_send: 5,
        ..Program::default()
    });
    assert_eq!(new.slot(), old.slot());
    assert_ne!(new, old);
    let stack = &mut net.nodes[0].stack;
    assert!(!stack.can_recv(old) && !stack.can_send(old) && !stack.recv_finished(old));
    assert_eq!(stack.send(old, |_| (1, ())), None);
    assert_eq!(stack.recv(old, |_| (1, ())), None);
    stack.shutdown(old);
    stack.abort(old);
    stack.release(old);
    net.run_for(SECOND);
    assert!(net.program(0, new).established);
    assert_eq!(net.program(0, new).closed, None);
}

#[test]
fn a_released_flow_delivers_the_rest_in_the_background() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program {
        shut: true,
        ..Program::default()
    };
    let flow = net.connect(Program {
        to_send: 150_000,
        ..Program::default()
    });
    net.run_until(SECOND, |net| net.program(0, flow).finished);
    net.nodes[0].programs.get_mut(&flow).unwrap().to_send = 300_000;
    net.step();
    net.nodes[0].programs.remove(&flow);
    let stack = &mut net.nodes[0].stack;
    stack.shutdown(flow);
    stack.release(flow);
    assert!(!stack.can_send(flow));
    net.run_for(SECOND);
    let there = net.program(1, net.accepted());
    assert!(there.finished && there.received > 150_000);
    assert_eq!(there.closed, Some(CloseReason::Finished));
    assert_eq!(net.nodes[0].stack.flows(), 0);
}

#[test]
fn releasing_an_open_flow_resets_it() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program::default();
    let flow = net.connect(Program::default());
    net.run_for(SECOND);
    net.nodes[0].programs.remove(&flow);
    net.nodes[0].stack.release(flow);
    net.run_for(SECOND);
    assert_eq!(net.program(1, net.accepted()).closed, Some(CloseReason::Reset));
    assert_eq!(net.nodes[0].stack.flows(), 0);
}

#[test]
fn shutting_down_before_the_handshake_is_complete_ends_the_flow_behind_it() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program::default());
    net.nodes[0].stack.shutdown(flow);
    net.run_until(SECOND, |net| net.program(0, flow).closed.is_some());
    assert_eq!(net.program(0, flow).closed, Some(CloseReason::Finished));
}

#[test]
fn a_peer_that_falls_silent_ends_the_flow() {
    for to_send in [0, 100_000] {
        let mut net = Net::pair(Link::default());
        net.nodes[1].server = Program::default();
        let flow = net.connect(Program::default());
        net.run_for(SECOND);
        net.link.loss = 1_000;
        net.nodes[0].programs.get_mut(&flow).unwrap().to_send = to_send;
        let begin = net.now;
        net.run_until(200 * SECOND, |net| net.program(0, flow).closed.is_some());
        assert_eq!(net.program(0, flow).closed, Some(CloseReason::Timeout));
        let timeout = net.nodes[0].stack.settings().user_timeout;
        assert!(net.now - begin >= timeout - SECOND && net.now - begin <= timeout + SECOND);
        net.nodes[0].stack.release(flow);
        assert_eq!(net.nodes[0].stack.flows(), 0);
    }
}

#[test]
fn a_quiet_flow_is_kept_alive() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program::default();
    let flow = net.connect(Program::default());
    net.run_for(3_600 * SECOND);
    assert_eq!(net.program(0, flow).closed, None);
    assert_eq!(net.program(1, net.accepted()).closed, None);
    // And costs little: a probe and its answer per interval from either end, and few wake-ups.
    assert!(net.nodes[0].stack.counters().sent < 250);
    assert!(net.steps < 2_000, "{}", net.steps);
}

#[test]
fn an_ended_flow_is_remembered_without_its_rings() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program {
        shut: true,
        release: true,
        ..Program::default()
    });
    net.run_until(SECOND, |net| net.program(0, flow).closed.is_some());
    assert_eq!(
        (net.nodes[0].stack.flows(), net.nodes[0].stack.rings_in_use()),
        (0, 0)
    );
    // A FIN that comes again is acknowledged, not reset.
    let local = net.nodes[1].incoming[0].3;
    let mut fin = [0; 60];
    let segment = crate::netstack::rim::Control {
        source: net.nodes[1].incoming[0].2,
        destination: local,
        sequence: 5,
        acknowledgement: 6,
        flags: TcpFlags::FIN.union(TcpFlags::ACK),
        window: 0,
    };
    struct Keep<'a>(&'a mut [u8; 60]);
    impl crate::netstack::PacketSink for Keep<'_> {
        fn packet(&mut self, _: PeerId, packet: &[u8]) {
            self.0.copy_from_slice(packet);
        }
        fn ready(&self) -> bool {
            true
        }
    }
    let peer = PeerId::new(0, 0);
    crate::netstack::rim::Rim::new(1_420).control(&segment, peer, &mut Keep(&mut fin));
    // Whichever end closed first waits; it is the one that answers with an acknowledgement.
    let mut answers = Vec::new();
    for node in &mut net.nodes {
        node.wire.packets.clear();
        node.stack.handle_packet(peer, &fin, net.now, &mut node.wire);
        answers.extend(
            node.wire
                .packets
                .drain(..)
                .map(|(_, packet)| IpPacket::parse(&packet).unwrap().tcp().unwrap().flags()),
        );
    }
    assert_eq!(answers, [TcpFlags::ACK]);
}

#[test]
fn a_removed_peer_takes_its_flows_with_it() {
    let mut net = Net::new(Link::default());
    net.add(settings(1));
    net.add(settings(2));
    net.add(settings(3));
    net.join(0, 1);
    net.join(0, 2);
    let (first, second) = (PeerId::new(0, 0), PeerId::new(1, 0));
    let to = |host| std::net::IpAddr::from(super::net::v6(host));
    let keep = Program {
        to_send: 1_000,
        ..Program::default()
    };
    let gone: Vec<_> = (0..10)
        .map(|_| net.connect_to(0, first, to(2), keep.clone()))
        .collect();
    let stays = net.connect_to(0, second, to(3), keep.clone());
    net.run_for(SECOND);
    let given_up = net.connect_to(0, first, to(2), keep.clone());
    net.nodes[0].stack.remove_connecting(first);
    assert_eq!(net.nodes[0].stack.flows(), 11, "the connected ones stay");
    net.step();
    assert_eq!(net.program(0, given_up).closed, Some(CloseReason::PeerGone));
    net.nodes[0].stack.release(given_up);
    let opening = net.connect_to(0, first, to(2), keep);
    let accepted_before = net.nodes[1].stack.flows();
    assert_eq!(accepted_before, 10);
    net.nodes[0].stack.remove_peer(first);
    assert_eq!(net.nodes[0].stack.flows(), 1);
    assert_eq!(net.nodes[0].stack.rings_in_use(), 1);
    net.step();
    for flow in gone.iter().chain([&opening]) {
        assert_eq!(net.program(0, *flow).closed, Some(CloseReason::PeerGone));
        net.nodes[0].stack.release(*flow);
    }
    net.nodes[0].programs.get_mut(&stays).unwrap().to_send = 2_000;
    net.run_for(SECOND);
    assert_eq!(net.nodes[2].programs.values().next().unwrap().received, 2_000);
    net.nodes[0].stack.remove_peer(first);
}

#[test]
fn an_address_that_goes_takes_its_flows_with_it() {
    let mut net = Net::pair(Link::default());
    let peer = PeerId::new(0, 0);
    let six = net.connect(Program::default());
    let four = net.connect_to(0, peer, super::net::v4(2).into(), Program::default());
    net.run_for(SECOND);
    let stack = &mut net.nodes[0].stack;
    assert!(
        stack
            .set_addresses(Some("ff02::1".parse().unwrap()), None)
            .is_err()
    );
    assert_eq!(stack.flows(), 2);
    stack.set_addresses(Some(super::net::v6(1)), None).unwrap();
    assert_eq!(stack.flows(), 1);
    net.step();
    assert_eq!(net.program(0, four).closed, Some(CloseReason::AddressGone));
    assert_eq!(net.program(0, six).closed, None);
}

#[test]
fn events_of_a_flow_come_in_order() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program::default());
    net.nodes[1].server = Program {
        to_send: 10,
        shut: true,
        ..Program::default()
    };
    // Without the harness reading events on this side.
    let mut told = Vec::new();
    for _ in 0..20 {
        let node = &mut net.nodes[0];
        node.stack.handle_timeout(net.now);
        while let Some(event) = node.stack.poll_event() {
            told.push(event);
        }
        node.stack.shutdown(flow);
        while node.stack.recv(flow, |bytes| (bytes.len(), ())).is_some() {}
        while let Some(event) = node.stack.poll_event() {
            told.push(event);
        }
        net.step();
        net.now += net.link.delay;
        if let Some(program) = net.nodes[0].programs.get(&flow)
            && program.closed.is_some()
        {
            break;
        }
    }
    assert!(told.len() <= 4, "{told:?}");
    assert!(!told.iter().any(|event| matches!(event, Event::Incoming { .. })));
}

/// Both ends repeat data at the same time: an acknowledgement that carries the number of a repetition
/// is no use to the other end.
#[test]
fn two_ends_that_repeat_themselves_come_out_of_it() {
    let link = Link {
        delay: Duration::from_millis(2),
        jitter: Duration::from_micros(1_224),
        loss: 34,
        repeat: 29,
        join: false,
        rate: None,
    };
    for seed in 0..300 {
        let mut net = Net::pair(link.clone());
        net.random = super::net::Random::new(seed);
        net.nodes[1].server.to_send = 100_000;
        let flow = net.connect(Program {
            to_send: 23_000,
            shut: true,
            ..Program::default()
        });
        net.run_until(1_000 * SECOND, |net| net.program(0, flow).closed.is_some());
        assert_eq!(net.program(0, flow).closed, Some(CloseReason::Finished), "{seed}");
    }
}
