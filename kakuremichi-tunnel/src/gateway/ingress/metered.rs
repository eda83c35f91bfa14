//! A visitor's connection that this thread relays itself, since there is TLS toward the target: charged
//! while it is open, and ended when nothing moves.

#![expect(
    clippy::disallowed_methods,
    reason = "a connection is found idle by the clock"
)]

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    time::{Instant, sleep_until},
};

use crate::gateway::{
    upstream::{FlowError, SpliceOutcome},
    usage::ServiceUsage,
};

/// Relays until both directions have ended or nothing has moved for `idle`, and charges the service.
pub(super) async fn relay<V, T>(
    visitor: V,
    mut target: T,
    usage: &ServiceUsage,
    idle: Duration,
) -> SpliceOutcome
where
    V: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Moved {
        sent: Cell::new(0),
        received: Cell::new(0),
        last: Cell::new(Instant::now()),
    };
    let mut visitor = Metered {
        inner: visitor,
        usage,
        moved: &moved,
    };
    let error = tokio::select! {
        copied = copy_bidirectional(&mut visitor, &mut target) => {
            // Whoever closes without ceremony, visitor or target, is free to; what became of the flow
            // between them is told.
            copied.err().and_then(|error| FlowError::find(&error))
        }
        () = moved.idle(idle) => Some(FlowError::TimedOut),
    };
    SpliceOutcome {
        sent: moved.sent.get(),
        received: moved.received.get(),
        error,
        returned: None,
    }
}

/// What moved so far.
struct Moved {
    sent: Cell<u64>,
    received: Cell<u64>,
    last: Cell<Instant>,
}

impl Moved {
    async fn idle(&self, patience: Duration) {
        loop {
            let due = self.last.get() + patience;
            sleep_until(due).await;
            if self.last.get() + patience <= due {
                return;
            }
        }
    }
}

/// The visitor's stream.
struct Metered<'a, V> {
    inner: V,
    usage: &'a ServiceUsage,
    moved: &'a Moved,
}

impl<V: AsyncRead + Unpin> AsyncRead for Metered<'_, V> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, out))?;
        let count = (out.filled().len() - before) as u64;
        self.usage.add_in(count);
        self.moved.sent.set(self.moved.sent.get() + count);
        self.moved.last.set(Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl<V: AsyncWrite + Unpin> AsyncWrite for Metered<'_, V> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, data))?;
        self.usage.add_out(count as u64);
        self.moved.received.set(self.moved.received.get() + count as u64);
        self.moved.last.set(Instant::now());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::id::ServiceId;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::gateway::usage::UsageBook;

    const SERVICE: ServiceId = ServiceId::from_bytes([1; 16]);
    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_service_is_charged_while_the_connection_is_open() {
        let book = UsageBook::default();
        let usage = book.of(SERVICE);
        let ((mut visitor, near), (far, mut target)) = (duplex(64), duplex(64));
        let relaying = relay(near, far, &usage, LONG);
        let users = async {
            visitor.write_all(b"ask").await.unwrap();
            target.read_exact(&mut [0; 3]).await.unwrap();
            target.write_all(b"reply").await.unwrap();
            visitor.read_exact(&mut [0; 5]).await.unwrap();
            let used = book.take()[0].1;
            assert_eq!((used.bytes_in, used.bytes_out), (3, 5));
            drop((visitor, target));
        };
        let (outcome, ()) = tokio::join!(relaying, users);
        assert_eq!((outcome.sent, outcome.received, outcome.error), (3, 5, None));
        assert!(book.take().is_empty());
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_moves_is_ended() {
        let usage = UsageBook::default().of(SERVICE);
        let ((mut visitor, near), (far, _target)) = (duplex(64), duplex(64));
        visitor.write_all(b"ask").await.unwrap();
        let outcome = relay(near, far, &usage, Duration::from_millis(50)).await;
        assert_eq!((outcome.sent, outcome.error), (3, Some(FlowError::TimedOut)));
    }

    /// A visitor that resets is no fault of the target's.
    #[tokio::test]
    async fn a_reset_of_the_visitor_is_no_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let visitor = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&visitor)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(visitor);
        let (far, _target) = duplex(64);
        let usage = UsageBook::default().of(SERVICE);
        let outcome = relay(near, far, &usage, LONG).await;
        assert_eq!(outcome.error, None);
    }
}
