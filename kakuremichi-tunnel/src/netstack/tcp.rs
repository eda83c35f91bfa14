//! The seam to the TCP implementation: one connection on smoltcp, its rings, and what the rim has to
//! know of it. Nothing but this file, the [host](super::host) and the [device](super::device) knows
//! smoltcp.
//!
//! smoltcp looks for a packet's socket by walking a set, so each connection is a set of its own, and
//! the flow table finds it.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use smoltcp::{
    iface::{PollResult, SocketHandle, SocketSet},
    socket::tcp::{CongestionControl, Socket, SocketBuffer, State},
    wire::{IpEndpoint, IpListenEndpoint},
};

use super::{
    PacketSink, Settings,
    again::{Again, acknowledgements},
    device::Port,
    host::{Host, span},
    rim::{IPV4_HEADER, Rim},
    track::{Track, write_part},
};
use crate::{
    arena::{Arena, Holder, Lease},
    packet::{IpPacket, TcpSegment},
    peer::PeerId,
};

/// How long a small piece of data waits for its acknowledgement to travel with an answer.
const ACK_DELAY: Duration = Duration::from_millis(10);

/// How many segments go out before the first acknowledgement (RFC 6928).
const INITIAL_SEGMENTS: usize = 10;

/// The bytes by which smoltcp's CUBIC opens its window for one acknowledgement at most.
const GROWTH: u32 = 1_024;

/// The longest packet that is taken in for a part of an acknowledgement: the headers of IPv4, which are longer
/// than IPv6's, and of TCP, each with all its options.
const MAX_HEADERS: usize = 60 + 60;

/// A flow has been quiet for so long that its rings' pages are given back, in ticks.
pub(super) const IDLE: u64 = 5_000;

/// What a ring's memory is counted in, in bytes: the smallest page in use.
pub(super) const PAGE: usize = 4_096;

/// One connection.
#[derive(Debug)]
pub(super) struct Tcp {
    lease: Lease<Sockets>,
    handle: SocketHandle,
    track: Track,
    /// The peer has not acknowledged any data: the first flight is bounded by what it may be, not by
    /// a congestion window.
    first_flight: bool,
    /// How many bytes of pages the rings hold at most.
    receive_held: u32,
    send_held: u32,
    /// How many bytes were taken out of the receive ring since its pages were given back.
    taken: u32,
    /// How many bytes were put into the send ring since it was empty: it begins anew then, smoltcp's
    /// receive ring never does.
    written: u32,
    /// Our direction is to end, and smoltcp was not told yet.
    ending: bool,
    /// What a path that became narrower lost.
    again: Option<Again>,
}

/// What a connection needs in order to do something: the stack's parts, its peer, and the time.
pub(super) struct Way<'a, S: ?Sized> {
    pub(super) host: &'a mut Host,
    pub(super) rim: &'a mut Rim,
    pub(super) peer: PeerId,
    pub(super) now: Instant,
    pub(super) sink: &'a mut S,
}

/// How far a connection is, as far as the flow around it cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A peer took its attempt to connect back.
    Listening,
    /// The handshake is under way.
    Opening,
    /// Something can still be received or sent.
    Open,
    /// Both directions ended in order, and the peer may not know yet.
    TimeWait,
    /// It is over.
    Closed,
}

struct Sockets;

impl Holder for Sockets {
    type Of<'a> = SocketSet<'a>;
}

impl Tcp {
    /// Waits for the SYN that is ingested next. `None` when there is no ring.
    pub(super) fn listen(arena: &Arena, settings: &Settings, local: SocketAddr) -> Option<Self> {
        let endpoint = IpListenEndpoint {
            addr: Some(local.ip().into()),
            port: local.port(),
        };
        let mut tcp = Self::new(arena, settings)?;
        // Fails for port zero only, which is not listened on.
        tcp.with(|socket| socket.listen(endpoint)).ok()?;
        Some(tcp)
    }

    /// Is about to send a SYN. `None` when there is no ring.
    pub(super) fn connect(
        arena: &Arena,
        settings: &Settings,
        host: &mut Host,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Option<Self> {
        let endpoint = |at: SocketAddr| IpEndpoint::new(at.ip().into(), at.port());
        let mut tcp = Self::new(arena, settings)?;
        // Fails for addresses that `Stack::connect` has refused.
        tcp.with(|socket| socket.connect(host.interface.context(), endpoint(remote), endpoint(local)))
            .ok()?;
        Some(tcp)
    }

    fn new(arena: &Arena, settings: &Settings) -> Option<Self> {
        let mut handle = SocketHandle::default();
        let lease = arena.lease::<Sockets>(|receive, send| {
            let mut socket = Socket::new(SocketBuffer::new(receive), SocketBuffer::new(send));
            socket.set_congestion_control(CongestionControl::None);
            socket.set_nagle_enabled(false);
            socket.set_ack_delay(Some(span(ACK_DELAY)));
            socket.set_keep_alive(Some(span(settings.keep_alive)));
            socket.set_timeout(Some(span(settings.connect_timeout)));
            let mut set = SocketSet::new(Vec::with_capacity(1));
            handle = set.add(socket);
            set
        })?;
        Some(Self {
            lease,
            handle,
            track: Track::default(),
            first_flight: true,
            receive_held: 0,
            send_held: 0,
            taken: 0,
            written: 0,
            ending: false,
            again: None,
        })
    }

    /// Once the handshake is complete: the peer may be silent for as long as flows may.
    pub(super) fn established(&mut self, settings: &Settings) {
        self.with(|socket| socket.set_timeout(Some(span(settings.user_timeout))));
    }

    /// Takes a segment in. What has to be answered at once, is.
    pub(super) fn ingest(
        &mut self,
        way: &mut Way<'_, impl PacketSink + ?Sized>,
        packet: &IpPacket<'_>,
        segment: &TcpSegment<'_>,
    ) {
        let (bytes, ip) = (packet.as_bytes(), packet.header_len());
        let ring = self.get(|socket| socket.recv_capacity());
        let mss = usize::from(way.rim.mss(ip == IPV4_HEADER));
        let news = self.track.acknowledges(segment);
        if news > 0 && self.first_flight {
            self.first_flight = false;
            self.with(|socket| socket.set_congestion_control(CongestionControl::Cubic));
            self.ingest_stretch(way, bytes, ip, segment, news);
        } else if news > GROWTH && self.track.is_congested() {
            self.ingest_stretch(way, bytes, ip, segment, news);
        }
        let joined = segment.payload().len() > mss;
        if joined && self.track.leaves_gap(segment) {
            self.ingest_parts(way, bytes, ip, segment, mss, ring);
        } else {
            self.track.received(segment, ring);
            // smoltcp delays the acknowledgement of a first segment however long it is. One that was
            // joined of several is to be acknowledged at once (RFC 9293 SHLD-19), or a sender that
            // waits for it stalls.
            self.input(way, bytes, if joined { Duration::ZERO } else { ACK_DELAY });
        }
        if news > 0 {
            self.again = self.again.and_then(|again| again.acknowledged(&self.track));
        }
        self.note_received(ring);
    }

    /// Takes a segment in as if it had no data and no end: its acknowledgement and its window count.
    pub(super) fn ingest_bare(
        &mut self,
        way: &mut Way<'_, impl PacketSink + ?Sized>,
        packet: &IpPacket<'_>,
        segment: &TcpSegment<'_>,
    ) {
        let mut part = [0; MAX_HEADERS];
        let numbers = (segment.sequence(), segment.acknowledgement());
        let length = write_part(
            packet.as_bytes(),
            packet.header_len(),
            segment,
            numbers,
            &[],
            &mut part,
        );
        let Ok(bare) = IpPacket::parse(&part[..length]) else {
            return;
        };
        if let Ok(segment) = bare.tcp() {
            self.ingest(way, &bare, &segment);
        }
    }

    /// Takes an acknowledgement of much in as several of little: smoltcp opens the congestion window
    /// by the number of acknowledgements, and where segments are joined there are few. The last part
    /// is left to the packet itself.
    fn ingest_stretch(
        &mut self,
        way: &mut Way<'_, impl PacketSink + ?Sized>,
        packet: &[u8],
        ip: usize,
        segment: &TcpSegment<'_>,
        news: u32,
    ) {
        let mut part = [0; MAX_HEADERS];
        let begin = self.track.unacknowledged();
        for bytes in (GROWTH..news).step_by(GROWTH as usize) {
            let numbers = (segment.sequence(), begin.wrapping_add(bytes));
            let length = write_part(packet, ip, segment, numbers, &[], &mut part);
            self.input(way, &part[..length], ACK_DELAY);
        }
    }

    /// Takes a joined segment in as the segments it was joined of: behind a gap each one is answered
    /// with an acknowledgement (RFC 5681 section 4.2), and the sender counts them.
    fn ingest_parts(
        &mut self,
        way: &mut Way<'_, impl PacketSink + ?Sized>,
        packet: &[u8],
        ip: usize,
        segment: &TcpSegment<'_>,
        mss: usize,
        ring: usize,
    ) {
        self.track.received(segment, ring);
        let mut part = std::mem::take(&mut way.rim.part);
        let mut sequence = segment.sequence();
        for data in segment.payload().chunks(mss) {
            let numbers = (sequence, segment.acknowledgement());
            let length = write_part(packet, ip, segment, numbers, data, &mut part);
            self.input(way, &part[..length], ACK_DELAY);
            sequence = sequence.wrapping_add(data.len() as u32);
        }
        way.rim.part = part;
    }

    /// Counts the receive ring's pages: up to what lies behind a gap, and what is in order, whatever
    /// segments brought it.
    fn note_received(&mut self, ring: usize) {
        if self.receive_held < ring as u32 {
            let in_order = self.taken as usize + self.received();
            let wanted = self.pages(in_order.max(self.track.stored_since()));
            self.receive_held = self.receive_held.max(wanted);
        }
    }

    fn input(&mut self, way: &mut Way<'_, impl PacketSink + ?Sized>, packet: &[u8], delay: Duration) {
        let time = way.host.time(way.now);
        let handle = self.handle;
        let track = &mut self.track;
        self.lease.with(|set| {
            set.get_mut::<Socket<'_>>(handle).set_ack_delay(Some(span(delay)));
            let mut port = Port {
                input: Some(packet),
                rim: way.rim,
                track,
                peer: way.peer,
                sink: way.sink,
            };
            way.host.interface.poll_ingress_single(time, &mut port, set);
        });
    }

    /// Sends one segment, if there is one to send; returns its length, or zero.
    pub(super) fn egress(&mut self, way: &mut Way<'_, impl PacketSink + ?Sized>) -> usize {
        if self.ending {
            self.end();
        }
        if self.again.is_some_and(|again| again.is_due()) {
            self.ask_again(way);
        }
        let time = way.host.time(way.now);
        let repeats = self.track.repeats();
        let track = &mut self.track;
        let before = way.rim.bytes;
        let result = self.lease.with(|set| {
            let mut port = Port {
                input: None,
                rim: way.rim,
                track,
                peer: way.peer,
                sink: way.sink,
            };
            way.host.interface.poll_egress(time, &mut port, set)
        });
        if self.track.repeats() != repeats {
            self.again = self.again.and_then(|again| again.repeated(&self.track));
        }
        if result != PollResult::None {
            return (way.rim.bytes - before) as usize;
        }
        if way.sink.ready() {
            let queued = self.unacknowledged();
            self.track.turned(queued);
        }
        0
    }

    /// Has smoltcp send again what the peer waits for.
    fn ask_again(&mut self, way: &mut Way<'_, impl PacketSink + ?Sized>) {
        let Some(again) = &mut self.again else { return };
        again.ask(&self.track);
        let ends = self.get(|socket| socket.local_endpoint().zip(socket.remote_endpoint()));
        let Some((local, remote)) = ends else { return };
        let end = |at: IpEndpoint| (IpAddr::from(at.addr), at.port);
        acknowledgements(self.track.duplicate(), end(local), end(remote), |packet| {
            self.input(way, packet, ACK_DELAY);
        });
    }

    /// The tick at which [`egress`](Self::egress) wants to be called, if at all.
    pub(super) fn poll_at(&self, host: &mut Host, now: Instant) -> Option<u64> {
        let time = host.time(now);
        let at = self.lease.get(|set| host.interface.poll_at(time, set))?;
        Some(host.tick_at(at))
    }

    pub(super) fn phase(&self) -> Phase {
        match self.get(|socket| socket.state()) {
            State::Listen => Phase::Listening,
            State::SynSent | State::SynReceived => Phase::Opening,
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => Phase::Open,
            State::TimeWait => Phase::TimeWait,
            State::Closed => Phase::Closed,
        }
    }

    /// Whether the peer ended its direction, as long as the connection is not [closed](Phase::Closed).
    pub(super) fn peer_finished(&self) -> bool {
        self.get(|socket| {
            matches!(
                socket.state(),
                State::CloseWait | State::Closing | State::LastAck | State::TimeWait
            )
        })
    }

    /// How many bytes can be received.
    pub(super) fn received(&self) -> usize {
        self.get(|socket| socket.recv_queue())
    }

    /// How many bytes wait to be sent or acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.get(|socket| socket.send_queue())
    }

    /// How many bytes can be sent.
    pub(super) fn room(&self) -> usize {
        self.get(|socket| {
            if !socket.may_send() {
                return 0;
            }
            let flight = INITIAL_SEGMENTS * usize::from(self.track.mss());
            let capacity = socket.send_capacity();
            let capacity = if self.first_flight {
                flight.min(capacity)
            } else {
                capacity
            };
            capacity.saturating_sub(socket.send_queue())
        })
    }

    pub(super) fn send_capacity(&self) -> usize {
        self.get(|socket| socket.send_capacity())
    }

    pub(super) fn recv<R>(&mut self, take: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        let (taken, result) = self.with(|socket| {
            if !socket.can_recv() {
                return None;
            }
            socket
                .recv(|bytes| {
                    let (taken, result) = take(bytes);
                    let taken = taken.min(bytes.len());
                    (taken, (taken, result))
                })
                .ok()
        })?;
        self.taken = self.taken.saturating_add(taken as u32);
        debug_assert!(self.taken.min(self.send_capacity() as u32) <= self.receive_held);
        Some(result)
    }

    /// Sends at most so many bytes.
    pub(super) fn send<R>(&mut self, most: usize, fill: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        let room = self.room().min(most);
        if room == 0 {
            return None;
        }
        let begin = self.write_position();
        let (filled, result) = self.with(|socket| {
            socket
                .send(|space| {
                    let longest = room.min(space.len());
                    let (filled, result) = fill(&mut space[..longest]);
                    (filled.min(longest), (filled.min(longest), result))
                })
                .ok()
        })?;
        let end = begin + filled;
        self.written = end.min(self.send_capacity()) as u32;
        self.send_held = self.send_held.max(self.pages(end));
        Some(result)
    }

    /// Sends a FIN behind what was sent.
    pub(super) fn shutdown(&mut self) {
        self.ending = true;
        self.end();
    }

    /// Lets smoltcp send a FIN, unless the peer ended before us and has yet to make room for what is sent:
    /// once both have ended, smoltcp does not listen to a window that only opens (LAST-ACK; RFC 9293
    /// section 3.10.7.4 has it go on), and the rest would never leave. The FIN follows the last
    /// acknowledgement then, or the window that has room for all.
    fn end(&mut self) {
        let (waits, queued) = self.get(|socket| (socket.state() == State::CloseWait, socket.send_queue()));
        // A segment more: the end of a window moves by a few bytes, as it is told in units of some.
        let needed = queued + usize::from(self.track.mss());
        if waits && queued > 0 && needed > self.track.window() as usize {
            return;
        }
        self.ending = false;
        self.with(|socket| socket.close());
    }

    /// Is about to send a reset.
    pub(super) fn abort(&mut self) {
        self.with(|socket| socket.abort());
    }

    /// The numbers to wait with in TIME-WAIT, once the peer's FIN was acknowledged: ours next, and the
    /// peer's next.
    pub(super) fn waiting(&self) -> Option<(u32, u32)> {
        if self.phase() == Phase::TimeWait {
            self.track.after_fin()
        } else {
            None
        }
    }

    /// The peer's next sequence number, and ours.
    pub(super) fn numbers(&self) -> (u32, u32) {
        self.track.numbers()
    }

    /// Sends shorter segments from now on, if that number is one that is under way. Returns whether it
    /// is.
    pub(super) fn lower_mss(&mut self, sequence: u32, mss: usize, v4: bool) -> bool {
        self.track.lower_mss(sequence, mss, v4)
    }

    /// Sends segments of at most so many bytes from now on, as the path allows; also what was sent before,
    /// when it is sent again. Returns whether that is to happen at once: longer ones are under way, and were
    /// lost.
    pub(super) fn limit_mss(&mut self, limit: u16) -> bool {
        let before = self.track.mss();
        self.track.set_limit(limit);
        if self.track.mss() >= before || self.unacknowledged() == 0 {
            return false;
        }
        self.again = Again::all(&self.track);
        self.again.is_some()
    }

    /// Whether something with that number was sent, and is not acknowledged.
    pub(super) fn is_under_way(&self, sequence: u32) -> bool {
        self.track.is_under_way(sequence)
    }

    /// How many bytes of memory the rings hold, at most: pages that were written since they were given
    /// back.
    pub(super) const fn held(&self) -> usize {
        self.receive_held as usize + self.send_held as usize
    }

    /// How many bytes of memory more a segment would take, at most.
    pub(super) fn growth(&self, segment: &TcpSegment<'_>) -> usize {
        if segment.payload().is_empty() {
            return 0;
        }
        let wanted = self.pages(self.track.stored_with(segment));
        wanted.saturating_sub(self.receive_held) as usize
    }

    /// How many bytes of memory more so many bytes to be sent would take, at most.
    pub(super) fn send_growth(&self, bytes: usize) -> usize {
        let wanted = self.pages(self.write_position() + bytes);
        wanted.saturating_sub(self.send_held) as usize
    }

    /// How many bytes can be sent in the pages that the send ring has.
    pub(super) fn room_held(&self) -> usize {
        (self.send_held as usize).saturating_sub(self.write_position())
    }

    /// Gives the pages of rings with nothing in them back; whether there was one.
    pub(super) fn discard(&mut self) -> bool {
        let receive = self.receive_held > 0 && self.received() == 0 && self.track.in_order();
        let send = self.send_held > 0 && self.unacknowledged() == 0;
        if receive || send {
            self.lease.discard(receive, send);
        }
        if receive {
            self.receive_held = 0;
            self.taken = 0;
            self.track.give_back();
        }
        if send {
            self.send_held = 0;
            self.written = 0;
        }
        receive || send
    }

    /// Has the peer told of room for at most so many bytes from now on, what is not taken yet included.
    pub(super) fn allow(&mut self, bytes: usize) {
        if bytes >= self.send_capacity() {
            return self.track.allow(None);
        }
        let left = bytes.saturating_sub(self.received()) as u32;
        // No crumbs (RFC 9293 section 3.8.6.2.2).
        let worth = left >= 2 * u32::from(self.track.mss());
        self.track.allow(Some(if worth { left } else { 0 }));
    }

    /// Whether the peer was told of less room than there is, or will be.
    pub(super) const fn is_held_back(&self) -> bool {
        self.track.is_held_back()
    }

    /// What the peer is to be told of the room there is: if it is told `always`, or else if that is much
    /// more than it was told before. Our sequence number, the acknowledgement and the window.
    pub(super) fn window_update(&mut self, always: bool) -> Option<(u32, u32, u16)> {
        if self.phase() != Phase::Open {
            return None;
        }
        let room = self.get(|socket| socket.recv_capacity() - socket.recv_queue());
        self.track.update(room, always)
    }

    /// Where in the send ring the next byte goes, if the ring did not end.
    fn write_position(&self) -> usize {
        if self.unacknowledged() == 0 {
            0
        } else {
            self.written as usize
        }
    }

    /// The memory that so many bytes in a row take in a ring, wherever they begin.
    fn pages(&self, bytes: usize) -> u32 {
        let ring = self.send_capacity();
        match bytes {
            0 => 0,
            _ if bytes >= ring => ring as u32,
            _ => (bytes.next_multiple_of(PAGE) + PAGE).min(ring) as u32,
        }
    }

    fn get<R>(&self, look: impl for<'a> FnOnce(&Socket<'a>) -> R) -> R {
        self.lease.get(|set| look(set.get::<Socket<'_>>(self.handle)))
    }

    fn with<R>(&mut self, work: impl for<'a> FnOnce(&mut Socket<'a>) -> R) -> R {
        let handle = self.handle;
        self.lease.with(|set| work(set.get_mut::<Socket<'_>>(handle)))
    }
}
