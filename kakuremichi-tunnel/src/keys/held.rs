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
    /// The keys whose WireGuard keys the engine has: those to begin tunnels with, and beside them those that others may
    /// know still.
    ///
    /// It has two at most. Keys that are proposed are tried already, so that whoever hears of them goes over; while keys of
    /// before count they wait, since a proposal must not end what counts.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    fn for_tunnels(&self) -> (&NodeKeys, Option<&NodeKeys>) {
        match (&self.next, &self.previous) {
            (_, Some(previous)) => (&self.current, Some(previous)),
            (Some(next), None) => (next, Some(&self.current)),
            (None, None) => (&self.current, None),
        }
    }

    /// What the engine of a node that starts is made with; it is [given](Self::give) the other one then.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) fn first_wireguard(&self) -> Secret<[u8; 32]> {
        self.for_tunnels().0.wireguard_private()
    }

    /// Gives the node's shards the WireGuard keys that it holds.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) fn give(&self, shard: &Shard) {
        let (newest, previous) = self.for_tunnels();
        let previous = previous.map(NodeKeys::wireguard_private);
        shard.hold_keys(&newest.wireguard_private(), previous.as_ref());
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

#[cfg(all(test, any(feature = "agent", feature = "gateway")))]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_in_the_engine_whatever_is_proposed() {
        let [first, second, third] = [(); 3].map(|()| NodeKeys::generate().unwrap());
        let ring = KeyRing::of(first.clone());
        let has = |newest: &NodeKeys, previous: Option<&NodeKeys>| {
            let held = ring.held();
            let (now, before) = held.for_tunnels();
            assert_eq!(now.wireguard(), newest.wireguard());
            assert_eq!(before.map(NodeKeys::wireguard), previous.map(NodeKeys::wireguard));
            assert_eq!(
                held.first_wireguard().expose(),
                newest.wireguard_private().expose()
            );
        };
        has(&first, None);
        ring.propose(Some(second.clone()));
        has(&second, Some(&first));
        ring.propose(None);
        has(&first, None);
        ring.propose(Some(second.clone()));
        ring.promote(true);
        has(&second, Some(&first));
        // Refused or not, it ends nothing that counts.
        ring.propose(Some(third.clone()));
        has(&second, Some(&first));
        ring.propose(None);
        has(&second, Some(&first));
        ring.propose(Some(third.clone()));
        ring.promote(true);
        has(&third, Some(&second));
        ring.forget_previous();
        has(&third, None);
    }
}
