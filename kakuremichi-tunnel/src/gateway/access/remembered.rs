//! Credentials that were verified a moment ago.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use kakuremichi_core::id::ServiceId;
use ring::hmac;
use rustc_hash::FxHashMap;

/// How long a verified credential is remembered.
const LIFETIME: Duration = Duration::from_secs(900);

/// Names a credential without holding it: a keyed hash of service, user, password and the hash that
/// the password is verified by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CredentialId([u8; 32]);

/// Makes [`CredentialId`]s.
#[derive(Debug)]
pub(crate) struct CredentialNamer(hmac::Key);

impl CredentialNamer {
    /// Takes a random key.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Names a credential. Each part is preceded by its length, so that no two credentials share a
    /// name.
    pub(crate) fn name(&self, service: ServiceId, user: &str, password: &str, hash: &str) -> CredentialId {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(service.as_bytes());
        for part in [user, password, hash] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut id = [0; 32];
        id.copy_from_slice(context.sign().as_ref());
        CredentialId(id)
    }
}

/// Verified credentials.
#[derive(Debug)]
pub(crate) struct Remembered {
    known: FxHashMap<CredentialId, Instant>,
    order: VecDeque<CredentialId>,
    bound: usize,
}

impl Remembered {
    /// Remembers at most `bound`; beyond, the oldest is forgotten.
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            known: FxHashMap::default(),
            order: VecDeque::new(),
            bound: bound.max(1),
        }
    }

    /// Whether the credential was verified within the last 15 minutes, and no plan came since.
    pub(crate) fn knows(&self, credential: CredentialId, now: Instant) -> bool {
        self.known
            .get(&credential)
            .is_some_and(|since| now.saturating_duration_since(*since) < LIFETIME)
    }

    /// The credential was verified.
    pub(crate) fn remember(&mut self, credential: CredentialId, now: Instant) {
        if self.known.insert(credential, now).is_some() {
            return;
        }
        self.order.push_back(credential);
        if self.order.len() > self.bound
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// A new plan came.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceId = ServiceId::from_bytes([1; 16]);

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs some instant")]
    fn it_is_bounded_and_forgets() {
        let namer = CredentialNamer::new(&[7; 32]);
        let mut remembered = Remembered::new(2);
        let now = Instant::now();
        let id = |user: &str| namer.name(SERVICE, user, "password", "hash");
        for user in ["a", "b", "a", "c"] {
            remembered.remember(id(user), now);
        }
        assert!(
            !remembered.knows(id("a"), now)
                && remembered.knows(id("b"), now)
                && remembered.knows(id("c"), now)
        );
        assert_eq!(remembered.known.len(), remembered.order.len());
        assert!(!remembered.knows(id("c"), now + LIFETIME));
        remembered.clear();
        assert!(!remembered.knows(id("c"), now));
    }

    #[test]
    fn every_part_is_part_of_the_name() {
        let namer = CredentialNamer::new(&[7; 32]);
        let id = namer.name(SERVICE, "ann", "bx", "hash");
        let others = [
            namer.name(ServiceId::from_bytes([2; 16]), "ann", "bx", "hash"),
            namer.name(SERVICE, "annb", "x", "hash"),
            namer.name(SERVICE, "ann", "b", "xhash"),
            namer.name(SERVICE, "ann", "bx", "other"),
            CredentialNamer::new(&[8; 32]).name(SERVICE, "ann", "bx", "hash"),
        ];
        assert!(others.iter().all(|other| *other != id));
    }
}
