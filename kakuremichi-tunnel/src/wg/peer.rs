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
    cipher::Identity,
    index::IndexTable,
    owners::Ownership,
    pairing::Pairing,
    rotation::Second,
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
    /// The one before, which it may still speak as.
    pub(super) previous: Option<WireGuardKey>,
    pub(super) preshared: Option<Secret<[u8; 32]>>,
    pub(super) allowed: Vec<Cidr>,
    pub(super) hint: Option<SocketAddr>,
    pub(super) keepalive: Option<Duration>,
    /// The upper 24 bits of the receiver indices of its tunnel.
    pub(super) index: u32,
    /// Who owns it, of all shards.
    pub(super) ownership: Arc<Ownership>,
    /// What packets are sent in. 11 kB, made when it is needed: only the owner has one, and who is about to
    /// take over.
    pub(super) tunnel: Option<Box<Pairing>>,
    /// A tunnel of other static keys, while the peer goes over from one to the other.
    pub(super) second: Option<Second>,
    /// Which pair of static keys is to be tried next, of those that are better than the tunnel's.
    pub(super) trying: Option<usize>,
    /// Since when the tunnel has only answered an initiation that came to this shard. The peer is
    /// taken over once it is heard in the new session: the initiation may be a replay.
    pub(super) claimed: Option<Instant>,
    pub(super) endpoint: Option<OuterPath>,
    pub(super) queue: VecDeque<Vec<u8>>,
    pub(super) last_sent: Option<Instant>,
    pub(super) last_received: Option<Instant>,
    /// Responses that may still be worked on.
    pub(super) responses: u8,
    /// What is left of its initiations; `None` before the first.
    pub(super) initiations: Option<Bucket>,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    /// Whether it stands in the device's list of changed peers.
    pub(super) changed: bool,
}

impl Peer {
    /// Its tunnel, made if there is none: between this key of ours and its newest.
    pub(super) fn tunnel(&mut self, identity: &Identity) -> &mut Pairing {
        self.tunnel.get_or_insert_with(|| {
            let preshared = self.preshared.as_ref();
            Pairing::new(identity, self.key, preshared, self.index)
        })
    }

    /// Whether there is a session to send in.
    pub(super) fn is_ready(&self) -> bool {
        self.tunnel
            .as_ref()
            .is_some_and(|pairing| pairing.tunnel.is_ready())
    }

    /// Forgets its sessions and its handshakes. What waits for a session goes on waiting.
    pub(super) fn forget_tunnel(&mut self, indices: &mut IndexTable) {
        self.drop_second(indices);
        self.tunnel = None;
        self.claimed = None;
        self.trying = None;
    }

    /// Forgets its sessions; returns how many packets waited for one.
    pub(super) fn close(&mut self, indices: &mut IndexTable) -> u64 {
        self.forget_tunnel(indices);
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
}

fn initiation_rate() -> Rate {
    Rate::new(INITIATIONS_PER_SECOND, INITIATIONS_AT_ONCE)
}
