//! Brings a device's peers to a desired state.

use std::{collections::VecDeque, time::Instant};

use kakuremichi_core::{key::WireGuardKey, net::Cidr};
use rustc_hash::FxHashSet;

use super::{Device, MAX_PEERS, PeerConfig, device::mark, peer::Peer};
use crate::peer::PeerId;

/// What [`Device::set_peers`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Peers that are new.
    pub added: Vec<PeerId>,
    /// Peers that are gone; what belongs to them is void.
    pub removed: Vec<PeerId>,
    /// Networks that were not given, since another peer has them.
    pub conflicts: Vec<(WireGuardKey, Cidr)>,
    /// Peers that were left out: our own key, a key given twice, or more than
    /// [`MAX_PEERS`](super::MAX_PEERS). Previous keys that were left out, for the same reasons; their peers were not.
    pub refused: Vec<WireGuardKey>,
}

/// One peer that there is to be.
struct Wanted<'a> {
    config: &'a PeerConfig,
    previous: Option<WireGuardKey>,
    /// Where it is already, by one of its keys.
    slot: Option<u32>,
}

impl Wanted<'_> {
    fn has_key(&self, key: &WireGuardKey) -> bool {
        self.config.public_key == *key || self.previous.as_ref() == Some(key)
    }
}

impl Device {
    /// Makes `peers` the peers of this device: adds, removes and changes what differs. Sessions of
    /// peers that stay go on, unless their preshared key changed or they are of a key that is not theirs any more. A
    /// peer is the same one as long as one of its two keys is.
    pub fn set_peers(&mut self, peers: &[PeerConfig], now: Instant) -> Reconciled {
        self.refresh_keys();
        let mut done = Reconciled::default();
        let wanted = self.find_wanted(peers, &mut done);
        let stay: FxHashSet<u32> = wanted.iter().filter_map(|wanted| wanted.slot).collect();
        // Removed first: what they held is free for others.
        let gone: Vec<PeerId> = self
            .slots
            .iter()
            .flatten()
            .map(|peer| peer.id)
            .filter(|id| !stay.contains(&(id.slot() as u32)))
            .collect();
        for id in gone {
            self.remove(id);
            done.removed.push(id);
        }
        // Before any network or key is given, all that are no longer wanted are taken.
        for wanted in &wanted {
            self.release(wanted);
        }
        for wanted in wanted {
            self.apply(&wanted, &mut done);
        }
        if !done.removed.is_empty() {
            self.common.owners.sweep();
        }
        self.next_tick = now;
        done
    }

    /// Finds out which peers there are to be, and which of those that there are they are.
    fn find_wanted<'a>(&self, peers: &'a [PeerConfig], done: &mut Reconciled) -> Vec<Wanted<'a>> {
        let is_own = |key: &WireGuardKey| self.keys.get(key).is_some();
        let mut given = FxHashSet::default();
        let mut all = Vec::with_capacity(peers.len());
        for config in peers {
            if is_own(&config.public_key) || !given.insert(config.public_key) {
                done.refused.push(config.public_key);
                continue;
            }
            let slot = self.by_key.get(&config.public_key).copied();
            let slot = slot.filter(|slot| self.has_newest(*slot, &config.public_key));
            all.push(Wanted {
                config,
                previous: None,
                slot,
            });
        }
        let mut taken: FxHashSet<u32> = all.iter().filter_map(|wanted| wanted.slot).collect();
        for wanted in &mut all {
            if let Some(key) = wanted.config.previous_key
                && key != wanted.config.public_key
            {
                if is_own(&key) || !given.insert(key) {
                    done.refused.push(key);
                } else {
                    wanted.previous = Some(key);
                }
            }
            if wanted.slot.is_none() {
                let keys = [Some(wanted.config.public_key), wanted.previous];
                let slots = keys
                    .iter()
                    .flatten()
                    .filter_map(|key| self.by_key.get(key).copied());
                wanted.slot = slots.into_iter().find(|slot| taken.insert(*slot));
            }
        }
        all
    }

    fn has_newest(&self, slot: u32, key: &WireGuardKey) -> bool {
        let peer = self.slots.get(slot as usize).and_then(Option::as_deref);
        peer.is_some_and(|peer| peer.key == *key)
    }

    fn remove(&mut self, id: PeerId) {
        let Some(mut peer) = self.slots.get_mut(id.slot()).and_then(Option::take) else {
            return;
        };
        self.free.push(id.slot() as u32);
        self.counters.overflowed += peer.close(&mut self.indices);
        self.indices.remove(peer.index);
        for key in [Some(peer.key), peer.previous].into_iter().flatten() {
            self.by_key.remove(&key);
        }
        for network in &peer.allowed {
            self.allowed.remove(*network, id.slot() as u32);
        }
        peer.ownership.release(self.shard);
    }

    fn release(&mut self, wanted: &Wanted<'_>) {
        let Some(slot) = wanted.slot else {
            return;
        };
        let Some(peer) = self.slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        let keys = [Some(peer.key), peer.previous].into_iter().flatten();
        for key in keys.filter(|key| !wanted.has_key(key)) {
            self.by_key.remove(&key);
            self.common.owners.forget(&key, &peer.ownership);
        }
        let allowed = &mut self.allowed;
        peer.allowed.retain(|network| {
            let stays = wanted.config.allowed_ips.contains(network);
            if !stays {
                allowed.remove(*network, slot);
            }
            stays
        });
    }

    fn apply(&mut self, wanted: &Wanted<'_>, done: &mut Reconciled) {
        let config = wanted.config;
        let slot = match wanted.slot {
            Some(slot) => slot,
            None => match self.add(wanted) {
                Some(id) => {
                    done.added.push(id);
                    id.slot() as u32
                }
                None => return done.refused.push(config.public_key),
            },
        };
        let Some(peer) = self.slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        if peer.key != config.public_key || peer.previous != wanted.previous {
            peer.key = config.public_key;
            peer.previous = wanted.previous;
            peer.ownership = self.common.owners.entry(&peer.key, peer.previous.as_ref());
            for key in [Some(peer.key), peer.previous].into_iter().flatten() {
                self.by_key.insert(key, slot);
            }
            if peer.keys_changed(&self.keys, &mut self.indices) {
                mark(&mut self.changed, peer);
            }
        }
        if !config.same_secret(&peer.preshared) {
            peer.preshared = config.preshared_key.clone();
            self.counters.overflowed += peer.close(&mut self.indices);
            mark(&mut self.changed, peer);
        }
        peer.keepalive = config.persistent_keepalive;
        if config.endpoint.is_some() && (peer.hint != config.endpoint || peer.last_received.is_none()) {
            let before = peer.endpoint.as_ref().map(|path| path.remote);
            peer.endpoint = config.endpoint.map(Into::into);
            // Whoever probes the peer should do so at its new address without waiting.
            if before != config.endpoint {
                mark(&mut self.changed, peer);
            }
        }
        peer.hint = config.endpoint;
        for network in &config.allowed_ips {
            match self.allowed.insert(*network, slot) {
                Ok(()) if peer.allowed.contains(network) => {}
                Ok(()) => peer.allowed.push(*network),
                Err(_) => done.conflicts.push((config.public_key, *network)),
            }
        }
    }

    fn add(&mut self, wanted: &Wanted<'_>) -> Option<PeerId> {
        if self.slots.len() - self.free.len() >= MAX_PEERS {
            return None;
        }
        let slot = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        let index = self.indices.insert(slot)?;
        if self.free.pop().is_none() {
            self.slots.push(None);
            self.generations.push(0);
        }
        let generation = &mut self.generations[slot as usize];
        let id = PeerId::new(slot, *generation);
        *generation = generation.wrapping_add(1);
        let key = wanted.config.public_key;
        let previous = wanted.previous;
        self.slots[slot as usize] = Some(Box::new(Peer {
            id,
            key,
            previous,
            ownership: self.common.owners.entry(&key, previous.as_ref()),
            tunnel: None,
            second: None,
            trying: None,
            claimed: None,
            preshared: wanted.config.preshared_key.clone(),
            allowed: Vec::new(),
            hint: None,
            keepalive: None,
            index,
            endpoint: None,
            queue: VecDeque::new(),
            last_sent: None,
            last_received: None,
            initiations: None,
            responses: 0,
            received_bytes: 0,
            sent_bytes: 0,
            changed: false,
        }));
        for key in [Some(key), previous].into_iter().flatten() {
            self.by_key.insert(key, slot);
        }
        Some(id)
    }
}
