//! Each node's newest plan, for whoever sends it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kakuremichi_core::{
    id::NodeId,
    key::IdentityKey,
    model::{Node, PreviousKeys, RotationAsked},
    time::Timestamp,
};
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

/// By which keys a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct NodeKeys {
    /// Who it is; nothing where that is not known yet.
    identity: Option<IdentityKey>,
    previous: Option<PreviousKeys>,
    /// Set while it is asked for other ones.
    pub(crate) asked: Option<RotationAsked>,
}

impl NodeKeys {
    pub(crate) fn of(node: &Node) -> Self {
        Self {
            identity: Some(node.identity),
            previous: node.rotation.previous,
            asked: node.rotation.asked,
        }
    }

    /// Whether a session that was proven by `identity` is no longer one of the node's.
    pub(crate) fn are_not(&self, identity: &IdentityKey, now: Timestamp) -> bool {
        let Some(current) = self.identity else {
            return false;
        };
        let counts = |previous: &PreviousKeys| previous.identity == *identity && now < previous.until;
        current != *identity && !self.previous.as_ref().is_some_and(counts)
    }
}

/// Each node's newest plan. There is one place for each node that is known or connected; a newer plan takes
/// the place of one that nobody took.
#[derive(Debug, Default)]
pub(crate) struct PlanBoard(Mutex<BTreeMap<NodeId, Place>>);

#[derive(Debug, Default)]
struct Place {
    plan: watch::Sender<Planned>,
    keys: watch::Sender<NodeKeys>,
}

impl PlanBoard {
    /// The plan of a node, and each one that follows.
    pub(crate) fn subscribe(&self, node: NodeId) -> watch::Receiver<Planned> {
        self.places().entry(node).or_default().plan.subscribe()
    }

    /// The keys of a node, and each change of them.
    pub(crate) fn keys(&self, node: NodeId) -> watch::Receiver<NodeKeys> {
        self.places().entry(node).or_default().keys.subscribe()
    }

    /// Puts up a plan.
    pub(crate) fn publish(&self, node: NodeId, planned: Planned) {
        let mut places = self.places();
        if matches!(planned, Planned::Deleted) {
            // Who is subscribed sees it before the end of the channel.
            if let Some(place) = places.remove(&node) {
                place.plan.send_replace(planned);
            }
            return;
        }
        places.entry(node).or_default().plan.send_replace(planned);
    }

    /// Puts up keys.
    pub(crate) fn publish_keys(&self, node: NodeId, keys: NodeKeys) {
        let mut places = self.places();
        let place = places.entry(node).or_default();
        place.keys.send_if_modified(|known| {
            let differ = *known != keys;
            *known = keys;
            differ
        });
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<NodeId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
