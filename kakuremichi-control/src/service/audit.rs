//! The audit: who hears of it, its chain, and reading it.

mod chain;
mod export;
mod retention;
mod sealing;
mod telling;

pub use chain::{AuditFault, LinkText, ParseLinkError, Verified};
pub(super) use export::Exports;
pub use export::{AuditFormat, MAX_EXPORTS};
pub(super) use retention::LEASE as RETENTION;
pub use retention::MAX_HELD;
pub(crate) use retention::{StartKey, prune_for_ever};
pub(super) use sealing::LEASE as SEALER;
pub(crate) use sealing::seal_for_ever;
pub(super) use telling::{last_entry, tell};

use kakuremichi_core::audit::{AuditQuery, AuditRow};

use super::{Actor, UseCaseError, UseCases};

impl UseCases {
    /// Reads entries of the actor's organization.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn audit(&self, actor: &Actor, query: AuditQuery) -> Result<Vec<AuditRow>, UseCaseError> {
        let own = AuditQuery {
            organization: Some(actor.organization),
            ..query
        };
        Ok(self.store().audit_rows(&own).await?)
    }
}
