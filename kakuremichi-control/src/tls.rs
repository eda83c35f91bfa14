//! TLS for Control's own listener: given certificates, or a certificate authority of its own.
//!
//! A Control without a public certificate makes itself a [`LocalCa`]. Its fingerprint is in every token, so
//! nodes trust exactly this authority and nothing else has to be installed anywhere.

mod authority;
mod config;
mod files;
mod validity;

pub use authority::{CaError, LocalCa};
pub use config::{ConfigError, given, issued, watched};
pub use files::{CertificateFileError, CertificateFiles};
