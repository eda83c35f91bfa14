//! What agents say about their targets.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kakuremichi_core::{
    id::{AgentId, TargetId},
    plan::{GatewayPlan, PlannedKind, PlannedTarget, Via},
};
use rustc_hash::FxHashMap;

use super::balance::Health;

/// The board of a gateway, for all its shards: the agents speak to the one that owns them. It is read
/// once per request.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedHealth(Arc<RwLock<HealthBoard>>);

impl SharedHealth {
    /// To look at it.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, HealthBoard> {
        // Nothing that is done under the lock panics half way.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change it.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, HealthBoard> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last word of each agent about each of its targets.
///
/// Bounded by the plan: only its targets are kept, and only their own agent may speak about them
/// (LESSONS, advisory 10).
#[derive(Debug, Default)]
pub(crate) struct HealthBoard {
    targets: FxHashMap<TargetId, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    agent: AgentId,
    health: Health,
}

impl HealthBoard {
    /// Follows a new plan: what it no longer has is forgotten, and so is what was said about a target
    /// that moved to another agent.
    pub(crate) fn apply(&mut self, plan: &GatewayPlan) {
        let mut old = std::mem::take(&mut self.targets);
        for target in plan.services().flat_map(|service| targets(&service.kind)) {
            let Via::Agent { agent, .. } = target.via else {
                continue;
            };
            let known = old.remove(&target.id).filter(|entry| entry.agent == agent);
            let health = known.map_or(Health::Unknown, |entry| entry.health);
            self.targets.insert(target.id, Entry { agent, health });
        }
    }

    /// Takes an agent's word. Returns whether it was its to say.
    pub(crate) fn report(&mut self, agent: AgentId, target: TargetId, passing: bool) -> bool {
        match self.targets.get_mut(&target) {
            Some(entry) if entry.agent == agent => {
                entry.health = if passing { Health::Passing } else { Health::Failing };
                true
            }
            Some(_) | None => false,
        }
    }

    /// What an agent said is void.
    pub(crate) fn forget(&mut self, agent: AgentId) {
        // The order of a hash table does not show in what is done to each entry.
        self.targets.retain(|_, entry| {
            if entry.agent == agent {
                entry.health = Health::Unknown;
            }
            true
        });
    }

    /// What is known about a target.
    pub(crate) fn of(&self, target: &PlannedTarget) -> Health {
        self.targets
            .get(&target.id)
            .map_or(Health::Unknown, |entry| entry.health)
    }
}

/// All targets of a service.
pub(super) fn targets(kind: &PlannedKind) -> impl Iterator<Item = &PlannedTarget> {
    let (routes, pool) = match kind {
        PlannedKind::Http { routes, .. } => (routes.as_slice(), None),
        PlannedKind::Tcp { pool, .. } | PlannedKind::Udp { pool, .. } => (&[][..], Some(pool)),
    };
    routes
        .iter()
        .map(|route| &route.pool)
        .chain(pool)
        .flat_map(|pool| &pool.targets)
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{
        id::{OrganizationId, ServiceId},
        model::{TargetScheme, VirtualPort},
        plan::{GatewayRecord, GatewayService, PlannedPool, Revision},
        policy::Policy,
    };

    use super::*;

    const AGENT: AgentId = AgentId::from_bytes([1; 16]);
    const OTHER: AgentId = AgentId::from_bytes([2; 16]);
    const TARGET: TargetId = TargetId::from_bytes([3; 16]);

    fn target(agent: AgentId) -> PlannedTarget {
        PlannedTarget {
            id: TARGET,
            via: Via::Agent {
                agent,
                port: VirtualPort::FIRST,
            },
            scheme: TargetScheme::Plain,
            server_name: None,
            checked: true,
        }
    }

    fn plan(agent: AgentId) -> GatewayPlan {
        let service = GatewayService {
            id: ServiceId::from_bytes([1; 16]),
            organization: OrganizationId::from_bytes([1; 16]),
            name: "db".parse().unwrap(),
            kind: PlannedKind::Tcp {
                port: 5432,
                pool: PlannedPool {
                    targets: vec![target(agent)],
                },
            },
            policy: Policy::public(),
            policies: Vec::new(),
        };
        GatewayPlan::new(Revision(1), [GatewayRecord::Service(service)])
    }

    /// LESSONS, advisory 10: a message is about the node that sent it.
    #[test]
    fn only_its_own_agent_speaks_about_a_target() {
        let mut board = HealthBoard::default();
        assert!(!board.report(AGENT, TARGET, true));
        board.apply(&plan(AGENT));
        assert!(!board.report(OTHER, TARGET, true));
        assert_eq!(board.of(&target(AGENT)), Health::Unknown);
        assert!(board.report(AGENT, TARGET, true));
        assert_eq!(board.of(&target(AGENT)), Health::Passing);
    }

    #[test]
    fn a_plan_keeps_what_stays_and_forgets_what_moved() {
        let mut board = HealthBoard::default();
        board.apply(&plan(AGENT));
        board.report(AGENT, TARGET, false);
        board.apply(&plan(AGENT));
        assert_eq!(board.of(&target(AGENT)), Health::Failing);
        board.apply(&plan(OTHER));
        assert_eq!(board.of(&target(OTHER)), Health::Unknown);
        board.apply(&GatewayPlan::default());
        assert_eq!(board.of(&target(OTHER)), Health::Unknown);
    }
}
