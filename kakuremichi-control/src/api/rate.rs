//! How many requests one caller, and one address, may send.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};
use kakuremichi_core::{auth::Principal, net::subscriber};

use super::problem::Problem;
use crate::service::Actor;

/// Callers, and addresses, of which a bucket is kept. One more takes the place of the one that is nearest to full.
const MAX_BUCKETS: usize = 16 * 1024;
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A token bucket: so many requests at once, and so many a second from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second.
    pub per_second: NonZeroU32,
    /// Requests at once.
    pub burst: NonZeroU32,
}

/// How many requests the REST API takes from one side; `None` is without a bound. Each process counts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// From whoever has proven who they are: a person, an API key, somebody the authenticator knows.
    pub caller: Option<Rate>,
    /// From an address (an IPv6 /64 is one) that has proven nothing, or sends a credential that is not good. Where
    /// the server that Control is mounted in tells no addresses, there is no bound.
    pub address: Option<Rate>,
}

impl Default for Rates {
    /// 100 requests a second and 1,000 at once from a caller, 20 and 400 from an address.
    fn default() -> Self {
        let rate = |per_second: u32, burst: u32| {
            Some(Rate {
                per_second: NonZeroU32::new(per_second)?,
                burst: NonZeroU32::new(burst)?,
            })
        };
        Self {
            caller: rate(100, 1_000),
            address: rate(20, 400),
        }
    }
}

/// Counts requests.
#[derive(Debug)]
pub(crate) struct Meter {
    rates: Rates,
    callers: Mutex<Buckets<Principal>>,
    addresses: Mutex<Buckets<IpAddr>>,
}

/// What an answer says of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    name: &'static str,
    rate: Rate,
    /// Requests that are left now.
    left: u32,
    /// Until the bucket is full.
    full_in: Duration,
}

/// No request is left: the time until there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Empty {
    level: Level,
    wait: Duration,
}

impl Meter {
    pub(crate) fn new(rates: Rates) -> Self {
        Self {
            rates,
            callers: Mutex::default(),
            addresses: Mutex::default(),
        }
    }

    /// Takes a request from the address. Whoever turns out to be somebody gets it [back](Self::give_back): so an
    /// address pays only for what proves nothing, and pays before anything is looked up.
    pub(super) fn address(&self, address: Option<IpAddr>, now: Instant) -> Result<Option<Level>, Empty> {
        let (Some(rate), Some(address)) = (self.rates.address, address) else {
            return Ok(None);
        };
        let mut buckets = lock(&self.addresses);
        buckets.take("address", subscriber(address), rate, now).map(Some)
    }

    pub(super) fn give_back(&self, address: Option<IpAddr>) {
        if let (Some(rate), Some(address)) = (self.rates.address, address) {
            lock(&self.addresses).give_back(&subscriber(address), rate);
        }
    }

    pub(super) fn caller(&self, actor: &Actor, now: Instant) -> Result<Option<Level>, Empty> {
        let (Some(rate), Some(principal)) = (self.rates.caller, &actor.principal) else {
            return Ok(None);
        };
        let mut buckets = lock(&self.callers);
        buckets.take("caller", principal.clone(), rate, now).map(Some)
    }
}

fn lock<K>(buckets: &Mutex<Buckets<K>>) -> MutexGuard<'_, Buckets<K>> {
    buckets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For each key the time at which its bucket is full. What is not in it is full.
#[derive(Debug)]
struct Buckets<K>(HashMap<K, Instant>);

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl Rate {
    /// The time in which one request comes back.
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.get()
    }

    /// The time in which an empty bucket fills.
    fn window(self) -> Duration {
        self.interval() * self.burst.get()
    }
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    fn take(&mut self, name: &'static str, key: K, rate: Rate, now: Instant) -> Result<Level, Empty> {
        let full = self.0.get(&key).copied().unwrap_or(now).max(now);
        let after = full + rate.interval();
        let level = |full: Instant| {
            let full_in = full.saturating_duration_since(now);
            let left = rate.window().saturating_sub(full_in).as_nanos() / rate.interval().as_nanos().max(1);
            Level {
                name,
                rate,
                left: u32::try_from(left).unwrap_or(u32::MAX),
                full_in,
            }
        };
        let beyond = after.saturating_duration_since(now).saturating_sub(rate.window());
        if beyond > Duration::ZERO {
            return Err(Empty {
                level: level(full),
                wait: beyond,
            });
        }
        if self.0.len() >= MAX_BUCKETS && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        self.0.insert(key, after);
        Ok(level(after))
    }

    fn give_back(&mut self, key: &K, rate: Rate) {
        if let Some(full) = self.0.get_mut(key) {
            *full = full.checked_sub(rate.interval()).unwrap_or(*full);
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, full| *full > now);
        if self.0.len() >= MAX_BUCKETS
            && let Some(fullest) = self.0.iter().min_by_key(|(_, full)| **full)
        {
            let fullest = fullest.0.clone();
            self.0.remove(&fullest);
        }
    }
}

impl Level {
    /// Says it in the headers that the IETF's draft has (draft-ietf-httpapi-ratelimit-headers).
    pub(super) fn tell(self, headers: &mut HeaderMap) {
        let (name, rate) = (self.name, self.rate);
        let window = rate.window().as_secs().max(1);
        let values = [
            (
                RATE_LIMIT_POLICY,
                format!("\"{name}\";q={};w={window}", rate.burst),
            ),
            (
                RATE_LIMIT,
                format!("\"{name}\";r={};t={}", self.left, seconds(self.full_in)),
            ),
        ];
        for (name, value) in values {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

impl Empty {
    pub(super) fn refuse(self) -> Response {
        let wait = seconds(self.wait).max(1);
        let mut response = Problem::too_many_requests(wait);
        self.level.tell(response.headers_mut());
        response
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        let rate = rate(2, 3);
        for left in [2, 1, 0] {
            assert_eq!(buckets.take("t", 1, rate, start).unwrap().left, left);
        }
        let empty = buckets.take("t", 1, rate, start).unwrap_err();
        assert_eq!((empty.level.left, empty.wait), (0, Duration::from_millis(500)));
        assert!(buckets.take("t", 2, rate, start).is_ok(), "others have their own");
        let later = start + Duration::from_millis(500);
        assert_eq!(buckets.take("t", 1, rate, later).unwrap().left, 0);
        assert!(buckets.take("t", 1, rate, later).is_err());
        buckets.give_back(&1, rate);
        assert!(buckets.take("t", 1, rate, later).is_ok());
        assert_eq!(
            buckets
                .take("t", 1, rate, start + Duration::from_secs(60))
                .unwrap()
                .left,
            2,
            "no more than the burst is saved up"
        );
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_sent_most() {
        let (mut buckets, now) = (Buckets::default(), Instant::now());
        let rate = rate(1, 2);
        for _ in 0..2 {
            buckets.take("t", 0, rate, now).unwrap();
        }
        for key in 1..MAX_BUCKETS + 10 {
            buckets.take("t", key, rate, now).unwrap();
        }
        assert_eq!(buckets.0.len(), MAX_BUCKETS);
        assert!(buckets.take("t", 0, rate, now).is_err());
    }
}
