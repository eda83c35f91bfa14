//! The harness: stacks, the links between them, and programs that check every byte.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    netstack::{CloseReason, Event, FlowId, PacketSink, Settings, Stack},
    packet::{Coalescer, Fragment, IpPacket, Protocol, checksum, transport_checksum},
    peer::PeerId,
};

/// The port that every stack of a test listens on.
pub(super) const PORT: u16 = 80;

/// A small generator, so that a test is the same in every run.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True so many times in a thousand.
    pub(super) fn permille(&mut self, chance: u64) -> bool {
        self.below(1_000) < chance
    }
}

/// Takes packets, and holds each to what a sink is promised.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) packets: VecDeque<(PeerId, Vec<u8>)>,
    pub(super) mtu: usize,
    /// How many packets it has room for.
    pub(super) room: usize,
}

impl PacketSink for Wire {
    fn packet(&mut self, peer: PeerId, packet: &[u8]) {
        check_packet(packet, self.mtu);
        self.packets.push_back((peer, packet.to_vec()));
    }

    fn ready(&self) -> bool {
        self.packets.len() < self.room
    }
}

/// A packet is whole, not longer than the MTU, and its checksums are valid.
pub(super) fn check_packet(packet: &[u8], mtu: usize) {
    assert!(packet.len() <= mtu, "{} bytes", packet.len());
    if Fragment::is_one(packet) {
        assert!(Fragment::parse(packet).is_ok());
        return;
    }
    let view = IpPacket::parse(packet).unwrap();
    assert_eq!(view.as_bytes().len(), packet.len());
    if packet[0] >> 4 == 4 {
        assert_eq!(checksum(&packet[..view.header_len()]), 0);
    }
    let sum = match view.protocol() {
        Protocol::Icmp => checksum(view.payload()),
        protocol => transport_checksum(view.source(), view.destination(), protocol, view.payload()),
    };
    assert_eq!(sum, 0);
    if view.protocol() == Protocol::Tcp {
        view.tcp().unwrap();
    }
}

/// How the links behave.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) delay: Duration,
    /// Up to this is added at random, so that packets overtake each other.
    pub(super) jitter: Duration,
    /// In a thousand.
    pub(super) loss: u64,
    /// In a thousand.
    pub(super) repeat: u64,
    /// Segments are joined before they come in.
    pub(super) join: bool,
    /// Bytes per second in each direction, behind a queue of so many bytes that drops what is too much.
    pub(super) rate: Option<(u64, u64)>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss: 0,
            repeat: 0,
            join: true,
            rate: None,
        }
    }
}

/// What a flow's program is to do, and what came of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Program {
    /// How many bytes to send.
    pub(super) to_send: u64,
    /// Whether to shut down behind them.
    pub(super) shut: bool,
    /// How many bytes to take per step; all if none is given.
    pub(super) take: Option<usize>,
    /// Release the flow once it is closed.
    pub(super) release: bool,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) was_shut: bool,
    pub(super) finished: bool,
    pub(super) closed: Option<CloseReason>,
    pub(super) established: bool,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) stack: Stack,
    pub(super) wire: Wire,
    /// Who a peer is, and what that one calls us.
    pub(super) routes: BTreeMap<PeerId, (usize, PeerId)>,
    pub(super) programs: BTreeMap<FlowId, Program>,
    /// The program of flows that come in.
    pub(super) server: Program,
    pub(super) incoming: Vec<(FlowId, PeerId, SocketAddr, SocketAddr)>,
    pub(super) pongs: Vec<Event>,
    /// What was told about UDP sessions.
    pub(super) sessions: Vec<Event>,
    joiner: Coalescer,
    /// When the link from here has carried what is queued.
    idle_at: Instant,
}

#[derive(Debug)]
pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    pub(super) now: Instant,
    pub(super) begin: Instant,
    pub(super) link: Link,
    pub(super) random: Random,
    /// Node 0 takes every window for as large as can be.
    pub(super) boundless: bool,
    under_way: BTreeMap<(Instant, u64), (usize, PeerId, Vec<u8>)>,
    count: u64,
    /// How often something happened.
    pub(super) steps: u64,
}

#[expect(
    clippy::disallowed_methods,
    reason = "virtual time needs some instant to begin with"
)]
pub(super) fn begin() -> Instant {
    Instant::now()
}

pub(super) fn v6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host)
}

pub(super) fn v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, host)
}

/// Small rings and few flows: tests that need more say so.
pub(super) fn settings(host: u8) -> Settings {
    let mut settings = Settings {
        ipv6: Some(v6(host.into())),
        ipv4: Some(v4(host)),
        ..Settings::default()
    };
    settings.ring = 256 * 1024;
    settings.limits.flows = 64;
    settings
}

/// The byte that a program sends at an offset.
pub(super) fn byte(offset: u64) -> u8 {
    (offset ^ (offset >> 8).wrapping_mul(0x9d) ^ (offset >> 16).wrapping_mul(0x6b)) as u8
}

impl Net {
    pub(super) fn new(link: Link) -> Self {
        let now = begin();
        let (nodes, under_way) = (Vec::new(), BTreeMap::new());
        Self {
            nodes,
            now,
            begin: now,
            link,
            random: Random::new(1),
            boundless: false,
            under_way,
            count: 0,
            steps: 0,
        }
    }

    /// Two stacks, each the peer zero of the other: hosts 1 and 2.
    pub(super) fn pair(link: Link) -> Self {
        Self::pair_of(link, settings(1), settings(2))
    }

    pub(super) fn pair_of(link: Link, first: Settings, second: Settings) -> Self {
        let mut net = Self::new(link);
        net.add(first);
        net.add(second);
        net.join(0, 1);
        net
    }

    pub(super) fn add(&mut self, settings: Settings) -> usize {
        let mtu = settings.mtu;
        let seed = self.random.next();
        let mut stack = Stack::new(settings, seed, self.now).unwrap();
        stack.listen([PORT]);
        self.nodes.push(Node {
            stack,
            wire: Wire {
                packets: VecDeque::new(),
                mtu,
                room: 1_000,
            },
            routes: BTreeMap::new(),
            programs: BTreeMap::new(),
            server: Program {
                shut: true,
                ..Program::default()
            },
            incoming: Vec::new(),
            pongs: Vec::new(),
            sessions: Vec::new(),
            joiner: Coalescer::new(),
            idle_at: self.now,
        });
        self.nodes.len() - 1
    }

    /// Makes two nodes peers.
    pub(super) fn join(&mut self, one: usize, other: usize) {
        let (to_other, to_one) = (
            PeerId::new(self.nodes[one].routes.len() as u32, 0),
            PeerId::new(self.nodes[other].routes.len() as u32, 0),
        );
        self.nodes[one].routes.insert(to_other, (other, to_one));
        self.nodes[other].routes.insert(to_one, (one, to_other));
    }

    /// Opens a flow from node 0 to the port of host 2.
    pub(super) fn connect(&mut self, program: Program) -> FlowId {
        self.connect_to(0, PeerId::new(0, 0), v6(2).into(), program)
    }

    pub(super) fn connect_to(&mut self, from: usize, peer: PeerId, to: IpAddr, program: Program) -> FlowId {
        let node = &mut self.nodes[from];
        let settings = node.stack.settings();
        let local = if to.is_ipv4() {
            settings.ipv4.unwrap().into()
        } else {
            settings.ipv6.unwrap().into()
        };
        let flow = node
            .stack
            .connect(peer, local, SocketAddr::new(to, PORT), self.now)
            .unwrap();
        node.programs.insert(flow, program);
        flow
    }

    pub(super) fn program(&self, node: usize, flow: FlowId) -> &Program {
        &self.nodes[node].programs[&flow]
    }

    /// The one flow that came in to node 1.
    pub(super) fn accepted(&self) -> FlowId {
        assert_eq!(self.nodes[1].incoming.len(), 1);
        self.nodes[1].incoming[0].0
    }

    /// How long it has been.
    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.begin
    }

    /// Runs until `done`, or fails when `limit` of virtual time has passed, or nothing goes on.
    pub(super) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) {
        let end = self.now + limit;
        loop {
            self.step();
            if done(self) {
                return;
            }
            match self.next() {
                Some(next) if next <= end => self.now = self.now.max(next),
                Some(_) => panic!(
                    "not done in time: {:#?}",
                    self.nodes.iter().map(|n| &n.programs).collect::<Vec<_>>()
                ),
                None => panic!(
                    "nothing goes on: {:#?}",
                    self.nodes.iter().map(|n| &n.programs).collect::<Vec<_>>()
                ),
            }
        }
    }

    /// Runs for a time, or until nothing goes on.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.step();
            match self.next() {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => break,
            }
        }
        self.now = end;
    }

    /// When something happens next.
    fn next(&self) -> Option<Instant> {
        let arrival = self.under_way.keys().next().map(|(at, _)| *at);
        let timers = self.nodes.iter().filter_map(|node| node.stack.poll_timeout());
        timers.chain(arrival).min()
    }

    /// One turn of every node.
    pub(super) fn step(&mut self) {
        self.steps += 1;
        let now = self.now;
        self.deliver();
        for index in 0..self.nodes.len() {
            self.nodes[index].stack.handle_timeout(now);
            loop {
                let node = &mut self.nodes[index];
                node.events();
                node.work();
                let more = node.stack.transmit(now, &mut node.wire);
                let full = node.wire.room == 0;
                self.carry(index);
                if (!more || full) && !self.nodes[index].stack.has_events() {
                    break;
                }
            }
        }
    }

    /// Brings what has arrived to the stacks.
    fn deliver(&mut self) {
        while let Some(entry) = self.under_way.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, peer, mut packet) = entry.remove();
            if self.boundless && to == 0 {
                // An IPv6 packet with a TCP segment; nobody verifies its checksum.
                packet[54..56].fill(0xff);
            }
            let Node {
                stack, wire, joiner, ..
            } = &mut self.nodes[to];
            if !self.link.join {
                stack.handle_packet(peer, &packet, self.now, wire);
                continue;
            }
            joiner.slot()[..packet.len()].copy_from_slice(&packet);
            joiner.commit(Some((peer, packet.len())), |peer, packet| {
                stack.handle_packet(peer, packet, self.now, wire);
            });
        }
        for Node {
            stack, wire, joiner, ..
        } in &mut self.nodes
        {
            joiner.flush(|peer, packet| stack.handle_packet(peer, packet, self.now, wire));
        }
        for index in 0..self.nodes.len() {
            self.carry(index);
        }
    }

    /// Puts what a node sent on the way.
    fn carry(&mut self, from: usize) {
        while let Some((peer, packet)) = self.nodes[from].wire.packets.pop_front() {
            let Some(&(to, peer)) = self.nodes[from].routes.get(&peer) else {
                continue;
            };
            let copies = 1 + u64::from(self.random.permille(self.link.repeat));
            for _ in 0..copies {
                if self.random.permille(self.link.loss) {
                    continue;
                }
                let mut leaves = self.now;
                if let Some((rate, queue)) = self.link.rate {
                    let node = &mut self.nodes[from];
                    let waiting = node.idle_at.saturating_duration_since(self.now);
                    if waiting.as_micros() as u64 * rate / 1_000_000 > queue {
                        continue;
                    }
                    // What a packet is inside of WireGuard, UDP and IPv6.
                    let size = packet.len() as u64 + 80;
                    node.idle_at =
                        node.idle_at.max(self.now) + Duration::from_nanos(size * 1_000_000_000 / rate);
                    leaves = node.idle_at;
                }
                let jitter = self.link.jitter.as_micros() as u64;
                let jitter = if jitter == 0 { 0 } else { self.random.below(jitter) };
                self.count += 1;
                let at = leaves + self.link.delay + Duration::from_micros(jitter);
                self.under_way
                    .insert((at, self.count), (to, peer, packet.clone()));
            }
        }
    }
}

impl Node {
    fn events(&mut self) {
        while let Some(event) = self.stack.poll_event() {
            match event {
                Event::Incoming {
                    flow,
                    peer,
                    local,
                    remote,
                } => {
                    self.incoming.push((flow, peer, local, remote));
                    let program = Program {
                        established: true,
                        ..self.server.clone()
                    };
                    assert!(self.programs.insert(flow, program).is_none());
                }
                Event::Established(flow) => {
                    let program = self.programs.get_mut(&flow).unwrap();
                    assert!(!program.established);
                    program.established = true;
                }
                Event::Ready(flow) => assert!(self.programs.contains_key(&flow)),
                Event::Closed { flow, reason } => {
                    let program = self.programs.get_mut(&flow).unwrap();
                    assert_eq!(program.closed, None);
                    program.closed = Some(reason);
                    if program.release {
                        self.stack.release(flow);
                    }
                }
                Event::Pong { .. } => self.pongs.push(event),
                Event::SessionEnded { .. } | Event::SessionRefused(_) => self.sessions.push(event),
            }
        }
    }

    /// Has every program do what it can.
    fn work(&mut self) {
        for (&flow, program) in &mut self.programs {
            let mut left = program.take.unwrap_or(usize::MAX);
            while left > 0
                && self
                    .stack
                    .recv(flow, |bytes| {
                        let taken = bytes.len().min(left);
                        for (index, received) in bytes[..taken].iter().enumerate() {
                            assert_eq!(*received, byte(program.received + index as u64));
                        }
                        program.received += taken as u64;
                        left -= taken;
                        (taken, ())
                    })
                    .is_some()
            {}
            if self.stack.recv_finished(flow) {
                program.finished = true;
            }
            while program.sent < program.to_send
                && self
                    .stack
                    .send(flow, |room| {
                        let filled = room.len().min((program.to_send - program.sent) as usize);
                        for (index, slot) in room[..filled].iter_mut().enumerate() {
                            *slot = byte(program.sent + index as u64);
                        }
                        program.sent += filled as u64;
                        (filled, ())
                    })
                    .is_some()
            {}
            if program.shut && program.established && program.sent == program.to_send && !program.was_shut {
                program.was_shut = true;
                self.stack.shutdown(flow);
            }
        }
    }
}
