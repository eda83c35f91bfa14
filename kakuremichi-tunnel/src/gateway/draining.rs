//! Agents that are about to stop: they get no new flows, and idle connections to them are closed, so that
//! they need not wait for visitors who ask for nothing.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    rc::{Rc, Weak},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use kakuremichi_core::{
    id::AgentId,
    plan::{PlannedTarget, Via},
};
use slab::Slab;
use tokio::sync::watch;

use super::http::Kept;

/// Which agents drain, for all shards.
#[derive(Debug, Clone)]
pub(crate) struct DrainingAgents {
    agents: Arc<RwLock<BTreeSet<AgentId>>>,
    /// One more drains.
    more: watch::Sender<()>,
}

impl Default for DrainingAgents {
    fn default() -> Self {
        Self {
            agents: Arc::default(),
            more: watch::Sender::new(()),
        }
    }
}

/// Which agents drain, and the connections that one shard keeps for its visitors.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    all: DrainingAgents,
    /// Bounded by the visitors' connections.
    kept: RefCell<Slab<Weak<Kept>>>,
}

impl Draining {
    /// On a shard that hears of agents together with others.
    pub(crate) fn new(all: DrainingAgents) -> Self {
        Self {
            all,
            kept: RefCell::default(),
        }
    }

    /// Closes what this shard keeps to agents of which another shard hears that they drain, for ever.
    pub(crate) async fn follow(self: Rc<Self>) {
        let mut more = self.all.more.subscribe();
        while more.changed().await.is_ok() {
            self.close();
        }
    }

    /// Makes the kept connections of one visitor's connection.
    pub(crate) fn keep(self: &Rc<Self>) -> Rc<Kept> {
        let mut all = self.kept.borrow_mut();
        let entry = all.vacant_entry();
        let kept = Rc::new(Kept::new(Rc::clone(self), entry.key()));
        entry.insert(Rc::downgrade(&kept));
        kept
    }

    /// Kept connections are no more.
    pub(crate) fn forget(&self, key: usize) {
        self.kept.borrow_mut().try_remove(key);
    }

    /// An agent says whether it drains. What it was before its feed is not known to a newer one: that
    /// begins with `false`.
    pub(crate) fn set(&self, agent: AgentId, draining: bool) {
        let mut agents = self.all.agents.write().unwrap_or_else(PoisonError::into_inner);
        if !draining {
            agents.remove(&agent);
            return;
        }
        let is_new = agents.insert(agent);
        drop(agents);
        if is_new {
            tracing::info!(%agent, "an agent drains");
            self.close();
            self.all.more.send_replace(());
        }
    }

    /// Closes what is kept to agents that drain.
    fn close(&self) {
        for kept in self.kept.borrow().iter().filter_map(|(_, kept)| kept.upgrade()) {
            kept.close(|target| self.has(target));
        }
    }

    /// Whether the agent of a target drains.
    pub(crate) fn has(&self, target: &PlannedTarget) -> bool {
        match &target.via {
            Via::Agent { agent, .. } => self.agents().contains(agent),
            Via::Site { .. } => false,
        }
    }

    /// Whether an agent drains.
    pub(crate) fn has_agent(&self, agent: AgentId) -> bool {
        self.agents().contains(&agent)
    }

    fn agents(&self) -> RwLockReadGuard<'_, BTreeSet<AgentId>> {
        // Nothing that is done under the lock panics half way.
        self.all.agents.read().unwrap_or_else(PoisonError::into_inner)
    }
}
