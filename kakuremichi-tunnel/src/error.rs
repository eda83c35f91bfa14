//! What can go wrong with an agent: one enum per operation, each with its stable code where there is one.

use kakuremichi_core::{
    code::Code,
    name::{Label, NameError},
};
use kakuremichi_proto::{message::MAX_DECLARATIONS, report::Refusal};

use crate::{
    agent::ServiceError,
    engine,
    keys::KeyError,
    link::{EgressProxyError, LinkEnd, SetupError},
    state::StateError,
};

/// Why an agent could not be started. Nothing is left running. What only the network can tell is no
/// reason: `spawn` never waits for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The URL, the token or what is known of the enrolment does not fit.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The name that it should have is none.
    #[error("the agent's name is unusable: {0}")]
    Name(#[source] NameError),
    /// The proxy that it should leave through is none.
    #[error(transparent)]
    EgressProxy(#[from] EgressProxyError),
    /// The system gave no random bytes.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The data path cannot be started.
    #[error(transparent)]
    Engine(#[from] engine::SpawnError),
}

impl SpawnError {
    /// The stable code, where there is one.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Setup(error) => error.code(),
            Self::Name(_) | Self::State(_) | Self::EgressProxy(_) | Self::Key(_) | Self::Engine(_) => None,
        }
    }
}

/// Why a service is not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExposeError {
    /// The service cannot be.
    #[error(transparent)]
    Invalid(#[from] ServiceError),
    /// The target is neither `host:port` nor `unix:/path`.
    #[error("the target is neither host:port nor unix:/path")]
    Target,
    /// This agent has a service of this name.
    #[error("this agent already serves something under the name {0}")]
    Taken(Label),
    /// This agent has as many services as one may have.
    #[error("an agent declares at most {MAX_DECLARATIONS} services")]
    TooMany,
    /// Control refuses it.
    #[error("{0}")]
    Refused(Refusal),
    /// The plan has no such service, and there is nobody to ask for it.
    #[error("the plan has no such service, and no Control can be asked for it")]
    NotPlanned,
    /// The agent is no longer there to serve it.
    #[error(transparent)]
    Closed(#[from] CloseReason),
}

impl ExposeError {
    /// The stable code, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Closed(CloseReason::Link(end)) => end.code(),
            Self::Invalid(_)
            | Self::Target
            | Self::Taken(_)
            | Self::TooMany
            | Self::NotPlanned
            | Self::Closed(_) => None,
        }
    }
}

/// Why a service, or an agent, is no longer there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The agent was shut down.
    #[error("the agent was shut down")]
    Shutdown,
    /// The last handle of the agent was dropped.
    #[error("the agent is gone: its last handle was dropped")]
    Gone,
    /// Control refuses the service.
    #[error("Control refuses the service: {0}")]
    Refused(Refusal),
    /// The link to Control has ended for good.
    #[error(transparent)]
    Link(#[from] LinkEnd),
}
