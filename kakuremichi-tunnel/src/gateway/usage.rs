//! What each service used: exact counts, taken in pieces for the report to Control.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kakuremichi_core::id::ServiceId;

/// Counts of one service since they were last taken.
#[derive(Debug, Default)]
pub(crate) struct ServiceUsage {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    requests: AtomicU64,
    connections: AtomicU64,
}

/// What a service used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Bytes of bodies, WebSockets, TCP connections and datagrams that visitors sent.
    pub(crate) bytes_in: u64,
    /// The same toward visitors.
    pub(crate) bytes_out: u64,
    /// HTTP requests that were permitted.
    pub(crate) requests: u64,
    /// TCP connections and UDP sessions that were permitted.
    pub(crate) connections: u64,
}

impl ServiceUsage {
    /// Counts bytes that a visitor sent.
    pub(crate) fn add_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes toward a visitor.
    pub(crate) fn add_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a request.
    pub(crate) fn add_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection.
    pub(crate) fn add_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> Used {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        Used {
            bytes_in: take(&self.bytes_in),
            bytes_out: take(&self.bytes_out),
            requests: take(&self.requests),
            connections: take(&self.connections),
        }
    }
}

/// The counts of all services.
///
/// A service that left the plan is kept until what it used was taken and its last connection ended.
#[derive(Debug, Default)]
pub(crate) struct UsageBook {
    services: Mutex<BTreeMap<ServiceId, Arc<ServiceUsage>>>,
}

impl UsageBook {
    /// The counts of a service.
    pub(crate) fn of(&self, service: ServiceId) -> Arc<ServiceUsage> {
        Arc::clone(self.lock().entry(service).or_default())
    }

    /// Takes what was counted: each byte and request is taken once.
    pub(crate) fn take(&self) -> Vec<(ServiceId, Used)> {
        let mut taken = Vec::new();
        self.lock().retain(|service, usage| {
            let used = usage.take();
            if used != Used::default() {
                taken.push((*service, used));
            }
            used != Used::default() || Arc::strong_count(usage) > 1
        });
        taken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ServiceId, Arc<ServiceUsage>>> {
        // Nothing that is done under the lock panics half way.
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_taken_once() {
        let book = UsageBook::default();
        let service = ServiceId::from_bytes([1; 16]);
        let usage = book.of(service);
        usage.add_in(3);
        usage.add_request();
        let used = book.take();
        assert_eq!(used.len(), 1);
        assert_eq!((used[0].1.bytes_in, used[0].1.requests), (3, 1));
        assert!(book.take().is_empty());
        usage.add_out(5);
        assert_eq!(book.take()[0].1.bytes_out, 5);
        drop(usage);
        book.take();
        assert!(book.lock().is_empty());
    }
}
