//! Where visitors sign in, who vouches for them, and who they are.

use kakuremichi_core::{
    id::{GatewayId, OrganizationId, ServiceTokenId, SessionId, UserId},
    key::SigningKey,
    plan::{GatewayMember, GatewayServiceToken, GatewaySignIn, GatewaySigner, MAX_SIGNING_KEYS},
    secret::SecretHash,
    time::Timestamp,
};

use super::{Cause, Invalid, list, name};
use crate::{
    codec::List,
    identity::CanonicalUrl,
    message::{self, Subject},
    plan::record,
};

/// Writes keys.
fn write_keys(keys: &[SigningKey]) -> Result<List<[u8; 32], MAX_SIGNING_KEYS>, Invalid> {
    list(keys, "keys", |key| Ok(*key.as_bytes()))
}

/// Reads keys.
fn read_keys(keys: &List<[u8; 32], MAX_SIGNING_KEYS>) -> Vec<SigningKey> {
    keys.as_slice()
        .iter()
        .copied()
        .map(SigningKey::from_bytes)
        .collect()
}

impl message::SigningKeys {
    /// The message for Control. What is past the bound is left out.
    #[must_use]
    pub fn new(subject: Subject, keys: &[SigningKey]) -> Self {
        Self {
            subject,
            keys: List::truncated(keys.iter().map(|key| *key.as_bytes())),
        }
    }

    /// The keys.
    #[must_use]
    pub fn read(&self) -> Vec<SigningKey> {
        read_keys(&self.keys)
    }
}

impl TryFrom<&GatewaySignIn> for record::GatewaySignIn {
    type Error = Invalid;

    fn try_from(sign_in: &GatewaySignIn) -> Result<Self, Invalid> {
        Ok(Self {
            control: sign_in.control.clone(),
            keys: write_keys(&sign_in.keys)?,
        })
    }
}

impl TryFrom<record::GatewaySignIn> for GatewaySignIn {
    type Error = Invalid;

    fn try_from(sign_in: record::GatewaySignIn) -> Result<Self, Invalid> {
        // Visitors are sent there: nothing else than a URL may stand in a header field.
        let url: CanonicalUrl = sign_in
            .control
            .parse()
            .map_err(|_| Invalid::new("control", Cause::Text))?;
        if url.to_string() != sign_in.control {
            return Err(Invalid::new("control", Cause::Text));
        }
        Ok(Self {
            control: sign_in.control,
            keys: read_keys(&sign_in.keys),
        })
    }
}

impl TryFrom<&GatewaySigner> for record::GatewaySigner {
    type Error = Invalid;

    fn try_from(signer: &GatewaySigner) -> Result<Self, Invalid> {
        Ok(Self {
            id: *signer.id.as_bytes(),
            keys: write_keys(&signer.keys)?,
        })
    }
}

impl From<record::GatewaySigner> for GatewaySigner {
    fn from(signer: record::GatewaySigner) -> Self {
        Self {
            id: GatewayId::from_bytes(signer.id),
            keys: read_keys(&signer.keys),
        }
    }
}

impl TryFrom<&GatewayMember> for record::GatewayMember {
    type Error = Invalid;

    fn try_from(member: &GatewayMember) -> Result<Self, Invalid> {
        Ok(Self {
            organization: *member.organization.as_bytes(),
            user: *member.user.as_bytes(),
            email: member.email.to_string(),
            roles: list(&member.roles, "roles", |role| Ok(role.as_str().to_owned()))?,
            groups: list(&member.groups, "groups", |group| Ok(group.as_str().to_owned()))?,
            tickets_since: member.tickets_since.as_millis(),
            ended: list(&member.ended, "ended", |session| Ok(*session.as_bytes()))?,
        })
    }
}

impl TryFrom<record::GatewayMember> for GatewayMember {
    type Error = Invalid;

    fn try_from(member: record::GatewayMember) -> Result<Self, Invalid> {
        let roles = member.roles.as_slice().iter().map(|role| name(role, "roles"));
        let groups = member.groups.as_slice().iter().map(|group| name(group, "groups"));
        let ended = member.ended.as_slice().iter();
        Ok(Self {
            organization: OrganizationId::from_bytes(member.organization),
            user: UserId::from_bytes(member.user),
            email: member
                .email
                .parse()
                .map_err(|_| Invalid::new("email", Cause::Text))?,
            roles: roles.collect::<Result<_, _>>()?,
            groups: groups.collect::<Result<_, _>>()?,
            tickets_since: Timestamp::from_millis(member.tickets_since),
            ended: ended.copied().map(SessionId::from_bytes).collect(),
        })
    }
}

impl From<&GatewayServiceToken> for record::GatewayServiceToken {
    fn from(token: &GatewayServiceToken) -> Self {
        Self {
            id: *token.id.as_bytes(),
            organization: *token.organization.as_bytes(),
            secret_hash: *token.secret_hash.as_bytes(),
            expires: token.expires.map(Timestamp::as_millis),
        }
    }
}

impl From<record::GatewayServiceToken> for GatewayServiceToken {
    fn from(token: record::GatewayServiceToken) -> Self {
        Self {
            id: ServiceTokenId::from_bytes(token.id),
            organization: OrganizationId::from_bytes(token.organization),
            secret_hash: SecretHash::from_bytes(token.secret_hash),
            expires: token.expires.map(Timestamp::from_millis),
        }
    }
}
