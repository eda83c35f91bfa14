//! Which part of the system a process plays.

use std::fmt;

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The control plane.
    Control,
    /// A public entry node.
    Gateway,
    /// An edge node behind NAT.
    Agent,
    /// All three in one process.
    Quickstart,
}

impl Role {
    /// Its name in logs, metrics and file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Gateway => "gateway",
            Self::Agent => "agent",
            Self::Quickstart => "quickstart",
        }
    }

    /// Where its admin address is unless told otherwise: loopback, with a port of its own for each role, so that
    /// all of them fit on one machine.
    #[must_use]
    pub const fn admin(self) -> &'static str {
        match self {
            Self::Quickstart => "127.0.0.1:7670",
            Self::Control => "127.0.0.1:7671",
            Self::Gateway => "127.0.0.1:7672",
            Self::Agent => "127.0.0.1:7673",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
