//! What Control stores. Users, their sessions and some identity providers are of the whole Control;
//! everything else belongs to one organization. What would be illegal cannot be
//! written down.

mod channel;
mod credential;
mod labels;
mod node;
mod passkey;
mod people;
mod permission;
mod provider;
mod rotation;
mod service;
mod session;

pub use channel::{Channel, ChannelTarget, MAX_CHANNEL_ADDRESSES, MAX_CHANNEL_EVENTS, MAX_WEBHOOK_URL};
pub use credential::{ApiKey, DeclareScope, EnrolmentToken, Role, ServiceToken, TokenUnusable};
pub use labels::{LabelError, LabelKey, LabelSelector, LabelValue, Labels, MAX_LABELS, parse_label};
pub use node::{AccountPolicy, MAX_PENDING_NODES, Node, NodeKind, NodeState, Organization, Pending, Site};
pub use passkey::{MAX_PASSKEYS, Passkey};
pub use people::{
    EndedSession, Group, Invitation, MAX_MEMBER_GROUPS, MAX_MEMBER_ROLES, MAX_RECOVERY_CODES, MailedSecret,
    Member, PersonName, PersonNameError, Totp, User, UserRole,
};
pub use permission::{Permission, Permissions, UnknownPermission};
pub use provider::{
    ClaimNames, IdentityProvider, LinkedIdentity, MAX_GROUP_ROLES, MAX_IDENTITIES, MAX_PROVIDER_SCOPES,
    MAX_SUBJECT, ProviderProtocol,
};
pub use rotation::{KEY_OVERLAP, KeyAge, MAX_KEY_OVERLAP, PreviousKeys, Rotation, RotationAsked};
pub use service::{
    Health, HealthCheck, IdentityForm, Lifetime, MAX_HEALTH_PATH, MAX_HOSTS, MAX_ROUTES, MAX_SOCKET_PATH,
    MAX_TARGETS, Pool, Route, Service, ServiceError, ServiceKind, Target, TargetAddress, TargetPlace,
    TargetScheme, Transport, VirtualPort,
};
pub use session::{MAX_USER_AGENT, Session, SignIn};
