//! The connection that concerns a lane as a whole: probes, the feed, and what the agent chooses.

#![expect(
    clippy::disallowed_methods,
    reason = "probes go by the clock; a lane's control connection is a task of the shard"
)]

use std::{
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::id::AgentId;
use kakuremichi_proto::{
    lane::record::{Echo, Record},
    report::LaneKind,
};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{sleep_until, timeout},
};

use super::{Control, Streams, pace::Pace};
use crate::{
    gateway::{feeds::FeedReader, serving::Serving, upstream::Upstream},
    keys,
    lane::{PathHealth, PathState, Timing},
    streams::connection::{Connection, Signal},
};

/// How long what is said may take to be sent.
const WRITE: Duration = Duration::from_secs(10);

/// Whose connection it is, and which.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    pub(super) agent: AgentId,
    pub(super) number: u64,
}

impl Streams {
    /// An agent's control connection is there. It replaces the one before.
    pub(super) fn begin_control(&self, agent: AgentId, number: u64, task: AbortHandle) {
        let mut control = Control {
            place: number,
            health: PathHealth::Unknown,
            choice: LaneKind::WireGuard,
            demand: Arc::default(),
            task,
        };
        let before = self.lane(agent, |lane| {
            if let Some(before) = &lane.control {
                // An agent that makes it anew, as with new keys, goes on where it was.
                (control.health, control.choice) = (before.health, before.choice);
                control.demand = Arc::clone(&before.demand);
            }
            let before = lane.control.replace(control)?;
            lane.cuts.get(&before.place).map(|(_, cut)| cut.clone())
        });
        if let Some(cut) = before.flatten() {
            cut.cut();
        }
    }

    /// It is there no more, and with it go those that wait for flows: the agent begins anew.
    fn end_control(&self, heard: Heard) {
        let gone = self.lane(heard.agent, |lane| {
            lane.control
                .take_if(|control| control.place == heard.number)
                .map(|control| (control, std::mem::take(&mut lane.idle)))
        });
        if gone.flatten().is_some() {
            self.inner.changed.send_replace(());
        }
    }

    fn change_control(&self, heard: Heard, change: impl FnOnce(&mut Control)) {
        let changed = self.lane(heard.agent, |lane| {
            let control = lane.control.as_mut();
            control
                .filter(|control| control.place == heard.number)
                .map(change)
        });
        if changed.flatten().is_some() {
            self.inner.changed.send_replace(());
        }
    }

    fn demand(&self, heard: Heard) -> Option<Arc<Notify>> {
        self.lane(heard.agent, |lane| {
            Arc::clone(&lane.control.as_ref()?.demand).into()
        })
        .flatten()
    }

    fn waiting(&self, heard: Heard) -> u16 {
        let waiting = self.lane(heard.agent, |lane| {
            lane.waiting.iter().filter(|waiting| !waiting.is_closed()).count()
        });
        waiting.unwrap_or_default().try_into().unwrap_or(u16::MAX)
    }

    /// Whatever has connections of a lane that carries nothing any more is to notice.
    fn cut_all(&self, agent: AgentId) {
        let cuts: Vec<_> = self
            .lane(agent, |lane| {
                lane.cuts.values().map(|(_, cut)| cut.clone()).collect()
            })
            .unwrap_or_default();
        cuts.iter().for_each(crate::streams::socket::Cut::cut);
    }
}

/// Serves the connection to its end.
pub(super) async fn run<U: Upstream>(
    connection: Connection,
    heard: Heard,
    streams: Streams,
    serving: Rc<Serving<U>>,
) {
    let ended = converse(connection, heard, &streams, &serving).await;
    tracing::debug!(agent = %heard.agent, ?ended, "an agent's streams end");
    streams.end_control(heard);
}

async fn converse<U: Upstream>(
    mut connection: Connection,
    heard: Heard,
    streams: &Streams,
    serving: &Serving<U>,
) -> io::Result<()> {
    let random = keys::random().map_err(io::Error::other)?;
    let mut path = PathState::new(Timing::default(), u64::from_le_bytes(random), Instant::now());
    let mut feed = FeedReader::open(heard.agent, serving);
    let Some(demand) = streams.demand(heard) else {
        return Ok(());
    };
    if streams.waiting(heard) > 0 {
        demand.notify_one();
    }
    let mut pace = Pace::new(Instant::now());
    loop {
        if let Some(probe) = path.poll_probe(Instant::now()) {
            pace.probed();
            connection.queue(Record::Ping(Echo {
                sequence: probe.sequence,
                payload: probe.payload,
            }));
        }
        let drained = timeout(WRITE, connection.drain()).await;
        drained.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let before = path.is_up();
        let due = path.poll_timeout();
        let due = pace.poll_timeout().map_or(due, |at| at.min(due));
        tokio::select! {
            signal = connection.next() => match signal? {
                Some(Signal::Ping(echo)) => connection.queue(Record::Pong(echo)),
                Some(Signal::Pong(echo)) => {
                    path.handle_answer(echo.sequence, echo.payload, Instant::now());
                    if pace.answered() {
                        streams.sweep(heard.agent);
                    }
                }
                Some(Signal::Choice(kind)) => pace.choose(kind),
                Some(Signal::Data(bytes)) => feed.push(&bytes, heard.agent, serving).map_err(io::Error::other)?,
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => return Ok(()),
            },
            () = sleep_until(due.into()) => {
                path.handle_timeout(Instant::now());
            }
            () = demand.notified() => {
                let waiting = streams.waiting(heard);
                connection.queue(Record::Demand(waiting));
            }
        }
        if let Some(chosen) = pace.poll_choice(Instant::now()) {
            // Where flows take WireGuard this lane stands by, one of thousands.
            let timing = match chosen {
                LaneKind::TlsStream => Timing::default(),
                LaneKind::WireGuard => Timing::standby(),
            };
            path.set_timing(timing, Instant::now());
            streams.change_control(heard, |control| control.choice = chosen);
        }
        if path.is_up() != before {
            let health = path.health();
            streams.change_control(heard, |control| control.health = health);
        }
        if matches!(path.health(), PathHealth::Down { .. }) {
            streams.cut_all(heard.agent);
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}
