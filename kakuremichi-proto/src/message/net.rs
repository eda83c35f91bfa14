//! Addresses and identifiers.

use serde::{Deserialize, Serialize};

/// An IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ip {
    /// IPv4.
    V4([u8; 4]),
    /// IPv6.
    V6([u8; 16]),
}

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cidr {
    /// The first address.
    pub address: Ip,
    /// The prefix length in bits.
    pub length: u8,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    /// A name.
    Name(String),
    /// An address.
    Address(Ip),
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// An address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketAddress {
    /// The address.
    pub address: Ip,
    /// The port.
    pub port: u16,
}

/// A node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeId {
    /// An agent.
    Agent([u8; 16]),
    /// A gateway.
    Gateway([u8; 16]),
}

/// A peer of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerId {
    /// An agent.
    Agent([u8; 16]),
    /// A stock WireGuard device.
    Site([u8; 16]),
}

/// The far end of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaneEnd {
    /// An agent.
    Agent([u8; 16]),
    /// A gateway.
    Gateway([u8; 16]),
    /// A stock WireGuard device.
    Site([u8; 16]),
}

/// Whom a message is about, and in which session it is said. A message about another node than the
/// channel's breaks the protocol; one of an earlier session was sent again, and is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The node.
    pub node: NodeId,
    /// The number of the session.
    pub session: u64,
}
