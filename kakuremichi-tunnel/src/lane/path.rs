//! The state of one path, told by probes.

use std::time::{Duration, Instant};

/// How many probes are remembered, so that an answer which comes late still counts.
const REMEMBERED: usize = 4;

/// When to probe, and how many answers decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The time from one probe to the next on a path that is up.
    pub interval: Duration,
    /// The same on one that is idle: it came up, and was [used](PathState::handle_use) last, longer than
    /// [`idle_after`](Self::idle_after) ago.
    pub idle_interval: Duration,
    /// How long a path is asked often after it was used.
    pub idle_after: Duration,
    /// The shortest wait for an answer. The wait follows the measured round trip above it.
    pub patience: Duration,
    /// The longest wait for an answer.
    pub patience_cap: Duration,
    /// The longest pause between probes on a path that is not up; pauses double up to it, from
    /// [`patience`](Self::patience).
    pub down_interval_cap: Duration,
    /// So many probes without an answer, one behind the other, take the path down.
    pub down_after: u8,
    /// So many answers, one behind the other, bring it up.
    pub up_after: u8,
}

impl Timing {
    /// Idle paths are asked every 20 seconds: no more than keeps a NAT's mapping (30 seconds at the least,
    /// in practice), so that a gateway can have thousands. A dead path is noticed as soon as by
    /// [default](Self::default) while it is used, and within four seconds of being used again.
    #[must_use]
    pub fn sparing() -> Self {
        Self {
            idle_interval: Duration::from_secs(20),
            ..Self::default()
        }
    }

    /// For a path that carries nothing and is kept for the case that it has to: few probes, since a gateway
    /// has one such path to each of thousands of agents.
    #[must_use]
    pub fn standby() -> Self {
        Self {
            interval: Duration::from_secs(25),
            idle_interval: Duration::from_secs(25),
            ..Self::default()
        }
    }
}

impl Default for Timing {
    /// A dead path is noticed within nine seconds, a path that returns within fifteen; sooner when
    /// something else tells ([`PathState::nudge`]).
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            idle_interval: Duration::from_secs(5),
            idle_after: Duration::from_secs(30),
            patience: Duration::from_secs(1),
            patience_cap: Duration::from_secs(3),
            down_interval_cap: Duration::from_secs(15),
            down_after: 3,
            up_after: 1,
        }
    }
}

/// A probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The sequence number of the echo request.
    pub sequence: u16,
    /// Its payload, which the answer repeats.
    pub payload: [u8; 8],
}

/// What is known about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathHealth {
    /// No probe was answered or given up yet.
    Unknown,
    /// Probes are answered.
    Up {
        /// Since when.
        since: Instant,
        /// The smoothed round trip (RFC 6298, section 2).
        rtt: Duration,
    },
    /// Probes are not answered.
    Down {
        /// Since when.
        since: Instant,
    },
}

/// Whether a round trip is worth telling after another. It is measured every few seconds, and is seldom
/// the same twice: small changes are not told, so that nobody is woken for them.
#[must_use]
pub fn is_another_round_trip(told: Duration, now: Duration) -> bool {
    told.abs_diff(now) > (told / 4).max(Duration::from_millis(1))
}

/// The path went up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It works now.
    Up,
    /// It does not work any more, or was found not to.
    Down,
}

/// Times the probes of one path and judges the answers.
///
/// Call [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout), then send what
/// [`poll_probe`](Self::poll_probe) returns; hand over answers with [`handle_answer`](Self::handle_answer).
#[derive(Debug, Clone)]
pub struct PathState {
    timing: Timing,
    health: PathHealth,
    /// Random; tells answers to our probes from those to another's.
    nonce: u64,
    sequence: u16,
    sent: [Option<(u16, Instant)>; REMEMBERED],
    /// The probe whose answer is awaited, and until when.
    awaited: Option<(u16, Instant)>,
    next_probe: Instant,
    misses: u8,
    answers: u8,
    pause: Duration,
    /// When a nudge last voided a probe.
    voided: Option<Instant>,
    /// When it came up, or was used last.
    used: Option<Instant>,
    rtt: Option<Rtt>,
}

#[derive(Debug, Clone, Copy)]
struct Rtt {
    smoothed: Duration,
    variation: Duration,
}

impl PathState {
    /// A path of which nothing is known; the first probe is due at `now`. `nonce` is random.
    #[must_use]
    pub const fn new(timing: Timing, nonce: u64, now: Instant) -> Self {
        Self {
            timing,
            health: PathHealth::Unknown,
            nonce,
            sequence: 0,
            sent: [None; REMEMBERED],
            awaited: None,
            next_probe: now,
            misses: 0,
            answers: 0,
            pause: timing.patience,
            voided: None,
            used: None,
            rtt: None,
        }
    }

    /// What is known.
    #[must_use]
    pub const fn health(&self) -> PathHealth {
        self.health
    }

    /// Whether the path is up.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.health, PathHealth::Up { .. })
    }

    /// How many probes stayed without an answer since the last one that came.
    #[must_use]
    pub const fn misses(&self) -> u8 {
        self.misses
    }

    /// Probes by another timing from now on. On a path that is up the next probe is no later than that has it.
    pub fn set_timing(&mut self, timing: Timing, now: Instant) {
        self.timing = timing;
        if self.is_up() {
            self.next_probe = self.next_probe.min(now + timing.interval);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) or [`poll_probe`](Self::poll_probe) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.awaited.map_or(self.next_probe, |(_, until)| until)
    }

    /// Time has passed: a probe may have stayed without an answer.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Change> {
        let (_, until) = self.awaited?;
        if now < until {
            return None;
        }
        self.awaited = None;
        self.answers = 0;
        self.misses = self.misses.saturating_add(1);
        match self.health {
            PathHealth::Up { .. } | PathHealth::Unknown if self.misses < self.timing.down_after => {
                self.next_probe = now;
                None
            }
            PathHealth::Up { .. } | PathHealth::Unknown => {
                self.health = PathHealth::Down { since: now };
                self.pause = self.timing.patience;
                self.next_probe = now + self.pause;
                Some(Change::Down)
            }
            PathHealth::Down { .. } => {
                self.pause = (self.pause * 2).min(self.timing.down_interval_cap);
                // Spread by a quarter, so that nodes which lost the same gateway do not ask together.
                self.next_probe = now + self.pause.mul_f64(0.25f64.mul_add(-self.spread(), 1.0));
                None
            }
        }
    }

    /// Whether [`poll_probe`](Self::poll_probe) has a probe.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.awaited.is_none() && now >= self.next_probe
    }

    /// The probe that is due at `now`, if one is.
    pub fn poll_probe(&mut self, now: Instant) -> Option<Probe> {
        if !self.is_due(now) {
            return None;
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.sent[usize::from(self.sequence) % REMEMBERED] = Some((self.sequence, now));
        self.awaited = Some((self.sequence, now + self.wait()));
        Some(Probe {
            sequence: self.sequence,
            payload: self.payload(self.sequence),
        })
    }

    /// An echo reply came in. One that answers none of the last probes is ignored.
    pub fn handle_answer(&mut self, sequence: u16, payload: [u8; 8], now: Instant) -> Option<Change> {
        let slot = &mut self.sent[usize::from(sequence) % REMEMBERED];
        let sent = slot.filter(|(known, _)| *known == sequence)?.1;
        if payload != self.payload(sequence) {
            return None;
        }
        self.sent[usize::from(sequence) % REMEMBERED] = None;
        if self.awaited.is_some_and(|(awaited, _)| awaited == sequence) {
            self.awaited = None;
        }
        let rtt = self.measured(now.saturating_duration_since(sent));
        self.misses = 0;
        self.answers = self.answers.saturating_add(1);
        self.pause = self.timing.patience;
        match self.health {
            PathHealth::Up { since, .. } => {
                self.health = PathHealth::Up { since, rtt };
                self.schedule(now);
                None
            }
            PathHealth::Unknown | PathHealth::Down { .. } if self.answers < self.timing.up_after => {
                self.next_probe = now;
                None
            }
            PathHealth::Unknown | PathHealth::Down { .. } => {
                self.health = PathHealth::Up { since: now, rtt };
                self.used = Some(now);
                self.schedule(now);
                Some(Change::Up)
            }
        }
    }

    /// Something else suggests that the path changed (a handshake, a new endpoint, a flow that got no
    /// answer): probe without waiting for the interval.
    ///
    /// On a path that is not up this happens at most once per interval: where handshakes succeed, one
    /// behind the other, and nothing else gets through, that has to be found out.
    pub fn nudge(&mut self, now: Instant) {
        if self.is_up() {
            self.next_probe = self.next_probe.min(now);
            return;
        }
        let again = |at| now.saturating_duration_since(at) >= self.timing.interval;
        if self.voided.is_none_or(again) {
            self.voided = Some(now);
            self.next_probe = self.next_probe.min(now);
            // What is awaited was sent into the old path.
            self.awaited = None;
            self.pause = self.timing.patience;
        }
    }

    /// Something that wants an answer is sent on the path: it is asked often for a while, and at once if it
    /// was idle.
    pub fn handle_use(&mut self, now: Instant) {
        let idle = self.is_idle(now);
        self.used = Some(now);
        if idle {
            self.next_probe = self.next_probe.min(now);
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        let busy = |at| now.saturating_duration_since(at) < self.timing.idle_after;
        self.is_up() && !self.used.is_some_and(busy)
    }

    fn schedule(&mut self, now: Instant) {
        let interval = if self.is_idle(now) {
            self.timing.idle_interval
        } else {
            self.timing.interval
        };
        // Spread by a tenth, so that paths which came up together do not probe together for ever.
        self.next_probe = now + interval.mul_f64(0.1f64.mul_add(-self.spread(), 1.0));
    }

    /// From 0 to 1, another for each probe and each path.
    fn spread(&self) -> f64 {
        let word = u64::from_le_bytes(self.payload(self.sequence));
        // The upper half of a product with an odd constant is mixed well enough to spread timers.
        f64::from((word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32) / f64::from(u32::MAX)
    }

    fn payload(&self, sequence: u16) -> [u8; 8] {
        (self.nonce ^ u64::from(sequence)).to_le_bytes()
    }

    fn wait(&self) -> Duration {
        let measured = self
            .rtt
            .map_or(Duration::ZERO, |rtt| rtt.smoothed + rtt.variation * 4);
        measured.clamp(self.timing.patience, self.timing.patience_cap)
    }

    fn measured(&mut self, sample: Duration) -> Duration {
        let rtt = match self.rtt {
            None => Rtt {
                smoothed: sample,
                variation: sample / 2,
            },
            Some(Rtt { smoothed, variation }) => Rtt {
                smoothed: (smoothed * 7 + sample) / 8,
                variation: (variation * 3 + smoothed.abs_diff(sample)) / 4,
            },
        };
        self.rtt = Some(rtt);
        rtt.smoothed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn start() -> (PathState, Instant) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test needs some instant to start from"
        )]
        let now = Instant::now();
        (PathState::new(Timing::default(), 0x1234_5678_9abc_def0, now), now)
    }

    /// Lets time pass until `end`, answering probes after `rtt` if there is one. Returns the changes.
    fn run(path: &mut PathState, now: &mut Instant, end: Instant, rtt: Option<Duration>) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut flying: Option<(Instant, Probe)> = None;
        loop {
            let wake = flying.map_or_else(|| path.poll_timeout(), |(at, _)| at.min(path.poll_timeout()));
            if wake > end {
                *now = end;
                return changes;
            }
            *now = wake.max(*now);
            if let Some((at, probe)) = flying
                && at <= *now
            {
                flying = None;
                changes.extend(path.handle_answer(probe.sequence, probe.payload, *now));
            }
            changes.extend(path.handle_timeout(*now));
            if let Some(probe) = path.poll_probe(*now) {
                flying = rtt.map(|rtt| (*now + rtt, probe));
            }
        }
    }

    #[test]
    fn a_path_is_up_when_a_probe_is_answered_and_not_before() {
        let (mut path, mut now) = start();
        assert_eq!(path.health(), PathHealth::Unknown);
        let end = now + Duration::from_secs(60);
        let begun = now;
        assert_eq!(run(&mut path, &mut now, end, Some(20 * MS)), [Change::Up]);
        assert_eq!(
            path.health(),
            PathHealth::Up {
                since: begun + 20 * MS,
                rtt: 20 * MS
            }
        );
    }

    /// LESSONS: "stuck tunnels, online but dead": silence is noticed within seconds.
    #[test]
    fn silence_takes_a_path_down_within_nine_seconds() {
        let (mut path, mut now) = start();
        let end = now + Duration::from_secs(60);
        run(&mut path, &mut now, end, Some(20 * MS));
        let silent = now;
        let end = now + Duration::from_secs(60);
        assert_eq!(run(&mut path, &mut now, end, None), [Change::Down]);
        let PathHealth::Down { since } = path.health() else {
            panic!("{path:?}")
        };
        assert!(since - silent <= Duration::from_secs(9), "{:?}", since - silent);
        let end = now + Duration::from_secs(20);
        assert_eq!(run(&mut path, &mut now, end, Some(20 * MS)), [Change::Up]);
    }

    #[test]
    fn an_idle_path_is_asked_less_often_and_at_once_when_it_is_used() {
        let (_, mut now) = start();
        let timing = Timing::sparing();
        let mut path = PathState::new(timing, 7, now);
        let second = Duration::from_secs(1);
        let probes = |path: &mut PathState, now: &mut Instant, seconds: u32| {
            let end = *now + second * seconds;
            let mut sent = 0;
            while path.poll_timeout() < end {
                *now = path.poll_timeout();
                let probe = path.poll_probe(*now).unwrap();
                path.handle_answer(probe.sequence, probe.payload, *now);
                sent += 1;
            }
            *now = end;
            sent
        };
        assert!(
            (6..=8).contains(&probes(&mut path, &mut now, 30)),
            "as it came up"
        );
        assert!((10..=13).contains(&probes(&mut path, &mut now, 200)), "idle");
        path.handle_use(now);
        assert!(path.is_due(now));
        assert!((6..=8).contains(&probes(&mut path, &mut now, 30)));
        assert!((10..=13).contains(&probes(&mut path, &mut now, 200)));
        // LESSONS: "stuck tunnels, online but dead": who uses a dead path learns of it within seconds.
        path.handle_use(now);
        let used = now;
        assert_eq!(run(&mut path, &mut now, used + 60 * second, None), [Change::Down]);
        let PathHealth::Down { since } = path.health() else {
            panic!("{path:?}")
        };
        assert!(since - used <= 4 * second, "{:?}", since - used);
    }

    #[test]
    fn one_lost_probe_does_not_take_a_path_down() {
        let (mut path, mut now) = start();
        let end = now + Duration::from_secs(20);
        run(&mut path, &mut now, end, Some(5 * MS));
        now = path.poll_timeout();
        assert!(path.poll_probe(now).is_some());
        let end = now + Duration::from_millis(1500);
        assert_eq!(run(&mut path, &mut now, end, Some(5 * MS)), []);
        assert!(path.is_up());
    }

    #[test]
    fn a_late_answer_counts_and_a_foreign_one_does_not() {
        let (mut path, now) = start();
        let first = path.poll_probe(now).unwrap();
        let later = now + Duration::from_secs(2);
        assert_eq!(path.handle_timeout(later), None);
        assert_eq!(path.handle_answer(first.sequence, [0; 8], later), None);
        assert_eq!(path.handle_answer(first.sequence + 1, first.payload, later), None);
        assert_eq!(
            path.handle_answer(first.sequence, first.payload, later),
            Some(Change::Up)
        );
        // The same answer again is nothing new.
        assert_eq!(path.handle_answer(first.sequence, first.payload, later), None);
    }

    #[test]
    fn a_standby_is_probed_seldom_until_it_is_needed() {
        let (mut path, mut now) = start();
        path.set_timing(Timing::standby(), now);
        let end = now + Duration::from_secs(101);
        run(&mut path, &mut now, end, Some(20 * MS));
        assert!((5..=6).contains(&path.sequence), "{}", path.sequence);
        path.set_timing(Timing::default(), now);
        assert!(path.poll_timeout() <= now + Timing::default().interval);
        // It is noticed as soon as on any other path that it carries nothing.
        let silent = now;
        let end = now + Duration::from_secs(60);
        assert_eq!(run(&mut path, &mut now, end, None), [Change::Down]);
        let PathHealth::Down { since } = path.health() else {
            panic!("{path:?}")
        };
        assert!(since - silent <= Duration::from_secs(9), "{:?}", since - silent);
    }

    #[test]
    fn a_nudge_probes_at_once() {
        let (mut path, mut now) = start();
        let end = now + Duration::from_secs(60);
        run(&mut path, &mut now, end, None);
        assert!(matches!(path.health(), PathHealth::Down { .. }));
        path.nudge(now);
        assert!(path.poll_probe(now).is_some());
    }

    /// LESSONS: "online but dead": a peer with which handshakes succeed, and nothing else, is down.
    #[test]
    fn handshakes_alone_do_not_keep_a_path_from_going_down() {
        let (mut path, begun) = start();
        let mut now = begun;
        let mut probes = 0;
        while matches!(path.health(), PathHealth::Unknown) {
            assert!(now - begun < Duration::from_secs(9), "{path:?}");
            path.nudge(now);
            path.handle_timeout(now);
            probes += u32::from(path.poll_probe(now).is_some());
            now += 100 * MS;
        }
        // Nor do they make it probe without a pause from then on.
        for _ in 0..600 {
            path.nudge(now);
            path.handle_timeout(now);
            probes += u32::from(path.poll_probe(now).is_some());
            now += 100 * MS;
        }
        assert!(probes < 40, "{probes}");
        // The first answer is believed all the same.
        now = now.max(path.poll_timeout());
        path.handle_timeout(now);
        now = now.max(path.poll_timeout());
        let probe = path.poll_probe(now).unwrap();
        assert_eq!(
            path.handle_answer(probe.sequence, probe.payload, now + MS),
            Some(Change::Up)
        );
    }

    proptest! {
        /// Whatever is answered or lost, the state never asks to be woken for nothing for ever: each
        /// wake-up either sends a probe or gives one up.
        #[test]
        fn every_wake_up_does_something(answered in proptest::collection::vec(any::<bool>(), 1..200)) {
            let (mut path, mut now) = start();
            for answer in answered {
                now = now.max(path.poll_timeout());
                let given_up = path.awaited.is_some();
                path.handle_timeout(now);
                prop_assert!(!given_up || path.awaited.is_none());
                if let Some(probe) = path.poll_probe(now)
                    && answer
                {
                    path.handle_answer(probe.sequence, probe.payload, now + MS);
                    prop_assert!(path.is_up());
                }
            }
        }
    }
}
