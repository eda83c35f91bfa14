//! A flow as a stream of bytes, for tasks of any runtime on any thread.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use kakuremichi_proto::flow::FlowReply;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::engine::{EndReason, Link};
#[cfg(any(feature = "agent", feature = "gateway"))]
use crate::streams::flow::LaneFlow;

/// A TCP flow through a tunnel.
///
/// Reading and writing copy from and to two bounded buffers that the engine empties and fills; the
/// peer's window closes while nobody reads. [`shutdown`](tokio::io::AsyncWriteExt::shutdown) ends our
/// direction behind what was written and leaves the other one open. Dropping the stream after that
/// lets what was written arrive; dropping it before resets the flow.
///
/// A flow that the other end refused fails to read and write with an error that holds a
/// [`FlowRefused`]:
///
/// ```
/// # use std::io;
/// # use kakuremichi_proto::flow::FlowReply;
/// # use kakuremichi_tunnel::stream::FlowRefused;
/// # let error = io::Error::new(io::ErrorKind::ConnectionRefused, FlowRefused(FlowReply::Denied));
/// let refused = error.get_ref().and_then(|source| source.downcast_ref::<FlowRefused>());
/// assert_eq!(refused.unwrap().0, FlowReply::Denied);
/// ```
#[derive(Debug)]
pub struct TunnelStream {
    carrier: Carrier,
    local: SocketAddr,
    remote: SocketAddr,
}

/// What carries a flow.
#[derive(Debug)]
enum Carrier {
    /// WireGuard, through the engine.
    Engine(Engine),
    /// A connection of a lane of TLS streams.
    #[cfg(any(feature = "agent", feature = "gateway"))]
    Lane(Box<LaneFlow>),
}

/// The other end refused the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other node refused the flow: {0:?}")]
pub struct FlowRefused(
    /// Why.
    pub FlowReply,
);

/// The flow ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FlowEnded {
    #[error("the peer reset the flow")]
    Reset,
    #[error("the peer fell silent")]
    TimedOut,
    #[error("the peer is gone")]
    PeerGone,
    #[error("the other end does not speak our protocol")]
    Protocol,
    #[error("the shard has stopped")]
    Stopped,
    #[error("our direction was ended before")]
    Shutdown,
}

impl TunnelStream {
    pub(crate) const fn new(shared: Arc<Shared>, local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            carrier: Carrier::Engine(Engine(shared)),
            local,
            remote,
        }
    }

    #[cfg(any(feature = "agent", feature = "gateway"))]
    pub(crate) fn over_lane(flow: LaneFlow, local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            carrier: Carrier::Lane(Box::new(flow)),
            local,
            remote,
        }
    }

    /// Our overlay address and port.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer's address and port.
    #[must_use]
    pub const fn peer_addr(&self) -> SocketAddr {
        self.remote
    }

    /// Waits until the other end has said that the flow reaches its target. Nobody has to wait for
    /// that: data may be sent before, and reading tells too.
    ///
    /// # Errors
    /// When it refuses, or the flow ends before.
    pub async fn connected(&mut self) -> io::Result<()> {
        poll_fn(|cx| match &mut self.carrier {
            Carrier::Engine(engine) => engine.poll_connected(cx),
            #[cfg(any(feature = "agent", feature = "gateway"))]
            Carrier::Lane(flow) => flow.poll_connected(cx),
        })
        .await
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Engine(engine) => engine.poll_read(cx, out),
            #[cfg(any(feature = "agent", feature = "gateway"))]
            Carrier::Lane(flow) => flow.poll_read(cx, out),
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.carrier {
            Carrier::Engine(engine) => engine.poll_write(cx, data),
            #[cfg(any(feature = "agent", feature = "gateway"))]
            Carrier::Lane(flow) => flow.poll_write(cx, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Engine(engine) => engine.poll_flush(cx),
            #[cfg(any(feature = "agent", feature = "gateway"))]
            Carrier::Lane(flow) => flow.poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Engine(engine) => engine.poll_shutdown(cx),
            #[cfg(any(feature = "agent", feature = "gateway"))]
            Carrier::Lane(flow) => flow.poll_shutdown(cx),
        }
    }
}

/// A flow of the engine's, given up when it is dropped.
#[derive(Debug)]
struct Engine(Arc<Shared>);

impl Engine {
    fn poll_connected(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.connected {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = state.end {
            return Poll::Ready(ended(end).and_then(|()| Err(io::ErrorKind::UnexpectedEof.into())));
        }
        register(&mut state.reader, cx);
        Poll::Pending
    }

    fn poll_read(&self, cx: &Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let length = state.received.len().min(out.remaining());
        if length > 0 {
            let (first, second) = state.received.as_slices();
            let head = first.len().min(length);
            out.put_slice(&first[..head]);
            out.put_slice(&second[..length - head]);
            state.received.drain(..length);
            // Half a buffer of room, so that a fast reader does not ask for every byte.
            let ask = state.starved && state.received.len() <= self.0.bound / 2;
            if ask {
                state.starved = false;
            }
            drop(state);
            if ask {
                self.0.link.touch();
            }
            return Poll::Ready(Ok(()));
        }
        if out.remaining() == 0 || state.received_end {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = state.end {
            return Poll::Ready(ended(end));
        }
        register(&mut state.reader, cx);
        Poll::Pending
    }

    fn poll_write(&self, cx: &Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if let Some(end) = state.end {
            return Poll::Ready(ended(end).and_then(|()| Err(io::ErrorKind::BrokenPipe.into())));
        }
        if state.sent_end {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                FlowEnded::Shutdown,
            )));
        }
        let length = data.len().min(self.0.bound - state.sent.len());
        if length == 0 && !data.is_empty() {
            register(&mut state.writer, cx);
            return Poll::Pending;
        }
        state.sent.extend(&data[..length]);
        drop(state);
        self.0.link.touch();
        Poll::Ready(Ok(length))
    }

    /// What was written is on its way: the engine waits for nothing to send it.
    #[expect(clippy::unused_self, reason = "as the other operations of a stream")]
    const fn poll_flush(&self, _: &Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&self, _: &Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().sent_end = true;
        self.0.link.touch();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.0.link.cancel();
    }
}

/// What a stream and the engine share. It is locked once per call of the stream's and once per turn
/// of the engine's, never per packet.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) link: Link,
    /// The bound of each buffer, in bytes.
    bound: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// From the peer, not yet read. Bounded: beyond, bytes stay in the flow.
    received: VecDeque<u8>,
    /// Toward the peer, not yet taken by the engine. Bounded: beyond, the writer waits.
    sent: VecDeque<u8>,
    /// The peer ended its direction, and everything is in `received`.
    received_end: bool,
    /// We end ours behind what is in `sent`.
    sent_end: bool,
    /// The engine has more for `received` than there was room for.
    starved: bool,
    /// The other end has said that the flow reaches its target, or need not say so.
    connected: bool,
    /// The flow is no more.
    end: Option<EndReason>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Shared {
    pub(crate) fn new(link: Link, bound: usize) -> Self {
        Self {
            link,
            bound: bound.max(1),
            state: Mutex::default(),
        }
    }

    /// Gives the engine access for one turn; wakes who waits for what it did.
    pub(crate) fn turn<R>(&self, work: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        let mut state = self.lock();
        let mut turn = Turn {
            bound: self.bound,
            state: &mut state,
            read: false,
            wrote: false,
        };
        let result = work(&mut turn);
        let (read, wrote) = (turn.read, turn.wrote);
        let reader = if read { state.reader.take() } else { None };
        let writer = if wrote { state.writer.take() } else { None };
        // A waker may do anything, so it is called without the lock.
        drop(state);
        reader.into_iter().chain(writer).for_each(Waker::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine's side of a stream.
pub(crate) struct Turn<'a> {
    bound: usize,
    state: &'a mut State,
    read: bool,
    wrote: bool,
}

impl Turn<'_> {
    /// The other end says that the flow reaches its target.
    pub(crate) const fn connect(&mut self) {
        self.read |= !self.state.connected;
        self.state.connected = true;
    }

    /// How many bytes can be handed to the reader.
    pub(crate) fn room(&self) -> usize {
        self.bound - self.state.received.len()
    }

    /// Hands bytes to the reader and returns how many there was room for.
    pub(crate) fn give(&mut self, data: &[u8]) -> usize {
        let length = data.len().min(self.room());
        self.state.received.extend(&data[..length]);
        self.read |= length > 0;
        length
    }

    /// Says that there is more than there was room for: the reader asks for it.
    pub(crate) const fn starve(&mut self) {
        self.state.starved = true;
    }

    /// Takes bytes of the writer and returns how many.
    pub(crate) fn take(&mut self, out: &mut [u8]) -> usize {
        let length = self.state.sent.len().min(out.len());
        let (first, second) = self.state.sent.as_slices();
        let head = first.len().min(length);
        out[..head].copy_from_slice(&first[..head]);
        out[head..length].copy_from_slice(&second[..length - head]);
        self.state.sent.drain(..length);
        self.wrote |= length > 0;
        length
    }

    /// Whether the writer has ended and everything it wrote was taken.
    pub(crate) fn is_finished(&self) -> bool {
        self.state.sent_end && self.state.sent.is_empty()
    }

    /// Whether the writer has ended.
    pub(crate) const fn is_ending(&self) -> bool {
        self.state.sent_end
    }

    /// How many bytes wait to be taken.
    pub(crate) fn waiting(&self) -> usize {
        self.state.sent.len()
    }

    /// Whether the writer has written what was not taken.
    pub(crate) fn has_more(&self) -> bool {
        !self.state.sent.is_empty()
    }

    /// The peer ended its direction.
    pub(crate) const fn end_received(&mut self) {
        self.read |= !self.state.received_end;
        self.state.received_end = true;
    }

    /// The flow is no more.
    pub(crate) const fn end(&mut self, reason: EndReason) {
        self.state.end = Some(reason);
        self.read = true;
        self.wrote = true;
    }
}

fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// The end of a flow as a reader sees it.
fn ended(end: EndReason) -> io::Result<()> {
    let (kind, error) = match end {
        EndReason::Finished => return Ok(()),
        EndReason::Refused(reply) => {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                FlowRefused(reply),
            ));
        }
        EndReason::NotConnected(error) => return Err(io::Error::new(io::ErrorKind::NotConnected, error)),
        EndReason::Reset => (io::ErrorKind::ConnectionReset, FlowEnded::Reset),
        EndReason::TimedOut => (io::ErrorKind::TimedOut, FlowEnded::TimedOut),
        EndReason::PeerGone => (io::ErrorKind::ConnectionAborted, FlowEnded::PeerGone),
        EndReason::Protocol => (io::ErrorKind::InvalidData, FlowEnded::Protocol),
        EndReason::Socket(_) | EndReason::Cancelled | EndReason::Stopped => {
            (io::ErrorKind::ConnectionAborted, FlowEnded::Stopped)
        }
    };
    Err(io::Error::new(kind, error))
}
