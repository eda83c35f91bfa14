//! The limiter in front of initiations.

use std::{
    hash::{DefaultHasher, Hasher},
    net::IpAddr,
    time::Instant,
};

use super::{
    HandshakeLimits,
    bucket::{Bucket, Rate},
    cipher::{HANDSHAKE_ROOM, Identity, Proof},
};

/// Senders that are remembered: `SETS` times `WAYS`, 80 kB. One more takes the place of the one in
/// its set that was quiet for longest; the rates of all senders together hold all the same.
const SETS: usize = 256;
const WAYS: usize = 4;

/// What becomes of an initiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Work on it.
    Admit,
    /// Send the first so many bytes of the buffer back.
    Challenge(usize),
    /// Drop it: beyond a rate.
    Limited,
}

#[derive(Debug)]
pub(super) struct Limiter {
    rates: Rates,
    unproven: Bucket,
    proven: Bucket,
    cookies: Bucket,
    sources: Vec<Option<Source>>,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Rates {
    unproven: Rate,
    proven: Rate,
    source: Rate,
    cookies: Rate,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    prefix: u128,
    unproven: Bucket,
    proven: Bucket,
}

impl Limiter {
    pub(super) fn new(limits: &HandshakeLimits, seed: u64, now: Instant) -> Self {
        Self {
            rates: Rates {
                unproven: Rate::new(limits.unproven_per_second, limits.unproven_per_second / 4),
                proven: Rate::new(limits.proven_per_second, limits.proven_per_second),
                source: Rate::new(limits.per_source_second, limits.per_source_burst),
                cookies: Rate::new(limits.cookies_per_second, limits.cookies_per_second / 4),
            },
            unproven: Bucket::full(now),
            proven: Bucket::full(now),
            cookies: Bucket::full(now),
            sources: vec![None; SETS * WAYS],
            seed,
        }
    }

    /// Judges an initiation whose sender knows our key.
    pub(super) fn judge(
        &mut self,
        identity: &Identity,
        from: IpAddr,
        datagram: &[u8],
        now: Instant,
        out: &mut [u8; HANDSHAKE_ROOM],
    ) -> Verdict {
        let rates = self.rates;
        let at = self.find(prefix(from), now);
        let Some(source) = &mut self.sources[at] else {
            return Verdict::Limited;
        };
        if source.unproven.take(rates.source, now) && self.unproven.take(rates.unproven, now) {
            return Verdict::Admit;
        }
        if !has_mac2(datagram) && !self.cookies.has(rates.cookies, now) {
            // Nothing could come of it.
            return Verdict::Limited;
        }
        match identity.verify_mac2(from, datagram, out) {
            // Counted only now: whoever forges an address spends nobody else's tokens.
            Proof::Proven if source.proven.take(rates.source, now) && self.proven.take(rates.proven, now) => {
                Verdict::Admit
            }
            Proof::Challenge(length) if self.cookies.take(rates.cookies, now) => Verdict::Challenge(length),
            Proof::Proven | Proof::Challenge(_) | Proof::Invalid => Verdict::Limited,
        }
    }

    /// The entry of a sender, made if there is none.
    fn find(&mut self, prefix: u128, now: Instant) -> usize {
        let first = self.hash(prefix) % SETS * WAYS;
        let set = &mut self.sources[first..first + WAYS];
        let known = set
            .iter()
            .position(|entry| entry.is_some_and(|entry| entry.prefix == prefix));
        let at = known.unwrap_or_else(|| {
            let quiet = |entry: &Option<Source>| entry.map(|e| e.unproven.full_at().max(e.proven.full_at()));
            let oldest = (0..WAYS).min_by_key(|at| quiet(&set[*at])).unwrap_or(0);
            set[oldest] = Some(Source {
                prefix,
                unproven: Bucket::full(now),
                proven: Bucket::full(now),
            });
            oldest
        });
        first + at
    }

    /// Keyed, so that nobody can choose addresses that share a set.
    fn hash(&self, prefix: u128) -> usize {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write_u128(prefix);
        hasher.finish() as usize
    }
}

/// Whether a sender claims to have a cookie.
fn has_mac2(datagram: &[u8]) -> bool {
    datagram.last_chunk::<16>().is_some_and(|mac2| *mac2 != [0; 16])
}

/// An IPv4 address, or the network that one IPv6 subscriber has at least.
fn prefix(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}
