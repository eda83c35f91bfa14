//! The netstack by itself: two stacks in one thread, joined in memory, without encryption or sockets.
//!
//! `bulk` moves data through one flow, with the copies that a tunnel makes (into the ring, into a
//! packet, out of a packet, out of the ring); what it gives is bytes per second of one core for both
//! ends. `request` is a small message and its answer on an open flow, beside idle ones. `datagrams` is a batch of
//! them in a session, of which the longest travel in fragments.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kakuremichi_tunnel::{
    netstack::{Event, FlowId, PacketSink, Received, SessionId, Settings, Stack},
    packet::Coalescer,
    peer::PeerId,
};

const PEER: PeerId = PeerId::new(0, 0);
const PORT: u16 = 80;
/// Datagrams that are sent in one turn.
const BATCH: usize = 64;

/// What one stack sent, one packet behind the other.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl PacketSink for Wire {
    fn packet(&mut self, _: PeerId, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.lengths.push(packet.len());
    }

    fn ready(&self) -> bool {
        true
    }
}

struct End {
    stack: Stack,
    wire: Wire,
    joiner: Coalescer,
}

struct Pair {
    ends: [End; 2],
    now: Instant,
}

impl Pair {
    fn new(ring: usize, flows: usize) -> Self {
        let now = Instant::now();
        let end = |host: u16| {
            let address = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host);
            let mut settings = Settings {
                ipv6: Some(address),
                ring,
                ..Settings::default()
            };
            settings.limits.flows = flows;
            settings.limits.flows_per_peer = flows;
            settings.limits.half_open = flows;
            settings.limits.half_open_per_peer = flows;
            let mut stack = Stack::new(settings, u64::from(host), now).expect("settings in range");
            stack.listen([PORT]);
            stack.listen_udp([PORT]);
            End {
                stack,
                wire: Wire::default(),
                joiner: Coalescer::new(),
            }
        };
        Self {
            ends: [end(1), end(2)],
            now,
        }
    }

    /// An open flow: its name at either end.
    fn open(&mut self) -> (FlowId, FlowId) {
        let address = |host: u16| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host);
        let remote = (address(2), PORT).into();
        let flow = self.ends[0]
            .stack
            .connect(PEER, address(1).into(), remote, self.now)
            .expect("room for a flow");
        loop {
            self.turn();
            while let Some(event) = self.ends[1].stack.poll_event() {
                if let Event::Incoming { flow: accepted, .. } = event {
                    while self.ends[0].stack.poll_event().is_some() {}
                    return (flow, accepted);
                }
            }
        }
    }

    /// A session of datagrams, as the end that opens it calls it.
    fn open_session(&mut self) -> SessionId {
        let address = |host: u16| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host);
        let remote = (address(2), PORT).into();
        let idle = Duration::from_secs(600);
        self.ends[0]
            .stack
            .open_session(PEER, address(1).into(), remote, idle, self.now)
            .expect("room for a session")
    }

    /// Sends a batch of datagrams, and takes them out at the other end.
    fn datagrams(&mut self, session: SessionId, data: &[u8], received: &mut Received) {
        let End { stack, wire, .. } = &mut self.ends[0];
        for _ in 0..BATCH {
            stack
                .send_datagram(session, &[], data, self.now, wire)
                .expect("an open session");
        }
        self.turn();
        while self.ends[1].stack.poll_event().is_some() {}
        self.ends[1].stack.take_received(received);
        assert_eq!(received.iter().map(black_box).count(), BATCH);
        received.clear();
    }

    /// Each end sends, and the other takes in what it did.
    fn turn(&mut self) {
        self.now += Duration::from_micros(20);
        for from in 0..2 {
            let [one, other] = &mut self.ends;
            let (from, to) = if from == 0 { (one, other) } else { (other, one) };
            from.stack.handle_timeout(self.now);
            from.stack.transmit(self.now, &mut from.wire);
            let mut at = 0;
            for length in from.wire.lengths.drain(..) {
                to.joiner.slot()[..length].copy_from_slice(&from.wire.bytes[at..at + length]);
                at += length;
                to.joiner.commit(Some((PEER, length)), |peer, packet| {
                    to.stack.handle_packet(peer, packet, self.now, &mut to.wire);
                });
            }
            from.wire.bytes.clear();
            to.joiner
                .flush(|peer, packet| to.stack.handle_packet(peer, packet, self.now, &mut to.wire));
        }
    }

    /// Sends so many bytes over a flow and takes them out at the other end.
    fn send(&mut self, (from, to): (FlowId, FlowId), total: usize, chunk: &mut [u8]) {
        let (mut left, mut missing) = (total, total);
        while missing > 0 {
            while left > 0
                && let Some(sent) = self.ends[0].stack.send(from, |room| {
                    let length = room.len().min(chunk.len()).min(left);
                    room[..length].copy_from_slice(&chunk[..length]);
                    (length, length)
                })
            {
                left -= sent;
            }
            self.turn();
            while let Some(taken) = self.ends[1].stack.recv(to, |bytes| {
                let length = bytes.len().min(chunk.len());
                chunk[..length].copy_from_slice(&bytes[..length]);
                (length, length)
            }) {
                missing -= taken;
            }
            while self.ends[0].stack.poll_event().is_some() || self.ends[1].stack.poll_event().is_some() {}
        }
    }

    /// Sends a small message, and has it answered.
    fn request(&mut self, (from, to): (FlowId, FlowId)) {
        for (end, (sender, receiver)) in [(0, (from, to)), (1, (to, from))] {
            self.ends[end].stack.send(sender, |room| {
                room[..500].fill(1);
                (500, ())
            });
            let mut missing = 500;
            while missing > 0 {
                self.turn();
                while let Some(taken) = self.ends[1 - end]
                    .stack
                    .recv(receiver, |bytes| (bytes.len(), black_box(bytes).len()))
                {
                    missing -= taken;
                }
                while self.ends[0].stack.poll_event().is_some() || self.ends[1].stack.poll_event().is_some() {
                }
            }
        }
    }
}

fn bulk(criterion: &mut Criterion) {
    const TOTAL: usize = 64 << 20;
    let mut group = criterion.benchmark_group("netstack/bulk");
    group.throughput(Throughput::Bytes(TOTAL as u64)).sample_size(10);
    for ring in [256 << 10, 512 << 10, 1 << 20] {
        let mut pair = Pair::new(ring, 4);
        let flow = pair.open();
        let mut chunk = vec![7; 64 << 10];
        pair.send(flow, TOTAL, &mut chunk);
        group.bench_function(BenchmarkId::from_parameter(ring >> 10), |bencher| {
            bencher.iter(|| pair.send(flow, TOTAL, &mut chunk));
        });
    }
    group.finish();
}

fn request(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("netstack/request");
    for flows in [1, 10_000] {
        let mut pair = Pair::new(64 << 10, flows);
        let names: Vec<_> = (0..flows).map(|_| pair.open()).collect();
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(flows), |bencher| {
            bencher.iter(|| {
                next = (next + 7_919) % flows;
                pair.request(names[next]);
            });
        });
    }
    group.finish();
}

fn datagrams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("netstack/datagrams");
    group.throughput(Throughput::Elements(BATCH as u64));
    for length in [64, 1_200, 8_000] {
        let mut pair = Pair::new(64 << 10, 4);
        let session = pair.open_session();
        let data = vec![7; length];
        let mut received = Received::default();
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| pair.datagrams(session, &data, &mut received));
        });
    }
    group.finish();
}

/// A flow from its SYN until both ends have forgotten it.
fn connect(criterion: &mut Criterion) {
    let mut pair = Pair::new(64 << 10, 16);
    criterion.bench_function("netstack/connect", |bencher| {
        bencher.iter(|| {
            let (from, to) = pair.open();
            pair.ends[0].stack.shutdown(from);
            pair.ends[1].stack.shutdown(to);
            while pair.ends[0].stack.flows() + pair.ends[1].stack.flows() > 0 {
                pair.turn();
                for end in &mut pair.ends {
                    while let Some(event) = end.stack.poll_event() {
                        if let Event::Closed { flow, .. } = event {
                            end.stack.release(flow);
                        }
                    }
                }
            }
        });
    });
}

criterion_group!(benches, bulk, request, datagrams, connect);
criterion_main!(benches);
