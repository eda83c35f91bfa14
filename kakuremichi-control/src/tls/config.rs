//! The rustls configuration of Control's listener.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{CaError, CertificateFiles, LocalCa};

/// Why no configuration can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file of certificates is not PEM, or holds none.
    #[error("the certificate chain cannot be read")]
    Chain(#[source] rustls_pki_types::pem::Error),
    /// The file of the key is not PEM, or holds none.
    #[error("the private key cannot be read")]
    Key(#[source] rustls_pki_types::pem::Error),
    /// Key and certificate do not belong together, or are of a kind that is not supported.
    #[error("certificate and key cannot be used")]
    Tls(#[from] rustls::Error),
    /// The authority cannot sign.
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// Serves a given certificate chain with its key, both in PEM.
///
/// # Errors
/// When they cannot be read, or do not belong together.
pub fn given(chain: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, ConfigError> {
    finish(Arc::new(Fixed(pair(chain, key)?)))
}

/// Serves whatever certificate the files have, as it was read last.
///
/// # Errors
/// When no configuration can be made of it.
pub fn watched(files: Arc<CertificateFiles>) -> Result<Arc<ServerConfig>, ConfigError> {
    finish(files)
}

/// Serves certificates for `names` (DNS names and IP addresses) that `ca` signs, and signs a new one well
/// before the last expires.
///
/// # Errors
/// When the first one cannot be signed.
pub fn issued(ca: LocalCa, names: Vec<String>, now: SystemTime) -> Result<Arc<ServerConfig>, ConfigError> {
    let current = Mutex::new(issue(&ca, &names, now)?);
    finish(Arc::new(Renewing { ca, names, current }))
}

fn finish(resolver: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, ConfigError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A chain, the leaf first, and its key, both in PEM.
pub(super) fn pair(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, ConfigError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(ConfigError::Chain)?;
    if chain.is_empty() {
        return Err(ConfigError::Chain(rustls_pki_types::pem::Error::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(ConfigError::Key)?;
    Ok(certified(chain, key)?)
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    CertifiedKey::from_der(chain, key, &provider()).map(Arc::new)
}

fn issue(
    ca: &LocalCa,
    names: &[String],
    now: SystemTime,
) -> Result<(Arc<CertifiedKey>, SystemTime), ConfigError> {
    let leaf = ca.issue(names, now)?;
    Ok((certified(leaf.chain, leaf.key)?, leaf.renew))
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Renewing {
    ca: LocalCa,
    names: Vec<String>,
    current: Mutex<(Arc<CertifiedKey>, SystemTime)>,
}

impl ResolvesServerCert for Renewing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = SystemTime::now();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= current.1 {
            match issue(&self.ca, &self.names, now) {
                Ok(fresh) => *current = fresh,
                // The old one has a third of its life left: serve it and try again at the next hello.
                Err(error) => tracing::error!(%error, "cannot renew Control's certificate"),
            }
        }
        Some(Arc::clone(&current.0))
    }
}
