//! Roles of people.

use kakuremichi_core::{
    id::{OrganizationId, RoleId},
    model::{Member, Permissions, UserRole},
    name::Label,
    store::{Mutation, Stored, Version},
};

use super::{Actor, UseCaseError, UseCases, at_version, now, random, update, written};

/// The name of the role that has every permission, in each organization.
pub const OWNER: &str = "owner";

/// A role to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleDraft {
    /// Its name.
    pub name: Label,
    /// What whoever has it may do.
    pub permissions: Permissions,
}

/// The role that comes with an organization.
pub(super) fn owner_role(organization: OrganizationId) -> Result<UserRole, UseCaseError> {
    Ok(UserRole {
        id: RoleId::from_bytes(random()?),
        organization,
        name: OWNER.parse().map_err(|_| UseCaseError::Contended)?,
        permissions: Permissions::EVERYTHING,
        built_in: true,
        created: now(),
    })
}

impl UseCases {
    /// Makes a role.
    ///
    /// # Errors
    /// When it has what the actor has not, its name is taken, or the storage fails.
    pub async fn create_role(
        &self,
        actor: &Actor,
        draft: RoleDraft,
    ) -> Result<Stored<UserRole>, UseCaseError> {
        actor.may_give(draft.permissions)?;
        let role = UserRole {
            id: RoleId::from_bytes(random()?),
            organization: actor.organization,
            name: draft.name,
            permissions: draft.permissions,
            built_in: false,
            created: now(),
        };
        let create = vec![Mutation::Create(role.clone().into())];
        self.commit(actor, "role.create", role.id, create).await?;
        Ok(written(role, None))
    }

    /// Reads a role.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn role(&self, actor: &Actor, id: RoleId) -> Result<Stored<UserRole>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Changes a role, and with it what everybody may do who has it.
    ///
    /// # Errors
    /// When it is built in, has or would have what the actor has not, changed since `expected`, or the storage
    /// fails.
    pub async fn change_role(
        &self,
        actor: &Actor,
        id: RoleId,
        draft: RoleDraft,
        expected: Option<Version>,
    ) -> Result<Stored<UserRole>, UseCaseError> {
        let role = self.changeable_role(actor, id, expected).await?;
        actor.may_give(draft.permissions)?;
        let changed = UserRole {
            name: draft.name,
            permissions: draft.permissions,
            ..role.value
        };
        let mutations = vec![update(changed.clone(), role.version)];
        self.commit(actor, "role.update", id, mutations).await?;
        Ok(written(changed, Some(role.version)))
    }

    /// Deletes a role that nobody has.
    ///
    /// # Errors
    /// When somebody has it, it is built in, has what the actor has not, changed since `expected`, or the storage
    /// fails.
    pub async fn delete_role(
        &self,
        actor: &Actor,
        id: RoleId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        let role = self.changeable_role(actor, id, expected).await?;
        let members: Vec<Stored<Member>> = self.store().all(Some(actor.organization)).await?;
        if members.iter().any(|member| member.value.roles.contains(&id)) {
            return Err(UseCaseError::HasMembers);
        }
        // Whoever is given it at this moment has a role that is gone, which gives nothing.
        let delete = vec![Mutation::Delete(id.into(), Some(role.version))];
        self.commit(actor, "role.delete", id, delete).await?;
        Ok(())
    }

    async fn changeable_role(
        &self,
        actor: &Actor,
        id: RoleId,
        expected: Option<Version>,
    ) -> Result<Stored<UserRole>, UseCaseError> {
        let role = self.role(actor, id).await?;
        at_version(&role, expected)?;
        if role.value.built_in {
            return Err(UseCaseError::BuiltIn);
        }
        // Nobody takes away from those who are more than they are.
        actor.may_give(role.value.permissions)?;
        Ok(role)
    }

    /// The role with every permission of an organization; made where there is none.
    pub(super) async fn owner_role_of(&self, organization: OrganizationId) -> Result<RoleId, UseCaseError> {
        let fresh = owner_role(organization)?;
        let key = kakuremichi_core::store::UniqueKey::RoleName(organization, fresh.name.clone());
        if let Some(found) = self
            .store()
            .find(&key)
            .await?
            .and_then(Stored::narrow::<UserRole>)
        {
            return Ok(found.value.id);
        }
        let (id, create) = (fresh.id, vec![Mutation::Create(fresh.into())]);
        let actor = Actor::control(organization);
        self.commit(&actor, "role.create", id, create).await?;
        Ok(id)
    }
}
