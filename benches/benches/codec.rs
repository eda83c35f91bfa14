//! What Control and a node spend on the control link, and a gateway and an agent on the head of a flow.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kakuremichi_core::{
    id::{GatewayId, NodeId, ServiceId, TargetId},
    plan::{AgentRecord, GatewayRecord},
};
use kakuremichi_proto::{
    frame::{self, Message, Tag},
    plan::{ChangeParser, ChangeWriter, PlanBuilder, StreamError, WirePlan},
    preface::{ConnectionId, Preface},
    session::PLAN_PIECE,
    testing::samples,
};

/// Services of the large plan.
const SERVICES: u32 = 10_000;

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    for tag in [Tag::Ping, Tag::Declare, Tag::Usage] {
        let message = samples::message(tag);
        let bytes = encode(&message);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("encode {tag}"), |b| {
            b.iter(|| black_box(&message).encode())
        });
        group.bench_function(format!("decode {tag}"), |b| {
            b.iter(|| frame::decode(black_box(&bytes)))
        });
    }
    group.finish();
}

fn plans(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    group.sample_size(20);
    let plan = samples::gateway_plan(1, SERVICES);
    let wire = wire(&plan);
    let newer = self::wire(&samples::gateway_plan(2, SERVICES + 1));
    let node = NodeId::from(GatewayId::from_bytes([0x90; 16]));
    let file = wire.to_bytes();
    group.throughput(Throughput::Bytes(file.len() as u64));
    group.bench_function("domain to wire, 10,000 services", |b| {
        b.iter(|| WirePlan::from_plan(black_box(&plan)))
    });
    group.bench_function("wire to domain, 10,000 services", |b| {
        b.iter(|| black_box(&wire).to_plan::<GatewayRecord>(node));
    });
    group.bench_function("read from disk, 10,000 services", |b| {
        b.iter(|| WirePlan::from_bytes(black_box(&file)))
    });
    group.bench_function("send and receive a snapshot, 10,000 services", |b| {
        b.iter(|| {
            let (mut writer, mut parser) = (ChangeWriter::new(wire.contents()), ChangeParser::default());
            let mut builder = PlanBuilder::default();
            while let Some(piece) = writer.next_piece(PLAN_PIECE) {
                let apply = |change| builder.apply(change).map_err(|_| StreamError::Malformed);
                assert_eq!(parser.push(&piece, apply), Ok(()));
            }
            builder.finish(wire.revision())
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("one service more, of 10,000: find it", |b| {
        b.iter(|| wire.changes_to(black_box(&newer)))
    });
    group.bench_function("one service more, of 10,000: apply and hash", |b| {
        let changes = wire.changes_to(&newer);
        b.iter_batched(
            || changes.clone(),
            |changes| {
                let mut builder = PlanBuilder::from_plan(&wire);
                for change in changes {
                    assert_eq!(builder.apply(change), Ok(()));
                }
                builder.finish(newer.revision())
            },
            BatchSize::SmallInput,
        );
    });
    let agent = samples::agent_plan(1, 10);
    group.bench_function("an agent's plan of 10 services, both ways", |b| {
        let node = agent.node().map(|node| NodeId::from(node.id));
        b.iter(|| {
            let wire = WirePlan::from_plan(black_box(&agent));
            wire.ok()
                .zip(node)
                .map(|(wire, node)| wire.to_plan::<AgentRecord>(node))
        });
    });
    group.finish();
}

fn prefaces(c: &mut Criterion) {
    let mut group = c.benchmark_group("preface");
    let preface = Preface {
        source: ([198, 51, 100, 7], 40_000).into(),
        destination: ([203, 0, 113, 1], 443).into(),
        gateway: GatewayId::from_bytes([1; 16]),
        relay: None,
        connection: ConnectionId([2; 16]),
        service: ServiceId::from_bytes([3; 16]),
        target: TargetId::from_bytes([4; 16]),
        tls: None,
        principal: None,
    };
    let mut bytes = Vec::with_capacity(1024);
    group.bench_function("encode", |b| {
        b.iter(|| {
            bytes.clear();
            black_box(&preface).encode(&mut bytes)
        });
    });
    group.bench_function("parse", |b| b.iter(|| Preface::parse(black_box(&bytes))));
    group.finish();
}

fn encode(message: &Message) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "samples fit in a frame")]
    message.encode().expect("a frame")
}

fn wire(plan: &kakuremichi_core::plan::GatewayPlan) -> WirePlan {
    #[expect(clippy::expect_used, reason = "samples have a form on the wire")]
    WirePlan::from_plan(plan).expect("a plan")
}

criterion_group!(benches, frames, plans, prefaces);
criterion_main!(benches);
