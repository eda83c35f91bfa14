//! Checked views of the packets that travel inside a tunnel.
//!
//! A view borrows the bytes and is made by a `parse` that checks every length, so that reading a
//! field afterwards cannot fail. Checksums are not verified: what arrives here was authenticated by
//! the AEAD of the tunnel. What is written here always carries valid ones, for peers that verify.
//!
//! Extension headers of IPv6 and fragments do not occur inside a tunnel whose MTU both ends know; a
//! fragment is refused, and a packet with extension headers is of a protocol that nobody handles.

mod checksum;
mod coalesce;
mod echo;
mod ip;
mod tcp;

pub use checksum::{checksum, transport_checksum};
pub use coalesce::{Coalescer, MAX_COALESCED};
pub use echo::{ECHO_HEADER, Echo, EchoKind};
pub use ip::{FiveTuple, InvalidPacket, IpPacket, Protocol, write_ip_header};
pub use tcp::{TcpFlags, TcpSegment};

#[cfg(test)]
mod tests;
