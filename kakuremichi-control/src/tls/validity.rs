//! What a certificate says of itself (RFC 5280).

use kakuremichi_core::time::Timestamp;
use kakuremichi_proto::report::CertificateStatus;
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

/// When a certificate begins and ends, and its names: those for TLS, or else that of its subject. `None` when it cannot
/// be understood.
pub(super) fn status_of(certificate: &CertificateDer<'_>) -> Option<CertificateStatus> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let [since, expires] = [validity.not_before, validity.not_after]
        .map(|time| Timestamp::from_millis(time.timestamp().saturating_mul(1000)));
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let mut names = alternative
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        });
    let first = names.next();
    Some(CertificateStatus {
        expires,
        since,
        name: first.map_or_else(|| certificate.subject().to_string(), str::to_owned),
        more: u16::try_from(names.count()).unwrap_or(u16::MAX),
    })
}
