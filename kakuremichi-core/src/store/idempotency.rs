//! What is remembered of requests, so that one that is sent again is not done again.

use std::time::Duration;

use super::RecordId;
use crate::time::Timestamp;

/// How long a request is remembered.
pub const IDEMPOTENCY_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// The requests of one caller that are remembered; with one more the oldest is forgotten.
pub const MAX_IDEMPOTENCY_KEYS: usize = 1_000;

/// The name of a request that its caller can send again: digests of who the caller is and of the key that they chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// Of the caller.
    pub caller: [u8; 32],
    /// Of the key.
    pub key: [u8; 32],
}

/// A request that a batch carries out. It is remembered in the batch's own transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotentRequest {
    /// Its name.
    pub key: IdempotencyKey,
    /// A digest of what is asked.
    pub request: [u8; 32],
}

/// A request that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The digest of what was asked.
    pub request: [u8; 32],
    /// What it was done to.
    pub subject: Option<RecordId>,
    /// When.
    pub at: Timestamp,
    /// The answer, if it was kept.
    pub answer: Option<Vec<u8>>,
}
