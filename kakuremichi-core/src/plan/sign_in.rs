//! What a gateway is told of people and programs, and of who may vouch for them.

use crate::{
    email::EmailAddress,
    id::{GatewayId, OrganizationId, ServiceTokenId, SessionId, UserId},
    key::SigningKey,
    name::Label,
    secret::SecretHash,
    time::Timestamp,
};

/// The most keys of one gateway, or of Control, that are good at a time: the one that signs, the ones before it for
/// as long as what they signed lasts, and the one after it.
pub const MAX_SIGNING_KEYS: usize = 4;
/// The most sessions of one user that are told to have ended. When there are more, every ticket that was made before
/// counts no more.
pub const MAX_ENDED_SESSIONS: usize = 64;

/// Where visitors sign in, and whose tickets are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySignIn {
    /// Control's public URL, without a slash at its end.
    pub control: String,
    /// The keys that Control signs tickets with; at most [`MAX_SIGNING_KEYS`].
    pub keys: Vec<SigningKey>,
}

/// A gateway of the organization whose session cookies are taken. The gateway itself is among them: with a key that
/// it does not find here it does not sign yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySigner {
    /// The gateway.
    pub id: GatewayId,
    /// The keys that it signs with; at most [`MAX_SIGNING_KEYS`].
    pub keys: Vec<SigningKey>,
}

/// A person who may sign in to services of an organization. Whoever is not told of is nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayMember {
    /// The organization.
    pub organization: OrganizationId,
    /// The person.
    pub user: UserId,
    /// The person's address.
    pub email: EmailAddress,
    /// The roles that the person has in the organization.
    pub roles: Vec<Label>,
    /// The groups that the person is in, in the organization.
    pub groups: Vec<Label>,
    /// Tickets of before this count no more, nor do the cookies that came of them.
    pub tickets_since: Timestamp,
    /// Sessions that ended before their time; at most [`MAX_ENDED_SESSIONS`].
    pub ended: Vec<SessionId>,
}

/// A service token. One that is not told of opens nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayServiceToken {
    /// Its identifier.
    pub id: ServiceTokenId,
    /// The organization to whose services it can lead.
    pub organization: OrganizationId,
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
    /// When it ends to be of use.
    pub expires: Option<Timestamp>,
}

impl GatewayMember {
    /// Whether what a ticket of a session of the person gave, made at `made`, still counts.
    #[must_use]
    pub fn counts(&self, session: SessionId, made: Timestamp) -> bool {
        made >= self.tickets_since && !self.ended.contains(&session)
    }
}
