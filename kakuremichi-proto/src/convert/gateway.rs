//! The records of a gateway's plan.

use std::net::{Ipv4Addr, Ipv6Addr};

use kakuremichi_core::{
    id::{AgentId, GatewayId, NodeId, OrganizationId, RouteId, ServiceId, SiteId, TargetId},
    key::{IdentityKey, WireGuardKey},
    model::{IdentityForm, VirtualPort},
    net::{Cidr, Endpoint},
    plan::{
        GatewayNode, GatewayPeer, GatewayRecord, GatewayService, GatewaySibling, PlannedKind, PlannedPool,
        PlannedPreviousKeys, PlannedRoute, PlannedTarget, Record, Via,
    },
    policy::Policy,
};

use super::{
    Cause, InField, Invalid, discreet, guarded, key, list, name,
    net::{endpoints, write_endpoints},
};
use crate::{
    codec::{self, List},
    message,
    plan::{EncodePlanError, PlanRecord, RecordTag, WireRecord, record},
};

impl PlanRecord for GatewayRecord {
    fn to_wire(&self) -> Result<WireRecord, EncodePlanError> {
        let (tag, body) = match self {
            Self::Node(node) => (
                RecordTag::GatewayNode,
                codec::encode(&record::GatewayNode::from(node)),
            ),
            Self::Peer(peer) => {
                let peer = record::GatewayPeer::try_from(peer)?;
                (RecordTag::GatewayPeer, codec::encode(&peer))
            }
            Self::Service(service) if discreet::is_discreet(service) => {
                let service = record::GatewayDiscreetService::try_from(service)?;
                (RecordTag::GatewayDiscreetService, codec::encode(&service))
            }
            Self::Service(service) if guarded::is_guarded(service) => {
                let service = record::GatewayGuardedService::try_from(service)?;
                (RecordTag::GatewayGuardedService, codec::encode(&service))
            }
            Self::Service(service) => match record::GatewayAnyService::try_from(service)? {
                record::GatewayAnyService::Stream(service) => {
                    (RecordTag::GatewayService, codec::encode(&service))
                }
                record::GatewayAnyService::Datagram(service) => {
                    (RecordTag::GatewayUdpService, codec::encode(&service))
                }
            },
            Self::Policy(policy) => {
                let policy = record::GatewayPolicy::try_from(policy)?;
                (RecordTag::GatewayPolicy, codec::encode(&policy))
            }
            Self::Sibling(sibling) => {
                let sibling = record::GatewaySibling::try_from(sibling)?;
                (RecordTag::GatewaySibling, codec::encode(&sibling))
            }
            Self::SignIn(sign_in) => {
                let sign_in = record::GatewaySignIn::try_from(sign_in)?;
                (RecordTag::GatewaySignIn, codec::encode(&sign_in))
            }
            Self::Signer(signer) => {
                let signer = record::GatewaySigner::try_from(signer)?;
                (RecordTag::GatewaySigner, codec::encode(&signer))
            }
            Self::Member(member) => {
                let member = record::GatewayMember::try_from(member)?;
                (RecordTag::GatewayMember, codec::encode(&member))
            }
            Self::ServiceToken(token) => {
                let token = record::GatewayServiceToken::from(token);
                (RecordTag::GatewayServiceToken, codec::encode(&token))
            }
            Self::PreviousKeys(keys) => (
                RecordTag::GatewayPreviousKeys,
                codec::encode(&record::PreviousKeys::from(keys)),
            ),
        };
        Ok(WireRecord::new(
            tag.code(),
            self.service(),
            key::gateway(self.key())?,
            body,
        )?)
    }

    fn from_wire(wire: &WireRecord) -> Result<Option<Self>, Invalid> {
        let record = match RecordTag::from_code(wire.tag()) {
            Some(RecordTag::GatewayNode) => Self::Node(
                codec::decode::<record::GatewayNode>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::GatewayPeer) => Self::Peer(
                codec::decode::<record::GatewayPeer>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::GatewayService) => {
                let service: record::GatewayService = codec::decode(wire.body()).in_field("body")?;
                Self::Service(service.try_into()?)
            }
            Some(RecordTag::GatewaySibling) => Self::Sibling(
                codec::decode::<record::GatewaySibling>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::GatewayUdpService) => {
                let service: record::GatewayUdpService = codec::decode(wire.body()).in_field("body")?;
                Self::Service(service.try_into()?)
            }
            Some(RecordTag::GatewayPolicy) => Self::Policy(
                codec::decode::<record::GatewayPolicy>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::GatewayGuardedService) => Self::Service(
                codec::decode::<record::GatewayGuardedService>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::GatewayDiscreetService) => Self::Service(
                codec::decode::<record::GatewayDiscreetService>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::GatewaySignIn) => Self::SignIn(
                codec::decode::<record::GatewaySignIn>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::GatewaySigner) => Self::Signer(
                codec::decode::<record::GatewaySigner>(wire.body())
                    .in_field("body")?
                    .into(),
            ),
            Some(RecordTag::GatewayMember) => Self::Member(
                codec::decode::<record::GatewayMember>(wire.body())
                    .in_field("body")?
                    .try_into()?,
            ),
            Some(RecordTag::GatewayServiceToken) => Self::ServiceToken(
                codec::decode::<record::GatewayServiceToken>(wire.body())
                    .in_field("body")?
                    .into(),
            ),
            Some(RecordTag::GatewayPreviousKeys) => Self::PreviousKeys(
                codec::decode::<record::PreviousKeys>(wire.body())
                    .in_field("body")?
                    .into(),
            ),
            Some(
                RecordTag::AgentNode
                | RecordTag::AgentGateway
                | RecordTag::AgentService
                | RecordTag::AgentUdpService
                | RecordTag::AgentPreviousKeys,
            )
            | None => return Ok(None),
        };
        if key::gateway(record.key()).as_ref() != Ok(wire.key()) {
            return Err(Invalid::mismatch("key"));
        }
        Ok(Some(record))
    }

    fn subject(&self) -> Option<NodeId> {
        match self {
            Self::Node(node) => Some(node.id.into()),
            Self::Peer(_)
            | Self::Service(_)
            | Self::Sibling(_)
            | Self::Policy(_)
            | Self::SignIn(_)
            | Self::Signer(_)
            | Self::Member(_)
            | Self::ServiceToken(_)
            | Self::PreviousKeys(_) => None,
        }
    }
}

impl From<&PlannedPreviousKeys> for record::PreviousKeys {
    fn from(keys: &PlannedPreviousKeys) -> Self {
        Self {
            node: keys.node.into(),
            identity: *keys.identity.as_bytes(),
            wireguard: *keys.wireguard.as_bytes(),
        }
    }
}

impl From<record::PreviousKeys> for PlannedPreviousKeys {
    fn from(keys: record::PreviousKeys) -> Self {
        Self {
            node: keys.node.into(),
            identity: IdentityKey::from_bytes(keys.identity),
            wireguard: WireGuardKey::from_bytes(keys.wireguard),
        }
    }
}

impl From<&GatewayNode> for record::GatewayNode {
    fn from(node: &GatewayNode) -> Self {
        Self {
            id: *node.id.as_bytes(),
            organization: *node.organization.as_bytes(),
            name: node.name.as_str().to_owned(),
            address: node.address.octets(),
            address_v4: node.address_v4.octets(),
        }
    }
}

impl TryFrom<record::GatewayNode> for GatewayNode {
    type Error = Invalid;

    fn try_from(node: record::GatewayNode) -> Result<Self, Invalid> {
        Ok(Self {
            id: GatewayId::from_bytes(node.id),
            organization: OrganizationId::from_bytes(node.organization),
            name: name(&node.name, "name")?,
            address: Ipv6Addr::from(node.address),
            address_v4: Ipv4Addr::from(node.address_v4),
        })
    }
}

impl TryFrom<&GatewayPeer> for record::GatewayPeer {
    type Error = Invalid;

    fn try_from(peer: &GatewayPeer) -> Result<Self, Invalid> {
        Ok(Self {
            id: peer.id.into(),
            name: peer.name.as_str().to_owned(),
            identity: peer.identity.map(|identity| *identity.as_bytes()),
            wireguard: *peer.wireguard.as_bytes(),
            address: peer.address.octets(),
            allowed_ips: list(&peer.allowed_ips, "allowed_ips", |network| Ok((*network).into()))?,
            endpoint: peer.endpoint.as_ref().map(Into::into),
        })
    }
}

impl TryFrom<record::GatewayPeer> for GatewayPeer {
    type Error = Invalid;

    fn try_from(peer: record::GatewayPeer) -> Result<Self, Invalid> {
        let networks = peer.allowed_ips.into_vec().into_iter().map(Cidr::try_from);
        Ok(Self {
            id: peer.id.into(),
            name: name(&peer.name, "name")?,
            identity: peer.identity.map(IdentityKey::from_bytes),
            wireguard: WireGuardKey::from_bytes(peer.wireguard),
            address: Ipv6Addr::from(peer.address),
            allowed_ips: networks.collect::<Result<_, _>>().in_field("allowed_ips")?,
            endpoint: peer
                .endpoint
                .as_ref()
                .map(Endpoint::try_from)
                .transpose()
                .in_field("endpoint")?,
        })
    }
}

impl TryFrom<&GatewaySibling> for record::GatewaySibling {
    type Error = Invalid;

    fn try_from(sibling: &GatewaySibling) -> Result<Self, Invalid> {
        Ok(Self {
            id: *sibling.id.as_bytes(),
            organization: *sibling.organization.as_bytes(),
            name: sibling.name.as_str().to_owned(),
            wireguard: *sibling.wireguard.as_bytes(),
            address: sibling.address.octets(),
            endpoints: write_endpoints(&sibling.endpoints, "endpoints")?,
        })
    }
}

impl TryFrom<record::GatewaySibling> for GatewaySibling {
    type Error = Invalid;

    fn try_from(sibling: record::GatewaySibling) -> Result<Self, Invalid> {
        Ok(Self {
            id: GatewayId::from_bytes(sibling.id),
            organization: OrganizationId::from_bytes(sibling.organization),
            name: name(&sibling.name, "name")?,
            wireguard: WireGuardKey::from_bytes(sibling.wireguard),
            address: Ipv6Addr::from(sibling.address),
            endpoints: endpoints(&sibling.endpoints, "endpoints")?,
        })
    }
}

/// Without the attached policies.
impl TryFrom<&GatewayService> for record::GatewayAnyService {
    type Error = Invalid;

    fn try_from(service: &GatewayService) -> Result<Self, Invalid> {
        let PlannedKind::Udp { port, pool } = &service.kind else {
            return record::GatewayService::try_from(service).map(Self::Stream);
        };
        Ok(Self::Datagram(record::GatewayUdpService {
            id: *service.id.as_bytes(),
            organization: *service.organization.as_bytes(),
            name: service.name.as_str().to_owned(),
            port: *port,
            targets: write_pool(pool)?,
            policy: (&service.policy).try_into()?,
        }))
    }
}

impl TryFrom<&GatewayService> for record::GatewayService {
    type Error = Invalid;

    fn try_from(service: &GatewayService) -> Result<Self, Invalid> {
        Ok(Self {
            id: *service.id.as_bytes(),
            organization: *service.organization.as_bytes(),
            name: service.name.as_str().to_owned(),
            kind: match &service.kind {
                PlannedKind::Http { hosts, routes, .. } => record::GatewayServiceKind::Http {
                    hosts: list(hosts, "hosts", |host| Ok(host.to_string()))?,
                    routes: list(routes, "routes", |route| {
                        Ok(record::GatewayRoute {
                            id: *route.id.as_bytes(),
                            path: route.path.to_string(),
                            targets: write_pool(&route.pool)?,
                        })
                    })?,
                },
                PlannedKind::Tcp { port, pool } => record::GatewayServiceKind::Tcp {
                    port: *port,
                    targets: write_pool(pool)?,
                },
                // It has a record of its own.
                PlannedKind::Udp { .. } => return Err(Invalid::mismatch("kind")),
            },
            policy: (&service.policy).try_into()?,
        })
    }
}

impl TryFrom<record::GatewayUdpService> for GatewayService {
    type Error = Invalid;

    fn try_from(service: record::GatewayUdpService) -> Result<Self, Invalid> {
        if service.port == 0 {
            return Err(Invalid::new("port", Cause::Port));
        }
        Ok(Self {
            id: ServiceId::from_bytes(service.id),
            organization: OrganizationId::from_bytes(service.organization),
            name: name(&service.name, "name")?,
            kind: PlannedKind::Udp {
                port: service.port,
                pool: read_pool(service.targets)?,
            },
            policy: Policy::try_from(service.policy)?,
            policies: Vec::new(),
        })
    }
}

impl TryFrom<record::GatewayService> for GatewayService {
    type Error = Invalid;

    fn try_from(service: record::GatewayService) -> Result<Self, Invalid> {
        let route = |route: record::GatewayRoute| {
            Ok(PlannedRoute {
                id: RouteId::from_bytes(route.id),
                path: name(&route.path, "routes.path")?,
                pool: read_pool(route.targets)?,
                policies: Vec::new(),
            })
        };
        let kind = match service.kind {
            record::GatewayServiceKind::Http { hosts, routes } => {
                if hosts.as_slice().is_empty() {
                    return Err(Invalid::new("hosts", Cause::Empty));
                }
                let hosts = hosts.as_slice().iter().map(|host| name(host, "hosts"));
                PlannedKind::Http {
                    hosts: hosts.collect::<Result<_, _>>()?,
                    routes: routes
                        .into_vec()
                        .into_iter()
                        .map(route)
                        .collect::<Result<_, _>>()?,
                    identity: IdentityForm::Both,
                }
            }
            record::GatewayServiceKind::Tcp { port: 0, .. } => return Err(Invalid::new("port", Cause::Port)),
            record::GatewayServiceKind::Tcp { port, targets } => PlannedKind::Tcp {
                port,
                pool: read_pool(targets)?,
            },
        };
        Ok(Self {
            id: ServiceId::from_bytes(service.id),
            organization: OrganizationId::from_bytes(service.organization),
            name: name(&service.name, "name")?,
            kind,
            policy: Policy::try_from(service.policy)?,
            policies: Vec::new(),
        })
    }
}

fn write_pool(pool: &PlannedPool) -> Result<List<record::GatewayTarget, 64>, Invalid> {
    list(&pool.targets, "targets", |target| {
        Ok(record::GatewayTarget {
            id: *target.id.as_bytes(),
            via: match target.via {
                Via::Agent { agent, port } => record::Via::Agent {
                    agent: *agent.as_bytes(),
                    port: port.get(),
                },
                Via::Site { site, address } => record::Via::Site {
                    site: *site.as_bytes(),
                    address: address.into(),
                },
            },
            scheme: message::TargetScheme::try_from(&target.scheme)?,
            server_name: target.server_name.as_ref().map(|name| name.as_str().to_owned()),
            checked: target.checked,
        })
    })
}

fn read_pool(targets: List<record::GatewayTarget, 64>) -> Result<PlannedPool, Invalid> {
    let target = |target: record::GatewayTarget| {
        Ok(PlannedTarget {
            id: TargetId::from_bytes(target.id),
            via: match target.via {
                record::Via::Agent { agent, port } => Via::Agent {
                    agent: AgentId::from_bytes(agent),
                    port: virtual_port(port)?,
                },
                record::Via::Site { site, address } if address.port != 0 => Via::Site {
                    site: SiteId::from_bytes(site),
                    address: address.into(),
                },
                record::Via::Site { .. } => return Err(Invalid::new("targets.via", Cause::Port)),
            },
            scheme: target.scheme.try_into()?,
            server_name: target
                .server_name
                .map(|text| name(&text, "targets.server_name"))
                .transpose()?,
            checked: target.checked,
        })
    };
    let targets = targets
        .into_vec()
        .into_iter()
        .map(target)
        .collect::<Result<_, _>>()?;
    Ok(PlannedPool { targets })
}

pub(super) fn virtual_port(port: u16) -> Result<VirtualPort, Invalid> {
    VirtualPort::new(port).ok_or_else(|| Invalid::new("targets.port", Cause::Port))
}
