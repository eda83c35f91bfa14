//! TLS toward a target that is checked.

use std::{io, sync::Arc};

use rustls::{ClientConfig, Error, crypto::CryptoProvider, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::any_certificate::AnyCertificate;

/// Ends TLS on connections to targets, whoever they say they are.
///
/// Only the gateway has the names and roots to verify a certificate by, and it does for every flow
/// (`KKM-G009`). What is asked here holds no secret, and the answer is only good or bad.
#[derive(Debug, Clone)]
pub(in super::super) struct CheckTls(Result<Arc<ClientConfig>, Error>);

impl CheckTls {
    /// With this cryptography, which may turn out to be unable to speak TLS.
    pub(in super::super) fn new(provider: &Arc<CryptoProvider>) -> Self {
        let config = || {
            let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
                .with_safe_default_protocol_versions()?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(Arc::clone(provider))))
                .with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(Arc::new(config))
        };
        Self(config())
    }

    pub(super) async fn wrap<S>(&self, stream: S, name: &str) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.0.clone().map_err(io::Error::other)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    }
}
