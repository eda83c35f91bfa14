//! How many UDP sessions there may be: in all, at one service and of one visitor.

use std::{cell::RefCell, net::IpAddr, rc::Rc, sync::Arc};

use rustc_hash::FxHashMap;

use crate::gateway::{ingress::address_group, metrics::Counters, settings::Limits};

/// Counts sessions. Beyond a bound the datagram that would begin another one is dropped and counted:
/// sessions that there are go on, whoever else comes.
#[derive(Debug)]
pub(crate) struct SessionAdmissions {
    state: RefCell<State>,
    sessions: usize,
    per_service: usize,
    per_address: usize,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    by_address: FxHashMap<IpAddr, usize>,
}

/// The place of a session, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    admissions: Rc<SessionAdmissions>,
    address: IpAddr,
}

impl SessionAdmissions {
    /// Bounds by `limits`.
    pub(super) fn new(limits: &Limits, counters: Arc<Counters>) -> Self {
        Self {
            state: RefCell::default(),
            sessions: limits.udp_sessions,
            per_service: limits.udp_sessions_per_service,
            per_address: limits.udp_sessions_per_address,
            counters,
        }
    }

    /// Admits a session from `address` to a service that has `at_service` of them, or not.
    pub(super) fn admit(self: &Rc<Self>, address: IpAddr, at_service: usize) -> Option<Place> {
        let address = address_group(address);
        let mut state = self.state.borrow_mut();
        let of_address = state.by_address.get(&address).copied().unwrap_or_default();
        if state.open >= self.sessions || of_address >= self.per_address || at_service >= self.per_service {
            self.counters.udp_overflowed.one();
            return None;
        }
        state.open += 1;
        state.by_address.insert(address, of_address + 1);
        Some(Place {
            admissions: Rc::clone(self),
            address,
        })
    }
}

impl Drop for Place {
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

    /// LESSONS, advisory 7: a cap per address, and DESIGN, invariant 7: everything is bounded.
    #[test]
    fn sessions_are_capped_in_all_per_service_and_per_address() {
        let limits = Limits {
            udp_sessions: 3,
            udp_sessions_per_service: 9,
            udp_sessions_per_address: 2,
            ..Limits::default()
        };
        let admissions = Rc::new(SessionAdmissions::new(&limits, Arc::default()));
        let admit = |address: &str, at_service| admissions.admit(address.parse().unwrap(), at_service);
        let first = admit("2001:db8::1", 0).unwrap();
        let _second = admit("2001:db8::2", 0).unwrap();
        assert!(admit("2001:db8::3", 0).is_none());
        assert!(admit("192.0.2.1", 9).is_none());
        let _other = admit("192.0.2.1", 8).unwrap();
        assert!(admit("192.0.2.2", 0).is_none());
        drop(first);
        assert!(admit("::ffff:192.0.2.1", 0).is_some());
        assert_eq!(admissions.counters.udp_overflowed.get(), 3);
        assert!(admissions.state.borrow().by_address.len() <= 2);
    }
}
