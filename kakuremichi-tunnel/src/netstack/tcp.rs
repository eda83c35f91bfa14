//! The seam to the TCP implementation: one connection on smoltcp, its rings, and what the rim has to
//! know of it. Nothing outside of this file and the device knows smoltcp.
//!
//! smoltcp looks for a packet's socket by walking a set, so each connection is a set of its own, and
//! the flow table finds it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    socket::tcp::{CongestionControl, Socket, SocketBuffer, State},
    time,
    wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint},
};

use super::{PacketSink, Settings, device::Port, rim, rim::Rim};
use crate::{
    arena::{Arena, Holder, Lease},
    packet::{TcpFlags, TcpSegment},
    peer::PeerId,
};

/// How long a small piece of data waits for its acknowledgement to travel with an answer.
const ACK_DELAY: time::Duration = time::Duration::from_millis(10);

/// The MSS of a peer that names none (RFC 9293 section 3.7.1).
const DEFAULT_MSS: u16 = 536;

/// The ticks at which a stack begins: smoltcp takes its time zero for "long ago".
const FIRST_TICK: u64 = 1_000;

/// A flow has been quiet for so long that its rings' pages are given back, in ticks.
pub(super) const IDLE: u64 = 5_000;

/// So little in a ring is not worth a system call, in bytes.
const WORTH_DISCARDING: u64 = 32 * 1024;

/// What all connections of a stack share: addresses and the clock.
pub(super) struct Host {
    interface: Interface,
    begin: Instant,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Tcp {
    lease: Lease<Sockets>,
    handle: SocketHandle,
    track: Track,
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

/// What passes the rim, noted for what smoltcp does not tell.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// The MSS the peer asked for; zero before it did.
    mss: u16,
    started: bool,
    /// The sequence number behind the last one sent.
    sent_end: u32,
    /// The acknowledgement number sent last.
    acknowledged: u32,
    /// The sequence number behind the furthest byte that may have been stored.
    received_end: u32,
    /// The sequence number behind the peer's FIN.
    fin_end: Option<u32>,
    /// Bytes that went through the rings since their pages were given back.
    moved: u64,
}

struct Sockets;

impl Holder for Sockets {
    type Of<'a> = SocketSet<'a>;
}

/// A device that leads nowhere, for the moment at which an interface wants to see one.
struct Nowhere;

impl PacketSink for Nowhere {
    fn packet(&mut self, _: PeerId, _: &[u8]) {}

    fn ready(&self) -> bool {
        false
    }
}

impl Host {
    pub(super) fn new(rim: &mut Rim, seed: u64, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut port = Port {
            input: None,
            rim,
            track: &mut Track::default(),
            peer: PeerId::new(0, 0),
            sink: &mut Nowhere,
        };
        let begin = time::Instant::from_millis(FIRST_TICK as i64);
        Self { interface: Interface::new(config, &mut port, begin), begin: now }
    }

    /// Sets the addresses, which must be those of hosts.
    pub(super) fn set_addresses(&mut self, ipv6: Option<Ipv6Addr>, ipv4: Option<Ipv4Addr>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // There is room for two, however smoltcp was configured.
            let _ = ipv6.map(|address| addresses.push(IpCidr::new(address.into(), 128)));
            let _ = ipv4.map(|address| addresses.push(IpCidr::new(address.into(), 32)));
        });
    }

    /// The tick, a millisecond, that `now` lies in.
    pub(super) fn tick(&self, now: Instant) -> u64 {
        FIRST_TICK + now.saturating_duration_since(self.begin).as_millis() as u64
    }

    /// When a tick begins.
    pub(super) fn instant(&self, tick: u64) -> Instant {
        self.begin + std::time::Duration::from_millis(tick.saturating_sub(FIRST_TICK))
    }

    fn time(&self, now: Instant) -> time::Instant {
        let micros = now.saturating_duration_since(self.begin).as_micros() as i64;
        time::Instant::from_micros(FIRST_TICK as i64 * 1_000 + micros)
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("addresses", &self.interface.ip_addrs()).finish_non_exhaustive()
    }
}

impl Tcp {
    /// Waits for the SYN that is ingested next. `None` when there is no ring.
    pub(super) fn listen(arena: &Arena, settings: &Settings, local: SocketAddr) -> Option<Self> {
        let endpoint = IpListenEndpoint { addr: Some(address(local.ip())), port: local.port() };
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
        let endpoint = |at: SocketAddr| IpEndpoint::new(address(at.ip()), at.port());
        let mut tcp = Self::new(arena, settings)?;
        // Fails for addresses that `Stack::connect` has refused.
        tcp.with(|socket| socket.connect(host.interface.context(), endpoint(remote), endpoint(local))).ok()?;
        Some(tcp)
    }

    fn new(arena: &Arena, settings: &Settings) -> Option<Self> {
        let mut handle = SocketHandle::default();
        let lease = arena.lease::<Sockets>(|receive, send| {
            let mut socket = Socket::new(SocketBuffer::new(receive), SocketBuffer::new(send));
            socket.set_congestion_control(CongestionControl::Cubic);
            socket.set_nagle_enabled(false);
            socket.set_ack_delay(Some(ACK_DELAY));
            socket.set_keep_alive(Some(settings.keep_alive.into()));
            socket.set_timeout(Some(settings.connect_timeout.into()));
            let mut set = SocketSet::new(Vec::with_capacity(1));
            handle = set.add(socket);
            set
        })?;
        Some(Self { lease, handle, track: Track::default() })
    }

    /// Once the handshake is complete: the peer may be silent for as long as flows may.
    pub(super) fn established(&mut self, settings: &Settings) {
        self.with(|socket| socket.set_timeout(Some(settings.user_timeout.into())));
    }

    /// Takes a segment in. What has to be answered at once, is.
    pub(super) fn ingest(
        &mut self,
        host: &mut Host,
        rim: &mut Rim,
        peer: PeerId,
        packet: &[u8],
        segment: &TcpSegment<'_>,
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        let ring = self.lease.get(|set| set.get::<Socket<'_>>(self.handle).recv_capacity());
        self.track.received(segment, ring);
        // smoltcp delays the acknowledgement of a first segment however long it is. One that was
        // joined of several is to be acknowledged at once (RFC 9293 SHLD-19), or a sender that waits
        // for it stalls.
        let mss = rim.mss(packet[0] >> 4 == 4);
        let delay = if segment.payload().len() > usize::from(mss) { time::Duration::ZERO } else { ACK_DELAY };
        let time = host.time(now);
        let handle = self.handle;
        let track = &mut self.track;
        self.lease.with(|set| {
            set.get_mut::<Socket<'_>>(handle).set_ack_delay(Some(delay));
            let mut port = Port { input: Some(packet), rim, track, peer, sink };
            host.interface.poll_ingress_single(time, &mut port, set);
        });
    }

    /// Sends one segment, if there is one to send; returns its length, or zero.
    pub(super) fn egress(
        &mut self,
        host: &mut Host,
        rim: &mut Rim,
        peer: PeerId,
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) -> usize {
        let time = host.time(now);
        let track = &mut self.track;
        let before = rim.bytes;
        let result = self.lease.with(|set| {
            let mut port = Port { input: None, rim: &mut *rim, track, peer, sink };
            host.interface.poll_egress(time, &mut port, set)
        });
        if result == PollResult::None { 0 } else { (rim.bytes - before) as usize }
    }

    /// The tick at which [`egress`](Self::egress) wants to be called, if at all.
    pub(super) fn poll_at(&self, host: &mut Host, now: Instant) -> Option<u64> {
        let time = host.time(now);
        let at = self.lease.get(|set| host.interface.poll_at(time, set))?;
        Some((at.total_micros().max(0) as u64).div_ceil(1_000))
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
            matches!(socket.state(), State::CloseWait | State::Closing | State::LastAck | State::TimeWait)
        })
    }

    /// Whether our direction is still open.
    pub(super) fn may_send(&self) -> bool {
        self.get(|socket| socket.may_send())
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
        self.get(|socket| if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 })
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
                    (taken, (taken, result))
                })
                .ok()
        })?;
        self.track.moved += taken as u64;
        Some(result)
    }

    pub(super) fn send<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        let (filled, result) = self.with(|socket| {
            if !socket.can_send() {
                return None;
            }
            socket
                .send(|room| {
                    let (filled, result) = fill(room);
                    (filled, (filled, result))
                })
                .ok()
        })?;
        self.track.moved += filled as u64;
        Some(result)
    }

    /// Sends a FIN behind what was sent.
    pub(super) fn shutdown(&mut self) {
        self.with(|socket| socket.close());
    }

    /// Is about to send a reset.
    pub(super) fn abort(&mut self) {
        self.with(|socket| socket.abort());
    }

    /// The numbers to wait with in TIME-WAIT, once the peer's FIN was acknowledged: ours next, and the
    /// peer's next.
    pub(super) fn waiting(&self) -> Option<(u32, u32)> {
        let done = self.phase() == Phase::TimeWait && self.track.fin_end == Some(self.track.acknowledged);
        done.then_some((self.track.sent_end, self.track.acknowledged))
    }

    /// Whether the rings hold pages worth giving back, once the connection idles.
    pub(super) fn holds_pages(&self) -> bool {
        self.track.moved >= WORTH_DISCARDING
    }

    /// Gives the rings' pages back, if nothing is in the rings.
    pub(super) fn discard(&mut self) {
        if self.received() == 0 && self.unacknowledged() == 0 && self.track.in_order() {
            self.lease.discard();
            self.track.moved = 0;
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

impl Track {
    /// The MSS to cut by; `u16::MAX` while the peer has not named one.
    pub(super) fn mss(&self) -> u16 {
        if self.mss == 0 { u16::MAX } else { self.mss }
    }

    pub(super) fn sent(&mut self, end: u32, acknowledgement: u32) {
        if !self.started || is_after(end, self.sent_end) {
            self.started = true;
            self.sent_end = end;
        }
        self.acknowledged = acknowledgement;
    }

    fn received(&mut self, segment: &TcpSegment<'_>, ring: usize) {
        let flags = segment.flags();
        let data = segment.payload().len() as u32;
        if flags.contains(TcpFlags::SYN) {
            if self.mss == 0 {
                self.mss = rim::read_mss(segment.options()).filter(|mss| *mss != 0).unwrap_or(DEFAULT_MSS);
            }
            self.received_end = segment.sequence().wrapping_add(1);
            return;
        }
        let end = segment.sequence().wrapping_add(data);
        if flags.contains(TcpFlags::FIN) {
            self.fin_end = Some(end.wrapping_add(1));
        }
        // Nothing further ahead than a whole ring was stored.
        let limit = self.acknowledged.wrapping_add(ring as u32);
        let end = if is_after(end, limit) { limit } else { end };
        if data > 0 && is_after(end, self.received_end) {
            self.received_end = end;
        }
    }

    /// Whether everything that was received was acknowledged, so that nothing waits out of order.
    fn in_order(&self) -> bool {
        !is_after(self.received_end, self.acknowledged)
    }
}

/// Whether a sequence number lies after another (RFC 9293 section 3.4).
fn is_after(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).wrapping_sub(1) < 1 << 31
}

fn address(address: IpAddr) -> IpAddress {
    address.into()
}
