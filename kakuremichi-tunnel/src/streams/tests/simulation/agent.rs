//! What stands for an agent's end of a lane: the tasks that keep it, around what is shipped.

#![expect(clippy::disallowed_methods, reason = "in virtual time")]

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use kakuremichi_core::backoff::Backoff;
use kakuremichi_proto::lane::record::{Echo, Record};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use super::{
    lane::{Link, Purpose},
    pipe::{Break, Handle},
    user::Flow,
};
use crate::{
    lane::{PathHealth, PathState, Pool, PoolLimits, Timing},
    random::SplitMix64,
    streams::{
        connection::{Connection, Signal},
        idle,
    },
};

/// As agents have them.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
const WRITE: Duration = Duration::from_secs(10);

/// What happened to a connection for flows.
enum Event {
    Opened,
    Failed,
    Begun,
    Ended,
    ClosedIdle,
    ClosedBusy,
}

#[derive(Default)]
pub(super) struct Agent {
    pub(super) is_up: Cell<bool>,
    /// Connections for flows, as the pool counts them, and those with one.
    pub(super) counted: Cell<(usize, usize)>,
    /// How often something woke the lane.
    pub(super) wakeups: Cell<u64>,
    retire: Notify,
    cuts: RefCell<Vec<Handle>>,
}

impl Agent {
    /// Keeps a lane, for ever.
    pub(super) async fn run(self: Rc<Self>, link: Rc<Link>, flows: Rc<Vec<Flow>>) {
        let mut random = SplitMix64::new(link.seed);
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut tasks = JoinSet::new();
        loop {
            if let Some((connection, _)) = link.dial(Purpose::Control).await {
                backoff.reset();
                let ended = self
                    .live(connection, &link, &flows, &mut tasks, &mut random)
                    .await;
                assert!(ended.is_err());
            }
            self.is_up.set(false);
            sleep(backoff.next(random.next() as u32)).await;
        }
    }

    async fn live(
        self: &Rc<Self>,
        mut connection: Connection,
        link: &Rc<Link>,
        flows: &Rc<Vec<Flow>>,
        tasks: &mut JoinSet<()>,
        random: &mut SplitMix64,
    ) -> io::Result<()> {
        let mut path = PathState::new(Timing::default(), random.next(), Instant::now());
        let mut pool = Pool::new(PoolLimits::default(), Instant::now());
        let (tell, mut events) = mpsc::unbounded_channel();
        let mut dials = Backoff::new(PAUSES.0, PAUSES.1);
        let mut hold: Option<Instant> = None;
        loop {
            self.wakeups.update(|wakeups| wakeups + 1);
            if let Some(probe) = path.poll_probe(Instant::now()) {
                connection.queue(Record::Ping(Echo {
                    sequence: probe.sequence,
                    payload: probe.payload,
                }));
            }
            if hold.is_none() {
                for _ in 0..pool.poll_dials() {
                    let serving = serve(Rc::clone(self), Rc::clone(link), Rc::clone(flows), tell.clone());
                    tasks.spawn_local(serving);
                }
            }
            for _ in 0..pool.poll_retirements() {
                self.retire.notify_one();
            }
            let drained = timeout(WRITE, connection.drain()).await;
            drained.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            let due = path.poll_timeout().min(pool.poll_timeout());
            tokio::select! {
                biased;
                signal = connection.next() => match signal? {
                    Some(Signal::Ping(echo)) => connection.queue(Record::Pong(echo)),
                    Some(Signal::Pong(echo)) => {
                        path.handle_answer(echo.sequence, echo.payload, Instant::now());
                    }
                    Some(Signal::Demand(flows)) => pool.handle_demand(flows.into()),
                    Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                },
                () = sleep_until(due.into()) => {
                    path.handle_timeout(Instant::now());
                    pool.handle_timeout(Instant::now());
                }
                () = sleep_until(hold.unwrap_or(due).into()), if hold.is_some() => hold = None,
                Some(event) = events.recv() => match event {
                    Event::Opened => {
                        dials.reset();
                        pool.handle_opened();
                    }
                    Event::Failed => {
                        pool.handle_failed();
                        let pause = dials.next(random.next() as u32);
                        hold = hold.or_else(|| Some(Instant::now() + pause));
                    }
                    Event::Begun => pool.handle_begun(),
                    Event::Ended => pool.handle_ended(),
                    Event::ClosedIdle => pool.handle_closed_idle(),
                    Event::ClosedBusy => pool.handle_closed_busy(),
                },
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => ended.unwrap(),
            }
            self.is_up.set(path.is_up());
            self.counted.set((pool.open(), pool.busy()));
            if matches!(path.health(), PathHealth::Down { .. }) {
                self.cuts
                    .borrow()
                    .iter()
                    .for_each(|cut| cut.break_now(Break::Reset));
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// Makes a connection and serves flows on it to its end.
async fn serve(agent: Rc<Agent>, link: Rc<Link>, flows: Rc<Vec<Flow>>, tell: mpsc::UnboundedSender<Event>) {
    let Some((connection, cut)) = link.dial(Purpose::Flows).await else {
        return drop(tell.send(Event::Failed));
    };
    agent.cuts.borrow_mut().retain(Handle::is_there);
    agent.cuts.borrow_mut().push(cut);
    let _ = tell.send(Event::Opened);
    let last = one_after_the_other(connection, &agent, &link, &flows, &tell).await;
    let _ = tell.send(last);
}

async fn one_after_the_other(
    mut connection: Connection,
    agent: &Agent,
    link: &Link,
    flows: &[Flow],
    tell: &mpsc::UnboundedSender<Event>,
) -> Event {
    let mut retiring = false;
    loop {
        let signal = idle::next(&mut connection, &mut retiring, &agent.retire, tell).await;
        let Ok(Some(Signal::Begin(number, _))) = signal else {
            return Event::ClosedIdle;
        };
        let _ = tell.send(Event::Begun);
        let (outcome, free) = flows[usize::from(number)].serve(connection, &link.net).await;
        link.record(number, false, outcome);
        match free {
            Some(free) => connection = free,
            None => return Event::ClosedBusy,
        }
        let _ = tell.send(Event::Ended);
    }
}
