//! What a connection has once its node was let in.

use std::{collections::VecDeque, future::pending, sync::Arc, time::Instant};

use kakuremichi_core::{code::Code, key::IdentityKey, plan::Revision, time::Timestamp};
use kakuremichi_proto::{
    plan::{PlanHash, WirePlan},
    session::{Command, Reason, Server},
};
use tokio::sync::watch;

use super::registry::{Registry, Seat};
use crate::{
    planner::{NodeKeys, Planned},
    service::now,
};

/// Plans that were given to the session and are remembered in case that the node acknowledges them. The
/// oldest gives way; then more than the difference may be sent after a reconnect.
const PLANS_KEPT: usize = 4;

/// A node that was let in.
pub(super) struct Member {
    pub(super) seat: Seat,
    /// What the node was let in as, or became in its session.
    pub(super) identity: IdentityKey,
    plans: watch::Receiver<Planned>,
    keys: watch::Receiver<NodeKeys>,
    /// When the node was asked for other keys, as far as it was told here.
    asked: Option<Timestamp>,
    ended: watch::Receiver<Option<Reason>>,
    /// Whether it said what it has; only then it is given plans.
    ready: bool,
    given: VecDeque<Arc<WirePlan>>,
}

/// What turned.
pub(super) enum Turn {
    Plan,
    Keys,
    End,
}

impl Member {
    pub(super) fn new(
        seat: Seat,
        identity: IdentityKey,
        plans: watch::Receiver<Planned>,
        keys: watch::Receiver<NodeKeys>,
        ended: watch::Receiver<Option<Reason>>,
    ) -> Self {
        Self {
            seat,
            identity,
            plans,
            keys,
            asked: None,
            ended,
            ready: false,
            given: VecDeque::new(),
        }
    }

    /// Waits until the plan turns, or the session has to end. Nothing is lost when this is dropped.
    pub(super) async fn turned(&mut self) -> Turn {
        tokio::select! {
            Ok(()) = self.plans.changed() => Turn::Plan,
            Ok(()) = self.keys.changed() => Turn::Keys,
            Ok(()) = self.ended.changed() => Turn::End,
            else => pending().await,
        }
    }

    /// The node said what it has: gives it its plan.
    pub(super) fn resume(
        &mut self,
        registry: &Registry,
        server: &mut Server,
        has: Option<(Revision, PlanHash)>,
    ) {
        self.ready = true;
        self.ask_for_keys(server);
        let planned = self.plans.borrow_and_update().clone();
        let Planned::Plan(plan) = planned else {
            return self.give(registry, server, planned, None);
        };
        // Control numbers plans anew when it starts. A node that has these very records is told nothing,
        // whatever number it has them under.
        let plan = match has {
            Some((revision, hash)) if hash == plan.hash() => {
                let same = Arc::new(WirePlan::clone(&plan).with_revision(revision));
                registry.acknowledge(&self.seat, Arc::clone(&same));
                same
            }
            Some(_) | None => plan,
        };
        let base = registry.acknowledged(self.seat.node);
        self.give(registry, server, Planned::Plan(plan), base);
    }

    /// The keys turned, or the node proposed other ones: asks it for new ones, if somebody wants that. Returns whether it
    /// may no longer be what it was let in as.
    pub(super) fn take_keys(&mut self, server: &mut Server) -> bool {
        self.keys.mark_unchanged();
        self.ask_for_keys(server);
        self.keys.borrow().are_not(&self.identity, now())
    }

    fn ask_for_keys(&mut self, server: &mut Server) {
        let asked = self.keys.borrow().asked.map(|asked| asked.at);
        if !self.ready || asked.is_none() || asked == self.asked {
            return;
        }
        self.asked = asked;
        // A node that is older than this is asked again when it comes as a newer one.
        if let Err(error) = server.command(Command::RotateKeys, Instant::now()) {
            tracing::warn!(node = %self.seat.node, %error, "a node cannot be asked for new keys");
        }
    }

    /// The plan turned.
    pub(super) fn take_plan(&mut self, registry: &Registry, server: &mut Server) {
        let planned = self.plans.borrow_and_update().clone();
        self.give(registry, server, planned, None);
    }

    /// The node has applied a plan.
    pub(super) fn applied(&mut self, registry: &Registry, name: (Revision, PlanHash)) {
        let found = self
            .given
            .iter()
            .position(|plan| name == (plan.revision(), plan.hash()));
        if let Some(found) = found {
            self.given.drain(..found);
            if let Some(plan) = self.given.front() {
                registry.acknowledge(&self.seat, Arc::clone(plan));
            }
        }
    }

    /// Why the session has to end, if it has to.
    pub(super) fn end(&mut self) -> Option<Reason> {
        self.ended.borrow_and_update().clone()
    }

    fn give(
        &mut self,
        registry: &Registry,
        server: &mut Server,
        planned: Planned,
        base: Option<Arc<WirePlan>>,
    ) {
        let now = Instant::now();
        match planned {
            Planned::Plan(plan) if self.ready => {
                if self.given.len() >= PLANS_KEPT {
                    self.given.pop_front();
                }
                self.given.push_back(Arc::clone(&plan));
                server.set_plan(plan, base, now);
            }
            Planned::Revoked => {
                let reason = Reason::permanent(Code::NODE_REVOKED, "the node was revoked");
                server.close(reason, now);
            }
            Planned::Deleted => {
                let reason = Reason::permanent(Code::NODE_UNKNOWN, "the node was deleted");
                registry.forget(self.seat.node);
                server.close(reason, now);
            }
            Planned::Pending | Planned::Plan(_) => {}
        }
    }
}
