//! Policies.
//!
//! The enumerations grow at their end, as registries of tags do: what is there keeps its bytes. A side
//! that meets a variant it does not know cannot read the record, and denies the service it is of.

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
    /// The visitor goes on to the methods.
    Continue,
    /// What [`Allow`](Self::Allow) would do is only reported.
    TryAllow,
    /// What [`Deny`](Self::Deny) would do is only reported.
    TryDeny,
    /// What [`Continue`](Self::Continue) would do is only reported.
    TryContinue,
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
    /// A header field was sent.
    HeaderPresent(String),
    /// A line of the header field is this.
    HeaderEqual(String, String),
    /// A line of the header field begins with this.
    HeaderPrefix(String, String),
    /// A line of the header field has this in it.
    HeaderContains(String, String),
    /// The visitor's address is of this country.
    Country(String),
    /// The visitor's address is of this autonomous system.
    Asn(u32),
    /// It is this time of the week.
    Time(TimeWindow),
    /// The visitor has signed in as this principal.
    User(Principal),
    /// The visitor has this role.
    Role(String),
    /// The visitor is in this group.
    Group(String),
    /// The visitor has signed in at least as strongly.
    Strength(Strength),
}

/// Hours of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeWindow {
    /// The days on which it begins, as bits; the lowest is Monday's.
    pub days: u8,
    /// The minute of the day at which it begins.
    pub from: u16,
    /// The minute of the day at which it is over.
    pub to: u16,
    /// The offset from UTC, in minutes.
    pub offset: i16,
}

/// Somebody, by who vouches for them and the name they have there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Who vouches.
    pub authority: String,
    /// The name.
    pub subject: String,
}

/// How strongly somebody signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strength {
    /// By one factor.
    OneFactor,
    /// By two.
    TwoFactors,
    /// By what no other site can pass on.
    PhishingResistant,
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
    /// They pass once they have proven themselves by each of these.
    AllOf(List<Method, 16>),
}

/// A way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// HTTP Basic.
    Basic(List<BasicUser, 256>),
    /// Whatever the gateway's authenticators prove.
    SignedIn,
    /// Whom the gateway's authenticators prove, if they meet this.
    SignedInAs(Requirement),
    /// One of these service tokens, or any of the organization's if there are none here.
    ServiceToken(List<[u8; 16], 64>),
    /// As [`SignedInAs`](Self::SignedInAs), and recently.
    SignedInWithin(RecentRequirement),
}

/// What somebody who signed in must be, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// One of these roles, if there are any here.
    pub roles: List<String, 64>,
    /// In one of these groups, if there are any here.
    pub groups: List<String, 64>,
    /// At least this strongly proven.
    pub strength: Strength,
}

/// What somebody who signed in recently must be, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentRequirement {
    /// What else.
    pub requirement: Requirement,
    /// How long ago the sign-in, or what confirmed it, may be, in seconds.
    pub max_age: u32,
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
