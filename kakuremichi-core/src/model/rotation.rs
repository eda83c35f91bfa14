//! How the keys of a node follow each other.

use std::time::Duration;

use crate::{
    key::{IdentityKey, WireGuardKey},
    model::Node,
    time::Timestamp,
};

/// How long the keys of before count beside new ones, unless something else is asked for.
pub const KEY_OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest time for which keys of before can count beside new ones.
pub const MAX_KEY_OVERLAP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How it is with the keys of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rotation {
    /// When the node got the keys that it has; none where these are the ones that it enrolled with.
    pub rotated: Option<Timestamp>,
    /// Set while the node is asked for new keys.
    pub asked: Option<RotationAsked>,
    /// The keys of before, for as long as they count.
    pub previous: Option<PreviousKeys>,
}

/// Somebody wants a node to make new keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationAsked {
    /// When it was asked.
    pub at: Timestamp,
    /// How long the keys of before are to count beside the new ones, at most [`MAX_KEY_OVERLAP`].
    pub overlap: Duration,
}

/// The keys that a node had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousKeys {
    /// Who it was.
    pub identity: IdentityKey,
    /// Its WireGuard key; that of now where only the identity is another.
    pub wireguard: WireGuardKey,
    /// Until when they count.
    pub until: Timestamp,
}

/// Which keys of a node somebody has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyAge {
    /// Those that it has.
    Current,
    /// Those of before, which count still.
    Previous,
}

impl Node {
    /// Whether `identity` is the node at that time, and by which of its keys. Whether the node takes part is
    /// another question.
    #[must_use]
    pub fn speaks_as(&self, identity: &IdentityKey, now: Timestamp) -> Option<KeyAge> {
        if self.identity == *identity {
            return Some(KeyAge::Current);
        }
        let previous = self.rotation.previous.as_ref();
        previous
            .is_some_and(|previous| previous.identity == *identity && now < previous.until)
            .then_some(KeyAge::Previous)
    }
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::*;
    use crate::store::conformance::sample;

    #[test]
    fn keys_of_before_count_until_their_time_is_over() {
        let node = sample::rotated(0, 1);
        let previous = node.rotation.previous.unwrap();
        let before = Timestamp::from_millis(previous.until.as_millis() - 1);
        assert_eq!(
            node.speaks_as(&node.identity, previous.until),
            Some(KeyAge::Current)
        );
        assert_eq!(node.speaks_as(&previous.identity, before), Some(KeyAge::Previous));
        assert_eq!(node.speaks_as(&previous.identity, previous.until), None);
        assert_eq!(node.speaks_as(&IdentityKey::from_bytes([0x77; 32]), before), None);
    }
}
