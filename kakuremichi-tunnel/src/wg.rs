//! WireGuard for many peers, as a state machine without sockets.
//!
//! [`Device`] finds the peer of a datagram (by receiver index, or by public key at a handshake),
//! checks the source of what it opens against the peer's allowed networks, follows roaming peers,
//! bounds the work that strangers can cause, and keeps packets that wait for a session. The protocol
//! itself, its handshake and its cipher, is boringtun's, and only `wg/tunn.rs` knows that.
//!
//! A node may have several shards, each with a device and a socket of its own. A peer is owned by one
//! of them ([`Owners`]), and only that one has sessions with it; a datagram that is another shard's
//! says so ([`Device::poll_elsewhere`]).
//!
//! Both ends may have two static keys while one takes the place of the other: a peer goes over from one to
//! the other with its sessions ([`OwnKeys`], [`PeerConfig::previous_key`], `wg/rotation.rs`).
//!
//! boringtun reads the clock and draws random numbers by itself; everything else in here takes both
//! as arguments.

mod allowed_ips;
mod bucket;
mod common;
mod config;
mod counters;
mod device;
#[cfg(test)]
mod either;
mod handshake;
mod inbound;
mod index;
mod keys;
mod limiter;
#[cfg(test)]
mod model;
mod owners;
mod pairing;
mod path;
mod peer;
mod reconcile;
mod rotation;
mod timers;
mod tunn;

#[cfg(test)]
use either as cipher;
#[cfg(not(test))]
use tunn as cipher;

pub use config::{DeviceConfig, HandshakeLimits, PeerConfig};
pub use counters::Counters;
pub use device::{DatagramSink, Device, Elsewhere, OVERHEAD, PeerStatus, Sealed, Standing};
pub use index::{MAX_PEERS, MAX_SHARDS};
pub use keys::OwnKeys;
pub use owners::Owners;
pub use path::OuterPath;
pub use reconcile::Reconciled;

/// The public half of a WireGuard private key.
#[must_use]
pub fn public_key(
    private: &kakuremichi_core::secret::Secret<[u8; 32]>,
) -> kakuremichi_core::key::WireGuardKey {
    tunn::public_key(private)
}

#[cfg(test)]
mod tests;
