//! Fragments of IPv4 (RFC 791) and IPv6 (RFC 8200 section 4.5): datagrams that are longer than the
//! tunnel's MTU travel in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{InvalidPacket, Protocol, checksum};

/// The number of IPv6's fragment header.
const FRAGMENT_HEADER: u8 = 44;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
/// An IPv6 header and a fragment header.
const V6_HEADERS: usize = V6_HEADER + 8;
/// Offsets count in units of so many bytes.
const UNIT: usize = 8;

/// A part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// What the whole carries.
    pub protocol: Protocol,
    /// Tells the fragments of one packet from those of another.
    pub identification: u32,
    /// Where the data belongs in what the whole carries, in bytes.
    pub offset: usize,
    /// Whether there is more behind it.
    pub more: bool,
    /// The data.
    pub data: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Reads a packet that is a fragment.
    ///
    /// # Errors
    /// When it is none, or its data would not fit a packet.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidPacket> {
        let fragment = match bytes.first().ok_or(InvalidPacket::Short)? >> 4 {
            4 => Self::parse_v4(bytes)?,
            6 => Self::parse_v6(bytes)?,
            _ => return Err(InvalidPacket::Version),
        };
        let end = fragment.offset + fragment.data.len();
        let whole = !fragment.more && fragment.offset == 0;
        let ragged = fragment.more && !fragment.data.len().is_multiple_of(UNIT);
        if fragment.data.is_empty() || whole || ragged || end > usize::from(u16::MAX) {
            return Err(InvalidPacket::Fragment);
        }
        Ok(fragment)
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, InvalidPacket> {
        if bytes.len() < V4_HEADER {
            return Err(InvalidPacket::Short);
        }
        let header = usize::from(bytes[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if header < V4_HEADER || total < header {
            return Err(InvalidPacket::HeaderLength);
        }
        let data = bytes.get(header..total).ok_or(InvalidPacket::Short)?;
        let place = u16::from_be_bytes([bytes[6], bytes[7]]);
        let address = |at: usize| {
            IpAddr::from(Ipv4Addr::new(
                bytes[at],
                bytes[at + 1],
                bytes[at + 2],
                bytes[at + 3],
            ))
        };
        Ok(Self {
            source: address(12),
            destination: address(16),
            protocol: Protocol::from_number(bytes[9]),
            identification: u32::from(u16::from_be_bytes([bytes[4], bytes[5]])),
            offset: usize::from(place & 0x1fff) * UNIT,
            more: place & 0x2000 != 0,
            data,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, InvalidPacket> {
        if bytes.len() < V6_HEADERS {
            return Err(InvalidPacket::Short);
        }
        if bytes[6] != FRAGMENT_HEADER {
            return Err(InvalidPacket::Fragment);
        }
        let total = V6_HEADER + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        let data = bytes.get(V6_HEADERS..total).ok_or(InvalidPacket::Short)?;
        let place = u16::from_be_bytes([bytes[42], bytes[43]]);
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&bytes[at..at + 16]);
            IpAddr::from(Ipv6Addr::from(octets))
        };
        Ok(Self {
            source: address(8),
            destination: address(24),
            protocol: Protocol::from_number(bytes[40]),
            identification: u32::from_be_bytes([bytes[44], bytes[45], bytes[46], bytes[47]]),
            offset: usize::from(place & 0xfff8),
            more: place & 1 != 0,
            data,
        })
    }

    /// Whether a packet is a fragment, as far as its first bytes tell.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => bytes
                .get(6..8)
                .is_some_and(|place| place[0] & 0x3f != 0 || place[1] != 0),
            Some(6) => bytes.get(6) == Some(&FRAGMENT_HEADER),
            _ => false,
        }
    }
}

/// Cuts a packet that [`write_ip_header`](super::write_ip_header) began into fragments of at most `mtu`
/// bytes, which is at least 576, written one after the other to the start of `out`, which has room for
/// one.
pub fn fragment(packet: &[u8], mtu: usize, identification: u32, out: &mut [u8], mut each: impl FnMut(&[u8])) {
    let v4 = packet[0] >> 4 == 4;
    let (header, headers) = if v4 {
        (V4_HEADER, V4_HEADER)
    } else {
        (V6_HEADER, V6_HEADERS)
    };
    let data = &packet[header..];
    let step = (mtu - headers) / UNIT * UNIT;
    let mut offset = 0;
    while offset < data.len() {
        let part = step.min(data.len() - offset);
        let more = offset + part < data.len();
        let length = headers + part;
        out[..header].copy_from_slice(&packet[..header]);
        if v4 {
            out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            out[4..6].copy_from_slice(&(identification as u16).to_be_bytes());
            let place = (offset / UNIT) as u16 | if more { 0x2000 } else { 0 };
            out[6..8].copy_from_slice(&place.to_be_bytes());
            out[10..12].fill(0);
            let sum = checksum(&out[..header]);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            out[4..6].copy_from_slice(&((length - header) as u16).to_be_bytes());
            out[6] = FRAGMENT_HEADER;
            out[40..42].copy_from_slice(&[packet[6], 0]);
            out[42..44].copy_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
            out[44..48].copy_from_slice(&identification.to_be_bytes());
        }
        out[headers..length].copy_from_slice(&data[offset..offset + part]);
        each(&out[..length]);
        offset += part;
    }
}
