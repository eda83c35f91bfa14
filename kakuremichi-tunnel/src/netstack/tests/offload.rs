//! Cutting at the rim, and what comes in joined.

use std::time::Duration;

use super::net::{Link, Net, Program, byte};
use crate::{
    netstack::rim::SUPER_SEGMENTS,
    packet::{IpPacket, TcpFlags},
};

#[test]
fn a_large_segment_is_cut_into_full_packets_that_follow_each_other() {
    let mut net = Net::pair(Link {
        delay: Duration::from_micros(100),
        ..Link::default()
    });
    let flow = net.connect(Program {
        to_send: 3_000_000,
        ..Program::default()
    });
    // Until the congestion window is open.
    let received = |net: &Net| {
        net.nodes[1]
            .programs
            .values()
            .map(|program| program.received)
            .sum::<u64>()
    };
    net.run_until(Duration::from_secs(1), |net| received(net) == 3_000_000);
    let node = &mut net.nodes[0];
    let mut filled = 0;
    while filled < SUPER_SEGMENTS * 1_360 {
        let piece = node.stack.send(flow, |room| {
            for (index, slot) in room.iter_mut().enumerate() {
                *slot = byte(3_000_000 + (filled + index) as u64);
            }
            (room.len(), room.len())
        });
        filled += piece.unwrap();
    }
    node.stack.transmit(net.now, &mut node.wire);
    let packets: Vec<_> = node.wire.packets.drain(..).map(|(_, packet)| packet).collect();
    assert!(packets.len() >= SUPER_SEGMENTS, "{}", packets.len());
    let mut expected: Option<u32> = None;
    let mut offset = 3_000_000;
    for (index, packet) in packets.iter().enumerate() {
        let segment = IpPacket::parse(packet).unwrap().tcp().unwrap();
        assert!(expected.is_none_or(|expected| expected == segment.sequence()));
        expected = Some(segment.sequence().wrapping_add(segment.payload().len() as u32));
        if index < SUPER_SEGMENTS {
            assert_eq!(segment.payload().len(), 1_360);
        }
        for received in segment.payload() {
            assert_eq!(*received, byte(offset));
            offset += 1;
        }
    }
}

#[test]
fn the_push_flag_marks_the_last_packet_only() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program::default());
    net.run_for(Duration::from_secs(1));
    let node = &mut net.nodes[0];
    let sent = node.stack.send(flow, |room| {
        for (index, slot) in room[..2_000].iter_mut().enumerate() {
            *slot = byte(index as u64);
        }
        (2_000, 2_000)
    });
    assert_eq!(sent, Some(2_000));
    node.stack.transmit(net.now, &mut node.wire);
    let packets: Vec<_> = node.wire.packets.drain(..).map(|(_, packet)| packet).collect();
    let flags: Vec<_> = packets
        .iter()
        .map(|packet| IpPacket::parse(packet).unwrap().tcp().unwrap().flags())
        .collect();
    assert_eq!(flags, [TcpFlags::ACK, TcpFlags::ACK.union(TcpFlags::PSH)]);
}
