//! How often an agent is heard on what costs the gateway more than a message.

use std::time::{Duration, Instant};

use kakuremichi_proto::report::LaneKind;

/// An agent that changes its mind is heard so often at most: each time the gateway looks at all its peers.
const CHOICE: Duration = Duration::from_secs(1);

/// What an agent said that waits for its time, and what it may still cause.
#[derive(Debug)]
pub(super) struct Pace {
    /// What it chose last and is yet to be followed.
    choice: Option<LaneKind>,
    /// From when on it may be.
    choose_at: Instant,
    /// A probe was sent, and its answer did not have idle connections looked at yet.
    sweep: bool,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            choice: None,
            choose_at: now,
            sweep: false,
        }
    }

    /// The agent chose a lane. Of several choices the last one counts.
    pub(super) const fn choose(&mut self, kind: LaneKind) {
        self.choice = Some(kind);
    }

    /// The choice that is to be followed now.
    pub(super) fn poll_choice(&mut self, now: Instant) -> Option<LaneKind> {
        if now < self.choose_at {
            return None;
        }
        let choice = self.choice.take()?;
        self.choose_at = now + CHOICE;
        Some(choice)
    }

    /// When [`poll_choice`](Self::poll_choice) has one.
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        match self.choice {
            Some(_) => Some(self.choose_at),
            None => None,
        }
    }

    /// A probe is sent.
    pub(super) const fn probed(&mut self) {
        self.sweep = true;
    }

    /// Something came that is said to answer a probe: whether idle connections are to be looked at. Once for
    /// each probe, however many answers come.
    pub(super) const fn answered(&mut self) -> bool {
        std::mem::replace(&mut self.sweep, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> (Pace, Instant) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test needs some instant to start from"
        )]
        let now = Instant::now();
        (Pace::new(now), now)
    }

    #[test]
    fn a_choice_is_followed_at_once_and_the_next_one_a_second_later() {
        let (mut pace, mut now) = start();
        pace.choose(LaneKind::TlsStream);
        assert_eq!(pace.poll_choice(now), Some(LaneKind::TlsStream));
        assert_eq!((pace.poll_choice(now), pace.poll_timeout()), (None, None));
        // A hundred thousand changes of mind are two that are followed, and the last one counts.
        let mut followed = Vec::new();
        for number in 0..100_000 {
            let kinds = [LaneKind::TlsStream, LaneKind::WireGuard];
            pace.choose(kinds[number % 2]);
            now += Duration::from_micros(15);
            followed.extend(pace.poll_choice(now));
        }
        assert_eq!(followed.len(), 1);
        let due = pace.poll_timeout().unwrap();
        assert_eq!(pace.poll_choice(due), Some(LaneKind::WireGuard));
    }

    #[test]
    fn each_probe_has_connections_looked_at_once() {
        let (mut pace, _) = start();
        assert!(!pace.answered());
        pace.probed();
        assert_eq!(
            [pace.answered(), pace.answered(), pace.answered()],
            [true, false, false]
        );
    }
}
