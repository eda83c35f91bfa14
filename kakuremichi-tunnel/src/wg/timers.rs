//! What a device does by the clock.

use std::time::{Duration, Instant};

use super::{
    DatagramSink, Device,
    cipher::{HANDSHAKE_ROOM, Message, Tick},
    device::{begin, forget_source, mark, send},
    rotation::Means,
};
use crate::peer::PeerId;

/// How long a tunnel that answered an initiation waits to be heard in, before it is given up: longer
/// than an initiator waits until it repeats itself (five seconds).
pub(super) const CLAIM: Duration = Duration::from_secs(10);

/// A session in which nothing was heard for so long is dead (whitepaper, section 6.1).
pub(super) const SESSION_LIFE: Duration = Duration::from_secs(180);

/// How often the timers of peers are looked at.
const TICK: Duration = Duration::from_millis(250);

/// So many peers are looked at in each tick. Of more, it is a share: what each of them wants is to be done
/// in seconds, and looking at a peer that was not used for a while takes a fraction of a microsecond.
const PEERS_PER_TICK: usize = 1024;
/// Each peer's turn comes at least once in so many ticks.
const MAX_SHARES: usize = 8;

/// Initiations that keepalives begin, or that are repeated since they got no answer, within one tick, so that a
/// gateway with thousands of peers that are not there does not spend its time on them. The others wait for the
/// next tick.
const INITIATIONS_PER_TICK: usize = 64;

impl Device {
    /// Runs what is due: retransmissions, rekeying, keepalives.
    pub fn handle_timeout(&mut self, sink: &mut impl DatagramSink, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.refresh_keys();
        let mut initiations = INITIATIONS_PER_TICK;
        let share = next_share(&mut self.shares.0, self.slots.len());
        for state in self.slots[share.0..].iter_mut().step_by(share.1).flatten() {
            let owner = state.ownership.get();
            let owned = owner.shard == self.shard;
            if state.tunnel.is_some() && !owned {
                let claims = !owner.held
                    && state
                        .claimed
                        .is_some_and(|since| now.saturating_duration_since(since) < CLAIM);
                if !claims {
                    self.counters.overflowed += state.close(&mut self.indices);
                    mark(&mut self.changed, state);
                }
            }
            let was_ready = state.is_ready();
            let mut out = [0; HANDSHAKE_ROOM];
            let may_tick = was_ready || initiations > 0;
            let tick = state
                .tunnel
                .as_mut()
                .filter(|_| may_tick)
                .map_or(Tick::Idle, |pairing| pairing.tunnel.tick(&mut out));
            match tick {
                Tick::Idle => {}
                Tick::Send(length) => {
                    if Message::of(&out[..length]) == Some(Message::Initiation) {
                        initiations -= usize::from(!was_ready);
                        forget_source(state);
                        state.expect_response();
                        state.try_others(&self.keys);
                    }
                    send(state, &out[..length], sink, now);
                }
                Tick::Expired => {
                    self.counters.overflowed += state.queue.len() as u64;
                    state.queue.clear();
                }
            }
            if was_ready && !state.is_ready() {
                mark(&mut self.changed, state);
            }
            if state.tunnel.as_ref().is_some_and(|pairing| pairing.outdated) && !state.is_ready() {
                state.forget_tunnel(&mut self.indices);
            }
            if owned {
                let mut means = Means {
                    keys: &self.keys,
                    indices: &mut self.indices,
                    initiations: &mut initiations,
                    sink,
                };
                state.rotate(&mut means, now);
            }
            if !owned || !state.keepalive_due(now) || state.endpoint.is_none() {
                continue;
            }
            let sealed = state
                .tunnel
                .as_mut()
                .and_then(|pairing| pairing.tunnel.seal(&[], &mut out));
            if let Some(length) = sealed {
                send(state, &out[..length], sink, now);
            } else if initiations > 0 {
                // Does nothing while a handshake is under way: its timer repeats it.
                let begun = begin(state, &self.keys, false, sink, now);
                initiations -= usize::from(begun);
            }
        }
    }

    /// Tells that the clock of the day was set, or that the machine has slept.
    ///
    /// An initiation carries the time of day (TAI64N; whitepaper, section 5.4.2), and a peer takes none that
    /// is older than the last. A tunnel reads that clock when it is made and counts on from there: one that
    /// was made while the clock was behind would be refused for as long as it was behind. So tunnels without a
    /// session are made anew, and those with one when it is over.
    pub fn clock_stepped(&mut self) {
        for state in self.slots.iter_mut().flatten() {
            state.clock_stepped(&mut self.indices);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.by_key.is_empty()).then_some(self.next_tick)
    }

    /// Holds on to the peers of this shard that have a live session or flows, as `has_flows` tells, and
    /// lets other shards have the rest. To be called a few times per second where there are several; of
    /// thousands of peers it looks at a share each time.
    pub fn hold_live(&mut self, has_flows: impl Fn(PeerId) -> bool, now: Instant) {
        let share = next_share(&mut self.shares.1, self.slots.len());
        for state in self.slots[share.0..].iter().step_by(share.1).flatten() {
            let owner = state.ownership.get();
            if owner.shard != self.shard {
                continue;
            }
            let heard = state
                .last_received
                .is_some_and(|at| now.saturating_duration_since(at) < SESSION_LIFE);
            let live = state.claimed.is_none() && state.is_ready() && heard || has_flows(state.id);
            if live && !owner.held {
                // Whoever took it over in this moment keeps it.
                state.ownership.hold(self.shard);
            } else if !live && owner.held {
                state.ownership.release(self.shard);
            }
        }
    }
}

/// The peers whose turn it is: from which slot on, and every how manieth.
fn next_share(last: &mut usize, slots: usize) -> (usize, usize) {
    let shares = (slots / PEERS_PER_TICK).clamp(1, MAX_SHARES);
    *last = (*last + 1) % shares;
    (*last, shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_its_turn_within_two_seconds() {
        for slots in [0, 1, 1023, 2048, 10_000] {
            let (mut last, mut seen) = (0, vec![0; slots]);
            for _ in 0..MAX_SHARES {
                let (first, step) = next_share(&mut last, slots);
                seen[first..].iter_mut().step_by(step).for_each(|seen| *seen += 1);
            }
            assert!(seen.iter().all(|seen| *seen > 0), "{slots}");
            let most = seen.iter().max().copied().unwrap_or_default();
            assert!(slots < MAX_SHARES * PEERS_PER_TICK || most == 1, "{slots}");
        }
    }
}
