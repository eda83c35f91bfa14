//! What rows keep as JSON. These types are the database's own: what is written once must stay readable.

mod channel;
mod node;
mod people;
mod policy;
mod provider;
mod record;
mod service;

pub(super) use channel::ChannelDocument;
pub(super) use node::{NodeDocument, PendingDocument, RotationDocument, ScopeDocument};
pub(super) use people::{
    GroupDocument, InvitationDocument, MemberDocument, PermissionsDocument, ServiceTokenDocument,
    SessionDocument, UserDocument, UserRoleDocument,
};
pub(super) use policy::{AccessDocument, PolicyDocument, RuleDocument};
pub(super) use provider::{AccountPolicyDocument, IdentityProviderDocument};
pub use record::{RecordTextError, record_from_json, record_to_json};
pub(super) use service::{KindDocument, LifetimeDocument};
