//! Long paths, and narrow ones: how fast things are where a round trip takes tens of milliseconds, and
//! what becomes of packets that are too big further on.

use std::{net::IpAddr, time::Duration};

use super::net::{Link, Net, Program, settings, v4, v6};
use crate::{
    packet::{IpPacket, Protocol, write_ip_header},
    peer::PeerId,
};

const SECOND: Duration = Duration::from_secs(1);
const PEER: PeerId = PeerId::new(0, 0);

/// A path of so many megabits per second, with a queue of one bandwidth-delay product.
fn path(megabits: u64, round_trip: Duration, loss: u64) -> Link {
    let rate = megabits * 1_000_000 / 8;
    let queue = rate * round_trip.as_millis() as u64 / 1_000;
    Link {
        delay: round_trip / 2,
        loss,
        rate: Some((rate, queue)),
        ..Link::default()
    }
}

fn long(link: Link) -> Net {
    let large = |host| {
        let mut settings = settings(host);
        settings.ring = 4 << 20;
        settings
    };
    Net::pair_of(link, large(1), large(2))
}

/// How long it takes from the SYN until an object is there.
fn fetch(net: &mut Net, size: u64) -> Duration {
    net.nodes[1].server = Program {
        to_send: size,
        shut: true,
        ..Program::default()
    };
    let flow = net.connect(Program {
        to_send: 100,
        shut: true,
        ..Program::default()
    });
    net.run_until(1_000 * SECOND, |net| net.program(0, flow).received == size);
    net.elapsed()
}

#[test]
fn a_small_object_takes_few_round_trips() {
    // One for the handshake, one for the first ten segments, then twice as many in each.
    for (size, limit) in [(10_000, 85), (100_000, 210), (1_000_000, 400)] {
        let mut net = long(path(200, Duration::from_millis(40), 0));
        let time = fetch(&mut net, size);
        assert!(time <= Duration::from_millis(limit), "{size} bytes: {time:?}");
    }
}

#[test]
fn a_fast_long_path_is_filled() {
    let mut net = long(path(1_000, Duration::from_millis(20), 0));
    let time = fetch(&mut net, 100_000_000);
    assert!(time <= Duration::from_millis(1_300), "{time:?}");
}

#[test]
fn loss_slows_a_transfer_and_does_not_stop_it() {
    let mut net = long(path(200, Duration::from_millis(40), 10));
    let time = fetch(&mut net, 10_000_000);
    assert!(time <= 30 * SECOND, "{time:?}");
}

#[test]
fn a_lost_last_segment_is_sent_again_within_a_third_of_a_second() {
    let mut net = long(path(200, Duration::from_millis(40), 0));
    net.nodes[1].server = Program {
        to_send: 5_000,
        ..Program::default()
    };
    let flow = net.connect(Program::default());
    // The answer is on its way when the link breaks for a moment.
    net.run_for(Duration::from_millis(55));
    net.link.loss = 1_000;
    net.run_for(Duration::from_millis(10));
    net.link.loss = 0;
    let lost = net.now;
    net.run_until(SECOND, |net| net.program(0, flow).received == 5_000);
    assert!(
        net.now - lost <= Duration::from_millis(333),
        "{:?}",
        net.now - lost
    );
}

/// What a router sends that cannot pass a packet on.
fn too_big(packet: &[u8], mtu: u16, from: IpAddr) -> Vec<u8> {
    let view = IpPacket::parse(packet).unwrap();
    let to = view.source();
    let quoted = &packet[..packet.len().min(200)];
    let mut message = if to.is_ipv4() {
        vec![3, 4, 0, 0, 0, 0]
    } else {
        vec![2, 0, 0, 0, 0, 0]
    };
    message.extend_from_slice(&mtu.to_be_bytes());
    message.extend_from_slice(quoted);
    let mut out = vec![0; 40 + message.len()];
    let protocol = if to.is_ipv4() {
        Protocol::Icmp
    } else {
        Protocol::Icmpv6
    };
    let header = write_ip_header(from, to, protocol, message.len(), &mut out).unwrap();
    out.truncate(header + message.len());
    out[header..].copy_from_slice(&message);
    out
}

#[test]
fn a_flow_through_a_narrow_router_sends_shorter_packets() {
    for (to, router, narrow) in [
        (IpAddr::from(v6(2)), IpAddr::from(v6(99)), 1_300_u16),
        (v4(2).into(), v4(99).into(), 1_000),
    ] {
        let mut net = Net::pair(Link::default());
        let flow = net.connect_to(0, PEER, to, Program::default());
        net.run_for(SECOND);
        net.nodes[0].stack.send(flow, |room| {
            for (offset, slot) in room[..5_000].iter_mut().enumerate() {
                *slot = super::net::byte(offset as u64);
            }
            (5_000, ())
        });
        let node = &mut net.nodes[0];
        node.stack.transmit(net.now, &mut node.wire);
        // Every packet that is too long is lost, and the router says so.
        let packets: Vec<_> = node.wire.packets.drain(..).collect();
        assert!(packets[0].1.len() > usize::from(narrow));
        node.stack.handle_packet(
            PEER,
            &too_big(&packets[0].1, narrow, router),
            net.now,
            &mut node.wire,
        );
        assert_eq!(node.stack.counters().unhandled, 0);
        node.wire.mtu = narrow.into();
        net.run_until(5 * SECOND, |net| net.program(1, net.accepted()).received == 5_000);
    }
}

#[test]
fn a_router_that_lies_is_not_believed() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program {
        to_send: 100_000,
        ..Program::default()
    });
    net.run_for(SECOND);
    let entry = net.nodes[0].stack.table.get(flow).unwrap();
    let (local, remote) = (entry.local, entry.remote);
    let (_, next) = entry.tcp.as_ref().unwrap().numbers();
    let mut forged = vec![0; 60];
    write_ip_header(local.ip(), remote.ip(), Protocol::Tcp, 20, &mut forged).unwrap();
    forged[40..42].copy_from_slice(&local.port().to_be_bytes());
    forged[42..44].copy_from_slice(&remote.port().to_be_bytes());
    let node = &mut net.nodes[0];
    for number in [next, next.wrapping_add(1_000), next.wrapping_sub(100_000)] {
        forged[44..48].copy_from_slice(&number.to_be_bytes());
        node.stack.handle_packet(
            PEER,
            &too_big(&forged, 1_280, v6(99).into()),
            net.now,
            &mut node.wire,
        );
    }
    assert_eq!(node.stack.counters().unhandled, 3);
    // One byte is under way; a router may say anything about it, down to what every path carries.
    node.stack.send(flow, |room| {
        room[0] = 0;
        (1, ())
    });
    node.stack.transmit(net.now, &mut node.wire);
    forged[44..48].copy_from_slice(&next.to_be_bytes());
    node.stack.handle_packet(
        PEER,
        &too_big(&forged, 10, v6(99).into()),
        net.now,
        &mut node.wire,
    );
    assert_eq!(node.stack.counters().unhandled, 3);
    node.wire.packets.clear();
    node.stack.send(flow, |_| (4_000, ()));
    node.stack.transmit(net.now, &mut node.wire);
    assert_eq!(node.wire.packets[0].1.len(), 1_280);
}

/// What is found out about a path holds for live flows, in what they send again too, and for new ones in
/// both directions.
#[test]
fn a_path_that_is_found_narrow_shortens_what_flows_send() {
    for to in [IpAddr::from(v6(2)), v4(2).into()] {
        let mut net = Net::pair(Link::default());
        let flow = net.connect_to(
            0,
            PEER,
            to,
            Program {
                to_send: 2_000_000,
                ..Program::default()
            },
        );
        net.run_for(Duration::from_millis(5));
        assert!(net.program(1, net.accepted()).received < 2_000_000);
        net.link.loss = 1_000;
        net.run_for(SECOND);
        net.link.loss = 0;
        let node = &mut net.nodes[0];
        node.wire.packets.clear();
        node.stack.set_peer_mtu(PEER, 1_280);
        // Every packet is held to it.
        node.wire.mtu = 1_280;
        net.run_until(30 * SECOND, |net| {
            net.program(1, net.accepted()).received == 2_000_000
        });
        assert_eq!(net.program(0, flow).closed, None);

        net.nodes[1].wire.packets.clear();
        net.nodes[1].wire.mtu = 1_280;
        net.nodes[1].server.to_send = 100_000;
        let other = net.connect_to(0, PEER, to, Program::default());
        net.run_until(30 * SECOND, |net| net.program(0, other).received == 100_000);
    }
}

/// RFC 5681 section 3.2, without waiting for the peer: by then a retransmission has backed off for seconds.
#[test]
fn what_a_narrow_path_has_swallowed_is_sent_again_as_soon_as_it_is_known() {
    // The hole opens in the middle of a transfer; while the first flight is under way; and before a
    // retransmission.
    for (hole, known) in [(5, 9_000), (3, 9_000), (5, 30)] {
        for to in [IpAddr::from(v6(2)), v4(2).into()] {
            let mut net = Net::pair(Link::default());
            let program = Program {
                to_send: 2_000_000,
                ..Program::default()
            };
            let flow = net.connect_to(0, PEER, to, program);
            net.run_for(Duration::from_millis(hole));
            net.link.loss = 1_000;
            net.run_for(Duration::from_millis(known));
            net.link.loss = 0;
            let received = net.program(1, net.accepted()).received;
            assert!(received < 2_000_000);
            let node = &mut net.nodes[0];
            node.wire.packets.clear();
            node.stack.set_peer_mtu(PEER, 1_280);
            node.wire.mtu = 1_280;
            net.run_until(Duration::from_millis(20), |net| {
                net.program(1, net.accepted()).received > received
            });
            net.run_until(SECOND, |net| net.program(1, net.accepted()).received == 2_000_000);
            assert_eq!(net.program(0, flow).closed, None);
        }
    }
}

/// A path that widens, or a peer without data under way, has nothing sent again.
#[test]
fn nothing_is_sent_again_that_was_not_lost() {
    let mut net = Net::pair(Link::default());
    net.connect(Program {
        to_send: 100_000,
        ..Program::default()
    });
    net.run_for(SECOND);
    let sent = net.nodes[0].stack.counters().sent;
    for mtu in [1_340, 1_280, 1_420] {
        net.nodes[0].stack.set_peer_mtu(PEER, mtu);
        net.run_for(SECOND);
    }
    assert_eq!(net.nodes[0].stack.counters().sent, sent);
}
