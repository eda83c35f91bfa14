//! UDP: sessions that are opened, datagrams in and out.
//!
//! Datagrams that are longer than the MTU are sent in fragments, and fragments are put together: users
//! of DNS, of QUIC, of games and of tunnels inside UDP expect of this path what they have of any other,
//! where a datagram of up to 65,507 bytes arrives or is lost, and none is too long. Dropping them would
//! be a black hole to whoever does not look for the path's MTU, as WireGuard and most DNS servers do not.
//! Who does look for it (QUIC) finds the MTU of the outer path, at the cost of two packets for one.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    CloseReason, ConnectError, Event, PacketSink, SessionId, Stack,
    flow::Key,
    ports::EPHEMERAL,
    sessions::Session,
    stack::{has_place, is_host},
};
use crate::{
    packet::{Fragment, Protocol, UdpDatagram},
    peer::PeerId,
};

/// The bytes of datagrams that came in and wait to be [taken](Stack::take_received). Beyond, the newest
/// is dropped and counted. A turn of the engine brings no more than half of it.
pub const RECEIVED_BYTES: usize = 2 * 1024 * 1024;

/// Why a datagram cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The session has ended.
    #[error("the session has ended")]
    Ended,
    /// It would not fit an IP packet.
    #[error("the datagram is too long")]
    TooLong,
}

/// Datagrams that came in, in their order. Its memory is used again and again.
#[derive(Debug, Default)]
pub struct Received {
    bytes: Vec<u8>,
    entries: Vec<(SessionId, usize)>,
}

impl Received {
    /// The datagrams, each with its session.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &[u8])> {
        let mut begin = 0;
        self.entries.iter().map(move |&(session, end)| {
            let data = &self.bytes[begin..end];
            begin = end;
            (session, data)
        })
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    fn push(&mut self, session: SessionId, data: &[u8]) -> bool {
        if self.bytes.len() + data.len() > RECEIVED_BYTES {
            return false;
        }
        self.bytes.extend_from_slice(data);
        self.entries.push((session, self.bytes.len()));
        true
    }
}

impl Stack {
    /// Sets the UDP ports that peers may open sessions to, all of them at once. Sessions that are open
    /// stay.
    pub fn listen_udp(&mut self, ports: impl IntoIterator<Item = u16>) {
        self.udp_ports.replace(ports);
    }

    /// Opens a session to a host behind a peer, which ends when no datagram passes for `idle`
    /// ([`Event::SessionEnded`]). Nothing is sent for it.
    ///
    /// # Errors
    /// When an address does not fit, or a bound is reached.
    pub fn open_session(
        &mut self,
        peer: PeerId,
        local: IpAddr,
        remote: SocketAddr,
        idle: Duration,
        now: Instant,
    ) -> Result<SessionId, ConnectError> {
        if !self.is_ours(local) {
            return Err(ConnectError::NotOurs);
        }
        if !is_host(remote.ip()) || remote.port() == 0 || remote.is_ipv4() != local.is_ipv4() {
            return Err(ConnectError::Unaddressable);
        }
        if !self.may_have_session(peer) {
            self.counters.sessions_overflowed += 1;
            return Err(ConnectError::TooManyFlows);
        }
        let free = |local: &SocketAddr| self.sessions.find(&Key::new(peer, *local, remote)).is_none();
        let local = (0..EPHEMERAL)
            .map(|_| SocketAddr::new(local, self.udp_ephemeral.next()))
            .find(free)
            .ok_or(ConnectError::NoPorts)?;
        let tick = self.host.tick(now);
        Ok(self.add_session(peer, local, remote, ticks(idle), tick))
    }

    /// Sends a datagram, `head` and `data` behind each other, in fragments if it is longer than the MTU.
    ///
    /// # Errors
    /// When the session has ended or the datagram is longer than any can be.
    pub fn send_datagram(
        &mut self,
        session: SessionId,
        head: &[u8],
        data: &[u8],
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) -> Result<(), SendError> {
        let tick = self.host.tick(now);
        let session = self.sessions.get_mut(session).ok_or(SendError::Ended)?;
        session.active = tick;
        let (local, remote, peer) = (session.local, session.remote, session.peer);
        let mtu = session.mtu;
        let mtu = mtu.min(self.peer_mtu(peer));
        let fragments = self
            .rim
            .datagram((local, remote), head, data, mtu, peer, sink)
            .ok_or(SendError::TooLong)?;
        self.counters.datagrams_sent += 1;
        if fragments > 1 {
            self.counters.fragmented += 1;
        }
        Ok(())
    }

    /// Swaps what came in with an empty list.
    pub fn take_received(&mut self, list: &mut Received) {
        debug_assert!(list.is_empty());
        std::mem::swap(&mut self.received, list);
    }

    /// Who a session is with, our end and the other one.
    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<(PeerId, SocketAddr, SocketAddr)> {
        let session = self.sessions.get(session)?;
        Some((session.peer, session.local, session.remote))
    }

    /// Ends a session and tells the peer that its datagrams are not wanted (ICMP port unreachable). No
    /// event follows.
    pub fn refuse_session(
        &mut self,
        session: SessionId,
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        if let Some(session) = self.sessions.remove(session) {
            let tick = self.host.tick(now);
            self.answer_unreachable(session.peer, session.local, session.remote, tick, sink);
        }
    }

    /// Ends a session; the peer is told nothing, and no event follows.
    pub fn close_session(&mut self, session: SessionId) {
        self.sessions.remove(session);
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// A datagram came in, in one packet.
    pub(super) fn handle_udp(
        &mut self,
        peer: PeerId,
        (source, destination): (IpAddr, IpAddr),
        bytes: &[u8],
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        let Ok(datagram) = UdpDatagram::parse(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        let local = SocketAddr::new(destination, datagram.destination_port());
        let remote = SocketAddr::new(source, datagram.source_port());
        let tick = self.host.tick(now);
        let known = self.sessions.find(&Key::new(peer, local, remote));
        let Some(session) = known.or_else(|| self.meet_session(peer, local, remote, tick, sink)) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(session) {
            session.active = tick;
        }
        self.counters.datagrams_received += 1;
        if !self.received.push(session, datagram.payload()) {
            self.counters.datagrams_shed += 1;
        }
    }

    /// A part of a datagram came in.
    pub(super) fn handle_fragment(
        &mut self,
        peer: PeerId,
        packet: &[u8],
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        let Ok(fragment) = Fragment::parse(packet) else {
            self.counters.malformed += 1;
            return;
        };
        if fragment.protocol != Protocol::Udp {
            self.counters.unhandled += 1;
            return;
        }
        if !self.is_ours(fragment.destination) {
            self.counters.not_ours += 1;
            return;
        }
        let tick = self.host.tick(now);
        let Some(whole) = self.reassembly.take(peer, &fragment, tick) else {
            return;
        };
        let ends = (fragment.source, fragment.destination);
        if UdpDatagram::parse(&whole).is_ok_and(|datagram| datagram.verify(ends.0, ends.1)) {
            self.counters.reassembled += 1;
            self.handle_udp(peer, ends, &whole, now, sink);
        } else {
            self.counters.malformed += 1;
        }
    }

    /// Ends the sessions on which nothing passed for too long.
    pub(super) fn expire_sessions(&mut self, tick: u64) {
        let mut idle = std::mem::take(&mut self.idle_sessions);
        self.sessions.expire(tick, &mut idle);
        for session in idle.drain(..) {
            self.end_session(session, CloseReason::Timeout);
        }
        self.idle_sessions = idle;
    }

    /// Ends a session and tells the engine.
    pub(super) fn end_session(&mut self, session: SessionId, reason: CloseReason) {
        if self.sessions.remove(session).is_some() {
            self.events.push_back(Event::SessionEnded { session, reason });
        }
    }

    /// The other end of a session does not want its datagrams.
    pub(super) fn session_refused(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        self.counters.unreachables_received += 1;
        if !session.refused {
            session.refused = true;
            self.events.push_back(Event::SessionRefused(id));
        }
    }

    /// Deals with a datagram of no session: returns the one that was made for it, if any.
    fn meet_session(
        &mut self,
        peer: PeerId,
        local: SocketAddr,
        remote: SocketAddr,
        tick: u64,
        sink: &mut (impl PacketSink + ?Sized),
    ) -> Option<SessionId> {
        if !self.is_ours(local.ip()) {
            self.counters.not_ours += 1;
        } else if !is_host(remote.ip()) || remote.port() == 0 || local.port() == 0 {
            self.counters.malformed += 1;
        } else if !self.udp_ports.contains(local.port()) {
            self.counters.refused += 1;
            self.answer_unreachable(peer, local, remote, tick, sink);
        } else if !self.may_have_session(peer) {
            // Shed, not refused: the peer may try again when there is room.
            self.counters.sessions_overflowed += 1;
        } else {
            let idle = ticks(self.settings.session_idle);
            return Some(self.add_session(peer, local, remote, idle, tick));
        }
        None
    }

    fn may_have_session(&self, peer: PeerId) -> bool {
        let limits = &self.settings.limits;
        let of_peer = self.sessions.of_peer(peer);
        of_peer < limits.sessions_per_peer && has_place(limits.sessions, self.sessions.len(), of_peer)
    }

    fn add_session(
        &mut self,
        peer: PeerId,
        local: SocketAddr,
        remote: SocketAddr,
        idle: u64,
        tick: u64,
    ) -> SessionId {
        self.counters.sessions_opened += 1;
        self.sessions.insert(Session {
            key: Key::new(peer, local, remote),
            peer,
            local,
            remote,
            idle,
            active: tick,
            mtu: self.settings.mtu,
            refused: false,
        })
    }
}

fn ticks(duration: Duration) -> u64 {
    (duration.as_millis() as u64).max(1)
}
