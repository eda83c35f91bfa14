//! The gateway's deadlines and bounds.

use std::time::Duration;

/// How long the gateway waits for whom.
///
/// No request has a total: as long as bytes move, it may take as long as it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// A visitor's TLS handshake, from the accepted connection on.
    pub hello: Duration,
    /// A request's head, from the handshake or the end of the request before on. An HTTP/1.1
    /// connection without a request is closed after it.
    pub head: Duration,
    /// An HTTP/2 connection without a request is closed after it.
    pub keep_alive: Duration,
    /// The connection to a target, its TLS handshake included.
    pub connect: Duration,
    /// An answer of an `Authenticator`, and one of an `Authorizer`. Without one in time nothing is
    /// proven, or the visitor is objected to.
    pub judgement: Duration,
    /// The head of a target's response, from the last byte of the request on.
    pub response_head: Duration,
    /// A body or a WebSocket on which nothing moves in either direction.
    pub idle: Duration,
    /// The same for a connection to a TCP service. Databases keep connections for later; a visitor that
    /// is gone is found out by TCP itself.
    pub tcp_idle: Duration,
    /// A session at a UDP service in which no datagram passes in either direction.
    pub udp_idle: Duration,
    /// A visitor that takes nothing of what is to be written.
    pub write: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            head: Duration::from_secs(30),
            keep_alive: Duration::from_secs(120),
            connect: Duration::from_secs(15),
            judgement: Duration::from_secs(10),
            response_head: Duration::from_secs(60),
            idle: Duration::from_secs(600),
            tcp_idle: Duration::from_secs(7200),
            udp_idle: Duration::from_secs(60),
            write: Duration::from_secs(60),
        }
    }
}

/// How much the gateway keeps at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Visitors' connections, those of TCP services included. Beyond, a new one is closed at once.
    pub connections: usize,
    /// The same of one address (IPv6: of one /64).
    pub connections_per_address: usize,
    /// Bytes of memory that flows with agents and sites may hold in their rings, with all shards together;
    /// each shard has an equal part. `None` is 512 MiB for each. See
    /// [`Limits::memory`](crate::netstack::Limits::memory) for what happens before that, and beyond.
    pub flow_memory: Option<usize>,
    /// The same of one agent or site; at most what its shard has.
    pub flow_memory_per_peer: usize,
    /// Flows that an agent, or a sibling that relays, may open toward this gateway in a second. What would open
    /// another one is dropped, and sent again a second later. An agent opens one, for its feed; each flow that a
    /// sibling relays is one, too.
    pub flows_per_second_of_peer: u32,
    /// Sessions at UDP services. Beyond, a datagram that would begin another one is dropped.
    pub udp_sessions: usize,
    /// The same at one service.
    pub udp_sessions_per_service: usize,
    /// The same of one address (IPv6: of one /64).
    pub udp_sessions_per_address: usize,
    /// The head of an HTTP/1.1 request in bytes, and the header list of an HTTP/2 request. Beyond,
    /// the answer is 431. At least 8,192.
    pub head: usize,
    /// The header fields of an HTTP/1.1 request. Beyond, the answer is 431.
    pub fields: usize,
    /// Requests at once on one HTTP/2 connection. Beyond, a stream is refused.
    pub streams: u32,
    /// Requests at once, WebSockets included, of one address (IPv6: of one /64). Each takes a flow to
    /// an agent, of which there are only so many for all. Beyond, the answer is 503.
    pub requests_per_address: usize,
    /// Passwords being verified at once; each keeps a thread busy and takes the memory that its hash
    /// asks for.
    pub verifications: usize,
    /// Passwords waiting to be verified. Beyond, the answer is 503.
    pub waiting_verifications: usize,
    /// Questions to an `Authenticator` or `Authorizer` that are open at once. Beyond, the answer is 503,
    /// or the visitor is objected to.
    pub judgements: usize,
    /// Verified credentials that are remembered. Beyond, the oldest is forgotten.
    pub remembered: usize,
    /// Connections of one agent's TLS stream lane. Beyond, a new one is refused, and flows wait. A quarter of
    /// them may carry sessions of UDP services. Beyond, no new one of these begins.
    pub lane_connections: usize,
    /// Connections of TLS stream lanes whose ends have not proven who they are. Beyond, a new one is closed
    /// at once.
    pub lane_handshakes: usize,
    /// The same of one address (IPv6: of one /64).
    pub lane_handshakes_per_address: usize,
    /// Flows passed on for other gateways at once. Beyond, a new one is refused as overload, and the other
    /// gateway asks the next one.
    pub relayed_flows: usize,
    /// Sessions of UDP services passed on for other gateways at once. Beyond, a new one is refused.
    pub relayed_sessions: usize,
    /// Certificates of the local CA that are kept. Beyond, the one made first is dropped and made
    /// again when wanted.
    pub certificates: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_address: 1_024,
            flow_memory: None,
            flow_memory_per_peer: 256 << 20,
            flows_per_second_of_peer: 1_000,
            udp_sessions: 16_384,
            udp_sessions_per_service: 8_192,
            udp_sessions_per_address: 1_024,
            head: 64 * 1024,
            fields: 128,
            streams: 128,
            requests_per_address: 2_048,
            verifications: 2,
            waiting_verifications: 64,
            judgements: 1_024,
            remembered: 4_096,
            lane_connections: 512,
            lane_handshakes: 256,
            lane_handshakes_per_address: 64,
            relayed_flows: 8_192,
            relayed_sessions: 4_096,
            certificates: 1_024,
        }
    }
}
