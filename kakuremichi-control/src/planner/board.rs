//! Each node's newest plan, for whoever sends it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kakuremichi_core::id::NodeId;
use kakuremichi_proto::plan::WirePlan;
use tokio::sync::watch;

/// What a node is to have.
#[derive(Debug, Clone, Default)]
pub(crate) enum Planned {
    /// It is not known yet, or the node waits for approval.
    #[default]
    Pending,
    /// This plan.
    Plan(Arc<WirePlan>),
    /// Nothing: it was revoked.
    Revoked,
    /// Nothing: it was deleted.
    Deleted,
}

/// Each node's newest plan. There is one place for each node that is known or connected; a newer plan takes
/// the place of one that nobody took.
#[derive(Debug, Default)]
pub(crate) struct PlanBoard(Mutex<BTreeMap<NodeId, watch::Sender<Planned>>>);

impl PlanBoard {
    /// The plan of a node, and each one that follows.
    pub(crate) fn subscribe(&self, node: NodeId) -> watch::Receiver<Planned> {
        self.places().entry(node).or_default().subscribe()
    }

    /// Puts up a plan.
    pub(crate) fn publish(&self, node: NodeId, planned: Planned) {
        let mut places = self.places();
        if matches!(planned, Planned::Deleted) {
            // Who is subscribed sees it before the end of the channel.
            if let Some(place) = places.remove(&node) {
                place.send_replace(planned);
            }
            return;
        }
        places.entry(node).or_default().send_replace(planned);
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<NodeId, watch::Sender<Planned>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
