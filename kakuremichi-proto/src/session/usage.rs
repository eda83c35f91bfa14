//! Usage, counted on the node and stored by Control exactly once.
//!
//! Amounts add up in an open batch. Sealing gives it a number in a stream, and from then on its content
//! stays as it is: it is sent, perhaps again and again, until Control acknowledges the number. Control
//! stores a number at most once ([`UsageCursor`]).

use std::collections::{BTreeMap, VecDeque};

use kakuremichi_core::{id::ServiceId, time::Timestamp};
use serde::{Deserialize, Serialize};

use super::{MAX_USAGE_BATCHES, MAX_USAGE_SERVICES};
use crate::{
    codec::{self, CodecError, List},
    identity::sha256,
    message::{self, MAX_USAGE_ENTRIES},
    report::{Amount, UsageBatch, UsageKey},
};

/// What a node has counted and Control has not acknowledged.
///
/// At most [`MAX_USAGE_BATCHES`] batches are sealed; while there are so many, sealing does nothing and
/// amounts go on adding up in the open one, which tells [`MAX_USAGE_SERVICES`] services apart and adds
/// up the rest. So the sums stay exact, and only their detail is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQueue {
    epoch: u64,
    next: u64,
    sealed: VecDeque<UsageBatch>,
    open: BTreeMap<Option<ServiceId>, Amount>,
    open_since: Option<Timestamp>,
}

/// Stored usage cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored usage is damaged: {0}")]
pub struct RestoreUsageError(#[from] CodecError);

impl UsageQueue {
    /// An empty queue. `epoch` is a fresh random number: it tells Control that numbers start anew.
    #[must_use]
    pub const fn new(epoch: u64) -> Self {
        Self {
            epoch,
            next: 1,
            sealed: VecDeque::new(),
            open: BTreeMap::new(),
            open_since: None,
        }
    }

    /// The oldest batch that is not acknowledged, or the next to be sealed.
    #[must_use]
    pub fn next_key(&self) -> UsageKey {
        UsageKey {
            epoch: self.epoch,
            sequence: self.sealed.front().map_or(self.next, |batch| batch.key.sequence),
        }
    }

    /// Adds to the open batch.
    pub fn record(&mut self, service: ServiceId, amount: Amount, at: Timestamp) {
        self.open_since.get_or_insert(at);
        let known = self.open.contains_key(&Some(service)) || self.open.len() < MAX_USAGE_SERVICES;
        self.open.entry(known.then_some(service)).or_default().add(amount);
    }

    /// Seals what is open, in as many batches as it takes, as long as there is room for them.
    pub fn seal(&mut self, until: Timestamp) {
        while !self.open.is_empty() && self.sealed.len() < MAX_USAGE_BATCHES {
            let rest = match self.open.keys().nth(MAX_USAGE_ENTRIES).copied() {
                Some(first) => self.open.split_off(&first),
                None => BTreeMap::new(),
            };
            let entries = std::mem::replace(&mut self.open, rest);
            self.sealed.push_back(UsageBatch {
                key: UsageKey {
                    epoch: self.epoch,
                    sequence: self.next,
                },
                from: self.open_since.unwrap_or(until),
                to: until,
                entries: entries.into_iter().collect(),
            });
            self.next = self.next.saturating_add(1);
        }
        if self.open.is_empty() {
            self.open_since = None;
        }
    }

    /// The sealed batches, oldest first.
    pub fn sealed(&self) -> impl ExactSizeIterator<Item = &UsageBatch> {
        self.sealed.iter()
    }

    /// The first sealed batch with a larger number than `after`.
    #[must_use]
    pub fn sealed_after(&self, after: u64) -> Option<&UsageBatch> {
        self.sealed.iter().find(|batch| batch.key.sequence > after)
    }

    /// Forgets the batches that Control has stored.
    pub fn acknowledge(&mut self, upto: UsageKey) {
        if upto.epoch == self.epoch && upto.sequence < self.next {
            self.sealed.retain(|batch| batch.key.sequence > upto.sequence);
        }
    }

    /// The sealed batches, and the open one, as bytes for a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let sealed = self.sealed.iter().map(|batch| StoredBatch {
            sequence: batch.key.sequence,
            from: batch.from.as_millis(),
            to: batch.to.as_millis(),
            entries: List::truncated(batch.entries.iter().copied().map(Into::into)),
        });
        let open = self
            .open
            .iter()
            .map(|(service, amount)| (*service, *amount).into());
        let mut bytes = codec::encode(&Stored {
            version: STORED_VERSION,
            epoch: self.epoch,
            next: self.next,
            sealed: List::truncated(sealed),
            open: List::truncated(open),
            open_since: self.open_since.map(Timestamp::as_millis),
        });
        let sum = sha256(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RestoreUsageError> {
        let (content, sum) = bytes.split_last_chunk::<32>().ok_or(CodecError::Malformed)?;
        if sha256(content) != *sum {
            return Err(CodecError::Malformed.into());
        }
        let stored: Stored = codec::decode(content)?;
        if stored.version != STORED_VERSION {
            return Err(CodecError::Malformed.into());
        }
        let batch = |batch: StoredBatch| UsageBatch {
            key: UsageKey {
                epoch: stored.epoch,
                sequence: batch.sequence,
            },
            from: Timestamp::from_millis(batch.from),
            to: Timestamp::from_millis(batch.to),
            entries: batch.entries.into_vec().into_iter().map(Into::into).collect(),
        };
        let sealed: VecDeque<_> = stored.sealed.into_vec().into_iter().map(batch).collect();
        let ordered = sealed
            .iter()
            .map(|batch| batch.key.sequence)
            .is_sorted_by(|a, b| a < b);
        if !ordered
            || sealed
                .back()
                .is_some_and(|batch| batch.key.sequence >= stored.next)
        {
            return Err(CodecError::Malformed.into());
        }
        Ok(Self {
            epoch: stored.epoch,
            next: stored.next,
            sealed,
            open: stored.open.into_vec().into_iter().map(Into::into).collect(),
            open_since: stored.open_since.map(Timestamp::from_millis),
        })
    }
}

/// How far Control has stored the usage of one node. It is kept with the usage, in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageCursor(pub Option<UsageKey>);

impl UsageCursor {
    /// Whether the batch is new; then it is the last that was stored. A batch that is not new was
    /// stored, and is to be acknowledged again.
    pub fn admit(&mut self, key: UsageKey) -> bool {
        let new = self
            .0
            .is_none_or(|last| last.epoch != key.epoch || last.sequence < key.sequence);
        if new {
            self.0 = Some(key);
        }
        new
    }
}

const STORED_VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u8,
    epoch: u64,
    next: u64,
    sealed: List<StoredBatch, MAX_USAGE_BATCHES>,
    open: List<message::UsageEntry, { MAX_USAGE_SERVICES + 1 }>,
    open_since: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct StoredBatch {
    sequence: u64,
    from: i64,
    to: i64,
    entries: List<message::UsageEntry, MAX_USAGE_ENTRIES>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(number: u32) -> ServiceId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        ServiceId::from_bytes(id)
    }

    const ONE: Amount = Amount {
        connections: 1,
        requests: 2,
        received: 3,
        sent: 4,
    };

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn usage_merges_when_nobody_acknowledges_and_stays_exact() {
        let mut queue = UsageQueue::new(7);
        for round in 0..100 {
            queue.record(service(1), ONE, at(round));
            queue.seal(at(round));
        }
        assert_eq!(queue.sealed().len(), MAX_USAGE_BATCHES);
        let mut total = Amount::default();
        loop {
            for batch in queue.sealed().cloned().collect::<Vec<_>>() {
                batch.entries.iter().for_each(|(_, amount)| total.add(*amount));
                queue.acknowledge(batch.key);
            }
            queue.seal(at(100));
            if queue.sealed().len() == 0 {
                break;
            }
        }
        assert_eq!((total.connections, total.sent), (100, 400));
    }

    #[test]
    fn the_open_batch_is_bounded() {
        let mut queue = UsageQueue::new(7);
        for number in 0..MAX_USAGE_SERVICES as u32 + 50 {
            queue.record(service(number), ONE, at(0));
        }
        assert_eq!(queue.open.len(), MAX_USAGE_SERVICES + 1);
        assert_eq!(queue.open[&None].connections, 50);
        assert_eq!(UsageQueue::from_bytes(&queue.to_bytes()).as_ref(), Ok(&queue));
        queue.seal(at(1));
        let counted: usize = queue.sealed().map(|batch| batch.entries.len()).sum();
        assert_eq!(counted, MAX_USAGE_SERVICES + 1);
        assert!(
            queue
                .sealed()
                .all(|batch| batch.entries.len() <= MAX_USAGE_ENTRIES)
        );
        assert_eq!(UsageQueue::from_bytes(&queue.to_bytes()), Ok(queue));
    }

    #[test]
    fn a_batch_is_stored_once() {
        let key = |epoch, sequence| UsageKey { epoch, sequence };
        let mut cursor = UsageCursor::default();
        assert!(cursor.admit(key(1, 1)) && cursor.admit(key(1, 2)));
        assert!(!cursor.admit(key(1, 1)) && !cursor.admit(key(1, 2)));
        assert!(cursor.admit(key(2, 1)) && !cursor.admit(key(2, 1)));
    }

    #[test]
    fn an_acknowledgement_of_another_stream_forgets_nothing() {
        let mut queue = UsageQueue::new(7);
        queue.record(service(1), ONE, at(0));
        queue.seal(at(1));
        queue.acknowledge(UsageKey {
            epoch: 8,
            sequence: 1,
        });
        queue.acknowledge(UsageKey {
            epoch: 7,
            sequence: 9,
        });
        assert_eq!(queue.sealed().len(), 1);
        queue.acknowledge(UsageKey {
            epoch: 7,
            sequence: 1,
        });
        assert_eq!(queue.sealed().len(), 0);
    }
}
