//! Sealing the audit.
//!
//! Entries are written without links, each in the transaction of its deed: several processes write at once, and
//! none waits for another's chain. Whoever has the lease links them in the order of the feed. The lease only
//! saves work: a link is written only if the head is still the one that it was made for.

use std::time::Duration;

use kakuremichi_core::{
    audit::AuditQuery,
    store::{Store, StoreError},
};
use tokio::time::{sleep, timeout};

use super::chain::link;
use crate::{lease::Lease, service::UseCases};

/// What the sealer holds.
pub(in crate::service) const LEASE: &str = "audit-sealer";
/// How long deeds are collected before they are sealed together.
const SETTLE: Duration = Duration::from_millis(250);
/// How long a deed of another process may stay without a link.
const POLL: Duration = Duration::from_secs(5);
/// The pause after the store failed.
const RETRY: Duration = Duration::from_secs(2);

/// Seals whatever is written, whenever this process has the lease.
pub(crate) async fn seal_for_ever(use_cases: UseCases) {
    let lease = use_cases.lease(LEASE);
    let mut commits = use_cases.commits();
    loop {
        commits.borrow_and_update();
        if let Err(error) = seal(&lease).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the audit cannot be sealed"
            );
            sleep(RETRY).await;
        }
        if let Ok(Err(_)) = timeout(POLL, commits.changed()).await {
            return;
        }
        sleep(SETTLE).await;
    }
}

/// Seals what is there, as long as the lease is held.
async fn seal(lease: &Lease) -> Result<(), StoreError> {
    while lease.hold().await? && seal_page(lease.store()).await? {}
    Ok(())
}

/// Seals at most a page. Returns whether there may be more.
pub(super) async fn seal_page(store: &dyn Store) -> Result<bool, StoreError> {
    let head = store.audit_chain().await?.head;
    let query = AuditQuery {
        after: Some(head.sequence),
        ..AuditQuery::default()
    };
    let rows = store.audit_rows(&query).await?;
    let mut last = head;
    let links: Vec<_> = rows
        .iter()
        .map(|row| {
            last = link(&last, row.sequence, &row.entry);
            last
        })
        .collect();
    if links.is_empty() {
        return Ok(false);
    }
    // Whoever was faster did the same.
    store.seal_audit(head, &links).await?;
    Ok(links.len() >= query.page())
}
