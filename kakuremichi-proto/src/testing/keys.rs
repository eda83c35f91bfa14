//! Signatures that prove nothing, for tests that do not want cryptography.

use kakuremichi_core::key::IdentityKey;

use crate::identity::{Signature, Signer, Verifier, sha256};

/// Signs by hashing, so that anybody can: the signature depends on the key and on every bit of the
/// message, and that is all it does.
#[derive(Debug, Clone, Copy)]
pub struct ToyKeys(pub [u8; 32]);

impl Signer for ToyKeys {
    fn public_key(&self) -> IdentityKey {
        IdentityKey::from_bytes(sha256(&[b"public", self.0.as_slice()].concat()))
    }

    fn sign(&self, message: &[u8]) -> Signature {
        toy_signature(&self.public_key(), message)
    }
}

/// Verifies what [`ToyKeys`] signed.
#[derive(Debug, Clone, Copy)]
pub struct ToyVerifier;

impl Verifier for ToyVerifier {
    fn verify(&self, key: &IdentityKey, message: &[u8], signature: &Signature) -> bool {
        toy_signature(key, message) == *signature
    }
}

fn toy_signature(key: &IdentityKey, message: &[u8]) -> Signature {
    let mut bytes = [0; 64];
    let hash = sha256(&[key.as_bytes(), message].concat());
    bytes[..32].copy_from_slice(&hash);
    bytes[32..].copy_from_slice(&sha256(&hash));
    Signature(bytes)
}
