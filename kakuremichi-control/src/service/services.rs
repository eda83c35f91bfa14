//! Services.

use kakuremichi_core::{
    id::ServiceId,
    model::{Lifetime, Service, ServiceError, ServiceKind},
    policy::Policy,
    store::{Mutation, Stored, Version},
};

use super::{
    ATTEMPTS, Actor, ServiceDraft, UseCaseError, UseCases, at_version, now, random, update, written,
};
use crate::planner;

/// The largest service, as gateways or one of its agents are told of it, in bytes.
pub const MAX_ENCODED_SERVICE: usize = 512 * 1024;

impl UseCases {
    /// Publishes a service.
    ///
    /// # Errors
    /// When the draft is not valid, a name, host or port is taken, or the storage fails.
    pub async fn create_service(
        &self,
        actor: &Actor,
        draft: ServiceDraft,
    ) -> Result<Stored<Service>, UseCaseError> {
        let policy = self.resolve_policy(actor, draft.policy.clone(), None).await?;
        for _ in 0..ATTEMPTS {
            let created = self
                .try_create(actor, draft.clone(), policy.clone(), Lifetime::Configured)
                .await;
            match created {
                Err(UseCaseError::Contended) => {}
                outcome => return outcome,
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Reads a service.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn service(&self, actor: &Actor, id: ServiceId) -> Result<Stored<Service>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Describes a service anew. Routes of the same path, and targets at the same place, stay what they are:
    /// connections to them go on.
    ///
    /// # Errors
    /// When it is not there, has changed since `expected`, was declared by an agent, the draft is not
    /// valid, a name, host or port is taken, or the storage fails.
    pub async fn update_service(
        &self,
        actor: &Actor,
        id: ServiceId,
        draft: ServiceDraft,
        expected: Option<Version>,
    ) -> Result<Stored<Service>, UseCaseError> {
        let mut policy: Option<(Version, Policy)> = None;
        for _ in 0..ATTEMPTS {
            let stored = self.service(actor, id).await?;
            at_version(&stored, expected)?;
            if let Some(agent) = stored.value.lifetime.declared_by() {
                return Err(UseCaseError::Declared(agent));
            }
            // Hashing is slow: not again, unless the passwords that stay are others now.
            let policy = match &policy {
                Some((version, policy)) if *version == stored.version => policy.clone(),
                Some(_) | None => {
                    let resolved = self
                        .resolve_policy(actor, draft.policy.clone(), Some(&stored.value.policy))
                        .await?;
                    policy = Some((stored.version, resolved.clone()));
                    resolved
                }
            };
            match self
                .try_update(
                    actor,
                    "service.update",
                    stored,
                    draft.clone(),
                    policy,
                    Lifetime::Configured,
                )
                .await
            {
                Err(UseCaseError::Contended) => {}
                outcome => return outcome,
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Deletes a service.
    ///
    /// # Errors
    /// When it is not there, has changed since `expected`, or the storage fails.
    pub async fn delete_service(
        &self,
        actor: &Actor,
        id: ServiceId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        for _ in 0..ATTEMPTS {
            let stored = self.service(actor, id).await?;
            at_version(&stored, expected)?;
            let delete = vec![Mutation::Delete(id.into(), Some(stored.version))];
            match self
                .commit(actor, "service.delete", id, delete)
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

    pub(super) async fn try_create(
        &self,
        actor: &Actor,
        draft: ServiceDraft,
        policy: Policy,
        lifetime: Lifetime,
    ) -> Result<Stored<Service>, UseCaseError> {
        let resolved = self.resolve_kind(actor, draft.kind, draft.policies, None).await?;
        let service = Service {
            id: ServiceId::from_bytes(random()?),
            organization: actor.organization,
            name: draft.name,
            kind: resolved.kind,
            policy,
            policies: resolved.policies,
            lifetime,
            created: now(),
        };
        let length = check(&service)?;
        self.room_for(actor, length)?;
        let mut write = resolved.beside;
        write.push(Mutation::Create(service.clone().into()));
        let action = match lifetime {
            Lifetime::Configured => "service.create",
            Lifetime::Declared(_) | Lifetime::Ephemeral(_) => "service.declare",
        };
        self.commit(actor, action, service.id, write).await?;
        Ok(written(service, None))
    }

    pub(super) async fn try_update(
        &self,
        actor: &Actor,
        action: &str,
        stored: Stored<Service>,
        draft: ServiceDraft,
        policy: Policy,
        lifetime: Lifetime,
    ) -> Result<Stored<Service>, UseCaseError> {
        let resolved = self
            .resolve_kind(actor, draft.kind, draft.policies, Some(&stored.value))
            .await?;
        let service = Service {
            name: draft.name,
            kind: resolved.kind,
            policy,
            policies: resolved.policies,
            lifetime,
            ..stored.value.clone()
        };
        let length = check(&service)?;
        if service == stored.value {
            return Ok(stored);
        }
        let before = planner::encoded_len(&stored.value).unwrap_or_default();
        self.room_for(actor, length.saturating_sub(before))?;
        let mut write = resolved.beside;
        write.push(update(service.clone(), stored.version));
        self.commit(actor, action, service.id, write).await?;
        Ok(written(service, Some(stored.version)))
    }
}

/// Checks what the types alone cannot hold, and that nodes can be told of it. Returns how many bytes it
/// has in a plan.
fn check(service: &Service) -> Result<usize, UseCaseError> {
    let (kind, port) = match &service.kind {
        ServiceKind::Http { .. } => ("http", "http"),
        ServiceKind::Tcp { .. } => ("tcp", "tcp.port"),
        ServiceKind::Udp { .. } => ("udp", "udp.port"),
    };
    service.validate().map_err(|error| {
        let field = match &error {
            ServiceError::NoHost | ServiceError::DuplicateHost(_) => "http.hosts",
            ServiceError::DuplicatePath(_) => "http.routes",
            ServiceError::Port => port,
            ServiceError::Policies => "policies",
            ServiceError::TooMany
            | ServiceError::Transport
            | ServiceError::Datagrams
            | ServiceError::HealthCheck
            | ServiceError::HealthPath
            | ServiceError::SocketPath
            | ServiceError::ServerName => kind,
        };
        UseCaseError::field(field, error)
    })?;
    match planner::encoded_len(service) {
        Ok(length) if length <= MAX_ENCODED_SERVICE => Ok(length),
        Ok(length) => {
            let message = format!(
                "a service has at most {MAX_ENCODED_SERVICE} bytes when nodes are told of it, this one {length}: divide it"
            );
            Err(UseCaseError::field(kind, message))
        }
        Err(error) => Err(UseCaseError::field(kind, error)),
    }
}
