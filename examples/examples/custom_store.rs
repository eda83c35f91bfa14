//! A store of one's own: the model in memory, and every change in a file that only grows.
//!
//! ```text
//! cargo run -p kakuremichi-examples --example custom_store -- control.journal
//! ```
//!
//! Reading is what [`MemoryStore`] does. Writing is that and one line of JSON, which is on the disk before
//! anybody hears that the write was done; opening the file does it all again, line by line. Whoever writes
//! a store shows with the conformance suite that Control can rely on it; the test at the end does.
#![expect(clippy::print_stdout, reason = "an example says what it does")]

#[path = "custom_store/journal.rs"]
mod journal;

use std::{io, path::Path};

use async_trait::async_trait;
use kakuremichi_control::{Control, identity_key};
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
use tokio::sync::RwLock;

use self::journal::{Journal, Line};

/// Keeps the model in memory and in a journal.
#[derive(Debug)]
struct JournalStore {
    memory: MemoryStore,
    /// Held for writing while a change is applied and written down, so that nobody reads what is not on the
    /// disk yet.
    journal: RwLock<Journal>,
}

impl JournalStore {
    /// Opens the journal at `path`, or starts one there.
    async fn open(path: &Path) -> io::Result<Self> {
        let memory = MemoryStore::new();
        let (journal, lines) = Journal::open(path)?;
        for line in lines {
            replay(&memory, line).await.map_err(io::Error::other)?;
        }
        Ok(Self {
            memory,
            journal: RwLock::new(journal),
        })
    }
}

/// Does again what a line says. Done in the same order, the same comes of it: versions and places in the
/// feeds included.
async fn replay(memory: &MemoryStore, line: Line) -> Result<(), CommitError> {
    match line {
        Line::Overlay(overlay) => memory.overlay(overlay).await.map(drop)?,
        Line::Commit(batch) => memory.commit(batch).await.map(drop)?,
        Line::Seal(head, links) => memory.seal_audit(head, &links).await.map(drop)?,
        Line::Answer(key, answer) => memory.keep_answer(key, answer).await?,
        Line::Usage(usage) => memory.record_usage(&usage).await.map(drop)?,
    }
    Ok(())
}

fn failed(error: io::Error) -> StoreError {
    StoreError::Backend(Box::new(error))
}

#[async_trait]
impl Store for JournalStore {
    async fn overlay(&self, fresh: Overlay) -> Result<Overlay, StoreError> {
        let mut journal = self.journal.write().await;
        let overlay = self.memory.overlay(fresh).await?;
        if overlay == fresh {
            journal.write(&Line::Overlay(overlay)).map_err(failed)?;
        }
        Ok(overlay)
    }

    async fn get(&self, id: RecordId) -> Result<Option<Stored<StoreRecord>>, StoreError> {
        self.journal.read().await.check().map_err(failed)?;
        self.memory.get(id).await
    }

    async fn find(&self, key: &UniqueKey) -> Result<Option<Stored<StoreRecord>>, StoreError> {
        self.journal.read().await.check().map_err(failed)?;
        self.memory.find(key).await
    }

    async fn list(&self, query: Query) -> Result<Page, StoreError> {
        self.journal.read().await.check().map_err(failed)?;
        self.memory.list(query).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let mut journal = self.journal.write().await;
        journal.check().map_err(failed)?;
        // First in memory, where it is found out whether it can be done at all.
        let committed = self.memory.commit(batch.clone()).await?;
        journal.write(&Line::Commit(batch)).map_err(failed)?;
        Ok(committed)
    }

    async fn remembered(
        &self,
        key: IdempotencyKey,
        now: Timestamp,
    ) -> Result<Option<Remembered>, StoreError> {
        self.journal.read().await.check().map_err(failed)?;
        self.memory.remembered(key, now).await
    }

    async fn keep_answer(&self, key: IdempotencyKey, answer: Vec<u8>) -> Result<(), StoreError> {
        let mut journal = self.journal.write().await;
        journal.check().map_err(failed)?;
        self.memory.keep_answer(key, answer.clone()).await?;
        journal.write(&Line::Answer(key, answer)).map_err(failed)
    }

    async fn changes(&self, after: Sequence) -> Result<Vec<Change>, StoreError> {
        self.journal.read().await.check().map_err(failed)?;
        self.memory.changes(after).await
    }

    async fn audit(&self, after: Sequence) -> Result<Vec<(Sequence, AuditEntry)>, StoreError> {
        self.journal.read().await.check().map_err(failed)?;
        self.memory.audit(after).await
    }

    async fn audit_rows(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        self.journal.read().await.check().map_err(failed)?;
        self.memory.audit_rows(query).await
    }

    async fn audit_chain(&self) -> Result<AuditChain, StoreError> {
        self.journal.read().await.check().map_err(failed)?;
        self.memory.audit_chain().await
    }

    async fn seal_audit(&self, head: AuditLink, links: &[AuditLink]) -> Result<bool, StoreError> {
        let mut journal = self.journal.write().await;
        journal.check().map_err(failed)?;
        let sealed = self.memory.seal_audit(head, links).await?;
        if sealed {
            journal.write(&Line::Seal(head, links.to_vec())).map_err(failed)?;
        }
        Ok(sealed)
    }

    async fn prune_audit(
        &self,
        start: AuditLink,
        to: AuditLink,
        proof: [u8; 32],
    ) -> Result<bool, StoreError> {
        self.memory.prune_audit(start, to, proof).await
    }

    // What tasks keep is forgotten at a restart: events are then sent again.
    async fn memo(&self, about: RecordId, name: &str) -> Result<Option<String>, StoreError> {
        self.memory.memo(about, name).await
    }

    async fn memos(
        &self,
        name: &str,
        after: Option<RecordId>,
    ) -> Result<Vec<(RecordId, String)>, StoreError> {
        self.memory.memos(name, after).await
    }

    async fn set_memo(
        &self,
        about: RecordId,
        name: &str,
        expected: Option<&str>,
        memo: &str,
    ) -> Result<bool, StoreError> {
        self.memory.set_memo(about, name, expected, memo).await
    }

    // One process has the file, so nobody else is to hear of its leases.
    async fn hold_lease(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        self.memory.hold_lease(name, holder, now, until).await
    }

    async fn release_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        self.memory.release_lease(name, holder).await
    }

    async fn record_usage(&self, usage: &NodeUsage) -> Result<UsageReport, StoreError> {
        let mut journal = self.journal.write().await;
        journal.check().map_err(failed)?;
        let last = self.memory.record_usage(usage).await?;
        if last == usage.report {
            // Perhaps it was known already: doing it again changes nothing.
            journal.write(&Line::Usage(usage.clone())).map_err(failed)?;
        }
        Ok(last)
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        self.journal.read().await.check().map_err(failed)?;
        self.memory.usage(query).await
    }

    // The journal keeps what was reported. What is too old is forgotten again after it was opened.
    async fn forget_usage(&self, level: UsageLevel, before: Timestamp) -> Result<(), StoreError> {
        self.memory.forget_usage(level, before).await
    }

    async fn usage_totals(&self, service: ServiceId) -> Result<UsageCounts, StoreError> {
        self.journal.read().await.check().map_err(failed)?;
        self.memory.usage_totals(service).await
    }
}

/// A Control on such a store.
fn control(store: JournalStore) -> Result<Control, Box<dyn std::error::Error>> {
    let control = Control::builder(store)
        .public_url("https://control.example.net")
        .identity(identity_key()?.expose())
        .build()?;
    Ok(control)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give the path of a journal")?;
    let control = control(JournalStore::open(Path::new(&path)).await?)?;
    let us = control.use_cases().control().await?;
    let organization = control.use_cases().organization(&us).await?.value;
    println!(
        "{path} holds the organization {} ({})",
        organization.name, organization.id
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use kakuremichi_control::service::ApiKeyDraft;
    use kakuremichi_core::{model::Permissions, store::conformance};

    use super::*;

    #[tokio::test]
    async fn the_journal_store_conforms() {
        let directory = tempfile::tempdir().unwrap();
        let number = AtomicU32::new(0);
        conformance::run(async || {
            let name = number.fetch_add(1, Ordering::Relaxed).to_string();
            let store = JournalStore::open(&directory.path().join(name)).await.unwrap();
            Arc::new(store) as Arc<dyn Store>
        })
        .await;
        // Each journal that the suite left can be read again.
        for n in 0..number.into_inner() {
            JournalStore::open(&directory.path().join(n.to_string()))
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn control_runs_on_it_and_finds_everything_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.journal");
        let first = control(JournalStore::open(&path).await.unwrap()).unwrap();
        let router = first.router();
        first.ready().await;
        let start = first.use_cases().start().await.unwrap();
        let us = first.use_cases().control().await.unwrap();
        let draft = ApiKeyDraft {
            name: "example".parse().unwrap(),
            permissions: Permissions::EVERYTHING,
            expires: None,
        };
        let key = first.use_cases().create_api_key(&us, draft).await.unwrap();
        first.shutdown(std::time::Duration::ZERO).await;
        drop((first, router));

        // A crash in the middle of a line loses that line, which nobody was told was written.
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"{\"commit\":{\"muta");
        std::fs::write(&path, torn).unwrap();
        let second = control(JournalStore::open(&path).await.unwrap()).unwrap();
        assert_eq!(second.use_cases().start().await.unwrap(), start);
        let who = second.use_cases().actor_of(key.text.expose()).await.unwrap();
        assert_eq!(who.unwrap().organization, us.organization);
    }
}
