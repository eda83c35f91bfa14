//! Picks the certificate for the name that a visitor asks for.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kakuremichi_core::name::Hostname;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::CertificateSource;
use crate::gateway::table::RouteTable;

/// Asks the source for names that a service has, and for no others: a name that is not served gets no
/// certificate made, and no handshake.
#[derive(Debug)]
pub(crate) struct Resolver {
    table: Arc<ArcSwap<RouteTable>>,
    source: Arc<dyn CertificateSource>,
}

impl Resolver {
    /// The server side of TLS toward visitors: TLS 1.2 and 1.3, HTTP/2 before HTTP/1.1, no early data.
    ///
    /// # Errors
    /// When the provider does not do them.
    pub(crate) fn server_config(
        table: Arc<ArcSwap<RouteTable>>,
        source: Arc<dyn CertificateSource>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Self { table, source }));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name: Hostname = hello.server_name()?.parse().ok()?;
        let pattern = self.table.load().pattern(&name)?;
        self.source.certificate(&name, &pattern)
    }
}
