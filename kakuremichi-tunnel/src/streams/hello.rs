//! Both ends of a connection prove who they are.

#[cfg(feature = "agent")]
mod introduce;
#[cfg(feature = "gateway")]
mod receive;

#[cfg(feature = "agent")]
pub(crate) use introduce::{Ends, Shown, introduce};
#[cfg(feature = "gateway")]
pub(crate) use receive::receive;

use std::io;

use kakuremichi_core::key::IdentityKey;
use kakuremichi_proto::lane::hello::{BadHello, EXPORTER_LABEL, EXPORTER_LEN, HelloRefusal};
use rustls::ConnectionCommon;

/// The secret that both ends of one TLS connection, and nobody else, have.
pub(crate) type Exporter = [u8; EXPORTER_LEN];

/// Who the other end is, by the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identities {
    pub(crate) current: IdentityKey,
    /// Who it was, while that counts.
    pub(crate) previous: Option<IdentityKey>,
}

impl Identities {
    pub(crate) fn all(self) -> impl Iterator<Item = IdentityKey> {
        [Some(self.current), self.previous].into_iter().flatten()
    }

    /// Whether one of them is also in `other`: then the end is the same node.
    pub(crate) fn meet(self, other: Self) -> bool {
        self.all().any(|key| other.has(key))
    }

    pub(crate) fn has(self, key: IdentityKey) -> bool {
        self.all().any(|own| own == key)
    }
}

/// Why a connection is none of a lane.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum HelloError {
    /// It broke.
    #[error("the connection ended during the proof of identity")]
    Io(#[from] io::Error),
    /// The other end does not speak our protocol.
    #[error(transparent)]
    Protocol(#[from] BadHello),
    /// The gateway refuses the agent.
    #[error(transparent)]
    Refused(#[from] HelloRefusal),
    /// The other end is not the gateway of the plan.
    #[cfg(feature = "agent")]
    #[error("the other end does not prove that it is the gateway of the plan")]
    NotTheGateway,
}

/// The secret of an established TLS connection.
pub(crate) fn exporter<D>(tls: &ConnectionCommon<D>) -> io::Result<Exporter> {
    tls.export_keying_material([0; EXPORTER_LEN], EXPORTER_LABEL, None)
        .map_err(io::Error::other)
}
