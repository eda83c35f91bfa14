//! Identity providers: who else vouches for people.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    id::{OrganizationId, ProviderId, RoleId},
    name::Label,
    time::Timestamp,
};

/// The most scopes that a provider is asked for.
pub const MAX_PROVIDER_SCOPES: usize = 32;
/// The most groups of a provider that give roles.
pub const MAX_GROUP_ROLES: usize = 256;
/// The most identities of one user at providers.
pub const MAX_IDENTITIES: usize = 16;
/// The longest subject, in bytes (OpenID Connect Core 1.0, section 2).
pub const MAX_SUBJECT: usize = 255;

/// Somebody else with accounts, by which people sign in: of an organization, or of the whole Control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityProvider {
    /// Its identifier.
    pub id: ProviderId,
    /// The organization whose it is. Who signs in by such a one acts in that organization only, since its members
    /// decide what the provider says. One of nobody is the whole Control's.
    pub organization: Option<OrganizationId>,
    /// Its name, unique in the organization, or among those of the whole Control; people read it on a button.
    pub name: Label,
    /// How it is spoken to.
    pub protocol: ProviderProtocol,
    /// What the provider calls this Control.
    pub client_id: String,
    /// The secret that goes with it, sealed with a key that is not stored here.
    pub sealed_secret: Vec<u8>,
    /// What is asked for, besides `openid`: at most [`MAX_PROVIDER_SCOPES`].
    pub scopes: BTreeSet<String>,
    /// What the provider calls what it tells of people.
    pub claims: ClaimNames,
    /// Whether somebody whom nobody knows yet gets an account.
    pub provision: bool,
    /// Whether an account is made only for an address that the provider verified.
    pub require_verified: bool,
    /// Whether an address that the provider verified leads to the account that has it. Of the whole Control only.
    pub link_verified: bool,
    /// Whether the provider asks for a second factor.
    pub multi_factor: bool,
    /// Roles of whoever becomes a member.
    pub default_roles: BTreeSet<RoleId>,
    /// Roles by groups of the provider, which come and go with them: at most [`MAX_GROUP_ROLES`].
    pub group_roles: BTreeMap<String, RoleId>,
    /// When it was made.
    pub created: Timestamp,
}

/// How a provider is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderProtocol {
    /// OpenID Connect Core 1.0, with discovery.
    Oidc {
        /// The issuer, a URL.
        issuer: String,
    },
    /// OAuth 2.0 (RFC 6749), with a resource that tells who somebody is.
    OAuth2 {
        /// Where browsers are sent.
        authorize: String,
        /// Where codes are exchanged.
        token: String,
        /// Who somebody is, as a JSON object.
        userinfo: String,
    },
}

/// What a provider calls what it tells of people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimNames {
    /// What never changes, and is nobody else's.
    pub subject: String,
    /// The address.
    pub email: String,
    /// Whether the address is verified.
    pub email_verified: String,
    /// What the person is called.
    pub name: String,
    /// The person's groups.
    pub groups: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            subject: "sub".to_owned(),
            email: "email".to_owned(),
            email_verified: "email_verified".to_owned(),
            name: "name".to_owned(),
            groups: "groups".to_owned(),
        }
    }
}

/// Who a user is at a provider. Nobody else is that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedIdentity {
    /// The provider.
    pub provider: ProviderId,
    /// The subject there: at most [`MAX_SUBJECT`] bytes.
    pub subject: String,
    /// Since when.
    pub since: Timestamp,
}
