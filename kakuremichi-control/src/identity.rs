//! Control's own identity: the Ed25519 key that every token pins.

use std::fmt;

use kakuremichi_core::{key::IdentityKey, secret::Secret};
use kakuremichi_proto::identity::{Signature, Signer, Verifier};
use ring::{
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};

use crate::service::{Seal, StartKey, TicketKeys};

/// Why there is no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The system gave no random numbers.
    #[error("the system gave no random numbers")]
    Random,
    /// The bytes are no key.
    #[error("the identity is not an Ed25519 key in PKCS#8 (RFC 8410)")]
    Key,
}

/// Makes the key of a new Control, in PKCS#8. Keep it where nobody else can read it: whoever has it can
/// pretend to be this Control, and without it every node has to enrol anew.
///
/// # Errors
/// When the system gives no random numbers.
pub fn identity_key() -> Result<Secret<Vec<u8>>, IdentityError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| IdentityError::Random)?;
    Ok(Secret::new(document.as_ref().to_vec()))
}

/// Signs as Control.
pub(crate) struct Identity {
    key: Ed25519KeyPair,
    public: IdentityKey,
    seal: Seal,
    tickets: TicketKeys,
    audit_start: StartKey,
}

impl Identity {
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, IdentityError> {
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|_| IdentityError::Key)?;
        let public = key
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| IdentityError::Key)?;
        Ok(Self {
            key,
            public: IdentityKey::from_bytes(public),
            seal: Seal::new(pkcs8).ok_or(IdentityError::Key)?,
            tickets: TicketKeys::new(pkcs8),
            audit_start: StartKey::new(pkcs8).ok_or(IdentityError::Key)?,
        })
    }

    /// Seals what only this Control reads again.
    pub(crate) fn seal(&self) -> Seal {
        self.seal.clone()
    }

    /// Proves where the audit starts.
    pub(crate) fn audit_start(&self) -> StartKey {
        self.audit_start.clone()
    }

    /// Signs tickets.
    pub(crate) fn ticket_keys(&self) -> TicketKeys {
        self.tickets.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.public).finish()
    }
}

impl Signer for Identity {
    fn public_key(&self) -> IdentityKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.key.sign(message).as_ref());
        Signature(signature)
    }
}

/// Verifies what nodes signed.
#[derive(Debug)]
pub(crate) struct Ed25519;

impl Verifier for Ed25519 {
    fn verify(&self, key: &IdentityKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key.as_bytes())
            .verify(message, &signature.0)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_control_signs_verifies_with_the_key_that_tokens_pin() {
        let pkcs8 = identity_key().unwrap();
        let identity = Identity::from_pkcs8(pkcs8.expose()).unwrap();
        let signature = identity.sign(b"message");
        assert!(Ed25519.verify(&identity.public_key(), b"message", &signature));
        assert!(!Ed25519.verify(&identity.public_key(), b"massage", &signature));
        assert!(!Ed25519.verify(&IdentityKey::from_bytes([1; 32]), b"message", &signature));
        assert!(Identity::from_pkcs8(b"no key").is_err());
    }
}
