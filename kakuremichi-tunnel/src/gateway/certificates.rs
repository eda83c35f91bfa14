//! The certificates that visitors see.

mod files;
mod given;
mod local_ca;
mod refreshing;
mod resolver;
#[cfg(test)]
mod testing;
mod validity;

use std::{fmt, sync::Arc};

use kakuremichi_core::name::{HostPattern, Hostname};
use kakuremichi_proto::report::CertificateStatus;
use rustls::sign::CertifiedKey;

pub use files::{CertificateFileError, CertificateFiles};
pub use given::{GivenCertificates, GivenError};
pub use local_ca::{LocalCa, LocalCaError};

pub(super) use refreshing::Refreshing;
pub(crate) use resolver::Resolver;

/// Where the certificates of served names come from.
///
/// It is asked in the middle of a TLS handshake, on the thread that serves all others, and must not
/// block: what takes time (an order, a file) is done beforehand. Only names that a service of the plan
/// has are asked for.
pub trait CertificateSource: fmt::Debug + Send + Sync + 'static {
    /// The certificate for `name`, which the service has by `pattern`. Without one the handshake fails.
    fn certificate(&self, name: &Hostname, pattern: &HostPattern) -> Option<Arc<CertifiedKey>>;

    /// Looks whether there is something newer. It is called every few seconds, and may block.
    fn refresh(&self) {}

    /// The certificates that do not renew themselves, for the gateway's status: Control tells people when one is
    /// about to end.
    fn known(&self) -> Vec<CertificateStatus> {
        Vec::new()
    }
}

/// Which certificates a gateway uses.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Certificates {
    /// Those of a certificate authority of the gateway's own, kept in its state directory as `ca.pem`;
    /// see [`LocalCa`].
    #[default]
    LocalCa,
    /// Those of a source.
    Source(Arc<dyn CertificateSource>),
}

impl From<CertificateFiles> for Certificates {
    fn from(files: CertificateFiles) -> Self {
        Self::Source(Arc::new(files))
    }
}

impl From<GivenCertificates> for Certificates {
    fn from(given: GivenCertificates) -> Self {
        Self::Source(Arc::new(given))
    }
}
