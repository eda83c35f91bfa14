//! Services that agents declare by themselves, within the scope of the token that they enrolled with.

use std::collections::BTreeSet;

use kakuremichi_core::{
    id::AgentId,
    model::{DeclareScope, IdentityForm, Lifetime, Node, NodeKind, Service},
    name::Label,
    store::{Mutation, Query, RecordKind, Stored, UniqueKey},
};
use kakuremichi_proto::{
    declare::{Declaration, DeclaredKind, DeclaredService},
    message::MAX_DECLARATIONS,
};

use super::{
    ATTEMPTS, Actor, KindDraft, PlaceDraft, PoolDraft, Reference, RouteDraft, ServiceDraft, TargetDraft,
    UseCaseError, UseCases,
};

impl UseCases {
    /// Publishes what an agent declares. The same declaration again changes nothing, and another one under
    /// the same name takes its place.
    ///
    /// # Errors
    /// When it is outside the agent's scope, a name, host or port belongs to another service, the agent
    /// declares too much, or the storage fails.
    pub async fn declare(
        &self,
        agent: AgentId,
        actor: &Actor,
        declaration: &Declaration,
    ) -> Result<DeclaredService, UseCaseError> {
        let draft = draft(agent, declaration);
        let policy = self
            .resolve_policy(actor, declaration.policy.clone().into(), None)
            .await?;
        let lifetime = if declaration.ephemeral {
            Lifetime::Ephemeral(agent)
        } else {
            Lifetime::Declared(agent)
        };
        for _ in 0..ATTEMPTS {
            // Each time anew: the agent could have been revoked.
            let node = self
                .node(actor, agent.into())
                .await
                .map_err(|_| UseCaseError::NodeUnknown)?;
            in_scope(&node.value, &declaration.kind)?;
            let key = UniqueKey::ServiceName(actor.organization, declaration.name.clone());
            let found = self.store().find(&key).await?.and_then(Stored::narrow::<Service>);
            let outcome = match found {
                Some(found) if found.value.lifetime.declared_by() == Some(agent) => {
                    self.try_update(
                        actor,
                        "service.declare",
                        found,
                        draft.clone(),
                        policy.clone(),
                        lifetime,
                    )
                    .await
                }
                Some(_) => Err(UseCaseError::NameTaken(key)),
                None => {
                    self.count_declared(actor, agent).await?;
                    self.try_create(actor, draft.clone(), policy.clone(), lifetime)
                        .await
                }
            };
            match outcome {
                Ok(stored) => {
                    return Ok(DeclaredService {
                        service: stored.value.id,
                        urls: self.urls(&stored.value).await?,
                    });
                }
                Err(UseCaseError::Contended) => {}
                Err(UseCaseError::Taken(key)) => return Err(UseCaseError::NameTaken(key)),
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// An agent no longer serves what it declared under `name`. An ephemeral service goes; one that stays
    /// goes only with `delete`. What is not there is gone already.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn undeclare(
        &self,
        agent: AgentId,
        actor: &Actor,
        name: &Label,
        delete: bool,
    ) -> Result<(), UseCaseError> {
        self.withdraw(agent, actor, "service.undeclare", |service| {
            service.name == *name && (delete || service.lifetime == Lifetime::Ephemeral(agent))
        })
        .await
    }

    /// An agent came back and says what it still serves: its other ephemeral services go.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn keep_declared(
        &self,
        agent: AgentId,
        actor: &Actor,
        live: &BTreeSet<Label>,
    ) -> Result<(), UseCaseError> {
        self.withdraw(agent, actor, "service.undeclare", |service| {
            service.lifetime == Lifetime::Ephemeral(agent) && !live.contains(&service.name)
        })
        .await
    }

    /// The lease of an agent has ended: its ephemeral services go.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn end_lease(&self, agent: AgentId, actor: &Actor) -> Result<(), UseCaseError> {
        self.withdraw(agent, actor, "service.expire", |service| {
            service.lifetime == Lifetime::Ephemeral(agent)
        })
        .await
    }

    /// The agent that declared what has a unique value as ephemeral, in the actor's organization.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn ephemeral_holder(
        &self,
        actor: &Actor,
        key: &UniqueKey,
    ) -> Result<Option<AgentId>, UseCaseError> {
        let holder = self
            .store()
            .find(key)
            .await?
            .and_then(Stored::narrow::<Service>)
            .map(|stored| stored.value)
            .filter(|service| service.organization == actor.organization);
        Ok(holder.and_then(|service| match service.lifetime {
            Lifetime::Ephemeral(agent) => Some(agent),
            Lifetime::Configured | Lifetime::Declared(_) => None,
        }))
    }

    async fn withdraw(
        &self,
        agent: AgentId,
        actor: &Actor,
        action: &str,
        goes: impl Fn(&Service) -> bool,
    ) -> Result<(), UseCaseError> {
        for stored in self.declared(actor, agent).await? {
            if !goes(&stored.value) {
                continue;
            }
            let id = stored.value.id;
            // Without a version: whatever it was changed to, it is the agent's and goes.
            match self
                .commit(actor, action, id, vec![Mutation::Delete(id.into(), None)])
                .await
                .map_err(Into::into)
            {
                // Contended: it is gone already.
                Ok(_) | Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn count_declared(&self, actor: &Actor, agent: AgentId) -> Result<(), UseCaseError> {
        if self.declared(actor, agent).await?.len() >= MAX_DECLARATIONS {
            return Err(UseCaseError::DeclareLimit(MAX_DECLARATIONS));
        }
        Ok(())
    }

    async fn declared(&self, actor: &Actor, agent: AgentId) -> Result<Vec<Stored<Service>>, UseCaseError> {
        let query = Query::all(RecordKind::Service)
            .of(actor.organization)
            .owned_by(agent);
        Ok(self.store().all_of(query).await?)
    }
}

fn draft(agent: AgentId, declaration: &Declaration) -> ServiceDraft {
    let target = TargetDraft {
        place: PlaceDraft::Agent {
            agent: Reference::Id(agent),
            address: declaration.target.address.clone(),
        },
        scheme: declaration.target.scheme.clone(),
    };
    let pool = PoolDraft {
        targets: vec![target],
        health: declaration.target.health.clone(),
    };
    let kind = match &declaration.kind {
        DeclaredKind::Http { hosts, path } => KindDraft::Http {
            hosts: hosts.clone(),
            routes: vec![RouteDraft {
                path: path.clone(),
                pool,
                policies: Vec::new(),
            }],
            identity: IdentityForm::default(),
        },
        DeclaredKind::Tcp { port } => KindDraft::Tcp { port: *port, pool },
        DeclaredKind::Udp { port } => KindDraft::Udp { port: *port, pool },
    };
    ServiceDraft {
        name: declaration.name.clone(),
        kind,
        policy: declaration.policy.clone().into(),
        policies: Vec::new(),
    }
}

fn in_scope(node: &Node, kind: &DeclaredKind) -> Result<(), UseCaseError> {
    if !node.is_active() {
        return Err(UseCaseError::NodeRevoked);
    }
    let scope = match &node.kind {
        NodeKind::Agent { declare, .. } => declare.clone(),
        NodeKind::Gateway { .. } => DeclareScope::default(),
    };
    if scope.is_empty() {
        return Err(UseCaseError::ScopeNone);
    }
    match kind {
        DeclaredKind::Http { hosts, .. } => match hosts.iter().find(|host| !scope.allows_host(host)) {
            Some(outside) => Err(UseCaseError::ScopeHost(outside.clone())),
            None => Ok(()),
        },
        DeclaredKind::Tcp { port } | DeclaredKind::Udp { port } if scope.allows_port(*port) => Ok(()),
        DeclaredKind::Tcp { port } | DeclaredKind::Udp { port } => Err(UseCaseError::ScopePort(*port)),
    }
}
