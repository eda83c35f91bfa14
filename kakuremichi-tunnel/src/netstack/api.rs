//! What the netstack's callers see of it, besides the [`Stack`](super::Stack) itself.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::AddAssign,
    time::Duration,
};

use super::SessionId;
use crate::peer::PeerId;

/// Where finished IP packets go: the side that encrypts them.
pub trait PacketSink {
    /// Takes one IP packet for a peer: whole, within the MTU, its checksums valid. A sink that cannot
    /// keep it drops it; TCP sends it again.
    fn packet(&mut self, peer: PeerId, packet: &[u8]);

    /// Whether there is room for more. While there is not, [`Stack::transmit`](super::Stack::transmit)
    /// stops. Answers to a packet (acknowledgements of what arrived out of order, resets, echo
    /// replies) are handed over all the same, one at most for each packet handled.
    fn ready(&self) -> bool;
}

/// Names one flow of one [`Stack`](super::Stack). A name is never given twice: one that outlived its
/// flow is harmless.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl FlowId {
    /// The slot of the flow table, dense from zero, below [`Limits::flows`]. Callers may keep what
    /// belongs to a flow in a table of their own by it, if they compare the whole name too.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flow{}.{}", self.slot, self.generation)
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What happened to a flow, told once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer opened a flow to a listened port, and the handshake is complete.
    Incoming {
        /// The flow.
        flow: FlowId,
        /// Who opened it.
        peer: PeerId,
        /// Our end: one of the stack's addresses and a listened port.
        local: SocketAddr,
        /// The peer's end.
        remote: SocketAddr,
    },
    /// A flow that was opened by [`Stack::connect`](super::Stack::connect) is connected.
    Established(FlowId),
    /// There is something to [`recv`](super::Stack::recv), or the peer ended its direction, or there
    /// is room again where [`send`](super::Stack::send) had found too little. Told on change only.
    Ready(FlowId),
    /// The flow has ended. What was received before stays readable until
    /// [`release`](super::Stack::release), which has to follow (except after
    /// [`CloseReason::PeerGone`] and [`CloseReason::AddressGone`], where it does no harm).
    Closed {
        /// The flow.
        flow: FlowId,
        /// How it ended.
        reason: CloseReason,
    },
    /// A UDP session is over: nothing passed for too long ([`CloseReason::Timeout`]), or the peer or the
    /// address has gone. Its name is void.
    SessionEnded {
        /// The session.
        session: SessionId,
        /// Why.
        reason: CloseReason,
    },
    /// The other end of a UDP session does not want its datagrams (ICMP unreachable). The session goes
    /// on.
    SessionRefused(SessionId),
    /// A peer answered a [`ping`](super::Stack::ping).
    Pong {
        /// Who answered.
        peer: PeerId,
        /// The address that was asked.
        from: IpAddr,
        /// As in the request.
        identifier: u16,
        /// As in the request.
        sequence: u16,
        /// The first eight bytes of the request's payload; zero where it was shorter.
        payload: [u8; 8],
    },
}

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// Both directions ended in order, everything was delivered and read.
    Finished,
    /// The peer reset the flow.
    Reset,
    /// The peer stayed silent for too long.
    Timeout,
    /// The peer reset the attempt to connect.
    Refused,
    /// The peer was removed.
    PeerGone,
    /// The stack lost the address that the flow used.
    AddressGone,
    /// The stack reset the flow: flows held more memory than they may, and this one the most.
    Shed,
}

/// Why a flow cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The local address is none of the stack's.
    #[error("the local address is not one of ours")]
    NotOurs,
    /// The remote address is not a host's, is of another family than the local one, or has no port.
    #[error("the remote address cannot be connected to")]
    Unaddressable,
    /// [`Limits::flows`] or [`Limits::flows_per_peer`] is reached.
    #[error("there are too many flows")]
    TooManyFlows,
    /// All buffers are in use.
    #[error("all buffers are in use")]
    NoBuffers,
    /// All ephemeral ports toward this destination are in use.
    #[error("all local ports toward this destination are in use")]
    NoPorts,
}

/// Why an echo request cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// The stack has no address of the destination's family.
    #[error("there is no address of the destination's family")]
    NoAddress,
    /// Request and headers exceed the MTU.
    #[error("the payload does not fit the MTU")]
    TooLong,
}

/// Why a stack cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The rings' memory cannot be reserved.
    #[error("cannot reserve memory for {flows} flows")]
    Memory {
        /// [`Limits::flows`].
        flows: usize,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The MTU is below 1,280 or above 65,535.
    #[error("an MTU of {0} is out of range")]
    Mtu(usize),
    /// An address is no host's.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
}

/// An address that no host can have: unspecified, multicast or broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the address of a host")]
pub struct InvalidAddress(pub IpAddr);

/// How many flows a stack keeps. Beyond each bound an attempt is reset and counted. Where several peers have some,
/// none has more than eight times as many as are free, so that no few of them can take all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All flows, half-open and closing ones included. Two rings of address space are reserved for
    /// each; memory is used for what they hold.
    pub flows: usize,
    /// All flows of one peer.
    pub flows_per_peer: usize,
    /// Flows that peers began to open.
    pub half_open: usize,
    /// Flows that one peer began to open.
    pub half_open_per_peer: usize,
    /// Flows that one peer may open in a second. What would open another one is dropped and counted, without an
    /// answer: it is sent again a second later.
    pub accepted_per_second: u32,
    /// Bytes of memory that the rings of all flows may hold, at least a MiB and four rings. Well before, rings give back
    /// what they do not need and flows are slowed down; beyond, data is not taken in and the largest flows
    /// are reset. Not counted are the rings of [a few](crate::arena) flows that have ended.
    pub memory: usize,
    /// The same of one peer's flows.
    pub memory_per_peer: usize,
    /// Ended flows whose addresses are remembered (TIME-WAIT); beyond, the oldest is forgotten.
    pub time_wait: usize,
    /// UDP sessions. Beyond, a datagram that would begin another one is dropped and counted.
    pub sessions: usize,
    /// UDP sessions with one peer.
    pub sessions_per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 16_384,
            flows_per_peer: 8_192,
            half_open: 2_048,
            half_open_per_peer: 512,
            accepted_per_second: u32::MAX,
            memory: 1 << 30,
            memory_per_peer: 1 << 28,
            time_wait: 16_384,
            sessions: 32_768,
            sessions_per_peer: 16_384,
        }
    }
}

/// How a stack is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The stack's overlay address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its address toward peers that speak IPv4 only.
    pub ipv4: Option<Ipv4Addr>,
    /// The longest packet inside the tunnel, 1,280 to 65,535.
    pub mtu: usize,
    /// The size of each of a flow's two rings, in bytes; rounded up to
    /// [`RING_GRANULE`](crate::arena::RING_GRANULE). It bounds a flow's
    /// throughput to one ring per round trip, and the memory of a flow whose reader is slow.
    pub ring: usize,
    /// Bounds.
    pub limits: Limits,
    /// A flow whose peer says nothing for this long is ended: neither an acknowledgement of data nor
    /// an answer to a keep-alive. Longer than [`keep_alive`](Self::keep_alive).
    pub user_timeout: Duration,
    /// A silent flow is probed this often.
    pub keep_alive: Duration,
    /// An attempt to connect, ours or a peer's, is given up after this long.
    pub connect_timeout: Duration,
    /// A UDP session that a peer began ends when nothing passes for this long.
    pub session_idle: Duration,
}

/// The inner MTU of a tunnel over an outer path of 1,500 bytes, as WireGuard has it.
pub(super) const DEFAULT_MTU: usize = 1_420;
/// The default of [`Settings::ring`].
pub(super) const DEFAULT_RING: usize = 512 * 1024;
/// The default of [`Settings::user_timeout`].
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(120);
/// The default of [`Settings::keep_alive`]: two probes may be lost within the user timeout.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(45);
/// The default of [`Settings::session_idle`]: longer than the gateway's, which ends sessions by its own
/// setting, so that the target's side does not change under one that goes on.
pub(super) const SESSION_IDLE: Duration = Duration::from_secs(120);
/// The default of [`Settings::connect_timeout`].
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

impl Default for Settings {
    fn default() -> Self {
        Self {
            ipv6: None,
            ipv4: None,
            mtu: DEFAULT_MTU,
            ring: DEFAULT_RING,
            limits: Limits::default(),
            user_timeout: USER_TIMEOUT,
            keep_alive: KEEP_ALIVE,
            connect_timeout: CONNECT_TIMEOUT,
            session_idle: SESSION_IDLE,
        }
    }
}

/// What a stack counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Flows that peers opened, handshake complete.
    pub accepted: u64,
    /// Flows that were opened toward peers, handshake complete.
    pub connected: u64,
    /// Attempts of peers beyond a bound of [`Limits`]; reset.
    pub overflowed: u64,
    /// Attempts, of peers or our own, for which no buffer was free.
    pub no_buffers: u64,
    /// Attempts of peers to reach a port that is not listened on; reset, or answered with an ICMP error.
    pub refused: u64,
    /// Segments of no flow; reset.
    pub stray: u64,
    /// Packets that were malformed; dropped.
    pub malformed: u64,
    /// Packets for an address that is not ours; dropped.
    pub not_ours: u64,
    /// Packets of another protocol than TCP, UDP and ICMP echo, and ICMP errors about nothing that there
    /// is; dropped.
    pub unhandled: u64,
    /// Echo requests answered.
    pub echoed: u64,
    /// Echo replies beyond what waits to be polled; dropped.
    pub lost_pongs: u64,
    /// Flows that ended because their peer fell silent.
    pub timed_out: u64,
    /// Packets handed to the sink.
    pub sent: u64,
    /// Packets, coalesced ones counted once, that flows took in.
    pub received: u64,
    /// UDP sessions that began, on either side.
    pub sessions_opened: u64,
    /// Datagrams, or our own attempts, that would have begun a session beyond a bound of [`Limits`];
    /// dropped.
    pub sessions_overflowed: u64,
    /// Datagrams sent in sessions.
    pub datagrams_sent: u64,
    /// Datagrams received in sessions.
    pub datagrams_received: u64,
    /// Datagrams received but dropped: [`RECEIVED_BYTES`](super::RECEIVED_BYTES) waited.
    pub datagrams_shed: u64,
    /// Datagrams sent that were longer than the MTU, in fragments.
    pub fragmented: u64,
    /// Datagrams received in fragments.
    pub reassembled: u64,
    /// Datagrams of which fragments were missing, did not fit each other, or were too many; dropped.
    pub fragments_dropped: u64,
    /// ICMP unreachables sent: nobody takes a datagram.
    pub unreachables_sent: u64,
    /// ICMP unreachables received about sessions, and about attempts to connect.
    pub unreachables_received: u64,
    /// Echo requests, and datagrams to be refused, beyond what is answered to a peer in a second; dropped.
    pub answers_shed: u64,
    /// Rings that gave back their memory early: flows held much.
    pub rings_reclaimed: u64,
    /// Segments whose data was not taken in: flows held as much memory as they may.
    pub data_refused: u64,
    /// Flows that were reset since flows held as much memory as they may, and these the most.
    pub flows_shed: u64,
}

impl AddAssign for Counters {
    /// The sum over several stacks.
    fn add_assign(&mut self, other: Self) {
        let Self {
            accepted,
            connected,
            overflowed,
            no_buffers,
            refused,
            stray,
            malformed,
            not_ours,
            unhandled,
            echoed,
            lost_pongs,
            timed_out,
            sent,
            received,
            sessions_opened,
            sessions_overflowed,
            datagrams_sent,
            datagrams_received,
            datagrams_shed,
            fragmented,
            reassembled,
            fragments_dropped,
            unreachables_sent,
            unreachables_received,
            answers_shed,
            rings_reclaimed,
            data_refused,
            flows_shed,
        } = other;
        self.accepted += accepted;
        self.connected += connected;
        self.overflowed += overflowed;
        self.no_buffers += no_buffers;
        self.refused += refused;
        self.stray += stray;
        self.malformed += malformed;
        self.not_ours += not_ours;
        self.unhandled += unhandled;
        self.echoed += echoed;
        self.lost_pongs += lost_pongs;
        self.timed_out += timed_out;
        self.sent += sent;
        self.received += received;
        self.sessions_opened += sessions_opened;
        self.sessions_overflowed += sessions_overflowed;
        self.datagrams_sent += datagrams_sent;
        self.datagrams_received += datagrams_received;
        self.datagrams_shed += datagrams_shed;
        self.fragmented += fragmented;
        self.reassembled += reassembled;
        self.fragments_dropped += fragments_dropped;
        self.unreachables_sent += unreachables_sent;
        self.unreachables_received += unreachables_received;
        self.answers_shed += answers_shed;
        self.rings_reclaimed += rings_reclaimed;
        self.data_refused += data_refused;
        self.flows_shed += flows_shed;
    }
}
