//! Addresses and identifiers.

use std::net::{IpAddr, SocketAddr};

use kakuremichi_core::{
    id::{AgentId, GatewayId, NodeId, PeerId, ServiceId, SiteId},
    model::Role,
    net::{Cidr, Endpoint, Host, NetError},
};

use super::{InField, Invalid, list};
use crate::{codec::List, message, report::LaneEnd};

/// The role of a node.
#[must_use]
pub const fn role_of(node: NodeId) -> Role {
    match node {
        NodeId::Agent(_) => Role::Agent,
        NodeId::Gateway(_) => Role::Gateway,
    }
}

pub(crate) fn services<const MAX: usize>(ids: &List<[u8; 16], MAX>) -> Vec<ServiceId> {
    ids.as_slice()
        .iter()
        .map(|id| ServiceId::from_bytes(*id))
        .collect()
}

impl From<Role> for message::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Agent => Self::Agent,
            Role::Gateway => Self::Gateway,
        }
    }
}

impl From<message::Role> for Role {
    fn from(role: message::Role) -> Self {
        match role {
            message::Role::Agent => Self::Agent,
            message::Role::Gateway => Self::Gateway,
        }
    }
}

impl From<NodeId> for message::NodeId {
    fn from(id: NodeId) -> Self {
        match id {
            NodeId::Agent(id) => Self::Agent(*id.as_bytes()),
            NodeId::Gateway(id) => Self::Gateway(*id.as_bytes()),
        }
    }
}

impl From<message::NodeId> for NodeId {
    fn from(id: message::NodeId) -> Self {
        match id {
            message::NodeId::Agent(id) => Self::Agent(AgentId::from_bytes(id)),
            message::NodeId::Gateway(id) => Self::Gateway(GatewayId::from_bytes(id)),
        }
    }
}

impl From<PeerId> for message::PeerId {
    fn from(id: PeerId) -> Self {
        match id {
            PeerId::Agent(id) => Self::Agent(*id.as_bytes()),
            PeerId::Site(id) => Self::Site(*id.as_bytes()),
        }
    }
}

impl From<message::PeerId> for PeerId {
    fn from(id: message::PeerId) -> Self {
        match id {
            message::PeerId::Agent(id) => Self::Agent(AgentId::from_bytes(id)),
            message::PeerId::Site(id) => Self::Site(SiteId::from_bytes(id)),
        }
    }
}

impl From<LaneEnd> for message::LaneEnd {
    fn from(end: LaneEnd) -> Self {
        match end {
            LaneEnd::Agent(id) => Self::Agent(*id.as_bytes()),
            LaneEnd::Gateway(id) => Self::Gateway(*id.as_bytes()),
            LaneEnd::Site(id) => Self::Site(*id.as_bytes()),
        }
    }
}

impl From<message::LaneEnd> for LaneEnd {
    fn from(end: message::LaneEnd) -> Self {
        match end {
            message::LaneEnd::Agent(id) => Self::Agent(AgentId::from_bytes(id)),
            message::LaneEnd::Gateway(id) => Self::Gateway(GatewayId::from_bytes(id)),
            message::LaneEnd::Site(id) => Self::Site(SiteId::from_bytes(id)),
        }
    }
}

impl From<IpAddr> for message::Ip {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => Self::V6(v6.octets()),
        }
    }
}

impl From<message::Ip> for IpAddr {
    fn from(address: message::Ip) -> Self {
        match address {
            message::Ip::V4(octets) => Self::from(octets),
            message::Ip::V6(octets) => Self::from(octets),
        }
    }
}

impl From<SocketAddr> for message::SocketAddress {
    fn from(address: SocketAddr) -> Self {
        Self {
            address: address.ip().into(),
            port: address.port(),
        }
    }
}

impl From<message::SocketAddress> for SocketAddr {
    fn from(address: message::SocketAddress) -> Self {
        Self::new(address.address.into(), address.port)
    }
}

impl From<Cidr> for message::Cidr {
    fn from(network: Cidr) -> Self {
        Self {
            address: network.address().into(),
            length: network.length(),
        }
    }
}

impl TryFrom<message::Cidr> for Cidr {
    type Error = NetError;

    fn try_from(network: message::Cidr) -> Result<Self, NetError> {
        Self::new(network.address.into(), network.length)
    }
}

impl From<&Endpoint> for message::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            host: match &endpoint.host {
                Host::Name(name) => message::Host::Name(name.as_str().to_owned()),
                Host::Address(address) => message::Host::Address((*address).into()),
            },
            port: endpoint.port,
        }
    }
}

impl TryFrom<&message::Endpoint> for Endpoint {
    type Error = NetError;

    fn try_from(endpoint: &message::Endpoint) -> Result<Self, NetError> {
        if endpoint.port == 0 {
            return Err(NetError::Port);
        }
        Ok(Self {
            host: match &endpoint.host {
                message::Host::Name(name) => Host::Name(name.parse()?),
                message::Host::Address(address) => Host::Address((*address).into()),
            },
            port: endpoint.port,
        })
    }
}

/// Reads endpoints.
pub(super) fn endpoints<const MAX: usize>(
    endpoints: &List<message::Endpoint, MAX>,
    field: &'static str,
) -> Result<Vec<Endpoint>, Invalid> {
    let endpoints = endpoints.as_slice().iter().map(Endpoint::try_from);
    endpoints.collect::<Result<_, _>>().in_field(field)
}

/// Writes endpoints.
pub(super) fn write_endpoints<const MAX: usize>(
    endpoints: &[Endpoint],
    field: &'static str,
) -> Result<List<message::Endpoint, MAX>, Invalid> {
    list(endpoints, field, |endpoint| Ok(endpoint.into()))
}
