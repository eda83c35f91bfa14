//! Verifies passwords by their Argon2id hashes, a few at a time.

#![expect(
    clippy::disallowed_methods,
    reason = "the hash keeps a thread busy, so it runs on one of the runtime's blocking threads"
)]

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
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

/// Verifies passwords with bounded concurrency. A credential that is being verified is not verified
/// a second time: whoever shows it meanwhile waits for the same outcome.
#[derive(Debug)]
pub(crate) struct Verifier {
    running: Arc<Semaphore>,
    waiting: Cell<usize>,
    max_waiting: usize,
    under_way: RefCell<FxHashMap<CredentialId, watch::Receiver<Option<bool>>>>,
}

impl Verifier {
    /// At most `running` at once, and `waiting` behind them.
    pub(crate) fn new(running: usize, waiting: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(running.max(1))),
            waiting: Cell::new(0),
            max_waiting: waiting,
            under_way: RefCell::default(),
        }
    }

    /// Whether `password` is the one that `hash`, in PHC string format, was made of. A hash that is
    /// malformed, of another algorithm, or too expensive verifies nothing.
    ///
    /// # Errors
    /// When too many wait.
    pub(crate) async fn verify(
        self: &Rc<Self>,
        id: CredentialId,
        password: &Secret<String>,
        hash: &str,
    ) -> Result<bool, Overloaded> {
        let under_way = self.under_way.borrow().get(&id).cloned();
        let mut outcome = match under_way {
            Some(outcome) => outcome,
            None => self.start(id, password.clone(), hash.to_owned())?,
        };
        let found = outcome.wait_for(Option::is_some).await;
        // The verification was given up, with the runtime.
        Ok(found.is_ok_and(|found| *found == Some(true)))
    }

    fn start(
        self: &Rc<Self>,
        id: CredentialId,
        password: Secret<String>,
        hash: String,
    ) -> Result<watch::Receiver<Option<bool>>, Overloaded> {
        let place = Place::take(self).ok_or(Overloaded)?;
        let (sender, receiver) = watch::channel(None);
        self.under_way.borrow_mut().insert(id, receiver.clone());
        // A task of its own: a visitor that leaves takes nothing from those who wait for the same.
        tokio::task::spawn_local(async move {
            let permit = Arc::clone(&place.verifier.running).acquire_owned().await;
            let verified = tokio::task::spawn_blocking(move || {
                let verified = matches(password.expose(), &hash);
                drop(permit);
                verified
            });
            let verified = verified.await.unwrap_or(false);
            place.verifier.under_way.borrow_mut().remove(&id);
            sender.send_replace(Some(verified));
            drop(place);
        });
        Ok(receiver)
    }
}

/// A place in the queue.
#[derive(Debug)]
struct Place {
    verifier: Rc<Verifier>,
}

impl Place {
    fn take(verifier: &Rc<Verifier>) -> Option<Self> {
        let taken = verifier.waiting.get();
        if taken >= verifier.max_waiting {
            return None;
        }
        verifier.waiting.set(taken + 1);
        Some(Self {
            verifier: Rc::clone(verifier),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.verifier.waiting.set(self.verifier.waiting.get() - 1);
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
            let verifier = Rc::new(Verifier::new(2, 8));
            let hash = argon2id("open sesame");
            for (password, expected) in [("open sesame", true), ("open", false), ("", false)] {
                let secret = Secret::new(password.to_owned());
                assert_eq!(verifier.verify(id(password), &secret, &hash).await, Ok(expected));
            }
            assert!(verifier.under_way.borrow().is_empty());
            assert_eq!(verifier.waiting.get(), 0);
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
            let verifier = Rc::new(Verifier::new(1, 2));
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
