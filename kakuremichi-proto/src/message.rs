//! What crosses the control link, as plain data.
//!
//! These structs are frozen: once released, a field is neither added, removed nor moved. What has to
//! change becomes a new struct under a new tag. Texts and numbers in here are unchecked; the domain
//! types are made of them in [`convert`](crate::convert).
//!
//! Whatever is about a node names that node and the session ([`Subject`]), so that each side can check
//! that it is the node which the channel authenticated (LESSONS, advisory 10), and that the message is
//! not one of an earlier session, sent again.

mod certificates;
mod close;
mod command;
mod declare;
mod event;
mod hello;
mod net;
mod plan;
mod policy;
mod rotate;
mod status;
mod target;
mod usage;

pub use certificates::{CertificateStatus, Certificates, MAX_CERTIFICATES};
pub use close::Close;
pub use command::{Command, CommandKind, Commanded};
pub use declare::{Declare, Declared, DeclaredKind, DeclaredTarget, Undeclare, Undeclared};
pub use event::{Event, Severity};
pub use hello::{Challenge, Hello, NodeInfo, Proof, ProofKind, Resume, Role, Welcome};
pub use hello::{
    GatewayInfo, MAX_DECLARATIONS, MAX_DENIED, MAX_ENDPOINTS, MAX_VERSIONS, Ping, PlanHave, Pong, SigningKeys,
};
pub use net::{Cidr, Endpoint, Host, Ip, LaneEnd, NodeId, PeerId, SocketAddress, Subject};
pub use plan::{PlanAck, PlanBegin, PlanEnd, PlanKind, PlanRecords, PlanRequest};
pub use policy::{
    Access, BasicUser, ConditionNode, Effect, Method, Policy, Principal, RecentRequirement, Requirement,
    Rule, Strength, TimeWindow,
};
pub use rotate::{KeysRotated, RotateKeys, Rotated};
pub use status::{LaneKind, LaneState, LaneStatus, MAX_STATUS_ITEMS, Status, TargetState, TargetStatus};
pub use target::{Health, HealthCheck, TargetAddress, TargetScheme};
pub use usage::{MAX_USAGE_ENTRIES, Usage, UsageAck, UsageEntry};
