//! Moves bytes between flows and those who use them.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use kakuremichi_proto::flow::{FlowReply, REPLY_LEN};

use super::{
    EndReason,
    flow::{Flow, Reply, Spliced, end_of},
};
use crate::{
    netstack::{CloseReason, FlowId, Stack},
    stream::Shared,
};

/// Whether a call that moved less than it could is as good as one that would block (epoll(7), question
/// 9): saves a system call for each piece.
const TOLD_ANEW: bool = cfg!(target_os = "linux");

/// What is to become of a flow that was served.
pub(super) enum Step {
    /// It stays.
    Stay,
    /// Its user has left after ending our direction: it stays for a while.
    Linger,
    /// It is over: forget it, and let the netstack finish in the background what is under way.
    Release(EndReason),
    /// It is over: reset it.
    Abort(EndReason),
}

/// What became of a preface.
pub(super) enum PrefaceStep {
    /// More of it has to come.
    Awaited,
    /// All of it is there, and nothing behind it was taken.
    Complete,
    /// There is none.
    Broken,
}

/// Serves a stream.
pub(super) fn serve_stream(flow: &mut Flow, shared: &Shared, stack: &mut Stack) -> Step {
    shared.link.seen();
    let left = shared.link.is_cancelled();
    let head = write_head(flow, stack);
    let connected = match read_reply(flow, stack) {
        Reply::Connected => true,
        Reply::Awaited => false,
        Reply::Refused(reply) => return Step::Abort(EndReason::Refused(reply)),
        Reply::Broken => return Step::Abort(EndReason::Protocol),
    };
    let id = flow.id;
    let ending = shared.turn(|turn| {
        let (mut sent, mut received) = (0, 0);
        if connected {
            turn.connect();
        }
        if connected && left {
            discard(id, stack);
        } else if connected {
            loop {
                if turn.room() == 0 {
                    if stack.can_recv(id) {
                        turn.starve();
                    }
                    break;
                }
                match stack.recv(id, |data| both(turn.give(data))) {
                    None | Some(0) => break,
                    Some(count) => received += count,
                }
            }
            if stack.recv_finished(id) {
                turn.end_received();
            }
        }
        if head {
            while turn.has_more() {
                match stack.send(id, |room| both(turn.take(room))) {
                    None | Some(0) => break,
                    Some(count) => sent += count,
                }
            }
            if turn.is_finished() && !flow.shut {
                flow.shut = true;
                stack.shutdown(id);
            }
        }
        // Counted before the user is woken, who may look.
        flow.meter.add(sent, received);
        turn.is_ending()
    });
    match flow.ended {
        Some(CloseReason::Finished) => Step::Release(EndReason::Finished),
        Some(reason) => Step::Release(end_of(reason)),
        None if left && !ending => Step::Abort(EndReason::Cancelled),
        None if flow.shut && stack.recv_finished(id) => Step::Release(EndReason::Finished),
        None if left => Step::Linger,
        None => Step::Stay,
    }
}

/// Serves a socket.
pub(super) fn serve_socket(flow: &mut Flow, spliced: &mut Spliced, stack: &mut Stack) -> Step {
    spliced.link.seen();
    if spliced.link.is_cancelled() {
        return Step::Abort(EndReason::Cancelled);
    }
    let head = write_head(flow, stack);
    let connected = match read_reply(flow, stack) {
        Reply::Connected => true,
        Reply::Awaited => false,
        Reply::Refused(reply) => return Step::Abort(EndReason::Refused(reply)),
        Reply::Broken => return Step::Abort(EndReason::Protocol),
    };
    if head && let Err(error) = read_socket(flow, spliced, stack) {
        return Step::Abort(EndReason::Socket(error.kind()));
    }
    if connected && let Err(error) = write_socket(flow, spliced, stack) {
        return Step::Abort(EndReason::Socket(error.kind()));
    }
    match flow.ended {
        // Everything was taken, and both directions have ended.
        Some(CloseReason::Finished) => Step::Release(EndReason::Finished),
        Some(reason) => Step::Release(end_of(reason)),
        None if flow.shut && spliced.write_ended => Step::Release(EndReason::Finished),
        None => Step::Stay,
    }
}

/// Serves a flow that nobody uses any more: its head goes out, what comes is discarded.
pub(super) fn serve_nobody(flow: &mut Flow, stack: &mut Stack) -> Step {
    discard(flow.id, stack);
    if write_head(flow, stack) && !flow.shut {
        flow.shut = true;
        stack.shutdown(flow.id);
    }
    match flow.ended {
        Some(reason) => Step::Release(end_of(reason)),
        None if flow.shut && stack.recv_finished(flow.id) => Step::Release(EndReason::Finished),
        None => Step::Linger,
    }
}

/// Reads a preface into `bytes`.
pub(super) fn read_preface(
    id: FlowId,
    length: super::PrefaceLength,
    bytes: &mut Vec<u8>,
    bound: usize,
    stack: &mut Stack,
) -> PrefaceStep {
    loop {
        let before = bytes.len();
        let step = stack.recv(id, |data| {
            // Never more than the bound is copied, and what is behind the preface stays in the flow.
            bytes.extend_from_slice(&data[..data.len().min(bound - before)]);
            match length(bytes) {
                Ok(Some(total)) if total <= bytes.len() => {
                    bytes.truncate(total.max(before));
                    (bytes.len() - before, PrefaceStep::Complete)
                }
                Ok(Some(total)) if total > bound => (0, PrefaceStep::Broken),
                Ok(_) if bytes.len() == bound => (0, PrefaceStep::Broken),
                Ok(_) => (bytes.len() - before, PrefaceStep::Awaited),
                Err(_) => (0, PrefaceStep::Broken),
            }
        });
        match step {
            Some(PrefaceStep::Awaited) => {}
            Some(step) => return step,
            None if stack.recv_finished(id) => return PrefaceStep::Broken,
            None => return PrefaceStep::Awaited,
        }
    }
}

/// Sends what goes out first; returns whether all of it is on its way.
pub(super) fn write_head(flow: &mut Flow, stack: &mut Stack) -> bool {
    while flow.head_sent < flow.head.len() {
        let rest = &flow.head[flow.head_sent..];
        let count = stack.send(flow.id, |room| {
            let count = rest.len().min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            both(count)
        });
        match count {
            None | Some(0) => return false,
            Some(count) => flow.head_sent += count,
        }
    }
    if flow.head_sent > 0 {
        flow.head = Vec::new();
        flow.head_sent = 0;
    }
    true
}

/// Takes the reply from the head of the peer's direction, if one is expected.
fn read_reply(flow: &mut Flow, stack: &mut Stack) -> Reply {
    let Some(bytes) = &mut flow.reply else {
        return Reply::Connected;
    };
    loop {
        match FlowReply::parse(bytes) {
            Ok(Some(FlowReply::Connected)) => {
                flow.reply = None;
                return Reply::Connected;
            }
            Ok(Some(reply)) => return Reply::Refused(reply),
            Ok(None) => {}
            Err(_) => return Reply::Broken,
        }
        let taken = stack.recv(flow.id, |data| {
            let count = data.len().min(REPLY_LEN - bytes.len());
            bytes.extend_from_slice(&data[..count]);
            both(count)
        });
        if taken.is_none() {
            return if stack.recv_finished(flow.id) {
                Reply::Broken
            } else {
                Reply::Awaited
            };
        }
    }
}

/// Reads the socket straight into the flow's ring.
fn read_socket(flow: &mut Flow, spliced: &mut Spliced, stack: &mut Stack) -> io::Result<()> {
    let mut total = 0;
    while spliced.readable && !spliced.read_ended {
        let socket = &mut spliced.socket;
        let read = stack.send(flow.id, |room| match socket.read(room) {
            Ok(count) => (count, Ok((count, count < room.len()))),
            Err(error) => (0, Err(error)),
        });
        match read {
            None => break,
            Some(Ok((0, _))) => {
                spliced.read_ended = true;
                flow.shut = true;
                stack.shutdown(flow.id);
            }
            Some(Ok((count, short))) => {
                total += count;
                // Nothing is left to read, and what comes later is told anew.
                spliced.readable = !(TOLD_ANEW && short) || spliced.closing;
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => spliced.readable = false,
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Some(Err(error)) => return Err(error),
        }
    }
    spliced.sent += total as u64;
    flow.meter.add(total, 0);
    Ok(())
}

/// Writes straight from the flow's ring to the socket.
fn write_socket(flow: &Flow, spliced: &mut Spliced, stack: &mut Stack) -> io::Result<()> {
    let mut total = 0;
    while spliced.writable {
        let socket = &mut spliced.socket;
        let written = stack.recv(flow.id, |data| match socket.write(data) {
            Ok(count) => (count, Ok((count, count < data.len()))),
            Err(error) => (0, Err(error)),
        });
        match written {
            None => break,
            Some(Ok((count, short))) => {
                total += count;
                spliced.writable = !(TOLD_ANEW && short);
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => spliced.writable = false,
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Some(Err(error)) => return Err(error),
        }
    }
    spliced.received += total as u64;
    flow.meter.add(0, total);
    if stack.recv_finished(flow.id) && !spliced.write_ended {
        spliced.write_ended = true;
        // A socket that is gone says so when it is read.
        let _ = spliced.socket.shutdown(Shutdown::Write);
    }
    Ok(())
}

fn discard(id: FlowId, stack: &mut Stack) {
    while stack
        .recv(id, |data| both(data.len()))
        .is_some_and(|count| count > 0)
    {}
}

/// What [`Stack::recv`] and [`Stack::send`] want to be told, and what they return.
const fn both(count: usize) -> (usize, usize) {
    (count, count)
}
