//! What other instances of Control are told of the nodes that are connected here, and what they tell.
//!
//! Sessions are in the memory of the process that has them. Each process tells the store which begin and end, a few
//! times a second, and that it is there itself. Who asks about a node that is not connected here looks there.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kakuremichi_core::{
    id::NodeId,
    store::{Sighting, Store, StoreError},
};

/// How often what happened is told: a crowd that comes at once is told of at once.
const TELL: Duration = Duration::from_millis(250);
/// How often it is told that this process is there. The store takes one for gone that was silent for three times as
/// long.
const ALIVE: Duration = Duration::from_secs(5);

/// What is to be told.
#[derive(Debug)]
pub(super) struct Sightings {
    instance: [u8; 16],
    /// At most one for each node: the newest takes the place of another.
    due: Mutex<BTreeMap<NodeId, Sighting>>,
}

impl Sightings {
    /// For the process that drew these random bytes.
    pub(super) const fn new(instance: [u8; 16]) -> Self {
        Self {
            instance,
            due: Mutex::new(BTreeMap::new()),
        }
    }

    /// The random bytes.
    pub(super) const fn instance(&self) -> &[u8; 16] {
        &self.instance
    }

    /// A session began or ended.
    pub(super) fn note(&self, sighting: Sighting) {
        self.due().insert(sighting.node, sighting);
    }

    /// Tells what is noted. Runs for ever.
    pub(super) async fn tell(&self, store: &dyn Store) {
        let mut alive: Option<Instant> = None;
        loop {
            let due = std::mem::take(&mut *self.due());
            if !due.is_empty() || alive.is_none_or(|told| told.elapsed() >= ALIVE) {
                let sightings: Vec<_> = due.into_values().collect();
                match store.announce(&self.instance, &sightings).await {
                    Ok(()) => alive = Some(Instant::now()),
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "other instances cannot be told"
                        );
                        let mut due = self.due();
                        for sighting in sightings {
                            // Something newer may have happened meanwhile.
                            due.entry(sighting.node).or_insert(sighting);
                        }
                    }
                }
            }
            tokio::time::sleep(TELL).await;
        }
    }

    /// What other processes tell of these nodes.
    pub(super) async fn elsewhere(
        &self,
        store: &dyn Store,
        nodes: &[NodeId],
    ) -> Result<BTreeMap<NodeId, Sighting>, StoreError> {
        if nodes.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = store.sightings(&self.instance, nodes).await?;
        Ok(found
            .into_iter()
            .map(|sighting| (sighting.node, sighting))
            .collect())
    }

    fn due(&self) -> MutexGuard<'_, BTreeMap<NodeId, Sighting>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
