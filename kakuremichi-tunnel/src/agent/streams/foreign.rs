//! A stream of somebody else's transport, under TLS.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{agent::transport::Duplex, streams::socket};

/// Ends a stream from outside, whoever uses it.
#[derive(Debug, Clone)]
pub(in super::super) enum Cut {
    /// Of a TCP socket.
    Socket(socket::Cut),
    /// Of any other.
    Foreign(Arc<Switch>),
}

impl Cut {
    pub(super) fn cut(&self) {
        match self {
            Self::Socket(cut) => cut.cut(),
            Self::Foreign(switch) => switch.cut(),
        }
    }
}

/// Tells a stream to end.
#[derive(Debug, Default)]
pub(in super::super) struct Switch {
    is_cut: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Switch {
    fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    /// Fails once it was cut, and has `waker` woken then.
    fn check(&self, waker: &AtomicWaker, cx: &Context<'_>) -> io::Result<()> {
        waker.register(cx.waker());
        if self.is_cut.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

/// The stream. Both its directions end with an error when it is cut.
pub(super) struct Foreign {
    io: Box<dyn Duplex>,
    switch: Arc<Switch>,
}

impl Foreign {
    pub(super) fn new(io: Box<dyn Duplex>) -> Self {
        Self {
            io,
            switch: Arc::default(),
        }
    }

    /// What ends it from outside.
    pub(super) fn cut(&self) -> Cut {
        Cut::Foreign(Arc::clone(&self.switch))
    }
}

impl AsyncRead for Foreign {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.switch.check(&self.switch.reader, cx)?;
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

impl AsyncWrite for Foreign {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.switch.check(&self.switch.writer, cx)?;
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.switch.check(&self.switch.writer, cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_cut_ends_a_read_that_waits() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = Foreign::new(Box::new(near));
        let cut = stream.cut();
        stream.write_all(b"there").await.unwrap();
        let mut read = [0; 5];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"there");
        let mut nothing = [0];
        let waiting = stream.read(&mut nothing);
        let (ended, ()) = tokio::join!(waiting, async { cut.cut() });
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        let refused = stream.write(b"more").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
    }
}
