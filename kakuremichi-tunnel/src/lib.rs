//! The tunnel engine of kakuremichi.
//!
//! The pure layer (always built, no runtime, no sockets; time and randomness are arguments):
//!
//! - [`packet`]: checked views of IP, TCP and ICMP echo packets.
//! - [`peer`]: the name of a peer, which all of these share.
//! - [`wg`]: WireGuard for many peers as a state machine over boringtun.
//! - [`netstack`]: TCP flows as state machines over smoltcp.
//! - [`lane`]: whether the path to a peer works, told by probes through it.
//! - [`arena`]: memory for the flows' buffers.
//!
//! The shell (feature `engine`) drives them: one named thread per shard, with the sockets it serves.
//! On it stand `Agent` (the default feature `agent`) and `Gateway` (feature `gateway`).
//!
//! The feature `aws-lc-rs` has nodes use AWS-LC for TLS, with a hybrid key exchange; see `crypto`.
//!
//! `testing` (a feature) has what the fuzz targets and the benches run, and an agent that is hostile.

pub mod arena;
pub mod lane;
pub mod netstack;
pub mod packet;
pub mod peer;
pub mod wg;

#[cfg(feature = "agent")]
mod any_certificate;
mod random;
#[cfg(all(test, target_os = "linux"))]
mod virtual_clock;

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "link")]
pub mod crypto;
#[cfg(feature = "agent")]
pub mod error;
#[cfg(feature = "link")]
pub mod keys;
#[cfg(feature = "link")]
pub mod link;
#[cfg(feature = "link")]
pub mod state;
#[cfg(feature = "agent")]
pub mod status;

#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "engine")]
pub mod session;
#[cfg(feature = "engine")]
pub mod stream;
#[cfg(any(feature = "agent", feature = "gateway"))]
mod streams;

#[cfg(any(feature = "agent", feature = "gateway"))]
mod datagram;

#[cfg(feature = "gateway")]
pub mod gateway;

#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "agent")]
pub use agent::{Agent, Service};
#[cfg(feature = "gateway")]
pub use gateway::Gateway;
#[cfg(feature = "link")]
pub use link::{ControlLink, FixedPlan};
