//! Who a node is, who Control is, and how each proves it.
//!
//! The only cryptography in here is SHA-256. Signatures are made and verified by whoever holds the
//! keys, through [`Signer`] and [`Verifier`].

mod text;
mod transcript;
mod url;

pub use text::{
    ApiKeyText, InvitationText, ParseSecretError, ResetText, ServiceTokenText, SessionText, TokenText,
    VerificationText,
};
pub use transcript::{RotationTranscript, SignedProof, Transcript};
pub use url::{CanonicalUrl, UrlError};

use std::fmt;

use kakuremichi_core::key::IdentityKey;
pub use kakuremichi_core::secret::{SecretHash, constant_time_eq};
use sha2::{Digest, Sha256};

use crate::codec::Array;

/// An Ed25519 signature (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Array(self.0).fmt(f)
    }
}

/// Holds an Ed25519 private key and signs with it.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The public half.
    fn public_key(&self) -> IdentityKey;

    /// Signs a message. It must not block for long: the control link waits.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// Verifies Ed25519 signatures.
pub trait Verifier: fmt::Debug + Send + Sync {
    /// Whether `signature` over `message` was made with the private half of `key`.
    fn verify(&self, key: &IdentityKey, message: &[u8], signature: &Signature) -> bool;
}

/// SHA-256 (FIPS 180-4) of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What is kept of a secret.
#[must_use]
pub fn secret_hash(secret: &[u8]) -> SecretHash {
    SecretHash::from_bytes(sha256(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_sha_256() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(data_encoding::HEXLOWER.encode(&sha256(b"abc")), expected);
    }
}
