//! How many connections there may be, of all visitors and of one.

use std::{cell::RefCell, net::IpAddr, rc::Rc, sync::Arc};

use rustc_hash::FxHashMap;

use super::address_group;
use crate::gateway::{metrics::Counters, settings::Limits};

/// Counts connections. Beyond a bound a new one is closed at once, which is cheap, where waiting would
/// fill the queue that others are in.
#[derive(Debug)]
pub(crate) struct Admissions {
    state: RefCell<State>,
    connections: usize,
    per_address: usize,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    by_address: FxHashMap<IpAddr, usize>,
}

/// A connection that was admitted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    admissions: Rc<Admissions>,
    address: IpAddr,
}

impl Admissions {
    /// Bounds by `limits`.
    pub(crate) fn new(limits: &Limits, counters: Arc<Counters>) -> Self {
        Self {
            state: RefCell::default(),
            connections: limits.connections,
            per_address: limits.connections_per_address,
            counters,
        }
    }

    /// Admits a connection from `address`, or not.
    pub(crate) fn admit(self: &Rc<Self>, address: IpAddr) -> Option<Entry> {
        let address = address_group(address);
        let mut state = self.state.borrow_mut();
        let of_address = state.by_address.get(&address).copied().unwrap_or_default();
        if state.open >= self.connections || of_address >= self.per_address {
            self.counters.refused.one();
            return None;
        }
        state.open += 1;
        state.by_address.insert(address, of_address + 1);
        self.counters.accepted.one();
        Some(Entry {
            admissions: Rc::clone(self),
            address,
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.admissions.state.borrow_mut();
        state.open -= 1;
        match state.by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => {
                state.by_address.remove(&self.address);
            }
        }
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
        assert!(admissions.state.borrow().by_address.len() <= 2);
    }
}
