//! A socket served by a connection of a lane: the fast path of raw TCP.
//!
//! What is read from the socket is framed where it lies and handed to TLS; what comes out of TLS is
//! written to the socket from where TLS put it. The buffers are the thread's own, so that a quiet flow
//! has none; only what the other side does not take is kept, at most one read of it.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use kakuremichi_proto::{
    flow::FlowReply,
    lane::record::{HEADER, MAX_DATA, Record, ResetCode, data_header},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    connection::{Connection, MAX_HELD},
    finish::Fate,
};
use crate::engine::{EndReason, Meter};

/// One read: a record of data fills it.
const BUFFER: usize = HEADER + MAX_DATA;
/// TLS gives at most so much at once; with less room than this the next read waits.
const TLS_RECORD: usize = 16 * 1024;
/// What one turn of a flow moves at most each way, in bytes, and by one read more. Then others have theirs: a
/// request waits for one turn of each flow of bulk that its thread serves.
const TURN: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// How a flow ended, and how it left its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PumpEnd {
    pub(crate) reason: EndReason,
    pub(crate) fate: Fate,
}

/// Serves `socket` until both directions have ended, or something breaks. With `replied` this end took
/// the flow and what it says first is queued; otherwise the other end's reply is waited for, while data
/// go out already.
pub(crate) async fn pump<S>(
    socket: &mut S,
    connection: &mut Connection,
    meter: &Meter,
    replied: bool,
) -> PumpEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pump = Pump {
        socket,
        connection,
        meter,
        replied,
        read_ended: false,
        received_end: false,
        write_ended: false,
    };
    loop {
        let turn = poll_fn(|cx| SCRATCH.with_borrow_mut(|scratch| pump.poll(cx, scratch))).await;
        match turn {
            Turn::Over(end) => return end,
            // Not before the thread has asked the system what else there is: a task that wakes itself comes
            // round many times before that.
            Turn::More => tokio::task::yield_now().await,
        }
    }
}

struct Pump<'a, S> {
    socket: &'a mut S,
    connection: &'a mut Connection,
    meter: &'a Meter,
    replied: bool,
    /// The socket has ended its direction, and the other end is told.
    read_ended: bool,
    /// The other end has ended its direction, and everything is written.
    received_end: bool,
    /// The socket is told.
    write_ended: bool,
}

/// What breaks a flow.
enum Break {
    /// The connection.
    Lane,
    /// The other end reset the flow.
    Reset,
    /// The other end refused it.
    Refused(FlowReply),
    /// The other end does not speak our protocol.
    Protocol,
    /// The socket.
    Socket(io::ErrorKind),
}

/// What a round did.
enum Round {
    /// It moved so many bytes toward the lane, and from it.
    Moved(usize, usize),
    Quiet,
    Finished,
}

/// What a turn came to, if it did not end with waiting.
enum Turn {
    Over(PumpEnd),
    More,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<'_, S> {
    /// Has a turn. Waits only when nothing can move.
    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Turn> {
        let (mut sent, mut received) = (0, 0);
        while sent < TURN && received < TURN {
            match self.round(cx, scratch) {
                Ok(Round::Moved(out, back)) => {
                    sent += out;
                    received += back;
                }
                Ok(Round::Quiet) => return Poll::Pending,
                Ok(Round::Finished) => {
                    return Poll::Ready(Turn::Over(PumpEnd {
                        reason: EndReason::Finished,
                        fate: Fate::Clean,
                    }));
                }
                Err(broken) => return Poll::Ready(Turn::Over(self.broken(broken))),
            }
        }
        Poll::Ready(Turn::More)
    }

    fn broken(&mut self, broken: Break) -> PumpEnd {
        let (reason, fate) = match broken {
            Break::Refused(reply) => {
                if !self.read_ended {
                    self.connection.queue(Record::End);
                }
                (EndReason::Refused(reply), Fate::Clean)
            }
            Break::Lane | Break::Reset => (EndReason::Reset, Fate::Broken),
            Break::Protocol => (EndReason::Protocol, Fate::Reset(ResetCode::Protocol)),
            Break::Socket(kind) => (EndReason::Socket(kind), Fate::Reset(ResetCode::Aborted)),
        };
        PumpEnd { reason, fate }
    }

    fn round(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<Round, Break> {
        let sent = self.send(cx, scratch)?;
        let received = if self.received_end {
            0
        } else {
            self.receive(cx, scratch)?
        };
        if self.received_end && !self.write_ended {
            match Pin::new(&mut *self.socket).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.write_ended = true,
                Poll::Ready(Err(error)) => return Err(Break::Socket(error.kind())),
                Poll::Pending => {}
            }
        }
        Ok(if sent + received > 0 {
            Round::Moved(sent, received)
        } else if self.read_ended && self.write_ended && self.connection.is_drained() {
            Round::Finished
        } else {
            Round::Quiet
        })
    }

    /// From the socket to the lane; how much moved, records that are not data included.
    fn send(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<usize, Break> {
        match self.connection.poll_drain(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(Break::Lane),
            // What the lane does not take is not read from the socket.
            Poll::Pending => return Ok(0),
        }
        if self.read_ended {
            return Ok(0);
        }
        let mut part = ReadBuf::new(&mut scratch[HEADER..]);
        match Pin::new(&mut *self.socket).poll_read(cx, &mut part) {
            Poll::Pending => return Ok(0),
            Poll::Ready(Err(error)) => return Err(Break::Socket(error.kind())),
            Poll::Ready(Ok(())) => {}
        }
        let length = part.filled().len();
        if length == 0 {
            self.read_ended = true;
            self.connection.queue(Record::End);
        } else {
            scratch[..HEADER].copy_from_slice(&data_header(length));
            self.meter.add(length, 0);
            let sent = self.connection.send(cx, &scratch[..HEADER + length]);
            sent.map_err(|_| Break::Lane)?;
        }
        Ok(HEADER + length)
    }

    /// From the lane to the socket; how much moved.
    fn receive(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<usize, Break> {
        let mut moved = 0;
        let mut start = 0;
        if !self.connection.held().is_empty() {
            let mut held = self.connection.take_held();
            let (taken, blocked) = self.deliver(cx, &held)?;
            moved = taken;
            held.drain(..taken);
            if blocked || self.received_end {
                self.connection.hold(held);
                return Ok(moved);
            }
            // The beginning of a record that is not data.
            start = held.len();
            debug_assert!(start < MAX_HELD);
            scratch[..start].copy_from_slice(&held);
        }
        let mut part = ReadBuf::new(&mut scratch[start..]);
        let mut ended = false;
        loop {
            let before = part.filled().len();
            match self.connection.poll_read(cx, &mut part) {
                Poll::Ready(Ok(())) => ended = part.filled().len() == before,
                Poll::Ready(Err(_)) => ended = true,
                Poll::Pending => break,
            }
            if ended || part.remaining() < TLS_RECORD {
                break;
            }
        }
        let end = start + part.filled().len();
        let (taken, blocked) = self.deliver(cx, &scratch[..end])?;
        if taken < end {
            self.connection.hold(scratch[taken..end].to_vec());
        }
        // What came before the end may hold that of the flow. The socket takes it first; then the connection
        // tells its end once more.
        if ended && !self.received_end && !blocked {
            return Err(Break::Lane);
        }
        Ok(moved + taken)
    }

    /// Takes records from `bytes` and writes their data to the socket. Returns how many bytes were taken,
    /// and whether the socket takes no more. What comes behind the end of the flow is left.
    fn deliver(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(usize, bool), Break> {
        let mut taken = 0;
        while taken < bytes.len() && !self.received_end {
            let rest = &bytes[taken..];
            let left = self.connection.reader().data_left();
            if left > 0 {
                let data = &rest[..left.min(rest.len())];
                match Pin::new(&mut *self.socket).poll_write(cx, data) {
                    Poll::Pending => return Ok((taken, true)),
                    Poll::Ready(Ok(0)) => return Err(Break::Socket(io::ErrorKind::WriteZero)),
                    Poll::Ready(Ok(wrote)) => {
                        self.connection.reader().took(wrote);
                        self.meter.add(0, wrote);
                        taken += wrote;
                    }
                    Poll::Ready(Err(error)) => return Err(Break::Socket(error.kind())),
                }
                continue;
            }
            let read = self.connection.reader().read(rest);
            let Some((record, length)) = read.map_err(|_| Break::Protocol)? else {
                break;
            };
            taken += length;
            match record {
                Record::Data(_) if self.replied => {}
                Record::End if self.replied => self.received_end = true,
                Record::Reply(FlowReply::Connected) if !self.replied => self.replied = true,
                Record::Reply(reply) if !self.replied => return Err(Break::Refused(reply)),
                Record::Reset(_) => return Err(Break::Reset),
                Record::Retire | Record::Unknown(_) => {}
                _ => return Err(Break::Protocol),
            }
        }
        Ok((taken, false))
    }
}
