//! Leases: what agents declared as ephemeral goes when they are gone for too long.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    id::AgentId,
    model::{Lifetime, Service},
    store::Stored,
};
use tokio::sync::Mutex;

use crate::service::{Actor, UseCaseError, UseCases};

/// How often it is looked whether a lease has ended, as a part of the lease; at least twice a second.
const LOOKS: u32 = 8;
const OFTEN: Duration = Duration::from_millis(500);

/// Agents that are gone, and since when. The lock is held while what a gone agent declared is removed: an
/// agent that comes back waits for that, and declares anew. At most one entry for each agent that has
/// anything ephemeral, or was ever connected.
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

    /// An agent is there: its lease runs on.
    pub(super) async fn renew(&self, agent: AgentId) {
        self.gone.lock().await.remove(&agent);
    }

    /// An agent is gone: its lease has begun to end.
    pub(super) async fn begin(&self, agent: AgentId, actor: Actor) {
        self.gone
            .lock()
            .await
            .entry(agent)
            .or_insert_with(|| (Instant::now(), actor));
    }

    /// Runs for ever. Time counts only while Control is up: an agent could not have come back before.
    pub(super) async fn watch(&self, use_cases: &UseCases) {
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
            self.end_due(use_cases).await;
        }
    }

    /// At the start every agent is gone.
    async fn begin_all(&self, use_cases: &UseCases) -> Result<(), UseCaseError> {
        let services: Vec<Stored<Service>> = use_cases.store().all(None).await?;
        for Stored { value: service, .. } in services {
            if let Lifetime::Ephemeral(agent) = service.lifetime {
                let actor = Actor {
                    organization: service.organization,
                    principal: None,
                };
                self.begin(agent, actor).await;
            }
        }
        Ok(())
    }

    async fn end_due(&self, use_cases: &UseCases) {
        let mut gone = self.gone.lock().await;
        let due: Vec<_> = gone
            .iter()
            .filter(|(_, (since, _))| since.elapsed() >= self.lease)
            .map(|(agent, (_, actor))| (*agent, actor.clone()))
            .collect();
        for (agent, actor) in due {
            match use_cases.end_lease(agent, &actor).await {
                Ok(()) => {
                    gone.remove(&agent);
                }
                Err(error) => {
                    tracing::error!(%agent, error = &error as &dyn std::error::Error, "cannot end a lease");
                }
            }
        }
    }
}
