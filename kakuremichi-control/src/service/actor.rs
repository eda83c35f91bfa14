//! Who acts.

use kakuremichi_core::{
    auth::Principal,
    id::{OrganizationId, SessionId, UserId},
    model::{ApiKey, Node, Permission, Permissions},
    store::IdempotentRequest,
};

use super::UseCaseError;

/// Who vouches for the principal of an API key.
const API_KEY: &str = "api-key";
/// Who vouches for the principal of a person who signed in to Control.
const USER: &str = "user";

/// Who does something, in which organization, and what they may do there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The organization.
    pub organization: OrganizationId,
    /// Who; nobody when Control itself, or its command line, acts.
    pub principal: Option<Principal>,
    /// What they may do in the organization.
    pub permissions: Permissions,
    /// The person behind it, if it is one who signed in.
    pub person: Option<Person>,
    /// The user whose rights these are: the person, or who made the key.
    pub behind: Option<UserId>,
    /// The request that they sent, where it may be sent again.
    pub request: Option<IdempotentRequest>,
}

/// A person who signed in to Control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// The user.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// Whether the user administers this Control.
    pub administrator: bool,
    /// The only organization in which the session counts, if there is one.
    pub organization: Option<OrganizationId>,
}

impl Actor {
    /// Control itself, or its command line: every right.
    #[must_use]
    pub const fn control(organization: OrganizationId) -> Self {
        Self {
            organization,
            principal: None,
            permissions: Permissions::EVERYTHING,
            person: None,
            behind: None,
            request: None,
        }
    }

    /// A node, in its organization. What it may do is no matter of permissions.
    #[must_use]
    pub fn node(node: &Node) -> Self {
        Self {
            organization: node.organization,
            principal: Some(Principal::new("node", node.id.to_string())),
            permissions: Permissions::NONE,
            person: None,
            behind: None,
            request: None,
        }
    }

    /// Whoever holds an API key, as far as its maker may do what it may.
    #[must_use]
    pub fn api_key(key: &ApiKey, permissions: Permissions) -> Self {
        Self {
            organization: key.organization,
            principal: Some(Principal::new(API_KEY, key.id.to_string())),
            permissions,
            person: None,
            behind: key.maker,
            request: None,
        }
    }

    /// Somebody for whom the embedder's authenticator vouches: every right in the organization.
    #[must_use]
    pub const fn vouched_for(organization: OrganizationId, principal: Principal) -> Self {
        Self {
            organization,
            principal: Some(principal),
            permissions: Permissions::EVERYTHING,
            person: None,
            behind: None,
            request: None,
        }
    }

    /// A person who signed in.
    #[must_use]
    pub fn person(organization: OrganizationId, person: Person, permissions: Permissions) -> Self {
        Self {
            organization,
            principal: Some(Principal::new(USER, person.user.to_string())),
            permissions,
            person: Some(person),
            behind: Some(person.user),
            request: None,
        }
    }

    /// Whether they have a permission.
    #[must_use]
    pub const fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(permission)
    }

    /// Whether they administer this Control.
    #[must_use]
    pub fn administers(&self) -> bool {
        self.principal.is_none() || self.person.is_some_and(|person| person.administrator)
    }

    /// Checks that they have what they are about to give: nobody becomes more than they are by making a
    /// credential, a role or a member.
    pub(super) fn may_give(&self, permissions: Permissions) -> Result<(), UseCaseError> {
        if self.permissions.covers(permissions) {
            return Ok(());
        }
        let missing = permissions.iter().filter(|permission| !self.may(*permission));
        Err(UseCaseError::Exceeds(missing.collect()))
    }

    /// Checks that the person did not sign in by an organization's provider: whoever runs that is not to change who
    /// they are elsewhere.
    pub(super) fn everywhere(&self) -> Result<(), UseCaseError> {
        match self.signed_in()?.organization {
            Some(_) => Err(UseCaseError::OtherOrganization),
            None => Ok(()),
        }
    }

    /// The person, or a refusal: this is about a person's own account.
    pub(super) fn signed_in(&self) -> Result<Person, UseCaseError> {
        self.person.ok_or(UseCaseError::NoPerson)
    }
}
