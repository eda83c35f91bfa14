//! Services that an agent asks to publish.

use serde::{Deserialize, Serialize};

use super::{HealthCheck, Policy, Subject, TargetAddress, TargetScheme};
use crate::codec::List;

/// The agent asks to publish a service. The same declaration again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declare {
    /// The number under which it is answered.
    pub request: u64,
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// The name, which identifies the declaration among those of the agent.
    pub name: String,
    /// What is published.
    pub kind: DeclaredKind,
    /// Where the agent delivers.
    pub target: DeclaredTarget,
    /// Who may reach it.
    pub policy: Policy,
    /// Whether the service goes with the agent's lease.
    pub ephemeral: bool,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeclaredKind {
    /// HTTP at host names.
    Http {
        /// The hosts.
        hosts: List<String, 64>,
        /// The paths that lead to the target.
        path: String,
    },
    /// Raw TCP on a port.
    Tcp {
        /// The port.
        port: u16,
    },
    /// Datagrams on a UDP port.
    Udp {
        /// The port.
        port: u16,
    },
}

/// Where the agent delivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredTarget {
    /// What the agent dials.
    pub address: TargetAddress,
    /// What is spoken to it.
    pub scheme: TargetScheme,
    /// How the agent checks it.
    pub health: Option<HealthCheck>,
}

/// The answer to a declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Declared {
    /// The service is published.
    Accepted {
        /// The number of the request.
        request: u64,
        /// The agent, and the session in which it is said.
        subject: Subject,
        /// The service.
        service: [u8; 16],
        /// Where visitors find it.
        urls: List<String, 64>,
    },
    /// It is not.
    Refused {
        /// The number of the request.
        request: u64,
        /// The agent, and the session in which it is said.
        subject: Subject,
        /// A `KKM-` code.
        code: String,
        /// One sentence for people.
        message: String,
    },
}

/// The agent no longer serves what it declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undeclare {
    /// The number under which it is answered.
    pub request: u64,
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// The name of the declaration.
    pub name: String,
    /// Whether a service that would stay is deleted too.
    pub delete: bool,
}

/// The answer to an [`Undeclare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undeclared {
    /// The number of the request.
    pub request: u64,
    /// The node, and the session in which it is said.
    pub subject: Subject,
}
