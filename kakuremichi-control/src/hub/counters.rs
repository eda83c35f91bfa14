//! What the hub counts.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kakuremichi_core::code::Code;

/// What a Control counted of its nodes' connections, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Connections that are open now.
    pub open: usize,
    /// Those of them that have proven nothing yet.
    pub unauthenticated: usize,
    /// Nodes that are connected now.
    pub connected: usize,
    /// Sessions that nodes were let in to.
    pub sessions: u64,
    /// Nodes that enrolled, or were told again that they had.
    pub enrolments: u64,
    /// Plans that were sent, whole or as a difference.
    pub plans_sent: u64,
    /// Plans that nodes acknowledged.
    pub plans_acknowledged: u64,
    /// Plans that nodes could not use, and that were sent whole again.
    pub plans_resent: u64,
    /// Batches of usage that were stored.
    pub usage_batches: u64,
    /// Frames that were skipped because their tag is not known.
    pub unknown_frames: u64,
    /// Connections that Control ended or did not take, and declarations that it refused, by code.
    pub refusals: BTreeMap<Code, u64>,
}

/// Counts. Each may be read a moment later than another.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sessions: AtomicU64,
    pub(super) enrolments: AtomicU64,
    pub(super) plans_sent: AtomicU64,
    pub(super) plans_acknowledged: AtomicU64,
    pub(super) plans_resent: AtomicU64,
    pub(super) usage_batches: AtomicU64,
    pub(super) unknown_frames: AtomicU64,
    /// At most one entry for each code there is.
    refusals: Mutex<BTreeMap<Code, u64>>,
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Tally {
    pub(super) fn refused(&self, code: Code) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        *refusals.entry(code).or_default() += 1;
    }

    pub(super) fn read(&self, open: usize, unauthenticated: usize, connected: usize) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        Counters {
            open,
            unauthenticated,
            connected,
            sessions: read(&self.sessions),
            enrolments: read(&self.enrolments),
            plans_sent: read(&self.plans_sent),
            plans_acknowledged: read(&self.plans_acknowledged),
            plans_resent: read(&self.plans_resent),
            usage_batches: read(&self.usage_batches),
            unknown_frames: read(&self.unknown_frames),
            refusals: refusals.clone(),
        }
    }
}
