//! Organizations, nodes and sites.

use std::{net::Ipv4Addr, time::Duration};

use crate::{
    id::{NodeId, OrganizationId, SiteId, TokenId},
    key::{IdentityKey, SigningKey, WireGuardKey},
    model::{DeclareScope, Labels, Rotation, VirtualPort},
    name::Label,
    net::{Cidr, Endpoint},
    time::Timestamp,
};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// Its identifier.
    pub id: OrganizationId,
    /// Its name, unique in this Control.
    pub name: Label,
    /// What it asks of the accounts of its members.
    pub accounts: AccountPolicy,
    /// When it was made.
    pub created: Timestamp,
}

/// What an organization asks of the accounts of its members, whenever they act in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountPolicy {
    /// Whether two factors are asked for.
    pub multi_factor: bool,
    /// How long a session counts after it began; as long as it lasts, unless this is shorter.
    pub session_life: Option<Duration>,
    /// Whether a password counts, alone or with a second factor.
    pub passwords: bool,
}

impl Default for AccountPolicy {
    /// Asks for nothing.
    fn default() -> Self {
        Self {
            multi_factor: false,
            session_life: None,
            passwords: true,
        }
    }
}

/// A process that enrolled: an agent or a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its identifier, which tells the role.
    pub id: NodeId,
    /// The owner.
    pub organization: OrganizationId,
    /// Its name, unique in the organization.
    pub name: Label,
    /// Who it is; made on the node, only the public half is known here.
    pub identity: IdentityKey,
    /// Its WireGuard key; likewise.
    pub wireguard: WireGuardKey,
    /// The token it enrolled with.
    pub token: TokenId,
    /// When it enrolled.
    pub created: Timestamp,
    /// When it was revoked, if it was: its connections are refused and it is in nobody's plan.
    pub revoked: Option<Timestamp>,
    /// Set while it waits for somebody to approve it: until then its connections are refused, and it is in nobody's
    /// plan.
    pub pending: Option<Pending>,
    /// What people find it by. They mean nothing to the node itself.
    pub labels: Labels,
    /// How its keys follow each other.
    pub rotation: Rotation,
    /// What only an agent, or only a gateway, has.
    pub kind: NodeKind,
}

impl Node {
    /// Whether the node takes part.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self.state(), NodeState::Active)
    }

    /// How it is with the node.
    #[must_use]
    pub const fn state(&self) -> NodeState {
        if self.revoked.is_some() {
            NodeState::Revoked
        } else if self.pending.is_some() {
            NodeState::Pending
        } else {
            NodeState::Active
        }
    }
}

/// How it is with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeState {
    /// It waits for approval.
    Pending,
    /// It takes part.
    Active,
    /// It was refused or revoked.
    Revoked,
}

/// The most nodes of one organization that wait for approval at a time. One more is told to come back later.
pub const MAX_PENDING_NODES: u16 = 100;

/// A node waits for approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Its place among those that wait, below [`MAX_PENDING_NODES`]. No other node of the organization has it, so
    /// that there are never more.
    pub place: u16,
    /// Until when it waits; then it is forgotten.
    pub until: Timestamp,
}

/// What only one role has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// An agent.
    Agent {
        /// What it may declare, copied from its token.
        declare: DeclareScope,
        /// The virtual port that the next target gets. It only grows: a port is never given twice.
        next_port: VirtualPort,
    },
    /// A gateway.
    Gateway {
        /// Where agents reach its WireGuard socket, best first.
        endpoints: Vec<Endpoint>,
        /// The port at which visitors reach its HTTPS listener.
        https_port: u16,
        /// Its IPv4 address toward stock WireGuard sites, from [`OVERLAY_V4`](crate::net::OVERLAY_V4).
        address_v4: Ipv4Addr,
        /// What it signs session cookies with; at most [`MAX_SIGNING_KEYS`](crate::plan::MAX_SIGNING_KEYS).
        signing_keys: Vec<SigningKey>,
    },
}

/// A stock WireGuard device and the networks behind it. It speaks to every gateway of its
/// organization under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its identifier.
    pub id: SiteId,
    /// The owner.
    pub organization: OrganizationId,
    /// Its name, unique in the organization.
    pub name: Label,
    /// The device's public key.
    pub wireguard: WireGuardKey,
    /// The device's own IPv4 address in the overlay, from [`OVERLAY_V4`](crate::net::OVERLAY_V4). Its
    /// IPv6 address follows from its identifier.
    pub address_v4: Ipv4Addr,
    /// The networks behind the device.
    pub networks: Vec<Cidr>,
    /// Where the device listens, if gateways are to reach out; otherwise it dials.
    pub endpoint: Option<Endpoint>,
    /// When it was made.
    pub created: Timestamp,
}
