//! What all connections of a stack share: smoltcp's interface with the stack's addresses, and the
//! clock.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use smoltcp::{
    iface::{Config, Interface},
    time,
    wire::{HardwareAddress, IpCidr},
};

use super::{PacketSink, device::Port, rim::Rim, track::Track};
use crate::peer::PeerId;

/// How many times faster than the world's smoltcp's clock goes.
///
/// smoltcp retransmits after a second at the earliest (RFC 6298) and measures round trips in
/// milliseconds; other stacks have long gone down to a fifth of a second. What is a second to smoltcp
/// is a quarter of one here. All durations given to smoltcp pass through [`span`].
const PACE: u32 = 4;

/// Where smoltcp's clock begins: it takes its time zero for "long ago".
const BEGIN: time::Duration = time::Duration::from_secs(1);

/// Addresses and clock.
pub(super) struct Host {
    pub(super) interface: Interface,
    begin: Instant,
}

/// A device that leads nowhere, for the moment at which an interface wants to see one.
struct Nowhere;

impl PacketSink for Nowhere {
    fn packet(&mut self, _: PeerId, _: &[u8]) {}

    fn ready(&self) -> bool {
        false
    }
}

impl Host {
    pub(super) fn new(rim: &mut Rim, seed: u64, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let (track, sink) = (&mut Track::default(), &mut Nowhere);
        let mut port = Port {
            input: None,
            rim,
            track,
            peer: PeerId::new(0, 0),
            sink,
        };
        let begin = time::Instant::ZERO + BEGIN;
        Self {
            interface: Interface::new(config, &mut port, begin),
            begin: now,
        }
    }

    /// Sets the addresses, which must be those of hosts.
    pub(super) fn set_addresses(&mut self, ipv6: Option<Ipv6Addr>, ipv4: Option<Ipv4Addr>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // There is room for two, however smoltcp was configured.
            let _ = ipv6.map(|address| addresses.push(IpCidr::new(address.into(), 128)));
            let _ = ipv4.map(|address| addresses.push(IpCidr::new(address.into(), 32)));
        });
    }

    /// The tick, a millisecond, that `now` lies in.
    pub(super) fn tick(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begin).as_millis() as u64
    }

    /// When a tick begins.
    pub(super) fn instant(&self, tick: u64) -> Instant {
        self.begin + Duration::from_millis(tick)
    }

    /// `now` on smoltcp's clock.
    pub(super) fn time(&self, now: Instant) -> time::Instant {
        let since = now.saturating_duration_since(self.begin).as_micros() as u64;
        time::Instant::ZERO + BEGIN + time::Duration::from_micros(since * u64::from(PACE))
    }

    /// The first tick at or after a time on smoltcp's clock.
    pub(super) fn tick_at(&self, time: time::Instant) -> u64 {
        let since = time.total_micros() - BEGIN.total_micros() as i64;
        (since.max(0) as u64).div_ceil(1_000 * u64::from(PACE))
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("addresses", &self.interface.ip_addrs())
            .finish_non_exhaustive()
    }
}

/// A duration on smoltcp's clock.
pub(super) fn span(duration: Duration) -> time::Duration {
    (duration * PACE).into()
}
