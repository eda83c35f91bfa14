//! Password hashes.

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, password_hash::phc::PasswordHash};
use kakuremichi_core::secret::Secret;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{UseCaseError, random};

/// The longest password, in bytes.
pub const MAX_PASSWORD: usize = 1024;
/// The most passwords that are being hashed or wait for it. A request with more is refused: try later.
pub const MAX_WAITING_PASSWORDS: usize = 64;
/// Passwords hashed at once, each on a thread with 19 MiB of its own.
const WORKERS: usize = 2;
/// The most memory that a given hash may ask of every gateway that verifies it, in KiB.
const MAX_MEMORY: u32 = 256 * 1024;
/// The most passes, and lanes, that a given hash may ask for.
const MAX_PASSES: u32 = 16;

/// Hashes with Argon2id (RFC 9106) at the parameters that OWASP recommends, a few at a time.
#[derive(Debug)]
pub(super) struct Passwords {
    waiting: Semaphore,
    workers: Semaphore,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            waiting: Semaphore::new(MAX_WAITING_PASSWORDS),
            workers: Semaphore::new(WORKERS),
        }
    }
}

impl Passwords {
    /// The PHC string of a password.
    pub(super) async fn hash(&self, password: Secret<String>) -> Result<String, UseCaseError> {
        let salt: [u8; 16] = random()?;
        let hashed = self.work(move || hash(&password, &salt)).await?;
        hashed.ok_or(UseCaseError::Busy)
    }

    /// Whether a password is the one of a hash. Without a hash it is not, after the same work.
    pub(super) async fn verify(
        &self,
        password: Secret<String>,
        hash_text: Option<String>,
    ) -> Result<Option<Verified>, UseCaseError> {
        // No account has such a password, so this tells nothing of any.
        if password.expose().len() > MAX_PASSWORD {
            return Ok(None);
        }
        // Of an account that is not there the password is hashed with whatever salt.
        let salt: [u8; 16] = random()?;
        self.work(move || {
            let Some(known) = hash_text.as_deref().and_then(|text| PasswordHash::new(text).ok()) else {
                let _ = hash(&password, &salt);
                return None;
            };
            let verified = Argon2::default().verify_password(password.expose().as_bytes(), &known);
            verified.is_ok().then(|| Verified {
                rehashed: (!is_current(&known)).then(|| hash(&password, &salt)).flatten(),
            })
        })
        .await
    }

    /// Does the work on a thread that may be kept busy, when it is its turn.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, UseCaseError> {
        let _place = self.waiting.try_acquire().map_err(|_| UseCaseError::Busy)?;
        let _worker = self.workers.acquire().await.map_err(|_| UseCaseError::Busy)?;
        spawn_blocking(work).await.map_err(|_| UseCaseError::Busy)
    }
}

/// A password was right.
#[derive(Debug)]
pub(super) struct Verified {
    /// Its hash with the parameters of today, if those of the stored one are others.
    pub(super) rehashed: Option<String>,
}

fn hash(password: &Secret<String>, salt: &[u8]) -> Option<String> {
    let hash: Result<PasswordHash, _> =
        Argon2::default().hash_password_with_salt(password.expose().as_bytes(), salt);
    hash.ok().map(|hash| hash.to_string())
}

/// Whether a hash has the parameters of today.
fn is_current(hash: &PasswordHash) -> bool {
    let (params, current) = (Params::try_from(hash), Params::default());
    Algorithm::try_from(hash.algorithm.as_str()) == Ok(Algorithm::Argon2id)
        && params.is_ok_and(|params| {
            (params.m_cost(), params.t_cost(), params.p_cost())
                == (current.m_cost(), current.t_cost(), current.p_cost())
        })
}

/// Says what is wrong with a hash that somebody gives, if anything is. Gateways will verify it again and
/// again, so its cost is bounded.
pub(super) fn check_hash(text: &str) -> Result<(), &'static str> {
    const FORM: &str =
        "a password hash is Argon2id in PHC string format: `$argon2id$v=19$m=…,t=…,p=…$salt$hash`";
    let hash = PasswordHash::new(text).map_err(|_| FORM)?;
    let params = Params::try_from(&hash).map_err(|_| FORM)?;
    if Algorithm::try_from(hash.algorithm.as_str()) != Ok(Algorithm::Argon2id)
        || hash.salt.is_none()
        || hash.hash.is_none()
    {
        return Err(FORM);
    }
    if params.m_cost() > MAX_MEMORY || params.t_cost() > MAX_PASSES || params.p_cost() > MAX_PASSES {
        return Err("a password hash may ask for at most 256 MiB (m=262144), 16 passes and 16 lanes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use argon2::Version;

    use super::*;

    #[tokio::test]
    async fn a_password_is_hashed_so_that_it_verifies() {
        let passwords = Passwords::default();
        let text = passwords
            .hash(Secret::new("correct horse".to_owned()))
            .await
            .unwrap();
        assert_eq!(check_hash(&text), Ok(()));
        let hash = PasswordHash::new(&text).unwrap();
        assert!(Argon2::default().verify_password(b"correct horse", &hash).is_ok());
        assert!(Argon2::default().verify_password(b"wrong", &hash).is_err());
        let again = passwords
            .hash(Secret::new("correct horse".to_owned()))
            .await
            .unwrap();
        assert_ne!(text, again, "each has a salt of its own");
    }

    #[tokio::test]
    async fn a_hash_with_other_parameters_is_made_anew() {
        let passwords = Passwords::default();
        let verify = async |password: &str, hash: Option<&str>| {
            let password = Secret::new(password.to_owned());
            passwords.verify(password, hash.map(str::to_owned)).await.unwrap()
        };
        let weak = Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            Params::new(64, 1, 1, None).unwrap(),
        );
        let weak: PasswordHash = weak.hash_password_with_salt(b"right", &[7; 16]).unwrap();
        let weak = weak.to_string();
        let better = verify("right", Some(&weak)).await.unwrap().rehashed.unwrap();
        assert!(verify("right", Some(&better)).await.unwrap().rehashed.is_none());
        for (password, hash) in [
            ("wrong", Some(weak.as_str())),
            ("right", None),
            ("right", Some("no hash")),
        ] {
            assert!(verify(password, hash).await.is_none());
        }
    }

    #[test]
    fn a_given_hash_is_checked() {
        let salt_and_hash = "c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";
        assert_eq!(
            check_hash(&format!("$argon2id$v=19$m=19456,t=2,p=1${salt_and_hash}")),
            Ok(())
        );
        for bad in [
            String::new(),
            "hunter2".to_owned(),
            format!("$argon2i$v=19$m=19456,t=2,p=1${salt_and_hash}"),
            format!("$argon2id$v=19$m=4000000,t=2,p=1${salt_and_hash}"),
            format!("$argon2id$v=19$m=19456,t=2000,p=1${salt_and_hash}"),
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0".to_owned(),
        ] {
            assert!(check_hash(&bad).is_err(), "{bad}");
        }
    }
}
