//! Identity providers, and what organizations ask of accounts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use data_encoding::BASE64;
use kakuremichi_core::{
    id::{OrganizationId, ProviderId, RoleId},
    model::{AccountPolicy, ClaimNames, IdentityProvider, ProviderProtocol},
    name::Label,
    time::Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::text::Text;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct AccountPolicyDocument {
    multi_factor: bool,
    /// In seconds.
    session_life: Option<u64>,
    passwords: bool,
}

impl Default for AccountPolicyDocument {
    fn default() -> Self {
        AccountPolicy::default().into()
    }
}

impl From<AccountPolicy> for AccountPolicyDocument {
    fn from(policy: AccountPolicy) -> Self {
        Self {
            multi_factor: policy.multi_factor,
            session_life: policy.session_life.map(|life| life.as_secs()),
            passwords: policy.passwords,
        }
    }
}

impl From<AccountPolicyDocument> for AccountPolicy {
    fn from(document: AccountPolicyDocument) -> Self {
        Self {
            multi_factor: document.multi_factor,
            session_life: document.session_life.map(Duration::from_secs),
            passwords: document.passwords,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct IdentityProviderDocument {
    id: Text<ProviderId>,
    organization: Option<Text<OrganizationId>>,
    name: Text<Label>,
    protocol: ProtocolDocument,
    client_id: String,
    sealed_secret: Bytes,
    scopes: BTreeSet<String>,
    claims: ClaimNamesDocument,
    provision: bool,
    require_verified: bool,
    link_verified: bool,
    multi_factor: bool,
    default_roles: Vec<Text<RoleId>>,
    group_roles: BTreeMap<String, Text<RoleId>>,
    created: i64,
}

/// In base 64.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(D::Error::custom)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ProtocolDocument {
    Oidc {
        issuer: String,
    },
    Oauth2 {
        authorize: String,
        token: String,
        userinfo: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimNamesDocument {
    subject: String,
    email: String,
    email_verified: String,
    name: String,
    groups: String,
}

impl From<&IdentityProvider> for IdentityProviderDocument {
    fn from(provider: &IdentityProvider) -> Self {
        let claims = provider.claims.clone();
        let group_roles = provider.group_roles.iter();
        Self {
            id: Text(provider.id),
            organization: provider.organization.map(Text),
            name: Text(provider.name.clone()),
            protocol: provider.protocol.clone().into(),
            client_id: provider.client_id.clone(),
            sealed_secret: Bytes(provider.sealed_secret.clone()),
            scopes: provider.scopes.clone(),
            claims: ClaimNamesDocument {
                subject: claims.subject,
                email: claims.email,
                email_verified: claims.email_verified,
                name: claims.name,
                groups: claims.groups,
            },
            provision: provider.provision,
            require_verified: provider.require_verified,
            link_verified: provider.link_verified,
            multi_factor: provider.multi_factor,
            default_roles: provider.default_roles.iter().copied().map(Text).collect(),
            group_roles: group_roles
                .map(|(group, role)| (group.clone(), Text(*role)))
                .collect(),
            created: provider.created.as_millis(),
        }
    }
}

impl From<IdentityProviderDocument> for IdentityProvider {
    fn from(document: IdentityProviderDocument) -> Self {
        let claims = document.claims;
        let group_roles = document.group_roles.into_iter();
        Self {
            id: document.id.0,
            organization: document.organization.map(|organization| organization.0),
            name: document.name.0,
            protocol: document.protocol.into(),
            client_id: document.client_id,
            sealed_secret: document.sealed_secret.0,
            scopes: document.scopes,
            claims: ClaimNames {
                subject: claims.subject,
                email: claims.email,
                email_verified: claims.email_verified,
                name: claims.name,
                groups: claims.groups,
            },
            provision: document.provision,
            require_verified: document.require_verified,
            link_verified: document.link_verified,
            multi_factor: document.multi_factor,
            default_roles: document.default_roles.into_iter().map(|role| role.0).collect(),
            group_roles: group_roles.map(|(group, role)| (group, role.0)).collect(),
            created: Timestamp::from_millis(document.created),
        }
    }
}

impl From<ProviderProtocol> for ProtocolDocument {
    fn from(protocol: ProviderProtocol) -> Self {
        match protocol {
            ProviderProtocol::Oidc { issuer } => Self::Oidc { issuer },
            ProviderProtocol::OAuth2 {
                authorize,
                token,
                userinfo,
            } => Self::Oauth2 {
                authorize,
                token,
                userinfo,
            },
        }
    }
}

impl From<ProtocolDocument> for ProviderProtocol {
    fn from(document: ProtocolDocument) -> Self {
        match document {
            ProtocolDocument::Oidc { issuer } => Self::Oidc { issuer },
            ProtocolDocument::Oauth2 {
                authorize,
                token,
                userinfo,
            } => Self::OAuth2 {
                authorize,
                token,
                userinfo,
            },
        }
    }
}
