//! The records of an agent's plan.

use std::net::Ipv6Addr;

use kakuremichi_core::{
    id::{AgentId, GatewayId, NodeId, OrganizationId, ServiceId, TargetId},
    key::{IdentityKey, WireGuardKey},
    model::{HealthCheck, TargetAddress, Transport},
    plan::{AgentGateway, AgentNode, AgentRecord, AgentService, AgentTarget, Record},
};

use super::{
    Cause, InField, Invalid,
    gateway::virtual_port,
    key, list, name,
    net::{endpoints, write_endpoints},
};
use crate::{
    codec::{self, List},
    message,
    plan::{EncodePlanError, PlanRecord, RecordTag, WireRecord, record},
};

impl PlanRecord for AgentRecord {
    fn to_wire(&self) -> Result<WireRecord, EncodePlanError> {
        let (tag, body) = match self {
            Self::Node(node) => (
                RecordTag::AgentNode,
                codec::encode(&record::AgentNode::from(node)),
            ),
            Self::Gateway(gateway) => {
                let gateway = record::AgentGateway::try_from(gateway)?;
                (RecordTag::AgentGateway, codec::encode(&gateway))
            }
            Self::PreviousKeys(keys) => (
                RecordTag::AgentPreviousKeys,
                codec::encode(&record::PreviousKeys::from(keys)),
            ),
            Self::Service(service) => match service.transport {
                Transport::Udp => {
                    let service = record::AgentUdpService::try_from(service)?;
                    (RecordTag::AgentUdpService, codec::encode(&service))
                }
                Transport::Tcp => {
                    let service = record::AgentService::try_from(service)?;
                    (RecordTag::AgentService, codec::encode(&service))
                }
            },
        };
        Ok(WireRecord::new(
            tag.code(),
            self.service(),
            key::agent(self.key())?,
            body,
        )?)
    }

    fn from_wire(wire: &WireRecord) -> Result<Option<Self>, Invalid> {
        let record = match RecordTag::from_code(wire.tag()) {
            Some(RecordTag::AgentNode) => Self::Node(
                codec::decode::<record::AgentNode>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::AgentGateway) => Self::Gateway(
                codec::decode::<record::AgentGateway>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::AgentService) => Self::Service(
                codec::decode::<record::AgentService>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::AgentUdpService) => Self::Service(
                codec::decode::<record::AgentUdpService>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::AgentPreviousKeys) => Self::PreviousKeys(
                codec::decode::<record::PreviousKeys>(wire.body())
                    .in_field("body")?
                    .into(),
            ),
            Some(
                RecordTag::GatewayNode
                | RecordTag::GatewayPeer
                | RecordTag::GatewayService
                | RecordTag::GatewaySibling
                | RecordTag::GatewayPolicy
                | RecordTag::GatewayGuardedService
                | RecordTag::GatewayUdpService
                | RecordTag::GatewaySignIn
                | RecordTag::GatewaySigner
                | RecordTag::GatewayMember
                | RecordTag::GatewayServiceToken
                | RecordTag::GatewayPreviousKeys
                | RecordTag::GatewayDiscreetService,
            )
            | None => return Ok(None),
        };
        if key::agent(record.key()).as_ref() != Ok(wire.key()) {
            return Err(Invalid::mismatch("key"));
        }
        Ok(Some(record))
    }

    fn subject(&self) -> Option<NodeId> {
        match self {
            Self::Node(node) => Some(node.id.into()),
            Self::Gateway(_) | Self::Service(_) | Self::PreviousKeys(_) => None,
        }
    }
}

impl From<&AgentNode> for record::AgentNode {
    fn from(node: &AgentNode) -> Self {
        Self {
            id: *node.id.as_bytes(),
            organization: *node.organization.as_bytes(),
            name: node.name.as_str().to_owned(),
            address: node.address.octets(),
        }
    }
}

impl TryFrom<record::AgentNode> for AgentNode {
    type Error = Invalid;

    fn try_from(node: record::AgentNode) -> Result<Self, Invalid> {
        Ok(Self {
            id: AgentId::from_bytes(node.id),
            organization: OrganizationId::from_bytes(node.organization),
            name: name(&node.name, "name")?,
            address: Ipv6Addr::from(node.address),
        })
    }
}

impl TryFrom<&AgentGateway> for record::AgentGateway {
    type Error = Invalid;

    fn try_from(gateway: &AgentGateway) -> Result<Self, Invalid> {
        Ok(Self {
            id: *gateway.id.as_bytes(),
            name: gateway.name.as_str().to_owned(),
            identity: *gateway.identity.as_bytes(),
            wireguard: *gateway.wireguard.as_bytes(),
            address: gateway.address.octets(),
            endpoints: write_endpoints(&gateway.endpoints, "endpoints")?,
            streams: write_endpoints(&gateway.streams, "streams")?,
        })
    }
}

impl TryFrom<record::AgentGateway> for AgentGateway {
    type Error = Invalid;

    fn try_from(gateway: record::AgentGateway) -> Result<Self, Invalid> {
        Ok(Self {
            id: GatewayId::from_bytes(gateway.id),
            name: name(&gateway.name, "name")?,
            identity: IdentityKey::from_bytes(gateway.identity),
            wireguard: WireGuardKey::from_bytes(gateway.wireguard),
            address: Ipv6Addr::from(gateway.address),
            endpoints: endpoints(&gateway.endpoints, "endpoints")?,
            streams: endpoints(&gateway.streams, "streams")?,
        })
    }
}

impl TryFrom<&AgentService> for record::AgentService {
    type Error = Invalid;

    fn try_from(service: &AgentService) -> Result<Self, Invalid> {
        Ok(Self {
            id: *service.id.as_bytes(),
            name: service.name.as_str().to_owned(),
            hosts: list(&service.hosts, "hosts", |host| Ok(host.to_string()))?,
            port: service.port,
            urls: List::truncated(service.urls.iter().cloned()),
            targets: write_targets(&service.targets)?,
        })
    }
}

impl TryFrom<&AgentService> for record::AgentUdpService {
    type Error = Invalid;

    fn try_from(service: &AgentService) -> Result<Self, Invalid> {
        Ok(Self {
            id: *service.id.as_bytes(),
            name: service.name.as_str().to_owned(),
            port: service.port.ok_or_else(|| Invalid::new("port", Cause::Port))?,
            urls: List::truncated(service.urls.iter().cloned()),
            targets: write_targets(&service.targets)?,
        })
    }
}

impl TryFrom<record::AgentService> for AgentService {
    type Error = Invalid;

    fn try_from(service: record::AgentService) -> Result<Self, Invalid> {
        if service.port == Some(0) {
            return Err(Invalid::new("port", Cause::Port));
        }
        let hosts = service.hosts.as_slice().iter().map(|host| name(host, "hosts"));
        Ok(Self {
            id: ServiceId::from_bytes(service.id),
            name: name(&service.name, "name")?,
            transport: Transport::Tcp,
            hosts: hosts.collect::<Result<_, _>>()?,
            port: service.port,
            urls: service.urls.into_vec(),
            targets: read_targets(service.targets, Transport::Tcp)?,
        })
    }
}

impl TryFrom<record::AgentUdpService> for AgentService {
    type Error = Invalid;

    fn try_from(service: record::AgentUdpService) -> Result<Self, Invalid> {
        if service.port == 0 {
            return Err(Invalid::new("port", Cause::Port));
        }
        Ok(Self {
            id: ServiceId::from_bytes(service.id),
            name: name(&service.name, "name")?,
            transport: Transport::Udp,
            hosts: Vec::new(),
            port: Some(service.port),
            urls: service.urls.into_vec(),
            targets: read_targets(service.targets, Transport::Udp)?,
        })
    }
}

fn write_targets(targets: &[AgentTarget]) -> Result<List<record::AgentTarget, 16384>, Invalid> {
    list(targets, "targets", |target| {
        Ok(record::AgentTarget {
            id: *target.id.as_bytes(),
            port: target.port.get(),
            address: (&target.address).try_into()?,
            tls: target.tls,
            health: target
                .health
                .as_ref()
                .map(message::HealthCheck::try_from)
                .transpose()?,
        })
    })
}

fn read_targets(
    targets: List<record::AgentTarget, 16384>,
    transport: Transport,
) -> Result<Vec<AgentTarget>, Invalid> {
    let target = |target: record::AgentTarget| {
        let address = TargetAddress::try_from(target.address)?;
        if !address.takes(transport) {
            return Err(Invalid::mismatch("targets.address"));
        }
        Ok(AgentTarget {
            id: TargetId::from_bytes(target.id),
            port: virtual_port(target.port)?,
            address,
            tls: target.tls,
            health: target.health.map(HealthCheck::try_from).transpose()?,
        })
    };
    targets.into_vec().into_iter().map(target).collect()
}
