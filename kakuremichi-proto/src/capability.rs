//! What a side can do beyond the bare protocol.

use std::{fmt, ops::BitOr};

/// A set of capabilities. Each side says what it has; what both have is used. A bit is never given to
/// another meaning, and bits that are not known are carried along and change nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Plans may come as differences. Without it every plan is sent whole.
    pub const PLAN_DELTA: Self = Self(1 << 0);

    /// Keys can be [rotated](crate::message::RotateKeys) within a session. Without it Control asks for no new keys, and a node
    /// proposes none.
    pub const KEY_ROTATION: Self = Self(1 << 1);

    /// What this build has.
    pub const SUPPORTED: Self = Self(Self::PLAN_DELTA.0 | Self::KEY_ROTATION.0);

    /// Takes the bits of a set.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether each of `others` is in the set.
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// What is in both sets.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_capabilities_change_nothing() {
        let newer = Capabilities::SUPPORTED | Capabilities::from_bits(1 << 63);
        assert_eq!(newer.common(Capabilities::SUPPORTED), Capabilities::SUPPORTED);
        assert!(newer.contains(Capabilities::PLAN_DELTA));
        assert!(!Capabilities::default().contains(Capabilities::PLAN_DELTA));
    }
}
