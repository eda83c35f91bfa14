//! How everything that serves visitors learns that the gateway stops.

use tokio::sync::watch;

/// Begins the drain. Dropping it without that changes nothing for who listens.
#[derive(Debug)]
pub(crate) struct BeginDrain(watch::Sender<bool>);

/// Tells whether, and when, the drain has begun.
#[derive(Debug, Clone)]
pub(crate) struct Drain(watch::Receiver<bool>);

/// A drain that has not begun.
pub(crate) fn drain() -> (BeginDrain, Drain) {
    let (sender, receiver) = watch::channel(false);
    (BeginDrain(sender), Drain(receiver))
}

impl BeginDrain {
    /// Begins it.
    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    /// Whether it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it has begun, for ever if it never does.
    pub(crate) async fn begun(&mut self) {
        if self.0.wait_for(|begun| *begun).await.is_err() {
            std::future::pending().await
        }
    }
}
