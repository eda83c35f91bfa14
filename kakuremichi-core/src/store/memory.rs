//! A store in memory: for tests, and for set-ups that may forget.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{
    Batch, Change, CommitError, Committed, IDEMPOTENCY_LIFE, IdempotencyKey, IdempotentRequest,
    MAX_IDEMPOTENCY_KEYS, MAX_PAGE, Mutation, NodeUsage, Page, Query, RecordId, Remembered, Sequence, Store,
    StoreError, StoreRecord, Stored, UniqueKey, UsageCounts, UsageGroup, UsageLevel, UsageOf, UsagePoint,
    UsageQuery, UsageReport, UsageReports, Version,
};
use crate::{
    audit::{AuditChain, AuditEntry, AuditLink, AuditQuery, AuditRow},
    id::{NodeId, OrganizationId, ServiceId},
    model::TokenUnusable,
    net::Overlay,
    time::Timestamp,
};

/// The most records of a [`MemoryStore`]. What would be more is refused as [`StoreError::Full`].
pub const MAX_RECORDS: usize = 1_000_000;
/// The rows that the feeds of a [`MemoryStore`] keep; older ones are forgotten.
pub const MAX_FEED: usize = 100_000;

/// Keeps everything in memory, and forgets it when dropped.
#[derive(Default)]
pub struct MemoryStore(Mutex<State>);

/// A step of a level: when it begins, and whose it is.
type Step = (UsageLevel, Timestamp, OrganizationId, Option<ServiceId>, NodeId);

#[derive(Debug, Clone, Default)]
struct State {
    overlay: Option<Overlay>,
    records: BTreeMap<RecordId, Stored<StoreRecord>>,
    unique: BTreeMap<UniqueKey, RecordId>,
    changes: BTreeMap<Sequence, Change>,
    audit: BTreeMap<Sequence, AuditEntry>,
    hashes: BTreeMap<Sequence, [u8; 32]>,
    chain: AuditChain,
    leases: BTreeMap<String, (String, Timestamp)>,
    memos: BTreeMap<(String, RecordId), String>,
    reports: BTreeMap<NodeId, UsageReports>,
    totals: BTreeMap<ServiceId, UsageCounts>,
    series: BTreeMap<Step, UsageCounts>,
    requests: BTreeMap<IdempotencyKey, Remembered>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("records", &self.state().records.len())
            .finish()
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held left the state as it was before: commits work on a copy of
        // what they change and swap it in whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn overlay(&self, fresh: Overlay) -> Result<Overlay, StoreError> {
        Ok(*self.state().overlay.get_or_insert(fresh))
    }

    async fn get(&self, id: RecordId) -> Result<Option<Stored<StoreRecord>>, StoreError> {
        Ok(self.state().records.get(&id).cloned())
    }

    async fn find(&self, key: &UniqueKey) -> Result<Option<Stored<StoreRecord>>, StoreError> {
        let state = self.state();
        Ok(state
            .unique
            .get(key)
            .and_then(|id| state.records.get(id))
            .cloned())
    }

    async fn list(&self, query: Query) -> Result<Page, StoreError> {
        let limit = query.limit.clamp(1, MAX_PAGE);
        let state = self.state();
        let mut records: Vec<_> = state
            .records
            .iter()
            .filter(|(id, _)| id.kind() == query.kind && query.after.is_none_or(|after| **id > after))
            .filter(|(_, stored)| matches(&query, &stored.value))
            .map(|(_, stored)| stored.clone())
            .take(limit + 1)
            .collect();
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().filter(|_| more).map(|stored| stored.value.id());
        Ok(Page { records, next })
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let mut state = self.state();
        let now = batch.audit.at;
        if let Some(request) = &batch.request
            && state.remembered(request.key, now).is_some()
        {
            return Err(CommitError::Repeated);
        }
        let mut undo = Undo::default();
        for mutation in batch.mutations {
            if let Err(error) = state.apply(mutation, &mut undo) {
                state.roll_back(undo);
                return Err(error);
            }
        }
        for (id, _) in &undo.changed {
            if !state.records.contains_key(id) {
                state.forget_of(*id);
            }
        }
        if let Some(request) = batch.request {
            state.remember(request, batch.audit.subject, now);
        }
        state.record(undo.changed, batch.audit);
        let sequence = state.changes.keys().next_back().copied().unwrap_or_default();
        Ok(Committed { sequence })
    }

    async fn remembered(
        &self,
        key: IdempotencyKey,
        now: Timestamp,
    ) -> Result<Option<Remembered>, StoreError> {
        Ok(self.state().remembered(key, now).cloned())
    }

    async fn keep_answer(&self, key: IdempotencyKey, answer: Vec<u8>) -> Result<(), StoreError> {
        if let Some(remembered) = self.state().requests.get_mut(&key) {
            remembered.answer = Some(answer);
        }
        Ok(())
    }

    async fn changes(&self, after: Sequence) -> Result<Vec<Change>, StoreError> {
        let state = self.state();
        Ok(state
            .changes
            .range(Sequence(after.0 + 1)..)
            .take(MAX_PAGE)
            .map(|(_, change)| *change)
            .collect())
    }

    async fn audit(&self, after: Sequence) -> Result<Vec<(Sequence, AuditEntry)>, StoreError> {
        let state = self.state();
        let entries = state.audit.range(Sequence(after.0 + 1)..).take(MAX_PAGE);
        Ok(entries
            .map(|(sequence, entry)| (*sequence, entry.clone()))
            .collect())
    }

    async fn audit_rows(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        let state = self.state();
        let row = |(sequence, entry): (&Sequence, &AuditEntry)| {
            query.matches(*sequence, entry).then(|| AuditRow {
                sequence: *sequence,
                entry: entry.clone(),
                hash: state.hashes.get(sequence).copied(),
            })
        };
        let rows = state.audit.iter();
        Ok(match query.newest_first {
            true => rows.rev().filter_map(row).take(query.page()).collect(),
            false => rows.filter_map(row).take(query.page()).collect(),
        })
    }

    async fn audit_chain(&self) -> Result<AuditChain, StoreError> {
        Ok(self.state().chain)
    }

    async fn seal_audit(&self, head: AuditLink, links: &[AuditLink]) -> Result<bool, StoreError> {
        let mut state = self.state();
        if state.chain.head != head {
            return Ok(false);
        }
        let sealable = |link: &AuditLink| {
            state.audit.contains_key(&link.sequence) && !state.hashes.contains_key(&link.sequence)
        };
        if !links.iter().all(sealable) {
            return Err(StoreError::Backend(Box::new(NotSealable)));
        }
        state
            .hashes
            .extend(links.iter().map(|link| (link.sequence, link.hash)));
        state.chain.head = links.last().copied().unwrap_or(head);
        Ok(true)
    }

    async fn prune_audit(
        &self,
        start: AuditLink,
        to: AuditLink,
        proof: [u8; 32],
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        if state.chain.start != start {
            return Ok(false);
        }
        if state.hashes.get(&to.sequence) != Some(&to.hash) {
            return Err(StoreError::Backend(Box::new(NotSealed)));
        }
        state.audit.retain(|sequence, _| *sequence > to.sequence);
        state.hashes.retain(|sequence, _| *sequence > to.sequence);
        (state.chain.start, state.chain.proof) = (to, Some(proof));
        Ok(true)
    }

    async fn memo(&self, about: RecordId, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.state().memos.get(&(name.to_owned(), about)).cloned())
    }

    async fn memos(
        &self,
        name: &str,
        after: Option<RecordId>,
    ) -> Result<Vec<(RecordId, String)>, StoreError> {
        let state = self.state();
        let memos = state.memos.iter();
        Ok(memos
            .filter(|((of, about), _)| of == name && after.is_none_or(|after| *about > after))
            .map(|((_, about), memo)| (*about, memo.clone()))
            .take(MAX_PAGE)
            .collect())
    }

    async fn set_memo(
        &self,
        about: RecordId,
        name: &str,
        expected: Option<&str>,
        memo: &str,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let key = (name.to_owned(), about);
        if state.memos.get(&key).map(String::as_str) != expected {
            return Ok(false);
        }
        state.memos.insert(key, memo.to_owned());
        Ok(true)
    }

    async fn hold_lease(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        if let Some((other, end)) = state.leases.get(name)
            && other != holder
            && *end > now
        {
            return Ok(false);
        }
        state.leases.insert(name.to_owned(), (holder.to_owned(), until));
        Ok(true)
    }

    async fn release_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.leases.get(name).is_some_and(|(other, _)| other == holder) {
            state.leases.remove(name);
        }
        Ok(())
    }

    async fn record_usage(&self, usage: &NodeUsage) -> Result<UsageReport, StoreError> {
        let mut state = self.state();
        let mut reports = state.reports.get(&usage.node).cloned().unwrap_or_default();
        if let Err(last) = reports.note(usage.report) {
            return Ok(last);
        }
        let more = (usage.entries.len() + 1) * (UsageLevel::ALL.len() + 1);
        if state.reports.len() + state.totals.len() + state.series.len() + more >= MAX_RECORDS {
            return Err(StoreError::Full);
        }
        state.reports.insert(usage.node, reports);
        for entry in &usage.entries {
            if let NodeId::Gateway(_) = usage.node {
                let total = state.totals.entry(entry.service).or_default();
                *total = total.plus(entry.counts);
            }
            state.count(usage, Some(entry.service), entry.counts);
        }
        if usage.unattributed != UsageCounts::default() {
            state.count(usage, None, usage.unattributed);
        }
        Ok(usage.report)
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        let mut points: BTreeMap<(Timestamp, UsageOf), UsageCounts> = BTreeMap::new();
        for ((level, start, organization, service, node), counts) in &self.state().series {
            let agent = matches!(node, NodeId::Agent(_));
            let asked = *level == query.level
                && *organization == query.organization
                && (query.from..query.to).contains(start)
                && (query.service.is_none() || query.service == *service)
                && agent == (query.group == UsageGroup::Agent);
            if !asked {
                continue;
            }
            let of = match query.group {
                UsageGroup::Whole => UsageOf::Whole,
                UsageGroup::Service => UsageOf::Service(*service),
                UsageGroup::Gateway | UsageGroup::Agent => UsageOf::Node(*node),
            };
            let point = points.entry((*start, of)).or_default();
            *point = point.plus(*counts);
        }
        let points = points.into_iter().take(query.limit);
        Ok(points
            .map(|((start, of), counts)| UsagePoint { start, of, counts })
            .collect())
    }

    async fn forget_usage(&self, level: UsageLevel, before: Timestamp) -> Result<(), StoreError> {
        self.state()
            .series
            .retain(|(of, start, ..), _| *of != level || *start >= before);
        Ok(())
    }

    async fn usage_totals(&self, service: ServiceId) -> Result<UsageCounts, StoreError> {
        Ok(self.state().totals.get(&service).copied().unwrap_or_default())
    }
}

/// A link is of an entry that is not there, or that has one.
#[derive(Debug, thiserror::Error)]
#[error("an entry of the audit is not there, or is sealed already")]
struct NotSealable;

/// An entry up to which the audit was to be pruned is not there, or has another link.
#[derive(Debug, thiserror::Error)]
#[error("an entry of the audit is not there, or has another link")]
struct NotSealed;

fn matches(query: &Query, record: &StoreRecord) -> bool {
    (query.organization.is_none() || query.organization == record.organization())
        && (query.owner.is_none() || query.owner == record.owner())
}

/// What a half-applied batch replaced, newest last, and what it changed.
#[derive(Default)]
struct Undo {
    replaced: Vec<(RecordId, Option<Stored<StoreRecord>>)>,
    changed: Vec<(RecordId, Option<OrganizationId>)>,
}

impl State {
    fn apply(&mut self, mutation: Mutation, undo: &mut Undo) -> Result<(), CommitError> {
        let id = mutation.record();
        let old = self.records.get(&id);
        let organization = match (&mutation, old) {
            (Mutation::Create(record), None) => record.organization(),
            (Mutation::Create(_), Some(_)) => return Err(CommitError::Exists(id)),
            (Mutation::ConsumeToken { .. }, None) => return Err(TokenUnusable::Unknown.into()),
            (_, None) => return Err(CommitError::Missing(id)),
            (_, Some(old)) => old.value.organization(),
        };
        let version = old.map_or(Version(0), |old| old.version);
        let new = match mutation {
            Mutation::Create(_) if self.records.len() >= MAX_RECORDS => return Err(StoreError::Full.into()),
            Mutation::Create(record) => {
                self.check_bound(&record)?;
                Some(record)
            }
            Mutation::Update(_, expected) | Mutation::Delete(_, Some(expected)) if expected != version => {
                return Err(CommitError::Stale(id));
            }
            Mutation::Update(record, _) => Some(record),
            Mutation::Delete(..) => None,
            Mutation::ConsumeToken { role, now, .. } => match old.map(|old| old.value.clone()) {
                Some(StoreRecord::Token(mut token)) => {
                    token.usable(role, now)?;
                    token.uses_left = token.uses_left.map(|uses| uses.saturating_sub(1));
                    Some(token.into())
                }
                _ => return Err(TokenUnusable::Unknown.into()),
            },
        };
        if let Some(new) = &new {
            self.check_unique(new)?;
        }
        let new = new.map(|value| Stored {
            value,
            version: Version(version.0 + 1),
        });
        undo.replaced.push((id, self.replace(id, new)));
        undo.changed.push((id, organization));
        Ok(())
    }

    fn count(&mut self, usage: &NodeUsage, service: Option<ServiceId>, counts: UsageCounts) {
        for level in UsageLevel::ALL {
            let step = (
                level,
                level.start_of(usage.at),
                usage.organization,
                service,
                usage.node,
            );
            let counted = self.series.entry(step).or_default();
            *counted = counted.plus(counts);
        }
    }

    fn forget_of(&mut self, id: RecordId) {
        self.memos.retain(|(_, about), _| *about != id);
        match id {
            RecordId::Node(node) => {
                self.reports.remove(&node);
            }
            RecordId::Service(service) => {
                self.totals.remove(&service);
            }
            RecordId::Organization(organization) => {
                self.series.retain(|(_, _, of, ..), _| *of != organization);
            }
            _ => {}
        }
    }

    fn remembered(&self, key: IdempotencyKey, now: Timestamp) -> Option<&Remembered> {
        self.requests
            .get(&key)
            .filter(|remembered| now < remembered.at.after(IDEMPOTENCY_LIFE))
    }

    fn remember(&mut self, request: IdempotentRequest, subject: Option<RecordId>, at: Timestamp) {
        self.requests
            .retain(|_, remembered| at < remembered.at.after(IDEMPOTENCY_LIFE));
        let caller = request.key.caller;
        let of_caller = || self.requests.iter().filter(|(key, _)| key.caller == caller);
        if of_caller().count() >= MAX_IDEMPOTENCY_KEYS
            && let Some((oldest, _)) = of_caller().min_by_key(|(_, remembered)| remembered.at)
        {
            let oldest = *oldest;
            self.requests.remove(&oldest);
        }
        let remembered = Remembered {
            request: request.request,
            subject,
            at,
            answer: None,
        };
        self.requests.insert(request.key, remembered);
    }

    fn check_bound(&self, record: &StoreRecord) -> Result<(), CommitError> {
        let kind = record.id().kind();
        let (Some(most), Some(organization)) = (kind.most_in_organization(), record.organization()) else {
            return Ok(());
        };
        let same = |other: &&Stored<StoreRecord>| {
            other.value.id().kind() == kind && other.value.organization() == Some(organization)
        };
        if self.records.values().filter(same).count() >= most {
            return Err(CommitError::Bound { kind, most });
        }
        Ok(())
    }

    fn check_unique(&self, record: &StoreRecord) -> Result<(), CommitError> {
        for key in record.unique_keys() {
            if let Some(holder) = self
                .unique
                .get(&key)
                .copied()
                .filter(|holder| *holder != record.id())
            {
                return Err(CommitError::Taken { key, holder });
            }
        }
        Ok(())
    }

    fn replace(&mut self, id: RecordId, new: Option<Stored<StoreRecord>>) -> Option<Stored<StoreRecord>> {
        let old = match new {
            Some(new) => self.records.insert(id, new),
            None => self.records.remove(&id),
        };
        for key in old.iter().flat_map(|old| old.value.unique_keys()) {
            self.unique.remove(&key);
        }
        for key in self
            .records
            .get(&id)
            .iter()
            .flat_map(|new| new.value.unique_keys())
        {
            self.unique.insert(key, id);
        }
        old
    }

    fn roll_back(&mut self, undo: Undo) {
        for (id, old) in undo.replaced.into_iter().rev() {
            self.replace(id, old);
        }
    }

    fn record(&mut self, changed: Vec<(RecordId, Option<OrganizationId>)>, audit: AuditEntry) {
        let next = |last: Option<&Sequence>| Sequence(last.map_or(0, |last| last.0) + 1);
        for (record, organization) in changed {
            let sequence = next(self.changes.keys().next_back());
            self.changes.insert(
                sequence,
                Change {
                    sequence,
                    record,
                    organization,
                },
            );
        }
        let sequence = next(self.audit.keys().next_back());
        self.audit.insert(sequence, audit);
        while self.changes.len() > MAX_FEED {
            self.changes.pop_first();
        }
        while self.audit.len() > MAX_FEED {
            self.forget_oldest_deed();
        }
    }

    /// The chain begins behind what is forgotten, sealed or not.
    fn forget_oldest_deed(&mut self) {
        let Some((sequence, _)) = self.audit.pop_first() else {
            return;
        };
        match self.hashes.remove(&sequence) {
            Some(hash) => self.chain.start = AuditLink { sequence, hash },
            None => {
                let hash = self.chain.head.hash;
                (self.chain.start, self.chain.head) =
                    (AuditLink { sequence, hash }, AuditLink { sequence, hash });
            }
        }
    }
}
