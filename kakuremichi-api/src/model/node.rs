//! Nodes and sites.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use kakuremichi_core::id::{NodeId, SiteId};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, serde::rfc3339};

use super::{credential::Scope, text};
use crate::resource::{Create, Delete, Replace, Resource, Revoke, Update};

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// An agent.
    Agent,
    /// A gateway.
    Gateway,
}

/// How it is with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It waits for approval.
    Pending,
    /// It takes part.
    Active,
    /// It was refused or revoked.
    Revoked,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Node {
    /// Its identifier.
    #[serde(deserialize_with = "text::deserialize")]
    pub id: NodeId,
    /// What it is.
    pub role: NodeRole,
    /// Its name.
    pub name: String,
    /// How it is with it.
    pub state: NodeState,
    /// Until when it waits for approval.
    #[serde(default, with = "rfc3339::option")]
    pub pending_until: Option<OffsetDateTime>,
    /// What people find it by.
    pub labels: BTreeMap<String, String>,
    /// Its identity: an Ed25519 public key, base 64.
    pub identity_key: String,
    /// Its WireGuard public key, base 64.
    pub wireguard_key: String,
    /// When it got the keys that it has; `None` where these are the ones that it enrolled with.
    #[serde(default, with = "rfc3339::option")]
    pub keys_rotated_at: Option<OffsetDateTime>,
    /// Until when the keys that it had before count beside them.
    #[serde(default, with = "rfc3339::option")]
    pub previous_keys_until: Option<OffsetDateTime>,
    /// Since when it is asked for new keys.
    #[serde(default, with = "rfc3339::option")]
    pub keys_asked_at: Option<OffsetDateTime>,
    /// Its address in the overlay.
    pub address: Ipv6Addr,
    /// Whether it is connected to Control. It serves without that, too.
    pub connected: bool,
    /// Since when it is connected.
    #[serde(default, with = "rfc3339::option")]
    pub connected_at: Option<OffsetDateTime>,
    /// When its last connection ended, as far as is known.
    #[serde(default, with = "rfc3339::option")]
    pub disconnected_at: Option<OffsetDateTime>,
    /// When it was revoked.
    #[serde(default, with = "rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// The token that it enrolled with.
    pub token: String,
    /// What only an agent has.
    pub agent: Option<Agent>,
    /// What only a gateway has.
    pub gateway: Option<Gateway>,
    /// When it enrolled.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What only an agent has.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Agent {
    /// What it may declare by itself.
    pub declare: Scope,
}

/// What only a gateway has.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Gateway {
    /// Where agents and sites reach its WireGuard socket, best first.
    pub endpoints: Vec<String>,
    /// The port at which visitors reach its HTTPS listener.
    pub https_port: u16,
    /// Its IPv4 address toward stock WireGuard devices.
    pub address_v4: Ipv4Addr,
}

/// What can be changed of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeChange {
    /// Its name; as it was, if this is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All its labels; as they were, if this is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// How a node gets new keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KeyRotation {
    /// For how many seconds the keys of before count beside the new ones; a day, if this is `None`. With 0 they do not
    /// count at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<u32>,
}

/// A stock WireGuard device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Site {
    /// Its identifier.
    #[serde(deserialize_with = "text::deserialize")]
    pub id: SiteId,
    /// Its name.
    pub name: String,
    /// Its WireGuard public key, base 64.
    pub wireguard_key: String,
    /// The IPv4 address that the device is to have.
    pub address_v4: Ipv4Addr,
    /// The IPv6 address that the device is to have.
    pub address: Ipv6Addr,
    /// The networks behind it.
    pub networks: Vec<String>,
    /// Where it listens, if gateways reach out.
    pub endpoint: Option<String>,
    /// When it was added.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A stock WireGuard device to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteDraft {
    /// Its name.
    pub name: String,
    /// Its WireGuard public key, base 64, as `wg pubkey` prints it.
    pub wireguard_key: String,
    /// The networks behind it.
    pub networks: Vec<String>,
    /// Where it listens, if gateways are to reach out; otherwise it dials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

impl Resource for Node {
    const COLLECTION: &'static str = "nodes";
    const SCHEMA: &'static str = "NodeView";
    type Id = NodeId;
}

impl Update for Node {
    type Change = NodeChange;
}

impl Revoke for Node {}

impl Resource for Site {
    const COLLECTION: &'static str = "sites";
    const SCHEMA: &'static str = "SiteView";
    type Id = SiteId;
}

impl Create for Site {
    type Draft = SiteDraft;
    type Made = Self;
}

impl Replace for Site {}
impl Delete for Site {}
