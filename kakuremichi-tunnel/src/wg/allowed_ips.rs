//! Which peer an address belongs to: the longest matching prefix, in both directions.

use std::net::IpAddr;

use kakuremichi_core::net::Cidr;
use rustc_hash::FxHashMap;

/// One hash table per prefix length in use, longest first: overlays consist of single addresses, so
/// a look-up is usually one probe.
#[derive(Debug, Default)]
pub(super) struct AllowedIps {
    v4: Vec<Prefixes>,
    v6: Vec<Prefixes>,
}

#[derive(Debug)]
struct Prefixes {
    length: u8,
    slots: FxHashMap<u128, u32>,
}

impl AllowedIps {
    /// Gives a network to a slot; the slot that already has it keeps it and is returned.
    pub(super) fn insert(&mut self, network: Cidr, slot: u32) -> Result<(), u32> {
        let address = network.address();
        let length = network.length();
        let family = self.family_mut(address);
        let at = match family.binary_search_by(|prefixes| length.cmp(&prefixes.length)) {
            Ok(at) => at,
            Err(at) => {
                family.insert(
                    at,
                    Prefixes {
                        length,
                        slots: FxHashMap::default(),
                    },
                );
                at
            }
        };
        match *family[at].slots.entry(masked(address, length)).or_insert(slot) {
            owner if owner == slot => Ok(()),
            owner => Err(owner),
        }
    }

    /// Takes a network from a slot, if it has it.
    pub(super) fn remove(&mut self, network: Cidr, slot: u32) {
        let (address, length) = (network.address(), network.length());
        let family = self.family_mut(address);
        let Some(at) = family.iter().position(|prefixes| prefixes.length == length) else {
            return;
        };
        let slots = &mut family[at].slots;
        let key = masked(address, length);
        if slots.get(&key) == Some(&slot) {
            slots.remove(&key);
        }
        if slots.is_empty() {
            family.remove(at);
        }
    }

    /// The slot whose network is the closest around `address`.
    pub(super) fn slot(&self, address: IpAddr) -> Option<u32> {
        let family = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        family
            .iter()
            .find_map(|prefixes| prefixes.slots.get(&masked(address, prefixes.length)).copied())
    }

    fn family_mut(&mut self, address: IpAddr) -> &mut Vec<Prefixes> {
        if address.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        }
    }
}

fn masked(address: IpAddr, length: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let host_bits = width - u32::from(length);
    // A shift by the whole width is no shift in Rust.
    bits.checked_shr(host_bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mut table = AllowedIps::default();
        let networks = [
            ("0.0.0.0/0", 0),
            ("10.0.0.0/8", 1),
            ("10.1.0.0/16", 2),
            ("fd00::/8", 3),
            ("fd00::1/128", 4),
            ("::/0", 5),
        ];
        for (network, slot) in networks {
            table.insert(network.parse().unwrap(), slot).unwrap();
        }
        let slot = |text: &str| text.parse().ok().and_then(|address| table.slot(address));
        assert_eq!(slot("192.0.2.1"), Some(0));
        assert_eq!(slot("10.2.0.1"), Some(1));
        assert_eq!(slot("10.1.0.1"), Some(2));
        assert_eq!(slot("fd00::2"), Some(3));
        assert_eq!(slot("fd00::1"), Some(4));
        assert_eq!(slot("2001:db8::1"), Some(5));
    }

    #[test]
    fn a_network_has_one_owner() {
        let mut table = AllowedIps::default();
        let network = "10.0.0.0/8".parse().unwrap();
        table.insert(network, 1).unwrap();
        assert_eq!(table.insert(network, 2), Err(1));
        table.remove(network, 2);
        assert_eq!(table.slot("10.0.0.1".parse().unwrap()), Some(1));
        table.remove(network, 1);
        assert_eq!(table.slot("10.0.0.1".parse().unwrap()), None);
        table.insert(network, 2).unwrap();
    }
}
