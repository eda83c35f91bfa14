//! Checked views of the packets that travel inside a tunnel.
//!
//! A view borrows the bytes and is made by a `parse` that checks every length, so that reading a
//! field afterwards cannot fail. Checksums are not verified: what arrives here was authenticated by
//! the AEAD of the tunnel. What is written here always carries valid ones, for peers that verify.
//!
//! Extension headers of IPv6 do not occur inside a tunnel, and a packet with them is of a protocol that
//! nobody handles. Fragments do occur, of datagrams that are longer than the MTU: an [`IpPacket`] is none,
//! a [`Fragment`] is.

mod checksum;
mod coalesce;
mod echo;
mod fragment;
mod ip;
mod tcp;
mod udp;

pub use checksum::{checksum, transport_checksum};
pub use coalesce::{Coalescer, MAX_COALESCED};
pub use echo::{ECHO_HEADER, Echo, EchoKind};
pub use fragment::{Fragment, fragment};
pub use ip::{FiveTuple, InvalidPacket, IpPacket, Protocol, source_address, write_ip_header};
pub use tcp::{TcpFlags, TcpSegment};
pub use udp::{UDP_HEADER, UdpDatagram, write_udp};

#[cfg(test)]
mod tests;
