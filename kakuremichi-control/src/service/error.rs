//! Why a use case was not done.

use kakuremichi_core::{
    code::Code,
    id::AgentId,
    model::TokenUnusable,
    name::{HostPattern, Label},
    store::{CommitError, RecordKind, StoreError, UniqueKey},
};

/// A field of a request that cannot be as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Which one, as a path: `routes[0].targets[1].agent`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl FieldError {
    /// Says what is wrong with a field.
    pub fn new(field: impl Into<String>, message: impl ToString) -> Self {
        Self {
            field: field.into(),
            message: message.to_string(),
        }
    }
}

/// Why a use case was not done. Nothing of it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UseCaseError {
    /// Fields are not valid.
    #[error("the request is not valid")]
    Invalid(Vec<FieldError>),
    /// What it is about is not there.
    #[error("there is no such {}", noun(*.0))]
    NotFound(RecordKind),
    /// A value is taken.
    #[error("{}", taken(.0))]
    Taken(UniqueKey),
    /// It changed since it was read.
    #[error("it changed since it was read: read it again, and apply your change to what it is now")]
    Stale,
    /// Others changed at the same time what it builds on, again and again.
    #[error("others are changing the same things at the same time: try again")]
    Contended,
    /// Services use it.
    #[error("it is used by the services {}", names(.0))]
    InUse(Vec<Label>),
    /// The service is an agent's own.
    #[error(
        "the service was declared by {0}, which would overwrite the change: change it there, or delete it"
    )]
    Declared(AgentId),
    /// A bound is reached.
    #[error("{0}")]
    Limit(&'static str),
    /// The token enrols nobody, or not this node.
    #[error(transparent)]
    Token(#[from] TokenUnusable),
    /// The node is not known any more.
    #[error("the node is not known: it was deleted, or enrolled elsewhere")]
    NodeUnknown,
    /// The node was revoked.
    #[error("the node was revoked")]
    NodeRevoked,
    /// The node proved another key than the one it enrolled with.
    #[error("the key is not the one that the node enrolled with")]
    NodeKey,
    /// An agent may declare nothing.
    #[error("the token that the agent enrolled with does not let it declare services")]
    ScopeNone,
    /// An agent may not declare a host.
    #[error("the token that the agent enrolled with does not cover the host {0}")]
    ScopeHost(HostPattern),
    /// An agent may not declare a port.
    #[error("the token that the agent enrolled with does not cover the port {0}")]
    ScopePort(u16),
    /// A name, a host or a port that an agent declares belongs to another service.
    #[error("{}", taken(.0))]
    NameTaken(UniqueKey),
    /// An agent declares too much.
    #[error("an agent declares at most {0} services")]
    DeclareLimit(usize),
    /// Too much of the same is going on.
    #[error("too many requests of this kind are being worked on: try again later")]
    Busy,
    /// The storage failed.
    #[error("the storage failed")]
    Store(#[source] StoreError),
    /// The system gave no random numbers.
    #[error("the system gave no random numbers")]
    Random,
}

impl UseCaseError {
    /// Refuses for the sake of one field.
    pub fn field(field: impl Into<String>, message: impl ToString) -> Self {
        Self::Invalid(vec![FieldError::new(field, message)])
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::REQUEST_INVALID,
            Self::NotFound(_) => Code::NOT_FOUND,
            Self::Taken(_) | Self::Declared(_) => Code::CONFLICT,
            Self::Stale | Self::Contended => Code::STALE,
            Self::InUse(_) => Code::IN_USE,
            Self::Limit(_) => Code::LIMIT,
            Self::Token(TokenUnusable::Unknown) => Code::TOKEN_UNKNOWN,
            Self::Token(TokenUnusable::Revoked) => Code::TOKEN_REVOKED,
            Self::Token(TokenUnusable::Expired) => Code::TOKEN_EXPIRED,
            Self::Token(TokenUnusable::UsedUp) => Code::TOKEN_USED_UP,
            Self::Token(TokenUnusable::Role(_)) => Code::TOKEN_ROLE,
            Self::NodeUnknown => Code::NODE_UNKNOWN,
            Self::NodeRevoked => Code::NODE_REVOKED,
            Self::NodeKey => Code::PROOF_INVALID,
            Self::ScopeNone => Code::SCOPE_NONE,
            Self::ScopeHost(_) => Code::SCOPE_HOST,
            Self::ScopePort(_) => Code::SCOPE_PORT,
            Self::NameTaken(_) => Code::NAME_TAKEN,
            Self::DeclareLimit(_) => Code::DECLARE_LIMIT,
            Self::Busy => Code::TRY_LATER,
            Self::Store(_) | Self::Random => Code::INTERNAL,
        }
    }

    /// Whether the same request can succeed later although nobody changes anything.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Contended | Self::Busy | Self::Store(_) | Self::Random => true,
            Self::Invalid(_)
            | Self::NotFound(_)
            | Self::Taken(_)
            | Self::Stale
            | Self::InUse(_)
            | Self::Declared(_)
            | Self::Limit(_)
            | Self::Token(_)
            | Self::NodeUnknown
            | Self::NodeRevoked
            | Self::NodeKey
            | Self::ScopeNone
            | Self::ScopeHost(_)
            | Self::ScopePort(_)
            | Self::NameTaken(_)
            | Self::DeclareLimit(_) => false,
        }
    }

    /// What it says to people: the fields too, if it is about fields.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Invalid(fields) => {
                let fields = fields
                    .iter()
                    .map(|error| format!("`{}`: {}", error.field, error.message));
                fields.collect::<Vec<_>>().join("; ")
            }
            other => other.to_string(),
        }
    }
}

impl From<CommitError> for UseCaseError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Taken { key, .. } => Self::Taken(key),
            CommitError::Token(unusable) => Self::Token(unusable),
            CommitError::Store(error) => Self::Store(error),
            // What was read just now is not there any more, or another. Whoever can starts anew.
            _ => Self::Contended,
        }
    }
}

fn names(labels: &[Label]) -> String {
    labels.iter().map(Label::as_str).collect::<Vec<_>>().join(", ")
}

const fn noun(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Organization => "organization",
        RecordKind::Node => "node",
        RecordKind::Site => "site",
        RecordKind::Service => "service",
        RecordKind::Token => "enrolment token",
        RecordKind::ApiKey => "API key",
        RecordKind::Policy => "policy",
    }
}

/// Without who has it: that can be another organization's business.
fn taken(key: &UniqueKey) -> String {
    match key {
        UniqueKey::OrganizationName(name) => format!("another organization is called {name}"),
        UniqueKey::NodeName(_, name) => format!("another node or site is called {name}"),
        UniqueKey::ServiceName(_, name) => format!("another service is called {name}"),
        UniqueKey::PolicyName(_, name) => format!("another policy is called {name}"),
        UniqueKey::Host(host) => format!("the host {host} belongs to another service"),
        UniqueKey::TcpPort(_, port) => format!("the port {port} belongs to another service"),
        UniqueKey::UdpPort(_, port) => format!("the UDP port {port} belongs to another service"),
        UniqueKey::Identity(_) => "another node has this identity".to_owned(),
        UniqueKey::WireGuard(_) => "another node or site has this WireGuard key".to_owned(),
        UniqueKey::OverlayV4(address) => format!("another node or site has the address {address}"),
        UniqueKey::TokenSecret(_) | UniqueKey::ApiKeySecret(_) => {
            "another credential has this secret".to_owned()
        }
    }
}
