//! A visitor's byte stream: guarded while it carries HTTP/1.1, given up when the visitor takes nothing
//! for too long, and closed so that the visitor gets all that was written.

#![expect(
    clippy::disallowed_methods,
    reason = "a write, and a close, wait for their deadline here"
)]

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::guard::Guard;

/// Takes the guard away, once the connection carries something else than requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unguard(Arc<AtomicBool>);

impl Unguard {
    /// From the next byte on that is read, nothing is looked at.
    pub(crate) fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_due(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long, and how many bytes, are taken of a visitor to whom everything was written.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 512 * 1024;

/// A visitor's stream.
#[derive(Debug)]
pub(crate) struct VisitorIo<T> {
    inner: T,
    carries: Carries,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// The timer above is running.
    waiting: bool,
    /// The writing side is closed, and what the visitor still sends is dropped.
    lingering: Option<Linger>,
}

/// What the bytes of a stream are.
#[derive(Debug)]
enum Carries {
    Http1(Guard, Unguard),
    Http2,
    /// What HTTP/1.1 was upgraded to.
    Other,
}

#[derive(Debug)]
struct Linger {
    deadline: Pin<Box<Sleep>>,
    left: usize,
}

impl<T> VisitorIo<T> {
    /// A stream with HTTP/1.1, on which a write may stall for `patience`.
    pub(crate) fn http1(inner: T, patience: Duration, unguard: Unguard) -> Self {
        Self::new(inner, patience, Carries::Http1(Guard::new(), unguard))
    }

    /// A stream with HTTP/2, on which a write may stall for `patience`.
    pub(crate) fn http2(inner: T, patience: Duration) -> Self {
        Self::new(inner, patience, Carries::Http2)
    }

    fn new(inner: T, patience: Duration, carries: Carries) -> Self {
        Self {
            inner,
            carries,
            patience,
            stalled: None,
            waiting: false,
            lingering: None,
        }
    }

    /// Turns a write that is not ready into an error once it has waited too long.
    fn watch<R>(&mut self, written: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + self.patience);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> VisitorIo<T> {
    /// Drops what a visitor still sends until it closes, too: closing on unread bytes would be a reset,
    /// which can overtake the end of what was written.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self.lingering.get_or_insert_with(|| Linger {
            deadline: Box::pin(sleep(LINGER)),
            left: LINGER_BYTES,
        });
        let mut sink = [0; 4096];
        while linger.left > 0 && linger.deadline.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut sink);
            let read = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                break;
            }
            linger.left = linger.left.saturating_sub(buf.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for VisitorIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        if let Carries::Http1(guard, unguard) = &mut this.carries {
            if unguard.is_due() {
                this.carries = Carries::Other;
                return Poll::Ready(Ok(()));
            }
            let passed = guard.pass(&mut buf.filled_mut()[before..]);
            buf.set_filled(before + passed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for VisitorIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
            ready!(self.watch(shut, cx))?;
            // What was upgraded has two directions that end one by one.
            match &self.carries {
                Carries::Other => return Poll::Ready(Ok(())),
                Carries::Http1(_, unguard) if unguard.is_due() => return Poll::Ready(Ok(())),
                Carries::Http1(..) | Carries::Http2 => {}
            }
        }
        self.poll_linger(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_close_takes_what_the_visitor_still_sends() {
        let (ours, mut visitor) = duplex(64);
        let mut io = VisitorIo::http2(ours, PATIENCE);
        io.write_all(b"all").await.unwrap();
        let ((), ()) = tokio::join!(async { io.shutdown().await.unwrap() }, async {
            // More than fits into the pipe: somebody takes it.
            visitor.write_all(&[0; 4096]).await.unwrap();
            let mut got = Vec::new();
            visitor.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"all");
            drop(visitor);
        });
    }

    #[tokio::test]
    async fn a_visitor_who_never_closes_is_left() {
        let (ours, visitor) = duplex(64);
        let mut io = VisitorIo::http1(ours, PATIENCE, Unguard::default());
        let began = Instant::now();
        io.shutdown().await.unwrap();
        assert!(began.elapsed() >= LINGER && began.elapsed() < 2 * LINGER);
        drop(visitor);
    }

    #[tokio::test]
    async fn a_visitor_who_never_stops_is_left() {
        let (ours, mut visitor) = duplex(LINGER_BYTES * 2);
        visitor.write_all(&vec![0; LINGER_BYTES * 2]).await.unwrap();
        let mut io = VisitorIo::http2(ours, PATIENCE);
        io.shutdown().await.unwrap();
        drop(visitor);
    }

    #[tokio::test]
    async fn one_direction_of_an_upgraded_connection_closes_alone() {
        let (ours, mut visitor) = duplex(64);
        let unguard = Unguard::default();
        let mut io = VisitorIo::http1(ours, PATIENCE, unguard.clone());
        unguard.now();
        io.shutdown().await.unwrap();
        visitor.write_all(b"on").await.unwrap();
        let mut got = [0; 2];
        io.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"on");
    }
}
