//! The packets it writes and answers.

use kakuremichi_proto::flow::FlowReply;

use super::Hostile;
use crate::packet::{Echo, EchoKind, IpPacket, Protocol, TcpFlags, transport_checksum, write_ip_header};

const HEADER: usize = 20;
/// The first number of each of its flows that the gateway opens.
const FIRST: u32 = 7;

/// What a segment says.
struct Segment<'a> {
    ports: (u16, u16),
    sequence: u32,
    acknowledgement: u32,
    flags: TcpFlags,
    window: u16,
    data: &'a [u8],
}

impl Hostile {
    pub(super) fn send_segment(&mut self, from: u16, to: u16, flags: TcpFlags, sequence: u32, data: &[u8]) {
        self.send_tcp(&Segment {
            ports: (from, to),
            sequence,
            acknowledgement: 0,
            flags,
            window: u16::MAX,
            data,
        });
    }

    fn send_tcp(&mut self, segment: &Segment<'_>) {
        let (own, other) = (self.place.own, self.place.overlay);
        let length = HEADER + segment.data.len();
        let Some(at) = write_ip_header(own, other, Protocol::Tcp, length, &mut self.packet) else {
            return;
        };
        let tcp = &mut self.packet[at..at + length];
        tcp[..HEADER].fill(0);
        tcp[0..2].copy_from_slice(&segment.ports.0.to_be_bytes());
        tcp[2..4].copy_from_slice(&segment.ports.1.to_be_bytes());
        tcp[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&segment.acknowledgement.to_be_bytes());
        tcp[12] = (HEADER as u8 / 4) << 4;
        tcp[13] = segment.flags.bits();
        tcp[14..16].copy_from_slice(&segment.window.to_be_bytes());
        tcp[HEADER..].copy_from_slice(segment.data);
        let sum = transport_checksum(own, other, Protocol::Tcp, tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        self.send(at + length);
    }

    /// Answers a packet of the gateway's.
    pub(super) fn answer(&mut self, packet: &[u8]) {
        let Ok(packet) = IpPacket::parse(packet) else {
            return;
        };
        if packet.protocol() == Protocol::Tcp {
            return self.answer_segment(&packet);
        }
        let Ok(echo) = Echo::parse(&packet) else { return };
        if echo.kind == EchoKind::Request {
            let reply = Echo {
                kind: EchoKind::Reply,
                ..echo
            };
            let (own, other) = (self.place.own, self.place.overlay);
            if let Some(length) = reply.write(own, other, &mut self.packet) {
                self.send(length);
            }
        }
    }

    fn answer_segment(&mut self, packet: &IpPacket<'_>) {
        let Ok(segment) = packet.tcp() else { return };
        let flags = segment.flags();
        let ports = (segment.destination_port(), segment.source_port());
        let answer = |flags, sequence, acknowledgement, window, data| Segment {
            ports,
            sequence,
            acknowledgement,
            flags,
            window,
            data,
        };
        let next = segment.sequence().wrapping_add(1);
        if flags.contains(TcpFlags::RST) {
            self.heard.resets += 1;
        } else if flags.contains(TcpFlags::SYN.union(TcpFlags::ACK)) {
            self.heard.accepted += 1;
            if self.completes {
                let number = segment.acknowledgement();
                self.send_tcp(&answer(TcpFlags::ACK, number, next, u16::MAX, &[]));
            }
        } else if flags.contains(TcpFlags::SYN) {
            self.heard.taken += 1;
            let both = TcpFlags::SYN.union(TcpFlags::ACK);
            self.send_tcp(&answer(both, FIRST, next, u16::MAX, &[]));
        } else if !segment.payload().is_empty() {
            // It says that it is connected, and has no room for anything more.
            let end = segment.sequence().wrapping_add(segment.payload().len() as u32);
            let reply = FlowReply::Connected.encode();
            self.send_tcp(&answer(TcpFlags::ACK, FIRST + 1, end, 0, &reply));
        }
    }
}
