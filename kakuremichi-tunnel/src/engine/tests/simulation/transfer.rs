//! What uses flows: bytes in both directions, each of which is checked.

use std::{
    fmt,
    future::Future,
    io::ErrorKind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    engine::{Connect, ConnectError, IncomingFlow, ShardSet},
    stream::TunnelStream,
};

/// What the client says first: the number of the transfer, and how much each side sends.
const HEAD: usize = 24;

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) number: u64,
    /// Bytes from the client, and to it.
    pub(super) up: u64,
    pub(super) down: u64,
    /// Who reads slowly reads so many bytes each so often.
    pub(super) pace: Option<(usize, Duration)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Running,
    /// All that was to come came, and the other end had nothing more to say.
    Complete,
    /// It was never connected.
    Refused(ConnectError),
    /// It broke.
    Failed(ErrorKind),
}

type Opening = Pin<Box<dyn Future<Output = Result<TunnelStream, ConnectError>>>>;

/// One end of a transfer.
pub(super) struct Transfer {
    wanted: Option<Wanted>,
    is_client: bool,
    opening: Option<Opening>,
    stream: Option<TunnelStream>,
    head: Vec<u8>,
    sent: u64,
    received: u64,
    shut: bool,
    ended: bool,
    pub(super) outcome: Outcome,
    /// When it goes on reading.
    pub(super) next: Option<Instant>,
}

/// The byte at an offset of a direction of a transfer.
fn byte(number: u64, up: bool, offset: u64) -> u8 {
    let mixed = (offset ^ (offset >> 8).wrapping_mul(0x9d)).wrapping_add(number.wrapping_mul(0x6b));
    mixed as u8 ^ u8::from(up)
}

impl Transfer {
    /// Opens a flow.
    pub(super) fn open(set: ShardSet, connect: Connect, wanted: Wanted) -> Self {
        let opening: Opening = Box::pin(async move { set.connect(connect).await });
        Self {
            wanted: Some(wanted),
            opening: Some(opening),
            ..Self::new(true)
        }
    }

    /// Takes one.
    pub(super) fn accept(flow: IncomingFlow) -> Self {
        Self {
            stream: Some(flow.accept_stream(Arc::default())),
            ..Self::new(false)
        }
    }

    const fn new(is_client: bool) -> Self {
        Self {
            wanted: None,
            is_client,
            opening: None,
            stream: None,
            head: Vec::new(),
            sent: 0,
            received: 0,
            shut: false,
            ended: false,
            outcome: Outcome::Running,
            next: None,
        }
    }

    pub(super) const fn is_client(&self) -> bool {
        self.is_client
    }

    /// Its number, once it is known.
    pub(super) fn number(&self) -> Option<u64> {
        self.wanted.map(|wanted| wanted.number)
    }

    /// Does what can be done; returns whether anything was.
    pub(super) fn poll(&mut self, now: Instant) -> bool {
        if self.outcome != Outcome::Running {
            return false;
        }
        let mut cx = Context::from_waker(Waker::noop());
        if let Some(opening) = &mut self.opening {
            match opening.as_mut().poll(&mut cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(stream)) => self.stream = Some(stream),
                Poll::Ready(Err(error)) => self.outcome = Outcome::Refused(error),
            }
            self.opening = None;
        }
        let Some(mut stream) = self.stream.take() else {
            return true;
        };
        let moved = self.write(&mut stream, &mut cx) | self.read(&mut stream, now, &mut cx);
        if self.ended && self.shut && self.outcome == Outcome::Running {
            self.outcome = Outcome::Complete;
        }
        if self.outcome == Outcome::Running {
            self.stream = Some(stream);
        }
        if self.outcome != Outcome::Running || self.ended {
            self.next = None;
        }
        moved
    }

    fn write(&mut self, stream: &mut TunnelStream, cx: &mut Context<'_>) -> bool {
        let Some(wanted) = self.wanted.filter(|_| !self.shut) else {
            return false;
        };
        let mut moved = false;
        let (head, total) = if self.is_client {
            (HEAD as u64, HEAD as u64 + wanted.up)
        } else {
            (0, wanted.down)
        };
        while self.sent < total {
            let mut data = Vec::new();
            if self.sent < head {
                let words = [wanted.number, wanted.up, wanted.down];
                data.extend(words.iter().flat_map(|word| word.to_le_bytes()));
                data.drain(..self.sent as usize);
            } else {
                let end = total.min(self.sent + 4_096);
                data.extend((self.sent..end).map(|at| byte(wanted.number, self.is_client, at - head)));
            }
            match Pin::new(&mut *stream).poll_write(cx, &data) {
                Poll::Pending => return moved,
                Poll::Ready(Ok(count)) => self.sent += count as u64,
                Poll::Ready(Err(error)) => {
                    self.outcome = Outcome::Failed(error.kind());
                    return true;
                }
            }
            moved = true;
        }
        self.shut = true;
        let _ = Pin::new(stream).poll_shutdown(cx);
        true
    }

    fn read(&mut self, stream: &mut TunnelStream, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while !self.ended && self.outcome == Outcome::Running && self.next.is_none_or(|at| at <= now) {
            let pace = self.wanted.and_then(|wanted| wanted.pace);
            let mut storage = [0; 8_192];
            let room = pace.map_or(storage.len(), |(most, _)| most.min(storage.len()));
            let mut buffer = ReadBuf::new(&mut storage[..room]);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    self.next = None;
                    return moved;
                }
                Poll::Ready(Err(error)) => self.outcome = Outcome::Failed(error.kind()),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.finish_reading(),
                Poll::Ready(Ok(())) => self.take(buffer.filled()),
            }
            moved = true;
            if let Some((_, pause)) = pace {
                self.next = Some(now + pause);
            }
        }
        moved
    }

    /// Checks what came.
    fn take(&mut self, mut data: &[u8]) {
        if !self.is_client && self.wanted.is_none() {
            let (head, rest) = data.split_at(data.len().min(HEAD - self.head.len()));
            self.head.extend_from_slice(head);
            data = rest;
            if self.head.len() < HEAD {
                return;
            }
            let word = |at: usize| u64::from_le_bytes(self.head[at..at + 8].try_into().unwrap());
            self.wanted = Some(Wanted {
                number: word(0),
                up: word(8),
                down: word(16),
                pace: None,
            });
        }
        let number = self.number().unwrap();
        for &got in data {
            let expected = byte(number, !self.is_client, self.received);
            assert_eq!(got, expected, "transfer {number}, offset {}", self.received);
            self.received += 1;
        }
    }

    /// The other end says that this was all: then it was.
    fn finish_reading(&mut self) {
        let expected = self
            .wanted
            .map(|wanted| if self.is_client { wanted.down } else { wanted.up });
        assert_eq!(expected, Some(self.received), "{self:?} was cut short");
        self.ended = true;
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("wanted", &self.wanted)
            .field("is_client", &self.is_client)
            .field("sent", &self.sent)
            .field("received", &self.received)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}
