//! Where visitors come in.
//!
//! `accept` (bounds) → `detect` (TLS or not) → a protocol. Every state before a visitor is decided
//! about has a deadline, a byte bound and a cap per address (LESSONS, advisory 7).

mod accept;
mod bind;
mod detect;
pub(crate) mod http;
pub(crate) mod https;
mod metered;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::net::{IpAddr, Ipv6Addr};

pub(crate) use accept::{Admissions, Entry};
pub use bind::BindError;
pub(crate) use bind::{Bound, bind, bind_all, bind_udp};

/// What is counted as one visitor: an IPv4 address, or the /64 of an IPv6 address, of which one
/// visitor has as many addresses as they like.
pub(crate) fn address_group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}
