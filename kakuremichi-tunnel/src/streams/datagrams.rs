//! A session of datagrams over a connection of a lane.
//!
//! The user has a [`TunnelSession`], as over WireGuard; a task carries between its two queues and the
//! connection. No datagram waits behind a connection that takes no more: what is late is of no use to
//! who waits for what is new. The newest are dropped then, and counted.

#![expect(
    clippy::disallowed_methods,
    reason = "a session that idles is ended by the clock"
)]

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use kakuremichi_proto::{
    flow::FlowReply,
    lane::record::{HEADER, Record, ResetCode},
};
use tokio::{
    io::ReadBuf,
    time::{Instant, sleep},
};

#[cfg(feature = "agent")]
use super::flow::LaneFlow;
use super::{
    connection::Connection,
    finish::{Fate, Home, Returned},
};
use crate::{
    engine::{EndReason, Meter, SessionLink, Wish},
    session::{Queue, Shared, TunnelSession},
};

/// So many bytes of datagrams are given to the system at once.
const BATCH: usize = 16 * 1024;
/// What is received in one turn, in bytes and datagrams. Then others have theirs.
const TURN: usize = 64 * 1024;
/// See [`TURN`].
const TURN_DATAGRAMS: usize = 256;
/// The memory that is kept for the datagram that comes next, in bytes.
const KEEP: usize = 4 * 1024;

/// Carries the datagrams of one session, for as long as it [runs](Self::run). Dropping it before resets the
/// flow.
#[derive(Debug)]
pub(crate) struct Carrier {
    connection: Option<Connection>,
    home: Home,
    shared: Arc<Shared>,
    side: Side,
    /// The session ends when no datagram passes for so long.
    idle: Duration,
    /// When one passed last.
    active: Instant,
    /// What the user sent, while it is put on its way.
    sending: Queue,
    /// What came, while it is gathered for the user.
    received: Queue,
    /// The datagram that is coming, as far as it is there, and whether one is.
    partial: Vec<u8>,
    coming: bool,
    /// Datagrams that were dropped, and nobody was told.
    shed: u64,
}

/// Which end of the flow this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// It began the flow. The other end has replied, or not yet.
    Opened { replied: bool },
    /// It took the flow, and has said so, or not yet.
    Taken { replied: bool },
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Nothing passed for too long.
    Idle,
    /// The user has left.
    Left,
    /// The user wants the other end to know that nobody takes the datagrams.
    Unwanted,
    /// The other end has ended it.
    Ended,
    /// The other end has refused it.
    Refused(FlowReply),
    /// The other end has reset it.
    Reset(ResetCode),
    /// The connection broke.
    Broken,
    /// The other end does not speak our protocol.
    Protocol,
}

/// What came.
enum Step {
    Datagram,
    Over(Over),
    Connected,
    Nothing,
}

/// A session that this end begins, with its [`Record::Begin`] queued; it ends when no datagram passes for
/// `idle`. The session is between the addresses `ends`: ours, and theirs.
#[cfg(feature = "gateway")]
pub(crate) fn open(
    connection: Connection,
    home: Home,
    ends: (SocketAddr, SocketAddr),
    meter: Arc<Meter>,
    idle: Duration,
) -> (TunnelSession, Carrier) {
    let side = Side::Opened { replied: false };
    Carrier::new(Some(connection), home, ends, meter, (side, idle))
}

/// A session that the other end has begun, and that this end takes; ends as [`open`] has them.
#[cfg(feature = "agent")]
pub(crate) fn take(
    flow: LaneFlow,
    ends: (SocketAddr, SocketAddr),
    meter: Arc<Meter>,
    idle: Duration,
) -> (TunnelSession, Carrier) {
    let side = Side::Taken { replied: false };
    let (connection, home) = flow.into_parts();
    Carrier::new(connection, home, ends, meter, (side, idle))
}

impl Carrier {
    fn new(
        connection: Option<Connection>,
        home: Home,
        (local, remote): (SocketAddr, SocketAddr),
        meter: Arc<Meter>,
        (side, idle): (Side, Duration),
    ) -> (TunnelSession, Self) {
        let shared = Arc::new(Shared::new(SessionLink::to_task()));
        shared.set_meter(meter);
        let carrier = Self {
            connection,
            home,
            shared: Arc::clone(&shared),
            side,
            idle,
            active: Instant::now(),
            sending: Queue::default(),
            received: Queue::default(),
            partial: Vec::new(),
            coming: false,
            shed: 0,
        };
        (TunnelSession::new(shared, local, remote), carrier)
    }

    /// Carries until the session is over, and gives the connection back. `shed` is told how many datagrams
    /// were dropped, each time some were.
    pub(crate) async fn run(mut self, shed: impl Fn(u64)) {
        let over = self.carry(shed).await;
        self.finish(over);
    }

    async fn carry(&mut self, shed: impl Fn(u64)) -> Over {
        let shared = Arc::clone(&self.shared);
        let mut timer = pin!(sleep(self.idle));
        loop {
            tokio::select! {
                over = poll_fn(|cx| self.poll(cx, &shed)) => return over,
                () = shared.link.touched() => {}
                () = &mut timer => {
                    let until = self.active + self.idle;
                    if until <= Instant::now() {
                        return Over::Idle;
                    }
                    timer.as_mut().reset(until);
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, shed: impl Fn(u64)) -> Poll<Over> {
        let sent = self.send(cx);
        let received = self.receive(cx);
        if self.shed > 0 {
            shed(std::mem::take(&mut self.shed));
        }
        // What the other end said last says more than that the connection takes nothing any more.
        match received.and(sent) {
            Ok(()) => Poll::Pending,
            Err(over) => Poll::Ready(over),
        }
    }

    /// Puts what the user sent on its way, or drops it.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let wish = self.shared.link.take();
        if wish == Wish::Refuse {
            return Err(Over::Unwanted);
        }
        let connection = self.connection.as_mut().ok_or(Over::Broken)?;
        let mut blocked = is_blocked(connection, cx)?;
        self.shared.take(&mut self.sending);
        let (mut sent, mut dropped) = (0, 0);
        while !blocked && !self.sending.is_empty() {
            if self.side == (Side::Taken { replied: false }) {
                self.side = Side::Taken { replied: true };
                connection.queue(Record::Reply(FlowReply::Connected));
            }
            let mut batch = 0;
            while batch < BATCH
                && let Some(data) = self.sending.front()
            {
                batch += HEADER + data.len();
                if connection.queue_datagram(data) {
                    sent += data.len();
                } else {
                    dropped += 1;
                }
                self.sending.advance(1);
            }
            self.active = Instant::now();
            blocked = is_blocked(connection, cx)?;
        }
        dropped += self.sending.count() as u64;
        self.sending.advance(self.sending.count());
        self.shared.count_shed(dropped);
        self.shed += dropped;
        if let Some(meter) = self.shared.meter() {
            meter.add(sent, 0);
        }
        match wish {
            Wish::Close => Err(Over::Left),
            Wish::Use | Wish::Refuse => Ok(()),
        }
    }

    /// Hands what came to the user.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let over = self.gather(cx);
        if !self.received.is_empty() {
            self.active = Instant::now();
            self.shed += self.shared.give_all(&mut self.received);
        }
        over
    }

    /// Gathers the datagrams that are there, up to a bound.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let connection = self.connection.as_mut().ok_or(Over::Broken)?;
        while self.received.byte_count() < TURN && self.received.count() < TURN_DATAGRAMS {
            if self.coming {
                match read_rest(connection, &mut self.partial, cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(_)) => return Err(Over::Broken),
                    Poll::Ready(Ok(())) => {}
                }
                // The bounds of a turn are within those of a queue.
                self.received.push(&self.partial);
                self.coming = false;
                self.partial.clear();
            }
            let side = self.side;
            let step = match connection.poll_record(cx, |record| step(side, record)) {
                Poll::Pending => {
                    self.partial.shrink_to(KEEP);
                    return Ok(());
                }
                Poll::Ready(Ok(Some(step))) => step,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(Over::Protocol);
                }
                Poll::Ready(Ok(None) | Err(_)) => return Err(Over::Broken),
            };
            match step {
                Step::Datagram => self.coming = true,
                Step::Connected => self.side = Side::Opened { replied: true },
                Step::Over(over) => return Err(over),
                Step::Nothing => {}
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Tells both ends, and gives the connection back.
    fn finish(&mut self, over: Over) {
        let Some(mut connection) = self.connection.take() else {
            return self.shared.end(EndReason::Reset);
        };
        let (end, fate) = match over {
            Over::Idle => (EndReason::TimedOut, Fate::Ended),
            Over::Left => (EndReason::Cancelled, Fate::Ended),
            Over::Unwanted => (EndReason::Cancelled, self.refuse(&mut connection)),
            Over::Ended => (EndReason::Finished, Fate::Clean),
            Over::Refused(reply) => (EndReason::Refused(reply), Fate::Clean),
            // Whoever is behind the other end, which had answered before, takes no more.
            Over::Reset(ResetCode::Aborted) => (EndReason::Refused(FlowReply::Refused), Fate::Broken),
            Over::Reset(_) | Over::Broken => (EndReason::Reset, Fate::Broken),
            Over::Protocol => (EndReason::Protocol, Fate::Reset(ResetCode::Protocol)),
        };
        if matches!(fate, Fate::Clean | Fate::Ended) && over != Over::Unwanted {
            if self.side == (Side::Taken { replied: false }) {
                connection.queue(Record::Reply(FlowReply::Connected));
            }
            connection.queue(Record::End);
        }
        if matches!(end, EndReason::Refused(_)) {
            self.shared.refuse();
        }
        self.give_back(connection, fate, end);
    }

    /// Tells the other end that nobody takes the datagrams: by a reply, or, when one was sent before, by a
    /// reset.
    fn refuse(&self, connection: &mut Connection) -> Fate {
        if self.side == (Side::Taken { replied: false }) {
            connection.queue(Record::Reply(FlowReply::Refused));
            return Fate::Ended;
        }
        Fate::Reset(ResetCode::Aborted)
    }

    fn give_back(&self, connection: Connection, fate: Fate, end: EndReason) {
        self.shared.end(end);
        // Whoever kept connections may be gone, and they with it.
        let _ = self.home.send(Returned { connection, fate });
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.give_back(connection, Fate::Reset(ResetCode::Cancelled), EndReason::Stopped);
        }
    }
}

/// What a record means to an end of a session.
const fn step(side: Side, record: Record<'_>) -> Step {
    let waiting = matches!(side, Side::Opened { replied: false });
    match record {
        Record::Datagram(_) if !waiting => Step::Datagram,
        Record::End if !waiting => Step::Over(Over::Ended),
        Record::Reply(FlowReply::Connected) if waiting => Step::Connected,
        Record::Reply(reply) if waiting => Step::Over(Over::Refused(reply)),
        Record::Reset(code) => Step::Over(Over::Reset(code)),
        Record::Retire | Record::Unknown(_) => Step::Nothing,
        _ => Step::Over(Over::Protocol),
    }
}

/// Whether the connection takes no more for now. Its task is told when it does again.
fn is_blocked(connection: &mut Connection, cx: &mut Context<'_>) -> Result<bool, Over> {
    match connection.poll_drain(cx) {
        Poll::Pending => Ok(true),
        Poll::Ready(Ok(())) => Ok(false),
        Poll::Ready(Err(_)) => Err(Over::Broken),
    }
}

/// Reads the rest of a datagram.
fn read_rest(
    connection: &mut Connection,
    partial: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while connection.data_left() > 0 {
        let have = partial.len();
        partial.resize(have + connection.data_left(), 0);
        let mut part = ReadBuf::new(&mut partial[have..]);
        let read = connection.poll_data(cx, &mut part);
        let length = part.filled().len();
        partial.truncate(have + length);
        match read {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests;
