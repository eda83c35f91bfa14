//! Policies.

use serde::{Deserialize, Serialize};

use super::Cidr;
use crate::codec::List;

/// Who may reach a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The rules; the first whose condition holds decides.
    pub rules: List<Rule, 256>,
    /// What is asked of whom no rule decided about.
    pub access: Access,
}

/// Decides about the visitors for whom its condition holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// When it holds: a tree, each node before its children.
    pub when: List<ConditionNode, 256>,
    /// What it does.
    pub effect: Effect,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// The visitor passes.
    Allow,
    /// The visitor is denied.
    Deny,
}

/// A node of a condition. The tree is written flat, so that no depth of nesting reaches the decoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionNode {
    /// All of so many that follow hold.
    All(u16),
    /// One of so many that follow holds.
    Any(u16),
    /// The one that follows does not hold.
    Not,
    /// The canonical path matches.
    Path(String),
    /// The method is this one.
    Method(String),
    /// The visitor's address lies in the network.
    Source(Cidr),
    /// The visitor has proven to be this subject.
    Subject(String),
}

/// What happens to visitors about whom no rule decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// They are denied.
    Deny,
    /// They pass.
    Public,
    /// They pass once they have proven themselves by one of these.
    AnyOf(List<Method, 16>),
}

/// A way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// HTTP Basic.
    Basic(List<BasicUser, 256>),
    /// Whatever the gateway's authenticators prove.
    SignedIn,
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasicUser {
    /// The name.
    pub name: String,
    /// The password's hash, as a PHC string.
    pub password_hash: String,
}

impl std::fmt::Debug for BasicUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BasicUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
