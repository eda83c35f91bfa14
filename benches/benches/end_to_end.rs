//! Two shards in one process, joined by UDP over loopback, with a TCP connection at either end: the
//! whole data path but for Control and the policy.
//!
//! `bulk` moves data one way, `request` is 500 bytes and their echo on an open flow, `connect` is a
//! new flow with one request, and `datagrams` is a batch of them in a session and the echo of each. `splice` are sockets served inside the engine, as raw TCP services are;
//! `stream` is a `TunnelStream` at the near end, as HTTP services use it.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};
use kakuremichi_tunnel::{
    engine::{
        Connect, Listen, LocalShard, Meter, Network, OpenSession, PeerSettings, PeerView, ShardConfig,
        ShardHandle, Splice,
    },
    session::TunnelSession,
    stream::TunnelStream,
    wg::{PeerConfig, public_key},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Runtime,
};

/// Bytes of one bulk run.
const BULK: usize = 32 << 20;
/// Bytes that are written and read at once.
const CHUNK: usize = 64 << 10;
/// Bytes of a request, and of its answer.
const REQUEST: usize = 500;
/// Datagrams that are on their way at once: few enough that no socket's buffer loses one.
const BATCH: usize = 32;
/// The far end swallows what comes here.
const SINK: u16 = 7001;
/// The far end sends back what comes here.
const ECHO: u16 = 7002;

fn overlay(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into())
}

fn key(number: u8) -> WireGuardKey {
    public_key(&Secret::new([number; 32]))
}

/// Two nodes, of which the first opens flows and the second serves them.
struct Pair {
    near: ShardHandle,
    _far: ShardHandle,
    runtime: Runtime,
}

impl Pair {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let near = node(1, |_| {});
        let targets = [target(sink), target(echo)];
        let far = node(2, move |shard| {
            let tasks = shard.clone();
            shard.on_incoming(move |flow| {
                let to = targets[usize::from(flow.local.port() == ECHO)];
                let socket = TcpStream::connect(to).expect("the target listens");
                tasks.spawn(flow.accept_socket(socket, Arc::new(Meter::default())));
            });
            let tasks = shard.clone();
            shard.on_session(move |session| {
                tasks.spawn(echo_datagrams(session.accept(Arc::default())));
            });
        });
        meet(&near, 1, 2, far.local_addresses().first().copied());
        meet(&far, 2, 1, None);
        let mut peers = near.watch_peers();
        runtime.block_on(async {
            let online = peers.wait_for(|peers| peers.values().any(PeerView::is_online));
            tokio::time::timeout(Duration::from_secs(30), online)
                .await
                .expect("the lane comes up")
                .expect("the shard runs");
        });
        Self {
            near,
            _far: far,
            runtime,
        }
    }

    /// A visitor's socket whose other end is served by a flow.
    fn splice(&self, port: u16) -> (TcpStream, Splice) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let visitor = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        visitor.set_nodelay(true).expect("an open socket");
        let (inside, _) = listener.accept().expect("a connection");
        (visitor, self.near.splice(inside, to(port)))
    }

    fn session(&self) -> TunnelSession {
        let open = OpenSession {
            peer: key(2),
            remote: SocketAddr::new(overlay(2).into(), ECHO),
            preface: None,
            idle: Duration::from_secs(600),
            meter: Arc::default(),
        };
        let opened = self.near.open_session(open);
        self.runtime.block_on(opened).expect("a session")
    }

    fn stream(&self, port: u16) -> TunnelStream {
        self.runtime
            .block_on(self.near.connect(to(port)))
            .expect("a flow")
    }
}

fn to(port: u16) -> Connect {
    Connect::new(key(2), SocketAddr::new(overlay(2).into(), port))
}

fn node(number: u8, build: impl FnOnce(LocalShard) + Send + 'static) -> ShardHandle {
    let bind = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    let config = ShardConfig::new("bench", Secret::new([number; 32]), bind, [number; 16]);
    ShardHandle::spawn(config, build).expect("a shard")
}

fn meet(shard: &ShardHandle, own: u8, other: u8, endpoint: Option<SocketAddr>) {
    let mut wireguard = PeerConfig::new(key(other), vec![Cidr::host(overlay(other).into())]);
    wireguard.endpoint = endpoint;
    shard.configure(Network {
        addresses: vec![overlay(own).into()],
        peers: vec![PeerSettings {
            wireguard,
            probe: Some(overlay(other).into()),
        }],
        listen: [SINK, ECHO].map(|port| Listen { port, preface: None }).to_vec(),
        listen_udp: vec![Listen {
            port: ECHO,
            preface: None,
        }],
    });
}

/// A listener that serves each connection in a thread of its own.
fn target(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || serve(socket));
        }
    });
    address
}

/// Reads what comes, and says so with one byte for each [`BULK`] of it.
fn sink(mut socket: TcpStream) {
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        received += count;
        if received >= BULK {
            received -= BULK;
            if socket.write_all(&[1]).is_err() {
                return;
            }
        }
    }
}

fn echo(mut socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let mut buffer = [0; REQUEST];
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        if socket.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

async fn echo_datagrams(mut session: TunnelSession) {
    let mut buffer = [0; 2048];
    while let Ok(length) = session.recv(&mut buffer).await {
        if session.try_send(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn bulk(criterion: &mut Criterion) {
    let pair = Pair::new();
    let chunk = vec![7; CHUNK];
    let mut group = criterion.benchmark_group("end_to_end/bulk");
    group.throughput(Throughput::Bytes(BULK as u64)).sample_size(10);
    let (mut visitor, _splice) = pair.splice(SINK);
    group.bench_function("splice", |bencher| {
        bencher.iter(|| {
            for _ in 0..BULK / CHUNK {
                visitor.write_all(&chunk).expect("an open flow");
            }
            visitor.read_exact(&mut [0]).expect("everything arrived");
        });
    });
    let mut stream = pair.stream(SINK);
    group.bench_function("stream", |bencher| {
        bencher.iter(|| {
            pair.runtime.block_on(async {
                for _ in 0..BULK / CHUNK {
                    stream.write_all(&chunk).await.expect("an open flow");
                }
                stream.read_exact(&mut [0]).await.expect("everything arrived");
            });
        });
    });
    group.finish();
}

fn request(criterion: &mut Criterion) {
    let pair = Pair::new();
    let question = [7; REQUEST];
    let mut answer = [0; REQUEST];
    let mut group = criterion.benchmark_group("end_to_end/request");
    let (mut visitor, _splice) = pair.splice(ECHO);
    group.bench_function("splice", |bencher| {
        bencher.iter(|| {
            visitor.write_all(&question).expect("an open flow");
            visitor.read_exact(&mut answer).expect("an answer");
        });
    });
    let mut stream = pair.stream(ECHO);
    group.bench_function("stream", |bencher| {
        bencher.iter(|| {
            pair.runtime.block_on(async {
                stream.write_all(&question).await.expect("an open flow");
                stream.read_exact(&mut answer).await.expect("an answer");
            });
        });
    });
    group.finish();
}

fn connect(criterion: &mut Criterion) {
    let pair = Pair::new();
    let question = [7; REQUEST];
    let mut answer = [0; REQUEST];
    criterion.bench_function("end_to_end/connect", |bencher| {
        bencher.iter(|| {
            let (mut visitor, splice) = pair.splice(ECHO);
            visitor.write_all(&question).expect("an open flow");
            visitor.read_exact(&mut answer).expect("an answer");
            visitor.shutdown(Shutdown::Both).expect("an open flow");
            pair.runtime.block_on(splice);
        });
    });
}

fn datagrams(criterion: &mut Criterion) {
    let pair = Pair::new();
    let mut session = pair.session();
    let mut answer = [0; 2048];
    let mut group = criterion.benchmark_group("end_to_end/datagrams");
    group.throughput(Throughput::Elements(BATCH as u64));
    for length in [64, 1200] {
        let question = vec![7; length];
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| {
                pair.runtime.block_on(async {
                    for _ in 0..BATCH {
                        session.try_send(&question).expect("room for a batch");
                    }
                    for _ in 0..BATCH {
                        tokio::time::timeout(Duration::from_secs(10), session.recv(&mut answer))
                            .await
                            .expect("no datagram is lost")
                            .expect("an open session");
                    }
                });
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = bulk, request, connect, datagrams
}
criterion_main!(benches);
