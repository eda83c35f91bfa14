//! Whatever a peer sends, the stack neither panics nor grows, and other flows go on.

use std::time::Duration;

use proptest::prelude::*;

use super::net::{Link, Net, PORT, Program, settings, v4, v6};
use crate::{
    netstack::{PacketSink, rim::Control},
    packet::{Protocol, TcpFlags, transport_checksum, write_ip_header},
    peer::PeerId,
};

const PEER: PeerId = PeerId::new(0, 0);

/// A TCP segment with any fields, but with addresses that make it interesting.
#[derive(Debug, Clone)]
struct Odd {
    known_ports: bool,
    sequence: u32,
    near: bool,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    offset: u8,
    options: Vec<u8>,
    data: usize,
}

fn odd() -> impl Strategy<Value = Odd> {
    let numbers = (any::<u32>(), any::<bool>(), any::<u32>());
    let rest = (
        any::<u8>(),
        any::<u16>(),
        prop_oneof![4 => Just(0_u8), 1 => any::<u8>()],
    );
    (
        any::<bool>(),
        numbers,
        rest,
        prop::collection::vec(any::<u8>(), 0..40),
        0..3_000_usize,
    )
        .prop_map(
            |(known_ports, (sequence, near, acknowledgement), (flags, window, offset), options, data)| Odd {
                known_ports,
                sequence,
                near,
                acknowledgement,
                flags,
                window,
                offset,
                options,
                data,
            },
        )
}

impl Odd {
    fn write(&self, flow: (std::net::SocketAddr, std::net::SocketAddr), numbers: (u32, u32)) -> Vec<u8> {
        let (local, remote) = flow;
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let length = 20 + options.len() + self.data;
        let mut packet = vec![0; 40 + length];
        let source = remote.ip();
        let ip = write_ip_header(source, local.ip(), Protocol::Tcp, length, &mut packet).unwrap();
        let tcp = &mut packet[ip..];
        let port = if self.known_ports {
            remote.port()
        } else {
            (self.sequence >> 7) as u16
        };
        tcp[..2].copy_from_slice(&port.to_be_bytes());
        tcp[2..4].copy_from_slice(&local.port().to_be_bytes());
        let (mut sequence, mut acknowledgement) = (self.sequence, self.acknowledgement);
        if self.near {
            sequence = numbers.0.wrapping_add(sequence % 5_000).wrapping_sub(2_500);
            acknowledgement = numbers
                .1
                .wrapping_add(acknowledgement % 5_000)
                .wrapping_sub(2_500);
        }
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        tcp[12] = if self.offset == 0 {
            (((20 + options.len()) / 4) << 4) as u8
        } else {
            self.offset
        };
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[20..20 + options.len()].copy_from_slice(&options);
        let sum = transport_checksum(source, local.ip(), Protocol::Tcp, tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn bytes_that_are_no_packet_are_survived(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..50)) {
        let mut net = Net::pair(Link::default());
        let node = &mut net.nodes[0];
        for mut packet in packets {
            node.stack.handle_packet(PEER, &packet, net.now, &mut node.wire);
            if let Some(first) = packet.first_mut() {
                *first = if *first & 1 == 0 { 0x45 } else { 0x60 };
            }
            node.stack.handle_packet(PEER, &packet, net.now, &mut node.wire);
        }
        prop_assert_eq!(node.stack.flows(), 0);
    }

    #[test]
    fn segments_that_make_no_sense_are_survived(
        segments in prop::collection::vec((odd(), 0..2_000_u64), 1..80),
        moment in 0..4_u8,
        sends in 0..200_000_u64,
    ) {
        let mut net = Net::pair(Link::default());
        net.nodes[1].server = Program { to_send: sends, shut: moment == 3, ..Program::default() };
        let flow = net.connect(Program { to_send: sends, shut: moment >= 2, ..Program::default() });
        let healthy = net.connect_to(1, PEER, v6(1).into(), Program { to_send: 50_000, shut: true, ..Program::default() });
        match moment {
            0 => net.step(),
            1 => net.run_for(Duration::from_millis(3)),
            _ => net.run_for(Duration::from_millis(20)),
        }
        for (segment, wait) in segments {
            let node = &mut net.nodes[0];
            let entry = node.stack.table.get(flow);
            let ends = entry.map_or_else(
                || ((v6(1), 20_000).into(), (v6(2), PORT).into()),
                |entry| (entry.local, entry.remote),
            );
            let numbers = entry.and_then(|entry| entry.tcp.as_ref()).map_or((0, 0), |tcp| tcp.numbers());
            let packet = segment.write(ends, numbers);
            node.stack.handle_packet(PEER, &packet, net.now, &mut node.wire);
            let to_port = segment.write(((v6(1), PORT).into(), (v6(2), 30_000).into()), (7, 7));
            node.stack.handle_packet(PEER, &to_port, net.now, &mut node.wire);
            net.run_for(Duration::from_millis(wait / 100));
            // Garbage may end the flow it is for, which is that peer's business; and takes no more than
            // the half-open bound.
            prop_assert!(net.nodes[0].stack.flows() <= 64);
            // Bytes that were made up are not checked against the pattern.
            net.nodes[0].programs.entry(flow).and_modify(|program| program.take = Some(0));
            let incoming: Vec<_> = net.nodes[0].incoming.iter().map(|(flow, ..)| *flow).collect();
            for id in incoming.into_iter().skip(1) {
                net.nodes[0].programs.entry(id).and_modify(|program| program.take = Some(0));
            }
        }
        net.run_until(Duration::from_secs(60), |net| net.program(1, healthy).closed.is_some());
        prop_assert!(net.program(1, healthy).finished);
    }
}

#[test]
fn what_is_not_for_us_is_dropped_and_counted() {
    let mut net = Net::pair(Link::default());
    struct Keep(Vec<u8>);
    impl PacketSink for Keep {
        fn packet(&mut self, _: PeerId, packet: &[u8]) {
            self.0 = packet.to_vec();
        }
        fn ready(&self) -> bool {
            true
        }
    }
    let mut keep = Keep(Vec::new());
    let control = Control {
        source: (v6(2), 1_000).into(),
        destination: (v6(9), PORT).into(),
        sequence: 1,
        acknowledgement: 0,
        flags: TcpFlags::SYN,
        window: 0,
    };
    crate::netstack::rim::Rim::new(1_420).control(&control, PEER, &mut keep);
    let node = &mut net.nodes[0];
    node.stack.handle_packet(PEER, &keep.0, net.now, &mut node.wire);
    assert!(node.wire.packets.is_empty());
    assert_eq!(node.stack.counters().not_ours, 1);

    let mut sctp = vec![0; 48];
    write_ip_header(v6(2).into(), v6(1).into(), Protocol::Other(132), 8, &mut sctp).unwrap();
    node.stack.handle_packet(PEER, &sctp, net.now, &mut node.wire);
    assert_eq!(node.stack.counters().unhandled, 1);
    node.stack.handle_packet(PEER, &[], net.now, &mut node.wire);
    assert_eq!(node.stack.counters().malformed, 1);
    assert!(node.wire.packets.is_empty());
}

#[test]
fn a_stray_segment_is_reset_and_a_reset_is_not_answered() {
    let mut net = Net::pair_of(Link::default(), settings(1), settings(2));
    let flow = net.connect(Program::default());
    net.run_for(Duration::from_secs(1));
    // The other end forgets everything, as after a restart.
    net.nodes[1].stack.remove_peer(PEER);
    while net.nodes[1].stack.poll_event().is_some() {}
    net.nodes[1].programs.clear();
    net.nodes[0].programs.get_mut(&flow).unwrap().to_send = 10;
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.nodes[1].stack.counters().stray, 1);
    assert_eq!(
        net.program(0, flow).closed,
        Some(crate::netstack::CloseReason::Reset)
    );
    assert_eq!(net.nodes[0].stack.counters().stray, 0);
}

/// An acknowledgement of much comes with the longest headers that there are, those of IPv4 and of TCP with
/// all the options that they can have.
#[test]
fn the_longest_headers_are_taken_in_like_others() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program::default();
    let flow = net.connect_to(
        0,
        PEER,
        v4(2).into(),
        Program {
            to_send: 10_000,
            ..Program::default()
        },
    );
    net.run_until(Duration::from_secs(1), |net| net.program(0, flow).sent == 10_000);
    let entry = net.nodes[0].stack.table.get(flow).unwrap();
    let (sequence, acknowledgement) = entry.tcp.as_ref().unwrap().numbers();
    // No-operation options behind both headers.
    let mut packet = [1_u8; 120];
    packet[..20].fill(0);
    packet[60..80].fill(0);
    packet[0] = 0x4f;
    packet[3] = 120;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&v4(2).octets());
    packet[16..20].copy_from_slice(&v4(1).octets());
    packet[60..62].copy_from_slice(&PORT.to_be_bytes());
    packet[62..64].copy_from_slice(&entry.local.port().to_be_bytes());
    packet[64..68].copy_from_slice(&sequence.to_be_bytes());
    packet[68..72].copy_from_slice(&acknowledgement.to_be_bytes());
    packet[72] = 15 << 4;
    packet[73] = TcpFlags::ACK.bits();
    packet[74] = 0xff;
    assert!(net.nodes[0].stack.unacknowledged(flow) > 0);
    let node = &mut net.nodes[0];
    node.stack.handle_packet(PEER, &packet, net.now, &mut node.wire);
    assert_eq!(node.stack.unacknowledged(flow), 0);
}
