//! What a device is told.

use std::{net::SocketAddr, time::Duration};

use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};

/// What a [`Device`](super::Device) is made of.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// Our X25519 private key.
    pub private_key: Secret<[u8; 32]>,
    /// Seeds the choice of receiver indices. Not a secret, but two devices should not share it.
    pub seed: u64,
    /// What handshakes may cost.
    pub handshakes: HandshakeLimits,
}

impl DeviceConfig {
    /// The default limits.
    #[must_use]
    pub fn new(private_key: Secret<[u8; 32]>, seed: u64) -> Self {
        Self {
            private_key,
            seed,
            handshakes: HandshakeLimits::default(),
        }
    }
}

/// How many initiations are worked on. Each costs about a quarter of a millisecond, so strangers who know our
/// public key could otherwise keep a core busy. A response is worked on because an initiation of ours asks for one.
///
/// An initiation beyond a rate is answered with a cookie, and admitted when it comes again with proof
/// that its sender receives at its address; those who prove it have rates of their own, so that
/// forged addresses exclude nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// Initiations per second without proof, of all senders together, and a quarter of them at once. Anybody who can forge
    /// addresses can use it up at any time, so this is what a flood costs.
    pub unproven_per_second: u32,
    /// Initiations per second with proof, of all senders together, and as many at once.
    pub proven_per_second: u32,
    /// Initiations per second and sender: an IPv4 address, or an IPv6 /64. As many again with proof.
    pub per_source_second: u32,
    /// How many of them at once. Agents behind one NAT are one sender.
    pub per_source_burst: u32,
    /// Cookies sent per second, and a quarter of them at once. Far cheaper than a handshake: with many, whoever is
    /// there is soon asked for proof among forged senders.
    pub cookies_per_second: u32,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            unproven_per_second: 200,
            proven_per_second: 1_000,
            per_source_second: 20,
            per_source_burst: 100,
            cookies_per_second: 2_000,
        }
    }
}

/// One peer, as it should be.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Who it is.
    pub public_key: WireGuardKey,
    /// The key before, while it takes the new one up: it may speak as either, and is the same peer. Handshakes
    /// with it are begun with `public_key`.
    pub previous_key: Option<WireGuardKey>,
    /// A symmetric key that is mixed into each handshake.
    pub preshared_key: Option<Secret<[u8; 32]>>,
    /// From which addresses it may send, and which packets are for it.
    pub allowed_ips: Vec<Cidr>,
    /// Where it was last, or is configured to be. Taken up when the peer is new, when it has not
    /// been heard from, and when it differs from the hint given before.
    pub endpoint: Option<SocketAddr>,
    /// Send an empty packet when nothing was sent for so long, and keep a session up: a handshake is
    /// begun at once, and again without end.
    pub persistent_keepalive: Option<Duration>,
}

impl PeerConfig {
    /// A peer that may use `allowed_ips` and is waited for.
    #[must_use]
    pub const fn new(public_key: WireGuardKey, allowed_ips: Vec<Cidr>) -> Self {
        Self {
            public_key,
            previous_key: None,
            preshared_key: None,
            allowed_ips,
            endpoint: None,
            persistent_keepalive: None,
        }
    }

    pub(super) fn same_secret(&self, other: &Option<Secret<[u8; 32]>>) -> bool {
        self.preshared_key.as_ref().map(Secret::expose) == other.as_ref().map(Secret::expose)
    }
}
