//! The lane of TLS streams to one gateway: a control connection, and a pool of others for flows.

#![expect(
    clippy::disallowed_methods,
    reason = "the lane goes by the clock; its connections are tasks, which end with it"
)]

mod datagrams;
mod dial;
mod foreign;
mod serve;

pub(super) use dial::Dialling;

use std::{
    cell::RefCell,
    future::Future,
    io,
    net::Ipv6Addr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    backoff::Backoff,
    id::{AgentId, GatewayId},
    key::IdentityKey,
    name::Label,
    net::Endpoint,
};
use kakuremichi_proto::{
    lane::{
        hello::Purpose,
        record::{Echo, Record},
    },
    report::LaneKind,
};
use slab::Slab;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, sleep_until, timeout},
};

use self::{
    dial::{Dialled, Dialler, StreamError},
    foreign::Cut,
    serve::{Event, serve},
};
use super::{feed, incoming::Shared};
use crate::{
    keys::{self, KeyRing},
    lane::{PathHealth, PathState, Pool, PoolLimits, Timing, TlsWanted},
    streams::{
        connection::{Connection, Signal},
        hello::{Ends, Identities, Shown},
    },
};

/// The first and the longest pause when a gateway takes no connection.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The same for a connection that stands by: nobody waits for it.
const STANDBY_PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// Connections that stand by are made at some moment within this time, so that thousands of agents that lost
/// the same gateway do not come back to it together.
const SPREAD: Duration = Duration::from_secs(30);
/// How soon a lane is made anew with other keys: by then the other end has heard of them, as a rule.
const HEARD: Duration = Duration::from_secs(1);
/// How often it is tried to make a lane anew with other keys, while somebody has not heard of them.
const RENEW: Duration = Duration::from_secs(5);
/// How long what is said may take to be sent.
const WRITE: Duration = Duration::from_secs(10);

/// What is known of the lane.
#[derive(Debug, Clone)]
pub(super) struct StreamView {
    pub(super) health: PathHealth,
    /// When a probe was last answered.
    pub(super) heard: Option<Instant>,
    /// What went wrong last, while it is not up.
    pub(super) error: Option<String>,
    /// Connections for flows.
    pub(super) connections: usize,
}

/// What the lane is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Orders {
    wanted: TlsWanted,
    choice: LaneKind,
    endpoints: Arc<[Endpoint]>,
}

/// What a lane is made of.
#[derive(Debug)]
pub(super) struct StreamParts {
    pub(super) agent: AgentId,
    pub(super) gateway: GatewayId,
    pub(super) gateway_keys: Identities,
    /// The agent's own.
    pub(super) keys: KeyRing,
    /// The gateway's name.
    pub(super) name: Label,
    pub(super) local: Ipv6Addr,
    pub(super) remote: Ipv6Addr,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) dialling: Dialling,
    pub(super) pool: PoolLimits,
    pub(super) shared: Rc<Shared>,
    pub(super) report: watch::Receiver<feed::Report>,
    /// Is told when the view has changed.
    pub(super) news: Rc<Notify>,
}

/// The lane. Dropping it cuts all its connections.
#[derive(Debug)]
pub(super) struct StreamLane {
    orders: watch::Sender<Orders>,
    view: watch::Receiver<StreamView>,
    gateway_keys: watch::Sender<Identities>,
    cuts: Cuts,
    task: AbortHandle,
}

/// The sockets of all connections for flows, and who it was that the gateway proved to be.
#[derive(Debug, Clone, Default)]
struct Cuts(Rc<RefCell<Slab<(IdentityKey, Cut)>>>);

impl Cuts {
    fn cut(&self) {
        self.0.borrow().iter().for_each(|(_, (_, cut))| cut.cut());
    }

    /// Cuts what was proven by others.
    fn keep(&self, gateway: Identities) {
        let cuts = self.0.borrow();
        let others = cuts.iter().filter(|(_, (key, _))| !gateway.has(*key));
        others.for_each(|(_, (_, cut))| cut.cut());
    }
}

impl Drop for StreamLane {
    fn drop(&mut self) {
        self.task.abort();
        self.cuts.cut();
    }
}

impl StreamLane {
    /// A lane that does nothing until it is [wanted](Self::order).
    pub(super) fn begin(parts: StreamParts) -> Self {
        let (orders, ordered) = watch::channel(Orders {
            wanted: TlsWanted::Nothing,
            choice: LaneKind::WireGuard,
            endpoints: parts.endpoints.into(),
        });
        let (show, view) = watch::channel(StreamView {
            health: PathHealth::Unknown,
            heard: None,
            error: None,
            connections: 0,
        });
        let cuts = Cuts::default();
        let (gateway_keys, known) = watch::channel(parts.gateway_keys);
        let ends = Ends {
            agent: parts.agent,
            gateway: parts.gateway,
            gateway_keys: known,
            keys: parts.keys,
        };
        let lane = Running {
            dialler: Rc::new(Dialler::new(ends, parts.name, parts.dialling)),
            place: Rc::new(serve::Place {
                gateway: parts.gateway,
                local: parts.local,
                remote: parts.remote,
                shared: parts.shared,
                retire: Notify::new(),
                cuts: cuts.clone(),
            }),
            orders: ordered,
            pool: parts.pool,
            report: parts.report,
            show,
            news: parts.news,
            flows: JoinSet::new(),
        };
        Self {
            orders,
            view,
            gateway_keys,
            cuts,
            task: tokio::task::spawn_local(lane.run()).abort_handle(),
        }
    }

    /// Says what is to be there of the lane, and which one takes new flows.
    pub(super) fn order(&self, wanted: TlsWanted, choice: LaneKind) {
        self.orders.send_if_modified(|orders| {
            let changed = (orders.wanted, orders.choice) != (wanted, choice);
            (orders.wanted, orders.choice) = (wanted, choice);
            changed
        });
    }

    /// The gateway has other keys, or those of before count no more: what was proven by those is cut.
    pub(super) fn known_as(&self, gateway: Identities) {
        let changed = self.gateway_keys.send_if_modified(|known| {
            let differ = *known != gateway;
            *known = gateway;
            differ
        });
        if changed {
            self.cuts.keep(gateway);
        }
    }

    /// The gateway is elsewhere.
    pub(super) fn moved(&self, endpoints: &[Endpoint]) {
        self.orders
            .send_modify(|orders| orders.endpoints = endpoints.into());
    }

    pub(super) fn view(&self) -> StreamView {
        self.view.borrow().clone()
    }
}

struct Running {
    dialler: Rc<Dialler>,
    place: Rc<serve::Place>,
    orders: watch::Receiver<Orders>,
    pool: PoolLimits,
    report: watch::Receiver<feed::Report>,
    show: watch::Sender<StreamView>,
    news: Rc<Notify>,
    /// A task for each connection that is for flows. They outlive the control connection.
    flows: JoinSet<()>,
}

impl Running {
    async fn run(mut self) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut standby = Backoff::new(STANDBY_PAUSES.0, STANDBY_PAUSES.1);
        loop {
            let wanted = self.orders.wait_for(|orders| orders.wanted != TlsWanted::Nothing);
            let Ok(orders) = wanted.await.map(|orders| orders.clone()) else {
                return;
            };
            if orders.wanted == TlsWanted::Standby {
                let share = f64::from(random()) / f64::from(u32::MAX);
                self.pause(SPREAD.mul_f64(share), &orders).await;
            }
            let orders = self.orders.borrow().clone();
            if orders.wanted == TlsWanted::Nothing {
                continue;
            }
            let error = match self.dialler.dial(&orders.endpoints, Purpose::Control).await {
                Ok(dialled) => match self.live(dialled.connection, dialled.shown).await {
                    Ok(()) => {
                        self.tell(PathHealth::Unknown, None);
                        continue;
                    }
                    Err(error) => {
                        backoff.reset();
                        standby.reset();
                        format!("the control connection broke: {error}")
                    }
                },
                Err(error) => error.to_string(),
            };
            tracing::debug!(gateway = %self.dialler.gateway(), %error, "no TLS streams to a gateway");
            self.tell(
                PathHealth::Down {
                    since: Instant::now(),
                },
                Some(error),
            );
            let backoff = match orders.wanted {
                TlsWanted::Standby => &mut standby,
                TlsWanted::Nothing | TlsWanted::Everything => &mut backoff,
            };
            let pause = backoff.next(random());
            self.pause(pause, &orders).await;
        }
    }

    /// Waits for a time, or until something is to be done otherwise than by `orders`.
    async fn pause(&mut self, time: Duration, orders: &Orders) {
        let otherwise =
            |now: &Orders| now.wanted != orders.wanted || !Arc::ptr_eq(&now.endpoints, &orders.endpoints);
        tokio::select! {
            () = sleep(time) => {}
            _ = self.orders.wait_for(otherwise) => {}
        }
    }

    fn tell(&self, health: PathHealth, error: Option<String>) {
        self.show.send_modify(|view| {
            // What is down stays down since then.
            if !matches!(
                (view.health, health),
                (PathHealth::Down { .. }, PathHealth::Down { .. })
            ) {
                view.health = health;
            }
            view.error = error;
        });
        self.news.notify_one();
    }

    /// Keeps the lane until it is no longer wanted, or an error ends it.
    async fn live(&mut self, mut connection: Connection, mut proven: Shown) -> io::Result<()> {
        let nonce = keys::random().map_err(io::Error::other)?;
        let mut path = PathState::new(Timing::default(), u64::from_le_bytes(nonce), Instant::now());
        let mut pool = Pool::new(self.pool, Instant::now());
        pool.set_standby(self.orders.borrow().wanted == TlsWanted::Standby);
        let (tell, mut events) = mpsc::unbounded_channel();
        let mut dials = Backoff::new(PAUSES.0, PAUSES.1);
        let mut hold = None;
        let mut own_keys = self.dialler.ends().keys.watch();
        let mut gateway_keys = self.dialler.ends().gateway_keys.clone();
        own_keys.mark_changed();
        gateway_keys.mark_changed();
        let mut renewal = Renewal::default();
        self.orders.mark_changed();
        self.report.mark_changed();
        loop {
            if let Some(probe) = path.poll_probe(Instant::now()) {
                connection.queue(Record::Ping(Echo {
                    sequence: probe.sequence,
                    payload: probe.payload,
                }));
            }
            if hold.is_none() {
                for _ in 0..pool.poll_dials() {
                    let (dialler, place) = (Rc::clone(&self.dialler), Rc::clone(&self.place));
                    let endpoints = Arc::clone(&self.orders.borrow().endpoints);
                    self.flows
                        .spawn_local(serve(dialler, place, endpoints, tell.clone()));
                }
            }
            for _ in 0..pool.poll_retirements() {
                self.place.retire.notify_one();
            }
            if !renewal.replaces {
                let drained = timeout(WRITE, connection.drain()).await;
                let drained = drained.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                renewal.outlives(drained)?;
            }
            let (before, counted, mut answered) = (path.is_up(), pool.open(), false);
            tokio::select! {
                signal = connection.next(), if !renewal.replaces => match signal {
                    Err(error) => renewal.outlives(Err(error))?,
                    Ok(None) => renewal.outlives(Err(io::ErrorKind::UnexpectedEof.into()))?,
                    Ok(Some(Signal::Ping(echo))) => connection.queue(Record::Pong(echo)),
                    Ok(Some(Signal::Pong(echo))) => {
                        path.handle_answer(echo.sequence, echo.payload, Instant::now());
                        answered = path.misses() == 0;
                    }
                    Ok(Some(Signal::Demand(flows))) => pool.handle_demand(flows.into()),
                    // A gateway says nothing on the feed; a newer one may.
                    Ok(Some(Signal::Data(_))) => {}
                    Ok(Some(_)) => return Err(io::ErrorKind::InvalidData.into()),
                },
                Ok(()) = own_keys.changed() => {
                    let now = own_keys.borrow_and_update().current.identity();
                    renewal.due(now != proven.own.identity());
                }
                Ok(()) = gateway_keys.changed() => {
                    let now = *gateway_keys.borrow_and_update();
                    if !now.has(proven.gateway) {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    renewal.due(now.current != proven.gateway);
                }
                () = until(renewal.at), if renewal.dial.is_none() => {
                    let endpoints = Arc::clone(&self.orders.borrow().endpoints);
                    renewal.begin(Rc::clone(&self.dialler), endpoints);
                }
                dialled = renewal.dialled() => {
                    if let Some(dialled) = renewal.take(dialled)? {
                        connection = dialled.connection;
                        let keys = [dialled.shown.own.identity(), dialled.shown.gateway];
                        let newest = [own_keys.borrow().current.identity(), gateway_keys.borrow().current];
                        renewal.due_later(keys != newest);
                        proven = dialled.shown;
                        // What is said at the beginning of a connection, and the others are made anew, too.
                        self.orders.mark_changed();
                        self.report.mark_changed();
                        self.place.retire.notify_waiters();
                        path.nudge(Instant::now());
                    }
                }
                () = sleep_until(path.poll_timeout().min(pool.poll_timeout()).into()) => {
                    path.handle_timeout(Instant::now());
                    pool.handle_timeout(Instant::now());
                }
                () = until(hold) => hold = None,
                Some(event) = events.recv() => match event {
                    Event::Opened => {
                        dials.reset();
                        pool.handle_opened();
                    }
                    Event::Failed(error) => {
                        tracing::debug!(gateway = %self.dialler.gateway(), %error, "no connection for flows");
                        pool.handle_failed();
                        let pause = dials.next(random());
                        hold = hold.or_else(|| Some(Instant::now() + pause));
                    }
                    Event::Begun => pool.handle_begun(),
                    Event::Ended => pool.handle_ended(),
                    Event::ClosedIdle => pool.handle_closed_idle(),
                    Event::ClosedBusy => pool.handle_closed_busy(),
                },
                Some(_) = self.flows.join_next(), if !self.flows.is_empty() => {}
                changed = self.orders.changed() => {
                    let orders = self.orders.borrow_and_update().clone();
                    if changed.is_err() || orders.wanted == TlsWanted::Nothing {
                        return Ok(());
                    }
                    let stands_by = orders.wanted == TlsWanted::Standby;
                    let timing = if stands_by { Timing::standby() } else { Timing::default() };
                    path.set_timing(timing, Instant::now());
                    if !stands_by && path.is_up() {
                        // Flows are about to depend on it.
                        path.nudge(Instant::now());
                    }
                    pool.set_standby(stands_by);
                    connection.queue(Record::Choice(orders.choice));
                }
                Ok(()) = self.report.changed() => {
                    let frames = self.report.borrow_and_update().encode();
                    let mut rest = frames.as_slice();
                    while !rest.is_empty() {
                        rest = &rest[connection.queue_data(rest)..];
                    }
                }
            }
            if path.is_up() != before || pool.open() != counted || answered {
                self.show.send_modify(|view| {
                    view.connections = pool.open();
                    if answered {
                        view.heard = Some(Instant::now());
                    }
                });
                self.tell(path.health(), None);
            }
            if matches!(path.health(), PathHealth::Down { .. }) {
                // Nothing gets through: whoever uses a connection is to notice.
                self.place.cuts.cut();
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// A connection that is being made.
type DialAgain = Pin<Box<dyn Future<Output = Result<Dialled, StreamError>>>>;

/// A control connection that is to take the place of one that was proven by keys of before: it is made first, so that
/// the lane is never down. The gateway ends the one before as soon as it knows the new one.
#[derive(Default)]
struct Renewal {
    at: Option<Instant>,
    dial: Option<DialAgain>,
    /// The connection before has ended, and this one is not there yet.
    replaces: bool,
}

impl Renewal {
    /// Keys have changed, and the connection is or is not one of theirs.
    fn due(&mut self, due: bool) {
        self.at = due.then(|| Instant::now() + HEARD);
    }

    /// The same; not everybody has heard of them yet.
    fn due_later(&mut self, due: bool) {
        self.at = due.then(|| Instant::now() + RENEW);
    }

    fn begin(&mut self, dialler: Rc<Dialler>, endpoints: Arc<[Endpoint]>) {
        self.at = None;
        self.dial = Some(Box::pin(async move {
            dialler.dial(&endpoints, Purpose::Control).await
        }));
    }

    async fn dialled(&mut self) -> Result<Dialled, StreamError> {
        match &mut self.dial {
            Some(dial) => dial.await,
            None => std::future::pending().await,
        }
    }

    /// What came of the dial. An error where there is neither the one connection nor the other.
    fn take(&mut self, dialled: Result<Dialled, StreamError>) -> io::Result<Option<Dialled>> {
        self.dial = None;
        match dialled {
            Ok(dialled) => {
                self.replaces = false;
                Ok(Some(dialled))
            }
            Err(error) if self.replaces => Err(io::Error::other(error)),
            Err(error) => {
                tracing::debug!(%error, "a lane is not made anew with other keys yet");
                self.due_later(true);
                Ok(None)
            }
        }
    }

    /// The connection before may end once there is another one to come.
    fn outlives(&mut self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(_) if self.dial.is_some() => {
                self.replaces = true;
                Ok(())
            }
            other => other,
        }
    }
}

/// For spreading pauses; the longest where the system gives no random bytes.
fn random() -> u32 {
    keys::random().map_or(u32::MAX, u32::from_le_bytes)
}

async fn until(hold: Option<Instant>) {
    match hold {
        Some(hold) => sleep_until(hold.into()).await,
        None => std::future::pending().await,
    }
}
