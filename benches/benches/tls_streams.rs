//! A connection of a lane of TLS streams: two ends in one thread, joined in memory by a real TLS 1.3 session, beside
//! rustls alone with the same configurations, which moves the same bytes.
//!
//! `bulk` moves data between a visitor and a target, `request` is 500 bytes and their echo on an open flow, and
//! `datagrams` is a batch of them in a session. What is not rustls's is the records, the pump or the session's
//! queues, and the pipes of both sockets and of the lane.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::{
    hint::black_box,
    io::{self, Read as _, Write as _},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kakuremichi_tunnel::{
    session::TunnelSession,
    testing::lane::{LaneEnd, tls_configs},
};
use rustls::{ClientConnection, ConnectionCommon, ServerConnection, SideData, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Bytes of one bulk run.
const BULK: usize = 16 << 20;
/// Bytes that are written and read at once, and as many as the pump reads at once.
const CHUNK: usize = 64 << 10;
/// Bytes of a request, and of its answer.
const REQUEST: usize = 500;
/// What a socket takes before anybody reads.
const SOCKET: usize = 256 << 10;
/// What the lane takes: no datagram of a batch waits, since one that would is dropped.
const LANE: usize = 1 << 20;
/// Datagrams of one batch.
const BATCH: usize = 128;

fn name() -> ServerName<'static> {
    ServerName::try_from("lane.kakuremichi.invalid").expect("a name")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}

/// The two ends of a connection, the gateway's and the agent's.
async fn connection() -> (LaneEnd, LaneEnd) {
    let (client, server) = tls_configs().expect("TLS 1.3");
    let (near, far) = duplex(LANE);
    let (near, far) = tokio::join!(
        TlsAcceptor::from(server).accept(near),
        TlsConnector::from(client).connect(name(), far),
    );
    (
        LaneEnd::new(near.expect("a handshake")),
        LaneEnd::new(far.expect("a handshake")),
    )
}

/// A flow between a visitor's socket and a target's.
struct Flow {
    runtime: Runtime,
    visitor: DuplexStream,
    target: DuplexStream,
}

impl Flow {
    fn new() -> Self {
        let runtime = runtime();
        let (visitor, near_socket) = duplex(SOCKET);
        let (target, far_socket) = duplex(SOCKET);
        runtime.block_on(async {
            let (near, far) = connection().await;
            tokio::spawn(near.serve(near_socket));
            tokio::spawn(far.serve(far_socket));
        });
        Self {
            runtime,
            visitor,
            target,
        }
    }

    /// The visitor's socket and the target's, or the other way round.
    fn ends(&mut self, up: bool) -> (&Runtime, &mut DuplexStream, &mut DuplexStream) {
        if up {
            (&self.runtime, &mut self.visitor, &mut self.target)
        } else {
            (&self.runtime, &mut self.target, &mut self.visitor)
        }
    }
}

/// Two ends of TLS without anything else.
struct Alone {
    gateway: ServerConnection,
    agent: ClientConnection,
    /// What is under way.
    wire: Vec<u8>,
    chunk: Vec<u8>,
}

impl Alone {
    fn new() -> Self {
        let (client, server) = tls_configs().expect("TLS 1.3");
        let mut this = Self {
            gateway: ServerConnection::new(server).expect("a session"),
            agent: ClientConnection::new(client, name()).expect("a session"),
            wire: Vec::new(),
            chunk: vec![0; CHUNK],
        };
        this.gateway.set_buffer_limit(None);
        this.agent.set_buffer_limit(None);
        while this.gateway.is_handshaking() || this.agent.is_handshaking() {
            this.carry(false);
            this.carry(true);
        }
        this.carry(true);
        this
    }

    /// Takes what one end has to send to the other one; how much data came out.
    fn carry(&mut self, up: bool) -> usize {
        let Self {
            gateway,
            agent,
            wire,
            chunk,
        } = self;
        if up {
            carry(gateway, agent, wire, chunk)
        } else {
            carry(agent, gateway, wire, chunk)
        }
    }

    /// Sends data and takes them out at the other end.
    fn send(&mut self, up: bool, data: &[u8]) {
        let mut writer = if up {
            self.gateway.writer()
        } else {
            self.agent.writer()
        };
        writer.write_all(data).expect("an open session");
        assert_eq!(self.carry(up), data.len());
    }
}

fn carry<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
    wire: &mut Vec<u8>,
    chunk: &mut [u8],
) -> usize {
    wire.clear();
    while from.wants_write() {
        from.write_tls(wire).expect("memory takes everything");
    }
    let (mut rest, mut received) = (&wire[..], 0);
    while !rest.is_empty() {
        to.read_tls(&mut rest).expect("whole records");
        to.process_new_packets().expect("an open session");
        loop {
            match to.reader().read(chunk) {
                Ok(length) => received += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    black_box(chunk);
    received
}

fn bulk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tls_streams/bulk");
    group.throughput(Throughput::Bytes(BULK as u64)).sample_size(10);
    let data = vec![7; CHUNK];
    for (way, up) in [("up", true), ("down", false)] {
        let mut flow = Flow::new();
        let mut chunk = vec![0; CHUNK];
        group.bench_function(BenchmarkId::new("pump", way), |bencher| {
            let (runtime, from, to) = flow.ends(up);
            bencher.iter(|| {
                let send = async {
                    for _ in 0..BULK / CHUNK {
                        from.write_all(&data).await.expect("an open flow");
                    }
                };
                let receive = async {
                    let mut missing = BULK;
                    while missing > 0 {
                        missing -= to.read(&mut chunk).await.expect("an open flow");
                    }
                };
                runtime.block_on(async { tokio::join!(send, receive) });
            });
        });
        let mut alone = Alone::new();
        group.bench_function(BenchmarkId::new("rustls", way), |bencher| {
            bencher.iter(|| {
                for _ in 0..BULK / CHUNK {
                    alone.send(up, &data);
                }
            });
        });
    }
    group.finish();
}

fn request(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tls_streams/request");
    let data = [7; REQUEST];
    let mut flow = Flow::new();
    group.bench_function("pump", |bencher| {
        let Flow {
            runtime,
            visitor,
            target,
        } = &mut flow;
        bencher.iter(|| {
            runtime.block_on(async {
                let mut message = [0; REQUEST];
                visitor.write_all(&data).await.expect("an open flow");
                target.read_exact(&mut message).await.expect("a request");
                target.write_all(&message).await.expect("an open flow");
                visitor.read_exact(&mut message).await.expect("an answer");
            });
        });
    });
    let mut alone = Alone::new();
    group.bench_function("rustls", |bencher| {
        bencher.iter(|| {
            alone.send(true, &data);
            alone.send(false, &data);
        });
    });
    group.finish();
}

/// The two ends of a session, each of which has received something.
async fn session() -> (TunnelSession, TunnelSession) {
    let (near, far) = connection().await;
    let (mut near, carried) = near.open_session();
    tokio::spawn(carried);
    let (mut far, carried) = far.take_session().await.expect("a session");
    tokio::spawn(carried);
    near.try_send(b"first").expect("an open session");
    far.recv(&mut [0; 16]).await.expect("a datagram");
    far.try_send(b"answer").expect("an open session");
    near.recv(&mut [0; 16]).await.expect("a datagram");
    (near, far)
}

fn datagrams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tls_streams/datagrams");
    group.throughput(Throughput::Elements(BATCH as u64));
    for length in [64, 1200] {
        let data = vec![7; length];
        let runtime = runtime();
        let (near, mut far) = runtime.block_on(session());
        let mut received = [0; 2048];
        group.bench_function(BenchmarkId::new("session", length), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    for _ in 0..BATCH {
                        near.try_send(&data).expect("room for a batch");
                    }
                    for _ in 0..BATCH {
                        far.recv(&mut received).await.expect("no datagram is lost");
                    }
                });
            });
        });
        let mut alone = Alone::new();
        let batch = vec![7; length * BATCH];
        group.bench_function(BenchmarkId::new("rustls", length), |bencher| {
            bencher.iter(|| alone.send(true, &batch));
        });
    }
    group.finish();
}

criterion_group!(benches, bulk, request, datagrams);
criterion_main!(benches);
