//! Challenges, sealed.
//!
//! A challenge is kept by the browser, as what is under way at an identity provider is, so that any instance of
//! Control takes its answer, and nobody fills a table by asking for challenges. It is sealed and short-lived. It is
//! answered once: whoever takes the answer notes in the account, in the transaction of the deed, when the challenge
//! was made, and neither that one nor an earlier one is taken again.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use kakuremichi_core::time::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::service::{UseCaseError, UseCases, now};

/// How long a challenge can be answered.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(5 * 60);

/// A challenge for an authenticator.
#[derive(Debug)]
pub struct PasskeyChallenge {
    /// What comes back with the answer.
    pub text: String,
    /// What the browser is asked with: `{"publicKey": …}`, in the JSON form of Web Authentication, level 3.
    pub options: Value,
}

/// A challenge that comes back.
pub(super) struct Made<T> {
    pub(super) at: Timestamp,
    pub(super) about: T,
}

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    at: i64,
    about: T,
}

impl UseCases {
    pub(super) fn challenge<T: Serialize>(
        &self,
        purpose: &[u8],
        about: T,
        options: Value,
    ) -> Result<PasskeyChallenge, UseCaseError> {
        let at = now().as_millis();
        let bytes = serde_json::to_vec(&Sealed { at, about }).map_err(|_| UseCaseError::Random)?;
        let sealed = self.0.seal.seal(purpose, &bytes)?;
        Ok(PasskeyChallenge {
            text: BASE64URL_NOPAD.encode(&sealed),
            options,
        })
    }

    pub(super) fn open_challenge<T: DeserializeOwned>(
        &self,
        purpose: &[u8],
        text: &str,
    ) -> Result<Made<T>, UseCaseError> {
        let sealed = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        let opened = sealed.and_then(|sealed| self.0.seal.open(purpose, &sealed));
        let opened: Option<Sealed<T>> = opened.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let opened = opened.ok_or(UseCaseError::SignInOver)?;
        let at = Timestamp::from_millis(opened.at);
        match at.after(CHALLENGE_LIFE) <= now() {
            true => Err(UseCaseError::SignInOver),
            false => Ok(Made {
                at,
                about: opened.about,
            }),
        }
    }
}
