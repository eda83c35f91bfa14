//! What a device does with datagrams.

use std::time::Instant;

use super::{
    Counters, DatagramSink, Device, OuterPath,
    cipher::{DATA_OVERHEAD, HANDSHAKE_ROOM, Message, Received, Refusal},
    device::{Elsewhere, mark, send},
    index::IndexTable,
    limiter::Verdict,
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
        let Some(tunnel) = &mut state.tunnel else {
            self.counters.unknown_session += 1;
            return None;
        };
        let was_ready = tunnel.is_ready();
        let received = match tunnel.receive(datagram, out) {
            Ok(received) => received,
            Err(refusal) => {
                count(&mut self.counters, refusal);
                return None;
            }
        };
        let is_new = !was_ready && tunnel.is_ready();
        let claims = state.claimed.is_some();
        if (is_new || claims) && !settle_owner(state, self.shard, &mut self.counters) {
            return None;
        }
        if heard(state, from, &mut self.counters, now) | state.proves(receiver) | claims {
            mark(&mut self.changed, state);
        }
        if is_new || claims {
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
    fn miss(&mut self, receiver: u32, way: Way) {
        let shard = IndexTable::shard(receiver);
        if way == Way::Straight && shard != self.shard && shard < self.common.owners.shards() {
            self.go_elsewhere(shard, false);
        } else {
            self.counters.unknown_session += 1;
        }
    }

    fn go_elsewhere(&mut self, shard: u8, admitted: bool) {
        self.counters.elsewhere += 1;
        self.elsewhere = Some(Elsewhere { shard, admitted });
    }

    fn handshake(
        &mut self,
        message: Message,
        way: Way,
        from: OuterPath,
        datagram: &[u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) {
        let mut out = [0; HANDSHAKE_ROOM];
        if let Message::Response { receiver } | Message::Cookie { receiver } = message
            && self.indices.slot(receiver).is_none()
        {
            return self.miss(receiver, way);
        }
        // A cookie has no mac1; it names a handshake of ours, and is authentic.
        if !matches!(message, Message::Cookie { .. }) && !self.common.identity.has_valid_mac1(datagram) {
            return self.counters.bad_mac += 1;
        }
        if message == Message::Initiation && way != (Way::Handed { admitted: true }) {
            match self.common.judge(from.remote.ip(), datagram, now, &mut out) {
                Verdict::Admit => {}
                Verdict::Challenge(length) => {
                    self.counters.challenged += 1;
                    return sink.datagram(from, &out[..length]);
                }
                Verdict::Limited => return self.counters.limited += 1,
            }
        }
        let state = match message {
            Message::Initiation => {
                let key = self.common.identity.initiator(datagram);
                let slot = key.and_then(|key| self.by_key.get(&key));
                let Some(state) = slot.and_then(|slot| self.slots.get_mut(*slot as usize)?.as_deref_mut())
                else {
                    return self.counters.unknown_peer += 1;
                };
                if !state.may_initiate(now) {
                    // The rest of a handshake costs five times as much as finding out whose it is.
                    return self.counters.limited += 1;
                }
                let owner = state.ownership.get();
                if owner.shard != self.shard {
                    if owner.held && way == Way::Straight {
                        return self.go_elsewhere(owner.shard, true);
                    }
                    if owner.held {
                        // It moved on in the meantime. Who shakes hands repeats itself.
                        return self.counters.unknown_session += 1;
                    }
                    state.claimed = Some(now);
                }
                state.tunnel(&self.common.identity);
                state
            }
            Message::Response { receiver } | Message::Cookie { receiver } | Message::Data { receiver } => {
                let Some(state) = by_index(&self.indices, &mut self.slots, receiver) else {
                    return self.counters.unknown_session += 1;
                };
                if matches!(message, Message::Response { .. }) && !state.take_response() {
                    return self.counters.limited += 1;
                }
                state
            }
        };
        let Some(tunnel) = &mut state.tunnel else {
            return self.counters.unknown_session += 1;
        };
        match tunnel.receive(datagram, &mut out) {
            Err(refusal) => count(&mut self.counters, refusal),
            // A cookie proves that the peer's address can be reached, but not that it moved here.
            Ok(Received::Nothing | Received::Packet(_)) => {}
            Ok(Received::Reply(length)) => {
                self.counters.sessions += 1;
                if matches!(message, Message::Initiation) {
                    state.count_initiation(now);
                }
                if state.claimed.is_some() && matches!(message, Message::Initiation) {
                    // Nothing is proven yet, not even that the peer is there.
                    return sink.datagram(from, &out[..length]);
                }
                let is_ready = state.is_ready();
                if is_ready && !settle_owner(state, self.shard, &mut self.counters) {
                    return;
                }
                heard(state, from, &mut self.counters, now);
                send(state, &out[..length], sink, now);
                // The initiator can send now. The responder can once it has heard in the new session:
                // until then a session before it is the one that it sends in, and there is no news.
                if let Message::Response { receiver } = message {
                    state.proves(receiver);
                    mark(&mut self.changed, state);
                }
                if is_ready {
                    drain(state, &mut self.counters, sink, now);
                }
            }
        }
    }
}

/// There is a session with a peer: it is this shard's from now on, unless another one holds it, whose
/// session is the one that counts then. Returns whether it is this one's.
fn settle_owner(state: &mut Peer, shard: u8, counters: &mut Counters) -> bool {
    let before = state.ownership.get().shard;
    if !state.ownership.hold(shard) {
        counters.unknown_session += 1;
        counters.overflowed += state.close();
        return false;
    }
    counters.taken_over += u64::from(before != shard);
    state.claimed = None;
    true
}

fn by_index<'a>(
    indices: &IndexTable,
    slots: &'a mut [Option<Box<Peer>>],
    receiver: u32,
) -> Option<&'a mut Peer> {
    slots.get_mut(indices.slot(receiver)? as usize)?.as_deref_mut()
}

fn count(counters: &mut Counters, refusal: Refusal) {
    match refusal {
        Refusal::Replay => counters.replayed += 1,
        Refusal::NoSession => counters.unknown_session += 1,
        Refusal::Forged => counters.forged += 1,
    }
}

/// Roaming: the peer is where its newest authentic message came from. Returns whether it moved.
fn heard(state: &mut Peer, from: OuterPath, counters: &mut Counters, now: Instant) -> bool {
    state.last_received = Some(now);
    let before = state.endpoint.replace(from).map(|path| path.remote);
    let moved = before != Some(from.remote);
    counters.roamed += u64::from(moved && before.is_some());
    moved
}

/// Sends what waited for a session.
fn drain(state: &mut Peer, counters: &mut Counters, sink: &mut impl DatagramSink, now: Instant) {
    let mut out = [0; MAX_QUEUED_LENGTH + DATA_OVERHEAD];
    while let Some(packet) = state.queue.pop_front() {
        let sealed = state
            .tunnel
            .as_mut()
            .and_then(|tunnel| tunnel.seal(&packet, &mut out));
        if let Some(length) = sealed {
            counters.sealed += 1;
            state.sent_bytes += packet.len() as u64;
            send(state, &out[..length], sink, now);
        }
    }
}
