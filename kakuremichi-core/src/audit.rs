//! Who did what.

use std::fmt;

use async_trait::async_trait;

use crate::{auth::Principal, id::OrganizationId, store::RecordId, time::Timestamp};

/// One deed: written in the same transaction as what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who; nobody when Control itself did it.
    pub actor: Option<Principal>,
    /// The organization in which it was done.
    pub organization: Option<OrganizationId>,
    /// What, as `noun.verb`: `service.create`.
    pub action: String,
    /// What it was done to.
    pub subject: Option<RecordId>,
}

/// Hears of every deed after it was committed, in their order: for a log collector or a SIEM. The store
/// keeps the truth; a sink that fails loses only its own copy.
#[async_trait]
pub trait AuditSink: fmt::Debug + Send + Sync + 'static {
    /// Takes an entry. Nobody but this sink waits for it: a slow one hears of deeds later, from the store.
    async fn record(&self, entry: &AuditEntry);
}
