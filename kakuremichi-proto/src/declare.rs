//! Services that an agent asks to publish by itself.

use kakuremichi_core::{
    id::ServiceId,
    model::{HealthCheck, TargetAddress, TargetScheme, Transport},
    name::{HostPattern, Label, PathPattern},
    policy::Policy,
};

/// A service that an agent asks to publish. Its name identifies it among the agent's declarations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Its name.
    pub name: Label,
    /// What is published.
    pub kind: DeclaredKind,
    /// Where the agent delivers.
    pub target: DeclaredTarget,
    /// Who may reach it; the default policy denies everybody.
    pub policy: Policy,
    /// Whether the service goes with the agent's lease, rather than stay.
    pub ephemeral: bool,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeclaredKind {
    /// HTTP at host names.
    Http {
        /// The hosts, 1 to [`MAX_HOSTS`](kakuremichi_core::model::MAX_HOSTS).
        hosts: Vec<HostPattern>,
        /// The paths that lead to the target.
        path: PathPattern,
    },
    /// Raw TCP on a port, which is not zero.
    Tcp {
        /// The port.
        port: u16,
    },
    /// Datagrams on a UDP port, which is not zero.
    Udp {
        /// The port.
        port: u16,
    },
}

impl DeclaredKind {
    /// How it is carried.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Http { .. } | Self::Tcp { .. } => Transport::Tcp,
            Self::Udp { .. } => Transport::Udp,
        }
    }
}

/// Where the agent delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredTarget {
    /// What the agent dials.
    pub address: TargetAddress,
    /// What is spoken to it.
    pub scheme: TargetScheme,
    /// How the agent checks it.
    pub health: Option<HealthCheck>,
}

/// A declaration that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredService {
    /// The service.
    pub service: ServiceId,
    /// Where visitors find it.
    pub urls: Vec<String>,
}
