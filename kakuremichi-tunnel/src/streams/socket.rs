//! The TCP socket under a connection.

use std::{
    io::{self, Read as _},
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// What is read at once while much comes: the four TLS records in which the other end sends a full record of the
/// lane (RFC 8446 section 5.2: 22 bytes are added to 16 KiB), so that reads and records go on beginning together.
/// The TLS library asks for 4 KiB at a time, which would be a system call each. Four times as much measured
/// slower: what lies in it is out of the caches again by the time it is sent.
const BULK: usize = 4 * (16 * 1024 + 22);
/// A read of so much suggests that there is more.
const MUCH: usize = 4 * 1024;
/// After so many short reads in a row the large buffer is given back.
const SHORT_READS: u8 = 16;
/// A silent peer is asked whether it is still there after this time, and this often: NATs forget a
/// connection sooner or later, and a pooled one is to be there when it is wanted.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(5));

/// A socket that reads in large pieces while much comes, and that somebody else can [cut](Cut).
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    /// Read ahead; of length zero or [`BULK`].
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    short_reads: u8,
}

/// Ends a socket from outside, whoever uses it.
#[derive(Debug, Clone)]
pub(crate) struct Cut(Weak<TcpStream>);

impl Cut {
    /// Both directions end at once.
    pub(crate) fn cut(&self) {
        if let Some(stream) = self.0.upgrade() {
            // It may have ended before.
            let _ = SockRef::from(&*stream).shutdown(Shutdown::Both);
        }
    }
}

impl Socket {
    /// Takes a connected socket.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream: Arc::new(stream),
            buffer: Box::default(),
            start: 0,
            end: 0,
            short_reads: 0,
        }
    }

    /// Sets what a connection of a lane is to have.
    pub(crate) fn keep_alive(&self) {
        let keep_alive = TcpKeepalive::new()
            .with_time(KEEP_ALIVE.0)
            .with_interval(KEEP_ALIVE.1);
        // What cannot be set costs time, not correctness.
        let _ = self.stream.set_nodelay(true);
        let _ = SockRef::from(&*self.stream).set_tcp_keepalive(&keep_alive);
    }

    /// What ends it from outside.
    pub(crate) fn cut(&self) -> Cut {
        Cut(Arc::downgrade(&self.stream))
    }

    /// Reads from the system once it has something.
    fn poll_system(stream: &TcpStream, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let mut all = 0;
            let read = stream.try_io(Interest::READABLE, || {
                let read = (&*SockRef::from(stream)).read(into)?;
                if (1..into.len()).contains(&read) {
                    // That was all, and what comes next is told: to ask once more would cost as much.
                    all = read;
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(read)
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && all == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Ready(Ok(all)),
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start == this.end {
            if this.buffer.is_empty() || out.remaining() >= BULK {
                let unfilled = out.initialize_unfilled();
                let wanted = unfilled.len();
                let read = ready!(Self::poll_system(&this.stream, cx, unfilled))?;
                out.advance(read);
                if read == wanted && (MUCH..BULK).contains(&read) {
                    this.buffer = vec![0; BULK].into_boxed_slice();
                    this.short_reads = 0;
                }
                return Poll::Ready(Ok(()));
            }
            let read = ready!(Self::poll_system(&this.stream, cx, &mut this.buffer))?;
            (this.start, this.end) = (0, read);
            this.short_reads = if read > MUCH { 0 } else { this.short_reads + 1 };
        }
        let length = (this.end - this.start).min(out.remaining());
        out.put_slice(&this.buffer[this.start..this.start + length]);
        this.start += length;
        if this.start == this.end && this.short_reads >= SHORT_READS {
            this.buffer = Box::default();
            (this.start, this.end, this.short_reads) = (0, 0, 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write_vectored(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::new(listener.accept().await.unwrap().0), dialled)
    }

    #[tokio::test]
    async fn much_is_read_in_large_pieces_and_the_buffer_is_given_back() {
        let (mut socket, mut other) = pair().await;
        let sent: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut back = vec![0; sent.len()];
        let read = async {
            for piece in back.chunks_mut(MUCH) {
                socket.read_exact(piece).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(other.write_all(&sent), read);
        written.unwrap();
        assert!(back == sent);
        assert_eq!(socket.buffer.len(), BULK);
        for _ in 0..=SHORT_READS {
            other.write_all(b"little").await.unwrap();
            let mut little = [0; 6];
            socket.read_exact(&mut little).await.unwrap();
            assert_eq!(&little, b"little");
        }
        assert!(socket.buffer.is_empty());
    }

    #[tokio::test]
    async fn a_cut_ends_both_ends_and_outlives_its_socket() {
        let (mut socket, mut other) = pair().await;
        let cut = socket.cut();
        cut.cut();
        assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
        drop(socket);
        cut.cut();
    }
}
