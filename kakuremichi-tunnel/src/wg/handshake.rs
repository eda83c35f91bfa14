//! What a device does with the messages of handshakes.

use std::{sync::Arc, time::Instant};

use super::{
    DatagramSink, Device, OuterPath,
    cipher::{HANDSHAKE_ROOM, Message, Received},
    device::{mark, send},
    inbound::{Way, by_index, count, drain, heard, settle_owner},
    limiter::Verdict,
    pairing::Pairing,
};

impl Device {
    pub(super) fn handshake(
        &mut self,
        message: Message,
        way: Way,
        from: OuterPath,
        datagram: &[u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) {
        self.refresh_keys();
        match message {
            Message::Initiation => self.initiation(way, from, datagram, sink, now),
            Message::Response { receiver } => self.response(receiver, way, from, datagram, sink, now),
            Message::Cookie { receiver } => self.cookie(receiver, way, datagram),
            Message::Data { .. } => {}
        }
    }

    fn initiation(
        &mut self,
        way: Way,
        from: OuterPath,
        datagram: &[u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) {
        let keys = Arc::clone(&self.keys);
        let Some(identity) = keys.addressed(datagram) else {
            return self.counters.bad_mac += 1;
        };
        let mut out = [0; HANDSHAKE_ROOM];
        if way != (Way::Handed { admitted: true }) {
            match self
                .common
                .judge(identity, from.remote.ip(), datagram, now, &mut out)
            {
                Verdict::Admit => {}
                Verdict::Challenge(length) => {
                    self.counters.challenged += 1;
                    return sink.datagram(from, &out[..length]);
                }
                Verdict::Limited => return self.counters.limited += 1,
            }
        }
        let theirs = identity.initiator(datagram);
        let known = theirs.and_then(|theirs| Some((theirs, *self.by_key.get(&theirs)?)));
        let Some((theirs, state)) = known
            .and_then(|(theirs, slot)| Some((theirs, self.slots.get_mut(slot as usize)?.as_deref_mut()?)))
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
        let pairing = state
            .tunnel
            .get_or_insert_with(|| Pairing::new(identity, theirs, state.preshared.as_ref(), state.index));
        let is_second = pairing.keys.ours != identity.public_key() || pairing.keys.theirs != theirs;
        let received = if is_second {
            let place = (&*keys, &mut self.indices);
            match state.answer_in_second(identity, theirs, datagram, &mut out, place, now) {
                Some(received) => received,
                None => return self.counters.limited += 1,
            }
        } else {
            pairing.tunnel.receive(datagram, &mut out)
        };
        match received {
            Err(refusal) => count(&mut self.counters, refusal),
            Ok(Received::Nothing | Received::Packet(_)) => {}
            Ok(Received::Reply(length)) => {
                self.counters.sessions += 1;
                state.count_initiation(now);
                if is_second || state.claimed.is_some() {
                    // Nothing is proven yet, not even that the peer is there.
                    return sink.datagram(from, &out[..length]);
                }
                let is_ready = state.is_ready();
                if is_ready && !settle_owner(state, self.shard, &mut self.indices, &mut self.counters) {
                    return;
                }
                heard(state, from, &mut self.counters, now);
                // We can send in the new session once the peer was heard in it: until then a session before it
                // is the one that is sent in, and there is no news.
                send(state, &out[..length], sink, now);
                if is_ready {
                    drain(state, &mut self.counters, sink, now);
                }
            }
        }
    }

    fn response(
        &mut self,
        receiver: u32,
        way: Way,
        from: OuterPath,
        datagram: &[u8],
        sink: &mut impl DatagramSink,
        now: Instant,
    ) {
        if self.indices.slot(receiver).is_none() {
            return self.miss(receiver, way);
        }
        if self.keys.addressed(datagram).is_none() {
            return self.counters.bad_mac += 1;
        }
        let Some(state) = by_index(&self.indices, &mut self.slots, receiver) else {
            return self.counters.unknown_session += 1;
        };
        if !state.take_response() {
            return self.counters.limited += 1;
        }
        let is_second = state.is_second(receiver);
        // Nobody waits for the answer to what was asked in a tunnel that was left since.
        let left = is_second && state.second.as_ref().is_some_and(|second| second.is_left());
        let Some(pairing) = state.pairing(receiver).filter(|_| !left) else {
            return self.counters.unknown_session += 1;
        };
        let mut out = [0; HANDSHAKE_ROOM];
        match pairing.tunnel.receive(datagram, &mut out) {
            Err(refusal) => count(&mut self.counters, refusal),
            Ok(Received::Nothing | Received::Packet(_)) => {}
            Ok(Received::Reply(length)) => {
                self.counters.sessions += 1;
                state.proves(receiver, now);
                if is_second {
                    state.go_over(true, &mut self.indices, now);
                    self.counters.rotated += 1;
                }
                let is_ready = state.is_ready();
                if is_ready && !settle_owner(state, self.shard, &mut self.indices, &mut self.counters) {
                    return;
                }
                heard(state, from, &mut self.counters, now);
                send(state, &out[..length], sink, now);
                state.try_others(&self.keys);
                // The initiator can send now.
                mark(&mut self.changed, state);
                if is_ready {
                    drain(state, &mut self.counters, sink, now);
                }
            }
        }
    }

    /// A cookie has no mac1; it names a handshake of ours, and is authentic. It proves that the peer's address can be
    /// reached, but not that it moved here.
    fn cookie(&mut self, receiver: u32, way: Way, datagram: &[u8]) {
        if self.indices.slot(receiver).is_none() {
            return self.miss(receiver, way);
        }
        let state = by_index(&self.indices, &mut self.slots, receiver);
        let Some(pairing) = state.and_then(|state| state.pairing(receiver)) else {
            return self.counters.unknown_session += 1;
        };
        if let Err(refusal) = pairing.tunnel.receive(datagram, &mut [0; HANDSHAKE_ROOM]) {
            count(&mut self.counters, refusal);
        }
    }
}
