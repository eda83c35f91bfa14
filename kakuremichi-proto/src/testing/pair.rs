//! The two sides, the network between them, and the clock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kakuremichi_core::{model::Role, name::Label, time::Timestamp};

use super::{
    Direction, Hub, Node,
    pipe::{Cut, Item, Pipe},
};
use crate::{
    identity::{CanonicalUrl, Signer as _, sha256},
    session::{ClientState, Server},
};

/// The time a frame takes in one direction.
const LATENCY: Duration = Duration::from_millis(20);
/// What is not agreed on after so long never will be.
const PATIENCE: Duration = Duration::from_secs(600);
/// More turns than this at one instant are a loop.
const MAX_TURNS: usize = 10_000;

/// A node, a Control, and a network that does what the test wants.
#[derive(Debug)]
pub struct Pair {
    /// The clock.
    pub now: Instant,
    /// The node.
    pub node: Node,
    /// Control.
    pub hub: Hub,
    /// Where the next connection breaks, one after the other.
    pub cuts: Vec<(Direction, u64)>,
    /// Whether the node may connect.
    pub reachable: bool,
    /// Whether a frame was injected that neither side made: it may have said what is not true, for
    /// example about usage, so that in the end only the connection and the plan are as they should be.
    pub forged: bool,
    epoch: Instant,
    transports: BTreeMap<u64, Transport>,
    next_transport: u64,
    /// The transport that the node uses.
    current: Option<u64>,
    reconnect_at: Option<Instant>,
    random: u64,
}

#[derive(Debug)]
struct Transport {
    up: Pipe,
    down: Pipe,
    /// Control has ended it, or has heard that it ended.
    server_gone: bool,
}

impl Pair {
    /// Two sides that have never met, about to.
    #[must_use]
    pub fn new(role: Role) -> Self {
        #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
        let now = Instant::now();
        Self {
            now,
            node: Node::new(role, Hub::key(), now),
            hub: Hub::new(),
            cuts: Vec::new(),
            reachable: true,
            forged: false,
            epoch: now,
            transports: BTreeMap::new(),
            next_transport: 1,
            current: None,
            reconnect_at: Some(now),
            random: 0,
        }
    }

    /// The time of day.
    #[must_use]
    pub fn time_of_day(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000).after(self.now - self.epoch)
    }

    /// Whether the node was let in and its transport is open.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.current.is_some() && matches!(self.node.client.state(), ClientState::Online { .. })
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.run_until(end, |_| false);
    }

    /// Lets time pass until something holds.
    ///
    /// # Panics
    /// When it does not within ten minutes.
    pub fn wait(&mut self, what: &str, holds: impl FnMut(&Self) -> bool) {
        let end = self.now + PATIENCE;
        assert!(self.run_until(end, holds), "{what} never held: {self:?}");
    }

    /// Lets time pass until both sides agree, and checks that they do: on who the node is, on its plan,
    /// on what is declared, and on what was used, to the last byte.
    ///
    /// # Panics
    /// When they never do, or agree on the wrong thing.
    pub fn converge(&mut self) {
        self.cuts.clear();
        self.reachable = true;
        self.wait("agreement", Self::agree);
        assert_eq!(self.hub.enrolled, 1, "one node is one enrolment");
        assert_eq!(self.hub.used, self.node.used, "usage is stored exactly once");
    }

    /// As [`converge`](Self::converge), but for what forged frames may have said.
    ///
    /// # Panics
    /// When the two never agree, or agree on the wrong thing.
    pub fn settle(&mut self) {
        if !self.forged {
            return self.converge();
        }
        // Control tells a node who it is: what was forged there nothing can mend.
        let known = self.hub.node.map(|(node, _)| node);
        if self.node.client.node().is_some_and(|node| Some(node) != known) {
            return;
        }
        self.cuts.clear();
        self.reachable = true;
        // A forged end may have sent the node away for good, or for long.
        self.disconnect();
        self.reconnect_at = Some(self.now);
        self.wait("agreement on the plan", Self::agree_on_plan);
    }

    /// The node's transport ends, and both sides hear of it.
    pub fn disconnect(&mut self) {
        if let Some(id) = self.current {
            self.break_transport(id);
        }
    }

    /// The node's transport ends, but Control does not hear of it: what is under way still arrives,
    /// `delay` later than it would have.
    pub fn lose_node(&mut self, delay: Duration) {
        let Some(id) = self.current.take() else { return };
        if let Some(transport) = self.transports.get_mut(&id) {
            transport.up.delay(delay);
        }
        self.node.client.handle_disconnect(self.now);
        self.node_events();
    }

    /// The node's process ends without warning and starts again.
    pub fn restart_node(&mut self) {
        self.disconnect();
        self.current = None;
        self.node.restart(self.now);
        self.reconnect_at = Some(self.now + Duration::from_millis(100));
    }

    /// Control's process ends without warning and starts again.
    pub fn restart_hub(&mut self) {
        let open: Vec<_> = self.transports.keys().copied().collect();
        open.into_iter().for_each(|id| self.break_transport(id));
        self.hub.restart();
    }

    /// The frames that were sent over the node's transports so far, oldest first.
    #[must_use]
    pub fn history(&self, direction: Direction) -> Vec<Vec<u8>> {
        let pipe = |transport: &Transport| match direction {
            Direction::Up => transport.up.history.clone(),
            Direction::Down => transport.down.history.clone(),
        };
        self.transports.values().flat_map(pipe).collect()
    }

    /// Hands a frame to a side of the node's transport, as if it had been sent once more.
    pub fn inject(&mut self, direction: Direction, frame: &[u8]) {
        let Some(id) = self.current else { return };
        match direction {
            Direction::Up => {
                if let Some(server) = self.hub.servers.get_mut(&id) {
                    server.handle_frame(frame, self.now);
                }
            }
            Direction::Down => self.node.client.handle_frame(frame, self.now),
        }
        self.turn();
    }

    /// The bytes that were sent over the node's transport.
    #[must_use]
    pub fn sent(&self, direction: Direction) -> u64 {
        let transport = self.current.and_then(|id| self.transports.get(&id));
        transport.map_or(0, |transport| match direction {
            Direction::Up => transport.up.bytes,
            Direction::Down => transport.down.bytes,
        })
    }

    /// Lets time pass until something holds or the time is over. Returns whether it holds.
    pub fn run_until(&mut self, end: Instant, mut holds: impl FnMut(&Self) -> bool) -> bool {
        loop {
            self.turn();
            if holds(self) {
                return true;
            }
            match self.next_due() {
                Some(due) if due <= end => self.now = self.now.max(due),
                Some(_) | None => {
                    self.now = self.now.max(end);
                    return false;
                }
            }
        }
    }

    fn agree(&self) -> bool {
        let answered = |name| self.node.declared.get(name).is_some_and(Result::is_ok);
        let identity = self.hub.node.map(|(_, identity)| identity);
        self.agree_on_plan()
            && self.node.is_settled()
            && identity == Some(self.node.keys().public_key())
            && self.hub.live == self.node.wants
            && self.node.wants.keys().all(answered)
            && self.node.client.usage().sealed().len() == 0
    }

    fn agree_on_plan(&self) -> bool {
        let plan = (self.hub.plan.revision(), self.hub.plan.hash());
        self.is_online()
            && self.hub.is_ready()
            && self.hub.applied == Some(plan)
            && self
                .node
                .applied
                .as_ref()
                .map(|plan| (plan.revision(), plan.hash()))
                == Some(plan)
    }

    /// Everything that is due now.
    fn turn(&mut self) {
        for _ in 0..MAX_TURNS {
            self.connect();
            let delivered = self.deliver();
            self.fire_timers();
            self.node_events();
            self.hub.handle_events(self.now);
            let sent = self.transmit();
            // What the node has to say about what it sent, as after a close.
            self.node_events();
            self.hub.handle_events(self.now);
            if !delivered && !sent {
                return;
            }
        }
        panic!("the sessions never come to rest: {self:?}");
    }

    fn next_due(&self) -> Option<Instant> {
        let pipes = self
            .transports
            .values()
            .flat_map(|transport| [&transport.up, &transport.down]);
        let servers = self.hub.servers.values().filter_map(Server::poll_timeout);
        let timers = servers.chain(self.node.client.poll_timeout()).map(|(due, _)| due);
        let reconnect = self.reconnect_at.filter(|_| self.reachable);
        pipes
            .filter_map(Pipe::next_due)
            .chain(timers)
            .chain(reconnect)
            .min()
    }

    fn connect(&mut self) {
        let due = self.reconnect_at.is_some_and(|at| at <= self.now);
        if !due || !self.reachable {
            return;
        }
        self.reconnect_at = None;
        let id = self.next_transport;
        self.next_transport += 1;
        let mut transport = Transport {
            up: Pipe::new(LATENCY),
            down: Pipe::new(LATENCY),
            server_gone: false,
        };
        if !self.cuts.is_empty() {
            match self.cuts.remove(0) {
                (Direction::Up, at) => transport.up.cut_at = Some(at),
                (Direction::Down, at) => transport.down.cut_at = Some(at),
            }
        }
        self.transports.insert(id, transport);
        let nonce = self.nonce();
        self.hub.open(id, nonce, self.now);
        let nonce = self.nonce();
        self.node.client.connect(nonce, self.now);
        self.current = Some(id);
    }

    fn deliver(&mut self) -> bool {
        let mut delivered = false;
        for (id, transport) in &mut self.transports {
            while let Some(item) = transport.up.receive(self.now) {
                delivered = true;
                let Some(server) = self.hub.servers.get_mut(id) else {
                    continue;
                };
                match item {
                    Item::Frame(frame) => server.handle_frame(&frame, self.now),
                    Item::End => {
                        server.handle_disconnect(self.now);
                        transport.server_gone = true;
                    }
                }
            }
            while let Some(item) = transport.down.receive(self.now) {
                delivered = true;
                if self.current != Some(*id) {
                    continue;
                }
                match item {
                    Item::Frame(frame) => self.node.client.handle_frame(&frame, self.now),
                    Item::End => {
                        self.current = None;
                        self.node.client.handle_disconnect(self.now);
                    }
                }
            }
        }
        delivered
    }

    fn fire_timers(&mut self) {
        let due = |timeout: Option<(Instant, _)>| timeout.is_some_and(|(at, _)| at <= self.now);
        if due(self.node.client.poll_timeout()) {
            self.node.client.handle_timeout(self.now);
        }
        for server in self.hub.servers.values_mut() {
            if due(server.poll_timeout()) {
                server.handle_timeout(self.now);
            }
        }
    }

    fn node_events(&mut self) {
        if let Some(wait) = self.node.handle_events(self.now) {
            self.reconnect_at = Some(self.now + wait);
        }
    }

    fn transmit(&mut self) -> bool {
        let mut sent = false;
        if let Some(id) = self.current {
            while let Some(frame) = self.node.client.poll_transmit() {
                sent = true;
                if !self.send(id, Direction::Up, frame) {
                    break;
                }
            }
            // The node has said its last word.
            if self.current == Some(id) && self.node.client.state() == ClientState::Offline {
                self.current = None;
                self.end(id, Direction::Up);
            }
        }
        let servers: Vec<_> = self.hub.servers.keys().copied().collect();
        for id in servers {
            while let Some(frame) = self.hub.servers.get_mut(&id).and_then(Server::poll_transmit) {
                sent = true;
                if !self.send(id, Direction::Down, frame) {
                    break;
                }
            }
            if self.hub.servers.get(&id).is_some_and(Server::is_closed) {
                self.hub.servers.remove(&id);
                let gone = self
                    .transports
                    .get(&id)
                    .is_some_and(|transport| transport.server_gone);
                if !gone {
                    self.end(id, Direction::Down);
                }
            }
        }
        sent
    }

    /// Sends a frame; `false` if the transport broke in it.
    fn send(&mut self, id: u64, direction: Direction, frame: Vec<u8>) -> bool {
        let Some(transport) = self.transports.get_mut(&id) else {
            return false;
        };
        let pipe = match direction {
            Direction::Up => &mut transport.up,
            Direction::Down => &mut transport.down,
        };
        match pipe.send(frame, self.now) {
            Ok(()) => true,
            Err(Cut) => {
                self.break_transport(id);
                false
            }
        }
    }

    /// Both sides hear of the end, behind what is under way.
    fn break_transport(&mut self, id: u64) {
        self.end(id, Direction::Up);
        self.end(id, Direction::Down);
        if self.current == Some(id) {
            // What the node would still send is lost.
            self.current = None;
            self.node.client.handle_disconnect(self.now);
            self.node_events();
        }
    }

    fn end(&mut self, id: u64, direction: Direction) {
        if let Some(transport) = self.transports.get_mut(&id) {
            match direction {
                Direction::Up => transport.up.end(self.now),
                Direction::Down => transport.down.end(self.now),
            }
        }
    }

    fn nonce(&mut self) -> [u8; 32] {
        self.random += 1;
        sha256(&self.random.to_be_bytes())
    }
}

pub(super) fn url() -> CanonicalUrl {
    #[expect(clippy::expect_used, reason = "a constant")]
    "https://control.example".parse().expect("a URL")
}

pub(super) fn label(text: &str) -> Label {
    #[expect(clippy::expect_used, reason = "constants")]
    text.parse().expect("a label")
}
