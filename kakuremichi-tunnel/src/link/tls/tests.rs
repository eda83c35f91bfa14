use std::io;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name.to_owned());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            der,
        }
    }

    fn fingerprint(&self) -> [u8; 32] {
        digest(&SHA256, &self.der).as_ref().try_into().unwrap()
    }

    /// A server with a certificate for `name`, which presents `chain` behind it.
    fn server(&self, name: &str, chain: &[&Self]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let chain = std::iter::once(leaf).chain(chain.iter().map(|ca| ca.der.clone()));
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

async fn handshake(trust: Trust, server: TlsAcceptor, name: &'static str) -> io::Result<()> {
    let config = client_config(trust, &Arc::new(ring::default_provider())).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name).unwrap();
    let (client, _server) = tokio::join!(connector.connect(name, near), server.accept(far));
    client.map(drop)
}

fn why(result: io::Result<()>) -> Error {
    let error = result.unwrap_err();
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .unwrap_or_else(|| panic!("{error:?}"))
        .clone()
}

fn is_name_error(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

#[tokio::test]
async fn the_pinned_ca_vouches_for_control() {
    let ca = Ca::new("control");
    let trust = Trust::Fingerprint(ca.fingerprint());
    let server = ca.server("control.example.net", &[&ca]);
    handshake(trust, server, "control.example.net").await.unwrap();
}

#[tokio::test]
async fn addresses_are_names_too() {
    let ca = Ca::new("control");
    let server = ca.server("127.0.0.1", &[&ca]);
    handshake(Trust::Fingerprint(ca.fingerprint()), server, "127.0.0.1")
        .await
        .unwrap();
}

#[tokio::test]
async fn another_ca_does_not_even_with_the_same_name() {
    let (ca, impostor) = (Ca::new("control"), Ca::new("control"));
    let trust = Trust::Fingerprint(ca.fingerprint());
    let server = impostor.server("control.example.net", &[&impostor]);
    let error = why(handshake(trust, server, "control.example.net").await);
    assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
}

#[tokio::test]
async fn a_chain_that_only_shows_the_pinned_ca_is_refused() {
    let (ca, impostor) = (Ca::new("control"), Ca::new("impostor"));
    let trust = Trust::Fingerprint(ca.fingerprint());
    let server = impostor.server("control.example.net", &[&impostor, &ca]);
    let error = why(handshake(trust, server, "control.example.net").await);
    assert!(matches!(error, Error::InvalidCertificate(_)), "{error:?}");
}

#[tokio::test]
async fn the_name_is_verified_under_the_pinned_ca() {
    let ca = Ca::new("control");
    let trust = Trust::Fingerprint(ca.fingerprint());
    let server = ca.server("other.example.net", &[&ca]);
    let error = why(handshake(trust, server, "control.example.net").await);
    assert!(is_name_error(&error), "{error:?}");
}

#[tokio::test]
async fn without_the_ca_in_the_chain_nothing_vouches() {
    let ca = Ca::new("control");
    let trust = Trust::Fingerprint(ca.fingerprint());
    let error = why(handshake(
        trust,
        ca.server("control.example.net", &[]),
        "control.example.net",
    )
    .await);
    assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
}

#[tokio::test]
async fn given_roots_replace_the_systems() {
    let (ca, other) = (Ca::new("control"), Ca::new("other"));
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    let trust = || Trust::Roots(Arc::new(roots.clone()));
    handshake(trust(), ca.server("c.example", &[]), "c.example")
        .await
        .unwrap();
    let error = why(handshake(trust(), other.server("c.example", &[]), "c.example").await);
    assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
    let error = why(handshake(Trust::System, ca.server("c.example", &[]), "c.example").await);
    assert_eq!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
}
