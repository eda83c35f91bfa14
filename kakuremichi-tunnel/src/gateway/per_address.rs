//! How much of something one visitor's address has at once.

use std::{cell::RefCell, net::IpAddr, rc::Rc};

use rustc_hash::FxHashMap;

use super::ingress::address_group;

/// Counts by address (IPv6: by /64), each up to a bound. What comes beyond it is refused.
#[derive(Debug)]
pub(crate) struct PerAddress {
    held: RefCell<FxHashMap<IpAddr, usize>>,
    bound: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Rc<PerAddress>,
    address: IpAddr,
}

impl PerAddress {
    /// Counts up to `bound` for each address.
    pub(crate) fn new(bound: usize) -> Rc<Self> {
        Rc::new(Self {
            held: RefCell::default(),
            bound,
        })
    }

    /// Counts one more of `address`; `None` at the bound.
    pub(crate) fn take(self: &Rc<Self>, address: IpAddr) -> Option<Share> {
        let address = address_group(address);
        let mut held = self.held.borrow_mut();
        let count = held.get(&address).copied().unwrap_or_default();
        if count >= self.bound {
            return None;
        }
        held.insert(address, count + 1);
        Some(Share {
            of: Rc::clone(self),
            address,
        })
    }

    /// How many addresses have some.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> usize {
        self.held.borrow().len()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.held.borrow_mut();
        match held.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => {
                held.remove(&self.address);
            }
        }
    }
}
