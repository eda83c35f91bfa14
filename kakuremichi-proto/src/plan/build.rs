//! A plan as a set of wire records.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use kakuremichi_core::{id::ServiceId, plan::Revision};
use sha2::{Digest, Sha256};

use super::stream::Change;
use crate::identity::sha256;

/// The largest record, encoded, in bytes.
pub const MAX_RECORD: usize = 1024 * 1024;
/// The longest key of a record, in bytes.
pub const MAX_KEY: usize = 64;
/// The most records of one plan.
pub const MAX_RECORDS: usize = 1 << 18;
/// The most bytes of all records of one plan.
pub const MAX_PLAN_BYTES: usize = 64 * 1024 * 1024;

/// Begins what is hashed for a plan.
const HASH_LABEL: &[u8] = b"kakuremichi plan v1\0";

/// The hash of a plan's records. The revision is not in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanHash(pub [u8; 32]);

impl fmt::Display for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A plan is past a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A record is too large.
    #[error("a record of a plan has at most {MAX_RECORD} bytes")]
    Record,
    /// A key is too long.
    #[error("the key of a record has at most {MAX_KEY} bytes")]
    Key,
    /// There are too many records.
    #[error("a plan has at most {MAX_RECORDS} records")]
    Records,
    /// The records are too large together.
    #[error("the records of a plan have at most {MAX_PLAN_BYTES} bytes")]
    Bytes,
}

/// The key of a record: what tells it from the others of its plan.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey(Arc<[u8]>);

impl RecordKey {
    /// Takes the bytes of a key.
    ///
    /// # Errors
    /// When they are more than [`MAX_KEY`].
    pub fn new(bytes: &[u8]) -> Result<Self, PlanError> {
        if bytes.len() > MAX_KEY {
            return Err(PlanError::Key);
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// A record as it is sent.
#[derive(Clone, PartialEq, Eq)]
pub struct WireRecord {
    tag: u16,
    service: Option<ServiceId>,
    key: RecordKey,
    body: Box<[u8]>,
    digest: [u8; 32],
}

impl WireRecord {
    /// Makes a record of a body that is already encoded.
    ///
    /// # Errors
    /// When it would be larger than [`MAX_RECORD`].
    pub fn new(
        tag: u16,
        service: Option<ServiceId>,
        key: RecordKey,
        body: impl Into<Box<[u8]>>,
    ) -> Result<Self, PlanError> {
        let mut record = Self {
            tag,
            service,
            key,
            body: body.into(),
            digest: [0; 32],
        };
        if record.encoded_len() > MAX_RECORD {
            return Err(PlanError::Record);
        }
        record.digest = sha256(&record.encode());
        Ok(record)
    }

    /// The tag, which may be one that this build does not know.
    #[must_use]
    pub const fn tag(&self) -> u16 {
        self.tag
    }

    /// The service that the record belongs to.
    #[must_use]
    pub const fn service(&self) -> Option<ServiceId> {
        self.service
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &RecordKey {
        &self.key
    }

    /// The body.
    #[must_use]
    pub const fn body(&self) -> &[u8] {
        &self.body
    }

    /// The length of what [`encode_into`](Self::encode_into) appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        2 + 1 + self.service.map_or(0, |_| 16) + 1 + self.key.0.len() + self.body.len()
    }

    /// Appends the bytes that are sent and hashed: tag, service, key with its length, body.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.tag.to_be_bytes());
        match &self.service {
            Some(service) => {
                out.push(1);
                out.extend_from_slice(service.as_bytes());
            }
            None => out.push(0),
        }
        // A key has at most MAX_KEY bytes, which one byte can say.
        out.push(self.key.0.len() as u8);
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.body);
    }

    /// Reads what [`encode_into`](Self::encode_into) wrote.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first_chunk()?;
        let (service, rest) = match rest.split_first()? {
            (0, rest) => (None, rest),
            (1, rest) => {
                let (service, rest) = rest.split_first_chunk()?;
                (Some(ServiceId::from_bytes(*service)), rest)
            }
            _ => return None,
        };
        let (length, rest) = rest.split_first()?;
        let (key, body) = rest.split_at_checked(usize::from(*length))?;
        Self::new(u16::from_be_bytes(*tag), service, RecordKey::new(key).ok()?, body).ok()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        self.encode_into(&mut bytes);
        bytes
    }
}

impl fmt::Debug for WireRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireRecord")
            .field("tag", &format_args!("{:#06x}", self.tag))
            .field("service", &self.service)
            .field("key", &self.key)
            .field("length", &self.body.len())
            .finish()
    }
}

/// A plan as it is sent, hashed and stored.
#[derive(Clone, PartialEq, Eq)]
pub struct WirePlan {
    revision: Revision,
    records: BTreeMap<RecordKey, Arc<WireRecord>>,
    bytes: usize,
    hash: PlanHash,
}

impl WirePlan {
    /// Makes a plan of records. Of two with one key the later one stays.
    ///
    /// # Errors
    /// When it would be past a bound.
    pub fn new(revision: Revision, records: impl IntoIterator<Item = WireRecord>) -> Result<Self, PlanError> {
        let mut builder = PlanBuilder::default();
        for record in records {
            builder.put(Arc::new(record))?;
        }
        Ok(builder.finish(revision))
    }

    /// The revision.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The hash of the records.
    #[must_use]
    pub const fn hash(&self) -> PlanHash {
        self.hash
    }

    /// The same records under another revision.
    #[must_use]
    pub fn with_revision(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }

    /// The records, in the order of their keys.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &Arc<WireRecord>> {
        self.records.values()
    }

    /// The bytes of all records.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.bytes
    }

    /// Everything that is in the plan, as changes to an empty one.
    #[must_use]
    pub fn contents(&self) -> Vec<Change> {
        self.records.values().cloned().map(Change::Put).collect()
    }

    /// What turns this plan into `newer`.
    #[must_use]
    pub fn changes_to(&self, newer: &Self) -> Vec<Change> {
        let (mut put, mut removed) = (Vec::new(), Vec::new());
        let mut old = self.records.iter().peekable();
        for (key, record) in &newer.records {
            // Both are in the order of their keys, and nearly all records are the same ones.
            let before = loop {
                match old.peek() {
                    Some((_, before)) if Arc::ptr_eq(before, record) => break old.next(),
                    Some((before, _)) => match before.cmp(&key) {
                        Ordering::Less => removed.extend(old.next().map(|(gone, _)| gone.clone())),
                        Ordering::Equal => break old.next(),
                        Ordering::Greater => break None,
                    },
                    None => break None,
                }
            };
            if before.is_none_or(|(_, before)| before.digest != record.digest) {
                put.push(Arc::clone(record));
            }
        }
        removed.extend(old.map(|(gone, _)| gone.clone()));
        let put = put.into_iter().map(Change::Put);
        put.chain(removed.into_iter().map(Change::Remove)).collect()
    }
}

impl Default for WirePlan {
    fn default() -> Self {
        PlanBuilder::default().finish(Revision::default())
    }
}

impl fmt::Debug for WirePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WirePlan")
            .field("revision", &self.revision)
            .field("records", &self.records.len())
            .field("hash", &self.hash)
            .finish()
    }
}

/// A plan in the making: changes are applied to an empty plan, or to another.
#[derive(Debug, Clone, Default)]
pub struct PlanBuilder {
    records: BTreeMap<RecordKey, Arc<WireRecord>>,
    bytes: usize,
}

impl PlanBuilder {
    /// Starts from the records of `plan`.
    #[must_use]
    pub fn from_plan(plan: &WirePlan) -> Self {
        Self {
            records: plan.records.clone(),
            bytes: plan.bytes,
        }
    }

    /// Applies a change.
    ///
    /// # Errors
    /// When the plan would be past a bound; then it stays as it is.
    pub fn apply(&mut self, change: Change) -> Result<(), PlanError> {
        match change {
            Change::Put(record) => self.put(record),
            Change::Remove(key) => {
                if let Some(old) = self.records.remove(&key) {
                    self.bytes -= old.encoded_len();
                }
                Ok(())
            }
        }
    }

    /// The plan.
    #[must_use]
    pub fn finish(self, revision: Revision) -> WirePlan {
        let mut hash = Sha256::new();
        hash.update(HASH_LABEL);
        for record in self.records.values() {
            hash.update(record.digest);
        }
        WirePlan {
            revision,
            records: self.records,
            bytes: self.bytes,
            hash: PlanHash(hash.finalize().into()),
        }
    }

    fn put(&mut self, record: Arc<WireRecord>) -> Result<(), PlanError> {
        let old = self.records.get(&record.key).map(|old| old.encoded_len());
        if old.is_none() && self.records.len() >= MAX_RECORDS {
            return Err(PlanError::Records);
        }
        let bytes = self.bytes - old.unwrap_or_default() + record.encoded_len();
        if bytes > MAX_PLAN_BYTES {
            return Err(PlanError::Bytes);
        }
        self.bytes = bytes;
        self.records.insert(record.key.clone(), record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: u8, body: &[u8]) -> WireRecord {
        let service = key.is_multiple_of(2).then(|| ServiceId::from_bytes([key; 16]));
        WireRecord::new(0xffff, service, RecordKey::new(&[key]).unwrap(), body).unwrap()
    }

    #[test]
    fn the_hash_is_over_the_content_and_not_over_its_history() {
        let a = WirePlan::new(Revision(1), [record(1, b"x"), record(2, b"y")]).unwrap();
        let b = WirePlan::new(Revision(2), [record(2, b"z"), record(1, b"x"), record(2, b"y")]).unwrap();
        assert_eq!(a.hash(), b.hash());
        assert_eq!(a.size(), b.size());
        let c = WirePlan::new(Revision(1), [record(1, b"x"), record(2, b"z")]).unwrap();
        assert_ne!(a.hash(), c.hash());
    }

    #[test]
    fn changes_lead_from_one_plan_to_the_other() {
        let old = WirePlan::new(Revision(1), (0..9).map(|key| record(key, b"old"))).unwrap();
        let new = WirePlan::new(
            Revision(2),
            (3..12).map(|key| record(key, if key > 7 { b"new" } else { b"old" })),
        )
        .unwrap();
        let changes = old.changes_to(&new);
        assert_eq!(changes.len(), 3 + 1 + 3);
        let mut builder = PlanBuilder::from_plan(&old);
        changes
            .into_iter()
            .for_each(|change| builder.apply(change).unwrap());
        assert_eq!(builder.finish(Revision(2)), new);
    }

    #[test]
    fn records_round_trip_and_are_bounded() {
        for key in 0..4 {
            let record = record(key, b"body");
            let mut bytes = Vec::new();
            record.encode_into(&mut bytes);
            assert_eq!(bytes.len(), record.encoded_len());
            assert_eq!(WireRecord::decode(&bytes), Some(record));
        }
        let key = RecordKey::new(&[]).unwrap();
        let large = WireRecord::new(1, None, key, vec![0; MAX_RECORD]);
        assert_eq!(large.err(), Some(PlanError::Record));
        assert_eq!(RecordKey::new(&[0; MAX_KEY + 1]).err(), Some(PlanError::Key));
    }
}
