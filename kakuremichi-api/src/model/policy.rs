//! Who may reach a service.
//!
//! What a newer Control has and this client does not know is kept as it came, so that a policy that is read, changed and
//! put back loses nothing: it would let people past who were not before. A part with a field that is not known is one that is
//! not known.

use kakuremichi_core::id::PolicyId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::{OffsetDateTime, serde::rfc3339};

use super::{condition::Condition, condition::Strength, text};
use crate::resource::{Create, Delete, Replace, Resource};

/// Who may reach a service: rules first, in order; then, for whom no rule decided, the access.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// The rules; the first whose condition holds decides.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// What is asked of visitors for whom no rule decided.
    #[serde(default)]
    pub access: Access,
    /// What this client does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Policy {
    /// Everybody may pass.
    #[must_use]
    pub fn public() -> Self {
        Access::Public.into()
    }
}

impl From<Access> for Policy {
    /// Without rules.
    fn from(access: Access) -> Self {
        Self {
            access,
            ..Self::default()
        }
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, for logs.
    pub name: String,
    /// When it holds.
    pub when: Condition,
    /// What it does.
    pub effect: Effect,
    /// It is only tried out: what it would do is logged and shown by the simulator, and not done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What this client does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Rule {
    /// A rule that counts.
    #[must_use]
    pub fn new(name: impl Into<String>, when: Condition, effect: Effect) -> Self {
        Self {
            name: name.into(),
            when,
            effect,
            dry_run: false,
            other: Map::new(),
        }
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Effect {
    /// The visitor passes, without proving anything.
    Allow,
    /// The visitor is denied.
    Deny,
    /// The visitor goes on to the methods, past all rules behind this one.
    Continue,
    /// What this client does not know.
    #[serde(untagged)]
    Other(Value),
}

/// What is asked of visitors for whom no rule decided.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Access {
    /// They are denied.
    #[default]
    Deny,
    /// They pass.
    Public,
    /// They pass once they have proven themselves by one of these.
    AnyOf(Vec<Method>),
    /// They pass once they have proven themselves by each of these.
    AllOf(Vec<Method>),
    /// What this client does not know.
    #[serde(untagged)]
    Other(Value),
}

/// A way to prove who one is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// Name and password by HTTP Basic authentication.
    Basic(Basic),
    /// Whoever has signed in at Control, or is proven by the gateway's authenticator.
    SignedIn,
    /// Whoever has signed in so, and meets this.
    SignedInAs(Requirement),
    /// A service token, which a program shows.
    ServiceToken(ServiceTokens),
    /// What this client does not know.
    #[serde(untagged)]
    Other(Value),
}

/// Names and passwords.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// Who may pass.
    pub users: Vec<BasicUser>,
}

/// A name and a password. What is read has neither form of the password; in a change, a user without it keeps the one that
/// is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicUser {
    /// The name.
    pub name: String,
    /// The password; Control stores its Argon2id hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// In place of the password: its Argon2id hash in PHC string format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
}

impl BasicUser {
    /// A user with a password.
    #[must_use]
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            password: Some(password.into()),
            ..Self::kept(name)
        }
    }

    /// A user who keeps the password that is stored.
    #[must_use]
    pub fn kept(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            password: None,
            password_hash: None,
        }
    }
}

impl std::fmt::Debug for BasicUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BasicUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What somebody who signed in must be, too. The default asks for nothing more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// One of these roles, if any are given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// In one of these groups, if any are given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// At least this strongly proven.
    #[serde(default)]
    pub strength: Strength,
    /// How long ago they may have signed in, or confirmed that it is them, in seconds; any time if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u32>,
}

/// Which service tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTokens {
    /// These, by identifier or name; any of the organization's if there are none here. What is read has identifiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<String>,
}

/// A policy that services and routes share.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct SharedPolicy {
    /// Its identifier.
    #[serde(deserialize_with = "text::deserialize")]
    pub id: PolicyId,
    /// Its name.
    pub name: String,
    /// The rules.
    pub rules: Vec<Rule>,
    /// What is asked of visitors for whom no rule decided; that is left to the service if there is nothing here.
    pub access: Option<Access>,
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A shared policy as somebody asks for it. It does nothing until it is attached to a service or a route.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SharedPolicyDraft {
    /// Its name.
    pub name: String,
    /// The rules; the first whose condition holds decides.
    pub rules: Vec<Rule>,
    /// What is asked of visitors for whom no rule decided; that is left to the service if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

impl SharedPolicy {
    /// What it is, to be changed and [put](crate::Api::replace) back.
    #[must_use]
    pub fn draft(&self) -> SharedPolicyDraft {
        SharedPolicyDraft {
            name: self.name.clone(),
            rules: self.rules.clone(),
            access: self.access.clone(),
        }
    }
}

impl Resource for SharedPolicy {
    const COLLECTION: &'static str = "policies";
    const SCHEMA: &'static str = "SharedPolicyView";
    type Id = PolicyId;
}

impl Create for SharedPolicy {
    type Draft = SharedPolicyDraft;
    type Made = Self;
}

impl Replace for SharedPolicy {}
impl Delete for SharedPolicy {}
