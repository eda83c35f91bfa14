//! The Gateway: the public entry node.
//!
//! ```text
//! accept ─▶ detect ─▶ route ─▶ authorize ─▶ Permit ─▶ upstream flow ─▶ relay
//! ```
//!
//! Each step is a module with a pure core. The gateway decides by itself, from its plan: no request
//! waits for Control. Its routing table is immutable and replaced whole by a new plan; what is open is
//! decided about anew then, and goes on if it stays permitted.
//!
//! A gateway has as many shards as it has cores to use, each with listeners of its own. An HTTP visitor
//! stays on the shard that accepted the connection, and a flow to an agent is opened on the one that owns
//! the agent; the connection of a TCP service is moved there whole.

mod access;
mod balance;
mod blueprint;
mod builder;
mod certificates;
mod conductor;
mod drain;
mod draining;
mod feeds;
mod flows;
mod geo;
mod handle;
mod health;
mod http;
mod identity;
mod ingress;
mod lanes;
mod member;
mod metrics;
mod network;
mod per_address;
mod serving;
mod settings;
mod siblings;
mod sign_in;
mod stamp;
mod status;
mod streams;
mod table;
mod upstream;
mod usage;

#[cfg(test)]
mod testing;

pub use builder::{GatewayBuilder, SpawnError};
pub use certificates::{
    CertificateFileError, CertificateFiles, CertificateSource, Certificates, GivenCertificates, GivenError,
    LocalCa, LocalCaError,
};
pub use handle::{Gateway, ShutdownReport};
pub use ingress::BindError;
pub use metrics::GatewayMetrics;
pub use settings::{Limits, Timeouts};
pub use status::{
    CertificateStatus, GatewayStatus, LaneKind, PeerState, PeerStatus, Phase, PortStatus, ServiceStatus,
    SiblingStatus,
};
