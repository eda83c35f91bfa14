//! How often an address may be wrong.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use crate::gateway::ingress::address_group;

/// Wrong credentials that an address may show one after the other.
const BURST: u32 = 10;
/// The time after which it may show one more.
const REFILL: Duration = Duration::from_secs(6);
/// Addresses that are remembered. Beyond, the one that failed first is forgotten.
const ADDRESSES: usize = 8192;

/// Counts wrong credentials per address (IPv6: per /64).
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failures: FxHashMap<IpAddr, Failures>,
    order: VecDeque<IpAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// Up to here the count has been lowered.
    since: Instant,
}

impl Failures {
    fn at(self, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.since);
        let refilled = u32::try_from(passed.as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        match self.count.saturating_sub(refilled) {
            0 => Self { count: 0, since: now },
            count => Self {
                count,
                since: self.since + REFILL * refilled,
            },
        }
    }
}

impl Attempts {
    /// Whether a credential from `address` is looked at; otherwise, how long to wait.
    pub(crate) fn admit(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let Some(failures) = self.failures.get(&address_group(address)) else {
            return Ok(());
        };
        let failures = failures.at(now);
        if failures.count < BURST {
            return Ok(());
        }
        Err((failures.since + REFILL).saturating_duration_since(now))
    }

    /// A credential from `address` was wrong.
    pub(crate) fn failed(&mut self, address: IpAddr, now: Instant) {
        let address = address_group(address);
        if let Some(failures) = self.failures.get_mut(&address) {
            *failures = failures.at(now);
            failures.count += 1;
            return;
        }
        if self.order.len() >= ADDRESSES
            && let Some(oldest) = self.order.pop_front()
        {
            self.failures.remove(&oldest);
        }
        self.order.push_back(address);
        self.failures.insert(address, Failures { count: 1, since: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs some instant")]
    fn an_address_that_is_wrong_too_often_waits() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        let address = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..BURST {
            assert_eq!(attempts.admit(address, now), Ok(()));
            attempts.failed(address, now);
        }
        assert_eq!(attempts.admit(address, now), Err(REFILL));
        assert_eq!(attempts.admit(IpAddr::from([192, 0, 2, 2]), now), Ok(()));
        let later = now + REFILL;
        assert_eq!(attempts.admit(address, later), Ok(()));
        attempts.failed(address, later);
        assert!(attempts.admit(address, later).is_err());
        assert_eq!(attempts.admit(address, later + REFILL * BURST), Ok(()));
    }

    /// LESSONS, advisory 7: per-address caps hold for IPv6, where an address costs nothing.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs some instant")]
    fn a_network_of_one_visitor_counts_as_one() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        for host in 0..BURST {
            attempts.failed(format!("2001:db8::{host:x}").parse().unwrap(), now);
        }
        assert!(attempts.admit("2001:db8::ffff".parse().unwrap(), now).is_err());
        assert!(attempts.admit("2001:db8:0:1::1".parse().unwrap(), now).is_ok());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs some instant")]
    fn the_table_is_bounded() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        for number in 0..u32::try_from(ADDRESSES).unwrap() + 10 {
            attempts.failed(IpAddr::from(number.to_be_bytes()), now);
        }
        assert_eq!(attempts.failures.len(), ADDRESSES);
        assert_eq!(attempts.order.len(), ADDRESSES);
    }
}
