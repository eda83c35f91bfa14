//! Certificates for tests.

use rcgen::{CertificateParams, KeyPair};

/// A chain of one, signed by itself, and its key, both in PEM.
pub(super) fn pair(names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}
