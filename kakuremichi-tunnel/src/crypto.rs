//! The cryptography of TLS.
//!
//! Everything that speaks TLS in here is given a provider by its builder, and installs none process-wide.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// What nodes use unless they are given another: ring.
///
/// With the feature `aws-lc-rs` it is AWS-LC, which brings a key exchange that is safe from computers that do
/// not exist yet: X25519MLKEM768, tried first. The other end has to have it too, or X25519 alone is used. A
/// C compiler is all that it needs to be built, on Linux.
#[must_use]
pub fn default_provider() -> Arc<CryptoProvider> {
    Arc::new(provider())
}

#[cfg(not(feature = "aws-lc-rs"))]
fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

#[cfg(feature = "aws-lc-rs")]
fn provider() -> CryptoProvider {
    use rustls::{NamedGroup, crypto::aws_lc_rs};

    let mut provider = aws_lc_rs::default_provider();
    // Whatever rustls prefers by its own features.
    provider
        .kx_groups
        .retain(|group| group.name() != NamedGroup::X25519MLKEM768);
    provider.kx_groups.insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
    provider
}

#[cfg(all(feature = "agent", feature = "gateway"))]
#[cfg(test)]
mod tests;
