//! What an agent is told to be.

use std::net::Ipv6Addr;

use super::{Plan, PlannedPreviousKeys, Record};
use crate::{
    id::{AgentId, GatewayId, NodeId, OrganizationId, ServiceId, TargetId},
    key::{IdentityKey, WireGuardKey},
    model::{HealthCheck, TargetAddress, Transport, VirtualPort},
    name::{HostPattern, Label},
    net::Endpoint,
};

/// The desired state of one agent.
pub type AgentPlan = Plan<AgentRecord>;

/// A part of an agent's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentRecord {
    /// The agent itself.
    Node(AgentNode),
    /// A gateway.
    Gateway(AgentGateway),
    /// A service with targets at this agent.
    Service(AgentService),
    /// The keys that a gateway had before.
    PreviousKeys(PlannedPreviousKeys),
}

/// The key of an [`AgentRecord`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentKey {
    /// The agent itself.
    Node,
    /// A gateway.
    Gateway(GatewayId),
    /// A service.
    Service(ServiceId),
    /// The keys that a node had before.
    PreviousKeys(NodeId),
}

impl Record for AgentRecord {
    type Key = AgentKey;

    fn key(&self) -> AgentKey {
        match self {
            Self::Node(_) => AgentKey::Node,
            Self::Gateway(gateway) => AgentKey::Gateway(gateway.id),
            Self::Service(service) => AgentKey::Service(service.id),
            Self::PreviousKeys(keys) => AgentKey::PreviousKeys(keys.node),
        }
    }

    fn service(&self) -> Option<ServiceId> {
        match self {
            Self::Service(service) => Some(service.id),
            Self::Node(_) | Self::Gateway(_) | Self::PreviousKeys(_) => None,
        }
    }
}

impl AgentPlan {
    /// The agent itself; absent only in the empty plan.
    #[must_use]
    pub fn node(&self) -> Option<&AgentNode> {
        match self.get(AgentKey::Node) {
            Some(AgentRecord::Node(node)) => Some(node),
            _ => None,
        }
    }

    /// The gateways, in the order of their identifiers.
    pub fn gateways(&self) -> impl Iterator<Item = &AgentGateway> {
        self.records().filter_map(|record| match record {
            AgentRecord::Gateway(gateway) => Some(gateway),
            AgentRecord::Node(_) | AgentRecord::Service(_) | AgentRecord::PreviousKeys(_) => None,
        })
    }

    /// The keys that a gateway had before, while they count.
    #[must_use]
    pub fn previous_keys(&self, gateway: GatewayId) -> Option<&PlannedPreviousKeys> {
        match self.get(AgentKey::PreviousKeys(gateway.into())) {
            Some(AgentRecord::PreviousKeys(keys)) => Some(keys),
            _ => None,
        }
    }

    /// The services, in the order of their identifiers.
    pub fn services(&self) -> impl Iterator<Item = &AgentService> {
        self.records().filter_map(|record| match record {
            AgentRecord::Service(service) => Some(service),
            AgentRecord::Node(_) | AgentRecord::Gateway(_) | AgentRecord::PreviousKeys(_) => None,
        })
    }
}

/// The agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentNode {
    /// Its identifier.
    pub id: AgentId,
    /// The owner.
    pub organization: OrganizationId,
    /// Its name.
    pub name: Label,
    /// Its address in the overlay.
    pub address: Ipv6Addr,
}

/// A gateway to which the agent holds a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentGateway {
    /// Its identifier.
    pub id: GatewayId,
    /// Its name.
    pub name: Label,
    /// Who it is, which it proves on TLS stream lanes.
    pub identity: IdentityKey,
    /// Its key.
    pub wireguard: WireGuardKey,
    /// Its address in the overlay: the only source from which its packets may come.
    pub address: Ipv6Addr,
    /// Where its WireGuard socket is, best first.
    pub endpoints: Vec<Endpoint>,
    /// Where it takes TLS stream lanes, best first: its HTTPS port.
    pub streams: Vec<Endpoint>,
}

/// A service with targets at this agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentService {
    /// Its identifier.
    pub id: ServiceId,
    /// Its name.
    pub name: Label,
    /// How flows to its targets arrive.
    pub transport: Transport,
    /// The hosts of an HTTP service; empty for a TCP or UDP service.
    pub hosts: Vec<HostPattern>,
    /// The port of a TCP or UDP service.
    pub port: Option<u16>,
    /// Where visitors find it.
    pub urls: Vec<String>,
    /// The targets at this agent.
    pub targets: Vec<AgentTarget>,
}

/// A target, as its agent reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTarget {
    /// Its identifier.
    pub id: TargetId,
    /// The overlay port at which flows for it arrive.
    pub port: VirtualPort,
    /// What to dial.
    pub address: TargetAddress,
    /// Whether TLS is spoken to it. The agent, which stays at layer 4, then checks only that it takes
    /// connections.
    pub tls: bool,
    /// How to check it.
    pub health: Option<HealthCheck>,
}
