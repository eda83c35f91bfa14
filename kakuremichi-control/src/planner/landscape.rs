//! What Control knows of one organization.

use std::collections::{BTreeMap, BTreeSet};

use kakuremichi_core::{
    id::{AgentId, GatewayId, NodeId, PeerId, PolicyId, ServiceId, ServiceTokenId, SiteId, UserId},
    model::{Node, NodeKind, Service, ServiceToken, Site, TargetPlace},
    net::{Endpoint, Overlay},
    plan::PlannedPreviousKeys,
    policy::{Needs, SharedPolicy},
    store::{RecordId, StoreRecord},
};

use super::people::People;

/// What Control knows of one organization.
#[derive(Debug, Clone)]
pub struct Landscape {
    pub(super) overlay: Overlay,
    /// Revoked ones too, and those that wait for approval.
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) sites: BTreeMap<SiteId, Site>,
    pub(super) services: BTreeMap<ServiceId, Service>,
    pub(super) policies: BTreeMap<PolicyId, SharedPolicy>,
    pub(super) service_tokens: BTreeMap<ServiceTokenId, ServiceToken>,
    /// How many services a policy is attached to.
    attached: BTreeMap<PolicyId, usize>,
    /// The services that have a target at a peer, or were declared by it.
    users: BTreeMap<PeerId, BTreeSet<ServiceId>>,
    pub(super) people: People,
}

/// What a change can make different.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// Peers, in the plan of every gateway.
    pub peers: BTreeSet<PeerId>,
    /// Services, in the plan of every gateway.
    pub services: BTreeSet<ServiceId>,
    /// Gateways, in their own plan and in that of every other gateway and every agent.
    pub gateways: BTreeSet<GatewayId>,
    /// Agents whose own plan can differ.
    pub agents: BTreeSet<AgentId>,
    /// Shared policies, in the plan of every gateway.
    pub policies: BTreeSet<PolicyId>,
    /// People, in the plan of every gateway.
    pub people: BTreeSet<UserId>,
    /// Service tokens, in the plan of every gateway.
    pub service_tokens: BTreeSet<ServiceTokenId>,
    /// Where visitors sign in, in the plan of every gateway.
    pub sign_in: bool,
}

impl Touched {
    /// Whether nothing can be different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, record: RecordId) {
        match record {
            RecordId::Node(NodeId::Agent(id)) => {
                self.peers.insert(id.into());
                self.agents.insert(id);
            }
            RecordId::Node(NodeId::Gateway(id)) => {
                self.gateways.insert(id);
            }
            RecordId::Site(id) => {
                self.peers.insert(id.into());
            }
            RecordId::Service(id) => {
                self.services.insert(id);
            }
            RecordId::Policy(id) => {
                self.policies.insert(id);
            }
            RecordId::ServiceToken(id) => {
                self.service_tokens.insert(id);
            }
            // Who depends on these, the landscape finds out; of all others no node is told.
            _ => {}
        }
    }
}

impl Landscape {
    /// An empty organization in this overlay.
    #[must_use]
    pub fn new(overlay: Overlay) -> Self {
        Self {
            overlay,
            nodes: BTreeMap::new(),
            sites: BTreeMap::new(),
            services: BTreeMap::new(),
            policies: BTreeMap::new(),
            service_tokens: BTreeMap::new(),
            attached: BTreeMap::new(),
            users: BTreeMap::new(),
            people: People::default(),
        }
    }

    /// Takes a record as it is now (`None`: it is gone), and adds to `touched` what that can make different.
    pub fn set(&mut self, id: RecordId, record: Option<StoreRecord>, touched: &mut Touched) {
        touched.add(id);
        match (id, record) {
            (RecordId::Node(id), Some(StoreRecord::Node(node))) => {
                let active = node.is_active();
                let before = self.nodes.insert(id, node);
                if before.is_none_or(|before| before.is_active() != active) {
                    self.touch_users(id, touched);
                }
            }
            (RecordId::Node(id), _) => {
                self.nodes.remove(&id);
                self.touch_users(id, touched);
            }
            (RecordId::Site(id), record) => {
                match record {
                    Some(StoreRecord::Site(site)) => self.sites.insert(id, site),
                    _ => self.sites.remove(&id),
                };
                touched.services.extend(self.users_of(id.into()));
            }
            (RecordId::Service(id), record) => {
                let before = match record {
                    Some(StoreRecord::Service(service)) => self.services.insert(id, service),
                    _ => self.services.remove(&id),
                };
                let asks = self.services.get(&id).is_some_and(|service| {
                    Needs::of(&service.policy.rules, Some(&service.policy.access)).people()
                });
                self.people.set_asking(id.into(), asks, &mut touched.people);
                self.index(id, before.as_ref(), touched);
                self.count_attached(id, before.as_ref(), touched);
            }
            (RecordId::Policy(id), record) => {
                match record {
                    Some(StoreRecord::Policy(policy)) => self.policies.insert(id, policy),
                    _ => self.policies.remove(&id),
                };
                let asks = self
                    .policies
                    .get(&id)
                    .is_some_and(|policy| Needs::of(&policy.rules, policy.access.as_ref()).people());
                self.people.set_asking(id.into(), asks, &mut touched.people);
            }
            (RecordId::ServiceToken(id), record) => {
                match record {
                    Some(StoreRecord::ServiceToken(token)) => self.service_tokens.insert(id, token),
                    _ => self.service_tokens.remove(&id),
                };
            }
            (RecordId::Member(id), record) => {
                let member = match record {
                    Some(StoreRecord::Member(member)) => Some(member),
                    _ => None,
                };
                self.people.set_member(id, member, &mut touched.people);
            }
            (RecordId::User(id), record) => {
                let user = match &record {
                    Some(StoreRecord::User(user)) => Some(user),
                    _ => None,
                };
                self.people.set_user(id, user, &mut touched.people);
            }
            (RecordId::Role(id), record) => {
                let role = match &record {
                    Some(StoreRecord::Role(role)) => Some(role),
                    _ => None,
                };
                self.people.set_role(id, role, &mut touched.people);
            }
            (RecordId::Group(id), record) => {
                let group = match &record {
                    Some(StoreRecord::Group(group)) => Some(group),
                    _ => None,
                };
                self.people.set_group(id, group, &mut touched.people);
            }
            _ => {}
        }
    }

    /// A node, if it takes part.
    #[must_use]
    pub fn active(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id).filter(|node| node.is_active())
    }

    /// What others are told of the keys that a node had before, while they count.
    pub(super) fn previous_keys(&self, id: NodeId) -> Option<PlannedPreviousKeys> {
        let previous = self.active(id)?.rotation.previous?;
        Some(PlannedPreviousKeys {
            node: id,
            identity: previous.identity,
            wireguard: previous.wireguard,
        })
    }

    /// Every agent, revoked ones too.
    pub(super) fn agents(&self) -> impl Iterator<Item = AgentId> {
        self.nodes.keys().filter_map(|id| match id {
            NodeId::Agent(id) => Some(*id),
            NodeId::Gateway(_) => None,
        })
    }

    /// Every gateway, revoked ones too.
    pub(super) fn gateways(&self) -> impl Iterator<Item = GatewayId> {
        self.nodes.keys().filter_map(|id| match id {
            NodeId::Gateway(id) => Some(*id),
            NodeId::Agent(_) => None,
        })
    }

    /// The ports at which visitors reach the HTTPS listeners of active gateways.
    pub(super) fn https_ports(&self) -> BTreeSet<u16> {
        let active = self.nodes.values().filter(|node| node.is_active());
        active.filter_map(gateway_of).map(|(_, port)| port).collect()
    }

    /// The services with something at a peer.
    pub(super) fn users_of(&self, peer: PeerId) -> impl Iterator<Item = ServiceId> {
        self.users.get(&peer).into_iter().flatten().copied()
    }

    /// Whether a policy is attached to anything.
    pub(super) fn is_attached(&self, policy: PolicyId) -> bool {
        self.attached.contains_key(&policy)
    }

    fn count_attached(&mut self, id: ServiceId, before: Option<&Service>, touched: &mut Touched) {
        for policy in before.map(Service::attached).unwrap_or_default() {
            if let Some(count) = self.attached.get_mut(&policy) {
                *count -= 1;
                if *count == 0 {
                    self.attached.remove(&policy);
                }
            }
            touched.policies.insert(policy);
        }
        for policy in self.services.get(&id).map(Service::attached).unwrap_or_default() {
            *self.attached.entry(policy).or_default() += 1;
            touched.policies.insert(policy);
        }
    }

    fn touch_users(&self, node: NodeId, touched: &mut Touched) {
        if let NodeId::Agent(id) = node {
            touched.services.extend(self.users_of(id.into()));
        }
    }

    fn index(&mut self, id: ServiceId, before: Option<&Service>, touched: &mut Touched) {
        let touch = |peer: PeerId, touched: &mut Touched| {
            if let PeerId::Agent(agent) = peer {
                touched.agents.insert(agent);
            }
        };
        for peer in before.into_iter().flat_map(peers_of) {
            touch(peer, touched);
            if let Some(users) = self.users.get_mut(&peer) {
                users.remove(&id);
                if users.is_empty() {
                    self.users.remove(&peer);
                }
            }
        }
        for peer in self.services.get(&id).into_iter().flat_map(peers_of) {
            touch(peer, touched);
            self.users.entry(peer).or_default().insert(id);
        }
    }
}

fn peers_of(service: &Service) -> impl Iterator<Item = PeerId> {
    let by_target = service.targets().map(|target| match &target.place {
        TargetPlace::Agent { agent, .. } => PeerId::from(*agent),
        TargetPlace::Site { site, .. } => PeerId::from(*site),
    });
    by_target.chain(service.lifetime.declared_by().map(PeerId::from))
}

/// Where agents reach a gateway, and the port of its HTTPS listener.
pub(super) fn gateway_of(node: &Node) -> Option<(&[Endpoint], u16)> {
    match &node.kind {
        NodeKind::Gateway {
            endpoints,
            https_port,
            ..
        } => Some((endpoints, *https_port)),
        NodeKind::Agent { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::store::conformance::sample;

    use super::*;

    fn set(landscape: &mut Landscape, record: impl Into<StoreRecord>) -> Touched {
        let record = record.into();
        let mut touched = Touched::default();
        landscape.set(record.id(), Some(record), &mut touched);
        touched
    }

    #[test]
    fn a_change_touches_who_depends_on_it_and_nobody_else() {
        let mut landscape = Landscape::new(Overlay::from_global_id([1; 5]));
        let (agent, other) = (sample::agent(0, 1), sample::agent(0, 2));
        let (NodeId::Agent(agent_id), NodeId::Agent(other_id)) = (agent.id, other.id) else {
            panic!("agents are agents");
        };
        set(&mut landscape, agent.clone());
        set(&mut landscape, other);
        let service = sample::http_service(0, 1);
        let touched = set(&mut landscape, service.clone());
        assert_eq!((touched.services.len(), touched.peers.len()), (1, 0));
        assert_eq!(touched.agents, BTreeSet::from([agent_id]));

        // A port counter is nobody's business but the agent's; revocation is the services' too.
        let touched = set(&mut landscape, agent.clone());
        assert!(touched.services.is_empty());
        let mut revoked = agent.clone();
        revoked.revoked = Some(sample::NOW);
        let touched = set(&mut landscape, revoked);
        assert_eq!(touched.services, BTreeSet::from([service.id]));
        assert!(landscape.active(agent.id).is_none());

        // A service that moves touches the agent that it leaves.
        let mut moved = service.clone();
        moved.kind = sample::http_service(0, 2).kind;
        let touched = set(&mut landscape, moved);
        assert_eq!(touched.agents, BTreeSet::from([agent_id, other_id]));
        let mut touched = Touched::default();
        landscape.set(service.id.into(), None, &mut touched);
        assert_eq!(touched.agents, BTreeSet::from([other_id]));
        assert!(landscape.users.is_empty());
        assert!(set(&mut landscape, sample::token(0, 1)).is_empty());
    }
}
