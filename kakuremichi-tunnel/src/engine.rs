//! The shard: one named thread that runs the data path to completion.
//!
//! A shard owns its UDP sockets, the WireGuard sessions of its peers, the TCP flows and UDP sessions inside them, and
//! the raw TCP sockets that are spliced to such flows. On its thread runs a current-thread tokio
//! runtime; the engine is one future on it, and whatever else belongs to the node (HTTP, the control
//! link, health checks) runs as local tasks beside it, without a wake-up across threads.
//!
//! A node may have several shards ([`ShardSet`]): each has sockets of its own at the same address, and a
//! peer with its lane and its flows belongs to one of them.
//!
//! The engine knows peers, flows and ports; what a service is, it does not know.
//!
//! ```text
//!   UDP ──GRO──▶ wg::Device ──▶ Coalescer ──▶ netstack::Stack ──▶ rings of streams, or sockets
//!   UDP ◀──GSO── wg::Device ◀──────────────── netstack::Stack ◀── rings of streams, or sockets
//! ```
//!
//! No channel, task or allocation is spent per packet: a packet is decrypted to where the netstack
//! reads it, data is read from a socket straight into the ring of its flow, and each finished packet
//! is encrypted straight into the batch that is sent. A turn takes what is there and never waits to
//! fill a batch. Back-pressure goes through windows only: a socket is read when there is room in its
//! flow's ring, data stays in the ring while the socket blocks, and a full UDP socket stops what the
//! netstack sends.

mod clock;
mod command;
mod config;
mod connect;
mod egress;
mod flow;
mod handle;
mod handover;
mod incoming;
mod lifecycle;
mod net;
mod peers;
mod preface;
mod pump;
mod session;
mod set;
mod shard;
mod steering;
mod turn;
mod udp;
mod wall;

pub use config::{EngineLimits, Listen, Network, PeerSettings, ShardConfig};
pub use connect::{Connect, ConnectError, EndReason, Meter, Splice, SpliceEnd};
pub use handle::{Drained, LocalShard, Shard, ShardHandle, SpawnError};
pub use incoming::IncomingFlow;
pub use peers::{EngineCounters, Metrics, PeerView, Peers};
pub use preface::{InvalidPreface, PrefaceLength, proxy_v2_length};
pub use session::{IncomingSession, OpenSession};
pub use set::{ShardSet, ShardSetHandle, WatchPeers};
pub use shard::BuildShard;

pub(crate) use command::Link;
pub(crate) use session::SessionLink;
#[cfg(any(feature = "agent", feature = "gateway"))]
pub(crate) use session::Wish;

#[cfg(test)]
mod tests;
