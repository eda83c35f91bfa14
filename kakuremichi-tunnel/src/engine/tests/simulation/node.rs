//! One node: the engines of its shards, and what uses them.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};

use super::{
    talk::{Book, Ended, Talk},
    thread::{Doors, Thread},
    transfer::{Outcome, Transfer},
};
use crate::{
    engine::{
        Listen, Metrics, Network, PeerSettings, PeerView, ShardConfig, ShardSet,
        command::Inbox,
        handover::Siblings,
        proxy_v2_length,
        tests::support::{PLAIN, WITH_PREFACE, key, overlay},
    },
    random::SplitMix64,
    wg::{Device, DeviceConfig, PeerConfig},
};

/// As agents and gateways have it.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// How long who was spoken to keeps a session in which nothing passes; who began it keeps it half as long.
pub(super) const SESSION_IDLE: Duration = Duration::from_secs(60);
/// Nobody has so much to do at one instant.
const TURNS: usize = 40_000;

/// What speaks WireGuard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Boringtun,
    /// What stands for it: the same messages at the same times, and far cheaper.
    Model,
}

/// How many shards a node has, and which of them gets a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shards {
    pub(super) count: u8,
    pub(super) spread: Spread,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    /// The kernel looks at the receiver index, as its program says; what has none goes by the sender's address.
    Steered,
    /// All go by the sender's address: the kernel takes no program.
    ByAddress,
    /// Each goes to another one.
    Anywhere,
    /// What has no receiver index goes to this one, the rest as the kernel's program says.
    To(u8),
}

impl Shards {
    pub(super) const ONE: Self = Self {
        count: 1,
        spread: Spread::Steered,
    };

    /// One to four, by a number at random.
    pub(super) const fn any(number: u64) -> Self {
        Self {
            count: 1 + (number % 4) as u8,
            spread: match number / 4 % 3 {
                0 => Spread::Steered,
                1 => Spread::ByAddress,
                _ => Spread::Anywhere,
            },
        }
    }

    /// Two to four.
    pub(super) const fn several(number: u64) -> Self {
        Self {
            count: 2 + (number % 3) as u8,
            spread: Self::any(number).spread,
        }
    }
}

/// A node that runs.
pub(super) struct Node {
    number: u8,
    pub(super) threads: Vec<Thread>,
    pub(super) spread: Spread,
    random: SplitMix64,
    /// The keys of others that it was told are new, and those before.
    told: BTreeMap<u8, (WireGuardKey, Option<WireGuardKey>)>,
    pub(super) set: ShardSet,
    doors: Doors,
    pub(super) transfers: Vec<Transfer>,
    pub(super) talks: Vec<Talk>,
    /// Of all talks, of all nodes.
    book: Rc<RefCell<Book>>,
}

pub(super) fn config(number: u8, seed: u64) -> ShardConfig {
    let mut bytes = [number; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut config = ShardConfig::new("simulation", Secret::new([number; 32]), Vec::new(), bytes);
    config.flows.limits.flows = 64;
    config.flows.ring = 128 * 1024;
    config.flows.session_idle = SESSION_IDLE;
    config.limits.stream_buffer = 64 * 1024;
    config
}

impl Node {
    /// A node that knows nobody yet.
    pub(super) fn start(
        number: u8,
        seed: u64,
        (cipher, shards): (Cipher, Shards),
        book: &Rc<RefCell<Book>>,
        now: Instant,
    ) -> Self {
        let mut random = SplitMix64::new(seed);
        let config = config(number, random.next());
        let device = DeviceConfig::new(config.private_key.clone(), random.next());
        let devices = match cipher {
            Cipher::Boringtun => Device::for_shards(&device, shards.count, now),
            Cipher::Model => Device::modelled_for_shards(&device, shards.count, now),
        };
        let owners = Arc::clone(devices[0].owners());
        let inbox = |_: &Device| Arc::new(Inbox::new(config.limits.requests));
        let inboxes: Vec<_> = devices.iter().map(inbox).collect();
        let siblings = Arc::new(Siblings::new(inboxes.clone(), &[]).unwrap());
        let doors = Doors::default();
        let threads: Vec<_> = devices
            .into_iter()
            .zip(inboxes)
            .enumerate()
            .map(|(own, (device, inbox))| {
                let place = (inbox, Arc::clone(&siblings), own);
                Thread::start(&config, device, place, &doors, &mut random, now)
            })
            .collect();
        Self {
            number,
            set: ShardSet {
                shards: threads.iter().map(|thread| thread.shard.clone()).collect(),
                owners,
            },
            threads,
            spread: shards.spread,
            random,
            told: BTreeMap::new(),
            doors,
            transfers: Vec::new(),
            talks: Vec::new(),
            book: Rc::clone(book),
        }
    }

    /// Tells it about others: their numbers, and where they are if that is known.
    pub(super) fn meet(&self, others: &[(u8, Option<SocketAddr>)]) {
        let peers = others.iter().map(|&(other, endpoint)| {
            let (newest, previous) = self.keys_of(other);
            let mut wireguard = PeerConfig::new(newest, vec![Cidr::host(overlay(other))]);
            wireguard.previous_key = previous;
            wireguard.endpoint = endpoint;
            wireguard.persistent_keepalive = Some(KEEP_ALIVE);
            PeerSettings {
                wireguard,
                probe: Some(overlay(other)),
            }
        });
        self.set.configure(Network {
            addresses: vec![overlay(self.number)],
            peers: peers.collect(),
            listen: vec![Listen {
                port: PLAIN,
                preface: None,
            }],
            listen_udp: vec![
                Listen {
                    port: PLAIN,
                    preface: None,
                },
                Listen {
                    port: WITH_PREFACE,
                    preface: Some(proxy_v2_length),
                },
            ],
        });
    }

    /// Tells it the keys of another one.
    pub(super) fn tell(&mut self, other: u8, newest: WireGuardKey, previous: Option<WireGuardKey>) {
        self.told.insert(other, (newest, previous));
        self.meet(&[(other, (other == 1).then(|| public(1)))]);
    }

    /// The keys of another one, as it was told.
    pub(super) fn keys_of(&self, other: u8) -> (WireGuardKey, Option<WireGuardKey>) {
        self.told
            .get(&other)
            .copied()
            .unwrap_or_else(|| (key(other), None))
    }

    /// What it knows about another one.
    pub(super) fn view(&self, other: u8) -> Option<PeerView> {
        self.set.peer(&self.keys_of(other).0)
    }

    /// The shard that owns another one.
    pub(super) fn owner(&self, other: u8) -> u8 {
        self.set.owner_of(&self.keys_of(other).0)
    }

    pub(super) fn is_online(&self, other: u8) -> bool {
        self.view(other).is_some_and(|view| view.is_online())
    }

    pub(super) fn metrics(&self) -> Metrics {
        let mut sum = Metrics::default();
        self.threads.iter().for_each(|thread| sum += thread.metrics());
        sum
    }

    /// Whether an end of a transfer, or of a talk, is still open.
    pub(super) fn is_busy(&self) -> bool {
        let mut transfers = self.transfers.iter();
        transfers.any(|transfer| transfer.outcome == Outcome::Running)
            || self.talks.iter().any(|talk| talk.ended == Ended::Running)
    }

    /// When there is something to do besides what arrives.
    pub(super) fn next(&self) -> Option<Instant> {
        let transfers = self.transfers.iter().filter_map(|transfer| transfer.next);
        let threads = self.threads.iter().filter_map(|thread| thread.deadline);
        let talks = self.talks.iter().filter_map(|talk| talk.next);
        transfers.chain(threads).chain(talks).min()
    }

    /// A datagram arrives.
    pub(super) fn receive(&mut self, from: SocketAddr, datagram: Vec<u8>) {
        let count = self.threads.len() as u64;
        let by_address = || {
            let IpAddr::V4(address) = from.ip() else {
                return u64::from(from.port());
            };
            SplitMix64::new(u64::from(u32::from(address)) << 16 | u64::from(from.port())).next()
        };
        let shard = match (self.spread, named(&datagram)) {
            (Spread::Anywhere, _) => self.random.next(),
            (Spread::Steered | Spread::To(_), Some(shard)) => shard.into(),
            (Spread::To(shard), None) => shard.into(),
            (Spread::Steered | Spread::ByAddress, _) => by_address(),
        };
        self.threads[(shard % count) as usize].receive(from, datagram);
    }

    /// The sockets take no more, or do again.
    pub(super) fn set_full(&mut self, full: bool) {
        self.threads.iter_mut().for_each(|thread| thread.set_full(full));
    }

    /// How many of its shards only the clock wakes now.
    pub(super) fn due(&self, now: Instant) -> u64 {
        self.threads.iter().filter(|thread| thread.is_due(now)).count() as u64
    }

    /// Has turns until nothing is to be done at this instant.
    pub(super) fn run(&mut self, now: Instant) {
        for _ in 0..TURNS {
            let mut more = false;
            for flow in self.doors.flows.borrow_mut().drain(..) {
                self.transfers.push(Transfer::accept(flow));
            }
            for session in self.doors.sessions.borrow_mut().drain(..) {
                self.talks.push(Talk::accept(session, &self.book));
            }
            for transfer in &mut self.transfers {
                more |= transfer.poll(now);
            }
            for talk in &mut self.talks {
                more |= talk.poll(now);
            }
            for thread in &mut self.threads {
                more |= thread.run(now);
            }
            if !more {
                return;
            }
        }
        panic!(
            "node {} turns for ever: {:?}, {:?}",
            self.number, self.transfers, self.talks
        );
    }

    /// It is gone from one moment to the next; what used it is told so.
    pub(super) fn crash(self, now: Instant) -> (Vec<Transfer>, Vec<Talk>) {
        let Self {
            threads,
            mut transfers,
            mut talks,
            doors,
            ..
        } = self;
        for thread in threads {
            let inbox = Arc::clone(&thread.shard.inbox);
            drop(thread);
            inbox.close();
        }
        doors.flows.borrow_mut().clear();
        doors.sessions.borrow_mut().clear();
        transfers
            .iter_mut()
            .for_each(|transfer| while transfer.poll(now) {});
        talks.iter_mut().for_each(|talk| while talk.poll(now) {});
        (transfers, talks)
    }

    /// What it sent.
    pub(super) fn sent(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.threads.iter().flat_map(Thread::sent).collect()
    }
}

/// The shard that a message's receiver index names, if it has one.
fn named(datagram: &[u8]) -> Option<u8> {
    let at = match datagram.first()? {
        2 => 11,
        3 | 4 => 7,
        _ => return None,
    };
    datagram.get(at).map(|byte| byte >> 2)
}

/// Where a node's services are.
pub(super) fn service(number: u8) -> SocketAddr {
    SocketAddr::new(overlay(number), PLAIN)
}

/// The public address of a host that has one.
pub(super) fn public(number: u8) -> SocketAddr {
    let address: IpAddr = [192, 0, 2, number].into();
    SocketAddr::new(address, 51_820)
}
