//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

use super::Protocol;

/// The Internet checksum of `data`, ready to be stored in a header.
#[must_use]
pub fn checksum(data: &[u8]) -> u16 {
    !fold(sum(data))
}

/// The checksum of a TCP, UDP or ICMPv6 message, pseudo header included (RFC 9293, RFC 8200
/// section 8.1); the message's own checksum field must be zero. Addresses of two families give that
/// of neither, so a caller passes the two of one packet.
#[must_use]
pub fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: Protocol, message: &[u8]) -> u16 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    };
    let pseudo = address(source) + address(destination) + u64::from(protocol.number()) + message.len() as u64;
    !fold(pseudo + sum(message))
}

/// Adds up big-endian 16-bit words, the last one padded with zero. Eight bytes at a time: the sum of
/// 32-bit halves folds to the same value.
fn sum(data: &[u8]) -> u64 {
    let mut total = 0u64;
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        let word = u64::from_be_bytes(*word);
        total += (word >> 32) + (word & 0xffff_ffff);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let word = u64::from_be_bytes(last);
    total + (word >> 32) + (word & 0xffff_ffff)
}

/// Folds the carries in. The result fits, since four rounds bring any `u64` below 2^16.
fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}
