//! Whole records, for stores that keep text.

use std::net::Ipv4Addr;

use kakuremichi_core::{
    id::{ApiKeyId, NodeId, OrganizationId, PolicyId, ServiceId, SiteId, TokenId, UserId},
    key::{IdentityKey, WireGuardKey},
    model::{
        ApiKey, Channel, EnrolmentToken, Group, IdentityProvider, Invitation, Member, Node, Organization,
        Permissions, Role, Service, ServiceToken, Session, Site, User, UserRole,
    },
    name::Label,
    net::{Cidr, Endpoint},
    policy::SharedPolicy,
    secret::SecretHash,
    store::StoreRecord,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{
    AccessDocument, AccountPolicyDocument, ChannelDocument, GroupDocument, IdentityProviderDocument,
    InvitationDocument, KindDocument, LifetimeDocument, MemberDocument, NodeDocument, PendingDocument,
    PermissionsDocument, PolicyDocument, RotationDocument, RuleDocument, ScopeDocument, ServiceTokenDocument,
    SessionDocument, UserDocument, UserRoleDocument,
};
use crate::text::{LabelsText, Text, texts, untexts};

/// A text is not a record.
#[derive(Debug, thiserror::Error)]
#[error("the text is not a record")]
pub struct RecordTextError(#[from] serde_json::Error);

/// Writes a record as JSON, on one line: for stores that keep text. What is written is readable by every later
/// version.
///
/// # Errors
/// When a path in it is not UTF-8.
pub fn record_to_json(record: &StoreRecord) -> Result<String, RecordTextError> {
    Ok(serde_json::to_string(&RecordDocument::from(record))?)
}

/// Reads what [`record_to_json`] wrote.
///
/// # Errors
/// When it is something else.
pub fn record_from_json(text: &str) -> Result<StoreRecord, RecordTextError> {
    Ok(serde_json::from_str::<RecordDocument>(text)?.into())
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum RecordDocument {
    Organization {
        id: Text<OrganizationId>,
        name: Text<Label>,
        /// Absent where nothing was asked for yet.
        #[serde(default)]
        accounts: AccountPolicyDocument,
        created: i64,
    },
    Node {
        id: Text<NodeId>,
        organization: Text<OrganizationId>,
        name: Text<Label>,
        identity: Text<IdentityKey>,
        wireguard: Text<WireGuardKey>,
        token: Text<TokenId>,
        created: i64,
        revoked: Option<i64>,
        details: NodeDocument,
        #[serde(default)]
        pending: Option<PendingDocument>,
        #[serde(default)]
        labels: LabelsText,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rotation: Option<RotationDocument>,
    },
    Site {
        id: Text<SiteId>,
        organization: Text<OrganizationId>,
        name: Text<Label>,
        wireguard: Text<WireGuardKey>,
        address_v4: Text<Ipv4Addr>,
        networks: Vec<Text<Cidr>>,
        endpoint: Option<Text<Endpoint>>,
        created: i64,
    },
    Service {
        id: Text<ServiceId>,
        organization: Text<OrganizationId>,
        name: Text<Label>,
        kind: KindDocument,
        policy: PolicyDocument,
        lifetime: LifetimeDocument,
        created: i64,
    },
    Token {
        id: Text<TokenId>,
        organization: Text<OrganizationId>,
        name: Text<Label>,
        role: RoleDocument,
        secret_hash: [u8; 32],
        uses_left: Option<u32>,
        expires: Option<i64>,
        revoked: Option<i64>,
        declare: ScopeDocument,
        created: i64,
        #[serde(default)]
        approval: bool,
        #[serde(default)]
        labels: LabelsText,
    },
    ApiKey {
        id: Text<ApiKeyId>,
        organization: Text<OrganizationId>,
        name: Text<Label>,
        secret_hash: [u8; 32],
        expires: Option<i64>,
        created: i64,
        /// Absent of keys that were made when there was but one right.
        #[serde(default)]
        permissions: Option<PermissionsDocument>,
        #[serde(default)]
        maker: Option<Text<UserId>>,
    },
    User(UserDocument),
    Role(UserRoleDocument),
    Group(GroupDocument),
    Member(MemberDocument),
    Invitation(InvitationDocument),
    Session(SessionDocument),
    IdentityProvider(IdentityProviderDocument),
    Channel(ChannelDocument),
    ServiceToken(ServiceTokenDocument),
    Policy {
        id: Text<PolicyId>,
        organization: Text<OrganizationId>,
        name: Text<Label>,
        rules: Vec<RuleDocument>,
        access: Option<AccessDocument>,
        created: i64,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RoleDocument {
    Agent,
    Gateway,
}

impl From<&StoreRecord> for RecordDocument {
    fn from(record: &StoreRecord) -> Self {
        let time = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
        match record {
            StoreRecord::Organization(organization) => Self::Organization {
                id: Text(organization.id),
                name: Text(organization.name.clone()),
                accounts: organization.accounts.into(),
                created: organization.created.as_millis(),
            },
            StoreRecord::Node(node) => Self::Node {
                id: Text(node.id),
                organization: Text(node.organization),
                name: Text(node.name.clone()),
                identity: Text(node.identity),
                wireguard: Text(node.wireguard),
                token: Text(node.token),
                created: node.created.as_millis(),
                revoked: time(node.revoked),
                details: (&node.kind).into(),
                pending: node.pending.map(Into::into),
                labels: LabelsText(node.labels.clone()),
                rotation: RotationDocument::of(&node.rotation),
            },
            StoreRecord::Site(site) => Self::Site {
                id: Text(site.id),
                organization: Text(site.organization),
                name: Text(site.name.clone()),
                wireguard: Text(site.wireguard),
                address_v4: Text(site.address_v4),
                networks: texts(&site.networks),
                endpoint: site.endpoint.clone().map(Text),
                created: site.created.as_millis(),
            },
            StoreRecord::Service(service) => Self::Service {
                id: Text(service.id),
                organization: Text(service.organization),
                name: Text(service.name.clone()),
                kind: (&service.kind).into(),
                policy: PolicyDocument::new(&service.policy, &service.policies),
                lifetime: service.lifetime.into(),
                created: service.created.as_millis(),
            },
            StoreRecord::Token(token) => Self::Token {
                id: Text(token.id),
                organization: Text(token.organization),
                name: Text(token.name.clone()),
                role: match token.role {
                    Role::Agent => RoleDocument::Agent,
                    Role::Gateway => RoleDocument::Gateway,
                },
                secret_hash: *token.secret_hash.as_bytes(),
                uses_left: token.uses_left,
                expires: time(token.expires),
                revoked: time(token.revoked),
                declare: (&token.declare).into(),
                created: token.created.as_millis(),
                approval: token.approval,
                labels: LabelsText(token.labels.clone()),
            },
            StoreRecord::ApiKey(key) => Self::ApiKey {
                id: Text(key.id),
                organization: Text(key.organization),
                name: Text(key.name.clone()),
                secret_hash: *key.secret_hash.as_bytes(),
                expires: time(key.expires),
                created: key.created.as_millis(),
                permissions: Some(key.permissions.into()),
                maker: key.maker.map(Text),
            },
            StoreRecord::User(user) => Self::User(user.into()),
            StoreRecord::Role(role) => Self::Role(role.into()),
            StoreRecord::Group(group) => Self::Group(group.into()),
            StoreRecord::Member(member) => Self::Member(member.into()),
            StoreRecord::Invitation(invitation) => Self::Invitation(invitation.into()),
            StoreRecord::Session(session) => Self::Session(session.into()),
            StoreRecord::IdentityProvider(provider) => Self::IdentityProvider(provider.into()),
            StoreRecord::Channel(channel) => Self::Channel(channel.into()),
            StoreRecord::ServiceToken(token) => Self::ServiceToken(token.into()),
            StoreRecord::Policy(policy) => Self::Policy {
                id: Text(policy.id),
                organization: Text(policy.organization),
                name: Text(policy.name.clone()),
                rules: policy.rules.iter().map(Into::into).collect(),
                access: policy.access.as_ref().map(Into::into),
                created: policy.created.as_millis(),
            },
        }
    }
}

impl From<RecordDocument> for StoreRecord {
    fn from(document: RecordDocument) -> Self {
        let time = |at: Option<i64>| at.map(Timestamp::from_millis);
        match document {
            RecordDocument::Organization {
                id,
                name,
                accounts,
                created,
            } => Organization {
                accounts: accounts.into(),
                id: id.0,
                name: name.0,
                created: Timestamp::from_millis(created),
            }
            .into(),
            RecordDocument::Node {
                id,
                organization,
                name,
                identity,
                wireguard,
                token,
                created,
                revoked,
                details,
                pending,
                labels,
                rotation,
            } => Node {
                id: id.0,
                organization: organization.0,
                name: name.0,
                identity: identity.0,
                wireguard: wireguard.0,
                token: token.0,
                created: Timestamp::from_millis(created),
                revoked: time(revoked),
                pending: pending.map(Into::into),
                labels: labels.0,
                rotation: rotation.map(Into::into).unwrap_or_default(),
                kind: details.into(),
            }
            .into(),
            RecordDocument::Site {
                id,
                organization,
                name,
                wireguard,
                address_v4,
                networks,
                endpoint,
                created,
            } => Site {
                id: id.0,
                organization: organization.0,
                name: name.0,
                wireguard: wireguard.0,
                address_v4: address_v4.0,
                networks: untexts(networks),
                endpoint: endpoint.map(|endpoint| endpoint.0),
                created: Timestamp::from_millis(created),
            }
            .into(),
            RecordDocument::Service {
                id,
                organization,
                name,
                kind,
                policy,
                lifetime,
                created,
            } => {
                let (policy, policies) = policy.into_parts();
                Service {
                    id: id.0,
                    organization: organization.0,
                    name: name.0,
                    kind: kind.into(),
                    policy,
                    policies,
                    lifetime: lifetime.into(),
                    created: Timestamp::from_millis(created),
                }
                .into()
            }
            RecordDocument::Token {
                id,
                organization,
                name,
                role,
                secret_hash,
                uses_left,
                expires,
                revoked,
                declare,
                created,
                approval,
                labels,
            } => EnrolmentToken {
                id: id.0,
                organization: organization.0,
                name: name.0,
                role: match role {
                    RoleDocument::Agent => Role::Agent,
                    RoleDocument::Gateway => Role::Gateway,
                },
                secret_hash: SecretHash::from_bytes(secret_hash),
                uses_left,
                expires: time(expires),
                revoked: time(revoked),
                declare: declare.into(),
                approval,
                labels: labels.0,
                created: Timestamp::from_millis(created),
            }
            .into(),
            RecordDocument::ApiKey {
                id,
                organization,
                name,
                secret_hash,
                expires,
                created,
                permissions,
                maker,
            } => ApiKey {
                id: id.0,
                organization: organization.0,
                name: name.0,
                secret_hash: SecretHash::from_bytes(secret_hash),
                permissions: permissions.map_or(Permissions::EVERYTHING, Into::into),
                maker: maker.map(|maker| maker.0),
                expires: time(expires),
                created: Timestamp::from_millis(created),
            }
            .into(),
            RecordDocument::User(document) => User::from(document).into(),
            RecordDocument::Role(document) => UserRole::from(document).into(),
            RecordDocument::Group(document) => Group::from(document).into(),
            RecordDocument::Member(document) => Member::from(document).into(),
            RecordDocument::Invitation(document) => Invitation::from(document).into(),
            RecordDocument::Session(document) => Session::from(document).into(),
            RecordDocument::IdentityProvider(document) => IdentityProvider::from(document).into(),
            RecordDocument::Channel(document) => Channel::from(document).into(),
            RecordDocument::ServiceToken(document) => ServiceToken::from(document).into(),
            RecordDocument::Policy {
                id,
                organization,
                name,
                rules,
                access,
                created,
            } => SharedPolicy {
                id: id.0,
                organization: organization.0,
                name: name.0,
                rules: rules.into_iter().map(Into::into).collect(),
                access: access.map(Into::into),
                created: Timestamp::from_millis(created),
            }
            .into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::store::conformance::sample;

    use super::*;

    #[test]
    fn every_record_has_a_text() {
        let records: [StoreRecord; 18] = [
            sample::organization(0).into(),
            sample::agent(0, 1).into(),
            sample::rotated(0, 1).into(),
            sample::gateway(0, 1).into(),
            sample::site(0, 1).into(),
            sample::http_service(0, 1).into(),
            sample::tcp_service(0, 1).into(),
            sample::token(0, 1).into(),
            sample::api_key(0, 1).into(),
            sample::user(1).into(),
            sample::role(0, 1).into(),
            sample::group(0, 1).into(),
            sample::member(0, 1).into(),
            sample::invitation(0, 1).into(),
            sample::session(1, 1).into(),
            sample::shared_policy(0, 1).into(),
            sample::shared_policy(0, 2).into(),
            sample::service_token(0, 2).into(),
        ];
        for record in records {
            let text = record_to_json(&record).unwrap();
            assert!(!text.contains('\n'));
            assert_eq!(record_from_json(&text).unwrap(), record);
        }
        assert!(record_from_json("{}").is_err());
    }
}
