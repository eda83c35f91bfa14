//! Verifies passwords by their Argon2id hashes, a few at a time.

#![expect(
    clippy::disallowed_methods,
    reason = "the hash keeps a thread busy, so it runs on one of the runtime's blocking threads"
)]

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{
    Algorithm, Argon2, Params,
    password_hash::{PasswordVerifier, phc::PasswordHash},
};
use kakuremichi_core::secret::Secret;
use rustc_hash::FxHashMap;
use tokio::sync::{Semaphore, watch};

use super::remembered::CredentialId;

/// The most memory that a hash may ask for, in KiB. A larger one never verifies.
const MAX_MEMORY: u32 = 128 * 1024;
/// The most passes.
const MAX_PASSES: u32 = 16;
/// The most lanes.
const MAX_LANES: u32 = 8;

/// There is no room for another verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords wait to be verified")]
pub(crate) struct Overloaded;

/// Verifies passwords with bounded concurrency, those of all shards together. A credential that is being verified is not verified
/// a second time: whoever shows it meanwhile waits for the same outcome.
#[derive(Debug)]
pub(crate) struct Verifier {
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
    under_way: Mutex<FxHashMap<CredentialId, watch::Receiver<Option<bool>>>>,
}

impl Verifier {
    /// At most `running` at once, and `waiting` behind them.
    pub(crate) fn new(running: usize, waiting: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(running.max(1))),
            waiting: AtomicUsize::new(0),
            max_waiting: waiting,
            under_way: Mutex::default(),
        }
    }

    /// Whether `password` is the one that `hash`, in PHC string format, was made of. A hash that is
    /// malformed, of another algorithm, or too expensive verifies nothing.
    ///
    /// # Errors
    /// When too many wait.
    pub(crate) async fn verify(
        self: &Arc<Self>,
        id: CredentialId,
        password: &Secret<String>,
        hash: &str,
    ) -> Result<bool, Overloaded> {
        let mut outcome = self.start(id, password, hash)?;
        let found = outcome.wait_for(Option::is_some).await;
        // The verification was given up, with the runtime.
        Ok(found.is_ok_and(|found| *found == Some(true)))
    }

    fn start(
        self: &Arc<Self>,
        id: CredentialId,
        password: &Secret<String>,
        hash: &str,
    ) -> Result<watch::Receiver<Option<bool>>, Overloaded> {
        let mut under_way = self.under_way();
        if let Some(outcome) = under_way.get(&id) {
            return Ok(outcome.clone());
        }
        let place = Place::take(self).ok_or(Overloaded)?;
        let (sender, receiver) = watch::channel(None);
        under_way.insert(id, receiver.clone());
        drop(under_way);
        let (password, hash) = (password.clone(), hash.to_owned());
        // A task of its own: a visitor that leaves takes nothing from those who wait for the same.
        tokio::spawn(async move {
            let permit = Arc::clone(&place.verifier.running).acquire_owned().await;
            let verified = tokio::task::spawn_blocking(move || {
                let verified = matches(password.expose(), &hash);
                drop(permit);
                verified
            });
            let verified = verified.await.unwrap_or(false);
            place.verifier.under_way().remove(&id);
            sender.send_replace(Some(verified));
            drop(place);
        });
        Ok(receiver)
    }

    fn under_way(&self) -> MutexGuard<'_, FxHashMap<CredentialId, watch::Receiver<Option<bool>>>> {
        // Nothing that is done under the lock panics half way.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue.
#[derive(Debug)]
struct Place {
    verifier: Arc<Verifier>,
}

impl Place {
    fn take(verifier: &Arc<Verifier>) -> Option<Self> {
        let one_more = |taken| (taken < verifier.max_waiting).then_some(taken + 1);
        let waiting = &verifier.waiting;
        waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Self {
            verifier: Arc::clone(verifier),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.verifier.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn matches(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else {
        tracing::warn!("a password hash of the plan is malformed: it lets nobody in");
        return false;
    };
    let argon2id = Algorithm::Argon2id.ident();
    let affordable = Params::try_from(&hash).is_ok_and(|params| {
        params.m_cost() <= MAX_MEMORY && params.t_cost() <= MAX_PASSES && params.p_cost() <= MAX_LANES
    });
    if hash.algorithm != argon2id || !affordable {
        tracing::warn!("a password hash of the plan is not Argon2id within bounds: it lets nobody in");
        return false;
    }
    Argon2::default()
        .verify_password(password.as_bytes(), &hash)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::id::ServiceId;

    use super::*;
    use crate::gateway::{
        access::remembered::CredentialNamer,
        testing::{argon2id, local},
    };

    fn id(password: &str) -> CredentialId {
        CredentialNamer::new(&[1; 32]).name(ServiceId::from_bytes([1; 16]), "ann", password, "hash")
    }

    #[test]
    fn the_right_password_and_no_other_verifies() {
        local(async {
            let verifier = Arc::new(Verifier::new(2, 8));
            let hash = argon2id("open sesame");
            for (password, expected) in [("open sesame", true), ("open", false), ("", false)] {
                let secret = Secret::new(password.to_owned());
                assert_eq!(verifier.verify(id(password), &secret, &hash).await, Ok(expected));
            }
            assert!(verifier.under_way().is_empty());
            assert_eq!(verifier.waiting.load(Ordering::Relaxed), 0);
        });
    }

    /// LESSONS, advisory 5: an error in a check is a denial.
    #[test]
    fn a_hash_that_cannot_be_used_verifies_nothing() {
        for hash in [
            "",
            "plain",
            "$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A",
            "$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A",
            "$argon2id$v=19$m=8,t=1000000,p=1$c29tZXNhbHQ$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A",
        ] {
            assert!(!matches("password", hash), "{hash}");
        }
    }

    #[test]
    fn the_queue_is_bounded_and_one_credential_takes_one_place() {
        local(async {
            let verifier = Arc::new(Verifier::new(1, 2));
            let hash = argon2id("a");
            let secret = Secret::new("a".to_owned());
            let (first, same, second, third) = tokio::join!(
                verifier.verify(id("1"), &secret, &hash),
                verifier.verify(id("1"), &secret, &hash),
                verifier.verify(id("2"), &secret, &hash),
                verifier.verify(id("3"), &secret, &hash),
            );
            assert_eq!(
                (first, same, second, third),
                (Ok(true), Ok(true), Ok(true), Err(Overloaded))
            );
        });
    }
}
