//! What a shard is told.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use kakuremichi_core::secret::Secret;
use kakuremichi_proto::preface::MAX_PREFACE;

use super::PrefaceLength;
use crate::{
    lane::Timing,
    netstack,
    wg::{HandshakeLimits, PeerConfig},
};

/// What a shard is made of.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// The thread is named `kakuremichi-` and this; those of several shards `km-`, this and their
    /// numbers.
    pub name: String,
    /// The node's X25519 private key.
    pub private_key: Secret<[u8; 32]>,
    /// Where to receive WireGuard's datagrams: at most one address of each family. `[::]` without an
    /// IPv4 address stands for both families. A family that the host lacks is left out, as long as
    /// one socket is bound.
    pub bind: Vec<SocketAddr>,
    /// From a cryptographic random source: ports, sequence numbers and indices follow from it.
    pub seed: [u8; 16],
    /// Have the kernel tell which of several shards a datagram is for. Without, or where it cannot, the
    /// shards hand datagrams over to each other, which costs a copy of each.
    pub steering: bool,
    /// Rings, MTU, bounds and timeouts of flows; of each shard, where there are several.
    pub flows: netstack::Settings,
    /// Bounds of the engine itself, the same.
    pub limits: EngineLimits,
    /// What handshakes may cost, with all shards together.
    pub handshakes: HandshakeLimits,
    /// How lanes are probed.
    pub probes: Timing,
}

impl ShardConfig {
    /// A shard with the default bounds.
    #[must_use]
    pub fn new(name: &str, private_key: Secret<[u8; 32]>, bind: Vec<SocketAddr>, seed: [u8; 16]) -> Self {
        Self {
            name: name.to_owned(),
            private_key,
            bind,
            seed,
            steering: true,
            flows: netstack::Settings::default(),
            limits: EngineLimits::default(),
            handshakes: HandshakeLimits::default(),
            probes: Timing::sparing(),
        }
    }
}

/// Bounds of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    /// An incoming flow whose preface is not complete by then is reset.
    pub preface_timeout: Duration,
    /// An incoming flow whose preface is longer is reset. In bytes.
    pub preface_length: usize,
    /// A flow that its user has left is given up when for so long its peer neither took more of what was
    /// sent nor ended it: with a reset, or without a word once the peer has everything, which it may
    /// still be reading.
    pub linger: Duration,
    /// The flows of a peer whose lane has been down for so long are closed.
    pub peer_lost: Duration,
    /// Handshakes that a node begins per second to find out whether lanes carry, with all shards together; further
    /// ones wait in turn. Each costs both handshake messages, about a quarter of a millisecond. One that a flow
    /// waits for is begun at once.
    pub calls_per_second: u32,
    /// Each of the two buffers between a [`TunnelStream`](crate::stream::TunnelStream) and its flow,
    /// in bytes; memory is used for what they held at most.
    pub stream_buffer: usize,
    /// Requests (connect, splice, metrics) that wait for the engine; more are refused.
    pub requests: usize,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            preface_timeout: Duration::from_secs(10),
            preface_length: MAX_PREFACE,
            linger: Duration::from_secs(60),
            peer_lost: Duration::from_secs(30),
            calls_per_second: 1_000,
            stream_buffer: 256 * 1024,
            requests: 4096,
        }
    }
}

/// The network that a shard is to be part of: the whole desired state, applied idempotently.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Our overlay addresses: an IPv6 one, an IPv4 one, or both. Further ones are ignored.
    pub addresses: Vec<IpAddr>,
    /// All peers.
    pub peers: Vec<PeerSettings>,
    /// All ports that peers may open flows to.
    pub listen: Vec<Listen>,
    /// All UDP ports that peers may open sessions to.
    pub listen_udp: Vec<Listen>,
}

/// One peer.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// Keys, networks and address.
    pub wireguard: PeerConfig,
    /// The overlay address that answers probes. Without one, the peer counts as online while a
    /// session exists.
    pub probe: Option<IpAddr>,
}

/// One port that peers may open flows, or sessions, to.
#[derive(Debug, Clone, Copy)]
pub struct Listen {
    /// The port.
    pub port: u16,
    /// How long the preface is with which flows to it begin. Such flows are answered with a
    /// [`FlowReply`](kakuremichi_proto::flow::FlowReply); those to a port without a preface are not. At a
    /// UDP port a session's first datagrams begin with it, and nothing but datagrams is answered.
    pub preface: Option<PrefaceLength>,
}
