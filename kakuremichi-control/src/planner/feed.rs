//! Reads the store's changes and keeps everybody's plan up to date.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kakuremichi_core::{
    id::OrganizationId,
    model::{Node, Service, Site},
    net::Overlay,
    plan::Revision,
    store::{Change, Entity, Sequence, Store, StoreRecord},
};
use tokio::{sync::watch, time::timeout};

use super::{PlanBoard, plans::Plans};
use crate::service::{UseCaseError, UseCases};

/// How long a change of another process (the command line) may go unnoticed.
const POLL: Duration = Duration::from_secs(2);
/// The pause after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// Runs for ever. `ready` turns true when each node's plan is on the board.
pub(crate) async fn run(use_cases: UseCases, board: Arc<PlanBoard>, ready: watch::Sender<bool>) {
    let mut commits = use_cases.commits();
    let mut feed = loop {
        match Feed::load(&use_cases).await {
            Ok(feed) => break feed,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot read the model");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    feed.publish(&board);
    ready.send_replace(true);
    loop {
        match feed.follow(use_cases.store()).await {
            Ok(true) => feed.publish(&board),
            Ok(false) => {
                // Either way it is time to look: somebody wrote here, or perhaps elsewhere.
                let _ = timeout(POLL, commits.changed()).await;
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot read the changes of the model"
                );
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

struct Feed {
    overlay: Overlay,
    organizations: BTreeMap<OrganizationId, Plans>,
    /// How far the change feed was read. It is the revision of what is planned next: the feed goes on after
    /// a restart, so revisions never go back.
    sequence: Sequence,
}

impl Feed {
    async fn load(use_cases: &UseCases) -> Result<Self, UseCaseError> {
        let overlay = use_cases.start().await?.overlay;
        // Before the records: what changes while they are read is read again.
        let sequence = use_cases.mark_start().await?;
        let mut feed = Self {
            overlay,
            organizations: BTreeMap::new(),
            sequence,
        };
        feed.load_all::<Node>(use_cases.store()).await?;
        feed.load_all::<Site>(use_cases.store()).await?;
        feed.load_all::<Service>(use_cases.store()).await?;
        Ok(feed)
    }

    async fn load_all<E: Entity>(&mut self, store: &dyn Store) -> Result<(), UseCaseError> {
        for stored in store.all::<E>(None).await? {
            let record: StoreRecord = stored.value.into();
            self.plans(record.organization()).set(record.id(), Some(record));
        }
        Ok(())
    }

    /// Reads a part of the feed. Returns whether there was any.
    async fn follow(&mut self, store: &dyn Store) -> Result<bool, UseCaseError> {
        let changes = store.changes(self.sequence).await?;
        let Some(last) = changes.last().map(|change| change.sequence) else {
            return Ok(false);
        };
        for Change {
            record, organization, ..
        } in changes
        {
            // As it is now, which may be newer than the change: then its own change follows, and changes
            // nothing.
            let now = store.get(record).await?.map(|stored| stored.value);
            self.plans(organization).set(record, now);
        }
        self.sequence = last;
        Ok(true)
    }

    fn publish(&mut self, board: &PlanBoard) {
        let revision = Revision(self.sequence.0);
        for plans in self.organizations.values_mut() {
            for (node, planned) in plans.refresh(revision) {
                board.publish(node, planned);
            }
        }
    }

    fn plans(&mut self, organization: OrganizationId) -> &mut Plans {
        self.organizations
            .entry(organization)
            .or_insert_with(|| Plans::new(self.overlay))
    }
}
