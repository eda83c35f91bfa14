//! Who is called when, and how often: a node that starts with thousands of peers.

#![expect(clippy::disallowed_methods, reason = "a test's first instant")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};

use crate::{
    engine::{
        EngineLimits,
        peers::{PeerTable, Task},
    },
    lane::Timing,
    peer::PeerId,
    wg::{Device, DeviceConfig, PeerConfig},
};

/// A shard that knows where its peers are, none of which is there.
struct Shard {
    device: Device,
    table: PeerTable,
    now: Instant,
    calls: BTreeMap<PeerId, usize>,
}

impl Shard {
    /// One of so many, with so many peers of its own.
    fn start(shards: u8, peers: u32) -> Self {
        let now = Instant::now();
        let config = DeviceConfig::new(Secret::new([1; 32]), 1);
        let mut device = Device::for_shards(&config, shards, now).remove(0);
        let overlay = |number: u32| IpAddr::from(Ipv6Addr::from(u128::from(number) | (0xfd << 120)));
        let configs: Vec<PeerConfig> = (0..peers)
            .map(|number| {
                let mut key = [7; 32];
                // The first shard's: its number is what the first bytes leave.
                key[..8].copy_from_slice(&(u64::from(number) * u64::from(shards)).to_le_bytes());
                let key = WireGuardKey::from_bytes(key);
                let mut peer = PeerConfig::new(key, vec![Cidr::host(overlay(number))]);
                peer.endpoint = Some(SocketAddr::from(([127, 0, 0, 1], 9)));
                peer
            })
            .collect();
        device.set_peers(&configs, now);
        let limits = EngineLimits::default();
        let mut table = PeerTable::new(Timing::sparing(), &limits, shards, 1_420, 1, now);
        for (number, config) in (0..).zip(&configs) {
            let id = device.peer(&config.public_key).unwrap();
            table.set(id, config.public_key, Some(overlay(number)), now);
        }
        Self {
            device,
            table,
            now,
            calls: BTreeMap::new(),
        }
    }

    /// Lets time pass, and returns the most calls that came together.
    fn run(&mut self, time: Duration) -> usize {
        let end = self.now + time;
        let mut tick = self.now;
        let mut most = 0;
        while self.now < end {
            let mut tasks = Vec::new();
            if self.now >= tick {
                tick = self.now + Duration::from_millis(250);
                self.table.handle_timeout(&self.device, self.now, &mut tasks);
            }
            self.table.call(&self.device, self.now, &mut tasks);
            let called = tasks.iter().filter_map(|task| match task {
                Task::Initiate(peer) => Some(*peer),
                _ => None,
            });
            let before: usize = self.calls.values().sum();
            called.for_each(|peer| *self.calls.entry(peer).or_default() += 1);
            most = most.max(self.calls.values().sum::<usize>() - before);
            self.now = tick.min(self.table.call_at().unwrap_or(tick)).max(self.now);
        }
        most
    }
}

#[test]
fn thousands_of_peers_are_called_in_turn_and_none_twice_before_the_last_one() {
    for shards in [1, 4] {
        let peers = 2_000 / u32::from(shards);
        let mut shard = Shard::start(shards, peers);
        assert!(shard.run(Duration::from_secs(1)) <= 8);
        let called: usize = shard.calls.values().sum();
        let wanted = 1_000 / usize::from(shards);
        assert!(
            called.abs_diff(wanted) <= wanted / 10,
            "{shards} shards: {called}"
        );
        // Those that gave no answer want to be called again; nobody waits longer for it.
        shard.run(Duration::from_millis(1_250));
        assert_eq!(shard.calls.len(), peers as usize, "{shards} shards");
        assert!(shard.calls.values().all(|calls| *calls <= 2));
    }
}

#[test]
fn a_few_peers_are_called_at_once() {
    let mut shard = Shard::start(1, 5);
    shard.run(Duration::from_millis(1));
    assert_eq!(shard.calls.len(), 5);
}
