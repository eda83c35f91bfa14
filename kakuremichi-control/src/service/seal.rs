//! What Control has to read again, and nobody else may.

use std::fmt;

use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};

use super::{UseCaseError, random};

/// Seals small secrets with a key that comes from Control's identity (HKDF-SHA256, RFC 5869), which is not in the
/// database: whoever reads only that reads none of them.
#[derive(Clone)]
pub(crate) struct Seal(LessSafeKey);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// Derives the key from the private key of Control's identity.
    pub(crate) fn new(identity: &[u8]) -> Option<Self> {
        let salt = Salt::new(HKDF_SHA256, b"kakuremichi control");
        let secret = salt.extract(identity);
        let okm = secret.expand(&[b"sealed secrets 1"], &CHACHA20_POLY1305).ok()?;
        Some(Self(LessSafeKey::new(UnboundKey::from(okm))))
    }

    /// Seals a secret of `owner`, so that it opens as theirs only. Random nonces are good for 2^32 secrets.
    pub(super) fn seal(&self, owner: &[u8], secret: &[u8]) -> Result<Vec<u8>, UseCaseError> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = secret.to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(owner), &mut sealed)
            .map_err(|_| UseCaseError::Random)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what was sealed for `owner`; `None` for anything else.
    pub(super) fn open(&self, owner: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut opened = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .0
            .open_in_place(nonce, Aad::from(owner), &mut opened)
            .ok()?
            .len();
        opened.truncate(length);
        Some(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_for_its_owner_only() {
        let seal = Seal::new(b"identity").unwrap();
        let sealed = seal.seal(b"anna", b"secret").unwrap();
        assert_eq!(seal.open(b"anna", &sealed).as_deref(), Some(&b"secret"[..]));
        assert_eq!(seal.open(b"bert", &sealed), None);
        assert_eq!(Seal::new(b"another").unwrap().open(b"anna", &sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(seal.open(b"anna", &sealed[..cut]), None);
        }
        assert_ne!(seal.seal(b"anna", b"secret").unwrap(), sealed);
    }
}
