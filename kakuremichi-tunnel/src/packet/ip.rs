//! IPv4 (RFC 791) and IPv6 (RFC 8200).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{TcpSegment, checksum};

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const HOP_LIMIT: u8 = 64;

/// Why bytes are not a packet that is handled here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPacket {
    /// Fewer bytes than the header, or than a length field says.
    #[error("the packet is cut short")]
    Short,
    /// Neither IPv4 nor IPv6.
    #[error("the packet is of no known IP version")]
    Version,
    /// A header length below its minimum or beyond the packet.
    #[error("a header length is impossible")]
    HeaderLength,
    /// A fragment.
    #[error("the packet is a fragment")]
    Fragment,
    /// Another protocol than the one asked for.
    #[error("the packet is of another protocol")]
    Protocol,
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// ICMP for IPv4.
    Icmp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP for IPv6.
    Icmpv6,
    /// Anything else, by its number.
    Other(u8),
}

impl Protocol {
    /// The number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmpv6 => 58,
            Self::Other(number) => number,
        }
    }

    pub(super) const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            58 => Self::Icmpv6,
            other => Self::Other(other),
        }
    }
}

/// What tells one flow between two hosts from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who sent the packet.
    pub source: SocketAddr,
    /// Whom it is for.
    pub destination: SocketAddr,
}

impl FiveTuple {
    /// The same flow, seen from the other end.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            source: self.destination,
            destination: self.source,
        }
    }
}

/// A checked view of an IP packet. Bytes behind the length that the header names are not part of it.
#[derive(Debug, Clone, Copy)]
pub struct IpPacket<'a> {
    bytes: &'a [u8],
    header: usize,
}

impl<'a> IpPacket<'a> {
    /// Checks the header.
    ///
    /// # Errors
    /// When the bytes are no whole IPv4 or IPv6 packet.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidPacket> {
        let first = *bytes.first().ok_or(InvalidPacket::Short)?;
        match first >> 4 {
            4 => {
                if bytes.len() < V4_HEADER {
                    return Err(InvalidPacket::Short);
                }
                let header = usize::from(first & 0x0f) * 4;
                let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
                if header < V4_HEADER || total < header {
                    return Err(InvalidPacket::HeaderLength);
                }
                // More fragments, or not the first one.
                if u16::from_be_bytes([bytes[6], bytes[7]]) & 0x3fff != 0 {
                    return Err(InvalidPacket::Fragment);
                }
                let bytes = bytes.get(..total).ok_or(InvalidPacket::Short)?;
                Ok(Self { bytes, header })
            }
            6 => {
                if bytes.len() < V6_HEADER {
                    return Err(InvalidPacket::Short);
                }
                let total = V6_HEADER + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
                let bytes = bytes.get(..total).ok_or(InvalidPacket::Short)?;
                Ok(Self {
                    bytes,
                    header: V6_HEADER,
                })
            }
            _ => Err(InvalidPacket::Version),
        }
    }

    /// The whole packet.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The length of the IP header.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.header
    }

    /// What follows the IP header.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header..]
    }

    /// Who sent it.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        if self.is_v4() { self.v4(12) } else { self.v6(8) }
    }

    /// Whom it is for.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        if self.is_v4() { self.v4(16) } else { self.v6(24) }
    }

    /// What it carries.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        Protocol::from_number(self.bytes[if self.is_v4() { 9 } else { 6 }])
    }

    /// The TCP segment it carries.
    ///
    /// # Errors
    /// When it carries something else, or the TCP header is broken.
    pub fn tcp(&self) -> Result<TcpSegment<'a>, InvalidPacket> {
        if self.protocol() != Protocol::Tcp {
            return Err(InvalidPacket::Protocol);
        }
        TcpSegment::parse(self.payload())
    }

    /// The flow it belongs to.
    ///
    /// # Errors
    /// When it carries neither TCP nor UDP, or not even the ports of it.
    pub fn five_tuple(&self) -> Result<FiveTuple, InvalidPacket> {
        let protocol = self.protocol();
        if !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
            return Err(InvalidPacket::Protocol);
        }
        let &[a, b, c, d, ..] = self.payload() else {
            return Err(InvalidPacket::Short);
        };
        Ok(FiveTuple {
            protocol,
            source: SocketAddr::new(self.source(), u16::from_be_bytes([a, b])),
            destination: SocketAddr::new(self.destination(), u16::from_be_bytes([c, d])),
        })
    }

    fn is_v4(&self) -> bool {
        self.bytes[0] >> 4 == 4
    }

    fn v4(&self, at: usize) -> IpAddr {
        let b = &self.bytes[at..at + 4];
        Ipv4Addr::new(b[0], b[1], b[2], b[3]).into()
    }

    fn v6(&self, at: usize) -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.bytes[at..at + 16]);
        Ipv6Addr::from(octets).into()
    }
}

/// Who sent a packet, whole or a fragment; `None` when there is not even a header.
#[must_use]
pub fn source_address(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let octets: [u8; 4] = packet.get(..V4_HEADER)?[12..16].try_into().ok()?;
            Some(octets.into())
        }
        6 => {
            let octets: [u8; 16] = packet.get(..V6_HEADER)?[8..24].try_into().ok()?;
            Some(octets.into())
        }
        _ => None,
    }
}

/// Writes an IP header for `payload` bytes of `protocol` to the start of `out` and returns its
/// length; `None` when the families differ, `out` has no room for header and payload, or the length
/// does not fit its field.
pub fn write_ip_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    payload: usize,
    out: &mut [u8],
) -> Option<usize> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(V4_HEADER + payload).ok()?;
            let header = out.get_mut(..usize::from(total))?.get_mut(..V4_HEADER)?;
            header.fill(0);
            header[0] = 0x45;
            header[2..4].copy_from_slice(&total.to_be_bytes());
            header[6] = 0x40; // do not fragment
            header[8] = HOP_LIMIT;
            header[9] = protocol.number();
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let sum = checksum(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            Some(V4_HEADER)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = u16::try_from(payload).ok()?;
            let header = out.get_mut(..V6_HEADER + payload)?.get_mut(..V6_HEADER)?;
            header.fill(0);
            header[0] = 0x60;
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header[6] = protocol.number();
            header[7] = HOP_LIMIT;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&destination.octets());
            Some(V6_HEADER)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}
