//! UDP sessions: between the netstack and their users.
//!
//! Between kakuremichi's nodes the one who opens a session writes a preface before each datagram, until
//! the first answer comes back, and again after a port-unreachable: so it does not matter which datagram
//! is lost, or that the other end was started anew. A datagram that begins as a preface does goes behind
//! a genuine one always, or a visitor could write prefaces.

mod link;

pub(crate) use link::{SessionLink, Wish};

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::key::WireGuardKey;
use tokio::sync::oneshot;

use super::{
    ConnectError, EndReason, Meter, PrefaceLength, egress::Egress, flow::end_of, preface::is_proxy_v2,
    turn::Engine,
};
use crate::{
    netstack::{self, CloseReason, SessionId},
    session::{Queue, Shared, TunnelSession},
};

/// How many bytes one session sends before the others have their turn.
const QUANTUM: usize = 64 * 1024;

/// A session to be opened.
#[derive(Debug, Clone)]
pub struct OpenSession {
    /// Through whom.
    pub peer: WireGuardKey,
    /// To where: an address in the peer's networks, and a port.
    pub remote: SocketAddr,
    /// What stands before each datagram until the first answer; a PROXY protocol header of version 2.
    pub preface: Option<Vec<u8>>,
    /// It ends when no datagram passes for so long.
    pub idle: Duration,
    /// Who counts the bytes.
    pub meter: Arc<Meter>,
}

/// A session that a peer began and that nobody has decided on. Dropping it ends the session, and the peer
/// is told nothing.
#[derive(Debug)]
#[must_use = "dropping an incoming session ends it"]
pub struct IncomingSession {
    /// Who began it.
    pub peer: WireGuardKey,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The preface as it came, empty on a port without one.
    pub preface: Vec<u8>,
    session: TunnelSession,
}

impl IncomingSession {
    /// Takes the session; what came before waits in it.
    #[must_use]
    pub fn accept(self, meter: Arc<Meter>) -> TunnelSession {
        self.session.shared().set_meter(meter);
        self.session
    }

    /// Tells the peer that nobody wants its datagrams (ICMP port unreachable).
    pub fn refuse(self) {
        self.session.shared().link.refuse();
    }
}

/// A session, as the engine knows it.
pub(super) struct Session {
    id: SessionId,
    shared: Arc<Shared>,
    preface: Preface,
    /// What the user sent and is yet to be put on its way.
    out: Queue,
    dirty: bool,
}

/// What stands before datagrams.
enum Preface {
    /// Nothing.
    None,
    /// We write it, until an answer comes.
    Ours { bytes: Vec<u8>, answered: bool },
    /// The peer writes it.
    Theirs(Vec<u8>),
}

/// All sessions of a shard, by the netstack's slots; bounded by the netstack's bound.
#[derive(Default)]
pub(super) struct SessionTable {
    sessions: Vec<Option<Box<Session>>>,
    count: usize,
    /// Sessions to be served, each once.
    dirty: Vec<SessionId>,
    /// Sessions whose datagrams wait until the socket takes some again.
    blocked: Vec<SessionId>,
}

impl SessionTable {
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) const fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn insert(&mut self, session: Session) {
        let slot = session.id.slot();
        if self.sessions.len() <= slot {
            self.sessions.resize_with(slot + 1, || None);
        }
        if self.sessions[slot].replace(Box::new(session)).is_none() {
            self.count += 1;
        }
    }

    fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions
            .get_mut(id.slot())?
            .as_deref_mut()
            .filter(|session| session.id == id)
    }

    fn remove(&mut self, id: SessionId) -> Option<Box<Session>> {
        let place = self.sessions.get_mut(id.slot())?;
        if place.as_ref()?.id != id {
            return None;
        }
        self.count -= 1;
        place.take()
    }

    /// Asks for a session to be served.
    pub(super) fn mark(&mut self, id: SessionId) {
        if let Some(session) = self.get_mut(id)
            && !std::mem::replace(&mut session.dirty, true)
        {
            self.dirty.push(id);
        }
    }

    /// The socket takes datagrams again.
    fn unblock(&mut self) {
        self.dirty.append(&mut self.blocked);
    }
}

impl Drop for SessionTable {
    /// Also when the engine panicked: nobody is to wait for a session that is gone.
    fn drop(&mut self) {
        for session in self.sessions.drain(..).flatten() {
            session.shared.end(EndReason::Stopped);
        }
    }
}

impl Session {
    /// What of a datagram is for the user; `None` when it belongs to another session, or to none.
    fn strip<'a>(&mut self, data: &'a [u8]) -> Option<&'a [u8]> {
        match &mut self.preface {
            Preface::None => Some(data),
            Preface::Ours { answered, .. } => {
                *answered = true;
                Some(data)
            }
            Preface::Theirs(bytes) => {
                if is_proxy_v2(data) {
                    data.strip_prefix(bytes.as_slice())
                } else {
                    Some(data)
                }
            }
        }
    }

    fn meter(&self, sent: usize) {
        if let Some(meter) = self.shared.meter() {
            meter.add(sent, 0);
        }
    }
}

impl Engine {
    pub(super) fn open_session(
        &mut self,
        open: OpenSession,
        answer: oneshot::Sender<Result<TunnelSession, ConnectError>>,
        now: Instant,
    ) {
        // Dropping a session that nobody waits for ends it.
        let _ = answer.send(self.begin_session(open, now));
    }

    fn begin_session(&mut self, open: OpenSession, now: Instant) -> Result<TunnelSession, ConnectError> {
        let (peer, local) = self.way_to(&open.peer, open.remote.ip())?;
        let id = self
            .stack
            .open_session(peer, local, open.remote, open.idle, now)
            .map_err(|error| match error {
                netstack::ConnectError::NotOurs | netstack::ConnectError::Unaddressable => {
                    ConnectError::Unroutable
                }
                _ => ConnectError::Overloaded,
            })?;
        let preface = match open.preface {
            Some(bytes) => Preface::Ours {
                bytes,
                answered: false,
            },
            None => Preface::None,
        };
        let local = self
            .stack
            .session(id)
            .map_or_else(|| (local, 0).into(), |(_, local, _)| local);
        let session = self.add_session(id, preface, local, open.remote);
        session.shared().set_meter(open.meter);
        Ok(session)
    }

    fn add_session(
        &mut self,
        id: SessionId,
        preface: Preface,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> TunnelSession {
        let shared = Arc::new(Shared::new(SessionLink::to_engine(Arc::clone(&self.inbox), id)));
        self.sessions.insert(Session {
            id,
            shared: Arc::clone(&shared),
            preface,
            out: Queue::default(),
            dirty: false,
        });
        TunnelSession::new(shared, local, remote)
    }

    /// Hands the datagrams that came in to their sessions.
    pub(super) fn deliver_datagrams(&mut self, now: Instant) {
        let mut received = std::mem::take(&mut self.received);
        self.stack.take_received(&mut received);
        let mut datagrams = received.iter().peekable();
        while let Some((id, data)) = datagrams.next() {
            let known = self.sessions.get_mut(id).map(|session| session.strip(data));
            let data = match known {
                Some(Some(data)) => data,
                // The same addresses, and another preface: another session.
                Some(None) | None => match self.meet_session(id, data, now) {
                    Some(data) => data,
                    None => continue,
                },
            };
            let Some(session) = self.sessions.get_mut(id) else {
                continue;
            };
            let shared = Arc::clone(&session.shared);
            let mut next = Some(data);
            self.counters.datagrams_shed += shared.give(|| {
                next.take().or_else(|| {
                    let (_, more) = datagrams.next_if(|(next, more)| *next == id && !is_proxy_v2(more))?;
                    Some(more)
                })
            });
        }
        drop(datagrams);
        received.clear();
        self.received = received;
    }

    /// Makes a session of a datagram; returns what of it is data.
    fn meet_session<'a>(&mut self, id: SessionId, data: &'a [u8], now: Instant) -> Option<&'a [u8]> {
        let (peer, local, remote) = self.stack.session(id)?;
        let port = self.udp_ports.get(&local.port()).copied();
        let key = self.peers.key(peer);
        let (Some(preface), Some(key), None) = (port, key, &self.shutdown) else {
            self.refuse_session(id, now);
            return None;
        };
        let Some((head, data)) = split(preface, data) else {
            // An answer to a session that an earlier process knew, mostly: it is told to introduce itself.
            self.counters.bad_prefaces += 1;
            self.refuse_session(id, now);
            return None;
        };
        let theirs = match preface {
            Some(_) => Preface::Theirs(head.to_vec()),
            None => Preface::None,
        };
        if let Some(before) = self.sessions.remove(id) {
            before.shared.end(EndReason::Finished);
        }
        let session = self.add_session(id, theirs, local, remote);
        let incoming = IncomingSession {
            peer: key,
            local,
            remote,
            preface: head.to_vec(),
            session,
        };
        let handler = self.session_handler.borrow().clone();
        match handler {
            Some(handler) => handler(incoming),
            None => incoming.refuse(),
        }
        Some(data)
    }

    fn refuse_session(&mut self, id: SessionId, now: Instant) {
        let Self {
            device, udp, stack, ..
        } = self;
        stack.refuse_session(id, now, &mut Egress { device, udp, now });
        if let Some(session) = self.sessions.remove(id) {
            session.shared.end(EndReason::Finished);
        }
    }

    /// A session is over.
    pub(super) fn session_ended(&mut self, id: SessionId, reason: CloseReason) {
        if let Some(session) = self.sessions.remove(id) {
            session.shared.end(end_of(reason));
        }
    }

    /// The other end does not want the datagrams of a session, or does not know it any more.
    pub(super) fn session_refused(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            if let Preface::Ours { answered, .. } = &mut session.preface {
                *answered = false;
            }
            session.shared.refuse();
        }
    }

    /// Serves the sessions whose users did something.
    pub(super) fn serve_sessions(&mut self, now: Instant) {
        if !self.udp.is_blocked() {
            self.sessions.unblock();
        }
        let mut serving = std::mem::take(&mut self.sessions.dirty);
        for id in serving.drain(..) {
            self.serve_session(id, now);
        }
        // What became dirty meanwhile stands in the new list.
        std::mem::swap(&mut self.sessions.dirty, &mut serving);
        self.sessions.dirty.append(&mut serving);
    }

    fn serve_session(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.dirty = false;
        let wish = session.shared.link.take();
        if wish == Wish::Refuse {
            return self.refuse_session(id, now);
        }
        if session.out.is_empty() {
            session.shared.take(&mut session.out);
        }
        let Self {
            device,
            udp,
            stack,
            sessions,
            counters,
            peers,
            ..
        } = self;
        let Some(session) = sessions.get_mut(id) else {
            return;
        };
        let mut sent = 0;
        while let Some(data) = session.out.front() {
            if udp.is_blocked() {
                session.dirty = true;
                session.meter(sent);
                return sessions.blocked.push(id);
            }
            if sent >= QUANTUM {
                break;
            }
            let head = match &session.preface {
                Preface::Ours { bytes, answered } if !answered || is_proxy_v2(data) => bytes.as_slice(),
                _ => &[],
            };
            let mut egress = Egress { device, udp, now };
            if stack.send_datagram(id, head, data, now, &mut egress).is_err() {
                counters.datagrams_shed += 1;
            }
            sent += data.len();
            session.out.advance(1);
        }
        if sent > 0
            && let Some((peer, _, _)) = stack.session(id)
        {
            peers.used(peer, now);
        }
        session.meter(sent);
        if !session.out.is_empty() {
            sessions.mark(id);
        } else if wish == Wish::Close {
            stack.close_session(id);
            sessions.remove(id);
        }
    }
}

/// Splits a datagram into preface and data; `None` when a preface is wanted and there is none.
fn split(preface: Option<PrefaceLength>, data: &[u8]) -> Option<(&[u8], &[u8])> {
    match preface {
        None => Some((&[], data)),
        Some(length) => {
            let length = length(data).ok().flatten()?;
            data.split_at_checked(length)
        }
    }
}
