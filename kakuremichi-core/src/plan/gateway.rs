//! What a gateway is told to be.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    GatewayMember, GatewayServiceToken, GatewaySignIn, GatewaySigner, Plan, PlannedPreviousKeys, Record,
};
use crate::{
    id::{
        AgentId, GatewayId, NodeId, OrganizationId, PeerId, PolicyId, RouteId, ServiceId, ServiceTokenId,
        SiteId, TargetId, UserId,
    },
    key::{IdentityKey, WireGuardKey},
    model::{IdentityForm, TargetScheme, VirtualPort},
    name::{HostPattern, Hostname, Label, PathPattern},
    net::{Cidr, Endpoint},
    policy::{Access, Policy, Rule},
};

/// The desired state of one gateway.
pub type GatewayPlan = Plan<GatewayRecord>;

/// A part of a gateway's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayRecord {
    /// The gateway itself.
    Node(GatewayNode),
    /// An agent or a site.
    Peer(GatewayPeer),
    /// A service.
    Service(GatewayService),
    /// Another gateway.
    Sibling(GatewaySibling),
    /// A policy that services share.
    Policy(GatewayPolicy),
    /// Where visitors sign in.
    SignIn(GatewaySignIn),
    /// A gateway whose session cookies are taken.
    Signer(GatewaySigner),
    /// A person who may sign in.
    Member(GatewayMember),
    /// A service token.
    ServiceToken(GatewayServiceToken),
    /// The keys that an agent or a gateway had before.
    PreviousKeys(PlannedPreviousKeys),
}

/// The key of a [`GatewayRecord`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GatewayKey {
    /// The gateway itself.
    Node,
    /// A peer.
    Peer(PeerId),
    /// A service.
    Service(ServiceId),
    /// Another gateway.
    Sibling(GatewayId),
    /// A policy.
    Policy(PolicyId),
    /// Where visitors sign in.
    SignIn,
    /// A gateway whose session cookies are taken.
    Signer(GatewayId),
    /// A person who may sign in to services of this organization.
    Member(OrganizationId, UserId),
    /// A service token.
    ServiceToken(ServiceTokenId),
    /// The keys that a node had before.
    PreviousKeys(NodeId),
}

impl Record for GatewayRecord {
    type Key = GatewayKey;

    fn key(&self) -> GatewayKey {
        match self {
            Self::Node(_) => GatewayKey::Node,
            Self::Peer(peer) => GatewayKey::Peer(peer.id),
            Self::Service(service) => GatewayKey::Service(service.id),
            Self::Sibling(sibling) => GatewayKey::Sibling(sibling.id),
            Self::Policy(policy) => GatewayKey::Policy(policy.id),
            Self::SignIn(_) => GatewayKey::SignIn,
            Self::Signer(signer) => GatewayKey::Signer(signer.id),
            Self::Member(member) => GatewayKey::Member(member.organization, member.user),
            Self::ServiceToken(token) => GatewayKey::ServiceToken(token.id),
            Self::PreviousKeys(keys) => GatewayKey::PreviousKeys(keys.node),
        }
    }

    fn service(&self) -> Option<ServiceId> {
        match self {
            Self::Service(service) => Some(service.id),
            Self::Node(_)
            | Self::Peer(_)
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

impl GatewayPlan {
    /// The gateway itself; absent only in the empty plan.
    #[must_use]
    pub fn node(&self) -> Option<&GatewayNode> {
        match self.get(GatewayKey::Node) {
            Some(GatewayRecord::Node(node)) => Some(node),
            _ => None,
        }
    }

    /// The peers, in the order of their identifiers.
    pub fn peers(&self) -> impl Iterator<Item = &GatewayPeer> {
        self.records().filter_map(|record| match record {
            GatewayRecord::Peer(peer) => Some(peer),
            _ => None,
        })
    }

    /// The services, in the order of their identifiers.
    pub fn services(&self) -> impl Iterator<Item = &GatewayService> {
        self.records().filter_map(|record| match record {
            GatewayRecord::Service(service) => Some(service),
            _ => None,
        })
    }

    /// The other gateways, in the order of their identifiers.
    pub fn siblings(&self) -> impl Iterator<Item = &GatewaySibling> {
        self.records().filter_map(|record| match record {
            GatewayRecord::Sibling(sibling) => Some(sibling),
            _ => None,
        })
    }

    /// The policies that services share, in the order of their identifiers.
    pub fn policies(&self) -> impl Iterator<Item = &GatewayPolicy> {
        self.records().filter_map(|record| match record {
            GatewayRecord::Policy(policy) => Some(policy),
            _ => None,
        })
    }

    /// Where visitors sign in, if they can.
    #[must_use]
    pub fn sign_in(&self) -> Option<&GatewaySignIn> {
        match self.get(GatewayKey::SignIn) {
            Some(GatewayRecord::SignIn(sign_in)) => Some(sign_in),
            _ => None,
        }
    }

    /// The gateways whose session cookies are taken, in the order of their identifiers.
    pub fn signers(&self) -> impl Iterator<Item = &GatewaySigner> {
        self.records().filter_map(|record| match record {
            GatewayRecord::Signer(signer) => Some(signer),
            _ => None,
        })
    }

    /// The people who may sign in, in the order of their organizations and identifiers.
    pub fn members(&self) -> impl Iterator<Item = &GatewayMember> {
        self.records().filter_map(|record| match record {
            GatewayRecord::Member(member) => Some(member),
            _ => None,
        })
    }

    /// The service tokens, in the order of their identifiers.
    pub fn service_tokens(&self) -> impl Iterator<Item = &GatewayServiceToken> {
        self.records().filter_map(|record| match record {
            GatewayRecord::ServiceToken(token) => Some(token),
            _ => None,
        })
    }

    /// The keys that an agent or a gateway had before, while they count.
    #[must_use]
    pub fn previous_keys(&self, node: NodeId) -> Option<&PlannedPreviousKeys> {
        match self.get(GatewayKey::PreviousKeys(node)) {
            Some(GatewayRecord::PreviousKeys(keys)) => Some(keys),
            _ => None,
        }
    }

    /// One service.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&GatewayService> {
        match self.get(GatewayKey::Service(id)) {
            Some(GatewayRecord::Service(service)) => Some(service),
            _ => None,
        }
    }
}

/// The gateway itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayNode {
    /// Its identifier.
    pub id: GatewayId,
    /// The owner.
    pub organization: OrganizationId,
    /// Its name.
    pub name: Label,
    /// Its address in the overlay.
    pub address: Ipv6Addr,
    /// Its IPv4 address toward stock WireGuard sites.
    pub address_v4: Ipv4Addr,
}

/// Somebody to whom the gateway's WireGuard device speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPeer {
    /// An agent or a site.
    pub id: PeerId,
    /// Its name.
    pub name: Label,
    /// Who it is, which an agent proves on TLS stream lanes. A site has WireGuard only.
    pub identity: Option<IdentityKey>,
    /// Its key.
    pub wireguard: WireGuardKey,
    /// The peer's own address in the overlay, where probes go.
    pub address: Ipv6Addr,
    /// The only networks from which its packets may come.
    pub allowed_ips: Vec<Cidr>,
    /// Where it listens, if the gateway is to reach out.
    pub endpoint: Option<Endpoint>,
}

/// Another gateway of the same deployment. The two hold a lane to each other, through which each passes on
/// flows to agents that only the other one has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySibling {
    /// Its identifier.
    pub id: GatewayId,
    /// The owner. It may ask for flows to this organization's services only.
    pub organization: OrganizationId,
    /// Its name.
    pub name: Label,
    /// Its key.
    pub wireguard: WireGuardKey,
    /// Its address in the overlay: the only source from which its packets may come.
    pub address: Ipv6Addr,
    /// Where its WireGuard socket is, best first.
    pub endpoints: Vec<Endpoint>,
}

/// A service as a gateway serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayService {
    /// Its identifier.
    pub id: ServiceId,
    /// The owner.
    pub organization: OrganizationId,
    /// Its name.
    pub name: Label,
    /// What is published.
    pub kind: PlannedKind,
    /// Who may reach it.
    pub policy: Policy,
    /// The shared policies that go before its own. They are records of their own, so that a change of one
    /// is one record however many services it is attached to; a service of which one is missing is denied.
    pub policies: Vec<PolicyId>,
}

/// A policy that services share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPolicy {
    /// Its identifier.
    pub id: PolicyId,
    /// The rules.
    pub rules: Vec<Rule>,
    /// What is asked of visitors for whom no rule decides, if it says that.
    pub access: Option<Access>,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedKind {
    /// HTTP at host names.
    Http {
        /// The hosts.
        hosts: Vec<HostPattern>,
        /// The routes.
        routes: Vec<PlannedRoute>,
        /// What the targets are told of who a visitor is.
        identity: IdentityForm,
    },
    /// Raw TCP on a port.
    Tcp {
        /// The port.
        port: u16,
        /// Where connections go.
        pool: PlannedPool,
    },
    /// Datagrams on a UDP port.
    Udp {
        /// The port.
        port: u16,
        /// Where sessions go.
        pool: PlannedPool,
    },
}

/// A route of an HTTP service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRoute {
    /// Its identifier.
    pub id: RouteId,
    /// The paths.
    pub path: PathPattern,
    /// Where requests go.
    pub pool: PlannedPool,
    /// The shared policies that go, for this route, between those of the service and the service's own.
    pub policies: Vec<PolicyId>,
}

/// Targets that serve the same thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlannedPool {
    /// The targets.
    pub targets: Vec<PlannedTarget>,
}

/// A target, as a gateway reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTarget {
    /// Its identifier, under which agents report its health.
    pub id: TargetId,
    /// How to get there.
    pub via: Via,
    /// What is spoken to it.
    pub scheme: TargetScheme,
    /// The name that an `https` target's certificate must have.
    pub server_name: Option<Hostname>,
    /// Whether its agent checks it: without a passing report it then gets no traffic while another
    /// target passes.
    pub checked: bool,
}

/// How to get to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Through an agent's virtual port.
    Agent {
        /// The agent.
        agent: AgentId,
        /// The port.
        port: VirtualPort,
    },
    /// Straight to an address behind a stock WireGuard device.
    Site {
        /// The site.
        site: SiteId,
        /// The address.
        address: SocketAddr,
    },
}
