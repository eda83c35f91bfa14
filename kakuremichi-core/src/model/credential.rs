//! Enrolment tokens, API keys and service tokens. Only hashes of the secrets are here.

use crate::{
    id::{ApiKeyId, OrganizationId, ServiceTokenId, TokenId, UserId},
    model::{Labels, Permissions},
    name::{HostPattern, Label},
    net::PortRange,
    secret::SecretHash,
    time::Timestamp,
};

/// What a node is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// An agent.
    Agent,
    /// A gateway.
    Gateway,
}

impl Role {
    /// `agent` or `gateway`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Gateway => "gateway",
        }
    }
}

/// What an agent may ask to publish by itself. The empty scope allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeclareScope {
    /// Hosts that HTTP services may have.
    pub hosts: Vec<HostPattern>,
    /// Ports that TCP and UDP services may have.
    pub ports: Vec<PortRange>,
}

impl DeclareScope {
    /// Whether nothing may be declared.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.ports.is_empty()
    }

    /// Whether a service may have `host`.
    #[must_use]
    pub fn allows_host(&self, host: &HostPattern) -> bool {
        self.hosts.iter().any(|pattern| pattern.covers(host))
    }

    /// Whether a service may have `port`.
    #[must_use]
    pub fn allows_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(port))
    }
}

/// Lets nodes join an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// Its identifier, which is no secret.
    pub id: TokenId,
    /// The organization that the nodes join.
    pub organization: OrganizationId,
    /// What it is for, in the words of who made it.
    pub name: Label,
    /// What the nodes are to be.
    pub role: Role,
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
    /// How many nodes may still enrol; `None` is without end.
    pub uses_left: Option<u32>,
    /// When it ends to be of use.
    pub expires: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// What the agents may declare.
    pub declare: DeclareScope,
    /// Whether somebody has to approve each node that enrols with it.
    pub approval: bool,
    /// The labels that the nodes begin with.
    pub labels: Labels,
    /// When it was made.
    pub created: Timestamp,
}

/// Why a token enrols nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenUnusable {
    /// It is not known.
    #[error("the enrolment token is not known")]
    Unknown,
    /// It was revoked.
    #[error("the enrolment token was revoked")]
    Revoked,
    /// It has expired.
    #[error("the enrolment token has expired")]
    Expired,
    /// It was used as often as it may be.
    #[error("the enrolment token is used up")]
    UsedUp,
    /// It is for the other role.
    #[error("the enrolment token is for the role {}", .0.as_str())]
    Role(Role),
}

impl EnrolmentToken {
    /// Whether a node of `role` may enrol with it at the time `now`.
    ///
    /// # Errors
    /// The first reason why it may not.
    pub fn usable(&self, role: Role, now: Timestamp) -> Result<(), TokenUnusable> {
        if self.revoked.is_some() {
            Err(TokenUnusable::Revoked)
        } else if self.expires.is_some_and(|expires| expires <= now) {
            Err(TokenUnusable::Expired)
        } else if self.uses_left == Some(0) {
            Err(TokenUnusable::UsedUp)
        } else if self.role != role {
            Err(TokenUnusable::Role(self.role))
        } else {
            Ok(())
        }
    }
}

/// A credential for the REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its identifier, which is no secret.
    pub id: ApiKeyId,
    /// The organization it acts in.
    pub organization: OrganizationId,
    /// What it is for, in the words of who made it.
    pub name: Label,
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
    /// What it may do in its organization.
    pub permissions: Permissions,
    /// The person who made it, perhaps by another key; it can do no more than they can. None of a key that Control's
    /// command line made, or somebody for whom an authenticator vouched.
    pub maker: Option<UserId>,
    /// When it ends to be of use.
    pub expires: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
}

/// A program's credential for services, where their policies take it. It opens nothing at Control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceToken {
    /// Its identifier, which is no secret. It is whom targets are told of.
    pub id: ServiceTokenId,
    /// The organization to whose services it can lead.
    pub organization: OrganizationId,
    /// What it is for, unique in the organization.
    pub name: Label,
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
    /// When it ends to be of use.
    pub expires: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_why_it_is_of_no_use() {
        let now = Timestamp::from_millis(1000);
        let token = EnrolmentToken {
            id: TokenId::from_bytes([1; 16]),
            organization: OrganizationId::from_bytes([2; 16]),
            name: "home".parse().unwrap(),
            role: Role::Agent,
            secret_hash: SecretHash::from_bytes([0; 32]),
            uses_left: Some(1),
            expires: Some(Timestamp::from_millis(1001)),
            revoked: None,
            declare: DeclareScope::default(),
            approval: false,
            labels: Labels::default(),
            created: now,
        };
        assert_eq!(token.usable(Role::Agent, now), Ok(()));
        assert_eq!(
            token.usable(Role::Gateway, now),
            Err(TokenUnusable::Role(Role::Agent))
        );
        assert_eq!(
            token.usable(Role::Agent, Timestamp::from_millis(1001)),
            Err(TokenUnusable::Expired)
        );
        let used = EnrolmentToken {
            uses_left: Some(0),
            ..token.clone()
        };
        assert_eq!(used.usable(Role::Agent, now), Err(TokenUnusable::UsedUp));
        let revoked = EnrolmentToken {
            revoked: Some(now),
            ..token
        };
        assert_eq!(revoked.usable(Role::Agent, now), Err(TokenUnusable::Revoked));
    }

    #[test]
    fn an_empty_scope_allows_nothing() {
        let none = DeclareScope::default();
        assert!(none.is_empty() && !none.allows_port(80) && !none.allows_host(&"a.example".parse().unwrap()));
        let some = DeclareScope {
            hosts: vec!["*.example.net".parse().unwrap()],
            ports: vec!["5000-5999".parse().unwrap()],
        };
        assert!(some.allows_host(&"a.example.net".parse().unwrap()) && some.allows_port(5432));
        assert!(some.allows_host(&"*.example.net".parse().unwrap()));
        assert!(!some.allows_host(&"example.net".parse().unwrap()) && !some.allows_port(6000));
    }
}
