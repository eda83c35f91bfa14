//! What encryption costs: a packet sealed, and a datagram opened, by the device and by the bare cipher.
//!
//! The device's figure beside ring's is what peers, sessions, replay windows and allowed networks add.
//! Both sides copy the packet once: the netstack's packet is never the datagram.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::{
    hint::black_box,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kakuremichi_core::{net::Cidr, secret::Secret};
use kakuremichi_tunnel::{
    peer::PeerId,
    wg::{DatagramSink, Device, DeviceConfig, OVERHEAD, OuterPath, PeerConfig, Sealed},
};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// An acknowledgement, a packet of middle size, a full one.
const SIZES: [usize; 3] = [40, 576, 1420];
/// Datagrams that are sealed before they are opened, since each is opened once only. They stay in the
/// first-level cache's successor, as in the engine.
const BATCH: usize = 64;
/// Room for a full packet and what is added to it.
const ROOM: usize = 1536;
/// Bytes of the authentication tag.
const TAG: usize = 16;

/// What a device sent besides packets.
#[derive(Default)]
struct Wire(Vec<Vec<u8>>);

impl DatagramSink for Wire {
    fn datagram(&mut self, _: OuterPath, datagram: &[u8]) {
        self.0.push(datagram.to_vec());
    }
}

struct Pair {
    devices: [Device; 2],
    /// How each device calls the other one.
    peers: [PeerId; 2],
    wire: Wire,
    now: Instant,
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::new([192, 0, 2, number as u8].into(), 51820)
}

fn overlay(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number as u16)
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let mut devices = [0, 1].map(|number| {
            let secret = Secret::new([number as u8 + 1; 32]);
            Device::new(&DeviceConfig::new(secret, number), now)
        });
        for own in 0..2 {
            let other = 1 - own;
            let network = Cidr::host(IpAddr::from(overlay(other)));
            let mut peer = PeerConfig::new(devices[other].public_key(), vec![network]);
            peer.endpoint = Some(address(other));
            devices[own].set_peers(&[peer], now);
        }
        let peer = |own: usize| {
            let key = devices[1 - own].public_key();
            devices[own].peer(&key).expect("the other one is a peer")
        };
        let mut pair = Self {
            peers: [peer(0), peer(1)],
            devices,
            wire: Wire::default(),
            now,
        };
        pair.shake_hands();
        pair
    }

    /// Carries messages until both devices have a session.
    fn shake_hands(&mut self) {
        self.devices[0].initiate(self.peers[0], &mut self.wire, self.now);
        let mut to = 1;
        while !self.wire.0.is_empty() {
            let mut out = [0; ROOM];
            for datagram in std::mem::take(&mut self.wire.0) {
                let from = address(1 - to).into();
                self.devices[to].open(from, &datagram, &mut out, &mut self.wire, self.now);
            }
            to = 1 - to;
        }
        // The responder may send once it heard a packet.
        let mut datagram = [0; ROOM];
        let length = self.seal(&packet(40), &mut datagram);
        assert!(self.open(&datagram[..length], &mut [0; ROOM]));
    }

    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> usize {
        let sealed = self.devices[0].seal(self.peers[0], packet, out, &mut self.wire, self.now);
        match sealed {
            Sealed::Datagram { length, .. } => length,
            Sealed::Queued | Sealed::Dropped => 0,
        }
    }

    fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> bool {
        self.devices[1]
            .open(address(0).into(), datagram, out, &mut self.wire, self.now)
            .is_some()
    }
}

/// An IPv6 packet of so many bytes that device 0 may send.
fn packet(length: usize) -> Vec<u8> {
    let mut packet = vec![0; length];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(length as u16 - 40).to_be_bytes());
    // No next header (RFC 8200, section 4.7).
    packet[6] = 59;
    packet[8..24].copy_from_slice(&overlay(0).octets());
    packet[24..40].copy_from_slice(&overlay(1).octets());
    packet
}

fn seal(criterion: &mut Criterion) {
    let mut pair = Pair::new();
    let key = key();
    let mut group = criterion.benchmark_group("seal");
    for size in SIZES {
        let packet = packet(size);
        let mut out = [0; ROOM];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("device", size), |bencher| {
            bencher.iter(|| {
                let length = pair.seal(black_box(&packet), &mut out);
                assert_eq!(length, size + OVERHEAD);
            });
        });
        let mut counter = 0;
        group.bench_function(BenchmarkId::new("ring", size), |bencher| {
            bencher.iter(|| {
                counter += 1;
                seal_bare(&key, counter, black_box(&packet), &mut out);
            });
        });
    }
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let mut pair = Pair::new();
    let key = key();
    let mut group = criterion.benchmark_group("open");
    for size in SIZES {
        let packet = packet(size);
        let mut datagrams = vec![[0; ROOM]; BATCH];
        let mut out = [0; ROOM];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("device", size), |bencher| {
            bencher.iter_custom(|count| {
                in_batches(count, |count| {
                    for datagram in &mut datagrams[..count] {
                        pair.seal(&packet, datagram);
                    }
                    let start = Instant::now();
                    for datagram in &datagrams[..count] {
                        assert!(pair.open(black_box(&datagram[..size + OVERHEAD]), &mut out));
                    }
                    start.elapsed()
                })
            });
        });
        group.bench_function(BenchmarkId::new("ring", size), |bencher| {
            bencher.iter_custom(|count| {
                in_batches(count, |count| {
                    for (counter, datagram) in datagrams[..count].iter_mut().enumerate() {
                        seal_bare(&key, counter as u64, &packet, datagram);
                    }
                    let start = Instant::now();
                    for (counter, datagram) in datagrams[..count].iter().enumerate() {
                        out[..size + TAG].copy_from_slice(black_box(&datagram[..size + TAG]));
                        let opened =
                            key.open_in_place(nonce(counter as u64), Aad::empty(), &mut out[..size + TAG]);
                        assert!(opened.is_ok());
                    }
                    start.elapsed()
                })
            });
        });
    }
    group.finish();
}

/// Does something so many times, at most [`BATCH`] at once, and adds up what it took.
fn in_batches(count: u64, mut batch: impl FnMut(usize) -> Duration) -> Duration {
    let (mut left, mut took) = (count, Duration::ZERO);
    while left > 0 {
        let now = left.min(BATCH as u64);
        took += batch(now as usize);
        left -= now;
    }
    took
}

fn key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).expect("a key of 32 bytes"))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The cipher alone, laid out as the device does.
fn seal_bare(key: &LessSafeKey, counter: u64, packet: &[u8], out: &mut [u8]) {
    let (body, rest) = out.split_at_mut(packet.len());
    body.copy_from_slice(packet);
    let tag = key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), body);
    rest[..TAG].copy_from_slice(tag.expect("a packet can be sealed").as_ref());
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = seal, open
}
criterion_main!(benches);
