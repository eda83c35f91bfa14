//! The suite that every implementation of [`Store`] must pass.
//!
//! The functions need no particular runtime: await them under the one that your store needs. Each takes
//! a function that makes an empty store, and panics at the first thing that is not as it must be.
//!
//! ```
//! # use std::sync::Arc;
//! # use kakuremichi_core::store::{MemoryStore, Store, conformance};
//! # async fn test() {
//! conformance::run(async || Arc::new(MemoryStore::new()) as Arc<dyn Store>).await;
//! # }
//! ```
#![expect(clippy::expect_used, reason = "a suite says by a panic what is wrong")]

mod audit;
mod batches;
mod bounds;
mod feeds;
mod pages;
mod records;
mod requests;
pub mod sample;
mod tokens;
mod usage;

pub use audit::{
    a_lease_has_one_holder, a_memo_is_written_from_what_it_was, audit_is_found_by_what_it_is,
    audit_is_pruned_from_its_start, audit_is_sealed_from_its_head,
};
pub use batches::{failing_batches_leave_nothing, mutations_apply_in_order};
pub use bounds::{an_organization_has_no_more_than_it_may, many_at_once_stay_within_the_bound};
pub use feeds::{audit_is_kept_in_order, changes_are_fed_in_order, one_of_many_gets_a_unique_value};
pub use pages::{
    declared_services_are_found, pages_are_bounded, pages_hold_every_record_once, records_of_a_user_are_found,
};
pub use records::{
    keys_of_before_are_nobody_elses, overlay_is_made_once, records_are_deleted,
    records_are_updated_at_their_version, records_round_trip, unique_values_are_unique,
};
pub use requests::{a_request_is_carried_out_once, no_more_requests_are_remembered_than_may_be};
pub use tokens::{a_token_is_used_no_more_often_than_it_may_be, a_token_says_why_it_is_of_no_use};
pub use usage::{usage_goes_with_its_record, usage_is_counted_once, usage_is_kept_over_time};

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use super::{Batch, Committed, Mutation, RecordId, Store, StoreRecord, Stored};

/// Runs everything, each part with a store of its own.
pub async fn run<F: AsyncFn() -> Arc<dyn Store>>(empty: F) {
    overlay_is_made_once(&*empty().await).await;
    records_round_trip(&*empty().await).await;
    records_are_updated_at_their_version(&*empty().await).await;
    records_are_deleted(&*empty().await).await;
    unique_values_are_unique(&*empty().await).await;
    keys_of_before_are_nobody_elses(&*empty().await).await;
    mutations_apply_in_order(&*empty().await).await;
    failing_batches_leave_nothing(&*empty().await).await;
    pages_hold_every_record_once(&*empty().await).await;
    pages_are_bounded(&*empty().await).await;
    declared_services_are_found(&*empty().await).await;
    records_of_a_user_are_found(&*empty().await).await;
    changes_are_fed_in_order(&*empty().await).await;
    audit_is_kept_in_order(&*empty().await).await;
    audit_is_found_by_what_it_is(&*empty().await).await;
    audit_is_sealed_from_its_head(&*empty().await).await;
    a_lease_has_one_holder(&*empty().await).await;
    audit_is_pruned_from_its_start(&*empty().await).await;
    a_memo_is_written_from_what_it_was(&*empty().await).await;
    one_of_many_gets_a_unique_value(&*empty().await).await;
    a_token_says_why_it_is_of_no_use(&*empty().await).await;
    a_token_is_used_no_more_often_than_it_may_be(&*empty().await).await;
    an_organization_has_no_more_than_it_may(&*empty().await).await;
    many_at_once_stay_within_the_bound(&*empty().await).await;
    a_request_is_carried_out_once(&*empty().await).await;
    no_more_requests_are_remembered_than_may_be(&*empty().await).await;
    usage_is_counted_once(&*empty().await).await;
    usage_goes_with_its_record(&*empty().await).await;
    usage_is_kept_over_time(&*empty().await).await;
}

fn batch(mutations: impl IntoIterator<Item = Mutation>) -> Batch {
    Batch {
        mutations: mutations.into_iter().collect(),
        audit: sample::audit("test.write"),
        request: None,
    }
}

async fn create<const N: usize>(store: &dyn Store, records: [StoreRecord; N]) -> Committed {
    store
        .commit(batch(records.map(Mutation::Create)))
        .await
        .expect("records with free identifiers and values can be created")
}

async fn read(store: &dyn Store, id: impl Into<RecordId>) -> Option<Stored<StoreRecord>> {
    store.get(id.into()).await.expect("reading works")
}

/// Polls all of them in turn until the last is done.
async fn at_once<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<(usize, Pin<Box<_>>)> = futures.into_iter().map(Box::pin).enumerate().collect();
    let mut done = Vec::new();
    poll_fn(|context| {
        running.retain_mut(|(index, future)| match future.as_mut().poll(context) {
            Poll::Ready(output) => {
                done.push((*index, output));
                false
            }
            Poll::Pending => true,
        });
        if running.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, output)| output).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;
    use crate::store::MemoryStore;

    /// Nothing in the memory store waits, so one poll must do.
    fn at_once_done(future: impl Future<Output = ()>) {
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(future).poll(&mut context).is_ready());
    }

    #[test]
    fn the_memory_store_conforms() {
        at_once_done(run(async || Arc::new(MemoryStore::new()) as Arc<dyn Store>));
    }
}
