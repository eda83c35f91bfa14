//! What rows keep as JSON. These types are the database's own: what is written once must stay readable.

mod node;
mod policy;
mod service;

pub(super) use node::{NodeDocument, ScopeDocument};
pub(super) use policy::PolicyDocument;
pub(super) use service::{KindDocument, LifetimeDocument};
