//! Leases: what only one of the processes on a store does at a time.
//!
//! The one that holds a lease renews it with each piece of work. When it is killed, another one has it when its
//! time is over; when it ends in an orderly way, it gives it back. Clocks of machines differ, and a process can
//! stop for a while between asking and writing: a lease saves double work, and what must not be done twice is
//! made so by a condition of its own.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use kakuremichi_core::store::{Store, StoreError};
use tokio::time::sleep;

use crate::service::now;

/// How long a lease is held without being renewed.
pub(crate) const LEASE_LIFE: Duration = Duration::from_secs(15);
/// The pause before work that failed is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// The right to do something that only one does at a time, for one process.
#[derive(Clone)]
pub(crate) struct Lease {
    store: Arc<dyn Store>,
    name: &'static str,
    holder: Arc<str>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// A lease that `holder`, this process, may come to have.
    pub(crate) fn new(store: Arc<dyn Store>, name: &'static str, holder: Arc<str>) -> Self {
        Self { store, name, holder }
    }

    /// Takes the lease or renews it; whether this process has it now.
    pub(crate) async fn hold(&self) -> Result<bool, StoreError> {
        let now = now();
        let until = now.after(LEASE_LIFE);
        self.store.hold_lease(self.name, &self.holder, now, until).await
    }

    /// Does the same work again and again, `every` so often, whenever this process has the lease. A failure is reported
    /// as `failed`, and the work done again a minute later. Runs for ever.
    pub(crate) async fn tend<E, F>(&self, every: Duration, failed: &str, work: impl Fn() -> F)
    where
        E: Error + From<StoreError> + 'static,
        F: Future<Output = Result<(), E>>,
    {
        loop {
            let turn = async {
                match self.hold().await? {
                    true => work().await,
                    false => Ok(()),
                }
            };
            let pause = match turn.await {
                Ok(()) => every,
                Err(error) => {
                    tracing::error!(error = &error as &dyn Error, "{failed}");
                    RETRY
                }
            };
            sleep(pause).await;
        }
    }

    /// The store that it is about.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }
}
