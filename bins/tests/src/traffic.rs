//! A visitor that asks again and again, and counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use http::StatusCode;

use crate::client::Visitor;
use crate::net::Host;
use crate::wait;

/// Failures that are kept; further ones are counted as requests only.
const FAILURES_MAX: usize = 20;

/// Requests one after the other, each on a connection of its own, until told to stop.
#[derive(Debug)]
pub struct Traffic {
    counted: Arc<Counted>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counted {
    stop: AtomicBool,
    requests: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Traffic {
    pub(crate) fn start(host: &Host, visitor: Visitor, url: &str) -> Self {
        let counted = Arc::new(Counted::default());
        let (namespace, url, shared) = (host.namespace().clone(), url.to_owned(), Arc::clone(&counted));
        let thread = thread::spawn(move || {
            namespace.block_on(async || {
                while !shared.stop.load(Ordering::Relaxed) {
                    let failure = match visitor.get(&url).await {
                        Ok(reply) if reply.status == StatusCode::OK => None,
                        Ok(reply) => Some(reply.text()),
                        Err(error) => Some(error.to_string()),
                    };
                    let number = shared.requests.fetch_add(1, Ordering::Relaxed);
                    if let Some(failure) = failure {
                        let mut failures = shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
                        if failures.len() < FAILURES_MAX {
                            failures.push(format!("request {number}: {failure}"));
                        }
                    }
                }
            });
        });
        Self {
            counted,
            thread: Some(thread),
        }
    }

    /// Waits until so many more requests have been answered, well or not.
    ///
    /// # Panics
    ///
    /// They take longer than [`wait::PATIENCE`].
    #[track_caller]
    pub fn more(&self, requests: u64) {
        let now = || self.counted.requests.load(Ordering::Relaxed);
        // One more: the first of them may have begun earlier.
        let goal = now() + requests + 1;
        wait::until("more requests", || (now() >= goal).then_some(()));
    }

    /// Stops, and returns how many requests there were.
    ///
    /// # Panics
    ///
    /// One of them was not answered with 200.
    #[track_caller]
    pub fn without_one_failure(mut self) -> u64 {
        self.end();
        let failures = self
            .counted
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let requests = self.counted.requests.load(Ordering::Relaxed);
        assert!(
            failures.is_empty(),
            "of {requests} requests failed: {failures:#?}"
        );
        requests
    }

    fn end(&mut self) {
        self.counted.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}
