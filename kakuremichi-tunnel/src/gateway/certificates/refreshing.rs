//! Looking at certificates again and again.

#![expect(
    clippy::disallowed_methods,
    reason = "files are looked at again and again, away from the thread that moves packets"
)]

use std::{sync::Arc, time::Duration};

use kakuremichi_proto::report::CertificateStatus;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Interval, MissedTickBehavior, interval},
};

use super::CertificateSource;

/// How often a source is refreshed.
const REFRESH: Duration = Duration::from_secs(3);

/// Refreshes a source now and then, on a thread that may block.
#[derive(Debug)]
pub(in crate::gateway) struct Refreshing {
    source: Arc<dyn CertificateSource>,
    tick: Interval,
    looking: Option<JoinHandle<Vec<CertificateStatus>>>,
}

impl Refreshing {
    /// Begins at once.
    pub(in crate::gateway) fn new(source: Arc<dyn CertificateSource>) -> Self {
        let mut tick = interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            source,
            tick,
            looking: None,
        }
    }

    /// What there is, once it was looked at the next time. Nothing is lost when this is dropped.
    pub(in crate::gateway) async fn looked(&mut self) -> Vec<CertificateStatus> {
        loop {
            let looking = match &mut self.looking {
                Some(looking) => looking,
                None => {
                    self.tick.tick().await;
                    let source = Arc::clone(&self.source);
                    self.looking.insert(spawn_blocking(move || {
                        source.refresh();
                        source.known()
                    }))
                }
            };
            let looked = looking.await;
            self.looking = None;
            match looked {
                Ok(known) => return known,
                Err(error) => tracing::error!(%error, "the certificates cannot be looked at"),
            }
        }
    }
}
