//! ICMP echo (RFC 792, RFC 4443): the probe through a lane.

use std::net::IpAddr;

use super::{InvalidPacket, IpPacket, Protocol, checksum, transport_checksum, write_ip_header};

/// The bytes of an echo message before its data.
pub const ECHO_HEADER: usize = 8;

/// Which half of an exchange a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoKind {
    /// Asks for a reply.
    Request,
    /// Answers a request.
    Reply,
}

/// A checked echo message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Request or reply.
    pub kind: EchoKind,
    /// Tells the exchanges of one host apart.
    pub identifier: u16,
    /// Tells the requests of one exchange apart.
    pub sequence: u16,
    /// What the reply has to bring back.
    pub data: &'a [u8],
}

impl<'a> Echo<'a> {
    /// Reads the echo message in a packet.
    ///
    /// # Errors
    /// When the packet carries anything else.
    pub fn parse(packet: &IpPacket<'a>) -> Result<Self, InvalidPacket> {
        let [kind, code, _, _, id, id2, seq, seq2, data @ ..] = packet.payload() else {
            return Err(InvalidPacket::Short);
        };
        let kind = match (packet.protocol(), kind, code) {
            (Protocol::Icmp, 8, 0) | (Protocol::Icmpv6, 128, 0) => EchoKind::Request,
            (Protocol::Icmp, 0, 0) | (Protocol::Icmpv6, 129, 0) => EchoKind::Reply,
            _ => return Err(InvalidPacket::Protocol),
        };
        Ok(Self {
            kind,
            identifier: u16::from_be_bytes([*id, *id2]),
            sequence: u16::from_be_bytes([*seq, *seq2]),
            data,
        })
    }

    /// Writes the message as a packet to the start of `out` and returns its length; `None` when the
    /// families differ or `out` is too small.
    pub fn write(&self, source: IpAddr, destination: IpAddr, out: &mut [u8]) -> Option<usize> {
        let (protocol, kind) = match (source.is_ipv4(), self.kind) {
            (true, EchoKind::Request) => (Protocol::Icmp, 8),
            (true, EchoKind::Reply) => (Protocol::Icmp, 0),
            (false, EchoKind::Request) => (Protocol::Icmpv6, 128),
            (false, EchoKind::Reply) => (Protocol::Icmpv6, 129),
        };
        let length = ECHO_HEADER + self.data.len();
        let header = write_ip_header(source, destination, protocol, length, out)?;
        let message = &mut out[header..header + length];
        message[..4].copy_from_slice(&[kind, 0, 0, 0]);
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        message[ECHO_HEADER..].copy_from_slice(self.data);
        let sum = if protocol == Protocol::Icmp {
            checksum(message)
        } else {
            transport_checksum(source, destination, protocol, message)
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        Some(header + length)
    }
}
