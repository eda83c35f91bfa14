//! A socket that is closed so that the last answer arrives.
//!
//! A socket that is dropped while bytes wait to be read is reset, and a reset takes back what was sent and not read yet:
//! the client, still busy with a body that nobody wants, finds a broken connection where a `400` or a `401` was. So the
//! sending side ends first, and what the client still sends is read and thrown away, for a while (RFC 9112, section 9.6).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::activity::Activity;

/// How long is waited for the client to end its side.
pub(super) const LINGER_TIME: Duration = Duration::from_secs(3);
/// Bytes that are read and thrown away meanwhile; a client that sends more is cut.
pub(super) const LINGER_BYTES: usize = 1024 * 1024;

/// See the module.
pub(super) struct Lingering<S> {
    socket: S,
    activity: Arc<Activity>,
    farewell: Option<Farewell>,
}

/// The sending side has ended.
struct Farewell {
    over: Pin<Box<Sleep>>,
    left: usize,
}

impl<S> Lingering<S> {
    pub(super) fn new(socket: S, activity: Arc<Activity>) -> Self {
        Self {
            socket,
            activity,
            farewell: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.farewell.is_none() {
            ready!(Pin::new(&mut this.socket).poll_shutdown(context))?;
        }
        // A WebSocket has its own way to say good-bye.
        if this.activity.is_upgraded() {
            return Poll::Ready(Ok(()));
        }
        let farewell = this.farewell.get_or_insert_with(|| Farewell {
            over: Box::pin(sleep_until(Instant::now() + LINGER_TIME)),
            left: LINGER_BYTES,
        });
        if farewell.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut waste = [0; 4096];
        while farewell.left > 0 {
            let mut waste = ReadBuf::new(&mut waste);
            let read = ready!(Pin::new(&mut this.socket).poll_read(context, &mut waste));
            let length = waste.filled().len();
            if read.is_err() || length == 0 {
                break;
            }
            farewell.left = farewell.left.saturating_sub(length);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
