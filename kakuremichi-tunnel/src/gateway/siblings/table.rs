//! Which flows are passed on for siblings, by this gateway's own plan.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use kakuremichi_core::{
    id::{AgentId, GatewayId, OrganizationId, ServiceId, TargetId},
    key::WireGuardKey,
    model::{Transport, VirtualPort},
    plan::{GatewayPlan, GatewaySibling, PlannedKind, Via},
};
use kakuremichi_proto::preface::Preface;

use super::MAX_SIBLINGS;
use crate::{gateway::health::targets, peer::PeerKeys};

/// The plan, as flows of siblings are judged by it.
#[derive(Debug, Default)]
pub(super) struct RelayTable {
    own: Option<GatewayId>,
    siblings: BTreeMap<GatewayId, Sibling>,
    /// Each sibling is found by all its keys.
    keys: BTreeMap<WireGuardKey, GatewayId>,
    targets: BTreeMap<(ServiceId, TargetId), Place>,
}

#[derive(Debug, Clone, Copy)]
struct Sibling {
    keys: PeerKeys,
    organization: OrganizationId,
    address: Ipv6Addr,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    transport: Transport,
    organization: OrganizationId,
    agent: AgentId,
    port: VirtualPort,
}

/// What a sibling's flow was admitted for, to be judged again when the plan changes. Only
/// [`RelayTable::admit`] makes one, and only with one is a flow passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelayGrant {
    /// The gateway that let the visitor in.
    pub(crate) entry: GatewayId,
    /// This gateway.
    relay: GatewayId,
    remote: IpAddr,
    /// The service.
    pub(crate) service: ServiceId,
    target: TargetId,
    /// A flow is of TCP, a session of UDP.
    transport: Transport,
    /// Where the flow goes.
    pub(crate) agent: AgentId,
    pub(crate) port: VirtualPort,
}

/// Why a flow is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RelayDenial {
    /// Its preface cannot be read.
    #[error("its preface cannot be read")]
    Preface,
    /// It does not come from a gateway of the plan, or names another one as the visitor's.
    #[error("it does not come from a gateway of the plan")]
    Gateway,
    /// It was passed on before.
    #[error("it was passed on before")]
    Hop,
    /// The plan has no such target of such a service, or it is one of the other transport, at an agent.
    #[error("the plan has no such target of TCP, or of UDP, at an agent")]
    Target,
    /// The service is not one of the sibling's organization.
    #[error("the service belongs to another organization than the gateway")]
    Organization,
}

impl RelayTable {
    pub(super) fn new(plan: &GatewayPlan) -> Self {
        let own = plan.node().map(|node| node.id);
        let others = plan.siblings().filter(|sibling| Some(sibling.id) != own);
        let siblings = others.take(MAX_SIBLINGS).map(|sibling| {
            let known = Sibling {
                keys: keys(plan, sibling),
                organization: sibling.organization,
                address: sibling.address,
            };
            (sibling.id, known)
        });
        let siblings: BTreeMap<_, _> = siblings.collect();
        let keys = siblings
            .iter()
            .flat_map(|(id, sibling)| sibling.keys.all().map(|key| (key, *id)));
        let mut table = Self {
            own,
            keys: keys.collect(),
            siblings,
            targets: BTreeMap::new(),
        };
        if !table.siblings.is_empty() {
            table.add_targets(plan);
        }
        table
    }

    fn add_targets(&mut self, plan: &GatewayPlan) {
        for service in plan.services() {
            let transport = match service.kind {
                PlannedKind::Udp { .. } => Transport::Udp,
                PlannedKind::Http { .. } | PlannedKind::Tcp { .. } => Transport::Tcp,
            };
            for target in targets(&service.kind) {
                if let Via::Agent { agent, port } = target.via {
                    let organization = service.organization;
                    let place = Place {
                        transport,
                        organization,
                        agent,
                        port,
                    };
                    self.targets.insert((service.id, target.id), place);
                }
            }
        }
    }

    /// Whether the plan has this sibling.
    pub(super) fn is_sibling(&self, sibling: GatewayId) -> bool {
        self.siblings.contains_key(&sibling)
    }

    /// A sibling's keys, and its address in the overlay.
    pub(super) fn address(&self, sibling: GatewayId) -> Option<(PeerKeys, Ipv6Addr)> {
        let known = self.siblings.get(&sibling)?;
        Some((known.keys, known.address))
    }

    /// The sibling that has this key, and this address.
    pub(super) fn sibling(&self, key: &WireGuardKey, remote: IpAddr) -> Option<GatewayId> {
        let id = *self.keys.get(key)?;
        let sibling = self.siblings.get(&id)?;
        (remote == IpAddr::from(sibling.address)).then_some(id)
    }

    /// Judges a flow, or a session, that comes over the lane of `peer`. The sibling has authorized the visitor; that it
    /// may speak for the service, and that the flow has made no hop before, is checked here (LESSONS,
    /// advisory 14: every stream is authorized on both ends, not the session that carries it).
    pub(super) fn admit(
        &self,
        peer: WireGuardKey,
        remote: IpAddr,
        transport: Transport,
        preface: &Preface,
    ) -> Result<RelayGrant, RelayDenial> {
        let sibling = self.sibling(&peer, remote);
        let sibling = sibling.filter(|sibling| *sibling == preface.gateway);
        let entry = sibling.ok_or(RelayDenial::Gateway)?;
        if preface.relay.is_some() {
            return Err(RelayDenial::Hop);
        }
        let asked = (transport, preface.service, preface.target);
        self.find(entry, remote, asked)
    }

    /// Whether a flow that was admitted would be admitted now, to the same place.
    pub(super) fn grants(&self, grant: &RelayGrant) -> bool {
        let asked = (grant.transport, grant.service, grant.target);
        self.find(grant.entry, grant.remote, asked)
            .is_ok_and(|now| now == *grant)
    }

    fn find(
        &self,
        entry: GatewayId,
        remote: IpAddr,
        (transport, service, target): (Transport, ServiceId, TargetId),
    ) -> Result<RelayGrant, RelayDenial> {
        let relay = self.own.ok_or(RelayDenial::Gateway)?;
        let sibling = self.siblings.get(&entry);
        let sibling = sibling.filter(|sibling| remote == IpAddr::from(sibling.address));
        let sibling = sibling.ok_or(RelayDenial::Gateway)?;
        let place = self.targets.get(&(service, target));
        let place = place.filter(|place| place.transport == transport);
        let place = place.ok_or(RelayDenial::Target)?;
        if place.organization != sibling.organization {
            return Err(RelayDenial::Organization);
        }
        Ok(RelayGrant {
            entry,
            relay,
            remote,
            service,
            target,
            transport,
            agent: place.agent,
            port: place.port,
        })
    }
}

/// How a sibling is known to the engine.
pub(super) fn keys(plan: &GatewayPlan, sibling: &GatewaySibling) -> PeerKeys {
    PeerKeys::new(sibling.wireguard, plan.previous_keys(sibling.id.into()))
}

impl RelayGrant {
    /// Through whom it goes.
    pub(crate) const fn via(&self) -> Via {
        Via::Agent {
            agent: self.agent,
            port: self.port,
        }
    }

    /// What the agent is told: the same, and who passes it on.
    pub(crate) fn onward(&self, preface: Preface) -> Preface {
        Preface {
            relay: Some(self.relay),
            ..preface
        }
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{
        key::IdentityKey,
        plan::{GatewayNode, GatewayRecord, PlannedPreviousKeys},
        policy::Policy,
    };
    use kakuremichi_proto::preface::ConnectionId;
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::testing::{plan, target, tcp_service, udp_service};

    const OURS: OrganizationId = OrganizationId::from_bytes([9; 16]);

    fn key(number: u8) -> WireGuardKey {
        WireGuardKey::from_bytes([number; 32])
    }

    fn address(number: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into())
    }

    fn id(number: u8) -> GatewayId {
        GatewayId::from_bytes([number; 16])
    }

    fn sibling(number: u8, organization: OrganizationId) -> GatewayRecord {
        GatewayRecord::Sibling(GatewaySibling {
            id: id(number),
            organization,
            name: "gate".parse().unwrap(),
            wireguard: key(number),
            address: address(number),
            endpoints: Vec::new(),
        })
    }

    /// The plan of gateway `own`, with siblings, and the services 7 of TCP and 6 of UDP whose targets are at
    /// the agents of these numbers.
    fn table(own: u8, siblings: &[(u8, OrganizationId)]) -> RelayTable {
        let node = GatewayRecord::Node(GatewayNode {
            id: id(own),
            organization: OURS,
            name: "own".parse().unwrap(),
            address: address(own),
            address_v4: [100, 64, 0, own].into(),
        });
        let service = tcp_service(7, 5432, Policy::public(), vec![target(7)]);
        let siblings = siblings.iter().map(|(number, owner)| sibling(*number, *owner));
        let datagrams = udp_service(6, 53, Policy::public(), vec![target(6)]);
        RelayTable::new(&plan(1, siblings.chain([node, service, datagrams])))
    }

    fn preface(gateway: u8, relay: Option<u8>, service: u8, target: u8) -> Preface {
        Preface {
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.1:443".parse().unwrap(),
            gateway: id(gateway),
            relay: relay.map(id),
            connection: ConnectionId([2; 16]),
            service: ServiceId::from_bytes([service; 16]),
            target: TargetId::from_bytes([target; 16]),
            tls: None,
            principal: None,
        }
    }

    /// LESSONS, advisory 14: every stream is authorized on both ends.
    #[test]
    fn gateway_hop_service_target_and_organization_must_match_the_plan() {
        let foreign = OrganizationId::from_bytes([8; 16]);
        let table = table(1, &[(2, OURS), (3, foreign)]);
        let at = |number: u8| IpAddr::from(address(number));
        for (transport, service, other) in [(Transport::Tcp, 7, 6), (Transport::Udp, 6, 7)] {
            let judge = |peer, from, preface: Preface| table.admit(key(peer), at(from), transport, &preface);
            let grant = judge(2, 2, preface(2, None, service, service)).unwrap();
            let agent = AgentId::from_bytes([service; 16]);
            assert_eq!((grant.entry, grant.agent), (id(2), agent));
            assert!(table.grants(&grant));
            for (peer, from, preface, denial) in [
                (4, 4, preface(4, None, service, service), RelayDenial::Gateway),
                (2, 3, preface(2, None, service, service), RelayDenial::Gateway),
                (2, 2, preface(3, None, service, service), RelayDenial::Gateway),
                (2, 2, preface(2, Some(3), service, service), RelayDenial::Hop),
                (2, 2, preface(2, None, 8, service), RelayDenial::Target),
                (2, 2, preface(2, None, service, 8), RelayDenial::Target),
                // A flow to a service of datagrams, or the reverse.
                (2, 2, preface(2, None, other, other), RelayDenial::Target),
                (
                    3,
                    3,
                    preface(3, None, service, service),
                    RelayDenial::Organization,
                ),
            ] {
                assert_eq!(judge(peer, from, preface), Err(denial));
            }
        }
    }

    /// DESIGN, invariant 5: what is open is judged again when the plan changes.
    #[test]
    fn a_grant_ends_with_its_sibling_its_service_and_its_target() {
        let before = table(1, &[(2, OURS)]);
        let from = IpAddr::from(address(2));
        for (transport, service) in [(Transport::Tcp, 7), (Transport::Udp, 6)] {
            let preface = preface(2, None, service, service);
            let grant = before.admit(key(2), from, transport, &preface).unwrap();
            assert!(!table(1, &[(3, OURS)]).grants(&grant));
            assert!(!RelayTable::default().grants(&grant));
            let moved = [
                tcp_service(7, 5432, Policy::public(), vec![target(8)]),
                udp_service(6, 53, Policy::public(), vec![target(8)]),
            ];
            let moved = RelayTable::new(&plan(2, moved.into_iter().chain([sibling(2, OURS)])));
            assert!(!moved.grants(&grant));
        }
    }

    /// What was passed on before a rotation is passed on, and the sibling is known by either key while both count.
    #[test]
    fn a_sibling_that_has_another_key_is_the_one_that_it_was() {
        let before = table(1, &[(2, OURS)]);
        let rotated = |previous: Option<PlannedPreviousKeys>| {
            let node = GatewayRecord::Node(GatewayNode {
                id: id(1),
                organization: OURS,
                name: "own".parse().unwrap(),
                address: address(1),
                address_v4: [100, 64, 0, 1].into(),
            });
            let service = tcp_service(7, 5432, Policy::public(), vec![target(7)]);
            let sibling = GatewayRecord::Sibling(GatewaySibling {
                id: id(2),
                organization: OURS,
                name: "gate".parse().unwrap(),
                wireguard: key(3),
                address: address(2),
                endpoints: Vec::new(),
            });
            let previous = previous.map(GatewayRecord::PreviousKeys);
            RelayTable::new(&plan(2, [node, service, sibling].into_iter().chain(previous)))
        };
        let during = rotated(Some(PlannedPreviousKeys {
            node: id(2).into(),
            identity: IdentityKey::from_bytes([2; 32]),
            wireguard: key(2),
        }));
        let after = rotated(None);
        let from = IpAddr::from(address(2));
        let by = |number: u8, table: &RelayTable| {
            table.admit(key(number), from, Transport::Tcp, &preface(2, None, 7, 7))
        };
        let grant = by(2, &before).unwrap();
        assert!(during.grants(&grant) && after.grants(&grant));
        assert_eq!(by(2, &during).as_ref(), Ok(&grant));
        assert_eq!(by(3, &during).as_ref(), Ok(&grant));
        assert_eq!(by(2, &after), Err(RelayDenial::Gateway));
    }

    #[test]
    fn siblings_are_bounded_and_a_gateway_is_not_its_own() {
        let many: Vec<_> = (1..=MAX_SIBLINGS as u8 + 5)
            .map(|number| (number, OURS))
            .collect();
        let table = table(3, &many);
        assert_eq!(table.siblings.len(), MAX_SIBLINGS);
        assert!(!table.is_sibling(id(3)));
    }

    proptest! {
        /// Whatever gateways believe of each other, and whoever says what: a flow that one of them passes
        /// on is passed on by none again.
        #[test]
        fn a_flow_makes_one_hop(
            gateways in 2_u8..6,
            known in prop::collection::vec(prop::collection::btree_set(0_u8..6, 0..6), 6),
            route in prop::collection::vec(0_u8..6, 2..9),
            marked: bool,
            datagrams: bool,
        ) {
            let (transport, service) = if datagrams { (Transport::Udp, 6) } else { (Transport::Tcp, 7) };
            let tables: Vec<_> = (0..gateways).map(|own| {
                let siblings: Vec<_> = known[usize::from(own)].iter()
                    .filter(|other| **other < gateways)
                    .map(|other| (*other, OURS))
                    .collect();
                table(own, &siblings)
            }).collect();
            // The flow is offered from gateway to gateway, each of which would pass on whatever it may; the
            // one before claims whatever helps: itself as the visitor's gateway.
            let mut flow = preface(route[0] % gateways, marked.then_some(9), service, service);
            let mut hops = usize::from(marked);
            for pair in route.windows(2) {
                let (from, to) = (pair[0] % gateways, pair[1] % gateways);
                flow.gateway = id(from);
                let remote = IpAddr::from(address(from));
                if let Ok(grant) = tables[usize::from(to)].admit(key(from), remote, transport, &flow) {
                    prop_assert_ne!(from, to);
                    flow = grant.onward(flow);
                    hops += 1;
                }
            }
            prop_assert!(hops <= 1, "{hops} hops");
        }
    }
}
