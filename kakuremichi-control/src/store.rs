//! The model in an SQL database.
//!
//! [`SqlStore`] implements core's [`Store`] on SQLite and PostgreSQL through sea-orm: a table for each kind of
//! record, one for unique values, and the feeds. Rows are no domain types: they are converted at this edge, and what
//! cannot be understood is an error that names the record.
//!
//! Whoever writes a store of their own that keeps text finds the text of a record here:
//! [`record_to_json`].

mod audit;
mod connect;
mod document;
mod entity;
mod feed;
mod lease;
mod memo;
mod migration;
mod order;
mod presence;
mod question;
mod request;
mod row;
mod table;
mod transaction;
mod transfer;
mod usage;
mod wake;
mod write;

pub use connect::{ConnectError, MAX_CONNECTIONS, MAX_READERS};
pub use document::{RecordTextError, record_from_json, record_to_json};

use std::fmt;

use async_trait::async_trait;
use kakuremichi_core::{
    audit::{AuditChain, AuditEntry, AuditLink, AuditQuery, AuditRow},
    id::{NodeId, ServiceId},
    key::IdentityKey,
    net::Overlay,
    store::{
        Batch, Change, CommitError, Committed, IdempotencyKey, NodeUsage, Page, Query, Question, RecordId,
        Remembered, Sequence, Sighting, Store, StoreError, StoreRecord, Stored, UniqueKey, UsageCounts,
        UsageLevel, UsagePoint, UsageQuery, UsageReport,
    },
    time::Timestamp,
};
use order::Order;
use sea_orm::{DatabaseConnection, DbErr};
use wake::Wake;

/// Keeps the model in an SQLite or PostgreSQL database. Clones share its connections.
///
/// An SQLite database belongs to one process, and to commands that work beside it for a moment. On one
/// PostgreSQL database any number of processes may work at once.
#[derive(Clone)]
pub struct SqlStore {
    /// On SQLite one connection, so that writes queue here and not at the file's lock; on PostgreSQL the same
    /// pool as `readers`.
    writer: DatabaseConnection,
    readers: DatabaseConnection,
    order: Order,
    wake: Wake,
}

impl SqlStore {
    /// Says as whom a Control is known that serves from this database: all instances have to be the same one, or
    /// nodes would refuse them. The identity that was given first stays, and is returned.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn identity(&self, given: IdentityKey) -> Result<IdentityKey, StoreError> {
        write::identity(&self.writer, given).await
    }
}

impl fmt::Debug for SqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for SqlStore {
    async fn overlay(&self, fresh: Overlay) -> Result<Overlay, StoreError> {
        write::overlay(&self.writer, fresh).await
    }

    async fn get(&self, id: RecordId) -> Result<Option<Stored<StoreRecord>>, StoreError> {
        table::get(&self.readers, id).await
    }

    async fn find(&self, key: &UniqueKey) -> Result<Option<Stored<StoreRecord>>, StoreError> {
        table::find(&self.readers, key).await
    }

    async fn list(&self, query: Query) -> Result<Page, StoreError> {
        table::list(&self.readers, query).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        write::commit(&self.writer, self.order, batch).await
    }

    async fn remembered(
        &self,
        key: IdempotencyKey,
        now: Timestamp,
    ) -> Result<Option<Remembered>, StoreError> {
        request::remembered(&self.readers, key, now).await
    }

    async fn keep_answer(&self, key: IdempotencyKey, answer: Vec<u8>) -> Result<(), StoreError> {
        request::keep_answer(&self.writer, key, answer).await
    }

    async fn changes(&self, after: Sequence) -> Result<Vec<Change>, StoreError> {
        feed::changes(&self.readers, self.order, after).await
    }

    async fn audit(&self, after: Sequence) -> Result<Vec<(Sequence, AuditEntry)>, StoreError> {
        audit::behind(&self.readers, self.order, after).await
    }

    async fn audit_rows(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        audit::rows(&self.readers, self.order, query).await
    }

    async fn audit_chain(&self) -> Result<AuditChain, StoreError> {
        audit::chain(&self.readers).await
    }

    async fn seal_audit(&self, head: AuditLink, links: &[AuditLink]) -> Result<bool, StoreError> {
        audit::seal(&self.writer, head, links).await
    }

    async fn prune_audit(
        &self,
        start: AuditLink,
        to: AuditLink,
        proof: [u8; 32],
    ) -> Result<bool, StoreError> {
        audit::prune(&self.writer, start, to, proof).await
    }

    async fn memo(&self, about: RecordId, name: &str) -> Result<Option<String>, StoreError> {
        memo::read(&self.readers, about, name).await
    }

    async fn memos(
        &self,
        name: &str,
        after: Option<RecordId>,
    ) -> Result<Vec<(RecordId, String)>, StoreError> {
        memo::all(&self.readers, name, after).await
    }

    async fn set_memo(
        &self,
        about: RecordId,
        name: &str,
        expected: Option<&str>,
        memo: &str,
    ) -> Result<bool, StoreError> {
        memo::write(&self.writer, about, name, expected, memo).await
    }

    async fn hold_lease(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        lease::hold(&self.writer, name, holder, now, until).await
    }

    async fn release_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        lease::release(&self.writer, name, holder).await
    }

    async fn wake(&self, after: Sequence) {
        self.wake.behind(after).await;
    }

    async fn announce(&self, instance: &[u8; 16], sightings: &[Sighting]) -> Result<(), StoreError> {
        presence::announce(&self.writer, instance, sightings).await
    }

    async fn sightings(&self, instance: &[u8; 16], nodes: &[NodeId]) -> Result<Vec<Sighting>, StoreError> {
        presence::sightings(&self.readers, instance, nodes).await
    }

    async fn ask(&self, instance: &[u8; 16], question: &Question) -> Result<usize, StoreError> {
        question::ask(&self.writer, instance, question).await
    }

    async fn questions(&self, instance: &[u8; 16]) -> Result<Vec<Question>, StoreError> {
        question::unanswered(&self.readers, instance).await
    }

    async fn answer(&self, instance: &[u8; 16], question: [u8; 16], answer: &str) -> Result<(), StoreError> {
        question::answer(&self.writer, instance, question, answer).await
    }

    async fn answers(&self, question: [u8; 16]) -> Result<Vec<String>, StoreError> {
        question::answers(&self.readers, question).await
    }

    async fn record_usage(&self, usage: &NodeUsage) -> Result<UsageReport, StoreError> {
        usage::record(&self.writer, usage).await
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        usage::over_time(&self.readers, query).await
    }

    async fn forget_usage(&self, level: UsageLevel, before: Timestamp) -> Result<(), StoreError> {
        usage::forget(&self.writer, level, before).await
    }

    async fn usage_totals(&self, service: ServiceId) -> Result<UsageCounts, StoreError> {
        usage::totals(&self.readers, service).await
    }
}

fn backend(error: DbErr) -> StoreError {
    StoreError::Backend(Box::new(error))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use kakuremichi_core::store::{Mutation, conformance};
    use sea_orm::ConnectionTrait;

    use super::*;

    fn create(record: impl Into<StoreRecord>) -> Batch {
        Batch {
            mutations: vec![Mutation::Create(record.into())],
            audit: conformance::sample::audit("test.create"),
            request: None,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_sql_store_conforms() {
        let directory = tempfile::tempdir().unwrap();
        let number = AtomicU32::new(0);
        conformance::run(async || {
            let name = format!("{}.db", number.fetch_add(1, Ordering::Relaxed));
            let store = SqlStore::open(directory.path().join(name)).await.unwrap();
            Arc::new(store) as Arc<dyn Store>
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_sql_store_conforms_on_postgresql() {
        let Some(server) = kakuremichi_tests::Postgres::shared() else {
            return;
        };
        conformance::run(async || {
            let store = SqlStore::connect(&server.database()).await.unwrap();
            Arc::new(store) as Arc<dyn Store>
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_written_is_there_after_a_restart_and_for_another_process() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("control.db").display());
        let (organization, node) = (
            conformance::sample::organization(0),
            conformance::sample::agent(0, 1),
        );
        let first = SqlStore::connect(&url).await.unwrap();
        let overlay = first.overlay(Overlay::from_global_id([1; 5])).await.unwrap();
        first.commit(create(organization)).await.unwrap();

        let second = SqlStore::connect(&url).await.unwrap();
        let committed = second.commit(create(node.clone())).await.unwrap();
        let seen = first.get(node.id.into()).await.unwrap().unwrap();
        assert_eq!(seen.value, node.clone().into());
        first.close().await.unwrap();
        second.close().await.unwrap();

        let third = SqlStore::connect(&url).await.unwrap();
        assert_eq!(
            third.overlay(Overlay::from_global_id([2; 5])).await.unwrap(),
            overlay
        );
        let mut deletion = create(node.clone());
        deletion.mutations = vec![Mutation::Delete(node.id.into(), None)];
        // Sequence numbers go on where they were, so plans made of them never go back.
        let later = third.commit(deletion).await.unwrap();
        assert!(later.sequence > committed.sequence);
    }

    /// DESIGN, invariant 10: every secret file is 0600.
    #[tokio::test]
    async fn the_files_are_their_owners_only() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(directory.path().join("control.db")).await.unwrap();
        store
            .commit(create(conformance::sample::organization(0)))
            .await
            .unwrap();
        let mut files = 0;
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.file_name());
            files += 1;
        }
        assert_eq!(files, 3, "the database, its journal and its index");
    }

    /// LESSONS: "upgrade fails, control plane will not start".
    #[tokio::test]
    async fn a_newer_schema_is_refused_with_a_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.db");
        let store = SqlStore::open(&path).await.unwrap();
        store
            .writer
            .execute_unprepared(
                "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_future', 0)",
            )
            .await
            .unwrap();
        store.close().await.unwrap();
        let error = SqlStore::open(&path).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Newer { migration } if migration == "m9999_future"));
        assert!(error.to_string().contains("newer version"), "{error}");
    }

    #[tokio::test]
    async fn a_visitor_finds_the_schema_of_its_version_or_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.db");
        assert!(matches!(
            SqlStore::visit(&path).await,
            Err(ConnectError::File { .. })
        ));
        assert!(!path.exists());
        let owner = SqlStore::open(&path).await.unwrap();
        let visitor = SqlStore::visit(&path).await.unwrap();
        visitor
            .commit(create(conformance::sample::organization(0)))
            .await
            .unwrap();
        let change = |sql: &'static str| owner.writer.execute_unprepared(sql);
        change("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_future', 0)")
            .await
            .unwrap();
        assert!(matches!(
            SqlStore::visit(&path).await,
            Err(ConnectError::Newer { .. })
        ));
        change("DELETE FROM seaql_migrations").await.unwrap();
        assert!(matches!(SqlStore::visit(&path).await, Err(ConnectError::Older)));
        let rows = change("DELETE FROM seaql_migrations").await.unwrap();
        assert_eq!(rows.rows_affected(), 0, "a visitor brings nothing up to date");
    }

    #[tokio::test]
    async fn what_is_no_database_is_refused() {
        for url in [
            "mysql://host/db",
            "sqlite::memory:",
            "sqlite://",
            "sqlite://:memory:",
            "x.db",
        ] {
            assert!(
                matches!(SqlStore::connect(url).await, Err(ConnectError::Url)),
                "{url}"
            );
        }
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("no/such/directory.db");
        assert!(matches!(
            SqlStore::open(missing).await,
            Err(ConnectError::File { .. })
        ));
        let garbage = directory.path().join("garbage");
        std::fs::write(&garbage, "this is no database, whatever it is".repeat(100)).unwrap();
        assert!(matches!(
            SqlStore::open(garbage).await,
            Err(ConnectError::Database(_))
        ));
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_understood_names_its_record() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(directory.path().join("control.db")).await.unwrap();
        let service = conformance::sample::http_service(0, 1);
        store
            .commit(create(conformance::sample::organization(0)))
            .await
            .unwrap();
        store.commit(create(service.clone())).await.unwrap();
        store
            .writer
            .execute_unprepared("UPDATE service SET policy = '{\"rules\":[],\"access\":\"everybody\"}'")
            .await
            .unwrap();
        let error = store.get(service.id.into()).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { record, .. } if record == service.id.into()));
    }
}
