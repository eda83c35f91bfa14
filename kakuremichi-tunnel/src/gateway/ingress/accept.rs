//! How many connections there may be, of all visitors and of one.

use std::{cell::Cell, net::IpAddr, rc::Rc, sync::Arc};

use crate::gateway::{
    metrics::Counters,
    per_address::{PerAddress, Share},
    settings::Limits,
};

/// Counts connections. Beyond a bound a new one is closed at once, which is cheap, where waiting would
/// fill the queue that others are in.
#[derive(Debug)]
pub(crate) struct Admissions {
    open: Cell<usize>,
    connections: usize,
    per_address: Rc<PerAddress>,
    counters: Arc<Counters>,
}

/// A connection that was admitted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    admissions: Rc<Admissions>,
    _share: Share,
}

impl Admissions {
    /// Bounds by `limits`.
    pub(crate) fn new(limits: &Limits, counters: Arc<Counters>) -> Self {
        Self {
            open: Cell::new(0),
            connections: limits.connections,
            per_address: PerAddress::new(limits.connections_per_address),
            counters,
        }
    }

    /// Admits a connection from `address`, or not.
    pub(crate) fn admit(self: &Rc<Self>, address: IpAddr) -> Option<Entry> {
        let room = self.open.get() < self.connections;
        let Some(share) = room.then(|| self.per_address.take(address)).flatten() else {
            self.counters.refused.one();
            return None;
        };
        self.open.set(self.open.get() + 1);
        self.counters.accepted.one();
        Some(Entry {
            admissions: Rc::clone(self),
            _share: share,
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.admissions.open.set(self.admissions.open.get() - 1);
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
        let admissions = Rc::new(Admissions::new(&limits, Arc::default()));
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
