//! The stores that tests run on.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use kakuremichi_control::store::SqlStore;
use kakuremichi_core::{
    audit::{AuditChain, AuditEntry, AuditLink, AuditQuery, AuditRow},
    id::ServiceId,
    net::Overlay,
    store::{
        Batch, Change, CommitError, Committed, IdempotencyKey, MemoryStore, NodeUsage, Page, Query, RecordId,
        Remembered, Sequence, Store, StoreError, StoreRecord, Stored, UniqueKey, UsageCounts, UsageLevel,
        UsagePoint, UsageQuery, UsageReport,
    },
    time::Timestamp,
};
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};

/// A store in memory.
pub(crate) async fn memory() -> (Arc<dyn Store>, Option<TempDir>) {
    (Arc::new(MemoryStore::new()), None)
}

/// A store in a database, and where it lies.
pub(crate) async fn sql() -> (Arc<dyn Store>, Option<TempDir>) {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("control.db").display());
    (Arc::new(SqlStore::connect(&url).await.unwrap()), Some(directory))
}

/// A store in a database of a PostgreSQL server, unless the tests are to do without one.
pub(crate) async fn postgres() -> Option<Arc<dyn Store>> {
    let url = kakuremichi_tests::Postgres::shared()?.database();
    Some(Arc::new(SqlStore::connect(&url).await.unwrap()))
}

/// Runs each of these tests, which take a store, on each store.
macro_rules! on_each_store {
    ($($test:ident)*) => {
        mod on_memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let (store, _directory) = $crate::hub::store::memory().await;
                    super::$test(store).await;
                }
            )*
        }

        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let (store, _directory) = $crate::hub::store::sql().await;
                    super::$test(store).await;
                }
            )*
        }

        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(store) = $crate::hub::store::postgres().await {
                        super::$test(store).await;
                    }
                }
            )*
        }
    };
}

pub(crate) use on_each_store;

/// More commits at once than any test makes.
const PASSES: usize = 1000;

/// A store whose commits can be held up.
pub(crate) struct SlowStore {
    inner: MemoryStore,
    passes: Semaphore,
    waiting: watch::Sender<usize>,
}

impl SlowStore {
    /// One that holds nothing up.
    pub(crate) fn new() -> Self {
        Self {
            inner: MemoryStore::new(),
            passes: Semaphore::new(PASSES),
            waiting: watch::Sender::new(0),
        }
    }

    /// Holds every commit up.
    pub(crate) fn hold(&self) {
        self.passes.forget_permits(PASSES);
    }

    /// Lets them go on.
    pub(crate) fn release(&self) {
        self.passes.add_permits(PASSES);
    }

    /// Waits until a commit is held up.
    pub(crate) async fn held_up(&self) {
        self.waiting
            .subscribe()
            .wait_for(|waiting| *waiting > 0)
            .await
            .unwrap();
    }
}

impl fmt::Debug for SlowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlowStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for SlowStore {
    async fn overlay(&self, fresh: Overlay) -> Result<Overlay, StoreError> {
        self.inner.overlay(fresh).await
    }

    async fn get(&self, id: RecordId) -> Result<Option<Stored<StoreRecord>>, StoreError> {
        self.inner.get(id).await
    }

    async fn find(&self, key: &UniqueKey) -> Result<Option<Stored<StoreRecord>>, StoreError> {
        self.inner.find(key).await
    }

    async fn list(&self, query: Query) -> Result<Page, StoreError> {
        self.inner.list(query).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let passed = self.passes.acquire().await;
        self.waiting.send_modify(|waiting| *waiting -= 1);
        drop(passed.unwrap());
        self.inner.commit(batch).await
    }

    async fn remembered(
        &self,
        key: IdempotencyKey,
        now: Timestamp,
    ) -> Result<Option<Remembered>, StoreError> {
        self.inner.remembered(key, now).await
    }

    async fn keep_answer(&self, key: IdempotencyKey, answer: Vec<u8>) -> Result<(), StoreError> {
        self.inner.keep_answer(key, answer).await
    }

    async fn changes(&self, after: Sequence) -> Result<Vec<Change>, StoreError> {
        self.inner.changes(after).await
    }

    async fn audit(&self, after: Sequence) -> Result<Vec<(Sequence, AuditEntry)>, StoreError> {
        self.inner.audit(after).await
    }

    async fn audit_rows(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        self.inner.audit_rows(query).await
    }

    async fn audit_chain(&self) -> Result<AuditChain, StoreError> {
        self.inner.audit_chain().await
    }

    async fn seal_audit(&self, head: AuditLink, links: &[AuditLink]) -> Result<bool, StoreError> {
        self.inner.seal_audit(head, links).await
    }

    async fn prune_audit(
        &self,
        start: AuditLink,
        to: AuditLink,
        proof: [u8; 32],
    ) -> Result<bool, StoreError> {
        self.inner.prune_audit(start, to, proof).await
    }

    async fn memo(&self, about: RecordId, name: &str) -> Result<Option<String>, StoreError> {
        self.inner.memo(about, name).await
    }

    async fn memos(
        &self,
        name: &str,
        after: Option<RecordId>,
    ) -> Result<Vec<(RecordId, String)>, StoreError> {
        self.inner.memos(name, after).await
    }

    async fn set_memo(
        &self,
        about: RecordId,
        name: &str,
        expected: Option<&str>,
        memo: &str,
    ) -> Result<bool, StoreError> {
        self.inner.set_memo(about, name, expected, memo).await
    }

    async fn hold_lease(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        self.inner.hold_lease(name, holder, now, until).await
    }

    async fn release_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        self.inner.release_lease(name, holder).await
    }

    async fn record_usage(&self, usage: &NodeUsage) -> Result<UsageReport, StoreError> {
        self.inner.record_usage(usage).await
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        self.inner.usage(query).await
    }

    async fn forget_usage(&self, level: UsageLevel, before: Timestamp) -> Result<(), StoreError> {
        self.inner.forget_usage(level, before).await
    }

    async fn usage_totals(&self, service: ServiceId) -> Result<UsageCounts, StoreError> {
        self.inner.usage_totals(service).await
    }
}
