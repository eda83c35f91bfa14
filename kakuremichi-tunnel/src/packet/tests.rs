use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::peer::PeerId;

const PEER: PeerId = PeerId::new(0, 0);

/// A TCP packet with valid checksums.
fn tcp_packet(source: SocketAddr, destination: SocketAddr, sequence: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 40 + 20 + data.len()];
    let at = write_ip_header(
        source.ip(),
        destination.ip(),
        Protocol::Tcp,
        20 + data.len(),
        &mut out,
    )
    .unwrap();
    out.truncate(at + 20 + data.len());
    let tcp = &mut out[at..];
    tcp[..2].copy_from_slice(&source.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&destination.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&7u32.to_be_bytes());
    tcp[12] = 0x50;
    tcp[13] = flags;
    tcp[14..16].copy_from_slice(&1000u16.to_be_bytes());
    tcp[20..].copy_from_slice(data);
    let sum = transport_checksum(source.ip(), destination.ip(), Protocol::Tcp, tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    out
}

fn v6(port: u16) -> SocketAddr {
    SocketAddr::new("fd00::1".parse().unwrap(), port)
}

fn v4(port: u16) -> SocketAddr {
    SocketAddr::new("100.64.0.1".parse().unwrap(), port)
}

/// Runs packets through a coalescer as one batch.
fn coalesce(packets: &[(PeerId, Vec<u8>)]) -> Vec<(PeerId, Vec<u8>)> {
    let mut out = Vec::new();
    let mut coalescer = Coalescer::new();
    for (peer, packet) in packets {
        coalescer.slot()[..packet.len()].copy_from_slice(packet);
        coalescer.commit(Some((*peer, packet.len())), |peer, packet| {
            out.push((peer, packet.to_vec()))
        });
    }
    coalescer.flush(|peer, packet| out.push((peer, packet.to_vec())));
    out
}

#[test]
fn checksum_is_that_of_the_rfc() {
    // RFC 1071, section 3: the sum of these words is ddf2.
    assert_eq!(
        checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
        !0xddf2
    );
    assert_eq!(checksum(&[]), 0xffff);
    assert_eq!(checksum(&[0xff; 3]), !0xff00);
}

proptest! {
    /// Against the definition: 16-bit words, carries added at the end.
    #[test]
    fn checksums_agree_with_the_definition(data in proptest::collection::vec(any::<u8>(), 0..300), full in any::<bool>()) {
        let data = if full { vec![0xff; data.len()] } else { data };
        let mut sum = 0u32;
        for word in data.chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        prop_assert_eq!(checksum(&data), !(sum as u16));
    }
}

#[test]
fn views_read_what_was_written() {
    for (a, b) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        let bytes = tcp_packet(a, b, 99, 0x18, b"hello");
        let packet = IpPacket::parse(&bytes).unwrap();
        assert_eq!(
            packet.five_tuple().unwrap(),
            FiveTuple {
                protocol: Protocol::Tcp,
                source: a,
                destination: b
            }
        );
        let tcp = packet.tcp().unwrap();
        assert_eq!(
            (tcp.sequence(), tcp.acknowledgement(), tcp.payload()),
            (99, 7, &b"hello"[..])
        );
        assert_eq!(tcp.flags(), TcpFlags::ACK.union(TcpFlags::PSH));
        let sum = transport_checksum(
            packet.source(),
            packet.destination(),
            Protocol::Tcp,
            packet.payload(),
        );
        assert_eq!(sum, 0, "a message with its checksum sums to nothing");
    }
}

#[test]
fn an_echo_request_is_answered_with_its_data() {
    for address in [v4(0).ip(), v6(0).ip()] {
        let mut out = [0; 128];
        let request = Echo {
            kind: EchoKind::Request,
            identifier: 5,
            sequence: 6,
            data: b"12345678",
        };
        let length = request.write(address, address, &mut out).unwrap();
        let packet = IpPacket::parse(&out[..length]).unwrap();
        assert_eq!(Echo::parse(&packet), Ok(request));
        assert_eq!(request.write(address, address, &mut [0; 20]), None);
    }
    let other: IpAddr = v6(0).ip();
    let echo = Echo {
        kind: EchoKind::Reply,
        identifier: 0,
        sequence: 0,
        data: &[],
    };
    assert_eq!(echo.write(v4(0).ip(), other, &mut [0; 99]), None);
}

#[test]
fn fragments_are_refused() {
    let mut bytes = tcp_packet(v4(1), v4(2), 0, 0x10, b"x");
    bytes[6] = 0x20;
    assert_eq!(IpPacket::parse(&bytes).unwrap_err(), InvalidPacket::Fragment);
}

#[test]
fn segments_in_order_become_one() {
    for (a, b) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        let parts: Vec<_> = (0..5u32)
            .map(|i| {
                (
                    PEER,
                    tcp_packet(a, b, 100 + i * 4, if i == 4 { 0x18 } else { 0x10 }, &[i as u8; 4]),
                )
            })
            .collect();
        let joined = coalesce(&parts);
        assert_eq!(joined.len(), 1);
        let packet = IpPacket::parse(&joined[0].1).unwrap();
        assert_eq!(packet.as_bytes().len(), joined[0].1.len());
        let tcp = packet.tcp().unwrap();
        assert_eq!(tcp.sequence(), 100);
        assert_eq!(
            tcp.flags(),
            TcpFlags::ACK.union(TcpFlags::PSH),
            "the newest flags count"
        );
        let data: Vec<u8> = (0..5).flat_map(|i| [i; 4]).collect();
        assert_eq!(tcp.payload(), data);
        if a.is_ipv4() {
            assert_eq!(checksum(&joined[0].1[..20]), 0);
        }
    }
}

#[test]
fn nothing_is_joined_across_flows_peers_gaps_or_flags() {
    let (a, b) = (v6(1), v6(2));
    let first = (PEER, tcp_packet(a, b, 0, 0x10, b"aaaa"));
    let others = [
        (PeerId::new(1, 0), tcp_packet(a, b, 4, 0x10, b"bbbb")),
        (PEER, tcp_packet(v6(3), b, 4, 0x10, b"bbbb")),
        (PEER, tcp_packet(a, b, 5, 0x10, b"bbbb")),
        (PEER, tcp_packet(a, b, 4, 0x11, b"bbbb")),
        (PEER, tcp_packet(a, b, 4, 0x10, b"bbbbb")),
        (PEER, tcp_packet(a, b, 4, 0x10, b"")),
        (PEER, tcp_packet(v4(1), v4(2), 4, 0x10, b"bbbb")),
    ];
    for other in others {
        let packets = [first.clone(), other];
        assert_eq!(coalesce(&packets), packets);
    }
}

#[test]
fn a_packet_that_failed_to_open_leaves_the_pending_one_whole() {
    let mut out = Vec::new();
    let mut coalescer = Coalescer::new();
    let packet = tcp_packet(v6(1), v6(2), 0, 0x10, b"aaaa");
    coalescer.slot()[..packet.len()].copy_from_slice(&packet);
    coalescer.commit(Some((PEER, packet.len())), |_, _| unreachable!());
    coalescer.slot()[..100].fill(0xee);
    coalescer.commit(None, |_, _| unreachable!());
    coalescer.flush(|_, packet| out.extend_from_slice(packet));
    assert_eq!(out, packet);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(packet) = IpPacket::parse(&bytes) {
            let _ = (packet.source(), packet.destination(), packet.protocol(), packet.five_tuple());
            let _ = Echo::parse(&packet);
            if let Ok(tcp) = packet.tcp() {
                let _ = (tcp.flags(), tcp.payload(), tcp.sequence());
            }
        }
    }

    /// Whatever the cutting and the losses, the data of a flow comes out in the order it went in.
    #[test]
    fn coalescing_neither_loses_nor_invents(
        cuts in proptest::collection::vec((0u8..3, 1usize..80, any::<bool>(), any::<bool>()), 1..60),
        garbage in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut next = [0u32, u32::MAX - 50, 9];
        let mut packets = Vec::new();
        for (flow, length, pushed, dropped) in cuts {
            let flow = usize::from(flow);
            let data: Vec<u8> = (0..length).map(|i| next[flow].wrapping_add(i as u32) as u8).collect();
            let port = flow as u16 + 1;
            let address = if flow == 1 { v4 } else { v6 };
            let flags = if pushed { 0x18 } else { 0x10 };
            if !dropped {
                packets.push((PEER, tcp_packet(address(port), address(9), next[flow], flags, &data)));
            }
            next[flow] = next[flow].wrapping_add(length as u32);
        }
        packets.push((PEER, garbage));
        let flat = |packets: &[(PeerId, Vec<u8>)]| {
            let mut bytes = Vec::new();
            for (_, packet) in packets {
                let Ok(view) = IpPacket::parse(packet) else { continue };
                let Ok(tcp) = view.tcp() else { continue };
                for (i, byte) in tcp.payload().iter().enumerate() {
                    bytes.push((view.five_tuple().unwrap(), tcp.sequence().wrapping_add(i as u32), *byte));
                }
            }
            // Stable: keeps the order within each flow.
            bytes.sort_by_key(|(flow, _, _)| *flow);
            bytes
        };
        prop_assert_eq!(flat(&packets), flat(&coalesce(&packets)));
    }
}
