//! Our own static keys.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use kakuremichi_core::{key::WireGuardKey, secret::Secret};

use super::cipher::Identity;

/// The private keys of a node, for all its shards: one, or two while one takes the place of the other.
///
/// Initiations to either are answered. Our own handshakes are begun with the newest, and a peer's sessions
/// go on with the one before until it has taken the newest up.
#[derive(Debug)]
pub struct OwnKeys {
    /// As of `keys`: spares the lock for as long as nothing changes.
    version: AtomicU64,
    keys: RwLock<Arc<Keys>>,
}

/// The keys as they are at one moment.
#[derive(Debug)]
pub(super) struct Keys {
    version: u64,
    newest: Arc<Identity>,
    previous: Option<Arc<Identity>>,
}

impl OwnKeys {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            version: AtomicU64::new(0),
            keys: RwLock::new(Arc::new(Keys {
                version: 0,
                newest: Arc::new(identity),
                previous: None,
            })),
        }
    }

    /// Has these private keys and no others, at once: the newest, and the one before it if there is another one. Those that
    /// there are already stay what they are.
    ///
    /// Shards follow within a quarter of a second, and when a handshake arrives.
    pub fn hold(&self, newest: &Secret<[u8; 32]>, previous: Option<&Secret<[u8; 32]>>) {
        self.change(|keys| {
            let of = |private| {
                let identity = keys.newest.another(private);
                let known = [Some(&keys.newest), keys.previous.as_ref()];
                let mut known = known.into_iter().flatten();
                let known = known.find(|known| known.public_key() == identity.public_key());
                known.map_or_else(|| Arc::new(identity), Arc::clone)
            };
            let newest = of(newest);
            let previous = previous.map(of);
            let previous = previous.filter(|previous| previous.public_key() != newest.public_key());
            let public = |identity: &Arc<Identity>| identity.public_key();
            let changed = public(&newest) != public(&keys.newest)
                || previous.as_ref().map(public) != keys.previous.as_ref().map(public);
            changed.then_some((newest, previous))
        });
    }

    /// Takes up a new private key and keeps the one before beside it; one that was kept before that is
    /// dropped. The newest key given again changes nothing.
    ///
    /// Shards follow within a quarter of a second, and when a handshake arrives.
    pub fn rekey(&self, private: &Secret<[u8; 32]>) {
        self.change(|keys| {
            let newest = keys.newest.another(private);
            (newest.public_key() != keys.newest.public_key())
                .then(|| (Arc::new(newest), Some(Arc::clone(&keys.newest))))
        });
    }

    /// Drops the key before the newest: who still speaks with it is refused, and its session ends.
    pub fn forget_previous(&self) {
        self.change(|keys| keys.previous.as_ref().map(|_| (Arc::clone(&keys.newest), None)));
    }

    /// The public half of the newest.
    #[must_use]
    pub fn public_key(&self) -> WireGuardKey {
        self.current().newest.public_key()
    }

    fn change(&self, next: impl FnOnce(&Keys) -> Option<(Arc<Identity>, Option<Arc<Identity>>)>) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((newest, previous)) = next(&keys) {
            let version = keys.version + 1;
            *keys = Arc::new(Keys {
                version,
                newest,
                previous,
            });
            self.version.store(version, Ordering::Release);
        }
    }

    pub(super) fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys, if they are others than those that are `known`.
    pub(super) fn newer(&self, known: &Keys) -> Option<Arc<Keys>> {
        (self.version.load(Ordering::Acquire) != known.version).then(|| self.current())
    }
}

impl Keys {
    pub(super) fn newest(&self) -> &Identity {
        &self.newest
    }

    /// The newest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Identity> + Clone {
        [Some(&*self.newest), self.previous.as_deref()]
            .into_iter()
            .flatten()
    }

    /// The one with this public key.
    pub(super) fn get(&self, public: &WireGuardKey) -> Option<&Identity> {
        self.all().find(|identity| identity.public_key() == *public)
    }

    /// The one whose public key the sender of a handshake message knows.
    pub(super) fn addressed(&self, datagram: &[u8]) -> Option<&Identity> {
        self.all().find(|identity| identity.has_valid_mac1(datagram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(number: u8) -> Secret<[u8; 32]> {
        Secret::new([number; 32])
    }

    fn publics(keys: &OwnKeys) -> Vec<WireGuardKey> {
        keys.current().all().map(Identity::public_key).collect()
    }

    #[test]
    fn there_are_two_at_most_and_the_oldest_goes() {
        let public = |number| crate::wg::public_key(&secret(number));
        let keys = OwnKeys::new(Identity::new(&secret(1)));
        keys.forget_previous();
        let known = keys.current();
        assert!(keys.newer(&known).is_none(), "nothing was forgotten");
        keys.rekey(&secret(1));
        assert_eq!(publics(&keys), [public(1)]);
        keys.rekey(&secret(2));
        keys.rekey(&secret(2));
        assert_eq!(publics(&keys), [public(2), public(1)]);
        keys.rekey(&secret(3));
        assert_eq!(publics(&keys), [public(3), public(2)]);
        // Back again.
        keys.rekey(&secret(2));
        assert_eq!(publics(&keys), [public(2), public(3)]);
        keys.forget_previous();
        assert_eq!(publics(&keys), [public(2)]);
        assert_eq!(keys.public_key(), public(2));
        assert!(keys.newer(&known).is_some());
    }

    #[test]
    fn what_is_held_is_held_whatever_there_was() {
        let public = |number| crate::wg::public_key(&secret(number));
        let keys = OwnKeys::new(Identity::new(&secret(1)));
        let hold = |newest, previous: Option<u8>| keys.hold(&secret(newest), previous.map(secret).as_ref());
        for (newest, previous) in [(2, Some(1)), (3, Some(1)), (1, Some(3)), (4, None), (5, Some(6))] {
            hold(newest, previous);
            let all: Vec<_> = [Some(newest), previous]
                .into_iter()
                .flatten()
                .map(public)
                .collect();
            assert_eq!(publics(&keys), all);
        }
        let known = keys.current();
        hold(5, Some(6));
        assert!(keys.newer(&known).is_none(), "nothing changed");
        hold(5, Some(5));
        assert_eq!(publics(&keys), [public(5)]);
    }
}
