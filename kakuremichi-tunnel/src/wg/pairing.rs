//! A tunnel of a peer, and the two static keys that it is made of.

use std::time::{Duration, Instant};

use kakuremichi_core::{key::WireGuardKey, secret::Secret};

use super::cipher::{Identity, Tunnel};

/// A static key of ours and one of the peer's: both ends may have two while one takes the place of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) ours: WireGuardKey,
    pub(super) theirs: WireGuardKey,
}

/// What two static keys have in common: the tunnel between them, and what is known of it.
#[derive(Debug)]
pub(super) struct Pairing {
    pub(super) keys: Pair,
    pub(super) tunnel: Tunnel,
    /// The tunnel is to be made anew once it has no session: see
    /// [`clock_stepped`](super::Device::clock_stepped).
    pub(super) outdated: bool,
    pub(super) last_initiation: Option<Instant>,
    /// Our index of the newest session in which the peer was heard, or which its answer made.
    proven: Option<u32>,
}

impl Pairing {
    /// `index`: the upper 24 bits of our receiver indices.
    pub(super) fn new(
        ours: &Identity,
        theirs: WireGuardKey,
        preshared: Option<&Secret<[u8; 32]>>,
        index: u32,
    ) -> Box<Self> {
        Box::new(Self {
            keys: Pair {
                ours: ours.public_key(),
                theirs,
            },
            tunnel: Tunnel::new(ours, &theirs, preshared, index),
            outdated: false,
            last_initiation: None,
            proven: None,
        })
    }

    /// The peer was heard in the session with this index of ours; whether that is a newer one than
    /// before. Who answers a handshake sends in the new session only from then on.
    pub(super) fn proves(&mut self, index: u32) -> bool {
        // The lower 8 bits count the handshakes. Packets of the session before may come late.
        let newer = self
            .proven
            .is_none_or(|proven| (1..0x80).contains(&(index.wrapping_sub(proven) & 0xff)));
        if newer {
            self.proven = Some(index);
        }
        newer
    }

    /// Whether an initiation was sent so recently that another would be impatient.
    pub(super) fn initiated_within(&self, pause: Duration, now: Instant) -> bool {
        self.last_initiation
            .is_some_and(|last| now.saturating_duration_since(last) < pause)
    }
}
