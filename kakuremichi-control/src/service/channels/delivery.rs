//! Sends events on every notification channel.
//!
//! A channel has a position in the audit, in the database: what is behind it is sent in its order, and the position
//! moves when it was taken. So everything arrives at least once, after a restart too, and nothing is kept for a
//! channel but its position. Each channel has a task of its own, so that a slow one holds up no other. One process
//! has the lease, and with it all tasks; another that takes over sends again, at most, what was under way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kakuremichi_core::{
    audit::{AuditQuery, AuditRow},
    id::{ChannelId, OrganizationId},
    model::{Channel, ChannelTarget},
    store::{Sequence, StoreError, Stored, Version},
    time::Timestamp,
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    message::Message,
    position::{Position, position},
    sending::SendError,
};
use crate::{
    lease::Lease,
    service::{UseCases, audit, now},
};

/// The lease of whoever sends.
pub(in crate::service) const LEASE: &str = "delivery";
/// The deed that makes a channel: it is sent what is behind it.
pub(super) const CREATE: &str = "notification_channel.create";
/// The deeds after which the channels are read anew.
const CHANGES: [&str; 2] = ["notification_channel.", "organization."];
/// The most events of one request or mail.
const MAX_EVENTS: usize = 100;
/// How often the lease is renewed, and how long an event of another process may wait.
const POLL: Duration = Duration::from_secs(5);
/// How long events are collected before they are sent together.
const SETTLE: Duration = Duration::from_millis(250);
/// A channel to people sends no more often than this: what happens meanwhile comes in one mail.
const MAIL_PAUSE: Duration = Duration::from_secs(60);
/// The pause after the first failure. It doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// An entry of the audit can be read long before.
const SURELY_READ: Duration = Duration::from_secs(24 * 60 * 60);
/// How old an event may be that is sent on a channel that chooses its events: what woke nobody up in time does so no
/// more. A stream of the audit gets everything that is kept.
const MAX_AGE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Sends, whenever this process has the lease.
pub(crate) async fn deliver_for_ever(use_cases: UseCases) {
    let lease = use_cases.lease(LEASE);
    let mut deliveries = Channels::default();
    let mut commits = use_cases.commits();
    loop {
        commits.borrow_and_update();
        if let Err(error) = deliveries.update(&lease, &use_cases).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the notification channels cannot be read"
            );
        }
        if let Ok(Err(_)) = timeout(POLL, commits.changed()).await {
            return;
        }
        sleep(SETTLE).await;
    }
}

/// The channels, a task for each.
#[derive(Default)]
struct Channels {
    tasks: BTreeMap<ChannelId, Task>,
    /// Up to where the audit was looked at for whom to wake; nothing without the lease.
    seen: Option<Sequence>,
}

struct Task {
    version: Version,
    organization: OrganizationId,
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Channels {
    async fn update(&mut self, lease: &Lease, use_cases: &UseCases) -> Result<(), StoreError> {
        if !lease.hold().await? {
            *self = Self::default();
            return Ok(());
        }
        let store = use_cases.store();
        let Some(mut seen) = self.seen else {
            let last = audit::last_entry(store).await?;
            self.read(use_cases).await?;
            self.seen = Some(last);
            return Ok(());
        };
        let (mut touched, mut changed) = (BTreeSet::new(), false);
        loop {
            let entries = store.audit(seen).await?;
            let Some((last, _)) = entries.last() else { break };
            seen = *last;
            changed |= entries
                .iter()
                .any(|(_, entry)| CHANGES.iter().any(|change| entry.action.starts_with(change)));
            touched.extend(entries.iter().filter_map(|(_, entry)| entry.organization));
        }
        if changed {
            self.read(use_cases).await?;
        }
        self.seen = Some(seen);
        for task in self.tasks.values() {
            if touched.contains(&task.organization) {
                task.wake.notify_one();
            }
        }
        Ok(())
    }

    /// Begins the tasks of new channels, and ends those of channels that are gone or changed.
    async fn read(&mut self, use_cases: &UseCases) -> Result<(), StoreError> {
        let channels: Vec<Stored<Channel>> = use_cases.store().all(None).await?;
        let versions: BTreeMap<_, _> = channels
            .iter()
            .map(|channel| (channel.value.id, channel.version))
            .collect();
        self.tasks
            .retain(|id, task| versions.get(id) == Some(&task.version));
        for channel in channels {
            self.tasks
                .entry(channel.value.id)
                .or_insert_with(|| Task::begin(use_cases.clone(), channel));
        }
        Ok(())
    }
}

impl Task {
    fn begin(use_cases: UseCases, channel: Stored<Channel>) -> Self {
        let wake = Arc::new(Notify::new());
        let organization = channel.value.organization;
        let delivery = Delivery {
            use_cases,
            channel: channel.value,
            batch: Vec::new(),
        };
        Self {
            version: channel.version,
            organization,
            task: tokio::spawn(delivery.run(Arc::clone(&wake))),
            wake,
        }
    }
}

/// Why a channel is not where it could be.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Send(#[from] SendError),
}

/// What was done in a turn.
enum Turn {
    /// Events were delivered.
    Delivered,
    /// What there was is not for this channel.
    Passed,
    /// There was nothing.
    Nothing,
}

/// What sends on one channel.
struct Delivery {
    use_cases: UseCases,
    channel: Channel,
    /// What is being sent. It stays as it is until it is taken, so that an attempt and the next send the same.
    batch: Vec<AuditRow>,
}

impl Delivery {
    async fn run(mut self, wake: Arc<Notify>) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.turn().await {
                Ok(Turn::Delivered) => {
                    pause = FIRST_PAUSE;
                    if let ChannelTarget::Mail(_) = self.channel.target {
                        sleep(MAIL_PAUSE).await;
                    }
                }
                Ok(Turn::Passed) => {}
                Ok(Turn::Nothing) => wake.notified().await,
                Err(error) => {
                    tracing::warn!(channel = %self.channel.id, error = &error as &dyn std::error::Error, ?pause, "events are sent again later");
                    sleep(pause).await;
                    pause = LAST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    async fn turn(&mut self) -> Result<Turn, DeliveryError> {
        let store = self.use_cases.store();
        let Some(before) = position(store, self.channel.id).await? else {
            let Some(first) = self.beginning().await? else {
                return Ok(Turn::Nothing);
            };
            Position::at(first).write(store, self.channel.id, None).await?;
            return Ok(Turn::Passed);
        };
        // Somebody else who had the lease may have delivered it meanwhile.
        self.batch.retain(|row| row.sequence > before.sequence());
        if self.batch.is_empty() {
            let query = AuditQuery {
                after: Some(before.sequence()),
                organization: Some(self.channel.organization),
                limit: MAX_EVENTS,
                ..AuditQuery::default()
            };
            self.batch = store.audit_rows(&query).await?;
        }
        let Some(last) = self.batch.last().map(|row| row.sequence) else {
            return Ok(Turn::Nothing);
        };
        let due = self.due(now());
        if due.is_empty() {
            before
                .passed(last)
                .write(store, self.channel.id, Some(&before))
                .await?;
            self.batch.clear();
            return Ok(Turn::Passed);
        }
        let message = Message::of(store, &self.channel, &due, now()).await?;
        let sent = {
            let _slot = self.use_cases.0.deliveries.enter().await;
            self.use_cases.send_on(&self.channel, &message).await
        };
        let after = match &sent {
            Ok(refused) => Position::delivered(last, now(), refused.as_deref()),
            Err(error) => before.failed(now(), &error.sentence()),
        };
        after.write(store, self.channel.id, Some(&before)).await?;
        sent?;
        self.batch.clear();
        Ok(Turn::Delivered)
    }

    /// What of the batch is for this channel.
    fn due(&self, now: Timestamp) -> Vec<AuditRow> {
        let wanted = self.batch.iter().filter(|row| {
            let fresh = self.channel.is_stream() || now < row.entry.at.after(MAX_AGE);
            fresh && self.channel.wants(&row.entry.action)
        });
        wanted.cloned().collect()
    }

    /// The deed that made the channel; none as long as it cannot be read, since others may yet appear in front of
    /// it. Whoever reads it then wakes this task.
    async fn beginning(&self) -> Result<Option<Sequence>, StoreError> {
        let query = AuditQuery {
            organization: Some(self.channel.organization),
            action: Some(CREATE.to_owned()),
            subject: Some(self.channel.id.into()),
            newest_first: true,
            limit: 1,
            ..AuditQuery::default()
        };
        let rows = self.use_cases.store().audit_rows(&query).await?;
        let found = rows.first().map(|row| row.sequence);
        // What is kept of the audit is all behind a deed that was pruned.
        let pruned = now() >= self.channel.created.after(SURELY_READ);
        Ok(found.or_else(|| pruned.then_some(Sequence::START)))
    }
}
