//! How a peer goes over from one pair of static keys to another.
//!
//! A tunnel is between one key of ours and one of the peer's. While an end has two keys there are better
//! tunnels than the one in use: those of newer keys. One of them at a time is tried beside it, when keys change
//! and whenever a handshake is begun, since who does not know a key yet does not answer. The tunnel in use goes on
//! meanwhile, with its timers, until the peer answered in the other one, or was heard in it: an initiation alone
//! moves nothing, it may be a replay. From then on packets are sent there, and those that are still on their way in
//! the one that was left are opened for as long as its session lives.

use std::time::{Duration, Instant};

use kakuremichi_core::{key::WireGuardKey, secret::Secret};

use super::{
    DatagramSink, Device,
    cipher::{DATA_OVERHEAD, HANDSHAKE_ROOM, Identity, Message, Received, Refusal, Tick},
    device::{mark, send},
    index::IndexTable,
    keys::Keys,
    pairing::{Pair, Pairing},
    peer::Peer,
    timers::{CLAIM, SESSION_LIFE},
};

/// What was sent in a tunnel is on its way for so long at most: before, a tunnel that was left gives way to
/// no other, nor is it gone back to.
const IN_FLIGHT: Duration = Duration::from_secs(5);

/// Who was answered says so again after so long in which it had nothing to send, for as long as packets are
/// in flight: if all of that were lost the peer would not send in the new tunnel, and would give it up.
const CONFIRM: Duration = Duration::from_secs(1);

/// A tunnel beside the one that packets are sent in. 11 kB, for as long as it is needed.
#[derive(Debug)]
pub(super) struct Second {
    /// The upper 24 bits of its receiver indices.
    pub(super) index: u32,
    pub(super) pairing: Box<Pairing>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was heard in it yet; given up after [`CLAIM`]. `ours`: we began.
    Tried { since: Instant, ours: bool },
    /// Packets were sent in it before; forgotten `until` then. `ours`: the peer answered us, and may not know yet that
    /// we heard it.
    Left {
        since: Instant,
        until: Instant,
        ours: bool,
    },
}

/// With what tunnels are made, and what they may send.
pub(super) struct Means<'a, Sink> {
    pub(super) keys: &'a Keys,
    pub(super) indices: &'a mut IndexTable,
    /// Initiations that may still be sent.
    pub(super) initiations: &'a mut usize,
    pub(super) sink: &'a mut Sink,
}

impl Second {
    fn tried(index: u32, pairing: Box<Pairing>, ours: bool, now: Instant) -> Self {
        Self {
            index,
            pairing,
            stage: Stage::Tried { since: now, ours },
        }
    }

    pub(super) const fn is_left(&self) -> bool {
        matches!(self.stage, Stage::Left { .. })
    }

    /// Whether it is the one to send in, now that the peer was heard in this session of it.
    fn proves(&mut self, receiver: u32, now: Instant) -> bool {
        let may = match self.stage {
            Stage::Tried { .. } => true,
            Stage::Left { since, .. } => now.saturating_duration_since(since) >= IN_FLIGHT,
        };
        may && self.pairing.proves(receiver)
    }
}

impl Peer {
    /// Whether a receiver index is the second tunnel's: otherwise it is the one's that packets are sent in.
    pub(super) const fn is_second(&self, receiver: u32) -> bool {
        self.index != receiver >> 8
    }

    /// The tunnel with this receiver index.
    pub(super) fn pairing(&mut self, receiver: u32) -> Option<&mut Pairing> {
        if self.is_second(receiver) {
            return self.second.as_mut().map(|second| &mut *second.pairing);
        }
        self.tunnel.as_deref_mut()
    }

    /// The peer was heard in this session; whether that is a newer one than before.
    pub(super) fn proves(&mut self, receiver: u32, now: Instant) -> bool {
        if self.is_second(receiver) {
            return self
                .second
                .as_mut()
                .is_some_and(|second| second.proves(receiver, now));
        }
        self.tunnel
            .as_mut()
            .is_some_and(|pairing| pairing.proves(receiver))
    }

    /// Sends in the second tunnel from now on. `ours`: it is known from the answer to an initiation of ours.
    pub(super) fn go_over(&mut self, ours: bool, indices: &mut IndexTable, now: Instant) {
        let (Some(mut second), Some(pairing)) = (self.second.take(), &mut self.tunnel) else {
            return;
        };
        std::mem::swap(pairing, &mut second.pairing);
        std::mem::swap(&mut self.index, &mut second.index);
        self.trying = None;
        let age = second.pairing.tunnel.session_age();
        let Some(rest) = age.and_then(|age| SESSION_LIFE.checked_sub(age)) else {
            return indices.remove(second.index);
        };
        second.stage = Stage::Left {
            since: now,
            until: now + rest,
            ours,
        };
        self.second = Some(second);
    }

    pub(super) fn drop_second(&mut self, indices: &mut IndexTable) {
        if let Some(second) = self.second.take() {
            indices.remove(second.index);
        }
    }

    /// Our keys or the peer's are others than before: what is of none of them ends, and the peer is to be
    /// called with the newest. Returns whether that ended the session.
    pub(super) fn keys_changed(&mut self, keys: &Keys, indices: &mut IndexTable) -> bool {
        let is_known = |pair: Pair| keys.get(&pair.ours).is_some() && self.has_key(&pair.theirs);
        let second = self.second.as_ref().map(|second| second.pairing.keys);
        let lost = self
            .tunnel
            .as_ref()
            .is_some_and(|pairing| !is_known(pairing.keys));
        if second.is_some_and(|pair| !is_known(pair)) {
            self.drop_second(indices);
        }
        if lost {
            match self.second.take() {
                Some(second) => {
                    indices.remove(std::mem::replace(&mut self.index, second.index));
                    self.tunnel = Some(second.pairing);
                }
                None => self.forget_tunnel(indices),
            }
            // Who is kept alive is called at once.
            self.last_sent = None;
        }
        self.trying = (lost || self.is_ready()).then_some(0);
        lost
    }

    /// A handshake is begun, or made a session: what is better than its tunnel is tried, too.
    pub(super) fn try_others(&mut self, keys: &Keys) {
        if self.trying.is_none() && (keys.all().count() > 1 || self.previous.is_some()) {
            self.trying = Some(0);
        }
    }

    /// The clock of the day was set: see [`clock_stepped`](Device::clock_stepped).
    pub(super) fn clock_stepped(&mut self, indices: &mut IndexTable) {
        if let Some(second) = &mut self.second {
            second.pairing.outdated = true;
            if matches!(second.stage, Stage::Tried { ours: true, .. }) {
                self.drop_second(indices);
                self.trying = Some(0);
            }
        }
        if let Some(pairing) = &mut self.tunnel {
            pairing.outdated = true;
            if !pairing.tunnel.is_ready() {
                self.forget_tunnel(indices);
            }
        }
    }

    /// Takes an initiation of a pair of keys that is not the tunnel's; `None` when there is no room for it.
    /// Whatever was in the second place stays there unless the initiation is genuine.
    pub(super) fn answer_in_second(
        &mut self,
        identity: &Identity,
        theirs: WireGuardKey,
        datagram: &[u8],
        out: &mut [u8; HANDSHAKE_ROOM],
        (keys, indices): (&Keys, &mut IndexTable),
        now: Instant,
    ) -> Option<Result<Received, Refusal>> {
        let pair = Pair {
            ours: identity.public_key(),
            theirs,
        };
        if let Some(second) = self.second.as_mut().filter(|second| second.pairing.keys == pair) {
            let received = second.pairing.tunnel.receive(datagram, out);
            if let (Ok(_), Stage::Tried { since, ours }) = (&received, &mut second.stage) {
                // Whoever began first: the peer may send in it from now on.
                (*since, *ours) = (now, false);
            }
            return Some(received);
        }
        if !self.has_room_for(pair, keys, false, now) {
            return None;
        }
        let index = indices.insert(self.id.slot() as u32)?;
        let mut pairing = Pairing::new(identity, theirs, self.preshared.as_ref(), index);
        let received = pairing.tunnel.receive(datagram, out);
        if received.is_ok() {
            self.drop_second(indices);
            self.second = Some(Second::tried(index, pairing, false, now));
        } else {
            indices.remove(index);
        }
        Some(received)
    }

    /// Does what is due beside the tunnel that packets are sent in.
    pub(super) fn rotate(&mut self, means: &mut Means<'_, impl DatagramSink>, now: Instant) {
        if let Some(second) = &mut self.second {
            let passed = |since: Instant, time| now.saturating_duration_since(since) >= time;
            match second.stage {
                Stage::Tried { since, .. } if passed(since, CLAIM) => self.drop_second(means.indices),
                Stage::Tried { ours: true, .. } => self.repeat(means),
                Stage::Left { until, .. } if now >= until => self.drop_second(means.indices),
                Stage::Left {
                    since, ours: true, ..
                } if !passed(since, IN_FLIGHT) => {
                    self.confirm(means.sink, now);
                }
                Stage::Tried { .. } | Stage::Left { .. } => {}
            }
        }
        if self.trying.is_some() && self.endpoint.is_some() && *means.initiations > 0 {
            self.try_next(means, now);
        }
    }

    fn has_key(&self, theirs: &WireGuardKey) -> bool {
        self.key == *theirs || self.previous.as_ref() == Some(theirs)
    }

    /// How many of the two keys are the newest.
    fn rank(&self, pair: Pair, keys: &Keys) -> u8 {
        u8::from(pair.ours == keys.newest().public_key()) + u8::from(pair.theirs == self.key)
    }

    /// The pairs of keys that may carry more than the tunnel's, the best first: without a session, all others.
    fn better_pairs<'a>(&'a self, keys: &'a Keys) -> impl Iterator<Item = Pair> + 'a {
        let ready = self.is_ready();
        let current = self.tunnel.as_ref().map(|pairing| pairing.keys);
        let theirs = [Some(self.key), self.previous].into_iter().flatten();
        let pairs = theirs.flat_map(|theirs| {
            keys.all().map(move |identity| Pair {
                ours: identity.public_key(),
                theirs,
            })
        });
        pairs.filter(move |pair| match current {
            Some(current) if ready => self.rank(*pair, keys) > self.rank(current, keys),
            current => current.is_some_and(|current| current != *pair),
        })
    }

    /// Whether the second place is free for a tunnel of these keys, that we begin or the peer began.
    fn has_room_for(&self, pair: Pair, keys: &Keys, ours: bool, now: Instant) -> bool {
        self.second.as_ref().is_none_or(|second| match second.stage {
            Stage::Tried { since, ours: asked } => {
                // A peer that we answered may send in it already, and says so soon. If it begins with another one
                // it does not.
                let settled = asked || !ours || now.saturating_duration_since(since) >= IN_FLIGHT;
                settled && self.rank(pair, keys) > self.rank(second.pairing.keys, keys)
            }
            Stage::Left { since, .. } => now.saturating_duration_since(since) >= IN_FLIGHT,
        })
    }

    /// Calls the peer with the next pair of keys, once there is room for it.
    fn try_next(&mut self, means: &mut Means<'_, impl DatagramSink>, now: Instant) {
        let pair = self.trying.and_then(|at| self.better_pairs(means.keys).nth(at));
        let (Some(pair), Some(at)) = (pair, self.trying) else {
            return self.trying = None;
        };
        if !self.has_room_for(pair, means.keys, true, now) {
            return;
        }
        self.trying = Some(at + 1);
        self.drop_second(means.indices);
        let (Some(identity), Some(index)) = (
            means.keys.get(&pair.ours),
            means.indices.insert(self.id.slot() as u32),
        ) else {
            return;
        };
        let mut pairing = Pairing::new(identity, pair.theirs, self.preshared.as_ref(), index);
        let mut out = [0; HANDSHAKE_ROOM];
        let initiation = pairing.tunnel.initiate(false, &mut out);
        self.second = Some(Second::tried(index, pairing, true, now));
        if let Some(length) = initiation {
            self.call(&out[..length], means);
        }
    }

    /// Lets the timers of a tunnel that is tried repeat its initiation.
    fn repeat(&mut self, means: &mut Means<'_, impl DatagramSink>) {
        let mut out = [0; HANDSHAKE_ROOM];
        if *means.initiations > 0
            && let Some(second) = &mut self.second
            && let Tick::Send(length) = second.pairing.tunnel.tick(&mut out)
            && Message::of(&out[..length]) == Some(Message::Initiation)
        {
            self.call(&out[..length], means);
        }
    }

    /// Sends an initiation in the second tunnel. Nobody may hear it: it is no sign of life.
    fn call(&mut self, initiation: &[u8], means: &mut Means<'_, impl DatagramSink>) {
        *means.initiations -= 1;
        self.expect_response();
        if let Some(to) = self.endpoint {
            means.sink.datagram(to, initiation);
        }
    }

    /// Tells again that the answer came, unless something was sent anyway.
    fn confirm(&mut self, sink: &mut impl DatagramSink, now: Instant) {
        let quiet = self
            .last_sent
            .is_none_or(|sent| now.saturating_duration_since(sent) >= CONFIRM);
        let mut out = [0; DATA_OVERHEAD];
        if quiet
            && let Some(pairing) = &mut self.tunnel
            && let Some(length) = pairing.tunnel.seal(&[], &mut out)
        {
            send(self, &out[..length], sink, now);
        }
    }
}

impl Device {
    /// Takes up a new private key and keeps the one before beside it until
    /// [`forget_previous_key`](Self::forget_previous_key); for all devices of the node. See [`OwnKeys::rekey`](super::OwnKeys::rekey).
    pub fn rekey(&mut self, private: &Secret<[u8; 32]>) {
        self.common.keys.rekey(private);
        self.refresh_keys();
    }

    /// Drops the key before the newest, for all devices of the node: peers that did not go over lose their sessions.
    pub fn forget_previous_key(&mut self) {
        self.common.keys.forget_previous();
        self.refresh_keys();
    }

    /// Follows what became of our keys.
    pub(super) fn refresh_keys(&mut self) {
        let Some(keys) = self.common.keys.newer(&self.keys) else {
            return;
        };
        for state in self.slots.iter_mut().flatten() {
            if state.keys_changed(&keys, &mut self.indices) {
                mark(&mut self.changed, state);
            }
        }
        self.keys = keys;
    }
}
