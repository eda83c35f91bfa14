//! How Control's certificate is verified.

use std::{path::Path, sync::Arc};

use ring::digest::{SHA256, digest};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// Whom a node trusts to say who Control is.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// The system's roots.
    System,
    /// These roots, and no others.
    Roots(Arc<RootCertStore>),
    /// The one CA whose certificate has this SHA-256; Control presents it behind its own.
    Fingerprint([u8; 32]),
}

/// The client side of TLS to Control. The provider is given, never installed process-wide.
///
/// # Errors
/// When the provider cannot speak TLS 1.2 or 1.3.
pub(crate) fn client_config(trust: Trust, provider: &Arc<CryptoProvider>) -> Result<ClientConfig, Error> {
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::System => builder.with_root_certificates(system_roots()),
        Trust::Roots(roots) => builder.with_root_certificates(roots),
        Trust::Fingerprint(fingerprint) => {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(PinnedCa {
                    fingerprint,
                    provider: Arc::clone(provider),
                }))
        }
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Verifies against the one certificate of the presented chain that has the pinned fingerprint, and
/// otherwise as usual: signatures, names, validity, purposes.
#[derive(Debug)]
struct PinnedCa {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = intermediates
            .iter()
            .find(|certificate| digest(&SHA256, certificate).as_ref() == self.fingerprint)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Where Unix systems keep their roots, the first that is there counts. The list is our own because
/// the usual look-up obeys environment variables, which an embedder's process may have set for others.
const ROOT_FILES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// The system's roots, read anew. Without any, every certificate is refused (LESSONS, advisory 5: any
/// error in a check is a denial).
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let Some(file) = ROOT_FILES.iter().map(Path::new).find(|path| path.exists()) else {
        tracing::warn!("this system has no root certificates in any usual place");
        return roots;
    };
    let found = rustls_native_certs::load_certs_from_paths(Some(file), None);
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's root certificates cannot be read");
    }
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 {
        tracing::debug!(unusable, "some of the system's root certificates are unusable");
    }
    roots
}

#[cfg(test)]
mod tests;
