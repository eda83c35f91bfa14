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
    io,
    net::Ipv6Addr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{backoff::Backoff, key::WireGuardKey, name::Label, net::Endpoint};
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
    dial::Dialler,
    foreign::Cut,
    serve::{Event, serve},
};
use super::{feed, incoming::Shared};
use crate::{
    keys,
    lane::{PathHealth, PathState, Pool, PoolLimits, Timing, TlsWanted},
    streams::{
        connection::{Connection, Signal},
        hello::Ends,
    },
};

/// The first and the longest pause when a gateway takes no connection.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The same for a connection that stands by: nobody waits for it.
const STANDBY_PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// Connections that stand by are made at some moment within this time, so that thousands of agents that lost
/// the same gateway do not come back to it together.
const SPREAD: Duration = Duration::from_secs(30);
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
    pub(super) ends: Ends,
    /// The gateway's name.
    pub(super) name: Label,
    /// How the gateway's flows are known to the agent's table.
    pub(super) peer: WireGuardKey,
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
    cuts: Cuts,
    task: AbortHandle,
}

/// The sockets of all connections for flows.
#[derive(Debug, Clone, Default)]
struct Cuts(Rc<RefCell<Slab<Cut>>>);

impl Cuts {
    fn cut(&self) {
        self.0.borrow().iter().for_each(|(_, cut)| cut.cut());
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
        let lane = Running {
            dialler: Rc::new(Dialler::new(parts.ends, parts.name, parts.dialling)),
            place: Rc::new(serve::Place {
                peer: parts.peer,
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
                Ok((connection, _)) => match self.live(connection).await {
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
    async fn live(&mut self, mut connection: Connection) -> io::Result<()> {
        let nonce = keys::random().map_err(io::Error::other)?;
        let mut path = PathState::new(Timing::default(), u64::from_le_bytes(nonce), Instant::now());
        let mut pool = Pool::new(self.pool, Instant::now());
        pool.set_standby(self.orders.borrow().wanted == TlsWanted::Standby);
        let (tell, mut events) = mpsc::unbounded_channel();
        let mut dials = Backoff::new(PAUSES.0, PAUSES.1);
        let mut hold = None;
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
            let drained = timeout(WRITE, connection.drain()).await;
            drained.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            let (before, counted, mut answered) = (path.is_up(), pool.open(), false);
            tokio::select! {
                signal = connection.next() => match signal? {
                    Some(Signal::Ping(echo)) => connection.queue(Record::Pong(echo)),
                    Some(Signal::Pong(echo)) => {
                        path.handle_answer(echo.sequence, echo.payload, Instant::now());
                        answered = path.misses() == 0;
                    }
                    Some(Signal::Demand(flows)) => pool.handle_demand(flows.into()),
                    // A gateway says nothing on the feed; a newer one may.
                    Some(Signal::Data(_)) => {}
                    Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                },
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
