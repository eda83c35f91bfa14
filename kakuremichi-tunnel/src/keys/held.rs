//! The keys of a node while others follow them.

use std::sync::Arc;

use tokio::sync::watch;

use super::NodeKeys;

/// The keys that a node holds: those that it has, and beside them those that it proposes, and those that it had
/// before. A clone shares them.
#[derive(Debug, Clone)]
pub(crate) struct KeyRing(Arc<watch::Sender<Held>>);

/// All keys that a node holds.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// Those that it has.
    pub(crate) current: NodeKeys,
    /// Those that it proposes: Control may have them already, and may have told others.
    pub(crate) next: Option<NodeKeys>,
    /// Those of before: not everybody may have heard of others.
    pub(crate) previous: Option<NodeKeys>,
}

impl Held {
    /// All, those first that most others know.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) fn all(&self) -> impl Iterator<Item = &NodeKeys> {
        [Some(&self.current), self.next.as_ref(), self.previous.as_ref()]
            .into_iter()
            .flatten()
    }
}

impl KeyRing {
    pub(crate) fn new(held: Held) -> Self {
        Self(Arc::new(watch::Sender::new(held)))
    }

    /// A node that has these keys only.
    pub(crate) fn of(current: NodeKeys) -> Self {
        Self::new(Held {
            current,
            next: None,
            previous: None,
        })
    }

    /// Those that the node has.
    pub(crate) fn current(&self) -> NodeKeys {
        self.0.borrow().current.clone()
    }

    /// All.
    pub(crate) fn held(&self) -> Held {
        self.0.borrow().clone()
    }

    /// All, and each change.
    #[cfg(feature = "agent")]
    pub(crate) fn watch(&self) -> watch::Receiver<Held> {
        self.0.subscribe()
    }

    /// The node proposes keys, or none any more.
    pub(crate) fn propose(&self, next: Option<NodeKeys>) {
        self.0.send_modify(|held| held.next = next);
    }

    /// What was proposed is what the node has. Those of before are held on to, if they count.
    pub(crate) fn promote(&self, keep: bool) {
        self.0.send_modify(|held| {
            if let Some(next) = held.next.take() {
                let before = std::mem::replace(&mut held.current, next);
                held.previous = keep.then_some(before);
            }
        });
    }

    /// Those of before count no more.
    pub(crate) fn forget_previous(&self) {
        self.0.send_if_modified(|held| held.previous.take().is_some());
    }
}
