//! What passes between a connection and its caller.

use kakuremichi_core::{
    id::{NodeId, OrganizationId, ServiceId},
    key::{IdentityKey, SigningKey, WireGuardKey},
    model::Role,
    name::Label,
    net::Overlay,
    plan::Revision,
    secret::SecretHash,
};

use crate::{
    declare::Declaration,
    message::Subject,
    plan::PlanHash,
    report::{CertificateStatus, Incident, NodeInfo, Refusal, Status, UsageBatch, UsageKey},
    session::{Closed, RequestId},
};

/// A node that is not known asks to be let in. Its signature was verified.
///
/// The connection may be lost after the caller has stored the node and before the node hears of it.
/// The node then comes again with the same token and the same identity: it is to be accepted as the
/// node that was stored, and the token is not used a second time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolRequest {
    /// SHA-256 of the secret of its token.
    pub secret_hash: SecretHash,
    /// What it is.
    pub role: Role,
    /// The name that it would like to have.
    pub name: Label,
    /// Who it is.
    pub identity: IdentityKey,
    /// Its WireGuard key.
    pub wireguard: WireGuardKey,
}

/// A node that has enrolled asks to be let in. Its signature was verified with the key that it named:
/// the caller checks that this is the key that the node enrolled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthenticateRequest {
    /// The node that it says it is.
    pub node: NodeId,
    /// The key that it proved.
    pub identity: IdentityKey,
    /// Its WireGuard key.
    pub wireguard: WireGuardKey,
}

/// A node proposes other keys. Both signatures were verified, in this very session: by the identity that the node
/// was let in with, and by the new one. The caller checks that the first one is still the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotateRequest {
    /// Who the node is.
    pub old: IdentityKey,
    /// Who it wants to be.
    pub new: IdentityKey,
    /// The WireGuard key that it wants to have; perhaps the one that it has.
    pub wireguard: WireGuardKey,
}

/// A node is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The node.
    pub node: NodeId,
    /// Its organization.
    pub organization: OrganizationId,
    /// Its name.
    pub name: Label,
    /// The overlay.
    pub overlay: Overlay,
    /// The number of the session: larger than that of any earlier session of the node.
    pub session: u64,
}

impl Accepted {
    pub(super) fn subject(&self) -> Subject {
        Subject {
            node: self.node.into(),
            session: self.session,
        }
    }
}

/// What a node has when it comes (back).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// The plan that it has.
    pub plan: Option<(Revision, PlanHash)>,
    /// The services of that plan which it denies because it does not understand them.
    pub denied: Vec<ServiceId>,
    /// Its live declarations. Each follows as a [`ServerEvent::Declare`]; one that was declared before
    /// and is not here is no longer live.
    pub declarations: Vec<Label>,
    /// The number of the first request that follows.
    pub request_next: RequestId,
    /// The first batch of usage that follows, now or later.
    pub usage: UsageKey,
}

/// What the caller has to know, or to decide.
#[expect(
    clippy::large_enum_variant,
    reason = "an event is taken apart where it comes out: nothing keeps many of them"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum ServerEvent {
    /// A node that is not known asks to be let in: answer with [`Server::accept`](super::Server::accept) or
    /// [`Server::refuse`](super::Server::refuse) within [`DECISION_TIMEOUT`](crate::session::DECISION_TIMEOUT). See [`EnrolRequest`]
    /// for a node that comes twice.
    Enrol(EnrolRequest),
    /// A node that has enrolled asks to be let in: answer likewise.
    Authenticate(AuthenticateRequest),
    /// The node was let in and has said what it has: send it its plan with [`Server::set_plan`](super::Server::set_plan).
    Ready(Resumed),
    /// About the node's process.
    Info(NodeInfo),
    /// What the gateway signs session cookies with: all its keys.
    SigningKeys(Vec<SigningKey>),
    /// The node proposes other keys: answer with [`Server::answer_rotation`](super::Server::answer_rotation). It may propose the same again
    /// after a reconnect, also when it has them by then, and is to get the same answer.
    RotateKeys(RotateRequest),
    /// The node has applied a plan.
    PlanApplied {
        /// Its revision.
        revision: Revision,
        /// Its hash.
        hash: PlanHash,
        /// The services that the node denies because it does not understand a record of theirs; the
        /// first [`MAX_DENIED`](crate::message::MAX_DENIED) of them.
        denied: Vec<ServiceId>,
        /// How many they are.
        denied_count: u32,
    },
    /// The node could not use what was sent, and gets the whole plan.
    PlanResent,
    /// The agent asks to publish a service: answer with [`Server::answer_declare`](super::Server::answer_declare). It may ask for the
    /// same again after a reconnect, and is to get the same answer.
    Declare {
        /// The number to answer under.
        request: RequestId,
        /// What it asks for.
        declaration: Declaration,
    },
    /// The agent no longer serves what it declared: answer with [`Server::answer_undeclare`](super::Server::answer_undeclare), also when
    /// there is no such declaration.
    Undeclare {
        /// The number to answer under.
        request: RequestId,
        /// The declaration.
        name: Label,
        /// Whether a service that would stay is to be deleted too.
        delete: bool,
    },
    /// The state of lanes and targets.
    Status {
        /// The state.
        status: Status,
        /// Whether what was said before is void; otherwise this adds to it.
        replace: bool,
    },
    /// The certificates that visitors may see, in the place of those that were said before.
    Certificates(Vec<CertificateStatus>),
    /// Something happened on the node.
    Incident {
        /// What.
        incident: Incident,
        /// How many before it were lost.
        lost: u32,
    },
    /// A batch of usage. Store it unless it was stored ([`UsageCursor`](crate::session::UsageCursor)), then
    /// call [`Server::acknowledge_usage`](super::Server::acknowledge_usage).
    Usage(UsageBatch),
    /// A command was answered, or was not for [`REQUEST_TIMEOUT`](crate::session::REQUEST_TIMEOUT).
    Commanded {
        /// The number of the command.
        request: RequestId,
        /// The answer.
        result: Result<(), Refusal>,
    },
    /// The connection ended. Send what [`Server::poll_transmit`](super::Server::poll_transmit) still gives, and drop it.
    Closed(Closed),
}

/// Why a command cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The node was not let in yet, or the connection has ended.
    #[error("the node is not connected")]
    Offline,
    /// The node is of a version that does not know it.
    #[error("the node is of a version that does not know this command")]
    Unsupported,
    /// There are as many as there may be.
    #[error(
        "at most {} commands to one node are open at a time",
        crate::session::MAX_COMMANDS
    )]
    TooMany,
}
