//! Leases: what only one of the processes on a store does at a time.
//!
//! The one that holds a lease renews it with each piece of work. When it is killed, another one has it when its
//! time is over; when it ends in an orderly way, it gives it back. Clocks of machines differ, and a process can
//! stop for a while between asking and writing: a lease saves double work, and what must not be done twice is
//! made so by a condition of its own.

use std::{fmt, sync::Arc, time::Duration};

use kakuremichi_core::store::{Store, StoreError};

use crate::service::now;

/// How long a lease is held without being renewed.
pub(crate) const LEASE_LIFE: Duration = Duration::from_secs(15);

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

    /// The store that it is about.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }
}
