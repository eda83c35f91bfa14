//! What a browser keeps while its person is at a provider.

use data_encoding::BASE64URL_NOPAD;
use kakuremichi_core::{
    id::{ProviderId, UserId},
    secret::Secret,
    time::Timestamp,
};
use kakuremichi_proto::identity::{constant_time_eq, sha256};
use serde::{Deserialize, Serialize};

use crate::{
    browser::ReturnPath,
    service::{ATTEMPT_LIFE, UseCaseError, UseCases, now, random},
    text::Text,
};

/// A sign-in that is under way at a provider. The browser keeps it, sealed: whoever else comes back with its code has
/// none (LESSONS, advisory 12).
#[derive(Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) provider: Text<ProviderId>,
    /// Comes back with the code (RFC 6749, section 10.12).
    pub(crate) state: String,
    /// Stands in the ID token.
    pub(crate) nonce: String,
    /// Proves at the provider that the code is ours (RFC 7636).
    pub(crate) verifier: String,
    /// Where to go back to.
    pub(crate) back: Option<String>,
    /// Whose account is to be linked, if it is that and no sign-in.
    pub(crate) link: Option<Text<UserId>>,
    expires: i64,
}

impl Attempt {
    pub(crate) fn new(
        provider: ProviderId,
        back: Option<&ReturnPath>,
        link: Option<UserId>,
    ) -> Result<Self, UseCaseError> {
        let drawn = || random::<32>().map(|bytes| BASE64URL_NOPAD.encode(&bytes));
        Ok(Self {
            provider: Text(provider),
            state: drawn()?,
            nonce: drawn()?,
            verifier: drawn()?,
            back: back.map(ToString::to_string),
            link: link.map(Text),
            expires: now().after(ATTEMPT_LIFE).as_millis(),
        })
    }

    pub(crate) fn seal(&self, use_cases: &UseCases) -> Result<Secret<String>, UseCaseError> {
        let bytes = serde_json::to_vec(self).map_err(|_| UseCaseError::Random)?;
        use_cases.seal_attempt(&bytes)
    }

    /// The attempt that a browser kept, if the state that came back is its, and it is good now; it is used then.
    pub(crate) fn take(use_cases: &UseCases, kept: &str, state: &str) -> Result<Self, UseCaseError> {
        let opened = use_cases.open_attempt(kept).ok_or(UseCaseError::SignInOver)?;
        let attempt: Self = serde_json::from_slice(&opened).map_err(|_| UseCaseError::SignInOver)?;
        let ours = sha256(attempt.state.as_bytes());
        if !constant_time_eq(&ours, &sha256(state.as_bytes())) || attempt.expires() <= now() {
            return Err(UseCaseError::SignInOver);
        }
        use_cases.use_attempt(ours)?;
        Ok(attempt)
    }

    pub(crate) fn return_path(&self) -> Option<ReturnPath> {
        self.back.as_deref().and_then(|back| back.parse().ok())
    }

    const fn expires(&self) -> Timestamp {
        Timestamp::from_millis(self.expires)
    }
}
