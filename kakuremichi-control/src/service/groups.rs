//! Groups of people.

use kakuremichi_core::{
    id::GroupId,
    model::{Group, Member},
    name::Label,
    store::{Mutation, Stored, Version},
};

use super::{Actor, UseCaseError, UseCases, at_version, now, random, update, written};

impl UseCases {
    /// Makes a group.
    ///
    /// # Errors
    /// When its name is taken or the storage fails.
    pub async fn create_group(&self, actor: &Actor, name: Label) -> Result<Stored<Group>, UseCaseError> {
        let group = Group {
            id: GroupId::from_bytes(random()?),
            organization: actor.organization,
            name,
            created: now(),
        };
        let create = vec![Mutation::Create(group.clone().into())];
        self.commit(actor, "group.create", group.id, create).await?;
        Ok(written(group, None))
    }

    /// Reads a group.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn group(&self, actor: &Actor, id: GroupId) -> Result<Stored<Group>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Renames a group.
    ///
    /// # Errors
    /// When it is not there, the name is taken, it changed since `expected`, or the storage fails.
    pub async fn rename_group(
        &self,
        actor: &Actor,
        id: GroupId,
        name: Label,
        expected: Option<Version>,
    ) -> Result<Stored<Group>, UseCaseError> {
        let group = self.group(actor, id).await?;
        at_version(&group, expected)?;
        let changed = Group { name, ..group.value };
        let mutations = vec![update(changed.clone(), group.version)];
        self.commit(actor, "group.update", id, mutations).await?;
        Ok(written(changed, Some(group.version)))
    }

    /// Deletes a group that has no members.
    ///
    /// # Errors
    /// When it has members, is not there, changed since `expected`, or the storage fails.
    pub async fn delete_group(
        &self,
        actor: &Actor,
        id: GroupId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        let group = self.group(actor, id).await?;
        at_version(&group, expected)?;
        let members: Vec<Stored<Member>> = self.store().all(Some(actor.organization)).await?;
        if members.iter().any(|member| member.value.groups.contains(&id)) {
            return Err(UseCaseError::HasMembers);
        }
        let delete = vec![Mutation::Delete(id.into(), Some(group.version))];
        self.commit(actor, "group.delete", id, delete).await?;
        Ok(())
    }
}
