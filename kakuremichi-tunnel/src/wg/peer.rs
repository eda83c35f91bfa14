//! One peer of a device.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};

use super::{
    OuterPath,
    bucket::{Bucket, Rate},
    cipher::{Identity, Tunnel},
    owners::Ownership,
};
use crate::peer::PeerId;

/// Packets of one peer that wait for a session. One more drops the oldest.
pub(super) const MAX_QUEUED: usize = 32;

/// Initiations of one peer that are answered in a second, and at once: a peer that is in order begins one in a
/// second at most. More are dropped and counted. Only genuine ones count, which nobody else can make.
const INITIATIONS_PER_SECOND: u32 = 10;
const INITIATIONS_AT_ONCE: u32 = 50;

/// Responses that are worked on for each initiation of ours. Who overhears it can forge some.
const RESPONSES: u8 = 4;

/// The longest packet that waits; longer ones are dropped. No tunnel has a larger MTU.
pub(super) const MAX_QUEUED_LENGTH: usize = 2048;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) key: WireGuardKey,
    pub(super) preshared: Option<Secret<[u8; 32]>>,
    pub(super) allowed: Vec<Cidr>,
    pub(super) hint: Option<SocketAddr>,
    pub(super) keepalive: Option<Duration>,
    /// The upper 24 bits of its receiver indices.
    pub(super) index: u32,
    /// Who owns it, of all shards.
    pub(super) ownership: Arc<Ownership>,
    /// 11 kB, made when it is needed: only the owner has one, and who is about to take over.
    pub(super) tunnel: Option<Box<Tunnel>>,
    /// The tunnel is to be made anew once it has no session: see
    /// [`clock_stepped`](super::Device::clock_stepped).
    pub(super) outdated: bool,
    /// Since when the tunnel has only answered an initiation that came to this shard. The peer is
    /// taken over once it is heard in the new session: the initiation may be a replay.
    pub(super) claimed: Option<Instant>,
    pub(super) endpoint: Option<OuterPath>,
    pub(super) queue: VecDeque<Vec<u8>>,
    pub(super) last_sent: Option<Instant>,
    pub(super) last_received: Option<Instant>,
    pub(super) last_initiation: Option<Instant>,
    /// Responses that may still be worked on.
    pub(super) responses: u8,
    /// What is left of its initiations; `None` before the first.
    pub(super) initiations: Option<Bucket>,
    /// Our index of the newest session in which the peer was heard, or which its answer made.
    pub(super) proven: Option<u32>,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    /// Whether it stands in the device's list of changed peers.
    pub(super) changed: bool,
}

impl Peer {
    /// Its tunnel, made if there is none.
    pub(super) fn tunnel(&mut self, identity: &Identity) -> &mut Tunnel {
        self.tunnel.get_or_insert_with(|| {
            let preshared = self.preshared.as_ref();
            Box::new(Tunnel::new(identity, &self.key, preshared, self.index))
        })
    }

    /// Whether there is a session to send in.
    pub(super) fn is_ready(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_ready())
    }

    /// Forgets its sessions and its handshake. What waits for a session goes on waiting.
    pub(super) fn forget_tunnel(&mut self) {
        self.tunnel = None;
        self.outdated = false;
        self.claimed = None;
        self.proven = None;
        self.last_initiation = None;
    }

    /// Forgets its sessions; returns how many packets waited for one.
    pub(super) fn close(&mut self) -> u64 {
        self.forget_tunnel();
        let waiting = self.queue.len() as u64;
        self.queue = VecDeque::new();
        waiting
    }

    /// Keeps a packet until there is a session and returns how many were dropped for it.
    pub(super) fn enqueue(&mut self, packet: &[u8]) -> u64 {
        if packet.len() > MAX_QUEUED_LENGTH {
            return 1;
        }
        // The oldest one's memory is used again.
        let (mut buffer, dropped) = match self.queue.len() {
            MAX_QUEUED => (self.queue.pop_front().unwrap_or_default(), 1),
            _ => (Vec::new(), 0),
        };
        buffer.clear();
        buffer.extend_from_slice(packet);
        self.queue.push_back(buffer);
        dropped
    }

    /// Whether an initiation of the peer may be answered.
    pub(super) fn may_initiate(&self, now: Instant) -> bool {
        self.initiations
            .is_none_or(|bucket| bucket.has(initiation_rate(), now))
    }

    /// An initiation of the peer was answered.
    pub(super) fn count_initiation(&mut self, now: Instant) {
        let bucket = self.initiations.get_or_insert_with(|| Bucket::full(now));
        bucket.take(initiation_rate(), now);
    }

    /// An initiation is sent to the peer.
    pub(super) const fn expect_response(&mut self) {
        self.responses = RESPONSES;
    }

    /// Whether a response is worked on, which counts it.
    pub(super) const fn take_response(&mut self) -> bool {
        let expected = self.responses > 0;
        self.responses = self.responses.saturating_sub(1);
        expected
    }

    /// Whether so much time has passed since nothing was sent that a sign of life is due.
    pub(super) fn keepalive_due(&self, now: Instant) -> bool {
        let Some(interval) = self.keepalive else {
            return false;
        };
        self.last_sent
            .is_none_or(|sent| now.saturating_duration_since(sent) >= interval)
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

fn initiation_rate() -> Rate {
    Rate::new(INITIATIONS_PER_SECOND, INITIATIONS_AT_ONCE)
}
