//! What a caller needs to be allowed.

use std::fmt;

use kakuremichi_core::model::Permission;

use crate::service::Actor;

/// What a route needs. Every route has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// Nothing: it tells nothing that is not public, or proves the caller itself.
    Public,
    /// Nothing yet: nodes prove themselves on the link.
    Link,
    /// To be somebody.
    Anybody,
    /// To be a person who signed in: it is about their own account.
    Person,
    /// To administer this Control.
    Administrator,
    /// A permission in the organization.
    Permission(Permission),
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "everybody",
            Self::Link => "nodes, which prove themselves on the connection",
            Self::Anybody => "every caller",
            Self::Person => "a person who signed in",
            Self::Administrator => "an administrator of this Control",
            Self::Permission(permission) => permission.as_str(),
        })
    }
}

impl Requirement {
    /// Whether the route is for everybody.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Public | Self::Link)
    }

    /// Whether somebody fulfils it. What belongs to another organization is not there for them, whatever they may
    /// do in their own.
    #[must_use]
    pub(crate) fn is_met_by(self, actor: &Actor) -> bool {
        match self {
            Self::Public | Self::Link => true,
            Self::Anybody => actor.principal.is_some(),
            Self::Person => actor.person.is_some(),
            Self::Administrator => actor.principal.is_some() && actor.administers(),
            Self::Permission(permission) => actor.principal.is_some() && actor.may(permission),
        }
    }

    /// What whoever does not fulfil it is told.
    pub(crate) fn refusal(self) -> String {
        match self {
            Self::Public | Self::Link | Self::Anybody => "the credential does not allow this".to_owned(),
            Self::Person => "only a person who signed in can do this".to_owned(),
            Self::Administrator => "only an administrator of this Control can do this".to_owned(),
            Self::Permission(permission) => {
                format!("the credential does not allow this: the permission `{permission}` is missing")
            }
        }
    }
}
