//! Certificates that somebody else made.

use std::sync::Arc;

use kakuremichi_core::name::{HostPattern, Hostname};
use kakuremichi_proto::report::CertificateStatus;
use rustls::{
    client::verify_server_name,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::{CertificateSource, validity::status_of};

/// The most pairs.
const MAX_PAIRS: usize = 256;

/// Certificate chains and their keys. The first one that has a name, or a wildcard for it, is used.
#[derive(Debug, Clone, Default)]
pub struct GivenCertificates {
    pairs: Vec<Arc<CertifiedKey>>,
    known: Vec<CertificateStatus>,
}

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GivenError {
    /// The certificates cannot be read.
    #[error("there is no readable certificate in the PEM text")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    /// There is no certificate.
    #[error("there is no certificate in the PEM text")]
    NoCertificate,
    /// The key cannot be read.
    #[error("there is no readable private key in the PEM text")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// The key is of a kind that is not supported, or not the certificate's.
    #[error("the private key cannot be used with the certificate")]
    Unusable(#[source] rustls::Error),
    /// There are too many.
    #[error("a gateway has at most {MAX_PAIRS} certificates")]
    TooMany,
}

impl GivenCertificates {
    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a chain, the leaf first, and its key, both in PEM.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together.
    pub fn with_pem(mut self, chain: &[u8], key: &[u8]) -> Result<Self, GivenError> {
        if self.pairs.len() >= MAX_PAIRS {
            return Err(GivenError::TooMany);
        }
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(GivenError::Certificate)?;
        let leaf = chain.first().ok_or(GivenError::NoCertificate)?;
        ParsedCertificate::try_from(leaf).map_err(GivenError::Unusable)?;
        let known = status_of(leaf);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(GivenError::Key)?;
        let pair = CertifiedKey::from_der(chain, key, &provider()).map_err(GivenError::Unusable)?;
        self.pairs.push(Arc::new(pair));
        self.known.extend(known);
        Ok(self)
    }
}

impl CertificateSource for GivenCertificates {
    fn certificate(&self, name: &Hostname, _pattern: &HostPattern) -> Option<Arc<CertifiedKey>> {
        let name = ServerName::try_from(name.as_str()).ok()?;
        let covers = |pair: &&Arc<CertifiedKey>| {
            pair.cert
                .first()
                .and_then(|leaf| ParsedCertificate::try_from(leaf).ok())
                .is_some_and(|leaf| verify_server_name(&leaf, &name).is_ok())
        };
        self.pairs.iter().find(covers).map(Arc::clone)
    }

    fn known(&self) -> Vec<CertificateStatus> {
        self.known.clone()
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

#[cfg(test)]
mod tests {
    use super::{super::testing::pair, *};

    #[test]
    fn the_first_that_has_the_name_is_used() {
        let (wild, wild_key) = pair(&["*.example.net"]);
        let (exact, exact_key) = pair(&["a.example.net", "b.example.org"]);
        let given = GivenCertificates::new()
            .with_pem(exact.as_bytes(), exact_key.as_bytes())
            .and_then(|given| given.with_pem(wild.as_bytes(), wild_key.as_bytes()))
            .unwrap();
        let index = |host: &str| {
            let name: Hostname = host.parse().unwrap();
            let found = given.certificate(&name, &HostPattern::Exact(name.clone()))?;
            given.pairs.iter().position(|pair| Arc::ptr_eq(pair, &found))
        };
        assert_eq!(index("a.example.net"), Some(0));
        assert_eq!(index("b.example.org"), Some(0));
        assert_eq!(index("c.example.net"), Some(1));
        assert_eq!(index("example.net"), None);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (certificate, key) = pair(&["a.example.net"]);
        let (_, other) = pair(&["a.example.net"]);
        let given =
            |chain: &str, key: &str| GivenCertificates::new().with_pem(chain.as_bytes(), key.as_bytes());
        assert!(matches!(
            given(&certificate, &other),
            Err(GivenError::Unusable(_))
        ));
        assert!(matches!(given("", &key), Err(GivenError::NoCertificate)));
        assert!(matches!(given(&certificate, ""), Err(GivenError::Key(_))));
    }
}
