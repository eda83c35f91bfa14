//! The keys of a node. They are made here and never leave it.

#![expect(
    clippy::disallowed_methods,
    reason = "a key is made of the system's randomness, and of nothing else"
)]

mod held;

pub(crate) use held::{Held, KeyRing, Renewed};

use std::{fmt, sync::Arc, time::Duration};

use boringtun::x25519::{PublicKey, StaticSecret};
use data_encoding::BASE64;
use kakuremichi_core::{
    key::{IdentityKey, WireGuardKey},
    secret::Secret,
};
use kakuremichi_proto::identity::{Signature, Signer, Verifier};
use ring::{
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};

/// The least age of keys at which a node rotates them by itself.
pub const MIN_KEY_AGE: Duration = Duration::from_secs(60 * 60);

/// Why there are no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
    /// What should be an Ed25519 key in PKCS#8 (RFC 8410) is none.
    #[error("this is not an Ed25519 key in PKCS#8")]
    Identity,
    /// What should be an X25519 key in base 64, as `wg genkey` prints it, is none.
    #[error("this is not a WireGuard key")]
    WireGuard,
}

/// Who a node is (Ed25519, RFC 8032), and how its lanes are keyed (X25519, RFC 7748).
///
/// A clone shares the keys. Nothing but signatures and public halves comes out of it, and the private
/// WireGuard key for the engine of this process.
#[derive(Clone)]
pub struct NodeKeys {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Ed25519KeyPair,
    identity_public: IdentityKey,
    wireguard: Secret<[u8; 32]>,
    wireguard_public: WireGuardKey,
}

impl NodeKeys {
    /// Makes new keys.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        Self::assemble(&generate_identity()?, &generate_wireguard()?)
    }

    /// Puts together an identity in PKCS#8 and a WireGuard key in the form that `wg genkey` prints.
    ///
    /// # Errors
    /// When one of the two is not what it should be.
    pub(crate) fn assemble(pkcs8: &Secret<Vec<u8>>, wireguard: &Secret<String>) -> Result<Self, KeyError> {
        let identity =
            Ed25519KeyPair::from_pkcs8(pkcs8.expose().as_slice()).map_err(|_| KeyError::Identity)?;
        let public = identity.public_key().as_ref();
        let identity_public = public
            .try_into()
            .map(IdentityKey::from_bytes)
            .map_err(|_| KeyError::Identity)?;
        let decoded = BASE64
            .decode(wireguard.expose().trim().as_bytes())
            .map(Secret::new)
            .map_err(|_| KeyError::WireGuard)?;
        let bytes: [u8; 32] = decoded
            .expose()
            .as_slice()
            .try_into()
            .map_err(|_| KeyError::WireGuard)?;
        let wireguard_public = PublicKey::from(&StaticSecret::from(bytes));
        Ok(Self {
            inner: Arc::new(Inner {
                identity,
                identity_public,
                wireguard: Secret::new(bytes),
                wireguard_public: WireGuardKey::from_bytes(wireguard_public.to_bytes()),
            }),
        })
    }

    /// The same WireGuard key with another identity in PKCS#8.
    ///
    /// # Errors
    /// When that is none.
    pub(crate) fn with_identity(&self, pkcs8: &Secret<Vec<u8>>) -> Result<Self, KeyError> {
        let wireguard = Secret::new(BASE64.encode(self.inner.wireguard.expose()));
        Self::assemble(pkcs8, &wireguard)
    }

    /// Who the node is.
    #[must_use]
    pub fn identity(&self) -> IdentityKey {
        self.inner.identity_public
    }

    /// The public half of the WireGuard key.
    #[must_use]
    pub fn wireguard(&self) -> WireGuardKey {
        self.inner.wireguard_public
    }

    /// The private WireGuard key, for the engine.
    #[must_use]
    pub(crate) fn wireguard_private(&self) -> Secret<[u8; 32]> {
        self.inner.wireguard.clone()
    }
}

impl Signer for NodeKeys {
    fn public_key(&self) -> IdentityKey {
        self.identity()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.inner.identity.sign(message).as_ref());
        Signature(signature)
    }
}

/// Verifies signatures (Ed25519, RFC 8032) with ring.
#[derive(Debug, Clone, Copy, Default)]
pub struct RingVerifier;

impl Verifier for RingVerifier {
    fn verify(&self, key: &IdentityKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key.as_bytes())
            .verify(message, &signature.0)
            .is_ok()
    }
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKeys")
            .field("identity", &self.identity())
            .field("wireguard", &self.wireguard())
            .finish_non_exhaustive()
    }
}

pub(crate) fn generate_identity() -> Result<Secret<Vec<u8>>, KeyError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
    Ok(Secret::new(document.as_ref().to_vec()))
}

pub(crate) fn generate_wireguard() -> Result<Secret<String>, KeyError> {
    let bytes = Secret::new(random::<32>()?);
    Ok(Secret::new(BASE64.encode(bytes.expose())))
}

/// Fresh random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| KeyError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_form_in_which_they_are_kept() {
        let (identity, wireguard) = (generate_identity().unwrap(), generate_wireguard().unwrap());
        let keys = NodeKeys::assemble(&identity, &wireguard).unwrap();
        let again = NodeKeys::assemble(&identity, &wireguard).unwrap();
        assert_eq!(keys.identity(), again.identity());
        assert_eq!(keys.wireguard(), again.wireguard());
        let signature = again.sign(b"message");
        assert!(RingVerifier.verify(&keys.identity(), b"message", &signature));
        assert!(!RingVerifier.verify(&keys.identity(), b"massage", &signature));
        let other = NodeKeys::generate().unwrap();
        assert!(!RingVerifier.verify(&other.identity(), b"message", &signature));
    }

    #[test]
    fn the_private_halves_are_not_printed() {
        let wireguard = generate_wireguard().unwrap();
        let keys = NodeKeys::assemble(&generate_identity().unwrap(), &wireguard).unwrap();
        let printed = format!("{keys:?}");
        assert!(printed.contains(&keys.identity().to_string()));
        assert!(!printed.contains(wireguard.expose()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let (identity, wireguard) = (generate_identity().unwrap(), generate_wireguard().unwrap());
        let no_identity = NodeKeys::assemble(&Secret::new(vec![1, 2, 3]), &wireguard);
        assert_eq!(no_identity.unwrap_err(), KeyError::Identity);
        let no_wireguard = NodeKeys::assemble(&identity, &Secret::new("abc".to_owned()));
        assert_eq!(no_wireguard.unwrap_err(), KeyError::WireGuard);
    }
}
