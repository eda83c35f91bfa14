//! What Control stores. Everything belongs to one organization; what would be illegal cannot be
//! written down.

mod credential;
mod node;
mod service;

pub use credential::{ApiKey, DeclareScope, EnrolmentToken, Role, TokenUnusable};
pub use node::{Node, NodeKind, Organization, Site};
pub use service::{
    Health, HealthCheck, Lifetime, MAX_HEALTH_PATH, MAX_HOSTS, MAX_ROUTES, MAX_SOCKET_PATH, MAX_TARGETS,
    Pool, Route, Service, ServiceError, ServiceKind, Target, TargetAddress, TargetPlace, TargetScheme,
    Transport, VirtualPort,
};
