//! UDP (RFC 768).

use std::net::SocketAddr;

use super::{InvalidPacket, Protocol, transport_checksum, write_ip_header};

/// The bytes of a datagram before its data.
pub const UDP_HEADER: usize = 8;

/// A checked UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpDatagram<'a> {
    bytes: &'a [u8],
}

impl<'a> UdpDatagram<'a> {
    /// Checks the header at the start of what an IP packet carries. Bytes behind the length that the
    /// header names are not part of the datagram.
    ///
    /// # Errors
    /// When the bytes are no whole datagram.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidPacket> {
        let &[_, _, _, _, high, low, _, _, ..] = bytes else {
            return Err(InvalidPacket::Short);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < UDP_HEADER {
            return Err(InvalidPacket::HeaderLength);
        }
        let bytes = bytes.get(..length).ok_or(InvalidPacket::Short)?;
        Ok(Self { bytes })
    }

    /// The sender's port.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    /// The receiver's port.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    /// The data.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[UDP_HEADER..]
    }

    /// Whether the checksum is right, for what several packets brought: the AEAD authenticated each, but
    /// not that they belong together. IPv4 may do without a checksum, then it is right.
    #[must_use]
    pub fn verify(&self, source: std::net::IpAddr, destination: std::net::IpAddr) -> bool {
        let absent = self.bytes[6..8] == [0, 0];
        if absent {
            return source.is_ipv4();
        }
        // With the right checksum in its place the sum over everything folds to zero.
        transport_checksum(source, destination, Protocol::Udp, self.bytes) == 0
    }
}

/// Writes a packet with a UDP datagram, `head` and `data` behind each other, to the start of `out` and
/// returns its length. `None` when the families differ, or `out` or the length fields are too small.
pub fn write_udp(
    source: SocketAddr,
    destination: SocketAddr,
    head: &[u8],
    data: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let length = UDP_HEADER + head.len() + data.len();
    let field = u16::try_from(length).ok()?;
    let header = write_ip_header(source.ip(), destination.ip(), Protocol::Udp, length, out)?;
    let datagram = out.get_mut(header..header + length)?;
    datagram[0..2].copy_from_slice(&source.port().to_be_bytes());
    datagram[2..4].copy_from_slice(&destination.port().to_be_bytes());
    datagram[4..6].copy_from_slice(&field.to_be_bytes());
    datagram[6..8].fill(0);
    datagram[UDP_HEADER..UDP_HEADER + head.len()].copy_from_slice(head);
    datagram[UDP_HEADER + head.len()..].copy_from_slice(data);
    let sum = match transport_checksum(source.ip(), destination.ip(), Protocol::Udp, datagram) {
        // Zero means that there is none (RFC 768); all ones is the same sum.
        0 => u16::MAX,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    Some(header + length)
}
