//! Bytes both ways between a visitor and a target, once a connection is a WebSocket.

#![expect(
    clippy::disallowed_methods,
    reason = "a relay waits for its idle time, and masks its last frame by random bytes"
)]

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{sleep_until, timeout},
};

use super::{
    exchange::Exchange,
    websocket::{Frames, Goodbye},
};
use crate::gateway::{drain::Drain, flows::Lease};

/// The buffer of each direction, in bytes.
const BUFFER: usize = 16 * 1024;
/// How long the rest of a frame is waited for before the connection is cut.
const GOODBYE: Duration = Duration::from_secs(2);

/// A WebSocket that is open.
pub(super) struct Relay<'a> {
    /// Counts.
    pub(super) exchange: &'a Exchange,
    /// The visitor's permit.
    pub(super) lease: &'a Lease,
    /// Tells when the gateway stops.
    pub(super) drain: Drain,
    /// How long nothing may move.
    pub(super) idle: Duration,
}

impl Relay<'_> {
    /// Copies both ways until both directions have ended, nothing moves for too long, the permit is
    /// revoked or the gateway stops. `first` is what came from the target behind its answer.
    pub(super) async fn run<V, T>(self, visitor: V, target: T, first: &[u8]) -> io::Result<()>
    where
        V: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut from_visitor, mut to_visitor) = tokio::io::split(visitor);
        let (mut from_target, mut to_target) = tokio::io::split(target);
        let (mut inward, mut outward) = (Direction::new(&[]), Direction::new(first));
        let goodbye = {
            let copying = poll_fn(|cx| {
                let moved_in = |bytes| self.exchange.moved_in(bytes);
                let moved_out = |bytes| self.exchange.moved_out(bytes);
                let inward = inward.poll_copy(cx, &mut from_visitor, &mut to_target, &moved_in)?;
                let outward = outward.poll_copy(cx, &mut from_target, &mut to_visitor, &moved_out)?;
                ready!(inward);
                outward.map(Ok)
            });
            tokio::select! {
                biased;
                goodbye = self.end() => goodbye,
                ended = copying => return ended,
            }
        };
        let Some(goodbye) = goodbye else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        let mut mask = [0; 4];
        // Without randomness the mask is zero, which the target does not mind.
        let _ = SystemRandom::new().fill(&mut mask);
        let (inward_goodbye, outward_goodbye) = (goodbye.to_target(mask), goodbye.to_visitor());
        let farewell = async {
            tokio::join!(
                inward.end_with(&inward_goodbye, &mut from_visitor, &mut to_target),
                outward.end_with(&outward_goodbye, &mut from_target, &mut to_visitor),
            )
        };
        let _ = timeout(GOODBYE, farewell).await;
        Ok(())
    }

    /// Why the relay ends before its time; `None` when nothing moves.
    async fn end(&self) -> Option<Goodbye> {
        let mut drain = self.drain.clone();
        tokio::select! {
            () = self.lease.revoked() => Some(Goodbye::Forbidden),
            () = drain.begun() => Some(Goodbye::GoingAway),
            () = self.nothing_moves() => None,
        }
    }

    async fn nothing_moves(&self) {
        loop {
            let due = self.exchange.idle_at(self.idle);
            sleep_until(due).await;
            if self.exchange.idle_at(self.idle) <= due {
                return;
            }
        }
    }
}

/// One direction: what was read and not yet written, and where its frames end.
#[derive(Debug)]
struct Direction {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    frames: Frames,
    flushed: bool,
    source_ended: bool,
    ended: bool,
}

impl Direction {
    fn new(first: &[u8]) -> Self {
        let mut buffer = first.to_vec();
        buffer.resize(BUFFER.max(first.len()), 0);
        Self {
            buffer,
            start: 0,
            end: first.len(),
            frames: Frames::default(),
            flushed: true,
            source_ended: false,
            ended: false,
        }
    }

    /// Copies until the source ends, then ends the other side, so that one direction may end before
    /// the other. Nothing is lost when polling stops.
    fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: &impl Fn(usize),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if self.start < self.end {
                let pending = &self.buffer[self.start..self.end];
                let written = ready!(Pin::new(&mut *to).poll_write(cx, pending))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.frames.follow(&pending[..written]);
                self.start += written;
                self.flushed = false;
                moved(written);
                continue;
            }
            if self.source_ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.ended = true;
                continue;
            }
            if self.poll_fill(cx, from)?.is_pending() {
                if !self.flushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.flushed = true;
                }
                return Poll::Pending;
            }
        }
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        self.start = 0;
        self.end = buffer.filled().len();
        self.source_ended = self.end == 0;
        Poll::Ready(Ok(()))
    }

    /// Copies the rest of the frame that is under way, then `goodbye`, and ends the other side.
    async fn end_with<R, W>(&mut self, goodbye: &[u8], from: &mut R, to: &mut W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.frames.at_boundary() && !self.source_ended {
            if self.start == self.end {
                poll_fn(|cx| self.poll_fill(cx, from)).await?;
            }
            let pending = &self.buffer[self.start..self.end];
            let used = self.frames.advance(pending);
            to.write_all(&pending[..used]).await?;
            self.start += used;
        }
        if !self.ended {
            to.write_all(goodbye).await?;
            to.shutdown().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use http::Method;
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;
    use crate::gateway::{
        drain::drain,
        testing::{lease, local},
    };

    fn exchange() -> Rc<Exchange> {
        let visitor = "192.0.2.1".parse().unwrap();
        Rc::new(Exchange::begin(
            &Default::default(),
            "id".to_owned(),
            visitor,
            Some(Method::GET),
            None,
        ))
    }

    /// LESSONS: "EOF in one direction closes both".
    #[test]
    fn one_direction_may_end_before_the_other() {
        local(async {
            let (mut visitor, near) = duplex(64);
            let (far, mut target) = duplex(64);
            let (_begin, drain) = drain();
            let (exchange, (lease, _flows)) = (exchange(), lease());
            let idle = Duration::from_secs(60);
            let relay = Relay {
                exchange: &exchange,
                lease: &lease,
                drain,
                idle,
            };
            let users = async {
                visitor.write_all(b"question").await.unwrap();
                visitor.shutdown().await.unwrap();
                let mut question = Vec::new();
                target.read_to_end(&mut question).await.unwrap();
                assert_eq!(question, b"question");
                target.write_all(b"answer").await.unwrap();
                drop(target);
                let mut answer = Vec::new();
                visitor.read_to_end(&mut answer).await.unwrap();
                assert_eq!(answer, b"early answer");
            };
            let (ended, ()) = tokio::join!(relay.run(near, far, b"early "), users);
            ended.unwrap();
        });
    }

    /// LESSONS: "WebSockets cut at deploy": drain says goodbye, behind the frame that is under way.
    #[test]
    fn a_drain_says_goodbye_between_two_frames() {
        local(async {
            let (mut visitor, near) = duplex(64);
            let (far, mut target) = duplex(64);
            let (begin, drain) = drain();
            let (exchange, (lease, _flows)) = (exchange(), lease());
            let idle = Duration::from_secs(60);
            let relay = Relay {
                exchange: &exchange,
                lease: &lease,
                drain,
                idle,
            };
            let users = async {
                target.write_all(&[0x82, 4, 1, 2]).await.unwrap();
                let mut head = [0; 4];
                visitor.read_exact(&mut head).await.unwrap();
                begin.begin();
                target.write_all(&[3, 4, 0x82, 1, 9]).await.unwrap();
                let mut rest = Vec::new();
                visitor.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, [3, 4, 0x88, 2, 0x03, 0xe9]);
                let mut goodbye = Vec::new();
                target.read_to_end(&mut goodbye).await.unwrap();
                assert_eq!(goodbye.len(), 8);
                assert_eq!(goodbye[..2], [0x88, 0x82]);
            };
            let (ended, ()) = tokio::join!(relay.run(near, far, b""), users);
            ended.unwrap();
        });
    }
}
