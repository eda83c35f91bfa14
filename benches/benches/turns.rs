//! What is done once for each flow that sends: whose turn it is, and when its timer runs out. With more flows neither
//! may take longer than the processor's caches make it.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kakuremichi_tunnel::{
    netstack::QUANTUM,
    peer::PeerId,
    testing::{Timers, Turns},
};

const FLOWS: [u32; 3] = [10, 1_000, 10_000];
/// Bytes of a turn of a flow that sends little.
const LITTLE: usize = 500;
/// Ticks until a segment is sent again.
const RETRANSMISSION: u64 = 200;

/// One turn of flows that always have more to send, every other one of them much: those of one peer, and those of as
/// many peers.
fn schedule(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turns/schedule");
    for (name, peers) in [("one peer", 1), ("a peer each", u32::MAX)] {
        for flows in FLOWS {
            let mut turns = Turns::default();
            let peer = |flow: u32| PeerId::new(flow % peers, 0);
            let is_heavy = |flow: u32| flow % 2 == 1;
            for flow in 0..flows {
                turns.push(peer(flow), flow, is_heavy(flow));
            }
            group.bench_function(BenchmarkId::new(name, flows), |bencher| {
                bencher.iter(|| {
                    let (slot, flow) = turns.pop().expect("all flows are queued");
                    let heavy = is_heavy(flow);
                    turns.push(peer(flow), flow, heavy);
                    turns.charge(slot, if heavy { QUANTUM } else { LITTLE });
                    black_box(flow)
                });
            });
        }
    }
    group.finish();
}

/// `moved` are timers that are moved later with each segment, which is nearly all of them: one of them, with its share of
/// a tick. `run out` are timers that nobody moves: all of them run out once, and are set again.
fn timers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turns/timers");
    for flows in FLOWS {
        let mut due = Vec::new();
        let (mut timers, mut now, mut next) = (Timers::new(), 0, 0);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("moved", flows), |bencher| {
            bencher.iter(|| {
                timers.set(next, now + RETRANSMISSION);
                next += 1;
                if next == flows {
                    (now, next) = (now + 1, 0);
                    timers.expire(now, &mut due);
                }
            });
        });
        assert!(due.is_empty(), "a timer ran out that was moved");
        let (mut timers, mut now) = (Timers::new(), 0);
        for flow in 0..flows {
            timers.set(flow, 1 + u64::from(flow) % RETRANSMISSION);
        }
        group.throughput(Throughput::Elements(flows.into()));
        group.bench_function(BenchmarkId::new("run out", flows), |bencher| {
            bencher.iter(|| {
                for _ in 0..RETRANSMISSION {
                    now += 1;
                    timers.expire(now, &mut due);
                    for flow in due.drain(..) {
                        timers.set(flow, now + RETRANSMISSION);
                    }
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, schedule, timers);
criterion_main!(benches);
