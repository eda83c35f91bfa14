//! How far a notification channel has come.

use kakuremichi_core::{
    id::ChannelId,
    store::{Sequence, Store, StoreError},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::memo;

/// The name of the memo.
const MEMO: &str = "delivery";
/// The longest error that is kept, in bytes.
const MAX_ERROR: usize = 512;

/// How far a channel has come, and how the last attempts went: a memo about the channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct Position {
    /// Entries of the audit up to here were delivered, or are not for this channel.
    sequence: u64,
    delivered: Option<i64>,
    failures: u32,
    failing_since: Option<i64>,
    error: Option<String>,
}

/// How delivery on a notification channel goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryState {
    /// The last entry of the audit that was delivered, or passed over; none before the first.
    pub sequence: Option<Sequence>,
    /// When something was delivered last.
    pub delivered: Option<Timestamp>,
    /// How many attempts failed since then.
    pub failures: u32,
    /// When the first of these was.
    pub failing_since: Option<Timestamp>,
    /// Why the last of these failed.
    pub error: Option<String>,
}

impl Position {
    pub(super) const fn at(sequence: Sequence) -> Self {
        Self {
            sequence: sequence.0,
            delivered: None,
            failures: 0,
            failing_since: None,
            error: None,
        }
    }

    pub(in crate::service) const fn sequence(&self) -> Sequence {
        Sequence(self.sequence)
    }

    /// What is not for the channel was passed over.
    pub(super) fn passed(&self, to: Sequence) -> Self {
        Self {
            sequence: to.0,
            ..self.clone()
        }
    }

    /// An attempt succeeded; perhaps not for everybody.
    pub(super) fn delivered(to: Sequence, now: Timestamp, refused: Option<&str>) -> Self {
        Self {
            delivered: Some(now.as_millis()),
            error: refused.map(short),
            ..Self::at(to)
        }
    }

    /// An attempt failed.
    pub(super) fn failed(&self, now: Timestamp, error: &str) -> Self {
        Self {
            failures: self.failures.saturating_add(1),
            failing_since: self.failing_since.or(Some(now.as_millis())),
            error: Some(short(error)),
            ..self.clone()
        }
    }

    pub(super) fn state(self) -> DeliveryState {
        DeliveryState {
            sequence: Some(Sequence(self.sequence)),
            delivered: self.delivered.map(Timestamp::from_millis),
            failures: self.failures,
            failing_since: self.failing_since.map(Timestamp::from_millis),
            error: self.error,
        }
    }

    /// Writes it in the place of `before`. Returns whether nobody else did meanwhile.
    pub(super) async fn write(
        &self,
        store: &dyn Store,
        channel: ChannelId,
        before: Option<&Self>,
    ) -> Result<bool, StoreError> {
        let before = before.map(memo::text);
        store
            .set_memo(channel.into(), MEMO, before.as_deref(), &memo::text(self))
            .await
    }
}

/// How far a channel has come; none before its first attempt.
pub(in crate::service) async fn position(
    store: &dyn Store,
    channel: ChannelId,
) -> Result<Option<Position>, StoreError> {
    let memo = store.memo(channel.into(), MEMO).await?;
    memo.map(|text| memo::read(MEMO, &text)).transpose()
}

/// Lets a channel stand at an entry.
#[cfg(test)]
pub(in crate::service) async fn stand_at(store: &dyn Store, channel: ChannelId, sequence: Sequence) {
    let wrote = Position::at(sequence).write(store, channel, None).await;
    assert!(wrote.expect("works"));
}

fn short(error: &str) -> String {
    error[..error.floor_char_boundary(MAX_ERROR)].to_owned()
}
