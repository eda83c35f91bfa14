//! Questions to what an embedder adds: each has a deadline, and there are only so many at once
//! (LESSONS, advisories 5 and 7).

use std::{
    error::Error,
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::timeout;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unjudged<E: Error + 'static> {
    /// It failed.
    #[error(transparent)]
    Failed(E),
    /// The answer did not come in time.
    #[error("the answer took too long")]
    TimedOut,
    /// Too many questions are open.
    #[error("too many questions are open")]
    TooMany,
}

/// Asks, within bounds, those of all shards together.
#[derive(Debug)]
pub(super) struct Judgements {
    open: AtomicUsize,
    bound: usize,
    patience: Duration,
}

/// One question, until it is dropped.
struct Question<'a>(&'a AtomicUsize);

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Judgements {
    /// Up to `bound` questions at once, each for up to `patience`. A question more is not asked.
    pub(super) const fn new(bound: usize, patience: Duration) -> Self {
        Self {
            open: AtomicUsize::new(0),
            bound,
            patience,
        }
    }

    /// Waits for an answer.
    pub(super) async fn ask<T, E: Error + 'static>(
        &self,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Unjudged<E>> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let _open = Question(&self.open);
        if before >= self.bound {
            return Err(Unjudged::TooMany);
        }
        match timeout(self.patience, question).await {
            Ok(answer) => answer.map_err(Unjudged::Failed),
            Err(_) => Err(Unjudged::TimedOut),
        }
    }
}
