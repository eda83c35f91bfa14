//! A flow over a connection of a lane, as a stream of bytes.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use kakuremichi_proto::{
    flow::FlowReply,
    lane::record::{MAX_DATA, Record, ResetCode},
};
use tokio::io::ReadBuf;

use super::{
    connection::Connection,
    finish::{Fate, Home, Returned},
};
use crate::{
    engine::Meter,
    stream::{FlowEnded, FlowRefused},
};

/// A flow. Dropping it gives the connection back: after [`poll_shutdown`](Self::poll_shutdown) to be used
/// again, before it with a reset.
#[derive(Debug)]
pub(crate) struct LaneFlow {
    connection: Option<Connection>,
    home: Home,
    meter: Arc<Meter>,
    /// The other end has said that the flow reaches its target, or need not say so.
    connected: bool,
    /// Our direction has ended.
    sent_end: bool,
    /// The other one has.
    received_end: bool,
    end: Option<End>,
}

/// Why a flow is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Refused(FlowReply),
    Reset,
    Protocol,
}

enum Step {
    Ended,
    Reset,
    Replied(FlowReply),
    Data,
    Wrong,
    Other,
}

/// A flow that the gateway has begun.
#[cfg(feature = "agent")]
impl LaneFlow {
    /// A flow that the other end has begun, and that this end has yet to [accept](Self::accept) or
    /// [refuse](Self::refuse).
    pub(crate) fn undecided(connection: Connection, home: Home) -> Self {
        let mut this = Self::opened(connection, home, Arc::default());
        this.connected = true;
        this
    }

    /// Tells the other end that the flow reaches its target.
    pub(crate) fn accept(&mut self, meter: Arc<Meter>) {
        self.meter = meter;
        if let Some(connection) = &mut self.connection {
            connection.queue(Record::Reply(FlowReply::Connected));
        }
    }

    /// Tells the other end why it does not, which is the end of this direction.
    pub(crate) fn refuse(mut self, reply: FlowReply) {
        self.sent_end = true;
        if let Some(connection) = &mut self.connection {
            connection.queue(Record::Reply(reply));
        }
    }

    /// The connection, for who serves the flow otherwise, and where it goes then.
    pub(super) fn into_parts(mut self) -> (Option<Connection>, Home) {
        (self.connection.take(), self.home.clone())
    }
}

impl LaneFlow {
    /// A flow that this end begins, with a [`Record::Begin`] that is queued already; the other end replies.
    pub(crate) const fn opened(connection: Connection, home: Home, meter: Arc<Meter>) -> Self {
        Self {
            connection: Some(connection),
            home,
            meter,
            connected: false,
            sent_end: false,
            received_end: false,
            end: None,
        }
    }

    /// Sends what is queued, while somebody waits for something else. Where that fails, what comes from the
    /// other end says why.
    fn push(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && !connection.is_drained()
        {
            let _ = connection.poll_drain(cx);
        }
    }

    /// Reads records up to the next data, the end, or the reply that is waited for.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let step = connection.poll_record(cx, |record| match record {
            Record::Data(_) => Step::Data,
            Record::End => Step::Ended,
            Record::Reset(_) => Step::Reset,
            Record::Reply(reply) => Step::Replied(reply),
            // Its bytes are none of the stream.
            Record::Datagram(_) => Step::Wrong,
            _ => Step::Other,
        });
        let step = match ready!(step) {
            Ok(step) => step,
            Err(error) => {
                self.end = Some(End::Reset);
                return Poll::Ready(Err(error));
            }
        };
        match step {
            Some(Step::Data) if self.connected => {}
            Some(Step::Ended) if self.connected => self.received_end = true,
            Some(Step::Replied(FlowReply::Connected)) if !self.connected => self.connected = true,
            Some(Step::Replied(reply)) if !self.connected => {
                self.end = Some(End::Refused(reply));
                self.received_end = true;
            }
            Some(Step::Reset) | None => self.end = Some(End::Reset),
            Some(Step::Other) => {}
            Some(Step::Data | Step::Ended | Step::Replied(_) | Step::Wrong) => {
                self.end = Some(End::Protocol);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Why the flow is over, if it is.
    fn check(&self) -> io::Result<()> {
        let (kind, error) = match self.end {
            None => return Ok(()),
            Some(End::Refused(reply)) => {
                let refused = FlowRefused(reply);
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, refused));
            }
            Some(End::Reset) => (io::ErrorKind::ConnectionReset, FlowEnded::Reset),
            Some(End::Protocol) => (io::ErrorKind::InvalidData, FlowEnded::Protocol),
        };
        Err(io::Error::new(kind, error))
    }

    pub(crate) fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.push(cx);
        while !self.connected {
            self.check()?;
            ready!(self.poll_step(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.push(cx);
        loop {
            self.check()?;
            if self.received_end || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            if connection.data_left() == 0 {
                ready!(self.poll_step(cx))?;
                continue;
            }
            match ready!(connection.poll_data(cx, out)) {
                Ok(0) => self.end = Some(End::Reset),
                Ok(length) => {
                    self.meter.add(0, length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) => {
                    self.end = Some(End::Reset);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        if self.sent_end {
            let ended = io::Error::new(io::ErrorKind::BrokenPipe, FlowEnded::Shutdown);
            return Poll::Ready(Err(ended));
        }
        let room = self.connection.as_ref().is_some_and(Connection::has_room);
        if !room {
            ready!(self.poll_flush(cx))?;
        }
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let length = connection.queue_data(&data[..data.len().min(MAX_DATA)]);
        self.meter.add(length, 0);
        // What is accepted is on its way; what fails now fails the next call.
        self.push(cx);
        Poll::Ready(Ok(length))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let drained = ready!(connection.poll_drain(cx));
        if drained.is_err() {
            self.end.get_or_insert(End::Reset);
        }
        Poll::Ready(drained)
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.sent_end {
            self.sent_end = true;
            if let Some(connection) = &mut self.connection {
                connection.queue(Record::End);
            }
        }
        self.poll_flush(cx)
    }
}

impl Drop for LaneFlow {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let fate = match self.end {
            Some(End::Reset) => Fate::Broken,
            Some(End::Protocol) => Fate::Reset(ResetCode::Protocol),
            Some(End::Refused(_)) => {
                if !self.sent_end {
                    connection.queue(Record::End);
                }
                Fate::Clean
            }
            None if !self.sent_end => Fate::Reset(ResetCode::Cancelled),
            None if self.received_end => Fate::Clean,
            None => Fate::Ended,
        };
        // Whoever kept connections may be gone, and they with it.
        let _ = self.home.send(Returned { connection, fate });
    }
}
