//! Which shard owns a peer.
//!
//! The shards of a node share one entry for each peer: who owns it, and whether the owner holds on to
//! it. Whoever received the handshake of a peer that nobody holds takes it over, once the peer has
//! proven itself; it is held for as long as there is a live session or a flow. An entry is one atomic
//! word; the table that finds entries by key is locked when peers are configured and when flows are
//! opened, never for a packet.

use std::sync::{
    Arc, PoisonError, RwLock, Weak,
    atomic::{AtomicU16, Ordering},
};

use kakuremichi_core::key::WireGuardKey;
use rustc_hash::FxHashMap;

use super::index::MAX_SHARDS;

/// Set while the owner has a live session with the peer, or flows of it.
const HELD: u16 = 1 << 8;
/// The owner's number.
const OWNER: u16 = HELD - 1;

/// Who owns which peer, of all shards of one node.
#[derive(Debug)]
pub struct Owners {
    shards: u8,
    /// Bounded by the peers that are configured: nobody else keeps an entry.
    entries: RwLock<FxHashMap<WireGuardKey, Weak<Ownership>>>,
}

/// One peer's entry.
#[derive(Debug)]
pub(super) struct Ownership(AtomicU16);

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    /// The shard that owns the peer, or would begin a handshake with it.
    pub(super) shard: u8,
    /// Nobody else may take it over.
    pub(super) held: bool,
}

impl Owners {
    /// For so many shards, 1 to [`MAX_SHARDS`].
    pub(super) fn new(shards: u8) -> Self {
        Self {
            shards: shards.clamp(1, MAX_SHARDS),
            entries: RwLock::default(),
        }
    }

    /// How many shards there are.
    #[must_use]
    pub const fn shards(&self) -> u8 {
        self.shards
    }

    /// The shard that owns a peer; of one that is not configured, the shard that would.
    #[must_use]
    pub fn owner(&self, peer: &WireGuardKey) -> u8 {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let known = entries.get(peer).and_then(Weak::upgrade);
        known.map_or_else(|| self.first(peer), |entry| entry.get().shard)
    }

    /// The entry of a peer, made if there is none; it is found by either of its keys from now on.
    pub(super) fn entry(&self, key: &WireGuardKey, previous: Option<&WireGuardKey>) -> Arc<Ownership> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let known = |key: &WireGuardKey| entries.get(key).and_then(Weak::upgrade);
        let entry = known(key)
            .or_else(|| previous.and_then(known))
            .unwrap_or_else(|| Arc::new(Ownership(AtomicU16::new(self.first(key).into()))));
        for key in [Some(key), previous].into_iter().flatten() {
            entries.insert(*key, Arc::downgrade(&entry));
        }
        entry
    }

    /// A key is not this peer's any more.
    pub(super) fn forget(&self, key: &WireGuardKey, entry: &Arc<Ownership>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries
            .get(key)
            .is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(entry)))
        {
            entries.remove(key);
        }
    }

    /// Forgets the entries that nobody keeps any more.
    pub(super) fn sweep(&self) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| entry.strong_count() > 0);
    }

    /// Who begins with a peer that was never heard from: keys are spread evenly.
    fn first(&self, peer: &WireGuardKey) -> u8 {
        let mut number = [0; 8];
        number.copy_from_slice(&peer.as_bytes()[..8]);
        (u64::from_le_bytes(number) % u64::from(self.shards)) as u8
    }
}

impl Ownership {
    pub(super) fn get(&self) -> Owner {
        let word = self.0.load(Ordering::Acquire);
        Owner {
            shard: (word & OWNER) as u8,
            held: word & HELD != 0,
        }
    }

    /// Makes `shard` the owner, and holds on. False when another one holds the peer.
    pub(super) fn hold(&self, shard: u8) -> bool {
        let own = HELD | u16::from(shard);
        let taken = |word| (word & HELD == 0 || word == own).then_some(own);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, taken)
            .is_ok()
    }

    /// Holds on no longer. The owner stays the same until another one takes over.
    pub(super) fn release(&self, shard: u8) {
        let own = u16::from(shard);
        // Not ours to release: nothing changes.
        let _ = self
            .0
            .compare_exchange(HELD | own, own, Ordering::AcqRel, Ordering::Acquire);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> WireGuardKey {
        WireGuardKey::from_bytes([number; 32])
    }

    #[test]
    fn a_peer_is_taken_over_only_when_nobody_holds_it() {
        let owners = Owners::new(4);
        let entry = owners.entry(&key(1), None);
        assert!(Arc::ptr_eq(&entry, &owners.entry(&key(1), None)));
        assert!(!entry.get().held);
        assert!(entry.hold(2) && entry.hold(2) && !entry.hold(3));
        assert_eq!(owners.owner(&key(1)), 2);
        entry.release(3);
        assert!(!entry.hold(3), "only the owner lets go");
        entry.release(2);
        assert_eq!(owners.owner(&key(1)), 2, "remembered");
        assert!(entry.hold(3));
        assert_eq!(owners.owner(&key(1)), 3);
    }

    #[test]
    fn a_peer_with_two_keys_has_one_owner() {
        let owners = Owners::new(4);
        let entry = owners.entry(&key(1), None);
        assert!(entry.hold(2));
        let again = owners.entry(&key(5), Some(&key(1)));
        assert!(Arc::ptr_eq(&entry, &again));
        assert_eq!((owners.owner(&key(1)), owners.owner(&key(5))), (2, 2));
        let other = owners.entry(&key(7), None);
        owners.forget(&key(1), &other);
        assert_eq!(owners.owner(&key(1)), 2, "it is not that peer's");
        owners.forget(&key(1), &entry);
        assert_eq!((owners.owner(&key(1)), owners.owner(&key(5))), (1, 2));
    }

    #[test]
    fn entries_last_as_long_as_the_peers() {
        let owners = Owners::new(4);
        let entry = owners.entry(&key(1), None);
        owners.sweep();
        assert_eq!(owners.entries.read().unwrap().len(), 1);
        drop(entry);
        owners.sweep();
        assert!(owners.entries.read().unwrap().is_empty());
        let first: Vec<u8> = (0..8).map(|number| owners.owner(&key(number))).collect();
        assert_eq!(first, [0, 1, 2, 3, 0, 1, 2, 3]);
    }
}
