//! How many may be connected who have not proven who they are (LESSONS, advisory 7): at the hub, and at the
//! listener before it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kakuremichi_core::net::subscriber;

/// The most connections whose nodes are not authenticated yet. One more is refused: come back later.
pub const MAX_UNAUTHENTICATED: usize = 1024;
/// The most of them from one address, or from one IPv6 /64. One more is refused.
pub const MAX_UNAUTHENTICATED_PER_ADDRESS: usize = 64;

/// Counts them.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// The place of one; given back when dropped.
#[derive(Debug)]
pub(crate) struct Unauthenticated {
    limits: Arc<Limits>,
    address: Option<IpAddr>,
}

impl Limits {
    /// Without an address (the embedder's server does not tell) only the total is bounded.
    pub(crate) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Unauthenticated> {
        let address = address.map(subscriber);
        let mut counts = self.counts();
        if counts.total >= MAX_UNAUTHENTICATED {
            return None;
        }
        if let Some(address) = address {
            let count = counts.by_address.entry(address).or_default();
            if *count >= MAX_UNAUTHENTICATED_PER_ADDRESS {
                return None;
            }
            *count += 1;
        }
        counts.total += 1;
        drop(counts);
        Some(Unauthenticated {
            limits: Arc::clone(self),
            address,
        })
    }

    /// How many there are.
    pub(crate) fn inside(&self) -> usize {
        self.counts().total
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unauthenticated {
    fn drop(&mut self) {
        let mut counts = self.limits.counts();
        counts.total -= 1;
        if let Some(address) = self.address
            && let Some(count) = counts.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_cap_and_all_together_have_one() {
        let limits = Arc::new(Limits::default());
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let mut held: Vec<_> = (0..MAX_UNAUTHENTICATED_PER_ADDRESS)
            .filter_map(|_| limits.enter(Some(one)))
            .collect();
        assert_eq!(held.len(), MAX_UNAUTHENTICATED_PER_ADDRESS);
        assert!(limits.enter(Some(neighbour)).is_none());
        assert!(limits.enter(Some("192.0.2.1".parse().unwrap())).is_some());
        held.extend((held.len()..MAX_UNAUTHENTICATED).filter_map(|_| limits.enter(None)));
        assert_eq!(held.len(), MAX_UNAUTHENTICATED);
        assert!(limits.enter(None).is_none() && limits.enter(Some(one)).is_none());
        held.clear();
        assert!(limits.enter(Some(one)).is_some());
        assert!(limits.counts().by_address.is_empty());
    }
}
