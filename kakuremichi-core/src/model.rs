//! What Control stores. Users and their sessions are of the whole Control; everything else
//! belongs to one organization. What would be illegal cannot be
//! written down.

mod credential;
mod node;
mod people;
mod permission;
mod service;
mod session;

pub use credential::{ApiKey, DeclareScope, EnrolmentToken, Role, TokenUnusable};
pub use node::{Node, NodeKind, Organization, Site};
pub use people::{
    EndedSession, Group, Invitation, MAX_MEMBER_GROUPS, MAX_MEMBER_ROLES, MAX_RECOVERY_CODES, MailedSecret,
    Member, PersonName, PersonNameError, Totp, User, UserRole,
};
pub use permission::{Permission, Permissions, UnknownPermission};
pub use service::{
    Health, HealthCheck, Lifetime, MAX_HEALTH_PATH, MAX_HOSTS, MAX_ROUTES, MAX_SOCKET_PATH, MAX_TARGETS,
    Pool, Route, Service, ServiceError, ServiceKind, Target, TargetAddress, TargetPlace, TargetScheme,
    Transport, VirtualPort,
};
pub use session::{MAX_USER_AGENT, Session, SignIn};
