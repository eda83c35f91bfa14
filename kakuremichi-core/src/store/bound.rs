//! How much there may be of a kind.

use super::RecordKind;

/// The most members of an organization.
const MAX_MEMBERS: usize = 10_000;
/// The most roles of an organization.
const MAX_ROLES: usize = 500;
/// The most groups of an organization.
const MAX_GROUPS: usize = 1_000;
/// The most API keys of an organization.
const MAX_API_KEYS: usize = 1_000;
/// The most invitations of an organization that were neither accepted nor taken back.
const MAX_INVITATIONS: usize = 1_000;
/// The most enrolment tokens of an organization, used up or not.
const MAX_TOKENS: usize = 10_000;
/// The most service tokens of an organization.
const MAX_SERVICE_TOKENS: usize = 1_000;
/// The most shared policies of an organization.
const MAX_POLICIES: usize = 1_000;
/// The most notification channels of an organization.
const MAX_CHANNELS: usize = 16;

impl RecordKind {
    /// How many records of this kind one organization can have; one more cannot be created. Of kinds without such a
    /// bound something else bounds the number: the size of plans that of nodes, sites and services, the members that
    /// of users, each user's own that of sessions, whoever makes them that of identity providers.
    #[must_use]
    pub const fn most_in_organization(self) -> Option<usize> {
        Some(match self {
            Self::Member => MAX_MEMBERS,
            Self::Role => MAX_ROLES,
            Self::Group => MAX_GROUPS,
            Self::ApiKey => MAX_API_KEYS,
            Self::Invitation => MAX_INVITATIONS,
            Self::Token => MAX_TOKENS,
            Self::Policy => MAX_POLICIES,
            Self::Channel => MAX_CHANNELS,
            Self::ServiceToken => MAX_SERVICE_TOKENS,
            Self::Organization
            | Self::Node
            | Self::Site
            | Self::Service
            | Self::User
            | Self::Session
            | Self::IdentityProvider => return None,
        })
    }
}
