//! What a caller needs to be allowed.

use crate::service::Actor;

/// What a route needs. Every route has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Nothing: it tells nothing that is not public.
    Public,
    /// Nothing yet: nodes prove themselves on the link.
    Link,
    /// To be somebody.
    Anybody,
    /// To see enrolment tokens, never their secrets.
    TokensRead,
    /// To make and to revoke enrolment tokens.
    TokensWrite,
    /// To see nodes and their state.
    NodesRead,
    /// To rename, revoke and delete nodes.
    NodesWrite,
    /// To see sites.
    SitesRead,
    /// To add, change and delete sites.
    SitesWrite,
    /// To see services and their usage.
    ServicesRead,
    /// To publish, change and delete services.
    ServicesWrite,
    /// To see shared policies, and to try what services would decide.
    PoliciesRead,
    /// To make, change and delete shared policies.
    PoliciesWrite,
    /// To see API keys, never their secrets.
    ApiKeysRead,
    /// To make and to delete API keys.
    ApiKeysWrite,
}

impl Permission {
    /// Whether the route is for everybody.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Public | Self::Link)
    }

    /// Whether somebody has it. So far each who is known has every right in their organization; what belongs
    /// to another organization is not there for them, whatever the permission.
    #[must_use]
    pub(crate) const fn is_given_to(self, actor: &Actor) -> bool {
        match self {
            Self::Public | Self::Link => true,
            Self::Anybody
            | Self::TokensRead
            | Self::TokensWrite
            | Self::NodesRead
            | Self::NodesWrite
            | Self::SitesRead
            | Self::SitesWrite
            | Self::ServicesRead
            | Self::ServicesWrite
            | Self::PoliciesRead
            | Self::PoliciesWrite
            | Self::ApiKeysRead
            | Self::ApiKeysWrite => actor.principal.is_some(),
        }
    }
}
