//! What a certificate says of itself (RFC 5280).

use kakuremichi_core::time::Timestamp;
use kakuremichi_proto::report::CertificateStatus;
use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _, time::ASN1Time,
};

/// When a certificate ends, and its names: those for TLS, or else that of its subject. `None` when it cannot be
/// understood.
pub(super) fn status_of(certificate: &CertificateDer<'_>) -> Option<CertificateStatus> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let time = |time: ASN1Time| Timestamp::from_millis(time.timestamp().saturating_mul(1000));
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<&str> = alternative
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    let name = match names.first() {
        Some(first) => (*first).to_owned(),
        None => certificate.subject().to_string(),
    };
    Some(CertificateStatus {
        expires: time(validity.not_after),
        since: time(validity.not_before),
        name,
        more: u16::try_from(names.len().saturating_sub(1)).unwrap_or(u16::MAX),
    })
}
