//! By which keys a peer of the plan is known.

use kakuremichi_core::{key::WireGuardKey, net::Cidr, plan::PlannedPreviousKeys};

use crate::wg::PeerConfig;

/// The WireGuard keys of one peer of the plan: that which it has, and that which it had before while both count.
///
/// The engine follows a plan a moment later than tables do. So whoever asks it about a peer asks by both, and is
/// answered by whichever the engine has the peer under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerKeys {
    newest: WireGuardKey,
    previous: Option<WireGuardKey>,
}

impl PeerKeys {
    pub(crate) fn new(newest: WireGuardKey, before: Option<&PlannedPreviousKeys>) -> Self {
        Self {
            newest,
            previous: before.map(|keys| keys.wireguard).filter(|key| *key != newest),
        }
    }

    /// The newest first.
    pub(crate) fn all(self) -> impl Iterator<Item = WireGuardKey> {
        [Some(self.newest), self.previous].into_iter().flatten()
    }

    fn has(self, key: WireGuardKey) -> bool {
        self.all().any(|own| own == key)
    }

    /// Whether both are keys of one peer, which may have got another one in between.
    pub(crate) fn meet(self, other: Self) -> bool {
        self.all().any(|key| other.has(key))
    }

    /// What is known by one of them; by the newest, if by both.
    pub(crate) fn find<T>(self, view: impl FnMut(WireGuardKey) -> Option<T>) -> Option<T> {
        self.all().find_map(view)
    }

    /// The one by which something is known; the newest, if nothing is.
    pub(crate) fn known(self, mut is_known: impl FnMut(WireGuardKey) -> bool) -> WireGuardKey {
        match self.previous {
            Some(previous) if !is_known(self.newest) && is_known(previous) => previous,
            _ => self.newest,
        }
    }

    /// The peer, for the engine.
    pub(crate) fn config(self, allowed_ips: Vec<Cidr>) -> PeerConfig {
        PeerConfig {
            previous_key: self.previous,
            ..PeerConfig::new(self.newest, allowed_ips)
        }
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{id::GatewayId, key::IdentityKey};

    use super::*;

    fn key(number: u8) -> WireGuardKey {
        WireGuardKey::from_bytes([number; 32])
    }

    fn keys(newest: u8, before: Option<u8>) -> PeerKeys {
        let before = before.map(|number| PlannedPreviousKeys {
            node: GatewayId::from_bytes([1; 16]).into(),
            identity: IdentityKey::from_bytes([9; 32]),
            wireguard: key(number),
        });
        PeerKeys::new(key(newest), before.as_ref())
    }

    #[test]
    fn a_peer_is_found_by_either_key_and_by_the_newest_first() {
        let both = keys(2, Some(1));
        let known =
            |numbers: &'static [u8]| move |asked: WireGuardKey| numbers.iter().any(|n| key(*n) == asked);
        for (numbers, by) in [(&[1, 2][..], 2), (&[2], 2), (&[1], 1), (&[], 2)] {
            assert_eq!(both.known(known(numbers)), key(by));
            let found = both.find(|asked| known(numbers)(asked).then_some(asked));
            assert_eq!(found, Some(key(by)).filter(|_| !numbers.is_empty()));
        }
        assert!(both.meet(keys(1, None)) && both.meet(keys(3, Some(2))));
        assert!(!both.meet(keys(3, None)));
        assert_eq!(both.config(Vec::new()).previous_key, Some(key(1)));
        // Only the identity is another.
        assert_eq!(keys(2, Some(2)), keys(2, None));
    }
}
