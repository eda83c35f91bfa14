//! What stands for a gateway's end of a lane: the tasks that keep it, around what is shipped.

#![expect(clippy::disallowed_methods, reason = "in virtual time")]

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use kakuremichi_proto::lane::record::{Echo, Record};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    lane::{Link, Purpose, connection},
    pipe::{Break, End, Handle},
    user::{Flow, Outcome},
};
use crate::{
    lane::{PathHealth, PathState, Timing},
    streams::connection::{Connection, Signal},
};

const WRITE: Duration = Duration::from_secs(10);
/// How long a flow waits for a connection.
const CONNECT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Gateway {
    pub(super) is_up: Cell<bool>,
    pub(super) wakeups: Cell<u64>,
    /// Connections without a flow; the one that was used last is used next.
    pub(super) idle: RefCell<Vec<Connection>>,
    pub(super) waiting: RefCell<VecDeque<oneshot::Sender<Connection>>>,
    demand: Notify,
    /// There is a control connection, and which.
    control: Cell<Option<u64>>,
    cuts: RefCell<Vec<Handle>>,
}

impl Gateway {
    /// Takes what agents dial, for ever.
    pub(super) async fn run(self: Rc<Self>, mut door: mpsc::UnboundedReceiver<(Purpose, End)>) {
        let mut tasks = JoinSet::new();
        let mut controls = 0;
        loop {
            let (purpose, end) = tokio::select! {
                biased;
                Some(come) = door.recv() => come,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    let () = ended.unwrap();
                    continue;
                }
            };
            self.cuts.borrow_mut().retain(Handle::is_there);
            self.cuts.borrow_mut().push(end.handle());
            match purpose {
                Purpose::Flows => self.put(connection(end)),
                Purpose::Control => {
                    controls += 1;
                    self.control.set(Some(controls));
                    tasks.spawn_local(Rc::clone(&self).control(connection(end), controls));
                }
            }
        }
    }

    async fn control(self: Rc<Self>, connection: Connection, number: u64) {
        let ended = self.converse(connection, number).await;
        assert!(ended.is_err());
        if self.control.get() == Some(number) {
            self.control.set(None);
            self.is_up.set(false);
            let idle = self.idle.take();
            drop(idle);
        }
    }

    async fn converse(&self, mut connection: Connection, number: u64) -> io::Result<()> {
        let mut path = PathState::new(Timing::default(), number, Instant::now());
        loop {
            self.wakeups.update(|wakeups| wakeups + 1);
            if let Some(probe) = path.poll_probe(Instant::now()) {
                connection.queue(Record::Ping(Echo {
                    sequence: probe.sequence,
                    payload: probe.payload,
                }));
            }
            let drained = timeout(WRITE, connection.drain()).await;
            drained.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            if self.control.get() != Some(number) {
                // Another one has come.
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            tokio::select! {
                biased;
                signal = connection.next() => match signal? {
                    Some(Signal::Ping(echo)) => connection.queue(Record::Pong(echo)),
                    Some(Signal::Pong(echo)) => {
                        path.handle_answer(echo.sequence, echo.payload, Instant::now());
                        self.sweep();
                    }
                    Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                },
                () = sleep_until(path.poll_timeout().into()) => {
                    path.handle_timeout(Instant::now());
                }
                () = self.demand.notified() => {
                    connection.queue(Record::Demand(self.count_waiting() as u16));
                }
            }
            self.is_up.set(path.is_up());
            if matches!(path.health(), PathHealth::Down { .. }) {
                self.cuts
                    .borrow()
                    .iter()
                    .for_each(|cut| cut.break_now(Break::Reset));
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Serves a visitor.
    pub(super) async fn visit(&self, flow: Flow, link: &Link) {
        let outcome = match self.take().await {
            None => Outcome::Failed(io::ErrorKind::TimedOut),
            Some(connection) => {
                let (outcome, free) = flow.begin(connection, &link.net).await;
                if let Some(free) = free {
                    self.put(free);
                }
                outcome
            }
        };
        link.record(flow.number, true, outcome);
    }

    async fn take(&self) -> Option<Connection> {
        loop {
            let newest = self.idle.borrow_mut().pop();
            let Some(mut newest) = newest else {
                break;
            };
            if is_fresh(&mut newest) {
                return Some(newest);
            }
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().push_back(sender);
        self.demand.notify_one();
        timeout(CONNECT, receiver).await.ok()?.ok()
    }

    fn put(&self, mut connection: Connection) {
        if !is_fresh(&mut connection) || self.control.get().is_none() {
            return;
        }
        let mut offered = Some(connection);
        while let Some(connection) = offered.take() {
            let waiting = self.waiting.borrow_mut().pop_front();
            match waiting {
                Some(waiting) => offered = waiting.send(connection).err(),
                None => self.idle.borrow_mut().push(connection),
            }
        }
    }

    fn sweep(&self) {
        let idle = self.idle.take();
        let (fresh, gone): (Vec<_>, Vec<_>) = idle
            .into_iter()
            .map(|mut connection| (is_fresh(&mut connection), connection))
            .partition(|(fresh, _)| *fresh);
        drop(gone);
        *self.idle.borrow_mut() = fresh.into_iter().map(|(_, connection)| connection).collect();
    }

    pub(super) fn count_waiting(&self) -> usize {
        self.waiting.borrow_mut().retain(|waiting| !waiting.is_closed());
        self.waiting.borrow().len()
    }
}

/// Whether nothing was said on a connection without a flow.
fn is_fresh(connection: &mut Connection) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    connection.is_drained() && connection.poll_signal(&mut cx).is_pending()
}
