//! People, their roles and their sessions.

use std::{collections::BTreeSet, net::IpAddr};

use data_encoding::{BASE64, HEXLOWER};
use kakuremichi_core::{
    auth::Principal,
    email::EmailAddress,
    id::{
        GroupId, InvitationId, MemberId, OrganizationId, PasskeyId, ProviderId, RoleId, ServiceTokenId,
        SessionId, UserId,
    },
    model::{
        EndedSession, Group, Invitation, LinkedIdentity, MailedSecret, Member, Passkey, Permission,
        Permissions, PersonName, ServiceToken, Session, SignIn, Totp, User, UserRole,
    },
    name::Label,
    secret::SecretHash,
    time::Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::text::Text;

/// The names of permissions, or a single `*` for everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::store) struct PermissionsDocument(Vec<String>);

const EVERYTHING: &str = "*";

impl From<Permissions> for PermissionsDocument {
    fn from(permissions: Permissions) -> Self {
        if permissions.is_everything() {
            return Self(vec![EVERYTHING.to_owned()]);
        }
        Self(
            permissions
                .iter()
                .map(|permission| permission.to_string())
                .collect(),
        )
    }
}

impl From<PermissionsDocument> for Permissions {
    fn from(document: PermissionsDocument) -> Self {
        if document.0.iter().any(|name| name == EVERYTHING) {
            return Self::EVERYTHING;
        }
        // One that this version does not know is one that nobody can use.
        document
            .0
            .iter()
            .filter_map(|name| name.parse::<Permission>().ok())
            .collect()
    }
}

/// SHA-256, in hexadecimal.
#[derive(Debug, Clone)]
struct Hash([u8; 32]);

impl From<SecretHash> for Hash {
    fn from(hash: SecretHash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl From<Hash> for SecretHash {
    fn from(hash: Hash) -> Self {
        Self::from_bytes(hash.0)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| D::Error::custom("a hash has 32 bytes"))
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct UserDocument {
    id: Text<UserId>,
    email: Text<EmailAddress>,
    name: Text<PersonName>,
    password_hash: Option<String>,
    totp: Option<TotpDocument>,
    /// Absent of users from before there were passkeys, as is the next.
    #[serde(default)]
    passkeys: Vec<PasskeyDocument>,
    #[serde(default)]
    passkeys_since: i64,
    recovery_codes: Vec<Hash>,
    reset: Option<MailedDocument>,
    verification: Option<MailedDocument>,
    administrator: bool,
    /// Absent of users from before there were identity providers.
    #[serde(default)]
    identities: Vec<IdentityDocument>,
    verified: Option<i64>,
    disabled: Option<i64>,
    #[serde(default)]
    tickets_since: i64,
    #[serde(default)]
    ended: Vec<EndedDocument>,
    created: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndedDocument {
    id: Text<SessionId>,
    expires: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityDocument {
    provider: Text<ProviderId>,
    subject: String,
    since: i64,
}

impl From<&LinkedIdentity> for IdentityDocument {
    fn from(identity: &LinkedIdentity) -> Self {
        Self {
            provider: Text(identity.provider),
            subject: identity.subject.clone(),
            since: identity.since.as_millis(),
        }
    }
}

impl From<IdentityDocument> for LinkedIdentity {
    fn from(document: IdentityDocument) -> Self {
        Self {
            provider: document.provider.0,
            subject: document.subject,
            since: Timestamp::from_millis(document.since),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PasskeyDocument {
    id: Text<PasskeyId>,
    name: Text<PersonName>,
    credential_hash: Hash,
    credential: String,
    answered: i64,
    used: Option<i64>,
    created: i64,
}

impl From<&Passkey> for PasskeyDocument {
    fn from(passkey: &Passkey) -> Self {
        Self {
            id: Text(passkey.id),
            name: Text(passkey.name.clone()),
            credential_hash: Hash(passkey.credential_hash),
            credential: passkey.credential.clone(),
            answered: passkey.answered.as_millis(),
            used: passkey.used.map(Timestamp::as_millis),
            created: passkey.created.as_millis(),
        }
    }
}

impl From<PasskeyDocument> for Passkey {
    fn from(document: PasskeyDocument) -> Self {
        Self {
            id: document.id.0,
            name: document.name.0,
            credential_hash: document.credential_hash.0,
            credential: document.credential,
            answered: Timestamp::from_millis(document.answered),
            used: document.used.map(Timestamp::from_millis),
            created: Timestamp::from_millis(document.created),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TotpDocument {
    /// Base 64.
    sealed_secret: String,
    last_step: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MailedDocument {
    hash: Hash,
    expires: i64,
}

impl From<&MailedSecret> for MailedDocument {
    fn from(mailed: &MailedSecret) -> Self {
        Self {
            hash: mailed.hash.into(),
            expires: mailed.expires.as_millis(),
        }
    }
}

impl From<MailedDocument> for MailedSecret {
    fn from(document: MailedDocument) -> Self {
        Self {
            hash: document.hash.into(),
            expires: Timestamp::from_millis(document.expires),
        }
    }
}

impl From<&User> for UserDocument {
    fn from(user: &User) -> Self {
        Self {
            id: Text(user.id),
            email: Text(user.email.clone()),
            name: Text(user.name.clone()),
            password_hash: user.password_hash.clone(),
            totp: user.totp.as_ref().map(|totp| TotpDocument {
                sealed_secret: BASE64.encode(&totp.sealed_secret),
                last_step: totp.last_step,
            }),
            passkeys: user.passkeys.iter().map(Into::into).collect(),
            passkeys_since: user.passkeys_since.as_millis(),
            recovery_codes: user.recovery_codes.iter().copied().map(Hash::from).collect(),
            reset: user.reset.as_ref().map(Into::into),
            verification: user.verification.as_ref().map(Into::into),
            administrator: user.administrator,
            identities: user.identities.iter().map(Into::into).collect(),
            verified: user.verified.map(Timestamp::as_millis),
            disabled: user.disabled.map(Timestamp::as_millis),
            tickets_since: user.tickets_since.as_millis(),
            ended: user
                .ended
                .iter()
                .map(|ended| EndedDocument {
                    id: Text(ended.id),
                    expires: ended.expires.as_millis(),
                })
                .collect(),
            created: user.created.as_millis(),
        }
    }
}

impl From<UserDocument> for User {
    fn from(document: UserDocument) -> Self {
        Self {
            id: document.id.0,
            email: document.email.0,
            name: document.name.0,
            password_hash: document.password_hash,
            totp: document.totp.map(|totp| Totp {
                // What cannot be read cannot be opened either: the second factor stays, and no code is good.
                sealed_secret: BASE64.decode(totp.sealed_secret.as_bytes()).unwrap_or_default(),
                last_step: totp.last_step,
            }),
            passkeys: document.passkeys.into_iter().map(Into::into).collect(),
            passkeys_since: Timestamp::from_millis(document.passkeys_since),
            recovery_codes: document.recovery_codes.into_iter().map(Into::into).collect(),
            reset: document.reset.map(Into::into),
            verification: document.verification.map(Into::into),
            administrator: document.administrator,
            identities: document.identities.into_iter().map(Into::into).collect(),
            verified: document.verified.map(Timestamp::from_millis),
            disabled: document.disabled.map(Timestamp::from_millis),
            tickets_since: Timestamp::from_millis(document.tickets_since),
            ended: document
                .ended
                .into_iter()
                .map(|ended| EndedSession {
                    id: ended.id.0,
                    expires: Timestamp::from_millis(ended.expires),
                })
                .collect(),
            created: Timestamp::from_millis(document.created),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct UserRoleDocument {
    id: Text<RoleId>,
    organization: Text<OrganizationId>,
    name: Text<Label>,
    permissions: PermissionsDocument,
    built_in: bool,
    created: i64,
}

impl From<&UserRole> for UserRoleDocument {
    fn from(role: &UserRole) -> Self {
        Self {
            id: Text(role.id),
            organization: Text(role.organization),
            name: Text(role.name.clone()),
            permissions: role.permissions.into(),
            built_in: role.built_in,
            created: role.created.as_millis(),
        }
    }
}

impl From<UserRoleDocument> for UserRole {
    fn from(document: UserRoleDocument) -> Self {
        Self {
            id: document.id.0,
            organization: document.organization.0,
            name: document.name.0,
            permissions: document.permissions.into(),
            built_in: document.built_in,
            created: Timestamp::from_millis(document.created),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct GroupDocument {
    id: Text<GroupId>,
    organization: Text<OrganizationId>,
    name: Text<Label>,
    created: i64,
}

impl From<&Group> for GroupDocument {
    fn from(group: &Group) -> Self {
        Self {
            id: Text(group.id),
            organization: Text(group.organization),
            name: Text(group.name.clone()),
            created: group.created.as_millis(),
        }
    }
}

impl From<GroupDocument> for Group {
    fn from(document: GroupDocument) -> Self {
        Self {
            id: document.id.0,
            organization: document.organization.0,
            name: document.name.0,
            created: Timestamp::from_millis(document.created),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct MemberDocument {
    id: Text<MemberId>,
    organization: Text<OrganizationId>,
    user: Text<UserId>,
    roles: Vec<Text<RoleId>>,
    groups: Vec<Text<GroupId>>,
    created: i64,
}

fn listed<T: Copy>(set: &BTreeSet<T>) -> Vec<Text<T>> {
    set.iter().copied().map(Text).collect()
}

fn set<T: Ord>(list: Vec<Text<T>>) -> BTreeSet<T> {
    list.into_iter().map(|text| text.0).collect()
}

impl From<&Member> for MemberDocument {
    fn from(member: &Member) -> Self {
        Self {
            id: Text(member.id),
            organization: Text(member.organization),
            user: Text(member.user),
            roles: listed(&member.roles),
            groups: listed(&member.groups),
            created: member.created.as_millis(),
        }
    }
}

impl From<MemberDocument> for Member {
    fn from(document: MemberDocument) -> Self {
        Self {
            id: document.id.0,
            organization: document.organization.0,
            user: document.user.0,
            roles: set(document.roles),
            groups: set(document.groups),
            created: Timestamp::from_millis(document.created),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct InvitationDocument {
    id: Text<InvitationId>,
    organization: Text<OrganizationId>,
    email: Option<Text<EmailAddress>>,
    roles: Vec<Text<RoleId>>,
    groups: Vec<Text<GroupId>>,
    administrator: bool,
    secret_hash: Hash,
    /// Authority and subject.
    inviter: Option<(String, String)>,
    #[serde(default)]
    maker: Option<Text<UserId>>,
    expires: i64,
    created: i64,
}

impl From<&Invitation> for InvitationDocument {
    fn from(invitation: &Invitation) -> Self {
        let inviter = invitation.inviter.as_ref();
        Self {
            id: Text(invitation.id),
            organization: Text(invitation.organization),
            email: invitation.email.clone().map(Text),
            roles: listed(&invitation.roles),
            groups: listed(&invitation.groups),
            administrator: invitation.administrator,
            secret_hash: invitation.secret_hash.into(),
            inviter: inviter.map(|by| (by.authority().to_owned(), by.subject().to_owned())),
            maker: invitation.maker.map(Text),
            expires: invitation.expires.as_millis(),
            created: invitation.created.as_millis(),
        }
    }
}

impl From<InvitationDocument> for Invitation {
    fn from(document: InvitationDocument) -> Self {
        Self {
            id: document.id.0,
            organization: document.organization.0,
            email: document.email.map(|email| email.0),
            roles: set(document.roles),
            groups: set(document.groups),
            administrator: document.administrator,
            secret_hash: document.secret_hash.into(),
            inviter: document
                .inviter
                .map(|(authority, subject)| Principal::new(authority, subject)),
            maker: document.maker.map(|maker| maker.0),
            expires: Timestamp::from_millis(document.expires),
            created: Timestamp::from_millis(document.created),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct SessionDocument {
    id: Text<SessionId>,
    user: Text<UserId>,
    secret_hash: Hash,
    sign_in: SignInDocument,
    /// Absent of sessions from before there were identity providers.
    #[serde(default)]
    organization: Option<Text<OrganizationId>>,
    source: Option<IpAddr>,
    user_agent: String,
    created: i64,
    /// Absent of sessions from before anybody confirmed one, and then as `created`.
    #[serde(default)]
    authenticated: Option<i64>,
    expires: i64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SignInDocument {
    Password,
    PasswordAndTotp,
    PasswordAndRecoveryCode,
    Passkey,
    PasswordAndPasskey,
    Provider,
    ProviderAndSecondFactor,
}

impl From<&Session> for SessionDocument {
    fn from(session: &Session) -> Self {
        Self {
            id: Text(session.id),
            user: Text(session.user),
            secret_hash: session.secret_hash.into(),
            sign_in: match session.sign_in {
                SignIn::Password => SignInDocument::Password,
                SignIn::PasswordAndTotp => SignInDocument::PasswordAndTotp,
                SignIn::PasswordAndRecoveryCode => SignInDocument::PasswordAndRecoveryCode,
                SignIn::Passkey => SignInDocument::Passkey,
                SignIn::PasswordAndPasskey => SignInDocument::PasswordAndPasskey,
                SignIn::Provider => SignInDocument::Provider,
                SignIn::ProviderAndSecondFactor => SignInDocument::ProviderAndSecondFactor,
            },
            organization: session.organization.map(Text),
            source: session.source,
            user_agent: session.user_agent.clone(),
            created: session.created.as_millis(),
            authenticated: Some(session.authenticated.as_millis()),
            expires: session.expires.as_millis(),
        }
    }
}

impl From<SessionDocument> for Session {
    fn from(document: SessionDocument) -> Self {
        Self {
            id: document.id.0,
            user: document.user.0,
            secret_hash: document.secret_hash.into(),
            sign_in: match document.sign_in {
                SignInDocument::Password => SignIn::Password,
                SignInDocument::PasswordAndTotp => SignIn::PasswordAndTotp,
                SignInDocument::PasswordAndRecoveryCode => SignIn::PasswordAndRecoveryCode,
                SignInDocument::Passkey => SignIn::Passkey,
                SignInDocument::PasswordAndPasskey => SignIn::PasswordAndPasskey,
                SignInDocument::Provider => SignIn::Provider,
                SignInDocument::ProviderAndSecondFactor => SignIn::ProviderAndSecondFactor,
            },
            organization: document.organization.map(|organization| organization.0),
            source: document.source,
            user_agent: document.user_agent,
            created: Timestamp::from_millis(document.created),
            authenticated: Timestamp::from_millis(document.authenticated.unwrap_or(document.created)),
            expires: Timestamp::from_millis(document.expires),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct ServiceTokenDocument {
    id: Text<ServiceTokenId>,
    organization: Text<OrganizationId>,
    name: Text<Label>,
    secret_hash: Hash,
    expires: Option<i64>,
    created: i64,
}

impl From<&ServiceToken> for ServiceTokenDocument {
    fn from(token: &ServiceToken) -> Self {
        Self {
            id: Text(token.id),
            organization: Text(token.organization),
            name: Text(token.name.clone()),
            secret_hash: token.secret_hash.into(),
            expires: token.expires.map(Timestamp::as_millis),
            created: token.created.as_millis(),
        }
    }
}

impl From<ServiceTokenDocument> for ServiceToken {
    fn from(document: ServiceTokenDocument) -> Self {
        Self {
            id: document.id.0,
            organization: document.organization.0,
            name: document.name.0,
            secret_hash: document.secret_hash.into(),
            expires: document.expires.map(Timestamp::from_millis),
            created: Timestamp::from_millis(document.created),
        }
    }
}
