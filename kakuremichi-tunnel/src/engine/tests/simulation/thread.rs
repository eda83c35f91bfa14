//! What stands for a shard's thread: its engine, and what would wake it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::Instant,
};

use tokio::sync::watch;

use crate::{
    engine::{
        IncomingFlow, IncomingSession, Metrics, Shard, ShardConfig,
        command::Inbox,
        handle::{Handler, SessionHandler},
        handover::{Handover, Siblings},
        tests::support::key,
        turn::{Engine, Parts, Publisher, Sources, Turned},
        udp::{Udp, wire::Wire},
    },
    random::SplitMix64,
    wg::Device,
};

/// Where flows and sessions that others begin wait to be taken.
#[derive(Clone, Default)]
pub(super) struct Doors {
    pub(super) flows: Rc<RefCell<Vec<IncomingFlow>>>,
    pub(super) sessions: Rc<RefCell<Vec<IncomingSession>>>,
}

/// A shard that runs. It has a turn when something woke it, and at no other time.
pub(super) struct Thread {
    engine: Engine,
    poll: mio::Poll,
    pub(super) shard: Shard,
    wire: Wire,
    /// Something arrived, or its socket takes datagrams again.
    awake: bool,
    /// When it wants to be woken.
    pub(super) deadline: Option<Instant>,
}

impl Thread {
    /// One of several `siblings`; `inbox` is its own.
    pub(super) fn start(
        config: &ShardConfig,
        device: Device,
        (inbox, siblings, own): (Arc<Inbox>, Arc<Siblings>, usize),
        doors: &Doors,
        random: &mut SplitMix64,
        now: Instant,
    ) -> Self {
        let poll = mio::Poll::new().unwrap();
        let registry = || poll.registry().try_clone().unwrap();
        let wire = Wire::default();
        let keys = Arc::clone(device.own_keys());
        let sources = Sources {
            device,
            udp: Udp::simulated(vec![(false, Arc::clone(&wire))], registry()),
            registry: registry(),
            inbox: Arc::clone(&inbox),
            handover: Handover::new(siblings, own),
        };
        let (peers, published) = watch::channel(Arc::new(BTreeMap::new()));
        let (metrics, counted) = watch::channel(Metrics::default());
        let publisher = Publisher { peers, metrics };
        let parts = Parts::new(config, sources, publisher, random, now).unwrap();
        let flows = Rc::clone(&doors.flows);
        let handler: Handler = Rc::new(move |flow| flows.borrow_mut().push(flow));
        let sessions = Rc::clone(&doors.sessions);
        let session_handler: SessionHandler = Rc::new(move |session| sessions.borrow_mut().push(session));
        let slots = (RefCell::new(Some(handler)), RefCell::new(Some(session_handler)));
        Self {
            engine: Engine::new(parts, Rc::new(slots.0), Rc::new(slots.1)),
            poll,
            shard: Shard {
                inbox,
                peers: published,
                metrics: counted,
                addresses: Arc::new([]),
                keys,
            },
            wire,
            awake: false,
            deadline: Some(now),
        }
    }

    pub(super) fn receive(&mut self, from: SocketAddr, datagram: Vec<u8>) {
        self.wire.lock().unwrap().incoming.push_back((from, datagram));
        self.engine.udp.set_ready(0, true, false);
        self.awake = true;
    }

    /// The socket takes no more, or does again.
    pub(super) fn set_full(&mut self, full: bool) {
        self.wire.lock().unwrap().full = full;
        if !full {
            self.engine.udp.set_ready(0, false, true);
            self.awake = true;
        }
    }

    /// Whether only the clock wakes it now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.awake && self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Has a turn if something wakes it; returns whether it had.
    pub(super) fn run(&mut self, now: Instant) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let woken = pin!(self.shard.inbox.woken()).poll(&mut cx).is_ready();
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        if !(std::mem::take(&mut self.awake) || woken || due) {
            return false;
        }
        match self.engine.turn(&mut self.poll) {
            Turned::Again => self.awake = true,
            Turned::Done => panic!("nobody stopped it"),
            Turned::Sleep(deadline) => self.deadline = deadline,
        }
        true
    }

    /// What it sent.
    pub(super) fn sent(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.wire.lock().unwrap().outgoing)
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.engine.metrics()
    }

    /// Flows that the engine and the netstack keep, rings that are in use, and sessions that both keep.
    pub(super) fn holds(&self) -> [usize; 5] {
        let Engine {
            stack,
            flows,
            sessions,
            ..
        } = &self.engine;
        let rings = stack.rings_in_use();
        [
            flows.len(),
            stack.flows(),
            rings,
            sessions.len(),
            stack.sessions(),
        ]
    }

    /// Whether no flow or session is to be served, no flow has a deadline, and nothing was asked for.
    pub(super) fn is_at_rest(&self) -> bool {
        let Engine { flows, sessions, .. } = &self.engine;
        !flows.has_dirty() && flows.next_deadline().is_none() && !sessions.has_dirty()
    }

    /// Whether it has a session with a peer, or anything that was opened through one.
    pub(super) fn knows(&self, other: u8) -> bool {
        let device = &self.engine.device;
        let Some(peer) = device.peer(&key(other)) else {
            return false;
        };
        let in_session = device
            .status(peer)
            .is_some_and(|status| status.session_age.is_some());
        in_session || self.engine.stack.flows_of(peer) > 0
    }
}
