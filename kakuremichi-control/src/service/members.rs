//! Who is in an organization, and as what.

use std::collections::BTreeSet;

use kakuremichi_core::{
    id::{GroupId, MemberId, OrganizationId, RoleId, UserId},
    model::{Group, MAX_MEMBER_GROUPS, MAX_MEMBER_ROLES, Member, Permissions, User, UserRole},
    store::{Mutation, Stored, UniqueKey, Version},
};

use super::{Actor, UseCaseError, UseCases, at_version, update, written};

/// What a member is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The roles.
    pub roles: BTreeSet<RoleId>,
    /// The groups.
    pub groups: BTreeSet<GroupId>,
}

impl UseCases {
    /// Reads a member.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn member(&self, actor: &Actor, id: MemberId) -> Result<Stored<Member>, UseCaseError> {
        self.load(actor, id).await
    }

    /// The account of a member.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn user_of(&self, member: &Member) -> Result<Option<User>, UseCaseError> {
        Ok(self
            .store()
            .entity::<User>(member.user)
            .await?
            .map(|user| user.value))
    }

    /// Changes what a member is. It counts from the member's next request on.
    ///
    /// # Errors
    /// When the member has or would have what the actor has not, a role or a group is not there, it changed since
    /// `expected`, or the storage fails.
    pub async fn change_member(
        &self,
        actor: &Actor,
        id: MemberId,
        place: Place,
        expected: Option<Version>,
    ) -> Result<Stored<Member>, UseCaseError> {
        let member = self.member(actor, id).await?;
        at_version(&member, expected)?;
        self.check_place(actor, &place).await?;
        actor.may_give(self.permissions_of(actor, &member.value.roles).await?)?;
        let changed = Member {
            roles: place.roles,
            groups: place.groups,
            ..member.value
        };
        let mutations = vec![update(changed.clone(), member.version)];
        self.commit(actor, "member.update", id, mutations).await?;
        Ok(written(changed, Some(member.version)))
    }

    /// Removes a member from the organization; the account stays.
    ///
    /// # Errors
    /// When the member has what the actor has not, is not there, changed since `expected`, or the storage fails.
    pub async fn remove_member(
        &self,
        actor: &Actor,
        id: MemberId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        let member = self.member(actor, id).await?;
        at_version(&member, expected)?;
        actor.may_give(self.permissions_of(actor, &member.value.roles).await?)?;
        let delete = vec![Mutation::Delete(id.into(), Some(member.version))];
        self.commit(actor, "member.delete", id, delete).await?;
        Ok(())
    }

    /// Checks that the roles and the groups are there, and are the actor's to give.
    pub(super) async fn check_place(&self, actor: &Actor, place: &Place) -> Result<(), UseCaseError> {
        if place.roles.len() > MAX_MEMBER_ROLES {
            let message = format!("a member has at most {MAX_MEMBER_ROLES} roles");
            return Err(UseCaseError::field("roles", message));
        }
        if place.groups.len() > MAX_MEMBER_GROUPS {
            let message = format!("a member is in at most {MAX_MEMBER_GROUPS} groups");
            return Err(UseCaseError::field("groups", message));
        }
        for role in &place.roles {
            let found = self.load::<UserRole>(actor, *role).await;
            found.map_err(|error| absent(error, "roles", role))?;
        }
        for group in &place.groups {
            let found = self.load::<Group>(actor, *group).await;
            found.map_err(|error| absent(error, "groups", group))?;
        }
        actor.may_give(self.permissions_of(actor, &place.roles).await?)
    }

    /// What roles of the actor's organization give together.
    async fn permissions_of(
        &self,
        actor: &Actor,
        roles: &BTreeSet<RoleId>,
    ) -> Result<Permissions, UseCaseError> {
        self.permissions_in(actor.organization, roles).await
    }

    /// What roles of an organization give together. A role that is gone gives nothing, nor does one of another
    /// organization.
    pub(super) async fn permissions_in(
        &self,
        organization: OrganizationId,
        roles: &BTreeSet<RoleId>,
    ) -> Result<Permissions, UseCaseError> {
        let mut permissions = Permissions::NONE;
        for role in roles {
            let role = self.store().entity::<UserRole>(*role).await?;
            let role = role.filter(|role| role.value.organization == organization);
            permissions = permissions.union(role.map_or(Permissions::NONE, |role| role.value.permissions));
        }
        Ok(permissions)
    }

    /// What a user may do in an organization now; nothing is `None`: there is no such user, the account is disabled, or
    /// the user is no member and administers nothing.
    pub(super) async fn rights_of(
        &self,
        user: UserId,
        organization: OrganizationId,
    ) -> Result<Option<Permissions>, UseCaseError> {
        let user = self.store().entity::<User>(user).await?;
        let Some(user) = user.filter(|user| user.value.disabled.is_none()) else {
            return Ok(None);
        };
        if user.value.administrator {
            return Ok(Some(Permissions::EVERYTHING));
        }
        let membership = UniqueKey::Membership(organization, user.value.id);
        let member = self
            .store()
            .find(&membership)
            .await?
            .and_then(Stored::narrow::<Member>);
        match member {
            Some(member) => Ok(Some(
                self.permissions_in(organization, &member.value.roles).await?,
            )),
            None => Ok(None),
        }
    }
}

fn absent(error: UseCaseError, field: &str, id: &impl ToString) -> UseCaseError {
    match error {
        UseCaseError::NotFound(_) => UseCaseError::field(field, format!("{} is not there", id.to_string())),
        other => other,
    }
}
