//! What the gateway signs sessions with. It is made here and never leaves.

use std::{fmt, time::Duration};

use data_encoding::BASE64;
use kakuremichi_core::{
    key::{IdentityKey, SigningKey},
    plan::MAX_SIGNING_KEYS,
    secret::Secret,
    time::Timestamp,
};
use kakuremichi_proto::{
    identity::{Signature, Signer},
    sign_in::GATEWAY_SESSION_LIFE,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::{
    keys::{KeyError, generate_identity},
    state::{SIGNING, StateDir, StateError},
};

/// How long a key signs before another one takes its place.
pub(crate) const ROTATION: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long a key is told after the one that takes its place was made: what it signed last has ended by then, even
/// if the new one became known an hour later.
const OVERLAP: Duration = GATEWAY_SESSION_LIFE.saturating_add(Duration::from_secs(60 * 60));

/// The gateway's signing keys, newest first; one at least.
///
/// They hold no [`StateDir`]: connections that end late keep them, and the directory is free when the gateway has ended.
pub(crate) struct SigningKeys {
    keys: Vec<Key>,
}

struct Key {
    pair: Ed25519KeyPair,
    pkcs8: Secret<Vec<u8>>,
    public: SigningKey,
    made: Timestamp,
}

impl SigningKeys {
    /// Reads the keys, and makes one where there is none that is young enough.
    ///
    /// # Errors
    /// When the disk, or the system's randomness, fails.
    pub(crate) fn open(state: &StateDir, now: Timestamp) -> Result<Self, StateError> {
        let mut keys = Vec::new();
        if let Some(bytes) = state.read_own(SIGNING)? {
            let bytes = Secret::new(bytes);
            let text = String::from_utf8_lossy(bytes.expose());
            let read: Option<Vec<_>> = text.lines().take(MAX_SIGNING_KEYS).map(Key::from_line).collect();
            match read {
                Some(read) => keys = read,
                // All that is lost is that visitors have to sign in again.
                None => {
                    tracing::warn!("the keys that sessions are signed with are damaged: new ones are made")
                }
            }
        }
        let mut keys = Self { keys };
        keys.rotate(state, now)?;
        Ok(keys)
    }

    /// Makes a new key if the newest is old, and forgets those that nobody needs. Returns whether anything changed.
    ///
    /// # Errors
    /// When the disk, or the system's randomness, fails; then the keys are as they were.
    pub(crate) fn rotate(&mut self, state: &StateDir, now: Timestamp) -> Result<bool, StateError> {
        let newest = self.keys.first().map(|key| key.made);
        // A clock that was set back makes no key that is of a time to come the newest for ever.
        let fresh = newest.is_some_and(|made| now < made.after(ROTATION) && made <= now.after(OVERLAP));
        let superseded = |at: usize| at > 0 && now >= self.keys[at - 1].made.after(OVERLAP);
        let over = (0..self.keys.len()).find(|at| superseded(*at));
        if fresh && over.is_none() {
            return Ok(false);
        }
        let kept = over.unwrap_or(self.keys.len());
        let made = if fresh {
            None
        } else {
            Some(Key::generate(now).map_err(StateError::Key)?)
        };
        let all: Vec<_> = made
            .iter()
            .chain(&self.keys[..kept])
            .take(MAX_SIGNING_KEYS)
            .collect();
        let text: String = all.iter().map(|key| key.line()).collect();
        let count = all.len();
        let text = Secret::new(text);
        state.write_own(SIGNING, text.expose().as_bytes())?;
        self.keys.truncate(kept);
        self.keys.splice(..0, made);
        self.keys.truncate(count);
        Ok(true)
    }

    /// The public halves, newest first.
    pub(crate) fn public(&self) -> Vec<SigningKey> {
        self.keys.iter().map(|key| key.public).collect()
    }

    /// The newest key that others know.
    pub(crate) fn known(&self, known: &[SigningKey]) -> Option<&dyn Signer> {
        let key = self.keys.iter().find(|key| known.contains(&key.public));
        key.map(|key| key as &dyn Signer)
    }

    /// The newest key that others know, or else the newest of all.
    pub(crate) fn best(&self, known: &[SigningKey]) -> Option<&dyn Signer> {
        let newest = || self.keys.first().map(|key| key as &dyn Signer);
        self.known(known).or_else(newest)
    }
}

impl Key {
    fn generate(now: Timestamp) -> Result<Self, KeyError> {
        Self::new(generate_identity()?, now).ok_or(KeyError::Identity)
    }

    fn new(pkcs8: Secret<Vec<u8>>, made: Timestamp) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.expose()).ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        Some(Self {
            pair,
            pkcs8,
            public: SigningKey::from_bytes(public),
            made,
        })
    }

    fn from_line(line: &str) -> Option<Self> {
        let (made, key) = line.split_once(' ')?;
        let key = BASE64.decode(key.as_bytes()).ok().map(Secret::new)?;
        Self::new(key, Timestamp::from_millis(made.parse().ok()?))
    }

    fn line(&self) -> String {
        format!(
            "{} {}\n",
            self.made.as_millis(),
            BASE64.encode(self.pkcs8.expose())
        )
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.public.fmt(f)
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.keys).finish()
    }
}

impl Signer for Key {
    fn public_key(&self) -> IdentityKey {
        IdentityKey::from_bytes(*self.public.as_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        Signature(signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    #[test]
    fn keys_are_the_same_after_a_restart_and_are_replaced_in_time() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDir::open(place.path()).unwrap();
        let open = |now| SigningKeys::open(&state, now).unwrap();
        let first = open(START).public();
        assert_eq!(
            (first.len(), open(START.after(OVERLAP)).public()),
            (1, first.clone())
        );
        let later = START.after(ROTATION);
        let mut keys = open(later);
        let both = keys.public();
        assert_eq!((both.len(), both[1]), (2, first[0]));
        // It signs with what others know, the newest of it.
        let signer = |known: &[SigningKey]| keys.known(known).map(|key| *key.public_key().as_bytes());
        assert_eq!(signer(&first), Some(*first[0].as_bytes()));
        assert_eq!(signer(&both), Some(*both[0].as_bytes()));
        assert_eq!(signer(&[]), None);
        let best = |known: &[SigningKey]| keys.best(known).map(|key| *key.public_key().as_bytes());
        assert_eq!(best(&first), Some(*first[0].as_bytes()));
        assert_eq!(best(&[]), Some(*both[0].as_bytes()));
        assert!(
            !keys
                .rotate(&state, later.after(OVERLAP - Duration::from_secs(1)))
                .unwrap()
        );
        assert!(keys.rotate(&state, later.after(OVERLAP)).unwrap());
        assert_eq!(keys.public(), both[..1]);
        drop(keys);
        assert_eq!(open(later.after(OVERLAP)).public(), both[..1]);
    }

    #[test]
    fn private_halves_are_not_printed_and_damage_makes_new_ones() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDir::open(place.path()).unwrap();
        let keys = SigningKeys::open(&state, START).unwrap();
        let file = std::fs::read_to_string(place.path().join(SIGNING)).unwrap();
        let (_, private) = file.trim().split_once(' ').unwrap();
        assert!(!format!("{keys:?}").contains(private));
        let before = keys.public();
        drop(keys);
        std::fs::write(place.path().join(SIGNING), "damaged").unwrap();
        let keys = SigningKeys::open(&state, START).unwrap();
        assert!(keys.public().len() == 1 && keys.public() != before);
    }
}
