//! Brings a device's peers to a desired state.

use std::{collections::VecDeque, time::Instant};

use kakuremichi_core::{key::WireGuardKey, net::Cidr};
use rustc_hash::FxHashSet;

use super::{Device, PeerConfig, peer::Peer};
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
    /// [`MAX_PEERS`](super::MAX_PEERS).
    pub refused: Vec<WireGuardKey>,
}

impl Device {
    /// Makes `peers` the peers of this device: adds, removes and changes what differs. Sessions of
    /// peers that stay go on, unless their preshared key changed.
    pub fn set_peers(&mut self, peers: &[PeerConfig], now: Instant) -> Reconciled {
        let mut done = Reconciled::default();
        let mut wanted = FxHashSet::default();
        for config in peers {
            let own = config.public_key == self.public_key();
            if own || !wanted.insert(config.public_key) {
                done.refused.push(config.public_key);
            }
        }
        // Removed first: what they held is free for others.
        let gone: Vec<PeerId> = self
            .slots
            .iter()
            .flatten()
            .filter(|peer| !wanted.contains(&peer.key))
            .map(|peer| peer.id)
            .collect();
        for id in gone {
            self.remove(id);
            done.removed.push(id);
        }
        // Before any network is given, all that are no longer wanted are taken.
        let own = self.public_key();
        for config in peers.iter().filter(|config| config.public_key != own) {
            if wanted.remove(&config.public_key) {
                self.release(config);
            }
        }
        for config in peers.iter().filter(|config| config.public_key != own) {
            // The set is empty now: it tells the first mention of a key from later ones again.
            if wanted.insert(config.public_key) {
                self.apply(config, &mut done);
            }
        }
        if !done.removed.is_empty() {
            self.common.owners.sweep();
        }
        self.next_tick = now;
        done
    }

    fn remove(&mut self, id: PeerId) {
        let Some(peer) = self.slots.get_mut(id.slot()).and_then(Option::take) else {
            return;
        };
        self.free.push(id.slot() as u32);
        self.indices.remove(peer.index);
        self.by_key.remove(&peer.key);
        for network in &peer.allowed {
            self.allowed.remove(*network, id.slot() as u32);
        }
        peer.ownership.release(self.shard);
        self.counters.overflowed += peer.queue.len() as u64;
    }

    fn release(&mut self, config: &PeerConfig) {
        let Some(&slot) = self.by_key.get(&config.public_key) else {
            return;
        };
        let Some(peer) = self.slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        let allowed = &mut self.allowed;
        peer.allowed.retain(|network| {
            let stays = config.allowed_ips.contains(network);
            if !stays {
                allowed.remove(*network, slot);
            }
            stays
        });
    }

    fn apply(&mut self, config: &PeerConfig, done: &mut Reconciled) {
        let slot = match self.by_key.get(&config.public_key) {
            Some(&slot) => slot,
            None => match self.add(config) {
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
        if !config.same_secret(&peer.preshared) {
            peer.preshared = config.preshared_key.clone();
            self.counters.overflowed += peer.close();
            if !std::mem::replace(&mut peer.changed, true) {
                self.changed.push_back(peer.id);
            }
        }
        peer.keepalive = config.persistent_keepalive;
        if config.endpoint.is_some() && (peer.hint != config.endpoint || peer.last_received.is_none()) {
            let before = peer.endpoint.as_ref().map(|path| path.remote);
            peer.endpoint = config.endpoint.map(Into::into);
            // Whoever probes the peer should do so at its new address without waiting.
            if before != config.endpoint && !std::mem::replace(&mut peer.changed, true) {
                self.changed.push_back(peer.id);
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

    fn add(&mut self, config: &PeerConfig) -> Option<PeerId> {
        let slot = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        let index = self.indices.insert(slot)?;
        if self.free.pop().is_none() {
            self.slots.push(None);
            self.generations.push(0);
        }
        let generation = &mut self.generations[slot as usize];
        let id = PeerId::new(slot, *generation);
        *generation = generation.wrapping_add(1);
        let preshared = config.preshared_key.clone();
        self.slots[slot as usize] = Some(Box::new(Peer {
            id,
            key: config.public_key,
            ownership: self.common.owners.entry(&config.public_key),
            tunnel: None,
            claimed: None,
            preshared,
            allowed: Vec::new(),
            hint: None,
            keepalive: None,
            outdated: false,
            index,
            endpoint: None,
            queue: VecDeque::new(),
            last_sent: None,
            last_received: None,
            last_initiation: None,
            initiations: None,
            responses: 0,
            proven: None,
            received_bytes: 0,
            sent_bytes: 0,
            changed: false,
        }));
        self.by_key.insert(config.public_key, slot);
        Some(id)
    }
}
