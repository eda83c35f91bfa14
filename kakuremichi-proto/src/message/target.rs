//! Targets and their checks.

use serde::{Deserialize, Serialize};

use super::Endpoint;
use crate::codec::{Bytes, List};

/// What an agent dials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetAddress {
    /// A TCP address.
    Tcp(Endpoint),
    /// A Unix stream socket.
    Unix(String),
    /// A listener in the program that embeds the agent.
    InProcess,
    /// A UDP address.
    Udp(Endpoint),
}

/// What is spoken to a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetScheme {
    /// Plain HTTP or raw TCP.
    Plain,
    /// TLS.
    Tls {
        /// The name that the certificate must have.
        server_name: Option<String>,
        /// The certificates (DER) that are trusted instead of the gateway's own.
        roots: List<Bytes, 16>,
    },
}

/// How a target is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What counts as alive.
    pub check: Health,
    /// From one check to the next, in milliseconds.
    pub interval: u32,
    /// The time a check has, in milliseconds.
    pub timeout: u32,
    /// So many failures in a row take a target out.
    pub unhealthy_after: u8,
    /// So many successes in a row bring it back.
    pub healthy_after: u8,
}

/// What counts as alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// A TCP connection can be made.
    Tcp,
    /// A GET answers 200 to 399.
    Http {
        /// The path and query.
        path: String,
        /// The Host header.
        host: Option<String>,
    },
}
