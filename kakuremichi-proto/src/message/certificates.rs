//! Which certificates a gateway has.

use serde::{Deserialize, Serialize};

use super::Subject;
use crate::codec::List;

/// The most certificates that a gateway tells of. Those that end last are left out.
pub const MAX_CERTIFICATES: usize = 256;

/// The certificates that visitors may see, in the place of those that were said before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// The certificates.
    pub certificates: List<CertificateStatus, MAX_CERTIFICATES>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Its first name.
    pub name: String,
    /// How many further names it has.
    pub more: u16,
    /// From when on it is valid, in milliseconds since the epoch.
    pub since: i64,
    /// When it ends, likewise.
    pub expires: i64,
}
