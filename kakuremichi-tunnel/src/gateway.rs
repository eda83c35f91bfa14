//! The Gateway: the public entry node.
//!
//! ```text
//! accept ─▶ detect ─▶ route ─▶ authorize ─▶ Permit ─▶ upstream flow ─▶ relay
//! ```
//!
//! Each step is a module with a pure core. The gateway decides by itself, from its plan: no request
//! waits for Control. Its routing table is immutable and replaced whole by a new plan; what is open is
//! decided about anew then, and goes on if it stays permitted.

mod access;
mod balance;
mod certificates;
mod drain;
mod flows;
mod health;
mod http;
mod ingress;
mod metrics;
mod serving;
mod settings;
mod table;
mod upstream;
mod usage;

#[cfg(test)]
mod testing;

pub use certificates::{
    CertificateSource, Certificates, GivenCertificates, GivenError, LocalCa, LocalCaError,
};
pub use ingress::{BindError, tcp::PortStatus};
pub use metrics::GatewayMetrics;
pub use settings::{Limits, Timeouts};
