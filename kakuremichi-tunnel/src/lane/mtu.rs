//! How long packets may be on one path.
//!
//! Routers that cannot pass a datagram on should say so, and often do not, or are not heard: then small
//! packets pass and large ones vanish, and so do the flows that need them (RFC 2923, section 2.1). So the
//! path is asked by packets themselves (RFC 8899): an echo request that is padded to the length in
//! question, and whose datagram must not be fragmented.

use std::time::{Duration, Instant};

/// The lengths that are tried, in bytes of an IP packet inside the tunnel, besides the longest. The last one
/// makes datagrams of 1,280 bytes over IPv6, which every path carries (RFC 8200, section 5).
const LADDER: [u16; 3] = [1_340, 1_280, 1_200];

/// So many padded probes without an answer, one behind the other, on a path that answers small ones, mean
/// that their length does not pass.
const MISSES: u8 = 3;

/// How long an answer is waited for. A longer wait than for a probe: what is long comes late.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a length that passed is asked for again, while something is sent.
const CONFIRM: Duration = Duration::from_secs(5);

/// How often a longer one is tried after it did not pass.
const RAISE: Duration = Duration::from_secs(60);

/// A padded probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaddedProbe {
    /// The sequence number of the echo request.
    pub sequence: u16,
    /// The first bytes of its payload, which the answer repeats.
    pub payload: [u8; 8],
    /// The length of the whole packet.
    pub length: u16,
}

/// What is known about the packets that pass one path.
///
/// As long as nothing is known the longest are used. A black hole is noticed eight seconds after the last
/// answer while something is sent, and three more are needed for each further step down.
#[derive(Debug, Clone)]
pub struct PathMtu {
    full: u16,
    /// Random; tells answers to our probes from those to another's.
    nonce: u64,
    sequence: u16,
    /// The length in use.
    current: u16,
    /// It was answered.
    confirmed: bool,
    misses: u8,
    /// What is awaited: its number and length, and until when.
    awaited: Option<(u16, u16, Instant)>,
    next: Instant,
    raise_at: Instant,
}

impl PathMtu {
    /// A path whose packets have at most `full` bytes. `nonce` is random.
    #[must_use]
    pub fn new(full: u16, nonce: u64, now: Instant) -> Self {
        Self {
            full,
            nonce,
            sequence: 0,
            current: full,
            confirmed: false,
            misses: 0,
            awaited: None,
            next: now,
            raise_at: now + RAISE,
        }
    }

    /// The length that packets may have.
    #[must_use]
    pub const fn current(&self) -> u16 {
        self.current
    }

    /// The path is another one: nothing is known of it. Returns whether the length changed.
    pub fn reset(&mut self, now: Instant) -> bool {
        let changed = self.current != self.full;
        *self = Self {
            sequence: self.sequence,
            ..Self::new(self.full, self.nonce, now)
        };
        changed
    }

    /// Time has passed on a path that answers small probes. Returns whether the length changed.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let Some((_, length, until)) = self.awaited.filter(|(_, _, until)| *until <= now) else {
            return false;
        };
        self.awaited = None;
        self.next = until;
        if length > self.current {
            // It was worth a try.
            self.raise_at = now + RAISE;
            return false;
        }
        self.misses += 1;
        if self.misses < MISSES {
            return false;
        }
        self.misses = 0;
        self.confirmed = false;
        self.raise_at = now + RAISE;
        match self.below(self.current) {
            Some(length) => {
                self.current = length;
                true
            }
            None => {
                // Nothing shorter is worth having. It is asked for again as if it had passed.
                self.confirmed = true;
                self.next = now + CONFIRM;
                false
            }
        }
    }

    /// The probe that is due on a path that answers small ones; `active` if packets are sent on it.
    pub fn poll_probe(&mut self, active: bool, now: Instant) -> Option<PaddedProbe> {
        // Once one was lost the next follows, whatever is sent: where long packets do not pass, flows send ever
        // less.
        let wanted = active || !self.confirmed || self.misses > 0;
        if self.awaited.is_some() || now < self.next || !wanted {
            return None;
        }
        let longer = self
            .above(self.current)
            .filter(|_| self.confirmed && now >= self.raise_at);
        let length = longer.unwrap_or(self.current);
        self.sequence = self.sequence.wrapping_add(1);
        self.awaited = Some((self.sequence, length, now + PATIENCE));
        Some(PaddedProbe {
            sequence: self.sequence,
            payload: self.payload(self.sequence),
            length,
        })
    }

    /// A padded echo reply came in. Returns whether the length changed.
    pub fn handle_answer(&mut self, sequence: u16, payload: [u8; 8], now: Instant) -> bool {
        let Some((awaited, length, _)) = self.awaited else {
            return false;
        };
        if awaited != sequence || payload != self.payload(sequence) {
            return false;
        }
        self.awaited = None;
        self.misses = 0;
        self.confirmed = true;
        let raised = length > self.current;
        if raised {
            self.current = length;
            // The next one above may pass, too.
            self.raise_at = now;
        }
        self.next = if raised { now } else { now + CONFIRM };
        raised
    }

    fn below(&self, length: u16) -> Option<u16> {
        LADDER.into_iter().find(|step| *step < length)
    }

    fn above(&self, length: u16) -> Option<u16> {
        let steps = LADDER.into_iter().rev().filter(|step| *step < self.full);
        let mut steps = steps.chain([self.full]);
        steps.find(|step| *step > length)
    }

    fn payload(&self, sequence: u16) -> [u8; 8] {
        (self.nonce ^ u64::from(sequence)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    /// Runs on a path that carries packets of at most `carries` bytes. Returns the probes that were sent.
    fn run(mtu: &mut PathMtu, now: &mut Instant, time: Duration, carries: u16, active: bool) -> Vec<u16> {
        let end = *now + time;
        let mut sent = Vec::new();
        while *now < end {
            mtu.handle_timeout(*now);
            if let Some(probe) = mtu.poll_probe(active, *now) {
                sent.push(probe.length);
                if probe.length <= carries {
                    mtu.handle_answer(probe.sequence, probe.payload, *now);
                }
            }
            *now += TICK;
        }
        sent
    }

    fn start() -> (PathMtu, Instant) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test needs some instant to start from"
        )]
        let now = Instant::now();
        (PathMtu::new(1_420, 7, now), now)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_wide_path_is_asked_seldom_and_an_idle_one_not_at_all() {
        let (mut mtu, mut now) = start();
        let sent = run(&mut mtu, &mut now, 30 * SECOND, 9_000, true);
        assert!((6..=7).contains(&sent.len()) && sent.iter().all(|length| *length == 1_420));
        assert!(run(&mut mtu, &mut now, 30 * SECOND, 9_000, false).is_empty());
        assert_eq!(mtu.current(), 1_420);
    }

    /// A black hole is noticed within seconds, from the start and in the middle.
    #[test]
    fn a_black_hole_lowers_the_length_to_what_passes() {
        for (carries, expected, within) in [(1_419, 1_340, 5), (1_300, 1_280, 8), (1_279, 1_200, 12)] {
            let (mut mtu, mut now) = start();
            run(&mut mtu, &mut now, 10 * SECOND, 1_420, true);
            assert_eq!(mtu.current(), 1_420);
            run(&mut mtu, &mut now, (5 + within) * SECOND, carries, true);
            assert_eq!(mtu.current(), expected);
        }
    }

    #[test]
    fn a_black_hole_is_found_out_even_if_flows_have_stopped_sending() {
        let (mut mtu, mut now) = start();
        run(&mut mtu, &mut now, 10 * SECOND, 1_420, true);
        run(&mut mtu, &mut now, TICK, 1_419, true);
        run(&mut mtu, &mut now, 5 * SECOND, 1_419, false);
        assert_eq!(mtu.current(), 1_340);
    }

    #[test]
    fn nothing_below_the_floor_is_tried_and_the_floor_is_not_asked_for_all_the_time() {
        let (mut mtu, mut now) = start();
        run(&mut mtu, &mut now, 20 * SECOND, 500, true);
        assert_eq!(mtu.current(), 1_200);
        let sent = run(&mut mtu, &mut now, 60 * SECOND, 500, true);
        assert!(
            sent.len() <= 30 && sent.iter().all(|length| *length <= 1_280),
            "{sent:?}"
        );
    }

    #[test]
    fn a_path_that_widens_is_used() {
        let (mut mtu, mut now) = start();
        run(&mut mtu, &mut now, 20 * SECOND, 1_200, true);
        assert_eq!(mtu.current(), 1_200);
        run(&mut mtu, &mut now, RAISE + 15 * SECOND, 1_420, true);
        assert_eq!(mtu.current(), 1_420);
        run(&mut mtu, &mut now, 20 * SECOND, 1_300, true);
        assert_eq!(mtu.current(), 1_280);
        assert!(mtu.reset(now));
        assert_eq!(mtu.current(), 1_420);
    }

    #[test]
    fn answers_to_others_do_not_count() {
        let (mut mtu, now) = start();
        let probe = mtu.poll_probe(true, now).unwrap();
        assert!(!mtu.handle_answer(probe.sequence, [0; 8], now));
        assert!(!mtu.handle_answer(probe.sequence.wrapping_add(1), probe.payload, now));
        assert!(mtu.awaited.is_some());
    }
}
