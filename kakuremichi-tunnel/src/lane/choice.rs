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
#[derive(Debug, Clone)]
pub struct LaneChoice {
    preference: LanePreference,
    timing: ChoiceTiming,
    chosen: LaneKind,
    wireguard: PathHealth,
    tls: PathHealth,
    begun: Instant,
    /// When flows last went back to WireGuard.
    returned: Option<Instant>,
    heal: Duration,
}

impl LaneChoice {
    /// A choice between lanes of which nothing is known.
    #[must_use]
    pub const fn new(preference: LanePreference, timing: ChoiceTiming, now: Instant) -> Self {
        Self {
            preference,
            timing,
            chosen: match preference {
                LanePreference::Auto | LanePreference::WireGuard => LaneKind::WireGuard,
                LanePreference::Tls => LaneKind::TlsStream,
            },
            wireguard: PathHealth::Unknown,
            tls: PathHealth::Unknown,
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

    /// Whether there is to be a lane of TLS streams.
    #[must_use]
    pub fn wants_tls(&self, now: Instant) -> bool {
        match self.preference {
            LanePreference::WireGuard => false,
            LanePreference::Tls => true,
            LanePreference::Auto => {
                self.chosen == LaneKind::TlsStream
                    || match self.wireguard {
                        PathHealth::Down { .. } => true,
                        PathHealth::Unknown => now >= self.begun + self.timing.grace,
                        PathHealth::Up { .. } => self.lingers_until().is_some_and(|until| now < until),
                    }
            }
        }
    }

    /// What is known of the WireGuard lane has changed.
    pub fn handle_wireguard(&mut self, health: PathHealth, now: Instant) {
        self.wireguard = health;
        self.choose(now);
    }

    /// What is known of the lane of TLS streams has changed.
    pub fn handle_tls(&mut self, health: PathHealth, now: Instant) {
        self.tls = health;
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
            (LaneKind::TlsStream, PathHealth::Up { since, .. }) => Some(since + self.heal),
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
        match (self.chosen, self.wireguard) {
            (LaneKind::WireGuard, PathHealth::Down { .. } | PathHealth::Unknown) if tls_up => {
                self.chosen = LaneKind::TlsStream;
                let soon = self.lingers_until().is_some_and(|until| now < until);
                self.heal = if soon {
                    (self.heal * 2).min(self.timing.heal_cap)
                } else {
                    self.timing.heal
                };
            }
            (LaneKind::TlsStream, PathHealth::Up { since, .. }) if !tls_up || now >= since + self.heal => {
                self.chosen = LaneKind::WireGuard;
                self.returned = Some(now);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start(preference: LanePreference) -> (LaneChoice, Instant) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test needs some instant to start from"
        )]
        let now = Instant::now();
        (LaneChoice::new(preference, ChoiceTiming::default(), now), now)
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
        assert!(!choice.wants_tls(now) && choice.chosen() == LaneKind::WireGuard);
        let grace = choice.poll_timeout(now).unwrap();
        assert!(choice.wants_tls(grace));
        choice.handle_wireguard(up(now), now);
        assert!(!choice.wants_tls(grace));
        assert_eq!(choice.poll_timeout(now), None);
    }

    #[test]
    fn flows_move_at_once_to_the_lane_that_works_and_back_with_patience() {
        let (mut choice, begun) = start(LanePreference::Auto);
        choice.handle_wireguard(up(begun), begun);
        let broken = begun + SECOND * 100;
        choice.handle_wireguard(down(broken), broken);
        assert!(choice.wants_tls(broken) && choice.chosen() == LaneKind::WireGuard);
        choice.handle_tls(up(broken), broken);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        let healed = broken + SECOND * 30;
        choice.handle_wireguard(up(healed), healed);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        let back = choice.poll_timeout(healed).unwrap();
        assert_eq!(back, healed + SECOND * 10);
        choice.handle_timeout(back);
        assert_eq!(choice.chosen(), LaneKind::WireGuard);
        assert!(choice.wants_tls(back));
        let over = choice.poll_timeout(back).unwrap();
        assert!(!choice.wants_tls(over) && choice.poll_timeout(over).is_none());
        // It breaks once more, much later: the patience is the first again.
        let later = over + SECOND * 1000;
        choice.handle_wireguard(down(later), later);
        choice.handle_tls(up(later), later);
        choice.handle_wireguard(up(later), later);
        assert_eq!(choice.poll_timeout(later), Some(later + SECOND * 10));
    }

    #[test]
    fn a_lane_that_comes_and_goes_is_trusted_later_each_time() {
        let (mut choice, mut now) = start(LanePreference::Auto);
        choice.handle_tls(up(now), now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            choice.handle_wireguard(down(now), now);
            assert_eq!(choice.chosen(), LaneKind::TlsStream);
            choice.handle_wireguard(up(now), now);
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
        choice.handle_tls(up(now), now);
        assert_eq!(choice.chosen(), LaneKind::TlsStream);
        choice.handle_wireguard(up(now), now);
        choice.handle_tls(down(now), now);
        assert_eq!(choice.chosen(), LaneKind::WireGuard);
    }

    #[test]
    fn an_operator_pins_a_lane() {
        let (mut choice, now) = start(LanePreference::Tls);
        choice.handle_wireguard(up(now), now);
        choice.handle_tls(down(now), now);
        assert!(choice.wants_tls(now) && choice.chosen() == LaneKind::TlsStream);
        let (mut choice, now) = start(LanePreference::WireGuard);
        choice.handle_wireguard(down(now), now);
        choice.handle_tls(up(now), now);
        assert!(!choice.wants_tls(now) && choice.chosen() == LaneKind::WireGuard);
        assert_eq!(choice.poll_timeout(now), None);
    }

    proptest! {
        /// Whatever happens: where one lane alone is up for long enough, it is the chosen one; and
        /// nothing is waited for in the past.
        #[test]
        fn the_healthy_lane_is_found(steps in proptest::collection::vec((0_u8..5, 0_u64..40), 0..60)) {
            let (mut choice, mut now) = start(LanePreference::Auto);
            let mut known = (PathHealth::Unknown, PathHealth::Unknown);
            for (step, seconds) in steps {
                match step {
                    0 => { known.0 = up(now); choice.handle_wireguard(known.0, now); }
                    1 => { known.0 = down(now); choice.handle_wireguard(known.0, now); }
                    2 => { known.1 = up(now); choice.handle_tls(known.1, now); }
                    3 => { known.1 = down(now); choice.handle_tls(known.1, now); }
                    _ => choice.handle_timeout(now),
                }
                match known {
                    (PathHealth::Up { .. }, PathHealth::Down { .. }) => {
                        prop_assert_eq!(choice.chosen(), LaneKind::WireGuard);
                    }
                    (PathHealth::Down { .. }, PathHealth::Up { .. }) => {
                        prop_assert_eq!(choice.chosen(), LaneKind::TlsStream);
                        prop_assert!(choice.wants_tls(now));
                    }
                    (PathHealth::Down { .. }, _) => prop_assert!(choice.wants_tls(now)),
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
