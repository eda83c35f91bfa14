//! Leases: what agents declared as ephemeral goes when they are gone for too long.
//!
//! An agent is there while it is connected, and also while a gateway carries to it: who lost only its
//! connection to Control goes on serving visitors, and keeps what it declared.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kakuremichi_core::{
    id::AgentId,
    model::{Lifetime, Service},
    store::Stored,
};

use super::{Hub, registry::Registry};
use crate::service::{Actor, UseCaseError, UseCases};

/// How often it is looked whether a lease has ended, as a part of the lease; at least twice a second.
const LOOKS: u32 = 8;
const OFTEN: Duration = Duration::from_millis(500);

/// Agents that are gone, and since when. An agent that came back may still stand here, until its time is over
/// and it is seen that it is connected. At most one entry for each agent that has anything ephemeral, or was
/// ever connected.
#[derive(Debug)]
pub(super) struct Leases {
    lease: Duration,
    gone: Mutex<BTreeMap<AgentId, (Instant, Actor)>>,
}

impl Leases {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            lease,
            gone: Mutex::default(),
        }
    }

    /// An agent is gone: its lease has begun to end.
    pub(super) fn begin(&self, agent: AgentId, actor: Actor) {
        self.gone().insert(agent, (Instant::now(), actor));
    }

    /// How much is left of an agent's lease: nothing, if it is not gone, or has none.
    pub(super) fn rest(&self, agent: AgentId, now: Instant) -> Duration {
        let gone = self.gone();
        let since = gone.get(&agent).map(|(since, _)| *since);
        let age = since.map(|since| now.saturating_duration_since(since));
        age.map_or(Duration::ZERO, |age| self.lease.saturating_sub(age))
    }

    /// Begins anew the leases of those who are carried to.
    fn renew(&self, registry: &Registry, now: Instant) {
        let gone: Vec<_> = self
            .gone()
            .iter()
            .map(|(agent, (_, actor))| (actor.organization, *agent))
            .collect();
        let carried = registry.carried(gone);
        for (agent, (since, actor)) in self.gone().iter_mut() {
            if carried.contains(&(actor.organization, *agent)) {
                *since = now;
            }
        }
    }

    /// Runs for ever. Time counts only while Control is up: an agent could not have come back before.
    pub(super) async fn watch(&self, hub: &Hub) {
        let (use_cases, registry) = (&hub.use_cases, &hub.registry);
        let pause = (self.lease / LOOKS).max(OFTEN).min(self.lease);
        while let Err(error) = self.begin_all(use_cases).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot read the declared services"
            );
            tokio::time::sleep(pause).await;
        }
        loop {
            tokio::time::sleep(pause).await;
            self.renew(registry, Instant::now());
            for (agent, actor) in self.due(Instant::now()) {
                match self.end_one(hub, agent, &actor).await {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::error!(%agent, error = &error as &dyn std::error::Error, "cannot end a lease");
                        self.begin(agent, actor);
                    }
                }
            }
        }
    }

    /// Ends a lease, unless the agent is at another instance, left it less than a lease ago, or is carried to by a
    /// gateway that is there: then it is looked again when another lease is over.
    async fn end_one(&self, hub: &Hub, agent: AgentId, actor: &Actor) -> Result<(), UseCaseError> {
        let pair = BTreeSet::from([(actor.organization, agent)]);
        if hub.is_elsewhere(agent.into(), self.lease).await?
            || !hub.carried_elsewhere(&pair).await?.is_empty()
        {
            self.begin(agent, actor.clone());
            return Ok(());
        }
        end(&hub.use_cases, &hub.registry, agent, actor).await
    }

    /// At the start every agent is gone.
    async fn begin_all(&self, use_cases: &UseCases) -> Result<(), UseCaseError> {
        let services: Vec<Stored<Service>> = use_cases.store().all(None).await?;
        for Stored { value: service, .. } in services {
            if let Lifetime::Ephemeral(agent) = service.lifetime {
                let actor = Actor::control(service.organization);
                self.begin(agent, actor);
            }
        }
        Ok(())
    }

    /// Takes those whose time is over.
    fn due(&self, now: Instant) -> Vec<(AgentId, Actor)> {
        let mut gone = self.gone();
        let over: Vec<_> = gone
            .iter()
            .filter(|(_, (since, _))| now.saturating_duration_since(*since) >= self.lease)
            .map(|(agent, (_, actor))| (*agent, actor.clone()))
            .collect();
        for (agent, _) in &over {
            gone.remove(agent);
        }
        over
    }

    fn gone(&self) -> MutexGuard<'_, BTreeMap<AgentId, (Instant, Actor)>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what an agent declared as ephemeral, unless it is there. It is the agent's turn meanwhile: one that
/// comes back waits with what it declares until this is over.
async fn end(
    use_cases: &UseCases,
    registry: &Registry,
    agent: AgentId,
    actor: &Actor,
) -> Result<(), UseCaseError> {
    let turn = registry.turn(agent.into());
    let ended = {
        let _turn = turn.lock().await;
        if registry.is_connected(agent.into()) {
            return Ok(());
        }
        use_cases.end_lease(agent, actor).await
    };
    drop(turn);
    registry.tidy(agent.into());
    ended
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kakuremichi_core::{
        id::{NodeId, OrganizationId},
        store::{MemoryStore, conformance::sample},
    };

    use super::*;

    #[test]
    fn a_lease_runs_from_the_last_time_that_the_agent_went() {
        let lease = Duration::from_secs(60);
        let leases = Leases::new(lease);
        let agent = AgentId::from_bytes([1; 16]);
        let actor = Actor::control(OrganizationId::from_bytes([2; 16]));
        leases.begin(agent, actor.clone());
        let first = Instant::now();
        while Instant::now() == first {}
        leases.begin(agent, actor.clone());
        assert_eq!(leases.due(first + lease), []);
        assert_eq!(leases.due(Instant::now() + lease), [(agent, actor)]);
        assert_eq!(leases.due(Instant::now() + lease), []);
    }

    #[tokio::test]
    async fn a_deleted_agent_leaves_nothing_behind_when_its_lease_ends() {
        let use_cases = UseCases::new(crate::service::Wiring::tests(Arc::new(MemoryStore::new())));
        let registry = Registry::default();
        let node = sample::agent(0, 1);
        let NodeId::Agent(agent) = node.id else {
            panic!("an agent")
        };
        let (seat, _ended) = registry.open(&node, 1);
        registry.forget(node.id);
        assert!(registry.close(&seat));
        end(&use_cases, &registry, agent, &seat.actor).await.unwrap();
        assert!(registry.is_empty());
    }
}
