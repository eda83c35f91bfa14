//! Which of the two lanes to a gateway carries new flows.

use std::time::{Duration, Instant};

use kakuremichi_proto::report::LaneKind;

use super::PathHealth;

/// Which lane an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LanePreference {
    /// WireGuard, and TLS streams for as long as WireGuard does not get through.
    #[default]
    Auto,
    /// WireGuard only.
    WireGuard,
    /// TLS streams only.
    Tls,
}

/// What is to be there of the lane of TLS streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsWanted {
    /// Nothing.
    #[default]
    Nothing,
    /// One connection that costs little, so that flows can move there at once.
    Standby,
    /// Everything: flows take it, or soon will.
    Everything,
}

/// How long the choice waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChoiceTiming {
    /// The time that WireGuard has at the start, before TLS streams are opened beside it.
    pub grace: Duration,
    /// So long WireGuard has to be up, without a break, before flows go back to it.
    pub heal: Duration,
    /// When it breaks again soon, that time doubles up to this.
    pub heal_cap: Duration,
    /// TLS streams are kept for so long after flows went back to WireGuard; when it breaks within that
    /// time, it broke soon.
    pub linger: Duration,
}

impl Default for ChoiceTiming {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(2),
            heal: Duration::from_secs(10),
            heal_cap: Duration::from_secs(300),
            linger: Duration::from_secs(60),
        }
    }
}

/// Chooses between the lanes to one gateway.
///
/// Say what is known by [`handle_wireguard`](Self::handle_wireguard) and
/// [`handle_tls`](Self::handle_tls), call [`handle_timeout`](Self::handle_timeout) at
/// [`poll_timeout`](Self::poll_timeout), then ask for [`chosen`](Self::chosen) and
/// [`wants_tls`](Self::wants_tls). Flows that are open stay where they are.
///
/// A WireGuard lane that is up is in doubt while its last probe stays without an answer. Where TLS streams
/// stand by, they are asked at once, and take new flows as soon as they answer, until the doubt is over. So
/// one lost probe costs nobody anything, and a lane that is dead costs a second, not the time until it is
/// known to be dead.
#[derive(Debug, Clone)]
pub struct LaneChoice {
    preference: LanePreference,
    standby: bool,
    timing: ChoiceTiming,
    chosen: LaneKind,
    wireguard: PathHealth,
    tls: PathHealth,
    /// Since when WireGuard is in doubt.
    doubted: Option<Instant>,
    /// When TLS streams last answered.
    heard: Option<Instant>,
    /// Flows left WireGuard because it is in doubt, before it is known to be down.
    suspected: bool,
    begun: Instant,
    /// When flows last went back to WireGuard.
    returned: Option<Instant>,
    heal: Duration,
}

impl LaneChoice {
    /// A choice between lanes of which nothing is known. With `standby`, TLS streams stand by while flows take
    /// WireGuard.
    #[must_use]
    pub const fn new(preference: LanePreference, standby: bool, timing: ChoiceTiming, now: Instant) -> Self {
        Self {
            preference,
            standby,
            timing,
            chosen: match preference {
                LanePreference::Auto | LanePreference::WireGuard => LaneKind::WireGuard,
                LanePreference::Tls => LaneKind::TlsStream,
            },
            wireguard: PathHealth::Unknown,
            tls: PathHealth::Unknown,
            doubted: None,
            heard: None,
            suspected: false,
            begun: now,
            returned: None,
            heal: timing.heal,
        }
    }

    /// The lane that takes new flows.
    #[must_use]
    pub const fn chosen(&self) -> LaneKind {
        self.chosen
    }

    /// What is known of the lane that takes new flows.
    #[must_use]
    pub const fn health(&self) -> PathHealth {
        match self.chosen {
            LaneKind::WireGuard => self.wireguard,
            LaneKind::TlsStream => self.tls,
        }
    }

    /// What is to be there of the lane of TLS streams.
    #[must_use]
    pub fn wants_tls(&self, now: Instant) -> TlsWanted {
        let flows = match self.preference {
            LanePreference::WireGuard => return TlsWanted::Nothing,
            LanePreference::Tls => true,
            LanePreference::Auto => {
                self.chosen == LaneKind::TlsStream
                    || match self.wireguard {
                        PathHealth::Down { .. } => true,
                        PathHealth::Unknown => now >= self.begun + self.timing.grace,
                        PathHealth::Up { .. } => {
                            let lingers = self.lingers_until().is_some_and(|until| now < until);
                            lingers || (self.standby && self.doubted.is_some())
                        }
                    }
            }
        };
        let is_up = matches!(self.wireguard, PathHealth::Up { .. });
        match flows {
            true => TlsWanted::Everything,
            false if self.standby && is_up => TlsWanted::Standby,
            false => TlsWanted::Nothing,
        }
    }

    /// What is known of the WireGuard lane has changed. It is `doubtful` while its last probe stays without an
    /// answer.
    pub fn handle_wireguard(&mut self, health: PathHealth, doubtful: bool, now: Instant) {
        self.wireguard = health;
        self.doubted = if doubtful && matches!(health, PathHealth::Up { .. }) {
            self.doubted.or(Some(now))
        } else {
            None
        };
        self.choose(now);
    }

    /// What is known of the lane of TLS streams has changed; a probe through it was last answered at `heard`.
    pub fn handle_tls(&mut self, health: PathHealth, heard: Option<Instant>, now: Instant) {
        (self.tls, self.heard) = (health, heard);
        self.choose(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.choose(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) changes something next, or
    /// [`wants_tls`](Self::wants_tls) says something else.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.preference != LanePreference::Auto {
            return None;
        }
        let due = match (self.chosen, self.wireguard) {
            (LaneKind::TlsStream, PathHealth::Up { since, .. }) if !self.suspected => Some(since + self.heal),
            (LaneKind::WireGuard, PathHealth::Unknown) => Some(self.begun + self.timing.grace),
            (LaneKind::WireGuard, PathHealth::Up { .. }) => self.lingers_until(),
            _ => None,
        };
        due.filter(|due| *due > now)
    }

    fn lingers_until(&self) -> Option<Instant> {
        self.returned.map(|returned| returned + self.timing.linger)
    }

    fn choose(&mut self, now: Instant) {
        if self.preference != LanePreference::Auto {
            return;
        }
        let tls_up = matches!(self.tls, PathHealth::Up { .. });
        let answers = tls_up && self.heard >= self.doubted;
        match (self.chosen, self.wireguard) {
            (LaneKind::WireGuard, PathHealth::Up { .. }) if self.doubted.is_some() && answers => {
                self.chosen = LaneKind::TlsStream;
                self.suspected = true;
            }
            // The probe was lost, or is late: nothing was wrong.
            (LaneKind::TlsStream, PathHealth::Up { .. }) if self.suspected && self.doubted.is_none() => {
                self.chosen = LaneKind::WireGuard;
                self.suspected = false;
            }
            // It was left in time.
            (LaneKind::TlsStream, PathHealth::Down { .. } | PathHealth::Unknown) if self.suspected => {
                self.suspected = false;
                self.left(now);
            }
            (LaneKind::WireGuard, PathHealth::Down { .. } | PathHealth::Unknown) if tls_up => {
                self.chosen = LaneKind::TlsStream;
                self.left(now);
            }
            (LaneKind::TlsStream, PathHealth::Up { since, .. })
                if !tls_up || (!self.suspected && now >= since + self.heal) =>
            {
                self.chosen = LaneKind::WireGuard;
                // Of a lane that was only suspected nothing is to be remembered.
                if !std::mem::take(&mut self.suspected) {
                    self.returned = Some(now);
                }
            }
            _ => {}
        }
    }

    /// WireGuard broke: how long it has to be up before flows go back to it.
    fn left(&mut self, now: Instant) {
        let soon = self.lingers_until().is_some_and(|until| now < until);
        self.heal = if soon {
            (self.heal * 2).min(self.timing.heal_cap)
        } else {
            self.timing.heal
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::{PathState, Probe, Timing};
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start(preference: LanePreference) -> (LaneChoice, Instant) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test needs some instant to start from"
        )]
        let now = Instant::now();
        (
            LaneChoice::new(preference, false, ChoiceTiming::default(), now),
            now,
        )
    }

    const fn up(since: Instant) -> PathHealth {
        PathHealth::Up { since, rtt: SECOND }
    }

    const fn down(since: Instant) -> PathHealth {
        PathHealth::Down { since }
    }

    #[test]
    fn tls_is_not_opened_while_wireguard_may_come() {
        let (mut choice, now) = start(LanePreference::Auto);
        assert!(choice.wants_tls(now) == TlsWanted::Nothing && choice.chosen() == LaneKind::WireGuard);
        let grace = choice.poll_timeout(now).unwrap();
        assert_eq!(choice.wants_tls(grace), TlsWanted::Everything);
        choice.handle_wireguard(up(now), false, now);
        assert_eq!(choice.wants_tls(grace), TlsWanted::Nothing);
        assert_eq!(choice.poll_timeout(now), None);
    }

    #[test]
    fn flows_move_at_once_to_the_lane_that_works_and_back_with_patience() {
        let (mut choice, begun) = start(LanePreference::Auto);
        choice.handle_wireguard(up(begun), false, begun);
        let broken = begun + SECOND * 100;
        choice.handle_wireguard(down(broken), false, broken);
        assert!(choice.wants_tls(broken) == TlsWanted::Everything && choice.chosen() == LaneKind::WireGuard);
        choice.handle_tls(up(broken), Some(broken), broken);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        let healed = broken + SECOND * 30;
        choice.handle_wireguard(up(healed), false, healed);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        let back = choice.poll_timeout(healed).unwrap();
        assert_eq!(back, healed + SECOND * 10);
        choice.handle_timeout(back);
        assert_eq!(choice.chosen(), LaneKind::WireGuard);
        assert_eq!(choice.wants_tls(back), TlsWanted::Everything);
        let over = choice.poll_timeout(back).unwrap();
        assert!(choice.wants_tls(over) == TlsWanted::Nothing && choice.poll_timeout(over).is_none());
        // It breaks once more, much later: the patience is the first again.
        let later = over + SECOND * 1000;
        choice.handle_wireguard(down(later), false, later);
        choice.handle_tls(up(later), Some(later), later);
        choice.handle_wireguard(up(later), false, later);
        assert_eq!(choice.poll_timeout(later), Some(later + SECOND * 10));
    }

    #[test]
    fn a_lane_that_comes_and_goes_is_trusted_later_each_time() {
        let (mut choice, mut now) = start(LanePreference::Auto);
        choice.handle_tls(up(now), Some(now), now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            choice.handle_wireguard(down(now), false, now);
            assert_eq!(choice.chosen(), LaneKind::TlsStream);
            choice.handle_wireguard(up(now), false, now);
            let back = choice.poll_timeout(now).unwrap();
            waits.push((back - now).as_secs());
            choice.handle_timeout(back);
            assert_eq!(choice.chosen(), LaneKind::WireGuard);
            now = back + SECOND;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_lane_that_broke_is_left_even_for_one_that_just_came() {
        let (mut choice, now) = start(LanePreference::Auto);
        choice.handle_tls(up(now), Some(now), now);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        choice.handle_wireguard(up(now), false, now);
        choice.handle_tls(down(now), Some(now), now);
        assert_eq!(choice.chosen(), LaneKind::WireGuard);
    }

    fn standing_by() -> (LaneChoice, Instant) {
        let (_, now) = start(LanePreference::Auto);
        let mut choice = LaneChoice::new(LanePreference::Auto, true, ChoiceTiming::default(), now);
        choice.handle_wireguard(up(now), false, now);
        assert_eq!(choice.wants_tls(now), TlsWanted::Standby);
        choice.handle_tls(up(now), Some(now), now);
        assert_eq!(choice.chosen(), LaneKind::WireGuard);
        (choice, now)
    }

    #[test]
    fn flows_leave_a_lane_in_doubt_for_one_that_answers() {
        let (mut choice, begun) = standing_by();
        let doubted = begun + SECOND * 100;
        choice.handle_wireguard(up(begun), true, doubted);
        // What was heard before says nothing about now.
        assert_eq!(choice.chosen(), LaneKind::WireGuard);
        assert_eq!(choice.wants_tls(doubted), TlsWanted::Everything);
        let answered = doubted + SECOND / 10;
        choice.handle_tls(up(begun), Some(answered), answered);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        assert_eq!(choice.poll_timeout(answered), None);
        let broken = doubted + SECOND * 2;
        choice.handle_wireguard(down(broken), true, broken);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        // From here on it is as if it had been left now.
        let healed = broken + SECOND * 30;
        choice.handle_wireguard(up(healed), false, healed);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        let back = choice.poll_timeout(healed).unwrap();
        assert_eq!(back, healed + SECOND * 10);
        choice.handle_timeout(back);
        assert_eq!(choice.chosen(), LaneKind::WireGuard);
        // What was needed stays for a while, and then stands by again.
        assert_eq!(choice.wants_tls(back), TlsWanted::Everything);
        let over = choice.poll_timeout(back).unwrap();
        assert_eq!(choice.wants_tls(over), TlsWanted::Standby);
    }

    #[test]
    fn a_lost_probe_costs_no_patience() {
        let (mut choice, begun) = standing_by();
        let doubted = begun + SECOND * 100;
        choice.handle_wireguard(up(begun), true, doubted);
        choice.handle_tls(up(begun), Some(doubted), doubted);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        let answered = doubted + SECOND;
        choice.handle_wireguard(up(begun), false, answered);
        assert_eq!(choice.chosen(), LaneKind::WireGuard);
        assert_eq!(choice.wants_tls(answered), TlsWanted::Standby);
        // It breaks in earnest soon after: that was the first time.
        choice.handle_wireguard(down(answered), true, answered);
        choice.handle_wireguard(up(answered), false, answered);
        assert_eq!(choice.poll_timeout(answered), Some(answered + SECOND * 10));
    }

    #[test]
    fn a_lane_in_doubt_is_still_better_than_one_that_is_down() {
        let (mut choice, begun) = standing_by();
        choice.handle_wireguard(up(begun), true, begun);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        choice.handle_tls(down(begun), Some(begun), begun);
        assert_eq!(choice.chosen(), LaneKind::WireGuard);
        assert_eq!(choice.wants_tls(begun), TlsWanted::Everything);
    }

    #[test]
    fn an_operator_pins_a_lane() {
        let (mut choice, now) = start(LanePreference::Tls);
        choice.handle_wireguard(up(now), false, now);
        choice.handle_tls(down(now), Some(now), now);
        assert!(choice.wants_tls(now) == TlsWanted::Everything && choice.chosen() == LaneKind::TlsStream);
        let (mut choice, now) = start(LanePreference::WireGuard);
        choice.handle_wireguard(down(now), false, now);
        choice.handle_tls(up(now), Some(now), now);
        assert!(choice.wants_tls(now) == TlsWanted::Nothing && choice.chosen() == LaneKind::WireGuard);
        assert_eq!(choice.poll_timeout(now), None);
    }

    /// How long it takes from the moment on which UDP is swallowed until new flows take TLS streams. A probe, and
    /// each of the round trips that a dial has (TCP, TLS, both ends' proofs), take `rtt`.
    fn takes_over(standby: bool, rtt: Duration, swallowed_after: Duration) -> Duration {
        const STEP: Duration = Duration::from_millis(10);
        const DIAL: u32 = 3;
        let (_, begun) = start(LanePreference::Auto);
        let mut choice = LaneChoice::new(LanePreference::Auto, standby, ChoiceTiming::default(), begun);
        let mut wireguard = PathState::new(Timing::default(), 7, begun);
        let mut tls: Option<PathState> = None;
        let (mut heard, mut wanted, mut dialled) = (None, TlsWanted::Nothing, None);
        let mut flying: Vec<(Instant, bool, Probe)> = Vec::new();
        let broken = begun + swallowed_after;
        let mut now = begun;
        while now < broken || choice.chosen() == LaneKind::WireGuard {
            assert!(now < broken + SECOND * 60, "it never does");
            wireguard.handle_timeout(now);
            if let Some(probe) = wireguard.poll_probe(now)
                && now < broken
            {
                flying.push((now + rtt, true, probe));
            }
            if let Some(path) = &mut tls {
                path.handle_timeout(now);
                if let Some(probe) = path.poll_probe(now) {
                    flying.push((now + rtt, false, probe));
                }
            } else if wanted != TlsWanted::Nothing {
                let there = *dialled.get_or_insert(now + rtt * DIAL);
                tls = (now >= there).then(|| PathState::new(Timing::default(), 8, now));
            }
            flying.retain(|(at, over_wireguard, probe)| {
                let arrives = *at <= now;
                match &mut tls {
                    _ if !arrives => {}
                    _ if *over_wireguard => {
                        wireguard.handle_answer(probe.sequence, probe.payload, now);
                    }
                    Some(path) => {
                        path.handle_answer(probe.sequence, probe.payload, now);
                        heard = Some(now);
                    }
                    None => {}
                }
                !arrives
            });
            let doubtful = wireguard.is_up() && wireguard.misses() > 0;
            choice.handle_wireguard(wireguard.health(), doubtful, now);
            let health = tls.as_ref().map_or(PathHealth::Unknown, PathState::health);
            choice.handle_tls(health, heard, now);
            let before = std::mem::replace(&mut wanted, choice.wants_tls(now));
            if let Some(path) = tls.as_mut().filter(|_| wanted != before) {
                let stands_by = wanted == TlsWanted::Standby;
                let timing = if stands_by {
                    Timing::standby()
                } else {
                    Timing::default()
                };
                path.set_timing(timing, now);
                if !stands_by {
                    path.nudge(now);
                }
            }
            now += STEP;
        }
        now - broken
    }

    /// Issue 4: black-holed UDP costs a switch and not a dial.
    #[test]
    fn a_standby_takes_over_before_the_lane_is_known_to_be_dead() {
        let rtt = Duration::from_millis(100);
        let (mut slowest, mut total, mut dialled) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        for phase in 0..50 {
            let swallowed = SECOND * 100 + Duration::from_millis(100) * phase;
            let (with, without) = (
                takes_over(true, rtt, swallowed),
                takes_over(false, rtt, swallowed),
            );
            assert!(with + SECOND * 2 <= without, "{with:?}, {without:?}");
            slowest = slowest.max(with);
            (total, dialled) = (total + with, dialled + without);
        }
        println!(
            "{:?} instead of {:?}, at most {slowest:?}",
            total / 50,
            dialled / 50
        );
        assert!(slowest <= Duration::from_millis(6_300), "{slowest:?}");
    }

    proptest! {
        /// Whatever happens: where one lane alone is up for long enough, it is the chosen one; and
        /// nothing is waited for in the past.
        #[test]
        fn the_healthy_lane_is_found(
            standby in any::<bool>(),
            steps in proptest::collection::vec((0_u8..7, 0_u64..40), 0..60),
        ) {
            let (_, mut now) = start(LanePreference::Auto);
            let mut choice = LaneChoice::new(LanePreference::Auto, standby, ChoiceTiming::default(), now);
            let mut known = (PathHealth::Unknown, PathHealth::Unknown);
            for (step, seconds) in steps {
                match step {
                    0 => { known.0 = up(now); choice.handle_wireguard(known.0, false, now); }
                    1 => { known.0 = down(now); choice.handle_wireguard(known.0, false, now); }
                    2 => { known.1 = up(now); choice.handle_tls(known.1, Some(now), now); }
                    3 => { known.1 = down(now); choice.handle_tls(known.1, Some(now), now); }
                    4 => choice.handle_wireguard(known.0, true, now),
                    5 => choice.handle_tls(known.1, Some(now), now),
                    _ => choice.handle_timeout(now),
                }
                match known {
                    (PathHealth::Up { .. }, PathHealth::Down { .. }) => {
                        prop_assert_eq!(choice.chosen(), LaneKind::WireGuard);
                    }
                    (PathHealth::Down { .. }, PathHealth::Up { .. }) => {
                        prop_assert_eq!(choice.chosen(), LaneKind::TlsStream);
                        prop_assert_eq!(choice.wants_tls(now), TlsWanted::Everything);
                    }
                    (PathHealth::Down { .. }, _) => prop_assert_eq!(choice.wants_tls(now), TlsWanted::Everything),
                    _ => {}
                }
                if let Some(due) = choice.poll_timeout(now) {
                    prop_assert!(due > now && due <= now + Duration::from_secs(300));
                }
                now += Duration::from_secs(seconds);
            }
        }
    }
}
