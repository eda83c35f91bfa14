//! One connection of a lane: records over a stream of bytes.

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use kakuremichi_core::id::AgentId;
use kakuremichi_proto::{
    flow::FlowReply,
    lane::record::{
        Echo, HEADER, MAX_BODY, MAX_DATA, Record, RecordReader, ResetCode, data_header, datagram_header,
    },
    report::LaneKind,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is asked of the stream for a record, with what follows it, in bytes.
const READ: usize = 4 * 1024;
/// The most data of one [`Signal::Data`].
const PIECE: usize = 16 * 1024;

/// What a connection runs over: TLS, or WebSocket inside it.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One connection, whose ends know each other.
pub(crate) struct Connection {
    /// Whose lane it belongs to.
    pub(crate) agent: AgentId,
    /// The shard whose thread its socket wakes. It can be used on others, at the price of a way between two
    /// threads for whatever comes.
    pub(crate) shard: u8,
    io: Box<dyn Io>,
    reader: RecordReader,
    /// What was read and not understood yet: at most a record that is not data with what came behind it,
    /// or what a socket did not take of one read of [`pump`](super::pump).
    held: Vec<u8>,
    held_at: usize,
    /// What is to be sent: at most one record of data, and a few others.
    out: Vec<u8>,
    out_at: usize,
    unflushed: bool,
    /// Ends with the connection.
    _place: Option<Box<dyn Send>>,
}

/// A record with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signal {
    /// A piece of data.
    Data(Vec<u8>),
    End,
    Reset(ResetCode),
    Begin(u16, Vec<u8>),
    Reply(FlowReply),
    Retire,
    Ping(Echo),
    Pong(Echo),
    Demand(u16),
    Choice(LaneKind),
    /// A datagram of so many bytes begins, which come as [`Data`](Self::Data).
    Datagram(usize),
}

impl Connection {
    /// A connection on which nothing was said yet, made on `shard`. `place` is dropped with it.
    pub(crate) fn new(agent: AgentId, shard: u8, io: Box<dyn Io>, place: Option<Box<dyn Send>>) -> Self {
        Self {
            agent,
            shard,
            io,
            reader: RecordReader::default(),
            held: Vec::new(),
            held_at: 0,
            out: Vec::new(),
            out_at: 0,
            unflushed: false,
            _place: place,
        }
    }

    /// Sends a record, with the next [`poll_drain`](Self::poll_drain).
    pub(crate) fn queue(&mut self, record: Record<'_>) {
        record.encode(&mut self.out);
    }

    /// Sends data in the same way, as one record; returns how much of it.
    pub(crate) fn queue_data(&mut self, data: &[u8]) -> usize {
        let length = data.len().min(MAX_DATA);
        if length > 0 {
            self.out.extend_from_slice(&data_header(length));
            self.out.extend_from_slice(&data[..length]);
        }
        length
    }

    /// Sends a datagram in the same way; `false` for one that is longer than any.
    pub(crate) fn queue_datagram(&mut self, data: &[u8]) -> bool {
        let fits = data.len() <= MAX_DATA;
        if fits {
            self.out.extend_from_slice(&datagram_header(data.len()));
            self.out.extend_from_slice(data);
        }
        fits
    }

    /// Whether so little is queued that data may join it, in one piece toward the system.
    pub(crate) const fn has_room(&self) -> bool {
        self.out.len() <= READ
    }

    /// Whether everything was handed to the system.
    pub(crate) const fn is_drained(&self) -> bool {
        self.out.is_empty() && !self.unflushed
    }

    /// Hands everything that was queued to the system.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_at < self.out.len() {
            self.unflushed = true;
            let wrote = Pin::new(&mut self.io).poll_write(cx, &self.out[self.out_at..]);
            match ready!(wrote)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                wrote => self.out_at += wrote,
            }
        }
        if self.out_at > 0 {
            self.out_at = 0;
            // What was held back for a slow reader is not kept for ever.
            if self.out.capacity() > READ {
                self.out = Vec::new();
            } else {
                self.out.clear();
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the bytes of whole records when everything before is sent, without copying what the stream
    /// takes at once.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if self.out.is_empty() {
            while sent < bytes.len() {
                match Pin::new(&mut self.io).poll_write(cx, &bytes[sent..]) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(wrote)) => {
                        self.unflushed = true;
                        sent += wrote;
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => break,
                }
            }
        }
        self.out.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// How many bytes of the current record of data, or datagram, are still to come.
    pub(crate) const fn data_left(&self) -> usize {
        self.reader.data_left()
    }

    /// Reads data into `out`, while there is some in the current record. Nothing read is the end of the
    /// stream.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let wanted = self.reader.data_left().min(out.remaining());
        let held = self.held();
        let length = if held.is_empty() {
            let mut part = ReadBuf::new(out.initialize_unfilled_to(wanted));
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
            let length = part.filled().len();
            out.advance(length);
            length
        } else {
            let length = held.len().min(wanted);
            out.put_slice(&held[..length]);
            self.consume(length);
            length
        };
        self.reader.took(length);
        Poll::Ready(Ok(length))
    }

    /// Reads the next record and shows it; data are to be taken before. `None` at the end of the stream.
    pub(crate) fn poll_record<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut show: impl FnMut(Record<'_>) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        loop {
            let read = self.reader.read(&self.held[self.held_at..]);
            if let Some((record, length)) = read.map_err(invalid)? {
                let shown = match record {
                    Record::Unknown(tag) => {
                        tracing::debug!(tag, "a record of a lane is of a newer kind");
                        None
                    }
                    record => Some(show(record)),
                };
                self.consume(length);
                match shown {
                    Some(shown) => return Poll::Ready(Ok(Some(shown))),
                    None => continue,
                }
            }
            if ready!(self.poll_more(cx))? == 0 {
                let cut = if self.held().is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
                return Poll::Ready(cut);
            }
        }
    }

    /// Reads a little more of the stream.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.held.drain(..self.held_at);
        self.held_at = 0;
        let before = self.held.len();
        self.held.resize(before + READ, 0);
        let mut part = ReadBuf::new(&mut self.held[before..]);
        let read = Pin::new(&mut self.io).poll_read(cx, &mut part);
        let length = part.filled().len();
        self.held.truncate(before + length);
        if self.held.is_empty() {
            // Many connections wait for a long time.
            self.held = Vec::new();
        }
        ready!(read)?;
        Poll::Ready(Ok(length))
    }

    /// The next record with what belongs to it. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Signal>> {
        poll_fn(|cx| self.poll_signal(cx)).await
    }

    pub(crate) fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Signal>>> {
        loop {
            if self.data_left() > 0 {
                let mut piece = vec![0; self.data_left().min(PIECE)];
                let mut part = ReadBuf::new(&mut piece);
                return Poll::Ready(match ready!(self.poll_data(cx, &mut part))? {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    length => {
                        piece.truncate(length);
                        Ok(Some(Signal::Data(piece)))
                    }
                });
            }
            let signal = ready!(self.poll_record(cx, |record| match record {
                Record::Data(_) | Record::Unknown(_) => None,
                Record::End => Some(Signal::End),
                Record::Reset(code) => Some(Signal::Reset(code)),
                Record::Begin { port, preface } => Some(Signal::Begin(port, preface.to_vec())),
                Record::Reply(reply) => Some(Signal::Reply(reply)),
                Record::Retire => Some(Signal::Retire),
                Record::Ping(echo) => Some(Signal::Ping(echo)),
                Record::Pong(echo) => Some(Signal::Pong(echo)),
                Record::Demand(flows) => Some(Signal::Demand(flows)),
                Record::Choice(kind) => Some(Signal::Choice(kind)),
                Record::Datagram(length) => Some(Signal::Datagram(length)),
            }))?;
            match signal {
                Some(Some(signal)) => return Poll::Ready(Ok(Some(signal))),
                Some(None) => {}
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Waits until everything that was queued is with the system.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_drain(cx)).await
    }

    // What `pump` uses, which reads and writes past the buffers in here.

    pub(super) fn held(&self) -> &[u8] {
        &self.held[self.held_at..]
    }

    pub(super) fn take_held(&mut self) -> Vec<u8> {
        let mut held = std::mem::take(&mut self.held);
        held.drain(..self.held_at);
        self.held_at = 0;
        held
    }

    pub(super) fn hold(&mut self, bytes: Vec<u8>) {
        (self.held, self.held_at) = (bytes, 0);
    }

    fn consume(&mut self, length: usize) {
        self.held_at += length;
        if self.held_at == self.held.len() {
            self.held = Vec::new();
            self.held_at = 0;
        }
    }

    pub(super) const fn reader(&mut self) -> &mut RecordReader {
        &mut self.reader
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

/// The most that has to be held for a record that is not data.
pub(super) const MAX_HELD: usize = HEADER + MAX_BODY;

pub(super) fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("agent", &self.agent)
            .field("shard", &self.shard)
            .field("reader", &self.reader)
            .field("held", &self.held().len())
            .field("out", &self.out.len())
            .finish_non_exhaustive()
    }
}
