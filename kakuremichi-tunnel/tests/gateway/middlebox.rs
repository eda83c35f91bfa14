//! What companies put between their networks and the world.

use std::{future::Future, net::SocketAddr, sync::Arc};

use kakuremichi_proto::lane::record::ALPN;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Lets TLS pass, but no protocol in it that it does not know.
pub(crate) fn only_http(gateway: SocketAddr) -> SocketAddr {
    each(move |mut near| async move {
        let mut hello = [0; 2048];
        let seen = near.peek(&mut hello).await.unwrap_or(0);
        if hello[..seen].windows(ALPN.len()).any(|bytes| bytes == ALPN) {
            return;
        }
        let Ok(mut far) = TcpStream::connect(gateway).await else {
            return;
        };
        let _ = copy_bidirectional(&mut near, &mut far).await;
    })
}

/// Ends TLS with a certificate of its own, and begins it again toward the gateway.
pub(crate) fn intercepting(gateway: SocketAddr) -> SocketAddr {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["middlebox.test".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(provider)))
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (server, client) = (Arc::new(server), Arc::new(client));
    each(move |near| {
        let (acceptor, connector) = (
            TlsAcceptor::from(Arc::clone(&server)),
            TlsConnector::from(Arc::clone(&client)),
        );
        async move {
            let Ok(mut near) = acceptor.accept(near).await else {
                return;
            };
            let Ok(far) = TcpStream::connect(gateway).await else {
                return;
            };
            let Ok(mut far) = connector.connect(ServerName::from(gateway.ip()), far).await else {
                return;
            };
            let _ = copy_bidirectional(&mut near, &mut far).await;
        }
    })
}

/// A listener on loopback, each of whose connections is handled so.
fn each<F>(handle: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    tokio::spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}

#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
