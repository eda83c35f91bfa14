//! A body with the signature of one of several keys, as a text that may stand in a URL or a cookie.

use data_encoding::BASE64URL_NOPAD;
use kakuremichi_core::{
    key::{IdentityKey, SigningKey, SigningKeyId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    codec,
    identity::{Signature, Signer, Verifier, sha256},
};

/// The longest text that is looked at, in bytes.
pub(super) const MAX_TEXT: usize = 1024;

/// Why a ticket, or a session, is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedError {
    /// It is no text of this kind.
    #[error("it is damaged")]
    Malformed,
    /// It was signed with a key that counts no more, or not yet.
    #[error("nobody who may has signed it")]
    UnknownKey,
    /// The signature is another's.
    #[error("the signature does not verify")]
    Signature,
    /// It is for another host.
    #[error("it is for another host")]
    Host,
    /// It is for another browser.
    #[error("it is for another browser")]
    Browser,
    /// Its time is over.
    #[error("its time is over")]
    Expired,
    /// It is of a time to come: one of two clocks is wrong.
    #[error("it is of a time to come")]
    Early,
}

/// By what a signed text says which key signed it.
#[must_use]
pub fn key_id(key: &SigningKey) -> SigningKeyId {
    let mut id = SigningKeyId::default();
    id.copy_from_slice(&sha256(key.as_bytes())[..8]);
    id
}

/// Writes `body`, signed below `label`: key, body and signature, in base 64 for URLs.
pub(super) fn seal<T: Serialize>(label: &[u8], body: &T, signer: &dyn Signer) -> String {
    let key = SigningKey::from_bytes(*signer.public_key().as_bytes());
    let mut bytes = key_id(&key).to_vec();
    bytes.extend(codec::encode(body));
    let signature = signer.sign(&[label, &bytes].concat());
    bytes.extend_from_slice(&signature.0);
    BASE64URL_NOPAD.encode(&bytes)
}

/// Reads what [`seal`] wrote with one of `keys`.
pub(super) fn open<'a, T: DeserializeOwned>(
    label: &[u8],
    text: &str,
    keys: impl IntoIterator<Item = &'a SigningKey>,
    verifier: &dyn Verifier,
) -> Result<T, SignedError> {
    if text.len() > MAX_TEXT {
        return Err(SignedError::Malformed);
    }
    let bytes = BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| SignedError::Malformed)?;
    let (signed, signature) = bytes.split_last_chunk().ok_or(SignedError::Malformed)?;
    let (id, body) = signed
        .split_first_chunk::<{ size_of::<SigningKeyId>() }>()
        .ok_or(SignedError::Malformed)?;
    let key = keys.into_iter().find(|key| key_id(key) == *id);
    let key = IdentityKey::from_bytes(*key.ok_or(SignedError::UnknownKey)?.as_bytes());
    if !verifier.verify(&key, &[label, signed].concat(), &Signature(*signature)) {
        return Err(SignedError::Signature);
    }
    codec::decode(body).map_err(|_| SignedError::Malformed)
}

/// Below what a body is signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Labels {
    /// As it is.
    pub(super) plain: &'static [u8],
    /// With when the person signed in.
    pub(super) dated: &'static [u8],
}

/// A body with when the person signed in, or confirmed it.
#[derive(Serialize, Deserialize)]
struct Dated<T> {
    body: T,
    authenticated: i64,
}

/// Writes `body`, with when the person signed in where that is to be said.
pub(super) fn seal_dated<T: Serialize>(
    labels: Labels,
    body: T,
    authenticated: Option<Timestamp>,
    signer: &dyn Signer,
) -> String {
    match authenticated.map(Timestamp::as_millis) {
        None => seal(labels.plain, &body, signer),
        Some(authenticated) => seal(labels.dated, &Dated { body, authenticated }, signer),
    }
}

/// Reads what [`seal_dated`] wrote with one of `keys`. Which of the two it is its form says, and the signature proves.
pub(super) fn open_dated<'a, T: DeserializeOwned>(
    labels: Labels,
    text: &str,
    keys: impl IntoIterator<Item = &'a SigningKey>,
    verifier: &dyn Verifier,
) -> Result<(T, Option<Timestamp>), SignedError> {
    if peek::<Dated<T>>(text).is_none() {
        return Ok((open(labels.plain, text, keys, verifier)?, None));
    }
    let dated: Dated<T> = open(labels.dated, text, keys, verifier)?;
    Ok((dated.body, Some(Timestamp::from_millis(dated.authenticated))))
}

/// Reads the body of either form without looking at its signature: nothing in it is proven.
pub(super) fn peek_dated<T: DeserializeOwned>(text: &str) -> Option<T> {
    peek(text).or_else(|| peek::<Dated<T>>(text).map(|dated| dated.body))
}

/// Reads a body without looking at its signature: nothing in it is proven.
fn peek<T: DeserializeOwned>(text: &str) -> Option<T> {
    let bytes = Some(text).filter(|text| text.len() <= MAX_TEXT)?;
    let bytes = BASE64URL_NOPAD.decode(bytes.as_bytes()).ok()?;
    let (signed, _) = bytes.split_last_chunk::<64>()?;
    let (_, body) = signed.split_first_chunk::<{ size_of::<SigningKeyId>() }>()?;
    codec::decode(body).ok()
}
