//! One node: the engine of a shard, and what uses it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use kakuremichi_core::{net::Cidr, secret::Secret};
use tokio::sync::watch;

use super::transfer::{Outcome, Transfer};
use crate::{
    engine::{
        IncomingFlow, Listen, Metrics, Network, PeerSettings, PeerView, Shard, ShardConfig,
        command::Inbox,
        handle::Handler,
        handover::{Handover, Siblings},
        tests::support::{PLAIN, key, overlay},
        turn::{Engine, Parts, Publisher, Sources, Turned},
        udp::{Udp, wire::Wire},
    },
    random::SplitMix64,
    wg::{Device, DeviceConfig, PeerConfig},
};

/// As agents and gateways have it.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Nobody has so much to do at one instant.
const TURNS: usize = 20_000;

/// What speaks WireGuard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Boringtun,
    /// What stands for it: the same messages at the same times, and far cheaper.
    Model,
}

/// A node that runs.
pub(super) struct Node {
    number: u8,
    engine: Engine,
    poll: mio::Poll,
    pub(super) shard: Shard,
    pub(super) wire: Wire,
    incoming: Rc<RefCell<Vec<IncomingFlow>>>,
    pub(super) transfers: Vec<Transfer>,
    /// When the engine wants to be woken.
    pub(super) deadline: Option<Instant>,
}

pub(super) fn config(number: u8, seed: u64) -> ShardConfig {
    let mut bytes = [number; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut config = ShardConfig::new("simulation", Secret::new([number; 32]), Vec::new(), bytes);
    config.flows.limits.flows = 64;
    config.flows.ring = 128 * 1024;
    config.limits.stream_buffer = 64 * 1024;
    config
}

impl Node {
    /// A node that knows nobody yet.
    pub(super) fn start(number: u8, seed: u64, cipher: Cipher, now: Instant) -> Self {
        let mut random = SplitMix64::new(seed);
        let config = config(number, random.next());
        let device = DeviceConfig::new(config.private_key.clone(), random.next());
        let device = match cipher {
            Cipher::Boringtun => Device::new(&device, now),
            Cipher::Model => Device::modelled(&device, now),
        };
        let inbox = Arc::new(Inbox::new(config.limits.requests));
        let siblings = Siblings::new(vec![Arc::clone(&inbox)], &[]).unwrap();
        let poll = mio::Poll::new().unwrap();
        let registry = || poll.registry().try_clone().unwrap();
        let wire = Wire::default();
        let sources = Sources {
            device,
            udp: Udp::simulated(vec![(false, Arc::clone(&wire))], registry()),
            registry: registry(),
            inbox: Arc::clone(&inbox),
            handover: Handover::new(Arc::new(siblings), 0),
        };
        let (peers, published) = watch::channel(Arc::new(BTreeMap::new()));
        let (metrics, counted) = watch::channel(Metrics::default());
        let publisher = Publisher { peers, metrics };
        let parts = Parts::new(&config, sources, publisher, &mut random, now).unwrap();
        let incoming = Rc::new(RefCell::new(Vec::new()));
        let taken = Rc::clone(&incoming);
        let handler: Handler = Rc::new(move |flow| taken.borrow_mut().push(flow));
        Self {
            number,
            engine: Engine::new(parts, Rc::new(RefCell::new(Some(handler))), Rc::default()),
            poll,
            shard: Shard {
                inbox,
                peers: published,
                metrics: counted,
                addresses: Arc::new([]),
            },
            wire,
            incoming,
            transfers: Vec::new(),
            deadline: Some(now),
        }
    }

    /// Tells it about others: their numbers, and where they are if that is known.
    pub(super) fn meet(&self, others: &[(u8, Option<SocketAddr>)]) {
        let peers = others.iter().map(|&(other, endpoint)| {
            let mut wireguard = PeerConfig::new(key(other), vec![Cidr::host(overlay(other))]);
            wireguard.endpoint = endpoint;
            wireguard.persistent_keepalive = Some(KEEP_ALIVE);
            PeerSettings {
                wireguard,
                probe: Some(overlay(other)),
            }
        });
        self.shard.configure(Network {
            addresses: vec![overlay(self.number)],
            peers: peers.collect(),
            listen: vec![Listen {
                port: PLAIN,
                preface: None,
            }],
            listen_udp: Vec::new(),
        });
    }

    /// What it knows about another one.
    pub(super) fn view(&self, other: u8) -> Option<PeerView> {
        self.shard.peers.borrow().get(&key(other)).copied()
    }

    pub(super) fn is_online(&self, other: u8) -> bool {
        self.view(other).is_some_and(|view| view.is_online())
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.engine.metrics()
    }

    /// Flows that the engine and the netstack keep, and rings that are in use.
    pub(super) fn holds(&self) -> (usize, usize, usize) {
        let stack = &self.engine.stack;
        (self.engine.flows.len(), stack.flows(), stack.rings_in_use())
    }

    /// Whether no flow is to be served or has a deadline, and nothing was asked for.
    pub(super) fn is_at_rest(&self) -> bool {
        !self.engine.flows.has_dirty() && self.engine.flows.next_deadline().is_none()
    }

    /// Whether an end of a transfer is still open.
    pub(super) fn is_busy(&self) -> bool {
        self.transfers
            .iter()
            .any(|transfer| transfer.outcome == Outcome::Running)
    }

    /// When there is something to do besides what arrives.
    pub(super) fn next(&self) -> Option<Instant> {
        let transfers = self.transfers.iter().filter_map(|transfer| transfer.next);
        transfers.chain(self.deadline).min()
    }

    /// Datagrams arrive.
    pub(super) fn receive(&mut self, from: SocketAddr, datagram: Vec<u8>) {
        self.wire.lock().unwrap().incoming.push_back((from, datagram));
        self.engine.udp.set_ready(0, true, false);
    }

    /// The socket takes no more, or does again.
    pub(super) fn set_full(&mut self, full: bool) {
        self.wire.lock().unwrap().full = full;
        if !full {
            self.engine.udp.set_ready(0, false, true);
        }
    }

    /// Has turns until nothing is to be done at this instant.
    pub(super) fn run(&mut self, now: Instant) {
        for _ in 0..TURNS {
            let mut more = false;
            for flow in self.incoming.borrow_mut().drain(..) {
                self.transfers.push(Transfer::accept(flow));
            }
            for transfer in &mut self.transfers {
                more |= transfer.poll(now);
            }
            match self.engine.turn(&mut self.poll) {
                Turned::Again => continue,
                Turned::Done => panic!("nobody stopped it"),
                Turned::Sleep(deadline) => self.deadline = deadline,
            }
            more |= !self.incoming.borrow().is_empty();
            let inbox = Arc::clone(&self.shard.inbox);
            let mut cx = Context::from_waker(Waker::noop());
            more |= pin!(inbox.woken()).poll(&mut cx).is_ready();
            if !more {
                return;
            }
        }
        panic!("node {} turns for ever: {:?}", self.number, self.transfers);
    }

    /// It is gone from one moment to the next; what used it is told so.
    pub(super) fn crash(self, now: Instant) -> Vec<Transfer> {
        let Self {
            engine,
            shard,
            mut transfers,
            incoming,
            ..
        } = self;
        drop(engine);
        shard.inbox.close();
        incoming.borrow_mut().clear();
        transfers
            .iter_mut()
            .for_each(|transfer| while transfer.poll(now) {});
        transfers
    }

    /// What it sent.
    pub(super) fn sent(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.wire.lock().unwrap().outgoing)
    }
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
