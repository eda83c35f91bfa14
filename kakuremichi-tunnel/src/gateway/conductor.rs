//! What a gateway does, as one task on its first shard: it brings plan, lanes, listeners and reports
//! together.

#![expect(
    clippy::disallowed_methods,
    reason = "the gateway acts by the clock, as tasks of its shard"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kakuremichi_core::{
    id::PeerId,
    key::WireGuardKey,
    net::Endpoint,
    plan::{GatewayPlan, GatewayRecord, Revision},
};
use kakuremichi_proto::report::{Amount, CertificateStatus, Incident, Severity, Status};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time,
};

use super::{
    access::wall_clock,
    certificates::Refreshing,
    drain::BeginDrain,
    flows::Total,
    http::TaskGuard,
    ingress::{tcp::TcpPorts, udp::UdpPorts},
    lanes::Lanes,
    member::{Member, Others},
    network::{self, Endpoints},
    serving::Serving,
    siblings::{SiblingLanes, Told},
    status::{self, GatewayStatus, PeerState, PeerStatus, Phase, ServiceStatus},
};
use crate::{
    engine::{LocalShard, ShardSet, WatchPeers},
    keys::{Held, KeyRing},
    link::{LinkEnd, NodeSide, Order, dial, on_disk},
    peer::PeerKeys,
    state::{PEERS, StateDir},
};

/// How often usage is reported, ports that could not be opened are tried again, and so on.
const TICK: Duration = Duration::from_secs(5);
/// How often it is looked whether siblings are to be told of targets anew.
const TELL: Duration = Duration::from_secs(1);
/// How often it is looked whether the keys that sessions are signed with are old.
const ROTATE: Duration = Duration::from_secs(3600);
/// How often names of sites are resolved.
const RESOLVE: Duration = Duration::from_secs(60);
/// How long lanes that were up before a restart have to come back before the gateway counts as ready
/// without them.
const SETTLE: Duration = Duration::from_secs(15);
/// The part of a shutdown's time that is kept for the last words to Control.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Endpoints that were found and wait to be taken; who found them waits beyond.
const FOUND: usize = 64;

/// What a handle asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// Stop. The answer, how many exchanges were cut, comes when they have ended or most of the time is
    /// over.
    Shutdown(Duration, oneshot::Sender<usize>),
}

/// What the conductor is given.
pub(super) struct Parts {
    pub(super) shards: ShardSet,
    pub(super) node: NodeSide<GatewayRecord>,
    pub(super) state: StateDir,
    pub(super) source: JoinHandle<LinkEnd>,
    pub(super) serving: Rc<Serving<Lanes>>,
    pub(super) ports: TcpPorts<Lanes>,
    pub(super) udp_ports: UdpPorts<Lanes>,
    pub(super) member: Member,
    pub(super) others: Others,
    pub(super) open: Total,
    pub(super) begin: BeginDrain,
    pub(super) status: watch::Sender<Arc<GatewayStatus>>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) certificates: Refreshing,
    pub(super) keys: KeyRing,
    pub(super) last: Endpoints,
}

pub(super) struct Conductor {
    local: LocalShard,
    shards: ShardSet,
    node: NodeSide<GatewayRecord>,
    state: StateDir,
    source: JoinHandle<LinkEnd>,
    plan: Arc<GatewayPlan>,
    serving: Rc<Serving<Lanes>>,
    ports: TcpPorts<Lanes>,
    udp_ports: UdpPorts<Lanes>,
    member: Member,
    others: Others,
    open: Total,
    begin: BeginDrain,
    peers: WatchPeers,
    siblings: SiblingLanes,
    /// Something about TLS streams has changed.
    streams: watch::Receiver<()>,
    status: watch::Sender<Arc<GatewayStatus>>,
    requests: mpsc::Receiver<Request>,
    certificates: Refreshing,
    /// What there was when they were looked at last.
    known: Vec<CertificateStatus>,
    phase: Phase,
    /// The plan that all shards follow.
    served: Option<Revision>,
    seen: Vec<PeerStatus>,
    /// The plan's peers by each of their keys, and its services as status.
    keys: BTreeMap<WireGuardKey, PeerKeys>,
    /// The gateway's own.
    own_keys: watch::Receiver<Held>,
    services: Arc<[ServiceStatus]>,
    /// Where peers were, in this process or the one before.
    last: Endpoints,
    /// Peers were looked at since that was written down.
    looked: bool,
    /// Writes that down.
    writing: Option<JoinHandle<()>>,
    /// Which peers were up when the process before stopped, and until when they are waited for.
    awaited: Option<(Endpoints, time::Instant)>,
    resolved: BTreeMap<PeerId, SocketAddr>,
    resolvers: BTreeMap<PeerId, (Endpoint, TaskGuard)>,
    found: mpsc::Receiver<(PeerId, SocketAddr)>,
    find: mpsc::Sender<(PeerId, SocketAddr)>,
}

impl Conductor {
    /// Takes the shards over; it runs on `local`.
    pub(super) fn new(local: LocalShard, parts: Parts) -> Self {
        let (find, found) = mpsc::channel(FOUND);
        let awaited = Some(parts.last.clone()).filter(|last| !last.is_empty());
        let siblings = parts.serving.upstream.siblings().clone();
        let mut own_keys = parts.keys.watch();
        // The engine was made with one of them only.
        own_keys.mark_changed();
        Self {
            peers: parts.shards.watch_peers(),
            siblings: SiblingLanes::new(local.clone(), parts.shards.clone(), siblings),
            streams: parts.serving.upstream.streams().watch(),
            shards: parts.shards,
            local,
            node: parts.node,
            state: parts.state,
            source: parts.source,
            plan: Arc::default(),
            serving: parts.serving,
            ports: parts.ports,
            udp_ports: parts.udp_ports,
            member: parts.member,
            others: parts.others,
            open: parts.open,
            begin: parts.begin,
            status: parts.status,
            requests: parts.requests,
            certificates: parts.certificates,
            known: Vec::new(),
            phase: Phase::Running,
            served: None,
            seen: Vec::new(),
            keys: BTreeMap::new(),
            own_keys,
            services: Arc::default(),
            looked: false,
            writing: None,
            awaited: awaited.map(|last| (last, time::Instant::now() + SETTLE)),
            last: parts.last,
            resolved: BTreeMap::new(),
            resolvers: BTreeMap::new(),
            found,
            find,
        }
    }

    /// Runs until the gateway has stopped.
    pub(super) async fn run(mut self) {
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut rotate = time::interval(ROTATE);
        rotate.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut tell = time::interval(TELL);
        tell.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        self.tell_signing_keys();
        self.take_plan();
        loop {
            let settle = self.awaited.as_ref().map(|(_, until)| *until);
            tokio::select! {
                Ok(()) = self.streams.changed() => self.observe(),
                Some(request) = self.requests.recv() => {
                    let Request::Shutdown(grace, answer) = request;
                    return self.shutdown(grace, answer).await;
                }
                Ok(()) = self.node.plan.changed() => self.take_plan(),
                Ok(()) = self.node.status.changed() => self.publish(),
                Some(order) = self.node.orders.recv() => self.obey(order),
                Ok(()) = self.own_keys.changed() => self.take_keys(),
                () = self.peers.changed() => self.observe(),
                () = self.others.answered(), if !self.others.all_follow() => {
                    self.note_followed();
                    self.publish();
                }
                Some((peer, address)) = self.found.recv() => self.found(peer, address),
                moved = self.siblings.found() => if moved {
                    self.configure();
                },
                _ = tell.tick(), if !self.siblings.is_empty() => self.observe(),
                _ = tick.tick() => self.tick(),
                _ = rotate.tick() => self.rotate_signing_keys(),
                known = self.certificates.looked() => if known != self.known {
                    self.known = known;
                    self.publish();
                },
                () = settled(settle) => {
                    self.awaited = None;
                    self.publish();
                }
            }
        }
    }

    fn take_plan(&mut self) {
        self.plan = Arc::clone(&self.node.plan.borrow_and_update());
        let keys = self.plan.peers().map(|peer| network::keys(&self.plan, peer));
        self.keys = keys
            .flat_map(|keys| keys.all().map(move |key| (key, keys)))
            .collect();
        self.services = status::services(&self.plan);
        self.serving.upstream.apply(&self.plan);
        self.siblings.apply(&self.plan);
        self.resolve();
        self.configure();
        self.serving.apply(&self.plan);
        self.member.hear(&self.plan);
        self.others.follow(&self.plan);
        self.reconcile_ports();
        if self.plan.node().is_some() {
            tracing::info!(
                revision = self.plan.revision().0,
                services = self.plan.services().count(),
                peers = self.plan.peers().count(),
                "serving a plan"
            );
        }
        self.note_followed();
        self.observe();
        self.publish();
    }

    fn take_keys(&mut self) {
        self.own_keys.borrow_and_update().give(self.local.shard());
    }

    fn reconcile_ports(&mut self) {
        let table = self.serving.table.load();
        self.ports.reconcile(&table);
        self.udp_ports.reconcile(&table);
    }

    /// A plan is served once all shards follow it.
    fn note_followed(&mut self) {
        if self.others.all_follow() {
            self.node.serves(&self.plan);
            self.served = self.plan.node().map(|_| self.plan.revision());
        }
    }

    fn configure(&self) {
        if let Some(network) = network::network(&self.plan, &self.last, &self.resolved, self.siblings.peers())
        {
            self.shards.configure(network);
        }
    }

    /// Looks for the sites that the plan has by name or address.
    fn resolve(&mut self) {
        let plan = Arc::clone(&self.plan);
        let mut before = std::mem::take(&mut self.resolvers);
        for peer in plan.peers() {
            let Some(endpoint) = &peer.endpoint else { continue };
            let entry = match before.remove(&peer.id) {
                Some(entry) if entry.0 == *endpoint => entry,
                _ => {
                    let task = self
                        .local
                        .spawn(resolver(peer.id, endpoint.clone(), self.find.clone()));
                    (endpoint.clone(), TaskGuard(task.abort_handle()))
                }
            };
            self.resolvers.insert(peer.id, entry);
        }
        let resolvers = &self.resolvers;
        self.resolved.retain(|peer, _| resolvers.contains_key(peer));
    }

    fn found(&mut self, peer: PeerId, address: SocketAddr) {
        if self.resolvers.contains_key(&peer) && self.resolved.insert(peer, address) != Some(address) {
            self.configure();
        }
    }

    fn obey(&mut self, order: Order) {
        tracing::info!(?order, "Control asks for this");
        self.phase = match order {
            Order::Drain => Phase::Draining,
            Order::Undrain => Phase::Running,
        };
        self.publish();
    }

    /// Looks at the lanes.
    fn observe(&mut self) {
        let peers = self.peers.latest();
        self.looked = true;
        self.streams.mark_unchanged();
        let now = SystemTime::now();
        let mut seen = Vec::with_capacity(self.seen.len());
        let mut before = self.seen.iter().peekable();
        for peer in self.plan.peers() {
            // Both are in the order of the identifiers.
            while before.next_if(|before| before.id < peer.id).is_some() {}
            let was = before.next_if(|before| before.id == peer.id);
            let stream = match peer.id {
                PeerId::Agent(agent) => self.serving.upstream.streams().view(agent),
                PeerId::Site(_) => None,
            };
            let keys = self.keys.get(&peer.wireguard);
            let view = keys.and_then(|keys| keys.find(|key| peers.get(&key)));
            let is = PeerStatus::observe(peer, view, stream, was, now);
            if was.is_some_and(|was| was.state.is_other(is.state)) {
                self.turned(&is);
            }
            seen.push(is);
        }
        let mut news = self.seen != seen;
        self.seen = seen;
        news |= self.siblings.observe(&peers, now);
        self.tell_siblings();
        if let Some((awaited, _)) = &self.awaited {
            let online = network::endpoints(&peers);
            let is_online = |keys: &PeerKeys| keys.all().any(|key| online.contains_key(&key));
            let back = |key| self.keys.get(key).is_none_or(is_online);
            if self.plan.node().is_some() && awaited.keys().all(back) {
                self.awaited = None;
                news = true;
            }
        }
        if news {
            self.publish();
        }
    }

    /// Tells siblings which agents this gateway reaches, and what those say of their targets. One that
    /// drains reaches none.
    fn tell_siblings(&self) {
        if self.siblings.is_empty() {
            return;
        }
        let mut agents = BTreeSet::new();
        if self.phase == Phase::Running {
            let up = self.seen.iter();
            let up = up.filter(|peer| matches!(peer.state, PeerState::Up { .. }));
            agents.extend(up.filter_map(|peer| match peer.id {
                PeerId::Agent(agent) => Some(agent).filter(|agent| !self.serving.draining.has_agent(*agent)),
                PeerId::Site(_) => None,
            }));
        }
        let told = Told::of(agents, &self.plan, &self.serving.health.read());
        self.siblings.tell(told);
    }

    fn turned(&self, peer: &PeerStatus) {
        match peer.state {
            PeerState::Probing => {}
            PeerState::Up { rtt } => tracing::info!(peer = %peer.id, name = %peer.name, ?rtt, "a lane is up"),
            PeerState::Down => {
                tracing::warn!(peer = %peer.id, name = %peer.name, "a lane is down");
                self.incident(format!("the lane to {} ({}) is down", peer.name, peer.id));
            }
        }
    }

    /// Tells Control, as soon as there is a link and as long as there is room.
    fn incident(&self, message: String) {
        let _ = self.node.incidents.try_send(Incident {
            at: SystemTime::now().into(),
            severity: Severity::Warning,
            code: None,
            message,
        });
    }

    fn tick(&mut self) {
        self.count();
        self.remember();
        if self.ports.has_failed() || self.udp_ports.has_failed() {
            self.reconcile_ports();
            self.publish();
        }
    }

    /// Replaces signing keys that are old, away from this thread: they are on the disk.
    fn rotate_signing_keys(&self) {
        let (desk, signing) = (Arc::clone(&self.serving.sign_in), self.node.signing.clone());
        let state = self.state.clone();
        let rotate = on_disk("the keys that sessions are signed with", move || {
            if let Some(keys) = desk.rotate(&state, wall_clock())? {
                signing.send_replace(keys.into());
            }
            Ok(())
        });
        self.local.spawn(rotate);
    }

    fn tell_signing_keys(&self) {
        self.node
            .signing
            .send_replace(self.serving.sign_in.public_keys().into());
    }

    /// Hands what services used to the report for Control.
    fn count(&self) {
        for (service, used) in self.serving.usage.take() {
            let amount = Amount {
                connections: used.connections,
                requests: used.requests,
                received: used.bytes_in,
                sent: used.bytes_out,
            };
            self.node.record_usage(service, amount);
        }
    }

    /// Writes down where peers are, for the process after this one; away from this thread, which moves
    /// packets.
    fn remember(&mut self) {
        if self
            .writing
            .as_ref()
            .is_some_and(|writing| !writing.is_finished())
            || !std::mem::take(&mut self.looked)
        {
            return;
        }
        let mut last = self.last.clone();
        last.extend(network::endpoints(&self.peers.peek()));
        last.retain(|key, _| self.keys.contains_key(key));
        if last == self.last || self.plan.node().is_none() {
            return;
        }
        self.last = last;
        let (state, text) = (self.state.clone(), network::to_text(&self.last));
        let write = on_disk("where peers are", move || state.write_own(PEERS, text.as_bytes()));
        self.writing = Some(self.local.spawn(write));
    }

    /// Writes it down for the last time.
    async fn remembered(&mut self) {
        self.looked = true;
        for _ in 0..2 {
            if let Some(writing) = self.writing.take() {
                let _ = writing.await;
            }
            self.remember();
        }
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
    }

    /// Says everything that is known: to handles and to Control.
    fn publish(&self) {
        let status = GatewayStatus {
            phase: self.phase,
            link: self.node.status.borrow().clone(),
            revision: self.served,
            settled: self.awaited.is_none(),
            peers: self.seen.clone(),
            siblings: self.siblings.status().to_vec(),
            services: Arc::clone(&self.services),
            ports: [self.ports.status(), self.udp_ports.status()].concat(),
            certificates: self.known.clone(),
        };
        let report = Status {
            draining: status.phase != Phase::Running,
            lanes: status.peers.iter().filter_map(PeerStatus::report).collect(),
            targets: Vec::new(),
            certificates: self.known.clone(),
        };
        self.node.report.send_if_modified(|last| {
            let changed = **last != report;
            *last = Arc::new(report);
            changed
        });
        self.status.send_replace(Arc::new(status));
    }

    /// Takes no more visitors, waits for those there are, says the last words and goes.
    async fn shutdown(mut self, grace: Duration, answer: oneshot::Sender<usize>) {
        let talk = LAST_WORDS.min(grace / 4);
        self.phase = Phase::Draining;
        self.tell_siblings();
        self.publish();
        self.begin.begin();
        let mut open = self.member.listeners();
        let mut ports = self.ports.close();
        let mut over = std::pin::pin!(time::sleep(grace.saturating_sub(talk)));
        // A plan that came meanwhile is followed by all before it is left to the next process.
        while !(open.is_empty() && ports.is_empty() && self.others.have_drained() && self.others.all_follow())
        {
            tokio::select! {
                Some(_) = open.join_next() => {}
                Some(_) = ports.join_next() => {}
                () = self.others.answered() => self.note_followed(),
                // Who is revoked now does not stay until the end.
                Ok(()) = self.node.plan.changed() => self.take_plan(),
                // Nor does a key that counts no more.
                Ok(()) = self.own_keys.changed() => self.take_keys(),
                () = self.peers.changed() => self.observe(),
                Ok(()) = self.streams.changed() => self.observe(),
                () = &mut over => break,
            }
        }
        // Datagrams are carried for as long as anything is.
        self.udp_ports.close().await;
        let cut = self.open.get();
        open.abort_all();
        ports.abort_all();
        drop((open, ports));
        self.member.close();
        self.others.close();
        // What is cut counts what it carried when it is dropped, which is soon.
        let dropped = async {
            while self.open.get() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let _ = time::timeout(talk, dropped).await;
        self.count();
        self.remembered().await;
        self.serving.upstream.streams().close();
        self.node.stop();
        let _ = time::timeout(talk, &mut self.source).await;
        self.phase = Phase::Closed;
        self.publish();
        let _ = answer.send(cut);
    }
}

async fn settled(until: Option<time::Instant>) {
    match until {
        Some(until) => time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Tells where an endpoint is, again and again: names move.
async fn resolver(peer: PeerId, endpoint: Endpoint, find: mpsc::Sender<(PeerId, SocketAddr)>) {
    loop {
        match dial::resolve(&endpoint).await {
            Ok(addresses) => {
                if let Some(address) = addresses.first()
                    && find.send((peer, *address)).await.is_err()
                {
                    return;
                }
            }
            Err(error) => tracing::warn!(%peer, %endpoint, %error, "a site cannot be found"),
        }
        time::sleep(RESOLVE).await;
    }
}
