use std::time::Duration;

use super::net::{Link, Net, PORT, Program, settings, v4, v6};
use crate::{
    netstack::{CloseReason, ConnectError},
    packet::{IpPacket, TcpFlags},
    peer::PeerId,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn both_ends_learn_of_a_flow_with_its_addresses() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program::default());
    net.run_until(SECOND, |net| {
        net.program(0, flow).established && !net.nodes[1].incoming.is_empty()
    });
    let (_, peer, local, remote) = net.nodes[1].incoming[0];
    assert_eq!(peer, PeerId::new(0, 0));
    assert_eq!(local, (v6(2), PORT).into());
    assert_eq!(remote.ip(), v6(1));
    // One round trip for one end, one and a half for the other.
    assert!(net.elapsed() <= 4 * net.link.delay);
    assert_eq!(
        (
            net.nodes[0].stack.counters().connected,
            net.nodes[1].stack.counters().accepted
        ),
        (1, 1)
    );
}

#[test]
fn the_mss_of_a_syn_is_that_of_the_tunnel() {
    let mut net = Net::pair(Link::default());
    for (to, mss) in [(v6(2).into(), 1_360), (v4(2).into(), 1_380)] {
        net.connect_to(0, PeerId::new(0, 0), to, Program::default());
        let node = &mut net.nodes[0];
        node.stack.transmit(net.now, &mut node.wire);
        let (_, packet) = node.wire.packets.pop_back().unwrap();
        let segment = IpPacket::parse(&packet).unwrap().tcp().unwrap();
        assert_eq!(segment.flags(), TcpFlags::SYN);
        assert_eq!(crate::netstack::rim::read_mss(segment.options()), Some(mss));
    }
}

#[test]
fn lost_handshake_segments_are_sent_again() {
    for lost in 1..=3 {
        let mut net = Net::pair(Link::default());
        let flow = net.connect(Program {
            to_send: 1,
            shut: true,
            ..Program::default()
        });
        for _ in 0..lost {
            net.link.loss = 1_000;
            net.run_for(SECOND / 2);
            net.link.loss = 0;
            net.run_for(net.link.delay);
        }
        net.run_until(20 * SECOND, |net| net.program(0, flow).closed.is_some());
        assert_eq!(net.program(0, flow).closed, Some(CloseReason::Finished));
    }
}

#[test]
fn a_port_that_is_not_listened_on_refuses() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].stack.listen([PORT + 1]);
    let flow = net.connect(Program::default());
    net.run_until(SECOND, |net| net.program(0, flow).closed.is_some());
    assert_eq!(net.program(0, flow).closed, Some(CloseReason::Refused));
    assert_eq!(net.nodes[1].stack.counters().refused, 1);
    assert_eq!(net.nodes[1].stack.flows(), 0);
    net.nodes[0].stack.release(flow);
    assert_eq!(net.nodes[0].stack.flows(), 0);
    assert_eq!(net.nodes[0].stack.rings_in_use(), 0);
}

#[test]
fn ports_are_replaced_and_open_flows_stay() {
    let mut net = Net::pair(Link::default());
    let first = net.connect(Program {
        to_send: 10,
        ..Program::default()
    });
    net.run_for(SECOND);
    net.nodes[1].stack.listen([]);
    let second = net.connect(Program::default());
    net.nodes[0].programs.get_mut(&first).unwrap().to_send = 20;
    net.run_for(SECOND);
    assert_eq!(net.program(0, second).closed, Some(CloseReason::Refused));
    assert_eq!(net.program(1, net.accepted()).received, 20);
}

#[test]
fn nobody_answers_and_the_attempt_ends() {
    let mut net = Net::pair(Link {
        loss: 1_000,
        ..Link::default()
    });
    let flow = net.connect(Program::default());
    net.run_until(20 * SECOND, |net| net.program(0, flow).closed.is_some());
    assert_eq!(net.program(0, flow).closed, Some(CloseReason::Timeout));
    assert!(net.elapsed() >= net.nodes[0].stack.settings().connect_timeout);
    assert_eq!(net.nodes[0].stack.counters().timed_out, 1);
}

#[test]
fn a_half_open_flow_of_a_peer_that_vanished_goes() {
    let mut net = Net::pair(Link::default());
    net.connect(Program::default());
    net.step();
    net.link.loss = 1_000;
    net.run_for(Duration::from_millis(10));
    assert_eq!(net.nodes[1].stack.flows(), 1);
    net.run_for(20 * SECOND);
    assert_eq!(net.nodes[1].stack.flows(), 0);
    assert_eq!(net.nodes[1].stack.rings_in_use(), 0);
    assert!(net.nodes[1].incoming.is_empty());
}

#[test]
fn addresses_that_do_not_fit_are_refused_at_once() {
    let mut net = Net::pair(Link::default());
    let peer = PeerId::new(0, 0);
    let mut connect = |local: &str, remote: &str| {
        net.nodes[0]
            .stack
            .connect(peer, local.parse().unwrap(), remote.parse().unwrap(), net.now)
            .unwrap_err()
    };
    assert_eq!(connect("fd00::9", "[fd00::2]:80"), ConnectError::NotOurs);
    assert_eq!(connect("fd00::1", "[fd00::2]:0"), ConnectError::Unaddressable);
    assert_eq!(connect("fd00::1", "100.64.0.2:80"), ConnectError::Unaddressable);
    assert_eq!(connect("fd00::1", "[ff02::1]:80"), ConnectError::Unaddressable);
    assert_eq!(connect("fd00::1", "[::]:80"), ConnectError::Unaddressable);
    assert_eq!(
        connect("100.64.0.1", "255.255.255.255:80"),
        ConnectError::Unaddressable
    );
    assert_eq!(net.nodes[0].stack.flows(), 0);
}

#[test]
fn the_same_addresses_on_two_peers_are_two_hosts() {
    let mut net = Net::new(Link::default());
    net.add(settings(1));
    net.add(settings(2));
    net.add(settings(2));
    net.join(0, 1);
    net.join(0, 2);
    net.nodes[1].server.to_send = 1_000;
    net.nodes[2].server.to_send = 2_000;
    // From the very same port, too: the second stack begins with the same seed.
    let program = Program {
        shut: true,
        ..Program::default()
    };
    let first = net.connect_to(0, PeerId::new(0, 0), v6(2).into(), program.clone());
    let second = net.connect_to(0, PeerId::new(1, 0), v6(2).into(), program);
    net.run_until(SECOND, |net| {
        net.program(0, first).finished && net.program(0, second).finished
    });
    assert_eq!(net.program(0, first).received, 1_000);
    assert_eq!(net.program(0, second).received, 2_000);
}

#[test]
fn a_peer_cannot_reach_the_flow_of_another() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program::default());
    net.run_for(SECOND);
    // A reset with the right addresses and numbers, but from another peer.
    let accepted = net.accepted();
    net.nodes[1].stack.abort(accepted);
    let node = &mut net.nodes[1];
    node.stack.transmit(net.now, &mut node.wire);
    let (_, reset) = node.wire.packets.pop_front().unwrap();
    let node = &mut net.nodes[0];
    node.stack
        .handle_packet(PeerId::new(7, 0), &reset, net.now, &mut node.wire);
    node.stack
        .handle_packet(PeerId::new(0, 1), &reset, net.now, &mut node.wire);
    net.run_for(SECOND);
    assert_eq!(net.program(0, flow).closed, None);
    let node = &mut net.nodes[0];
    node.stack
        .handle_packet(PeerId::new(0, 0), &reset, net.now, &mut node.wire);
    net.run_for(SECOND);
    assert_eq!(net.program(0, flow).closed, Some(CloseReason::Reset));
}
