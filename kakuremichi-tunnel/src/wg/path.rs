//! Where a datagram goes outside of the tunnel.

use std::net::{IpAddr, SocketAddr};

/// The two ends of the way that a datagram takes outside of the tunnel.
///
/// A host with several addresses has to answer from the one that was written to: a NAT between, and
/// the peer's firewall, wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OuterPath {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Our address; without one the system chooses.
    pub local: Option<IpAddr>,
}

impl From<SocketAddr> for OuterPath {
    /// Our address is the system's choice.
    fn from(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}
