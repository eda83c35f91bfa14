//! Receiver indices: how a datagram names the peer it comes from.
//!
//! ```text
//! 31      26 25                8 7        0
//! | shard  | random            | session  |
//! ```
//! The session's byte is boringtun's; the rest names the peer.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use crate::random::SplitMix64;

/// Bits that name the peer within its shard.
const RANDOM_BITS: u32 = 18;

/// How many shards a node can have: as many as six bits of the receiver index can name.
pub const MAX_SHARDS: u8 = 64;

/// How many peers a device can have: a quarter of the indices, so that a free one is soon found even when
/// each peer has two. Those beyond are left out.
pub const MAX_PEERS: usize = 1 << (RANDOM_BITS - 2);

#[derive(Debug)]
pub(super) struct IndexTable {
    shard: u32,
    /// Guessing an index gains nothing: what names it must still be authentic.
    random: SplitMix64,
    slots: FxHashMap<u32, u32>,
}

impl IndexTable {
    pub(super) fn new(shard: u8, seed: u64) -> Self {
        Self {
            shard: u32::from(shard % MAX_SHARDS) << RANDOM_BITS,
            random: SplitMix64::new(seed),
            slots: FxHashMap::default(),
        }
    }

    /// Gives `slot` an index, 24 bits; `None` when there are two for each of [`MAX_PEERS`].
    pub(super) fn insert(&mut self, slot: u32) -> Option<u32> {
        if self.slots.len() >= 2 * MAX_PEERS {
            return None;
        }
        loop {
            let index = self.shard | (self.random.next() >> (64 - RANDOM_BITS)) as u32;
            if let Entry::Vacant(free) = self.slots.entry(index) {
                free.insert(slot);
                return Some(index);
            }
        }
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.slots.remove(&index);
    }

    /// How many are given.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The shard that a receiver index, 32 bits, belongs to.
    pub(super) const fn shard(receiver: u32) -> u8 {
        (receiver >> (8 + RANDOM_BITS)) as u8
    }

    /// The slot that a receiver index, 32 bits, belongs to.
    pub(super) fn slot(&self, receiver: u32) -> Option<u32> {
        self.slots.get(&(receiver >> 8)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_distinct_and_carry_the_shard() {
        let mut table = IndexTable::new(5, 42);
        let indices: Vec<u32> = (0..1000).map(|slot| table.insert(slot).unwrap()).collect();
        for (slot, index) in indices.iter().enumerate() {
            assert_eq!(IndexTable::shard(index << 8), 5);
            assert_eq!(table.slot(index << 8 | 0x7f), Some(slot as u32));
        }
        table.remove(indices[3]);
        assert_eq!(table.slot(indices[3] << 8), None);
    }
}
