//! Agents that are about to stop: they get no new flows, and idle connections to them are closed, so that
//! they need not wait for visitors who ask for nothing.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    rc::{Rc, Weak},
};

use kakuremichi_core::{
    id::AgentId,
    plan::{PlannedTarget, Via},
};
use slab::Slab;

use super::http::Kept;

/// Which agents drain, and the connections that are kept for visitors.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    agents: RefCell<BTreeSet<AgentId>>,
    /// Bounded by the visitors' connections.
    kept: RefCell<Slab<Weak<Kept>>>,
}

impl Draining {
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
        if !draining {
            self.agents.borrow_mut().remove(&agent);
            return;
        }
        if self.agents.borrow_mut().insert(agent) {
            tracing::info!(%agent, "an agent drains");
            for kept in self.kept.borrow().iter().filter_map(|(_, kept)| kept.upgrade()) {
                kept.close(|target| self.has(target));
            }
        }
    }

    /// Whether the agent of a target drains.
    pub(crate) fn has(&self, target: &PlannedTarget) -> bool {
        match &target.via {
            Via::Agent { agent, .. } => self.agents.borrow().contains(agent),
            Via::Site { .. } => false,
        }
    }
}
