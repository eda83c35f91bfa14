//! How many connections there may be, of all visitors and of one.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::gateway::{
    metrics::Counters,
    per_address::{PerAddress, Share},
    settings::Limits,
};

/// Counts connections, of all shards together. Beyond a bound a new one is closed at once, which is cheap, where waiting would
/// fill the queue that others are in.
#[derive(Debug)]
pub(crate) struct Admissions {
    open: AtomicUsize,
    connections: usize,
    per_address: Arc<PerAddress>,
    counters: Arc<Counters>,
}

/// A connection that was admitted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    admissions: Arc<Admissions>,
    _share: Share,
}

impl Admissions {
    /// Bounds by `limits`.
    pub(crate) fn new(limits: &Limits, counters: Arc<Counters>) -> Self {
        Self {
            open: AtomicUsize::new(0),
            connections: limits.connections,
            per_address: PerAddress::new(limits.connections_per_address),
            counters,
        }
    }

    /// Admits a connection from `address`, or not.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Entry> {
        // Counted first, so that two shards do not both take the last place.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let room = before < self.connections;
        let Some(share) = room.then(|| self.per_address.take(address)).flatten() else {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.counters.refused.one();
            return None;
        };
        self.counters.accepted.one();
        Some(Entry {
            admissions: Arc::clone(self),
            _share: share,
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.admissions.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LESSONS, advisory 7: a cap per address.
    #[test]
    fn connections_are_capped_in_all_and_per_address() {
        let limits = Limits {
            connections: 3,
            connections_per_address: 2,
            ..Limits::default()
        };
        let admissions = Arc::new(Admissions::new(&limits, Arc::default()));
        let admit = |address: &str| admissions.admit(address.parse().unwrap());
        let first = admit("2001:db8::1").unwrap();
        let _second = admit("2001:db8::2").unwrap();
        assert!(admit("2001:db8::3").is_none());
        let _other = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.2").is_none());
        drop(first);
        assert!(admit("::ffff:192.0.2.1").is_some());
        assert_eq!(admissions.counters.refused.get(), 2);
        assert!(admissions.per_address.addresses() <= 2);
    }
}
