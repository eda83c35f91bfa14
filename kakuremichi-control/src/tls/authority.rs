//! A certificate authority for one Control.

use std::time::{Duration, SystemTime};

use kakuremichi_core::secret::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

/// How long the authority is valid. Its fingerprint is pinned by nodes, so it does not change silently.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How long a leaf is valid; it is replaced when two thirds have passed.
pub(super) const LEAF_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// Leaves are valid from this long ago, for clocks that are behind.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(3600);

/// What is wrong with an authority's files, or kept it from signing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The certificate is not one in PEM.
    #[error("the certificate of the authority cannot be read")]
    Certificate(#[source] rustls_pki_types::pem::Error),
    /// The key is not one in PKCS#8 PEM.
    #[error("the key of the authority cannot be read")]
    Key(#[source] rcgen::Error),
    /// Key and certificate do not belong together, or something could not be signed.
    #[error("the authority cannot sign")]
    Sign(#[from] rcgen::Error),
}

/// A certificate authority whose key never leaves its owner.
#[derive(Debug)]
pub struct LocalCa {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A leaf certificate with its key.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) renew: SystemTime,
}

impl LocalCa {
    /// Makes a new authority with the common name `name`: ECDSA on P-256, which every browser takes.
    ///
    /// # Errors
    /// When no random numbers can be had.
    pub fn generate(name: &str, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - CLOCK_TOLERANCE).into();
        params.not_after = (now + CA_LIFE).into();
        let certificate = params.self_signed(&key)?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Ok(Self {
            pem,
            der,
            issuer: Issuer::new(params, key),
        })
    }

    /// Takes an authority from what [`certificate_pem`](Self::certificate_pem) and
    /// [`key_pem`](Self::key_pem) gave.
    ///
    /// # Errors
    /// When either cannot be read.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key).map_err(CaError::Key)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(CaError::Certificate)?;
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self {
            pem: certificate.to_owned(),
            der,
            issuer,
        })
    }

    /// The certificate, for those who are to trust it.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The key, for its owner's own file.
    #[must_use]
    pub fn key_pem(&self) -> Secret<String> {
        Secret::new(self.issuer.key().serialize_pem())
    }

    /// SHA-256 of the certificate's DER: what tokens carry.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// Signs a leaf for DNS names and IP addresses. The chain has the authority's certificate too, since
    /// those who pin its fingerprint have nothing but that.
    pub(super) fn issue(&self, names: &[String], now: SystemTime) -> Result<Leaf, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        if let Some(name) = names.first() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = (now - CLOCK_TOLERANCE).into();
        params.not_after = (now + LEAF_LIFE).into();
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf {
            chain: vec![certificate.der().clone(), self.der.clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            renew: now + LEAF_LIFE * 2 / 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_the_same_after_it_was_written_and_read() {
        let now = SystemTime::now();
        let made = LocalCa::generate("test", now).unwrap();
        let read = LocalCa::from_pem(made.certificate_pem(), made.key_pem().expose()).unwrap();
        assert_eq!(made.fingerprint(), read.fingerprint());
        let leaf = read
            .issue(&["control.example.net".to_owned(), "127.0.0.1".to_owned()], now)
            .unwrap();
        assert_eq!(leaf.chain.len(), 2);
        assert!(LocalCa::from_pem(made.certificate_pem(), "no key").is_err());
        assert!(LocalCa::from_pem("no certificate", made.key_pem().expose()).is_err());
    }
}
