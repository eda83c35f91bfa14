//! Telling those who hear of deeds.
//!
//! They are told from the stored audit, each by a task of its own and at its own pace: nothing waits for them,
//! and nothing is kept for them in memory but one page. Deeds that other processes did on the same store are
//! told too.

use std::{sync::Arc, time::Duration};

use kakuremichi_core::{
    audit::AuditSink,
    store::{Sequence, Store, StoreError},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// How long a deed of another process may go unheard.
const POLL: Duration = Duration::from_secs(2);
/// The pause after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// The place of the newest entry. The audit can be long: it is not read, but probed.
pub(in crate::service) async fn last_entry(store: &dyn Store) -> Result<Sequence, StoreError> {
    let mut known = Sequence::START;
    let mut beyond = Sequence(1);
    // Whether there is anything behind a place falls from yes to no once.
    while let Some((last, _)) = store.audit(beyond).await?.last() {
        known = *last;
        beyond = Sequence(last.0.saturating_mul(2));
    }
    while known.0 + 1 < beyond.0 {
        let middle = Sequence(known.0 + (beyond.0 - known.0) / 2);
        match store.audit(middle).await?.last() {
            Some((last, _)) => known = *last,
            None => beyond = middle,
        }
    }
    // The first of all is not behind 1.
    match store.audit(known).await?.last() {
        Some((last, _)) => Ok(*last),
        None => Ok(known),
    }
}

/// Tells a sink of each deed behind `told`, until nobody is left who could do one. `commits` turns when one
/// was done here.
pub(in crate::service) async fn tell(
    store: Arc<dyn Store>,
    sink: Arc<dyn AuditSink>,
    mut told: Sequence,
    mut commits: watch::Receiver<u64>,
) {
    loop {
        commits.borrow_and_update();
        match store.audit(told).await {
            Ok(entries) if entries.is_empty() => {
                // Either way it is time to look: somebody wrote here, or perhaps elsewhere.
                if let Ok(Err(_)) = timeout(POLL, commits.changed()).await {
                    return;
                }
            }
            Ok(entries) => {
                for (sequence, entry) in entries {
                    sink.record(&entry).await;
                    told = sequence;
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot read the audit for those who hear of it"
                );
                if commits.has_changed().is_err() {
                    return;
                }
                sleep(RETRY).await;
            }
        }
    }
}
