//! TLS under the connections of a lane.
//!
//! TLS 1.3 only, AES-GCM before ChaCha20, sessions resumed. What authenticates is not the certificate but
//! the proof of identity that follows ([`super::hello`]): any certificate will do, since a proof is bound
//! to the one TLS connection that both ends see.

use std::sync::Arc;

use rustls::{CipherSuite, crypto::CryptoProvider};

/// The provider with the ciphers in the order that a lane prefers: AES-GCM is what processors help with.
fn ordered(provider: &CryptoProvider) -> Arc<CryptoProvider> {
    let mut provider = provider.clone();
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => 1,
        _ => 2,
    });
    Arc::new(provider)
}

/// What a WebSocket begins with, as TLS names it.
pub(crate) const HTTP: &[u8] = b"http/1.1";

#[cfg(feature = "agent")]
pub(crate) use client::{LANE, client_config};
#[cfg(feature = "gateway")]
pub(crate) use server::{ServerConfigs, server_configs};

#[cfg(feature = "agent")]
mod client {
    use std::sync::Arc;

    use kakuremichi_proto::lane::record::ALPN;
    use rustls::{ClientConfig, Error, client::Resumption, crypto::CryptoProvider, version::TLS13};

    use crate::any_certificate::AnyCertificate;

    /// The protocol's name in TLS.
    pub(crate) const LANE: &[u8] = ALPN;
    /// The sessions of one lane that are kept for resumption. Beyond, the oldest is forgotten.
    const SESSIONS: usize = 64;

    /// The agent's side, for one lane. `alpn` is the lane's own protocol, or HTTP/1.1 for a WebSocket.
    ///
    /// # Errors
    /// When the provider cannot speak TLS 1.3.
    pub(crate) fn client_config(provider: &CryptoProvider, alpn: &[u8]) -> Result<Arc<ClientConfig>, Error> {
        let provider = super::ordered(provider);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Arc::new(config))
    }
}

#[cfg(feature = "gateway")]
mod server {
    use std::sync::Arc;

    use kakuremichi_proto::lane::record::ALPN;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{
        ServerConfig,
        crypto::CryptoProvider,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        version::TLS13,
    };

    /// What the certificate of a lane is for; nobody looks at it.
    const NAME: &str = "lane.kakuremichi.invalid";

    /// The gateway's side: for the lane's own protocol, and for WebSockets. The key is made for this process.
    #[derive(Debug, Clone)]
    pub(crate) struct ServerConfigs {
        pub(crate) direct: Arc<ServerConfig>,
        pub(crate) websocket: Arc<ServerConfig>,
    }

    /// Makes them.
    ///
    /// # Errors
    /// When the provider cannot speak TLS 1.3, or the system gives no random bytes.
    pub(crate) fn server_configs(provider: &CryptoProvider) -> Result<ServerConfigs, rustls::Error> {
        let made = || {
            let key = KeyPair::generate()?;
            let certificate = CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
            Ok::<_, rcgen::Error>((certificate.der().clone(), key.serialize_der()))
        };
        let (certificate, key) = made().map_err(|error| rustls::Error::General(error.to_string()))?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        let mut config = ServerConfig::builder_with_provider(super::ordered(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        let mut websocket = config.clone();
        websocket.alpn_protocols = vec![super::HTTP.to_vec()];
        Ok(ServerConfigs {
            direct: Arc::new(config),
            websocket: Arc::new(websocket),
        })
    }
}
