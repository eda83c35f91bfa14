//! What a device does with datagrams.

use std::time::Instant;

use super::{
    Counters, DatagramSink, Device, OuterPath,
    cipher::{DATA_OVERHEAD, Message, Received, Refusal},
    device::{Elsewhere, mark, send},
    index::IndexTable,
    peer::{MAX_QUEUED_LENGTH, Peer},
};
use crate::{packet::source_address, peer::PeerId};

/// How a datagram came to a shard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the network.
    Straight,
    /// From another shard, which has admitted it if it is an initiation. It goes to no third one.
    Handed { admitted: bool },
}

impl Device {
    pub(super) fn receive(
        &mut self,
        way: Way,
        from: OuterPath,
        datagram: &[u8],
        out: &mut [u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) -> Option<(PeerId, usize)> {
        let Some(message) = Message::of(datagram).filter(|_| out.len() >= datagram.len()) else {
            self.counters.malformed += 1;
            return None;
        };
        if let Message::Data { receiver } = message {
            return self.open_data(receiver, way, from, datagram, out, sink, now);
        }
        self.handshake(message, way, from, datagram, sink, now);
        None
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one datagram")]
    fn open_data(
        &mut self,
        receiver: u32,
        way: Way,
        from: OuterPath,
        datagram: &[u8],
        out: &mut [u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) -> Option<(PeerId, usize)> {
        let Some(state) = by_index(&self.indices, &mut self.slots, receiver) else {
            self.miss(receiver, way);
            return None;
        };
        let Some(pairing) = state.pairing(receiver) else {
            self.counters.unknown_session += 1;
            return None;
        };
        let was_ready = pairing.tunnel.is_ready();
        let received = match pairing.tunnel.receive(datagram, out) {
            Ok(received) => received,
            Err(refusal) => {
                count(&mut self.counters, refusal);
                return None;
            }
        };
        let is_new = !was_ready && pairing.tunnel.is_ready();
        let newer = state.proves(receiver, now);
        let goes_over = newer && state.is_second(receiver);
        if goes_over {
            state.go_over(false, &mut self.indices, now);
            self.counters.rotated += 1;
        }
        let claims = state.claimed.is_some();
        let settles = is_new || goes_over || claims;
        if settles && !settle_owner(state, self.shard, &mut self.indices, &mut self.counters) {
            return None;
        }
        if heard(state, from, &mut self.counters, now) | newer | claims {
            mark(&mut self.changed, state);
        }
        if settles {
            state.try_others(&self.keys);
            drain(state, &mut self.counters, sink, now);
        }
        let Received::Packet(length) = received else {
            return None;
        };
        let source = source_address(&out[..length]);
        let owner = source.and_then(|source| self.allowed.slot(source));
        if owner != Some(state.id.slot() as u32) {
            self.counters.disallowed += 1;
            return None;
        }
        state.received_bytes += length as u64;
        self.counters.opened += 1;
        Some((state.id, length))
    }

    /// Nothing here has that receiver index.
    pub(super) fn miss(&mut self, receiver: u32, way: Way) {
        let shard = IndexTable::shard(receiver);
        if way == Way::Straight && shard != self.shard && shard < self.common.owners.shards() {
            self.go_elsewhere(shard, false);
        } else {
            self.counters.unknown_session += 1;
        }
    }

    pub(super) fn go_elsewhere(&mut self, shard: u8, admitted: bool) {
        self.counters.elsewhere += 1;
        self.elsewhere = Some(Elsewhere { shard, admitted });
    }
}

/// There is a session with a peer: it is this shard's from now on, unless another one holds it, whose
/// session is the one that counts then. Returns whether it is this one's.
pub(super) fn settle_owner(
    state: &mut Peer,
    shard: u8,
    indices: &mut IndexTable,
    counters: &mut Counters,
) -> bool {
    let before = state.ownership.get().shard;
    if !state.ownership.hold(shard) {
        counters.unknown_session += 1;
        counters.overflowed += state.close(indices);
        return false;
    }
    counters.taken_over += u64::from(before != shard);
    state.claimed = None;
    true
}

pub(super) fn by_index<'a>(
    indices: &IndexTable,
    slots: &'a mut [Option<Box<Peer>>],
    receiver: u32,
) -> Option<&'a mut Peer> {
    slots.get_mut(indices.slot(receiver)? as usize)?.as_deref_mut()
}

pub(super) fn count(counters: &mut Counters, refusal: Refusal) {
    match refusal {
        Refusal::Replay => counters.replayed += 1,
        Refusal::NoSession => counters.unknown_session += 1,
        Refusal::Forged => counters.forged += 1,
    }
}

/// Roaming: the peer is where its newest authentic message came from. Returns whether it moved.
pub(super) fn heard(state: &mut Peer, from: OuterPath, counters: &mut Counters, now: Instant) -> bool {
    state.last_received = Some(now);
    let before = state.endpoint.replace(from).map(|path| path.remote);
    let moved = before != Some(from.remote);
    counters.roamed += u64::from(moved && before.is_some());
    moved
}

/// Sends what waited for a session.
pub(super) fn drain(state: &mut Peer, counters: &mut Counters, sink: &mut impl DatagramSink, now: Instant) {
    let mut out = [0; MAX_QUEUED_LENGTH + DATA_OVERHEAD];
    while let Some(packet) = state.queue.pop_front() {
        let sealed = state
            .tunnel
            .as_mut()
            .and_then(|pairing| pairing.tunnel.seal(&packet, &mut out));
        if let Some(length) = sealed {
            counters.sealed += 1;
            state.sent_bytes += packet.len() as u64;
            send(state, &out[..length], sink, now);
        }
    }
}
