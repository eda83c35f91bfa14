//! What joins packets and what cuts them: the coalescer, which makes one large segment of those of one flow that come
//! behind each other, and the fragments of a datagram that is longer than the tunnel's MTU.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::{
    hint::black_box,
    net::{IpAddr, Ipv6Addr},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kakuremichi_tunnel::{
    packet::{
        Coalescer, MAX_COALESCED, Protocol, TcpFlags, fragment, transport_checksum, write_ip_header,
        write_udp,
    },
    peer::PeerId,
};

const PEER: PeerId = PeerId::new(0, 0);
/// The tunnel's MTU.
const MTU: usize = 1420;
/// IPv6's and TCP's.
const HEADERS: usize = 60;
/// Packets of one batch: a few more than fit one large segment.
const BATCH: usize = 64;

fn address(host: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host).into()
}

/// A full data segment of a flow, the `number`th one.
fn segment(flow: usize, number: usize) -> Vec<u8> {
    let mut packet = vec![7; MTU];
    let length = MTU - 40;
    let at = write_ip_header(address(1), address(2), Protocol::Tcp, length, &mut packet).expect("one family");
    let tcp = &mut packet[at..];
    tcp[..20].fill(0);
    tcp[..2].copy_from_slice(&(40_000 + flow as u16).to_be_bytes());
    tcp[2..4].copy_from_slice(&443_u16.to_be_bytes());
    tcp[4..8].copy_from_slice(&((number * (MTU - HEADERS)) as u32).to_be_bytes());
    tcp[12] = 0x50;
    tcp[13] = TcpFlags::ACK.bits();
    tcp[14..16].copy_from_slice(&1000_u16.to_be_bytes());
    let sum = transport_checksum(address(1), address(2), Protocol::Tcp, tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Joins a batch; how many packets came of it.
fn join(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> usize {
    let mut count = 0;
    let mut ingest = |_, packet: &[u8]| {
        count += 1;
        black_box(packet);
    };
    for packet in packets {
        coalescer.slot()[..packet.len()].copy_from_slice(packet);
        coalescer.commit(Some((PEER, packet.len())), &mut ingest);
    }
    coalescer.flush(&mut ingest);
    count
}

/// A batch of one flow, which is joined, and one of several that take turns, of which nothing is.
fn coalesce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packets/coalesce");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (flows, joined) in [(1, BATCH.div_ceil(MAX_COALESCED / (MTU - HEADERS))), (8, BATCH)] {
        let packets: Vec<_> = (0..BATCH)
            .map(|number| segment(number % flows, number / flows))
            .collect();
        let mut coalescer = Coalescer::new();
        assert_eq!(join(&mut coalescer, &packets), joined);
        group.bench_function(BenchmarkId::from_parameter(flows), |bencher| {
            bencher.iter(|| join(&mut coalescer, &packets));
        });
    }
    group.finish();
}

/// A long datagram, cut.
fn cut(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packets/fragment");
    for length in [8_000, 60_000] {
        let mut packet = vec![0; length + 100];
        let ends = ((address(1), 1000).into(), (address(2), 1000).into());
        let whole = write_udp(ends.0, ends.1, &[], &vec![7; length], &mut packet).expect("one family");
        let packet = &packet[..whole];
        let mut out = vec![0; MTU];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| fragment(packet, MTU, 1, &mut out, |part| _ = black_box(part)));
        });
    }
    group.finish();
}

criterion_group!(benches, coalesce, cut);
criterion_main!(benches);
