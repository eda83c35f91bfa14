//! The keys of a node while others follow them.

use std::sync::Arc;

#[cfg(any(feature = "agent", feature = "gateway"))]
use kakuremichi_core::secret::Secret;
use tokio::sync::watch;

use super::NodeKeys;
#[cfg(any(feature = "agent", feature = "gateway"))]
use crate::engine::Shard;

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

/// Which keys of a node others follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// Its identity, and its WireGuard key.
    Both,
    /// Its identity. Stock WireGuard devices know the node by its WireGuard key, and cannot be told another.
    Identity,
}

impl Held {
    /// Those whose WireGuard key tunnels are begun with: it is tried beside the one in use, until others know it.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    fn newest(&self) -> &NodeKeys {
        self.next.as_ref().unwrap_or(&self.current)
    }

    /// Those whose WireGuard key others may know only.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    fn oldest(&self) -> &NodeKeys {
        match (&self.next, &self.previous) {
            (None, Some(previous)) => previous,
            _ => &self.current,
        }
    }

    /// What the engine of a node that starts is made with; it is [given](Self::give) the others then.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) fn first_wireguard(&self) -> Secret<[u8; 32]> {
        self.oldest().wireguard_private()
    }

    /// Gives the node's shards the WireGuard keys that it holds. They have two at most: while keys are proposed, those
    /// of before count no more in tunnels. That is the end only of peers that have not heard of those of now.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) fn give(&self, shard: &Shard) {
        shard.rekey(&self.newest().wireguard_private());
        if self.next.is_none() && self.previous.is_none() {
            shard.forget_previous_key();
        }
    }

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
    #[cfg(any(feature = "agent", feature = "gateway"))]
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
