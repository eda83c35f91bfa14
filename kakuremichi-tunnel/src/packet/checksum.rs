//! The Internet checksum (RFC 1071).
//!
//! Every packet that is sent is summed up, so this is hot. The sum does not depend on the order of
//! bytes within words (section 2 B), so words are taken as the machine has them, eight bytes at a time,
//! and only the result is turned.

use std::net::IpAddr;

use super::Protocol;

/// Independent sums, so that an addition need not wait for the one before.
const LANES: usize = 4;

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
    let protocol = u32::from(protocol.number()).to_be();
    let length = (message.len() as u32).to_be();
    let pseudo = address(source) + address(destination) + u128::from(protocol) + u128::from(length);
    !fold(pseudo + sum(message))
}

/// Adds up the words of `data`, the last one padded with zero.
fn sum(data: &[u8]) -> u128 {
    let mut lanes = [0u128; LANES];
    let (blocks, rest) = data.as_chunks::<{ 8 * LANES }>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        lanes[0] += u128::from(u64::from_ne_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    lanes.iter().sum::<u128>() + u128::from(u64::from_ne_bytes(last))
}

/// Folds the carries in and turns the result.
fn fold(total: u128) -> u16 {
    // Carries of the lanes are few: neither sum overflows.
    let (low, carries) = (total as u64, (total >> 64) as u64);
    let mut total = (low >> 32) + (low & 0xffff_ffff) + carries;
    while total >> 16 != 0 {
        total = (total >> 16) + (total & 0xffff);
    }
    u16::from_be(total as u16)
}
