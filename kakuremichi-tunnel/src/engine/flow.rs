//! The flows of a shard, beside what the netstack knows of them.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpStream as StdTcpStream},
    sync::Arc,
    time::Instant,
};

use kakuremichi_proto::flow::FlowReply;
use mio::net::TcpStream;
use tokio::sync::oneshot;

use super::{
    ConnectError, EndReason, Link, Meter, PrefaceLength, SpliceEnd,
    command::{Opener, SocketUser},
    net::reset_on_close,
};
use crate::{
    netstack::{CloseReason, FlowId, Stack},
    peer::PeerId,
    stream::Shared,
};

/// One flow.
pub(super) struct Flow {
    pub(super) id: FlowId,
    pub(super) peer: PeerId,
    pub(super) meter: Arc<Meter>,
    /// What goes out before the user's data: a preface, or a reply.
    pub(super) head: Vec<u8>,
    pub(super) head_sent: usize,
    /// The bytes of the reply that have come, while one is expected.
    pub(super) reply: Option<Vec<u8>>,
    /// Our direction was ended.
    pub(super) shut: bool,
    /// How the netstack says it ended.
    pub(super) ended: Option<CloseReason>,
    /// It stands in the list of flows to be served.
    pub(super) dirty: bool,
    /// When it is given up as it is.
    pub(super) deadline: Option<Instant>,
    /// Its user has left. So many bytes were still to be delivered when the deadline was set, which is
    /// renewed for as long as they become fewer.
    pub(super) lingering: Option<usize>,
    pub(super) user: User,
}

/// Who uses a flow.
pub(super) enum User {
    /// It is not connected yet.
    Opening {
        opener: Opener,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// A peer opened it; its preface is being read.
    Preface {
        length: PrefaceLength,
        bytes: Vec<u8>,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// A peer opened it; somebody is deciding.
    Deciding { has_preface: bool },
    /// A stream.
    Stream(Arc<Shared>),
    /// A socket.
    Socket(Box<Spliced>),
    /// Nobody any more: what is left is sent, what comes is discarded.
    Nobody,
}

/// A socket that is served by a flow.
pub(super) struct Spliced {
    pub(super) socket: TcpStream,
    pub(super) link: Arc<Link>,
    pub(super) done: oneshot::Sender<SpliceEnd>,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The system said that the other end has ended: reading goes on until it shows.
    pub(super) closing: bool,
    /// The socket has ended its direction.
    pub(super) read_ended: bool,
    /// We have ended ours toward the socket.
    pub(super) write_ended: bool,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Spliced {
    pub(super) fn new(user: SocketUser) -> Self {
        Self {
            socket: TcpStream::from_std(user.socket),
            link: user.link,
            done: user.done,
            // Tried once, and then told by the system.
            readable: true,
            writable: true,
            closing: false,
            read_ended: false,
            write_ended: false,
            sent: 0,
            received: 0,
        }
    }

    /// Closes the socket, in order or with a reset, and tells who waits for it.
    pub(super) fn finish(self, reason: EndReason) {
        if reason != EndReason::Finished {
            reset_on_close(&self.socket);
        }
        drop(self.socket);
        let _ = self.done.send(SpliceEnd {
            sent: self.sent,
            received: self.received,
            reason,
        });
    }
}

impl Flow {
    pub(super) fn new(id: FlowId, peer: PeerId, user: User) -> Self {
        Self {
            id,
            peer,
            meter: Arc::default(),
            head: Vec::new(),
            head_sent: 0,
            reply: None,
            shut: false,
            ended: None,
            dirty: false,
            deadline: None,
            lingering: None,
            user,
        }
    }

    /// How many bytes the peer has not acknowledged yet, or were not even sent.
    pub(super) fn undelivered(&self, stack: &Stack) -> usize {
        let waiting = match &self.user {
            User::Stream(shared) => shared.turn(|turn| turn.waiting()),
            _ => 0,
        };
        waiting + stack.unacknowledged(self.id)
    }

    /// Takes note of what the system says about its socket; false when it has none.
    pub(super) fn set_ready(&mut self, readable: bool, writable: bool, closing: bool) -> bool {
        let User::Socket(spliced) = &mut self.user else {
            return false;
        };
        spliced.readable |= readable;
        spliced.writable |= writable;
        spliced.closing |= closing;
        true
    }

    /// Tells the user how it ended. What the netstack has of it is not touched.
    pub(super) fn finish(self, reason: EndReason) {
        match self.user {
            User::Opening { opener, .. } => {
                let error = match reason {
                    EndReason::NotConnected(error) => error,
                    EndReason::Reset => ConnectError::Refused,
                    // Who is to reply takes every flow itself; at others it is the target that is silent.
                    EndReason::TimedOut if self.reply.is_some() => ConnectError::Offline,
                    EndReason::TimedOut => ConnectError::TimedOut,
                    EndReason::Stopped => ConnectError::Stopped,
                    _ => ConnectError::Offline,
                };
                fail(opener, error);
            }
            User::Stream(shared) => shared.turn(|turn| turn.end(reason)),
            User::Socket(spliced) => spliced.finish(reason),
            User::Preface { .. } | User::Deciding { .. } | User::Nobody => {}
        }
    }
}

/// Tells who wanted a flow that there is none.
pub(super) fn fail(opener: Opener, error: ConnectError) {
    match opener {
        Opener::Stream(sender) => {
            let _ = sender.send(Err(error));
        }
        Opener::Socket(user) => refuse_socket(user, EndReason::NotConnected(error)),
    }
}

/// Resets a socket that never got a flow.
pub(super) fn refuse_socket(user: SocketUser, reason: EndReason) {
    reset_on_close::<StdTcpStream>(&user.socket);
    drop(user.socket);
    let _ = user.done.send(SpliceEnd {
        sent: 0,
        received: 0,
        reason,
    });
}

/// How an end looks from above.
pub(super) const fn end_of(reason: CloseReason) -> EndReason {
    match reason {
        CloseReason::Finished => EndReason::Finished,
        CloseReason::Reset | CloseReason::Refused | CloseReason::Shed => EndReason::Reset,
        CloseReason::Timeout => EndReason::TimedOut,
        CloseReason::PeerGone | CloseReason::AddressGone => EndReason::PeerGone,
    }
}

/// All flows of a shard, by the netstack's slots; bounded by the netstack's bound.
#[derive(Default)]
pub(super) struct FlowTable {
    flows: Vec<Option<Box<Flow>>>,
    count: usize,
    deadlines: BTreeSet<(Instant, FlowId)>,
    /// Flows to be served, each once.
    dirty: Vec<FlowId>,
}

impl FlowTable {
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) fn insert(&mut self, flow: Flow) {
        let slot = flow.id.slot();
        if self.flows.len() <= slot {
            self.flows.resize_with(slot + 1, || None);
        }
        self.count += 1;
        let id = flow.id;
        let deadline = flow.deadline;
        self.flows[slot] = Some(Box::new(flow));
        if let Some(at) = deadline {
            self.deadlines.insert((at, id));
        }
        self.mark(id);
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows
            .get_mut(id.slot())?
            .as_deref_mut()
            .filter(|flow| flow.id == id)
    }

    /// The flow in a slot, whatever its name.
    pub(super) fn at(&mut self, slot: usize) -> Option<&mut Flow> {
        self.flows.get_mut(slot)?.as_deref_mut()
    }

    /// Takes a flow out, to be [put back](Self::put) or forgotten.
    pub(super) fn take(&mut self, id: FlowId) -> Option<Box<Flow>> {
        let place = self.flows.get_mut(id.slot())?;
        if place.as_ref()?.id != id {
            return None;
        }
        let flow = place.take()?;
        self.count -= 1;
        if let Some(at) = flow.deadline {
            self.deadlines.remove(&(at, id));
        }
        Some(flow)
    }

    pub(super) fn put(&mut self, flow: Box<Flow>) {
        if let Some(at) = flow.deadline {
            self.deadlines.insert((at, flow.id));
        }
        let slot = flow.id.slot();
        self.flows[slot] = Some(flow);
        self.count += 1;
    }

    /// Asks for a flow to be served.
    pub(super) fn mark(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id.slot()).and_then(Option::as_deref_mut) else {
            return;
        };
        if flow.id == id && !std::mem::replace(&mut flow.dirty, true) {
            self.dirty.push(id);
        }
    }

    /// Swaps the list of flows to be served with an empty one.
    pub(super) fn take_dirty(&mut self, list: &mut Vec<FlowId>) {
        std::mem::swap(&mut self.dirty, list);
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// A flow whose time is up.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Box<Flow>> {
        let (at, id) = *self.deadlines.first()?;
        if at > now {
            return None;
        }
        self.take(id)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes any flow out; the table is not used any more after that.
    pub(super) fn pop(&mut self) -> Option<Box<Flow>> {
        while let Some(place) = self.flows.pop() {
            if let Some(flow) = place {
                self.count -= 1;
                return Some(flow);
            }
        }
        None
    }
}

impl Drop for FlowTable {
    /// Also when the engine panicked: nobody is to wait for a flow that is gone.
    fn drop(&mut self) {
        while let Some(flow) = self.pop() {
            flow.finish(EndReason::Stopped);
        }
    }
}

/// What the head of the peer's direction says.
pub(super) enum Reply {
    /// It has not come yet.
    Awaited,
    /// Data follows, or none was expected.
    Connected,
    /// None follows.
    Refused(FlowReply),
    /// It is no reply.
    Broken,
}
