//! How the link to Control is.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use kakuremichi_core::code::Code;
use kakuremichi_proto::{identity::ParseSecretError, plan::DiskError, report::Refusal};

use super::{socket::ConnectError, url::UrlError};
use crate::state::StateError;

/// How a node's source of plans is.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum LinkStatus {
    /// It has not begun.
    #[default]
    Idle,
    /// The plan is fixed: there is no Control.
    Fixed,
    /// It dials Control, or proves itself.
    Connecting,
    /// There is a session.
    Up {
        /// Since when.
        since: SystemTime,
        /// Its number.
        session: u64,
    },
    /// There is no session. It tries again, for ever.
    Waiting {
        /// What went wrong last.
        error: Arc<LinkError>,
        /// How many attempts failed since the last session.
        attempts: u32,
        /// When it tries again.
        until: SystemTime,
    },
    /// It has ended for good.
    Ended(LinkEnd),
}

impl LinkStatus {
    /// Whether there is a session with Control.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// Why there is no session now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No connection was made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("the connection to Control broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Control closed the connection, and may be asked again.
    #[error("Control closed the connection: {0}")]
    Closed(Refusal),
    /// Control ended the connection without a word.
    #[error("Control ended the connection")]
    Ended,
}

/// Why the link has ended for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkEnd {
    /// The node stopped.
    #[error("the node stopped")]
    Stopped,
    /// Control refuses the node, or the node refuses this Control: asking again is of no use. The code
    /// says why.
    #[error("{0}")]
    Refused(Refusal),
}

impl LinkEnd {
    /// The stable code, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Stopped => None,
        }
    }
}

/// Why a source cannot work with what it was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The token.
    #[error("the enrolment token is unusable: {0}")]
    Token(#[source] ParseSecretError),
    /// There is neither an enrolment in the state directory nor a token to enrol with.
    #[error("this node has not enrolled yet, and no token was given")]
    NoToken,
    /// The token is for another Control than the one the node enrolled with.
    #[error("the token is for another Control than the one that this node enrolled with")]
    OtherControl,
    /// The state directory belongs to a node of the other role.
    #[error("the state directory belongs to {0}, which has the other role")]
    Role(kakuremichi_core::id::NodeId),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file with the plan cannot be read.
    #[error("the plan cannot be read")]
    PlanFile(#[source] std::io::Error),
    /// The file holds no plan.
    #[error("the file holds no usable plan: {0}")]
    Plan(#[from] DiskError),
    /// The file holds the plan of a node of the other role, or of none.
    #[error("the file does not hold the plan of such a node")]
    PlanRole,
}

impl SetupError {
    /// The stable code, where there is one.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::OtherControl => Some(Code::OTHER_CONTROL),
            Self::Token(_) => Some(Code::TOKEN_UNKNOWN),
            Self::Role(_) => Some(Code::TOKEN_ROLE),
            Self::State(_)
            | Self::Url(_)
            | Self::NoToken
            | Self::PlanFile(_)
            | Self::Plan(_)
            | Self::PlanRole => None,
        }
    }
}

/// The first pause between attempts.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between attempts, unless Control asks for a longer one.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
