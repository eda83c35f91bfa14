//! How often a secret may be guessed.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

use kakuremichi_core::{email::EmailAddress, net::subscriber};

/// Wrong guesses that cost nothing but themselves.
const FREE: u32 = 5;
/// The pause after the next one; it doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause of an address.
const MAX_ADDRESS_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The longest pause of an account. Short: anybody can bring it about for somebody else, who is then kept out for as
/// long as they go on.
const MAX_ACCOUNT_PAUSE: Duration = Duration::from_secs(30);
/// A guess is forgotten after so long without another.
const MEMORY: Duration = Duration::from_secs(60 * 60);
/// Addresses, and accounts, that are remembered; one more takes the place of the one that was quiet for longest.
const MAX_REMEMBERED: usize = 16 * 1024;

/// Counts guesses by address (an IPv6 /64 is one) and by account, both under their canonical names (LESSONS,
/// advisory 17).
#[derive(Debug, Default)]
pub(super) struct Throttle {
    addresses: Table<IpAddr>,
    accounts: Table<EmailAddress>,
}

#[derive(Debug)]
struct Table<K>(HashMap<K, Guesses>);

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[derive(Debug, Clone, Copy)]
struct Guesses {
    count: u32,
    last: Instant,
    /// Whether it is known that there are many.
    many: bool,
}

impl Throttle {
    /// Counts a guess, before it is looked at, so that many at once are no way around; or says how long to wait
    /// until the next is looked at.
    pub(super) fn guess(
        &mut self,
        address: Option<IpAddr>,
        account: &EmailAddress,
        now: Instant,
    ) -> Result<(), Duration> {
        let address = address.map(subscriber);
        let by_address = address.map_or(Duration::ZERO, |key| {
            self.addresses.wait(&key, MAX_ADDRESS_PAUSE, now)
        });
        let wait = by_address.max(self.accounts.wait(account, MAX_ACCOUNT_PAUSE, now));
        if wait > Duration::ZERO {
            return Err(wait);
        }
        if let Some(key) = address {
            self.addresses.count(key, now);
        }
        self.accounts.count(account.clone(), now);
        Ok(())
    }

    /// Whether so many guesses at an account are counted. It is said once, until one is right or they are forgotten.
    pub(super) fn are_many(&mut self, account: &EmailAddress, many: u32, now: Instant) -> bool {
        let guesses = self.accounts.0.get_mut(account);
        let guesses = guesses.filter(|guesses| guesses.is_remembered(now) && guesses.count >= many);
        guesses.is_some_and(|guesses| !std::mem::replace(&mut guesses.many, true))
    }

    /// What was counted was no guess, neither right nor wrong: it is taken back, and no more than it.
    pub(super) fn was_none(&mut self, address: Option<IpAddr>, account: &EmailAddress) {
        self.accounts.take_back(account);
        if let Some(address) = address {
            self.addresses.take_back(&subscriber(address));
        }
    }

    /// The guess was right. The address is taken back one guess only: whoever owns one account does not earn
    /// guesses at others.
    pub(super) fn was_right(&mut self, address: Option<IpAddr>, account: &EmailAddress) {
        self.accounts.0.remove(account);
        if let Some(address) = address {
            self.addresses.take_back(&subscriber(address));
        }
    }
}

impl<K: Eq + Hash + Clone> Table<K> {
    fn wait(&self, key: &K, longest: Duration, now: Instant) -> Duration {
        let Some(guesses) = self.0.get(key).filter(|guesses| guesses.is_remembered(now)) else {
            return Duration::ZERO;
        };
        let Some(beyond) = guesses.count.checked_sub(FREE) else {
            return Duration::ZERO;
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << beyond.min(20)).min(longest);
        (guesses.last + pause).saturating_duration_since(now)
    }

    fn take_back(&mut self, key: &K) {
        if let Some(guesses) = self.0.get_mut(key) {
            guesses.count = guesses.count.saturating_sub(1);
        }
    }

    fn count(&mut self, key: K, now: Instant) {
        if self.0.len() >= MAX_REMEMBERED && !self.0.contains_key(&key) {
            self.0.retain(|_, guesses| guesses.is_remembered(now));
            if self.0.len() >= MAX_REMEMBERED
                && let Some(oldest) = self.0.iter().min_by_key(|(_, guesses)| guesses.last)
            {
                let oldest = oldest.0.clone();
                self.0.remove(&oldest);
            }
        }
        let guesses = self.0.entry(key).or_insert(Guesses {
            count: 0,
            last: now,
            many: false,
        });
        if !guesses.is_remembered(now) {
            (guesses.count, guesses.many) = (0, false);
        }
        guesses.count = guesses.count.saturating_add(1);
        guesses.last = now;
    }
}

impl Guesses {
    fn is_remembered(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < MEMORY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(n: u32) -> EmailAddress {
        format!("user-{n}@example.net").parse().unwrap()
    }

    fn from(last: u8) -> Option<IpAddr> {
        Some([192, 0, 2, last].into())
    }

    #[test]
    fn pauses_grow_and_end() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            if let Err(wait) = throttle.guess(from(1), &account(1), now) {
                pauses.push(wait.as_secs());
                now += wait;
                throttle.guess(from(1), &account(1), now).unwrap();
            }
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64]);
        assert!(throttle.guess(from(1), &account(1), now).is_err());
        assert!(
            throttle
                .guess(from(1), &account(1), now + MAX_ADDRESS_PAUSE)
                .is_ok()
        );
        let later = now + MAX_ADDRESS_PAUSE + MEMORY;
        for _ in 0..FREE {
            assert!(throttle.guess(from(1), &account(1), later).is_ok());
        }
    }

    /// Whoever guessed at somebody's account keeps them out for half a minute after they stop.
    #[test]
    fn an_account_is_never_locked_for_long() {
        let (mut throttle, mut now) = (Throttle::default(), Instant::now());
        for address in 0..100 {
            if let Err(wait) = throttle.guess(from(address), &account(1), now) {
                assert!(wait <= MAX_ACCOUNT_PAUSE);
                now += wait;
                throttle.guess(from(address), &account(1), now).unwrap();
            }
        }
        assert_eq!(
            throttle.guess(from(200), &account(1), now),
            Err(MAX_ACCOUNT_PAUSE)
        );
        throttle.was_right(None, &account(1));
        assert!(throttle.guess(from(200), &account(1), now).is_ok());
    }

    /// LESSONS, advisory 17.
    #[test]
    fn names_are_canonical() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..FREE {
            let address = format!("2001:db8::{n}").parse().ok();
            throttle.guess(address, &account(n), now).unwrap();
        }
        let same = "2001:db8::ffff".parse().ok();
        assert!(
            throttle.guess(same, &account(99), now).is_err(),
            "a /64 is one address"
        );
        let mapped = "::ffff:192.0.2.1".parse().ok();
        for n in 0..FREE {
            throttle.guess(mapped, &account(100 + n), now).unwrap();
        }
        assert!(throttle.guess(from(1), &account(200), now).is_err());
        for _ in 0..FREE {
            throttle
                .guess(None, &"Anna@Example.net".parse().unwrap(), now)
                .unwrap();
        }
        assert!(
            throttle
                .guess(None, &"anna@example.NET.".parse().unwrap(), now)
                .is_err()
        );
    }

    /// Signing in to one's own account between guesses at others earns none.
    #[test]
    fn an_own_account_earns_no_guesses() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let mut guesses = 0;
        for n in 0..100 {
            if throttle.guess(from(1), &account(n), now).is_err() {
                break;
            }
            guesses += 1;
            if throttle.guess(from(1), &account(1_000), now).is_ok() {
                throttle.was_right(from(1), &account(1_000));
            }
        }
        assert!(guesses <= FREE, "{guesses}");
    }

    /// Who has the password guesses at codes, and asks without one in between.
    #[test]
    fn what_is_no_guess_earns_none() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let mut guesses = 0;
        while guesses < 100 && throttle.guess(from(1), &account(1), now).is_ok() {
            guesses += 1;
            if throttle.guess(from(1), &account(1), now).is_ok() {
                throttle.was_none(from(1), &account(1));
            }
        }
        assert_eq!(guesses, FREE);
    }

    #[test]
    fn many_guesses_are_said_once() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let mut said = Vec::new();
        for _ in 0..FREE + 3 {
            said.push(throttle.are_many(&account(1), FREE, now));
            let _ = throttle.guess(None, &account(1), now);
        }
        assert_eq!(said, [false, false, false, false, false, true, false, false]);
        assert!(!throttle.are_many(&account(2), FREE, now));
        throttle.was_right(None, &account(1));
        assert!(!throttle.are_many(&account(1), FREE, now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        for n in 0..MAX_REMEMBERED as u32 + 10 {
            let now = start + Duration::from_millis(u64::from(n));
            let address = IpAddr::from(n.to_be_bytes());
            throttle.guess(Some(address), &account(n), now).unwrap();
        }
        assert_eq!(throttle.addresses.0.len(), MAX_REMEMBERED);
        assert_eq!(throttle.accounts.0.len(), MAX_REMEMBERED);
        assert!(!throttle.accounts.0.contains_key(&account(0)));
    }
}
