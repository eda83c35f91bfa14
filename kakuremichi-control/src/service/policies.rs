//! Policies that services and routes share.

use kakuremichi_core::{
    id::PolicyId,
    model::Service,
    name::Label,
    policy::{Access, SharedPolicy},
    store::{Mutation, Stored, Version},
};

use super::{
    ATTEMPTS, AccessDraft, Actor, MAX_ENCODED_SERVICE, SharedPolicyDraft, UseCaseError, UseCases, at_version,
    now, random, update, written,
};
use crate::planner;

impl UseCases {
    /// Makes a policy. It does nothing until it is attached.
    ///
    /// # Errors
    /// When the draft is not valid, its name is taken, or the storage fails.
    pub async fn create_policy(
        &self,
        actor: &Actor,
        draft: SharedPolicyDraft,
    ) -> Result<Stored<SharedPolicy>, UseCaseError> {
        let policy = SharedPolicy {
            id: PolicyId::from_bytes(random()?),
            organization: actor.organization,
            name: draft.name,
            rules: draft.rules,
            access: self.resolve_shared_access(actor, draft.access, None).await?,
            created: now(),
        };
        self.room_for(actor, check(&policy)?)?;
        let create = vec![Mutation::Create(policy.clone().into())];
        self.commit(actor, "policy.create", policy.id, create).await?;
        Ok(written(policy, None))
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn policy(&self, actor: &Actor, id: PolicyId) -> Result<Stored<SharedPolicy>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Describes a policy anew, for everything that it is attached to.
    ///
    /// # Errors
    /// When it is not there, has changed since `expected`, the draft is not valid, its name is taken, or the
    /// storage fails.
    pub async fn update_policy(
        &self,
        actor: &Actor,
        id: PolicyId,
        draft: SharedPolicyDraft,
        expected: Option<Version>,
    ) -> Result<Stored<SharedPolicy>, UseCaseError> {
        for _ in 0..ATTEMPTS {
            let stored = self.policy(actor, id).await?;
            at_version(&stored, expected)?;
            let old = stored.value.access.as_ref();
            let policy = SharedPolicy {
                name: draft.name.clone(),
                rules: draft.rules.clone(),
                access: self
                    .resolve_shared_access(actor, draft.access.clone(), old)
                    .await?,
                ..stored.value.clone()
            };
            let length = check(&policy)?;
            if policy == stored.value {
                return Ok(stored);
            }
            let before = planner::encoded_policy_len(&stored.value).unwrap_or_default();
            self.room_for(actor, length.saturating_sub(before))?;
            let write = vec![update(policy.clone(), stored.version)];
            match self
                .commit(actor, "policy.update", id, write)
                .await
                .map_err(Into::into)
            {
                Ok(_) => return Ok(written(policy, Some(stored.version))),
                Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Deletes a policy.
    ///
    /// # Errors
    /// When it is not there, has changed since `expected`, is attached to something, or the storage fails.
    pub async fn delete_policy(
        &self,
        actor: &Actor,
        id: PolicyId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        for _ in 0..ATTEMPTS {
            let stored = self.policy(actor, id).await?;
            at_version(&stored, expected)?;
            let users = self.guarded_by(actor, id).await?;
            if !users.is_empty() {
                return Err(UseCaseError::InUse(users));
            }
            let delete = vec![Mutation::Delete(id.into(), Some(stored.version))];
            match self
                .commit(actor, "policy.delete", id, delete)
                .await
                .map_err(Into::into)
            {
                Ok(_) => return Ok(()),
                Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// The names of the services that a policy is attached to, or to a route of theirs.
    async fn guarded_by(&self, actor: &Actor, id: PolicyId) -> Result<Vec<Label>, UseCaseError> {
        let services = self.store().all::<Service>(Some(actor.organization)).await?;
        let users = services
            .into_iter()
            .filter(|stored| stored.value.attached().contains(&id));
        Ok(users.map(|stored| stored.value.name).collect())
    }

    async fn resolve_shared_access(
        &self,
        actor: &Actor,
        draft: Option<AccessDraft>,
        old: Option<&Access>,
    ) -> Result<Option<Access>, UseCaseError> {
        match draft {
            Some(draft) => self.resolve_access(actor, draft, "access", old).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Checks the bounds. Returns how many bytes it has in a plan.
fn check(policy: &SharedPolicy) -> Result<usize, UseCaseError> {
    policy
        .validate()
        .map_err(|error| UseCaseError::field("rules", error))?;
    match planner::encoded_policy_len(policy) {
        Ok(length) if length <= MAX_ENCODED_SERVICE => Ok(length),
        Ok(length) => {
            let message = format!(
                "a policy has at most {MAX_ENCODED_SERVICE} bytes when gateways are told of it, this one {length}: divide it"
            );
            Err(UseCaseError::field("rules", message))
        }
        Err(error) => Err(UseCaseError::field("rules", error)),
    }
}
