//! The network between the nodes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::nat::Nat;
use crate::random::SplitMix64;

/// The longest IP packet that an ordinary path carries.
pub(super) const MTU: usize = 1_500;
/// IPv4 and UDP.
const HEADERS: usize = 28;

/// How a host is connected. What concerns one datagram is counted at both ends of its way.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) delay: Duration,
    /// Up to this is added at random, so that datagrams overtake each other.
    pub(super) jitter: Duration,
    /// In a thousand.
    pub(super) loss: u64,
    /// In a thousand.
    pub(super) repeat: u64,
    /// Longer IP packets vanish without a word.
    pub(super) mtu: usize,
    /// Nothing passes.
    pub(super) cut: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(5),
            jitter: Duration::ZERO,
            loss: 0,
            repeat: 0,
            mtu: MTU,
            cut: false,
        }
    }
}

/// Where a node is.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) address: SocketAddr,
    pub(super) nat: Option<Nat>,
    pub(super) link: Link,
}

impl Host {
    fn has(&self, address: IpAddr) -> bool {
        self.nat.as_ref().map_or_else(|| self.address.ip(), Nat::public) == address
    }
}

/// A datagram on its way.
#[derive(Debug)]
struct Flying {
    host: usize,
    from: SocketAddr,
    to: SocketAddr,
    datagram: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) hosts: Vec<Host>,
    random: SplitMix64,
    flying: BTreeMap<(Instant, u64), Flying>,
    /// How many were put on their way.
    count: u64,
    /// Of all that was sent, when, by whom and how long: the same in two runs of one seed.
    pub(super) trace: u64,
}

impl Network {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            hosts: Vec::new(),
            random: SplitMix64::new(seed),
            flying: BTreeMap::new(),
            count: 0,
            trace: 0,
        }
    }

    /// When something arrives next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.flying.keys().next().map(|(at, _)| *at)
    }

    /// A host sends a datagram; `elapsed` is the time since the run began.
    pub(super) fn send(
        &mut self,
        host: usize,
        to: SocketAddr,
        datagram: Vec<u8>,
        now: Instant,
        elapsed: Duration,
    ) {
        for word in [elapsed.as_nanos() as u64, host as u64, datagram.len() as u64] {
            self.trace = SplitMix64::new(self.trace ^ word).next();
        }
        let sender = &mut self.hosts[host];
        let from = match &mut sender.nat {
            Some(nat) => nat.outward(to, now),
            None => sender.address,
        };
        let link = sender.link.clone();
        let Some(target) = self.hosts.iter().position(|other| other.has(to.ip())) else {
            return;
        };
        let far = self.hosts[target].link.clone();
        let mtu = link.mtu.min(far.mtu);
        if link.cut || far.cut || datagram.len() + HEADERS > mtu {
            return;
        }
        let copies = 1 + u64::from(self.permille(link.repeat.max(far.repeat)));
        for _ in 0..copies {
            if self.permille(link.loss) || self.permille(far.loss) {
                continue;
            }
            let jitter = (link.jitter + far.jitter).as_nanos() as u64;
            let jitter = if jitter == 0 {
                0
            } else {
                self.random.next() % jitter
            };
            self.count += 1;
            let at = now + link.delay + far.delay + Duration::from_nanos(jitter);
            let flying = Flying {
                host: target,
                from,
                to,
                datagram: datagram.clone(),
            };
            self.flying.insert((at, self.count), flying);
        }
    }

    /// What has arrived by now: at which host, from where, and what.
    pub(super) fn arrived(&mut self, now: Instant) -> Option<(usize, SocketAddr, Vec<u8>)> {
        loop {
            let entry = self.flying.first_entry().filter(|entry| entry.key().0 <= now)?;
            let Flying {
                host,
                from,
                to,
                datagram,
            } = entry.remove();
            // It may have moved, or been cut off, in the meantime.
            let at = &self.hosts[host];
            let reached = match &at.nat {
                Some(nat) => nat.public() == to.ip() && nat.inward(to.port(), from, now),
                None => at.address == to,
            };
            if reached && !at.link.cut {
                return Some((host, from, datagram));
            }
        }
    }

    fn permille(&mut self, chance: u64) -> bool {
        chance > 0 && self.random.next() % 1_000 < chance
    }
}
