//! Enrolment tokens, API keys and service tokens.

use std::{collections::BTreeMap, time::Duration};

use kakuremichi_core::{
    id::{ApiKeyId, ServiceTokenId, TokenId},
    secret::Secret,
};
use serde::{Deserialize, Deserializer, Serialize};
use time::{OffsetDateTime, serde::rfc3339};

use super::{node::NodeRole, text};
use crate::resource::{Create, Delete, Resource, Revoke, Update};

/// What agents may declare by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Hosts that their HTTP services may have, such as `*.example.net`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Ports, or ranges such as `8000-8999`, that their TCP and UDP services may have.
    #[serde(default)]
    pub ports: Vec<String>,
}

/// Whether somebody has to approve nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// They are let in at once.
    #[default]
    None,
    /// Each waits until somebody approves it.
    Required,
}

/// An enrolment token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Token {
    /// Its identifier.
    #[serde(deserialize_with = "text::deserialize")]
    pub id: TokenId,
    /// What it is for.
    pub name: String,
    /// What the nodes are to be.
    pub role: NodeRole,
    /// How many nodes may still enrol; `None` when any number may.
    pub uses_left: Option<u32>,
    /// When it ends.
    #[serde(default, with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    #[serde(default, with = "rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// What agents that enrol with it may declare.
    pub declare: Scope,
    /// Whether somebody has to approve each node that enrols with it.
    pub approval: Approval,
    /// The labels that nodes begin with.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// An enrolment token to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenDraft {
    /// What it is for.
    pub name: String,
    /// What the nodes are to be.
    pub role: NodeRole,
    /// How many nodes may enrol with it, if not [`unlimited`](Self::unlimited).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// Any number of nodes may enrol with it.
    pub unlimited: bool,
    /// In how many seconds it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// What agents that enrol with it may declare.
    pub declare: Scope,
    /// Whether somebody has to approve each node that enrols with it.
    pub approval: Approval,
    /// The labels that nodes begin with.
    pub labels: BTreeMap<String, String>,
}

impl TokenDraft {
    /// A token for one node, that ends in an hour.
    #[must_use]
    pub fn new(name: impl Into<String>, role: NodeRole) -> Self {
        Self {
            name: name.into(),
            role,
            uses: Some(1),
            unlimited: false,
            expires_in: Some(Duration::from_secs(3600).as_secs()),
            declare: Scope::default(),
            approval: Approval::None,
            labels: BTreeMap::new(),
        }
    }
}

/// An enrolment token that was made.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct NewToken {
    /// What nodes enrol with. Control shows it this once.
    #[serde(deserialize_with = "secret")]
    pub token: Secret<String>,
    /// What it is from now on.
    #[serde(flatten)]
    pub view: Token,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ApiKey {
    /// Its identifier.
    #[serde(deserialize_with = "text::deserialize")]
    pub id: ApiKeyId,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub permissions: Vec<String>,
    /// When it ends.
    #[serde(default, with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// An API key to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiKeyDraft {
    /// What it is for.
    pub name: String,
    /// What it may do; whatever its maker may do, if this is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<String>>,
    /// In how many seconds it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// An API key that was made.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct NewApiKey {
    /// What to send as a bearer token. Control shows it this once.
    #[serde(deserialize_with = "secret")]
    pub key: Secret<String>,
    /// What it is from now on.
    #[serde(flatten)]
    pub view: ApiKey,
}

/// A service token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ServiceToken {
    /// Its identifier, which targets are told as who asks.
    #[serde(deserialize_with = "text::deserialize")]
    pub id: ServiceTokenId,
    /// What it is for.
    pub name: String,
    /// When it ends.
    #[serde(default, with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A service token to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceTokenDraft {
    /// What it is for, unique in the organization.
    pub name: String,
    /// In how many seconds it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// What can be changed of a service token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ServiceTokenChange {
    /// Its name; as it was, if this is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// In how many seconds it ends; as it was, if this is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// A service token that was made.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct NewServiceToken {
    /// What a program shows at services. Control shows it this once.
    #[serde(deserialize_with = "secret")]
    pub token: Secret<String>,
    /// What it is from now on.
    #[serde(flatten)]
    pub view: ServiceToken,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret<String>, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

impl Resource for Token {
    const COLLECTION: &'static str = "tokens";
    const SCHEMA: &'static str = "TokenView";
    type Id = TokenId;
}

impl Create for Token {
    type Draft = TokenDraft;
    type Made = NewToken;
}

impl Revoke for Token {}
impl Delete for Token {}

impl Resource for ApiKey {
    const COLLECTION: &'static str = "api-keys";
    const SCHEMA: &'static str = "ApiKeyView";
    type Id = ApiKeyId;
}

impl Create for ApiKey {
    type Draft = ApiKeyDraft;
    type Made = NewApiKey;
}

impl Delete for ApiKey {}

impl Resource for ServiceToken {
    const COLLECTION: &'static str = "service-tokens";
    const SCHEMA: &'static str = "ServiceTokenView";
    type Id = ServiceTokenId;
}

impl Create for ServiceToken {
    type Draft = ServiceTokenDraft;
    type Made = NewServiceToken;
}

impl Update for ServiceToken {
    type Change = ServiceTokenChange;
}

impl Delete for ServiceToken {}
