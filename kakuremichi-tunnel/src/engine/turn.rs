//! One turn of a shard: everything between waking up and going to sleep.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Poll, Registry};
use rustc_hash::FxHashMap;
use tokio::sync::{oneshot, watch};

use super::{
    Drained, EngineCounters, EngineLimits, Metrics, Peers, PrefaceLength, ShardConfig, SpawnError, clock,
    command::{Command, Inbox},
    egress::Egress,
    flow::FlowTable,
    handle::{HandlerSlot, SessionHandlerSlot},
    handover::Handover,
    peers::{PeerTable, Task},
    session::SessionTable,
    udp::{Buffers, Udp},
    wall::WallWatch,
};
use crate::{
    lane::PaddedProbe,
    netstack::{FlowId, Received, SessionId, Stack},
    packet::{Coalescer, ECHO_HEADER},
    peer::PeerId,
    random::SplitMix64,
    wg::Device,
};

/// Socket events that are taken at once; more are taken in the next turn.
const EVENTS: usize = 1024;
/// Tokens of spliced sockets are their flows' slots behind those of the UDP sockets.
pub(super) const FIRST_FLOW: usize = 8;
/// How often counters are published.
const METRICS: Duration = Duration::from_secs(1);
/// How often probes are looked at.
pub(super) const PROBE_TICK: Duration = Duration::from_millis(250);
/// The identifier of our echo requests; their payloads tell them from others'.
const PROBE_IDENTIFIER: u16 = 0x6b6d;
/// The identifier of padded ones.
pub(super) const PADDED_IDENTIFIER: u16 = 0x6b6e;
/// How often flows are served again within a turn when serving them had consequences.
const SERVINGS: usize = 4;

/// What comes after a turn.
pub(super) enum Turned {
    /// Another one, as soon as other tasks had theirs.
    Again,
    /// Sleep until something happens or the time has come.
    Sleep(Option<Instant>),
    /// Nothing: the shard is done.
    Done,
}

/// The engine of a shard. What it does with flows stands in `lifecycle.rs`.
pub(super) struct Engine {
    pub(super) device: Device,
    pub(super) stack: Stack,
    pub(super) udp: Udp,
    buffers: Buffers,
    coalescer: Coalescer,
    pub(super) peers: PeerTable,
    pub(super) flows: FlowTable,
    pub(super) sessions: SessionTable,
    pub(super) limits: EngineLimits,
    /// Our overlay addresses.
    pub(super) addresses: (Option<Ipv6Addr>, Option<Ipv4Addr>),
    pub(super) ports: FxHashMap<u16, Option<PrefaceLength>>,
    pub(super) udp_ports: FxHashMap<u16, Option<PrefaceLength>>,
    events: Events,
    pub(super) registry: Registry,
    pub(super) inbox: Arc<Inbox>,
    pub(super) handler: HandlerSlot,
    pub(super) session_handler: SessionHandlerSlot,
    publisher: Publisher,
    handover: Handover,
    probe_at: Instant,
    metrics_at: Instant,
    wall: WallWatch,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) counters: EngineCounters,
    // Lists whose memory is used again in each turn.
    commands: VecDeque<Command>,
    touched: Vec<FlowId>,
    touched_sessions: Vec<SessionId>,
    serving: Vec<FlowId>,
    pub(super) received: Received,
    pub(super) tasks: Vec<Task>,
}

/// A shutdown under way.
pub(super) struct Shutdown {
    pub(super) until: Instant,
    pub(super) replies: Vec<oneshot::Sender<Drained>>,
}

/// The parts of an engine that can fail to be made, before its thread exists.
pub(super) struct Parts {
    device: Device,
    stack: Stack,
    udp: Udp,
    registry: Registry,
    inbox: Arc<Inbox>,
    publisher: Publisher,
    handover: Handover,
    limits: EngineLimits,
    peers: PeerTable,
}

/// Where a shard tells what it knows.
pub(super) struct Publisher {
    pub(super) peers: watch::Sender<Arc<Peers>>,
    pub(super) metrics: watch::Sender<Metrics>,
}

/// Where a shard's datagrams and events come from.
pub(super) struct Sources {
    pub(super) device: Device,
    pub(super) udp: Udp,
    pub(super) registry: Registry,
    pub(super) inbox: Arc<Inbox>,
    pub(super) handover: Handover,
}

impl Parts {
    /// `random` gives each shard numbers of its own.
    pub(super) fn new(
        config: &ShardConfig,
        sources: Sources,
        publisher: Publisher,
        random: &mut SplitMix64,
        now: Instant,
    ) -> Result<Self, SpawnError> {
        let mtu = u16::try_from(config.flows.mtu).unwrap_or(u16::MAX);
        Ok(Self {
            stack: Stack::new(config.flows.clone(), random.next(), now)?,
            peers: PeerTable::new(
                config.probes,
                &config.limits,
                sources.device.owners().shards(),
                mtu,
                random.next(),
                now,
            ),
            device: sources.device,
            udp: sources.udp,
            registry: sources.registry,
            inbox: sources.inbox,
            handover: sources.handover,
            publisher,
            limits: config.limits,
        })
    }
}

impl Engine {
    pub(super) fn new(parts: Parts, handler: HandlerSlot, session_handler: SessionHandlerSlot) -> Self {
        let settings = parts.stack.settings();
        Self {
            addresses: (settings.ipv6, settings.ipv4),
            device: parts.device,
            stack: parts.stack,
            udp: parts.udp,
            buffers: Buffers::new(),
            coalescer: Coalescer::new(),
            peers: parts.peers,
            flows: FlowTable::default(),
            sessions: SessionTable::default(),
            limits: parts.limits,
            ports: FxHashMap::default(),
            udp_ports: FxHashMap::default(),
            events: Events::with_capacity(EVENTS),
            registry: parts.registry,
            inbox: parts.inbox,
            handler,
            session_handler,
            publisher: parts.publisher,
            handover: parts.handover,
            probe_at: clock::now(),
            metrics_at: clock::now(),
            wall: WallWatch::default(),
            shutdown: None,
            counters: EngineCounters::default(),
            commands: VecDeque::new(),
            touched: Vec::new(),
            touched_sessions: Vec::new(),
            serving: Vec::new(),
            received: Received::default(),
            tasks: Vec::new(),
        }
    }

    pub(super) const fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Takes what is there, serves it, and sends what follows from it.
    pub(super) fn turn(&mut self, poll: &mut Poll) -> Turned {
        self.counters.turns += 1;
        let now = clock::now();
        let orphaned = self.take_requests(now);
        let more_events = self.take_socket_events(poll);
        self.receive(now);
        self.run_timers(now);
        self.serve(now);
        // What a full socket holds back is sent when the socket says so.
        let more = self.transmit(now) && !self.udp.is_blocked();
        self.udp.flush();
        self.publish(now);
        if orphaned || self.is_drained(now) {
            self.stop(now);
            return Turned::Done;
        }
        let waiting = self.collect_events(now) || self.sessions.has_dirty();
        if more || more_events || waiting || self.udp.is_readable() {
            return Turned::Again;
        }
        Turned::Sleep(self.deadline())
    }

    /// Everything that was counted.
    pub(super) fn metrics(&self) -> Metrics {
        let udp = self.udp.counters;
        Metrics {
            wireguard: *self.device.counters(),
            netstack: self.stack.counters(),
            engine: EngineCounters {
                datagrams_received: udp.received,
                datagrams_sent: udp.sent,
                sends: udp.sends,
                datagrams_dropped: udp.dropped,
                handed_over: self.handover.handed,
                handover_dropped: self.handover.dropped,
                ..self.counters
            },
            flows: self.flows.len(),
            sessions: self.sessions.len(),
            flow_memory: self.stack.memory(),
        }
    }

    /// Sends what the netstack has to send; returns whether there is more.
    pub(super) fn transmit(&mut self, now: Instant) -> bool {
        let Self {
            device, udp, stack, ..
        } = self;
        stack.transmit(now, &mut Egress { device, udp, now })
    }

    /// Does what the probes ask for.
    pub(super) fn run_tasks(&mut self, now: Instant) {
        let mut tasks = std::mem::take(&mut self.tasks);
        for task in tasks.drain(..) {
            match task {
                Task::Ping(peer, to, probe) => {
                    let Self {
                        device, udp, stack, ..
                    } = self;
                    let mut egress = Egress { device, udp, now };
                    let sent = stack.ping(
                        peer,
                        to,
                        PROBE_IDENTIFIER,
                        probe.sequence,
                        &probe.payload,
                        &mut egress,
                    );
                    if let Err(error) = sent {
                        tracing::debug!(%peer, %error, "a probe cannot be sent");
                    }
                }
                Task::Pad(peer, to, probe) => self.pad(peer, to, probe, now),
                Task::Mtu(peer, mtu) => {
                    // Otherwise it begins anew, at full length, elsewhere.
                    self.counters.mtu_lowered += u64::from(usize::from(mtu) < self.stack.settings().mtu);
                    self.set_mtu(peer, mtu);
                }
                Task::Initiate(peer) => self.device.initiate(peer, &mut self.udp, now),
                Task::GiveUp(peer) => self.stack.remove_connecting(peer),
                Task::Abandon(peer) => self.stack.remove_peer(peer),
            }
        }
        self.tasks = tasks;
    }

    /// Sends a padded probe.
    fn pad(&mut self, peer: PeerId, to: IpAddr, probe: PaddedProbe, now: Instant) {
        let headers = ECHO_HEADER + if to.is_ipv4() { 20 } else { 40 };
        let mut payload = vec![0; usize::from(probe.length).saturating_sub(headers).max(8)];
        payload[..8].copy_from_slice(&probe.payload);
        let Self {
            device, udp, stack, ..
        } = self;
        let mut egress = Egress { device, udp, now };
        let sent = stack.ping(peer, to, PADDED_IDENTIFIER, probe.sequence, &payload, &mut egress);
        if let Err(error) = sent {
            tracing::debug!(%peer, %error, "a padded probe cannot be sent");
        }
    }

    /// Follows what is known of the way to a peer.
    pub(super) fn set_mtu(&mut self, peer: PeerId, mtu: u16) {
        let key = self.peers.key(peer);
        tracing::info!(
            peer = key.map(tracing::field::display),
            mtu,
            "packets to a peer have another length"
        );
        self.stack.set_peer_mtu(peer, mtu.into());
    }

    /// Takes what others asked for; returns whether nobody keeps the shard running any more.
    fn take_requests(&mut self, now: Instant) -> bool {
        let mut commands = std::mem::take(&mut self.commands);
        let taken = self
            .inbox
            .take(&mut commands, &mut self.touched, &mut self.touched_sessions);
        if let Some(network) = taken.network {
            self.configure(&network, now);
        }
        for command in commands.drain(..) {
            self.command(command, now);
        }
        self.commands = commands;
        for flow in self.touched.drain(..) {
            self.flows.mark(flow);
        }
        for session in self.touched_sessions.drain(..) {
            self.sessions.mark(session);
        }
        taken.orphaned
    }

    /// Takes socket events without waiting; returns whether there may be more.
    fn take_socket_events(&mut self, poll: &mut Poll) -> bool {
        if let Err(error) = poll.poll(&mut self.events, Some(Duration::ZERO)) {
            // Interrupted: the next turn is at once.
            tracing::trace!(%error, "sockets could not be asked");
            return true;
        }
        let mut count = 0;
        for event in &self.events {
            count += 1;
            let token = event.token().0;
            if token < FIRST_FLOW {
                self.udp
                    .set_ready(token, event.is_readable(), event.is_writable());
            } else if let Some(flow) = self.flows.at(token - FIRST_FLOW) {
                let closing = event.is_read_closed() || event.is_error();
                let writable = event.is_writable() || event.is_error();
                let id = flow.id;
                if flow.set_ready(event.is_readable() || closing, writable, closing) {
                    self.flows.mark(id);
                }
            }
        }
        count == EVENTS
    }

    /// Receives at most one batch from each UDP socket.
    fn receive(&mut self, now: Instant) {
        for socket in 0..self.udp.sockets() {
            let Self {
                udp,
                buffers,
                device,
                stack,
                coalescer,
                handover,
                ..
            } = self;
            let filled = udp.receive(socket, buffers);
            for at in 0..filled {
                let (from, datagrams) = buffers.datagrams(at);
                for datagram in datagrams {
                    udp.counters.received += 1;
                    let opened = device.open(from, datagram, coalescer.slot(), udp, now);
                    if opened.is_none()
                        && let Some(shard) = device.poll_elsewhere()
                    {
                        handover.put(shard, from, datagram);
                    }
                    coalescer.commit(opened, |peer, packet| {
                        stack.handle_packet(peer, packet, now, &mut Egress { device, udp, now });
                    });
                }
            }
            if filled > 0 {
                coalescer.flush(|peer, packet| {
                    stack.handle_packet(peer, packet, now, &mut Egress { device, udp, now });
                });
            }
        }
        self.handover.flush();
        self.take_handed(now);
        self.deliver_datagrams(now);
        while let Some(peer) = self.device.poll_changed() {
            self.peers.nudge(peer, &self.device, now, &mut self.tasks);
        }
        self.run_tasks(now);
    }

    /// Takes what other shards received for this one.
    fn take_handed(&mut self, now: Instant) {
        let Self {
            udp,
            device,
            stack,
            coalescer,
            handover,
            ..
        } = self;
        handover.take(|from, datagram, admitted| {
            let opened = device.open_handed(admitted, from, datagram, coalescer.slot(), udp, now);
            coalescer.commit(opened, |peer, packet| {
                stack.handle_packet(peer, packet, now, &mut Egress { device, udp, now });
            });
        });
        coalescer.flush(|peer, packet| {
            stack.handle_packet(peer, packet, now, &mut Egress { device, udp, now });
        });
    }

    fn run_timers(&mut self, now: Instant) {
        self.device.handle_timeout(&mut self.udp, now);
        self.stack.handle_timeout(now);
        if now >= self.probe_at {
            self.probe_at = now + PROBE_TICK;
            let Self { device, stack, .. } = self;
            device.hold_live(|peer| stack.flows_of(peer) > 0, now);
            if self.wall.has_stepped(now, clock::wall()) {
                tracing::info!("the clock was set, or the machine has slept: all peers are asked anew");
                self.device.clock_stepped();
                self.peers.nudge_all(now);
            }
            self.peers.handle_timeout(&self.device, now, &mut self.tasks);
            self.run_tasks(now);
        } else if self.peers.call_at().is_some_and(|at| at <= now) {
            self.peers.call(&self.device, now, &mut self.tasks);
            self.run_tasks(now);
        }
        while let Some(flow) = self.flows.overdue(now) {
            self.give_up(flow, now);
        }
    }

    /// Serves flows until nothing follows from it any more, or for long enough.
    fn serve(&mut self, now: Instant) {
        self.serve_sessions(now);
        for _ in 0..SERVINGS {
            self.collect_events(now);
            let mut serving = std::mem::take(&mut self.serving);
            self.flows.take_dirty(&mut serving);
            let idle = serving.is_empty();
            for flow in serving.drain(..) {
                self.serve_flow(flow, now);
            }
            self.serving = serving;
            if idle {
                return;
            }
        }
    }

    /// Takes the netstack's events; returns whether a flow is to be served.
    fn collect_events(&mut self, now: Instant) -> bool {
        while let Some(event) = self.stack.poll_event() {
            self.event(event, now);
        }
        self.flows.has_dirty()
    }

    fn publish(&mut self, now: Instant) {
        let peers = self.peers.publish(&self.device, now);
        if peers.is_some() || now >= self.metrics_at {
            self.metrics_at = now + METRICS;
            self.publisher.metrics.send_replace(self.metrics());
        }
        if let Some(peers) = peers {
            self.publisher.peers.send_replace(Arc::new(peers));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        // Without peers there is nothing to tell anew.
        let probes = self
            .device
            .poll_timeout()
            .map(|_| self.probe_at.min(self.metrics_at));
        let shutdown = self.shutdown.as_ref().map(|shutdown| shutdown.until);
        let own = [
            self.device.poll_timeout(),
            self.stack.poll_timeout(),
            self.flows.next_deadline(),
        ];
        own.into_iter()
            .chain([self.peers.publish_at(), self.peers.call_at(), probes, shutdown])
            .flatten()
            .min()
    }
}
