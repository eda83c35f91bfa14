//! The clock, the nodes and what lies between them.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use super::{
    nat::{Kind, Nat},
    network::{Host, Link, Network},
    node::{Cipher, Node, SESSION_IDLE, Shards, public, service},
    talk::{self, Book, Ended, Talk, Talking},
    transfer::{Outcome, Transfer, Wanted},
};
use crate::{
    engine::{
        Connect, OpenSession,
        tests::support::{PLAIN, WITH_PREFACE, overlay},
    },
    random::SplitMix64,
    virtual_clock::VirtualClock,
};

/// So often nothing happens twice at one instant, unless a timer is never satisfied.
const STEPS: usize = 50_000;

/// Node 1 is the gateway: it has a public address, and listens. All others are agents that call it.
pub(super) struct World {
    begin: Instant,
    random: SplitMix64,
    cipher: Cipher,
    /// The gateway's; agents have one.
    shards: Shards,
    pub(super) net: Network,
    /// By number, less one; none while it is down.
    pub(super) nodes: Vec<Option<Node>>,
    /// The ends of transfers whose nodes went down, and what had become of them.
    pub(super) lost: Vec<Transfer>,
    /// The same of talks, and what was said in all of them.
    lost_talks: Vec<Talk>,
    pub(super) book: Rc<RefCell<Book>>,
    /// How often each node's timers woke it.
    pub(super) wakeups: Vec<u64>,
    /// The agents' addresses, as the gateway's disk has them.
    remembered: Vec<Option<SocketAddr>>,
    transfers: u64,
    /// Nodes that were asked for something just now.
    asked: Vec<bool>,
    /// Goes last: until then, there is no other time.
    clock: VirtualClock,
}

impl World {
    /// A gateway with one shard, and an agent for each of `nats`.
    pub(super) fn new(seed: u64, cipher: Cipher, nats: &[Option<Kind>]) -> Self {
        Self::with_shards(seed, cipher, Shards::ONE, nats)
    }

    pub(super) fn with_shards(seed: u64, cipher: Cipher, shards: Shards, nats: &[Option<Kind>]) -> Self {
        let clock = VirtualClock::start();
        let begin = clock.now();
        let mut random = SplitMix64::new(seed);
        let mut world = Self {
            begin,
            net: Network::new(random.next()),
            random,
            cipher,
            shards,
            nodes: Vec::new(),
            lost: Vec::new(),
            lost_talks: Vec::new(),
            book: Rc::default(),
            wakeups: vec![0; nats.len() + 1],
            remembered: vec![None; nats.len() + 1],
            transfers: 0,
            asked: vec![false; nats.len() + 1],
            clock,
        };
        for number in 1..=nats.len() as u8 + 1 {
            let nat = match number {
                1 => None,
                _ => nats[usize::from(number) - 2],
            };
            let mapped: IpAddr = [198, 51, 100, number].into();
            let address = match nat {
                None => public(number),
                Some(_) => SocketAddr::new([10, 0, 0, number].into(), 51_820),
            };
            world.net.hosts.push(Host {
                address,
                nat: nat.map(|kind| Nat::new(kind, mapped)),
                link: Link::default(),
            });
            world.nodes.push(None);
            world.start(number);
        }
        world
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now() - self.begin
    }

    /// The numbers of the agents.
    pub(super) fn agents(&self) -> std::ops::RangeInclusive<u8> {
        2..=self.nodes.len() as u8
    }

    pub(super) fn node(&self, number: u8) -> Option<&Node> {
        self.nodes[usize::from(number) - 1].as_ref()
    }

    pub(super) fn node_mut(&mut self, number: u8) -> Option<&mut Node> {
        self.nodes[usize::from(number) - 1].as_mut()
    }

    pub(super) fn host(&mut self, number: u8) -> &mut Host {
        &mut self.net.hosts[usize::from(number) - 1]
    }

    /// Starts a node that is down. The gateway knows where its agents were last.
    pub(super) fn start(&mut self, number: u8) {
        let shards = if number == 1 { self.shards } else { Shards::ONE };
        let kind = (self.cipher, shards);
        let node = Node::start(number, self.random.next(), kind, &self.book, self.clock.now());
        if number == 1 {
            let agents: Vec<_> = (2..=self.wakeups.len() as u8)
                .map(|agent| (agent, self.remembered[usize::from(agent) - 1]))
                .collect();
            node.meet(&agents);
        } else {
            node.meet(&[(1, Some(public(1)))]);
        }
        self.nodes[usize::from(number) - 1] = Some(node);
    }

    /// A node is gone from one moment to the next.
    pub(super) fn crash(&mut self, number: u8) {
        if number == 1 {
            for agent in self.agents() {
                let endpoint = self.node(1).and_then(|node| node.view(agent)?.endpoint);
                let known = &mut self.remembered[usize::from(agent) - 1];
                *known = endpoint.or(*known);
            }
        }
        if let Some(node) = self.nodes[usize::from(number) - 1].take() {
            let (transfers, talks) = node.crash(self.clock.now());
            self.lost.extend(transfers);
            self.lost_talks.extend(talks);
        }
    }

    /// A node's sockets take no more, or do again.
    pub(super) fn set_full(&mut self, number: u8, full: bool) {
        if let Some(node) = self.node_mut(number) {
            node.set_full(full);
            self.asked[usize::from(number) - 1] = true;
        }
    }

    /// An agent's host moves: it has another address, and so has its NAT.
    pub(super) fn roam(&mut self, number: u8) {
        let host = &mut self.net.hosts[usize::from(number) - 1];
        let moved = |address: IpAddr| match address {
            IpAddr::V4(v4) => IpAddr::from((u32::from(v4) + 0x100).to_be_bytes()),
            v6 @ IpAddr::V6(_) => v6,
        };
        host.address.set_ip(moved(host.address.ip()));
        if let Some(nat) = &mut host.nat {
            nat.move_to(moved(nat.public()));
        }
    }

    /// Begins a transfer, unless the node that is to begin it is down; returns its number.
    pub(super) fn transfer(
        &mut self,
        from: u8,
        to: u8,
        up: u64,
        down: u64,
        pace: Option<(usize, Duration)>,
    ) -> Option<u64> {
        self.transfers += 1;
        let number = self.transfers;
        let wanted = Wanted {
            number,
            up,
            down,
            pace,
        };
        let node = self.node_mut(from)?;
        let connect = Connect::new(node.keys_of(to).0, service(to));
        let transfer = Transfer::open(node.set.clone(), connect, wanted);
        node.transfers.push(transfer);
        self.asked[usize::from(from) - 1] = true;
        Some(number)
    }

    /// Begins a talk over a session, unless the node that is to begin it is down. Its number, which is none
    /// yet, is returned.
    pub(super) fn talk(&mut self, from: u8, to: u8, with_preface: bool, wanted: Talking) -> Option<u64> {
        self.transfers += 1;
        let number = self.transfers;
        let wanted = Talking { number, ..wanted };
        let (now, book) = (self.clock.now(), Rc::clone(&self.book));
        let node = self.node_mut(from)?;
        let port = if with_preface { WITH_PREFACE } else { PLAIN };
        let open = OpenSession {
            peer: node.keys_of(to).0,
            remote: SocketAddr::new(overlay(to), port),
            preface: with_preface.then(|| talk::preface(number)),
            idle: SESSION_IDLE / 2,
            meter: Default::default(),
        };
        let talk = Talk::open(node.set.clone(), open, wanted, &book, now);
        node.talks.push(talk);
        self.asked[usize::from(from) - 1] = true;
        Some(number)
    }

    /// How a talk ended at the client, and at the other end, as often as that had a session for it.
    pub(super) fn ends(&self, number: u64) -> (Option<Ended>, Vec<Ended>) {
        let nodes = self.nodes.iter().flatten().flat_map(|node| &node.talks);
        let ends = nodes
            .chain(&self.lost_talks)
            .filter(|talk| talk.number() == Some(number));
        let (client, other): (Vec<_>, Vec<_>) = ends.partition(|talk| talk.is_client());
        let client = client.first().map(|talk| talk.ended);
        (client, other.iter().map(|talk| talk.ended).collect())
    }

    /// What became of both ends of a transfer, as far as there are any: the client's first.
    pub(super) fn outcomes(&self, number: u64) -> (Option<Outcome>, Option<Outcome>) {
        let nodes = self.nodes.iter().flatten().flat_map(|node| &node.transfers);
        let ends: Vec<_> = nodes
            .chain(&self.lost)
            .filter(|transfer| transfer.number() == Some(number))
            .collect();
        let end = |client| {
            let found = ends.iter().find(|transfer| transfer.is_client() == client);
            found.map(|transfer| transfer.outcome)
        };
        (end(true), end(false))
    }

    /// Whether the gateway and all agents see each other.
    pub(super) fn all_online(&self) -> bool {
        self.agents().all(|agent| self.is_online(agent))
    }

    /// Whether the gateway and an agent see each other.
    pub(super) fn is_online(&self, agent: u8) -> bool {
        self.node(1).is_some_and(|gateway| gateway.is_online(agent))
            && self.node(agent).is_some_and(|node| node.is_online(1))
    }

    /// How many shards a node has.
    pub(super) fn shards(&self, number: u8) -> u64 {
        if number == 1 { self.shards.count.into() } else { 1 }
    }

    /// Whether of the gateway's shards only one knows each agent.
    pub(super) fn is_owned_once(&self) -> bool {
        let Some(gateway) = self.node(1) else {
            return true;
        };
        let threads = || (0..).zip(&gateway.threads);
        self.agents().all(|agent| {
            threads().all(|(shard, thread)| thread.knows(agent) == (gateway.owner(agent) == shard))
        })
    }

    /// Whether an end of a transfer, or of a talk, is open.
    pub(super) fn is_busy(&self) -> bool {
        self.nodes.iter().flatten().any(Node::is_busy)
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until `done`, or for that long; returns whether it was.
    pub(super) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now() + limit;
        let mut steps = 0;
        loop {
            if done(self) {
                return true;
            }
            let nodes = self.nodes.iter().flatten().filter_map(Node::next);
            let asked = self.asked.contains(&true).then(|| self.now());
            let next = nodes.chain(self.net.next()).chain(asked).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.clock.advance_to(end);
                return done(self);
            };
            if next > self.now() {
                steps = 0;
            }
            steps += 1;
            assert!(steps < STEPS, "a timer is never satisfied");
            self.clock.advance_to(next);
            self.step();
        }
    }

    /// Everything that happens now.
    fn step(&mut self) {
        let now = self.now();
        let elapsed = self.elapsed();
        let mut awake = std::mem::replace(&mut self.asked, vec![false; self.nodes.len()]);
        while let Some((host, from, datagram)) = self.net.arrived(now) {
            if let Some(node) = &mut self.nodes[host] {
                node.receive(from, datagram);
                awake[host] = true;
            }
        }
        for (host, node) in self.nodes.iter_mut().enumerate() {
            let Some(node) = node else {
                continue;
            };
            self.wakeups[host] += node.due(now);
            if awake[host] || node.next().is_some_and(|next| next <= now) {
                node.run(now);
                for (to, datagram) in node.sent() {
                    self.net.send(host, to, datagram, now, elapsed);
                }
            }
        }
    }
}
