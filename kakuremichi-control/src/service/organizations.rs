//! Tenants.

use std::time::Duration;

use kakuremichi_core::{
    id::{MemberId, OrganizationId},
    model::{AccountPolicy, Member, Node, Organization, Service, Session, Site},
    name::Label,
    store::{Mutation, Query, RecordId, RecordKind, Stored, Version},
};

use super::{
    Actor, Listing, UseCaseError, UseCases, at_version, now, random, roles::owner_role, sign_in::met, update,
    users::administrator, written,
};

/// The shortest time for which an organization lets a session count.
pub const MIN_SESSION_LIFE: Duration = Duration::from_secs(5 * 60);

impl UseCases {
    /// Makes an organization, with a role that has every permission. The administrator who makes it owns it.
    ///
    /// # Errors
    /// When the actor is no administrator, the name is taken, or the storage fails.
    pub async fn create_organization(
        &self,
        actor: &Actor,
        name: Label,
    ) -> Result<Stored<Organization>, UseCaseError> {
        administrator(actor)?;
        let organization = Organization {
            id: OrganizationId::from_bytes(random()?),
            name,
            accounts: Default::default(),
            created: now(),
        };
        let role = owner_role(organization.id)?;
        let mut mutations = vec![
            Mutation::Create(organization.clone().into()),
            Mutation::Create(role.clone().into()),
        ];
        if let Some(person) = actor.person {
            let member = Member {
                id: MemberId::from_bytes(random()?),
                organization: organization.id,
                user: person.user,
                roles: [role.id].into(),
                groups: Default::default(),
                created: now(),
            };
            mutations.push(Mutation::Create(member.into()));
        }
        self.commit(actor, "organization.create", organization.id, mutations)
            .await?;
        Ok(written(organization, None))
    }

    /// Lists the organizations: all of them for an administrator, for others those they are in.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn organizations(
        &self,
        actor: &Actor,
        after: Option<RecordId>,
        limit: usize,
        wanted: impl Fn(&Organization) -> bool + Send,
    ) -> Result<Listing<Organization>, UseCaseError> {
        if actor.administers() {
            let query = Query {
                after,
                ..Query::all(RecordKind::Organization)
            };
            return self.filtered(query, limit, wanted).await;
        }
        let mut ids = vec![actor.organization];
        if let Some(person) = actor.person {
            let query = Query::all(RecordKind::Member).owned_by(person.user);
            let members: Vec<Stored<Member>> = self.store().all_of(query).await?;
            ids = members.iter().map(|member| member.value.organization).collect();
        }
        ids.sort();
        ids.retain(|id| after.is_none_or(|after| RecordId::from(*id) > after));
        let mut items: Vec<Stored<Organization>> = Vec::new();
        for (at, id) in ids.iter().enumerate() {
            let organization = self.store().entity::<Organization>(*id).await?;
            items.extend(organization.filter(|organization| wanted(&organization.value)));
            if items.len() >= limit {
                let next = (at + 1 < ids.len()).then(|| (*id).into());
                return Ok(Listing { items, next });
            }
        }
        Ok(Listing { items, next: None })
    }

    /// Renames an organization.
    ///
    /// # Errors
    /// When the actor is no administrator, the name is taken, it changed since `expected`, or the storage fails.
    pub async fn rename_organization(
        &self,
        actor: &Actor,
        id: OrganizationId,
        name: Label,
        expected: Option<Version>,
    ) -> Result<Stored<Organization>, UseCaseError> {
        let organization = self.any_organization(actor, id).await?;
        at_version(&organization, expected)?;
        if id == self.start().await?.organization {
            // It is found by its name at each start.
            return Err(UseCaseError::BuiltIn);
        }
        let changed = Organization {
            name,
            ..organization.value
        };
        let mutations = vec![update(changed.clone(), organization.version)];
        self.commit(actor, "organization.update", id, mutations).await?;
        Ok(written(changed, Some(organization.version)))
    }

    /// Says what the actor's organization asks of its members' accounts, from their next request on. Whoever signed
    /// in says only what their own session has: nobody shuts themselves out.
    ///
    /// # Errors
    /// When a session would live for less than [`MIN_SESSION_LIFE`], the actor's own has not what is asked for, it
    /// changed since `expected`, or the storage fails.
    pub async fn set_account_policy(
        &self,
        actor: &Actor,
        accounts: AccountPolicy,
        expected: Option<Version>,
    ) -> Result<Stored<Organization>, UseCaseError> {
        if accounts.session_life.is_some_and(|life| life < MIN_SESSION_LIFE) {
            return Err(UseCaseError::field("session_minutes", "at least 5 minutes"));
        }
        let organization = self.organization(actor).await?;
        at_version(&organization, expected)?;
        if let Some(person) = actor.person {
            let session = self.store().entity::<Session>(person.session).await?;
            let session = session.ok_or(UseCaseError::NoPerson)?;
            met(&accounts, &session.value, now())?;
        }
        let changed = Organization {
            accounts,
            ..organization.value
        };
        let id = changed.id;
        let mutations = vec![update(changed.clone(), organization.version)];
        self.commit(actor, "organization.accounts", id, mutations).await?;
        Ok(written(changed, Some(organization.version)))
    }

    /// Deletes an organization that has no nodes, sites and services any more, with all else that it has: roles,
    /// groups, members, invitations, tokens and keys.
    ///
    /// # Errors
    /// When the actor is no administrator, it is not empty, it changed since `expected`, or the storage fails.
    pub async fn delete_organization(
        &self,
        actor: &Actor,
        id: OrganizationId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        let organization = self.any_organization(actor, id).await?;
        at_version(&organization, expected)?;
        if id == self.start().await?.organization {
            return Err(UseCaseError::BuiltIn);
        }
        let empty = self.store().all::<Node>(Some(id)).await?.is_empty()
            && self.store().all::<Site>(Some(id)).await?.is_empty()
            && self.store().all::<Service>(Some(id)).await?.is_empty();
        if !empty {
            return Err(UseCaseError::NotEmpty);
        }
        let mut mutations = Vec::new();
        for kind in RecordKind::ALL
            .iter()
            .filter(|kind| **kind != RecordKind::Organization)
        {
            let mut query = Query::all(*kind).of(id);
            loop {
                let page = self.store().list(query).await?;
                let records = page.records.iter().map(|record| record.value.id());
                mutations.extend(records.map(|record| Mutation::Delete(record, None)));
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
        }
        mutations.push(Mutation::Delete(id.into(), Some(organization.version)));
        self.commit(actor, "organization.delete", id, mutations).await?;
        Ok(())
    }

    /// Any organization, for an administrator.
    ///
    /// # Errors
    /// When the actor is no administrator, it is not there, or the storage fails.
    pub async fn any_organization(
        &self,
        actor: &Actor,
        id: OrganizationId,
    ) -> Result<Stored<Organization>, UseCaseError> {
        administrator(actor)?;
        let found = self.store().entity(id).await?;
        found.ok_or(UseCaseError::NotFound(RecordKind::Organization))
    }
}
