//! A visitor's byte stream: guarded while it carries HTTP/1.1, and given up when the visitor takes
//! nothing for too long.

#![expect(clippy::disallowed_methods, reason = "a write waits for its deadline here")]

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
}

/// A visitor's stream.
#[derive(Debug)]
pub(crate) struct VisitorIo<T> {
    inner: T,
    guard: Option<(Guard, Unguard)>,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// The timer above is running.
    waiting: bool,
}

impl<T> VisitorIo<T> {
    /// A stream on which a write may stall for `patience`, guarded if `unguard` is there.
    pub(crate) fn new(inner: T, patience: Duration, unguard: Option<Unguard>) -> Self {
        Self {
            inner,
            guard: unguard.map(|unguard| (Guard::new(), unguard)),
            patience,
            stalled: None,
            waiting: false,
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

impl<T: AsyncRead + Unpin> AsyncRead for VisitorIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        if let Some((guard, unguard)) = &mut this.guard {
            if unguard.0.load(Ordering::Relaxed) {
                this.guard = None;
                return Poll::Ready(Ok(()));
            }
            let passed = guard.pass(&mut buf.filled_mut()[before..]);
            buf.set_filled(before + passed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for VisitorIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(shut, cx)
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
