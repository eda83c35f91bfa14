//! ICMP: echo, answered and sent as a probe, and packets that were too big further on.

use std::net::{IpAddr, SocketAddr};

use super::{
    Event, PacketSink, PingError, Stack,
    flow::Key,
    rim::{IPV4_HEADER, IPV6_HEADER, TCP_HEADER, be32},
    stack::is_host,
};
use crate::{
    packet::{Echo, EchoKind, IpPacket, Protocol},
    peer::PeerId,
};

/// How many echo replies wait to be polled at most. Beyond, they are dropped and counted.
pub(super) const MAX_PONGS: usize = 1_024;

impl Stack {
    /// Sends an ICMP echo request; [`Event::Pong`] follows if it is answered. The stack keeps no
    /// record of it: time and match the answer by what it brings back.
    ///
    /// # Errors
    /// When the stack has no address of that family, or the payload is too long.
    pub fn ping(
        &mut self,
        peer: PeerId,
        destination: IpAddr,
        identifier: u16,
        sequence: u16,
        payload: &[u8],
        sink: &mut (impl PacketSink + ?Sized),
    ) -> Result<(), PingError> {
        let source = match destination {
            IpAddr::V4(_) => self.settings.ipv4.map(IpAddr::from),
            IpAddr::V6(_) => self.settings.ipv6.map(IpAddr::from),
        };
        let source = source.ok_or(PingError::NoAddress)?;
        let echo = Echo {
            kind: EchoKind::Request,
            identifier,
            sequence,
            data: payload,
        };
        if self.rim.echo(&echo, source, destination, peer, sink) {
            Ok(())
        } else {
            Err(PingError::TooLong)
        }
    }

    pub(super) fn handle_icmp(
        &mut self,
        peer: PeerId,
        packet: &IpPacket<'_>,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        let (source, destination) = (packet.source(), packet.destination());
        if !self.is_ours(destination) {
            self.counters.not_ours += 1;
            return;
        }
        let Ok(echo) = Echo::parse(packet) else {
            if !self.handle_too_big(peer, packet) {
                self.counters.unhandled += 1;
            }
            return;
        };
        match echo.kind {
            EchoKind::Request => {
                let reply = Echo {
                    kind: EchoKind::Reply,
                    ..echo
                };
                if is_host(source) && self.rim.echo(&reply, destination, source, peer, sink) {
                    self.counters.echoed += 1;
                }
            }
            EchoKind::Reply if self.pongs < MAX_PONGS => {
                let mut payload = [0; 8];
                for (to, from) in payload.iter_mut().zip(echo.data) {
                    *to = *from;
                }
                self.pongs += 1;
                let (identifier, sequence) = (echo.identifier, echo.sequence);
                self.events.push_back(Event::Pong {
                    peer,
                    from: source,
                    identifier,
                    sequence,
                    payload,
                });
            }
            EchoKind::Reply => self.counters.lost_pongs += 1,
        }
    }

    /// Packet too big (RFC 8201; RFC 1191 for IPv4), from a router behind the peer: the flow it is about
    /// sends shorter packets from now on. Returns whether it was one about a flow.
    fn handle_too_big(&mut self, peer: PeerId, packet: &IpPacket<'_>) -> bool {
        let message = packet.payload();
        let v4 = packet.protocol() == Protocol::Icmp;
        let (mtu, quoted) = match message {
            [3, 4, _, _, _, _, high, low, ..] if v4 => {
                (u32::from(u16::from_be_bytes([*high, *low])), &message[8..])
            }
            [2, _, _, _, ..] if !v4 && message.len() >= 8 => (be32(message, 4), &message[8..]),
            _ => return false,
        };
        // The start of a packet of ours: its headers up to the sequence number.
        let header = if v4 { IPV4_HEADER } else { IPV6_HEADER };
        let least = if v4 { 0x45 } else { 0x60 };
        if quoted.len() < header + 8 || quoted[0] & 0xf0 != least & 0xf0 || (v4 && quoted[0] != least) {
            return false;
        }
        if quoted[if v4 { 9 } else { 6 }] != Protocol::Tcp.number() {
            return false;
        }
        let port = |at: usize| u16::from_be_bytes([quoted[at], quoted[at + 1]]);
        let (local, remote) = if v4 {
            (v4_at(quoted, 12), v4_at(quoted, 16))
        } else {
            (v6_at(quoted, 8), v6_at(quoted, 24))
        };
        let key = Key::new(
            peer,
            SocketAddr::new(local, port(header)),
            SocketAddr::new(remote, port(header + 2)),
        );
        let Some(tcp) = self
            .table
            .find(&key)
            .and_then(|slot| self.table.at_mut(slot))
            .and_then(|flow| flow.tcp.as_mut())
        else {
            return false;
        };
        let mss = (mtu as usize).saturating_sub(header + TCP_HEADER);
        tcp.lower_mss(be32(quoted, header + 4), mss, v4)
    }
}

fn v4_at(bytes: &[u8], at: usize) -> IpAddr {
    IpAddr::from([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn v6_at(bytes: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    IpAddr::from(octets)
}
