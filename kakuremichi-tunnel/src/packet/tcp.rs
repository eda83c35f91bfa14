//! TCP headers (RFC 9293).

use std::fmt;

use super::InvalidPacket;

const HEADER: usize = 20;

/// The control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);

    /// Reads them from a header.
    #[must_use]
    pub const fn new(bits: u8) -> Self {
        Self(bits)
    }

    /// As they stand in the header.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no bit outside of `other` is set.
    #[must_use]
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TcpFlags({:#04x})", self.0)
    }
}

/// A checked view of a TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct TcpSegment<'a> {
    bytes: &'a [u8],
    header: usize,
}

impl<'a> TcpSegment<'a> {
    /// Checks the header at the start of `bytes`, the payload of an IP packet.
    ///
    /// # Errors
    /// When it is cut short, or its data offset is impossible.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidPacket> {
        if bytes.len() < HEADER {
            return Err(InvalidPacket::Short);
        }
        let header = usize::from(bytes[12] >> 4) * 4;
        if header < HEADER || header > bytes.len() {
            return Err(InvalidPacket::HeaderLength);
        }
        Ok(Self { bytes, header })
    }

    /// The port it comes from.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    /// The port it is for.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    /// The sequence number of its first byte.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.bytes[4], self.bytes[5], self.bytes[6], self.bytes[7]])
    }

    /// The next sequence number its sender expects.
    #[must_use]
    pub fn acknowledgement(&self) -> u32 {
        u32::from_be_bytes([self.bytes[8], self.bytes[9], self.bytes[10], self.bytes[11]])
    }

    /// The control bits.
    #[must_use]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.bytes[13])
    }

    /// How much more its sender would receive, before any scaling.
    #[must_use]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.bytes[14], self.bytes[15]])
    }

    /// The length of the header with its options.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.header
    }

    /// The options in the header, padding included.
    #[must_use]
    pub fn options(&self) -> &'a [u8] {
        &self.bytes[HEADER..self.header]
    }

    /// The data it carries.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header..]
    }
}
