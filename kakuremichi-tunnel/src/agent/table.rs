//! What flows may come, by the agent's own plan.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use kakuremichi_core::{
    id::{GatewayId, ServiceId, TargetId},
    key::WireGuardKey,
    model::{TargetAddress, Transport},
    plan::{AgentGateway, AgentPlan, AgentTarget},
};
use kakuremichi_proto::preface::Preface;

use crate::peer::PeerKeys;

/// What was opened, and by whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    pub(super) transport: Transport,
    pub(super) by: Opener,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// How it is known which gateway opened a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opener {
    /// By the WireGuard key of the tunnel it came through.
    Key(WireGuardKey),
    /// By the identity that was proven on the lane of TLS streams it came over.
    Gateway(GatewayId),
}

/// A flow, or a session, that the plan knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) service: ServiceId,
    pub(super) target: AgentTarget,
    pub(super) grant: Grant,
}

/// What a flow was admitted for, to be judged again when the plan changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// The gateway: whatever keys it has meanwhile.
    gateway: GatewayId,
    remote: IpAddr,
    /// The one that let the visitor in, if it is another one.
    entry: Option<GatewayId>,
    /// What it opened.
    transport: Transport,
    port: u16,
    pub(super) service: ServiceId,
    target: TargetId,
    /// Where the target was.
    address: TargetAddress,
}

#[cfg(test)]
impl Grant {
    /// Of a service, whatever else.
    pub(super) const fn of(service: ServiceId) -> Self {
        Self {
            gateway: GatewayId::from_bytes([0; 16]),
            remote: IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            entry: None,
            transport: Transport::Tcp,
            port: 0,
            service,
            target: TargetId::from_bytes([0; 16]),
            address: TargetAddress::InProcess,
        }
    }
}

/// Why the plan does not allow a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowDenial {
    /// Whoever opened it is not a gateway of the plan, or says that it is another.
    #[error("it does not come from a gateway of the plan")]
    Gateway,
    /// No target of the plan has this port.
    #[error("no target of the plan has this port")]
    Port,
    /// The preface names another service or target than the one the port belongs to.
    #[error("it names another service than the one its port belongs to")]
    Service,
    /// Its preface cannot be read.
    #[error("its preface cannot be read")]
    Preface,
}

/// The plan, as incoming flows are checked against it.
#[derive(Debug, Default)]
pub(super) struct Table {
    gateways: BTreeMap<GatewayId, IpAddr>,
    /// Each gateway is found by all its keys.
    keys: BTreeMap<WireGuardKey, GatewayId>,
    targets: BTreeMap<(Transport, u16), (ServiceId, AgentTarget)>,
}

impl Table {
    pub(super) fn new(plan: &AgentPlan) -> Self {
        let gateways = plan
            .gateways()
            .map(|gateway| (gateway.id, gateway.address.into()));
        let keys = plan
            .gateways()
            .flat_map(|gateway| keys(plan, gateway).all().map(|key| (key, gateway.id)));
        let targets = plan.services().flat_map(|service| {
            let at = |target: &AgentTarget| (service.transport, target.port.get());
            let entry = move |target: &AgentTarget| (at(target), (service.id, target.clone()));
            service.targets.iter().map(entry)
        });
        Self {
            gateways: gateways.collect(),
            keys: keys.collect(),
            targets: targets.collect(),
        }
    }

    /// The gateway of the plan that opened a flow.
    pub(super) fn gateway(&self, by: Opener) -> Option<GatewayId> {
        match by {
            Opener::Key(key) => self.keys.get(&key).copied(),
            Opener::Gateway(gateway) => Some(gateway).filter(|gateway| self.has_gateway(*gateway)),
        }
    }

    /// The ports of all targets of TCP or UDP services.
    pub(super) fn ports(&self, transport: Transport) -> impl Iterator<Item = u16> {
        let all = self.targets.range((transport, 0)..=(transport, u16::MAX));
        all.map(|((_, port), _)| *port)
    }

    /// All targets, with their services.
    pub(super) fn targets(&self) -> impl Iterator<Item = &(ServiceId, AgentTarget)> {
        self.targets.values()
    }

    /// Checks a flow against what its preface claims (LESSONS, advisory 14: every stream is authorized on
    /// both ends, not the session that carries it).
    pub(super) fn admit(&self, opened: Opened, preface: &Preface) -> Result<Admitted, FlowDenial> {
        let gateway = self.gateway(opened.by).ok_or(FlowDenial::Gateway)?;
        let address = self.gateways.get(&gateway).ok_or(FlowDenial::Gateway)?;
        // Who passes a flow on says so in its own name, and for another gateway of the plan.
        let (speaker, entry) = match preface.relay {
            Some(relay) => (relay, Some(preface.gateway)),
            None => (preface.gateway, None),
        };
        let known = entry.is_none_or(|entry| entry != gateway && self.has_gateway(entry));
        if opened.remote.ip() != *address || speaker != gateway || !known {
            return Err(FlowDenial::Gateway);
        }
        let port = (opened.transport, opened.local.port());
        let (owner, target) = self.targets.get(&port).ok_or(FlowDenial::Port)?;
        if preface.service != *owner || preface.target != target.id {
            return Err(FlowDenial::Service);
        }
        Ok(Admitted {
            service: *owner,
            target: target.clone(),
            grant: Grant {
                gateway,
                remote: *address,
                entry,
                transport: opened.transport,
                port: opened.local.port(),
                service: *owner,
                target: target.id,
                address: target.address.clone(),
            },
        })
    }

    fn has_gateway(&self, id: GatewayId) -> bool {
        self.gateways.contains_key(&id)
    }

    /// Whether a flow that was admitted would be admitted now, to the same place.
    pub(super) fn grants(&self, grant: &Grant) -> bool {
        let target = self.targets.get(&(grant.transport, grant.port));
        self.gateways.get(&grant.gateway) == Some(&grant.remote)
            && grant.entry.is_none_or(|entry| self.has_gateway(entry))
            && target.is_some_and(|(service, target)| {
                *service == grant.service && target.id == grant.target && target.address == grant.address
            })
    }
}

/// How a gateway is known to the engine.
pub(super) fn keys(plan: &AgentPlan, gateway: &AgentGateway) -> PeerKeys {
    PeerKeys::new(gateway.wireguard, plan.previous_keys(gateway.id))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use kakuremichi_core::{
        id::{AgentId, OrganizationId},
        key::IdentityKey,
        model::VirtualPort,
        plan::{AgentNode, AgentRecord, AgentService, Plan, PlannedPreviousKeys, Revision},
    };
    use kakuremichi_proto::preface::ConnectionId;

    const US: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

    fn key(byte: u8) -> WireGuardKey {
        WireGuardKey::from_bytes([byte; 32])
    }

    fn service(byte: u8, port: u16) -> AgentRecord {
        AgentRecord::Service(AgentService {
            id: ServiceId::from_bytes([byte; 16]),
            name: "web".parse().unwrap(),
            transport: Transport::Tcp,
            hosts: vec!["a.example".parse().unwrap()],
            port: None,
            urls: Vec::new(),
            targets: vec![AgentTarget {
                id: TargetId::from_bytes([byte; 16]),
                port: VirtualPort::new(port).unwrap(),
                address: TargetAddress::InProcess,
                tls: false,
                health: None,
            }],
        })
    }

    fn plan() -> AgentPlan {
        Plan::new(
            Revision(1),
            [
                AgentRecord::Node(AgentNode {
                    id: AgentId::from_bytes([1; 16]),
                    organization: OrganizationId::from_bytes([1; 16]),
                    name: "edge".parse().unwrap(),
                    address: US,
                }),
                AgentRecord::Gateway(AgentGateway {
                    id: GatewayId::from_bytes([2; 16]),
                    name: "gate".parse().unwrap(),
                    identity: IdentityKey::from_bytes([2; 32]),
                    wireguard: key(2),
                    address: GATEWAY,
                    endpoints: Vec::new(),
                    streams: Vec::new(),
                }),
                service(7, 2000),
                service(8, 2001),
            ],
        )
    }

    fn table() -> Table {
        Table::new(&plan())
    }

    fn with_another_gateway(plan: &AgentPlan) -> AgentPlan {
        let other = AgentRecord::Gateway(AgentGateway {
            id: GatewayId::from_bytes([4; 16]),
            name: "other".parse().unwrap(),
            identity: IdentityKey::from_bytes([4; 32]),
            wireguard: key(4),
            address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 4),
            endpoints: Vec::new(),
            streams: Vec::new(),
        });
        Plan::new(Revision(2), plan.records().cloned().chain([other]))
    }

    fn opened(peer: u8, from: Ipv6Addr, port: u16) -> Opened {
        Opened {
            transport: Transport::Tcp,
            by: Opener::Key(key(peer)),
            local: (US, port).into(),
            remote: (from, 50_000).into(),
        }
    }

    fn preface(gateway: u8, service: u8, target: u8) -> Preface {
        Preface {
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.1:443".parse().unwrap(),
            gateway: GatewayId::from_bytes([gateway; 16]),
            relay: None,
            connection: ConnectionId([2; 16]),
            service: ServiceId::from_bytes([service; 16]),
            target: TargetId::from_bytes([target; 16]),
            tls: None,
            principal: None,
        }
    }

    /// LESSONS, advisories 13 and 14: the agent dials only targets of its plan, and checks each flow.
    #[test]
    fn gateway_port_service_and_target_must_match_the_plan() {
        let table = table();
        let admitted = table.admit(opened(2, GATEWAY, 2000), &preface(2, 7, 7)).unwrap();
        assert_eq!(admitted.target.id, TargetId::from_bytes([7; 16]));
        assert!(table.grants(&admitted.grant));
        assert!(!Table::default().grants(&admitted.grant));
        for (flow, claim, denial) in [
            (opened(3, GATEWAY, 2000), preface(2, 7, 7), FlowDenial::Gateway),
            (opened(2, US, 2000), preface(2, 7, 7), FlowDenial::Gateway),
            (opened(2, GATEWAY, 2000), preface(3, 7, 7), FlowDenial::Gateway),
            (opened(2, GATEWAY, 2002), preface(2, 7, 7), FlowDenial::Port),
            (opened(2, GATEWAY, 2000), preface(2, 8, 7), FlowDenial::Service),
            (opened(2, GATEWAY, 2000), preface(2, 7, 8), FlowDenial::Service),
        ] {
            assert_eq!(table.admit(flow, &claim), Err(denial));
        }
        let datagrams = Opened {
            transport: Transport::Udp,
            ..opened(2, GATEWAY, 2000)
        };
        assert_eq!(table.admit(datagrams, &preface(2, 7, 7)), Err(FlowDenial::Port));
        assert_eq!(table.ports(Transport::Tcp).collect::<Vec<_>>(), [2000, 2001]);
        assert_eq!(table.ports(Transport::Udp).count(), 0);
    }

    /// Flows of before a rotation go on, and a gateway is known by either key for as long as both count.
    #[test]
    fn a_gateway_that_has_another_key_is_the_one_that_it_was() {
        let rotated = |before: &AgentPlan, previous: Option<u8>| {
            let records = before.records().filter_map(|record| match record {
                AgentRecord::Gateway(gateway) => Some(AgentRecord::Gateway(AgentGateway {
                    wireguard: key(3),
                    ..gateway.clone()
                })),
                AgentRecord::PreviousKeys(_) => None,
                other => Some(other.clone()),
            });
            let previous = previous.map(|number| {
                AgentRecord::PreviousKeys(PlannedPreviousKeys {
                    node: GatewayId::from_bytes([2; 16]).into(),
                    identity: IdentityKey::from_bytes([2; 32]),
                    wireguard: key(number),
                })
            });
            Table::new(&Plan::new(Revision(2), records.chain(previous)))
        };
        let (before, during, after) = (table(), rotated(&plan(), Some(2)), rotated(&plan(), None));
        let by = |number: u8, table: &Table| table.admit(opened(number, GATEWAY, 2000), &preface(2, 7, 7));
        let old = by(2, &before).unwrap();
        assert!(during.grants(&old.grant) && after.grants(&old.grant));
        assert_eq!(by(2, &during).as_ref(), Ok(&old));
        assert_eq!(by(3, &during).as_ref(), Ok(&old));
        assert_eq!(by(2, &after), Err(FlowDenial::Gateway));
        // Over TLS streams it is known by its identity, and must be in the plan as well.
        let streams = |gateway: u8| Opened {
            by: Opener::Gateway(GatewayId::from_bytes([gateway; 16])),
            ..opened(0, GATEWAY, 2000)
        };
        assert_eq!(after.admit(streams(2), &preface(2, 7, 7)).as_ref(), Ok(&old));
        assert_eq!(
            after.admit(streams(5), &preface(5, 7, 7)),
            Err(FlowDenial::Gateway)
        );
    }

    /// DESIGN, "Relay": the agent sees both gateways, and its plan must have both.
    #[test]
    fn a_flow_that_was_passed_on_names_two_gateways_of_the_plan() {
        let (alone, both) = (table(), Table::new(&with_another_gateway(&plan())));
        let relayed = |entry: u8, relay: u8| Preface {
            relay: Some(GatewayId::from_bytes([relay; 16])),
            ..preface(entry, 7, 7)
        };
        let flow = opened(2, GATEWAY, 2000);
        let admitted = both.admit(flow, &relayed(4, 2)).unwrap();
        assert!(both.grants(&admitted.grant) && !alone.grants(&admitted.grant));
        for (table, claim) in [
            (&alone, relayed(4, 2)),
            (&both, relayed(5, 2)),
            (&both, relayed(2, 2)),
            (&both, relayed(4, 4)),
            (&both, relayed(2, 4)),
            (&both, preface(4, 7, 7)),
        ] {
            assert_eq!(table.admit(flow, &claim), Err(FlowDenial::Gateway));
        }
    }
}
