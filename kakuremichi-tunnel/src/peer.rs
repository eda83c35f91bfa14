//! Who a packet comes from or goes to.

#[cfg(any(feature = "agent", feature = "gateway"))]
mod keys;

#[cfg(any(feature = "agent", feature = "gateway"))]
pub(crate) use keys::PeerKeys;

use std::fmt;

/// Names one peer of one [`Device`](crate::wg::Device) for as long as the peer is configured.
///
/// A name is never given twice: a peer that was removed and configured again has another one, so
/// what belonged to the old one (flows, queued packets) can not reach the new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    slot: u32,
    generation: u32,
}

impl PeerId {
    /// Makes a name from a table's slot and how often that slot was filled before.
    ///
    /// [`Device`](crate::wg::Device) makes these; tests of what sits above it may too.
    #[must_use]
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The slot of the table, dense from zero.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }

    /// How often the slot was filled before.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer{}.{}", self.slot, self.generation)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
