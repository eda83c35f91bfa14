//! The desired state of one node.
//!
//! A plan is a set of records under keys, with a revision. Control projects it from the model; the node
//! applies it whole, whatever it had before. The difference of two plans is only a cheaper way to send
//! the newer one.

mod agent;
mod gateway;
mod previous;
mod sign_in;

pub use agent::{AgentGateway, AgentKey, AgentNode, AgentPlan, AgentRecord, AgentService, AgentTarget};
pub use gateway::{
    GatewayKey, GatewayNode, GatewayPeer, GatewayPlan, GatewayPolicy, GatewayRecord, GatewayService,
    GatewaySibling, PlannedKind, PlannedPool, PlannedRoute, PlannedTarget, Via,
};
pub use previous::PlannedPreviousKeys;
pub use sign_in::{
    GatewayMember, GatewayServiceToken, GatewaySignIn, GatewaySigner, MAX_ENDED_SESSIONS, MAX_SIGNING_KEYS,
};

use std::{collections::BTreeMap, fmt};

use crate::id::ServiceId;

/// The number of a plan. Plans of one node are numbered upwards; the newest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A part of a plan.
pub trait Record: Clone + fmt::Debug + PartialEq {
    /// What tells the record from the others of its plan.
    type Key: Copy + Ord + fmt::Debug;

    /// The key.
    fn key(&self) -> Self::Key;

    /// The service that the record belongs to. A node that does not understand the record must not
    /// serve that service.
    fn service(&self) -> Option<ServiceId>;
}

/// The desired state of one node: records, and the revision that has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<R: Record> {
    revision: Revision,
    records: BTreeMap<R::Key, R>,
}

impl<R: Record> Default for Plan<R> {
    fn default() -> Self {
        Self {
            revision: Revision::default(),
            records: BTreeMap::new(),
        }
    }
}

impl<R: Record> Plan<R> {
    /// Makes a plan. Of two records with one key the later one stays.
    pub fn new(revision: Revision, records: impl IntoIterator<Item = R>) -> Self {
        let records = records.into_iter().map(|record| (record.key(), record)).collect();
        Self { revision, records }
    }

    /// The revision.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The records, in the order of their keys.
    pub fn records(&self) -> impl Iterator<Item = &R> {
        self.records.values()
    }

    /// The record under `key`.
    #[must_use]
    pub fn get(&self, key: R::Key) -> Option<&R> {
        self.records.get(&key)
    }

    /// Whether the two hold the same records, whatever their revisions.
    #[must_use]
    pub fn same_records(&self, other: &Self) -> bool {
        self.records == other.records
    }

    /// What turns this plan into `newer`.
    #[must_use]
    pub fn diff(&self, newer: &Self) -> Delta<R> {
        let changed = newer
            .records
            .iter()
            .filter(|(key, record)| self.records.get(key) != Some(*record));
        let removed = self.records.keys().filter(|key| !newer.records.contains_key(key));
        Delta {
            base: self.revision,
            revision: newer.revision,
            upserts: changed.map(|(_, record)| record.clone()).collect(),
            removals: removed.copied().collect(),
        }
    }

    /// Applies a difference.
    ///
    /// # Errors
    /// When it was not made from this plan's revision: then only a whole plan helps.
    pub fn apply(&mut self, delta: Delta<R>) -> Result<(), WrongBase> {
        if delta.base != self.revision {
            return Err(WrongBase {
                have: self.revision,
                base: delta.base,
            });
        }
        for key in &delta.removals {
            self.records.remove(key);
        }
        self.records
            .extend(delta.upserts.into_iter().map(|record| (record.key(), record)));
        self.revision = delta.revision;
        Ok(())
    }
}

/// The difference of two plans of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta<R: Record> {
    /// The revision that it starts from.
    pub base: Revision,
    /// The revision that it leads to.
    pub revision: Revision,
    /// Records that are new or differ.
    pub upserts: Vec<R>,
    /// Keys of records that are gone.
    pub removals: Vec<R::Key>,
}

/// A difference was applied to another plan than the one it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the delta starts from revision {base}, the plan has {have}")]
pub struct WrongBase {
    /// The plan's revision.
    pub have: Revision,
    /// The delta's base.
    pub base: Revision,
}
