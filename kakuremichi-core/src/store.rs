//! Where Control keeps the model.
//!
//! A [`Store`] is small so that others can write one: it reads records by identifier, by page and by
//! unique value, and writes whole batches. A batch is applied completely or not at all, together with
//! its audit entry and its rows in the change feed, from which plans are made.

mod batch;
mod bound;
mod idempotency;
mod memory;
mod record;
mod usage;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use batch::{Batch, CommitError, Committed, Mutation};
pub use idempotency::{
    IDEMPOTENCY_LIFE, IdempotencyKey, IdempotentRequest, MAX_IDEMPOTENCY_KEYS, Remembered,
};
pub use memory::{MAX_FEED, MAX_RECORDS, MemoryStore};
pub use record::{Entity, RecordId, RecordKind, StoreRecord, Stored, UniqueKey, Version};
pub use usage::{
    MAX_STREAMS, NodeUsage, UsageCounts, UsageEntry, UsageGroup, UsageLevel, UsageOf, UsagePoint, UsageQuery,
    UsageReport, UsageReports,
};

use std::fmt;

use async_trait::async_trait;

use crate::{
    audit::{AuditChain, AuditEntry, AuditLink, AuditQuery, AuditRow},
    id::{NodeId, OrganizationId, ServiceId},
    net::Overlay,
    time::Timestamp,
};

/// The most records of one [`Page`], and entries of one read of a feed.
pub const MAX_PAGE: usize = 500;

/// Keeps the model. See the [module](self) for the idea, and `conformance` (a cargo feature) for the
/// suite that an implementation must pass.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The overlay of this Control. The first call of all stores `fresh` and returns it; each later one
    /// returns what the first stored.
    ///
    /// # Errors
    /// When the storage fails.
    async fn overlay(&self, fresh: Overlay) -> Result<Overlay, StoreError>;

    /// Reads one record.
    ///
    /// # Errors
    /// When the storage fails or holds something that cannot be understood.
    async fn get(&self, id: RecordId) -> Result<Option<Stored<StoreRecord>>, StoreError>;

    /// Reads the record that has this unique value.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    async fn find(&self, key: &UniqueKey) -> Result<Option<Stored<StoreRecord>>, StoreError>;

    /// Reads records of a kind in the order of their identifiers.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    async fn list(&self, query: Query) -> Result<Page, StoreError>;

    /// Applies a batch: all its mutations, its audit entry and one change-feed row for each mutation, in
    /// one transaction; and what it says of an [idempotent request](Batch::request), in the same. A record that is
    /// created must be within the [bound](RecordKind::most_in_organization) of its organization, also when others
    /// create at the same time.
    ///
    /// # Errors
    /// When a precondition does not hold or the storage fails; then nothing of the batch remains.
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError>;

    /// Reads what is remembered of a request: that it was carried out less than [`IDEMPOTENCY_LIFE`] before `now`, and
    /// what it was answered.
    ///
    /// # Errors
    /// When the storage fails.
    async fn remembered(&self, key: IdempotencyKey, now: Timestamp)
    -> Result<Option<Remembered>, StoreError>;

    /// Keeps the answer of a request that is remembered. It does nothing for one that is not.
    ///
    /// # Errors
    /// When the storage fails.
    async fn keep_answer(&self, key: IdempotencyKey, answer: Vec<u8>) -> Result<(), StoreError>;

    /// Reads the change feed: at most [`MAX_PAGE`] rows behind `after`, oldest first. A row that is
    /// returned once is never preceded later by one with a smaller sequence number.
    ///
    /// # Errors
    /// When the storage fails.
    async fn changes(&self, after: Sequence) -> Result<Vec<Change>, StoreError>;

    /// Reads the audit: at most [`MAX_PAGE`] entries behind `after`, oldest first, with the sequence
    /// number of each.
    ///
    /// # Errors
    /// When the storage fails.
    async fn audit(&self, after: Sequence) -> Result<Vec<(Sequence, AuditEntry)>, StoreError>;

    /// Reads entries of the audit with their links: at most [`AuditQuery::page`]. Oldest first, an entry that is
    /// returned once is never preceded later by another one.
    ///
    /// # Errors
    /// When the storage fails.
    async fn audit_rows(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError>;

    /// How far the audit is sealed.
    ///
    /// # Errors
    /// When the storage fails.
    async fn audit_chain(&self) -> Result<AuditChain, StoreError>;

    /// Adds links to the chain, oldest first, if its head still is `head`; at most [`MAX_PAGE`] of them. Returns
    /// whether it was: somebody else may have been faster.
    ///
    /// # Errors
    /// When the storage fails, or an entry of a link is not there or is sealed; then no link was added.
    async fn seal_audit(&self, head: AuditLink, links: &[AuditLink]) -> Result<bool, StoreError>;

    /// Removes the entries from behind `start` up to `to`, which becomes the start of the chain, with `proof` beside
    /// it; if `start` still is what it begins behind. Returns whether it was. To be called for at most [`MAX_PAGE`]
    /// entries at a time.
    ///
    /// # Errors
    /// When the storage fails, or `to` is not a sealed entry; then nothing was removed.
    async fn prune_audit(&self, start: AuditLink, to: AuditLink, proof: [u8; 32])
    -> Result<bool, StoreError>;

    /// Takes what only one at a time may do, or keeps it: `holder` has `name` until `until`, if nobody else has it
    /// at `now`. Returns whether it has. The holder that was is noticed only by its next call.
    ///
    /// # Errors
    /// When the storage fails.
    async fn hold_lease(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Gives back what `holder` has; nothing happens when somebody else has it.
    ///
    /// # Errors
    /// When the storage fails.
    async fn release_lease(&self, name: &str, holder: &str) -> Result<(), StoreError>;

    /// Reads what a task of Control keeps about a record, by the name of the memo.
    ///
    /// # Errors
    /// When the storage fails.
    async fn memo(&self, about: RecordId, name: &str) -> Result<Option<String>, StoreError>;

    /// Reads the memos of a name about all records behind `after`, in an order that stays: at most [`MAX_PAGE`].
    ///
    /// # Errors
    /// When the storage fails.
    async fn memos(&self, name: &str, after: Option<RecordId>)
    -> Result<Vec<(RecordId, String)>, StoreError>;

    /// Writes a memo if it still is `expected`, none if there was none. Returns whether it was. Memos are no part
    /// of the model: they are in no feed and no audit, and go with the record.
    ///
    /// # Errors
    /// When the storage fails.
    async fn set_memo(
        &self,
        about: RecordId,
        name: &str,
        expected: Option<&str>,
        memo: &str,
    ) -> Result<bool, StoreError>;

    /// Returns when there are changes behind `after` that somebody else may have written: another process
    /// on the same storage. It is only a hint to read the feed sooner than one would anyway. A store that
    /// hears of nobody never returns, and nothing is lost when the wait is given up.
    async fn wake(&self, after: Sequence) {
        let _ = after;
        std::future::pending().await
    }

    /// Tells other processes on the same storage that this one is there, and which sessions with nodes began or
    /// ended here. `instance` are random bytes that the process drew when it started; it tells this every few
    /// seconds, and is gone when it does not. A store that only one process uses has nobody to tell.
    ///
    /// # Errors
    /// When the storage fails.
    async fn announce(&self, instance: &[u8; 16], sightings: &[Sighting]) -> Result<(), StoreError> {
        let _ = (instance, sightings);
        Ok(())
    }

    /// The newest that processes other than `instance` told of these nodes. What one told that is gone is over.
    ///
    /// # Errors
    /// When the storage fails.
    async fn sightings(&self, instance: &[u8; 16], nodes: &[NodeId]) -> Result<Vec<Sighting>, StoreError> {
        let _ = (instance, nodes);
        Ok(Vec::new())
    }

    /// Asks the other processes on the same storage, and returns how many there are. Their answers are to be
    /// [read](Self::answers) within a minute; then the question is forgotten.
    ///
    /// # Errors
    /// When the storage fails.
    async fn ask(&self, instance: &[u8; 16], question: &Question) -> Result<usize, StoreError> {
        let _ = (instance, question);
        Ok(0)
    }

    /// Waits for questions of others that `instance` has not [answered](Self::answer). A storage that one process has
    /// for itself never returns, and nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// When the storage fails.
    async fn questions(&self, instance: &[u8; 16]) -> Result<Vec<Question>, StoreError> {
        let _ = instance;
        std::future::pending().await
    }

    /// Answers a question, unless it is forgotten.
    ///
    /// # Errors
    /// When the storage fails.
    async fn answer(&self, instance: &[u8; 16], question: [u8; 16], answer: &str) -> Result<(), StoreError> {
        let _ = (instance, question, answer);
        Ok(())
    }

    /// The answers that there are.
    ///
    /// # Errors
    /// When the storage fails.
    async fn answers(&self, question: [u8; 16]) -> Result<Vec<String>, StoreError> {
        let _ = question;
        Ok(Vec::new())
    }

    /// Adds what a node counted, once: a report that was [noted](UsageReports::note) before changes nothing. What
    /// gateways counted goes to the totals of the services, and what every node counted to the usage over time,
    /// at every level, all in one transaction. Returns the last recorded report of its stream, up to which the
    /// node may forget.
    ///
    /// # Errors
    /// When the storage fails; then nothing of the report was added.
    async fn record_usage(&self, usage: &NodeUsage) -> Result<UsageReport, StoreError>;

    /// Reads usage over time, in the order of the steps: at most [`UsageQuery::limit`] points. Steps in which
    /// nothing was counted have none. It goes with the organization, and outlives services and nodes.
    ///
    /// # Errors
    /// When the storage fails.
    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsagePoint>, StoreError>;

    /// Forgets the steps of a level that begin before a time.
    ///
    /// # Errors
    /// When the storage fails.
    async fn forget_usage(&self, level: UsageLevel, before: Timestamp) -> Result<(), StoreError>;

    /// What gateways counted for a service together; zero for one that nobody knows. It goes with the service,
    /// as the noted reports go with their node.
    ///
    /// # Errors
    /// When the storage fails.
    async fn usage_totals(&self, service: ServiceId) -> Result<UsageCounts, StoreError>;
}

/// A place in a feed. Feeds start behind [`Sequence::START`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first entry.
    pub const START: Self = Self(0);
}

/// A row of the change feed: something about this record changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Its place.
    pub sequence: Sequence,
    /// The record.
    pub record: RecordId,
    /// The organization of the record (of itself, if it is one); none for what is of the whole Control.
    pub organization: Option<OrganizationId>,
}

/// A node's newest session, as the process tells of it that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// The node.
    pub node: NodeId,
    /// The number of the session: of two, the larger one is newer.
    pub session: u64,
    /// Since when the node is connected, if it is.
    pub connected: Option<Timestamp>,
    /// When its last connection ended.
    pub disconnected: Option<Timestamp>,
}

/// What a process asks the others on the same storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Drawn at random.
    pub id: [u8; 16],
    /// What it asks.
    pub text: String,
}

/// Which records to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// The kind.
    pub kind: RecordKind,
    /// Only those of this organization.
    pub organization: Option<OrganizationId>,
    /// Only those of this [owner](StoreRecord::owner).
    pub owner: Option<RecordId>,
    /// Only those behind this identifier.
    pub after: Option<RecordId>,
    /// At most so many, and never more than [`MAX_PAGE`].
    pub limit: usize,
}

impl Query {
    /// All records of a kind, a full page of them.
    #[must_use]
    pub const fn all(kind: RecordKind) -> Self {
        Self {
            kind,
            organization: None,
            owner: None,
            after: None,
            limit: MAX_PAGE,
        }
    }

    /// Only those of this [owner](StoreRecord::owner).
    #[must_use]
    pub fn owned_by(self, owner: impl Into<RecordId>) -> Self {
        Self {
            owner: Some(owner.into()),
            ..self
        }
    }

    /// Only those of `organization`.
    #[must_use]
    pub const fn of(self, organization: OrganizationId) -> Self {
        Self {
            organization: Some(organization),
            ..self
        }
    }
}

/// A page of records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The records.
    pub records: Vec<Stored<StoreRecord>>,
    /// Where the next page starts, if there is one: pass it as [`Query::after`].
    pub next: Option<RecordId>,
}

/// The storage failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The storage could not be asked.
    #[error("the storage failed")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stored record cannot be understood.
    #[error("the stored record {record:?} cannot be understood")]
    Corrupt {
        /// The record.
        record: RecordId,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The storage is at a bound of its own.
    #[error("the storage is full")]
    Full,
}

impl dyn Store {
    /// Reads one record as what it is.
    ///
    /// # Errors
    /// As for [`Store::get`].
    pub async fn entity<E: Entity>(
        &self,
        id: impl Into<RecordId> + Send,
    ) -> Result<Option<Stored<E>>, StoreError> {
        Ok(self.get(id.into()).await?.and_then(Stored::narrow))
    }

    /// Reads every record of a kind, page by page.
    ///
    /// # Errors
    /// As for [`Store::list`].
    pub async fn all<E: Entity>(
        &self,
        organization: Option<OrganizationId>,
    ) -> Result<Vec<Stored<E>>, StoreError> {
        self.all_of(Query {
            organization,
            ..Query::all(E::KIND)
        })
        .await
    }

    /// Reads every record that a query is about, page by page.
    ///
    /// # Errors
    /// As for [`Store::list`].
    pub async fn all_of<E: Entity>(&self, mut query: Query) -> Result<Vec<Stored<E>>, StoreError> {
        let mut found = Vec::new();
        loop {
            let page = self.list(query).await?;
            found.extend(page.records.into_iter().filter_map(Stored::narrow));
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(found),
            }
        }
    }
}
