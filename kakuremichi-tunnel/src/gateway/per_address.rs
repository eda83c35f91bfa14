//! How much of something one visitor's address has at once.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustc_hash::FxHashMap;

use super::ingress::address_group;

/// Counts by address (IPv6: by /64), each up to a bound, on all shards together. What comes beyond it is refused.
#[derive(Debug)]
pub(crate) struct PerAddress {
    held: Mutex<FxHashMap<IpAddr, usize>>,
    bound: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<PerAddress>,
    address: IpAddr,
}

impl PerAddress {
    /// Counts up to `bound` for each address.
    pub(crate) fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            bound,
        })
    }

    /// Counts one more of `address`; `None` at the bound.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let address = address_group(address);
        let mut held = self.lock();
        let count = held.get(&address).copied().unwrap_or_default();
        if count >= self.bound {
            return None;
        }
        held.insert(address, count + 1);
        Some(Share {
            of: Arc::clone(self),
            address,
        })
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<IpAddr, usize>> {
        // Nothing that is done under the lock panics half way.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many addresses have some.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> usize {
        self.lock().len()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        match held.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => {
                held.remove(&self.address);
            }
        }
    }
}
