//! No allocation is spent per packet: counted over everything that a node with two shards and the two
//! nodes that they serve do while they move data.
//!
//! One test only, since the counter is that of the process.

#![expect(unsafe_code, reason = "an allocator is unsafe to implement")]
#![expect(clippy::disallowed_methods, reason = "this drives IO")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};
use kakuremichi_tunnel::{
    engine::{
        BuildShard, Connect, Listen, LocalShard, Network, PeerSettings, PeerView, ShardConfig, ShardHandle,
        ShardSetHandle, Splice,
    },
    stream::TunnelStream,
    wg::{PeerConfig, public_key},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system's allocator's; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MIB: usize = 1 << 20;
const SOCKETS: u16 = 7001;
const STREAMS: u16 = 7002;

fn overlay(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into())
}

fn config(number: u8) -> ShardConfig {
    let bind = vec!["127.0.0.1:0".parse().unwrap()];
    ShardConfig::new("test", Secret::new([number; 32]), bind, [number; 16])
}

fn key(number: u8) -> WireGuardKey {
    public_key(&Secret::new([number; 32]))
}

/// What node `own` is told of others, and where they are if it is to call them.
fn network(own: u8, others: &[(u8, Option<SocketAddr>)]) -> Network {
    let settings = |(other, endpoint): &(u8, Option<SocketAddr>)| {
        let mut wireguard = PeerConfig::new(key(*other), vec![Cidr::host(overlay(*other).into())]);
        wireguard.endpoint = *endpoint;
        PeerSettings {
            wireguard,
            probe: Some(overlay(*other).into()),
        }
    };
    Network {
        addresses: vec![overlay(own).into()],
        peers: others.iter().map(settings).collect(),
        listen: [SOCKETS, STREAMS]
            .map(|port| Listen { port, preface: None })
            .to_vec(),
        listen_udp: Vec::new(),
    }
}

/// A node that sends back what streams bring, and gives the other ends of its sockets to the test.
fn far(number: u8, accepted: Sender<TcpStream>) -> ShardHandle {
    let build = move |shard: LocalShard| {
        let tasks = shard.clone();
        shard.on_incoming(move |flow| {
            if flow.local.port() == SOCKETS {
                let (near, far) = sockets();
                accepted.send(far).unwrap();
                tasks.spawn(flow.accept_socket(near, Default::default()));
            } else {
                let mut stream = flow.accept_stream(Default::default());
                tasks.spawn(async move {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        stream.write_all(&buffer[..count]).await.unwrap();
                    }
                });
            }
        });
    };
    let far = ShardHandle::spawn(config(number), build).unwrap();
    far.configure(network(number, &[(1, None)]));
    far
}

/// A socket and a stream through one lane.
struct Lane {
    near: TcpStream,
    far: TcpStream,
    stream: TunnelStream,
    _splice: Splice,
}

/// Two connected sockets.
fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Sends `length` bytes there and has them back, without allocating.
fn round(near: &mut TcpStream, far: &mut TcpStream, chunks: usize, out: &[u8], back: &mut [u8]) {
    thread::scope(|scope| {
        scope.spawn(|| (0..chunks).for_each(|_| near.write_all(out).unwrap()));
        (0..chunks).for_each(|_| far.read_exact(back).unwrap());
    });
}

#[tokio::test]
async fn moving_data_allocates_nothing_per_packet() {
    let build = |_| Box::new(|_: LocalShard| {}) as BuildShard;
    let near = ShardSetHandle::spawn(&config(1), (0..2).map(build).collect()).unwrap();
    // Two nodes that the shards call, one each.
    let called_by = |shard| {
        (2..u8::MAX)
            .find(|number| near.owner_of(&key(*number)) == shard)
            .unwrap()
    };
    let numbers = [called_by(0), called_by(1)];
    let (sender, accepted) = channel();
    let fars = numbers.map(|number| far(number, sender.clone()));
    let peer = |at: usize| (numbers[at], Some(fars[at].local_addresses()[0]));
    near.configure(network(1, &[peer(0), peer(1)]));
    let mut peers = near.watch_peers();
    let online = async {
        while peers
            .latest()
            .values()
            .filter(|view| PeerView::is_online(view))
            .count()
            < 2
        {
            peers.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), online)
        .await
        .unwrap();
    assert_eq!(numbers.map(|number| near.owner_of(&key(number))), [0, 1]);

    let mut lanes = Vec::new();
    for number in numbers {
        let connect = |port| Connect::new(key(number), SocketAddr::new(overlay(number).into(), port));
        let (visitor, inside) = sockets();
        let splice = near.splice(inside, connect(SOCKETS));
        lanes.push(Lane {
            near: visitor,
            far: accepted.recv().unwrap(),
            stream: near.connect(connect(STREAMS)).await.unwrap(),
            _splice: splice,
        });
    }

    let out = vec![7; MIB];
    let mut back = vec![0; MIB];
    // Rings, lists and batches reach their size.
    for warm in 0..2 {
        let (packets_before, before) = (packets(&near).await, ALLOCATIONS.load(Ordering::Relaxed));
        let rounds = if warm == 0 { 16 } else { 32 };
        for lane in &mut lanes {
            round(&mut lane.near, &mut lane.far, rounds, &out, &mut back);
            round(&mut lane.far, &mut lane.near, rounds, &out, &mut back);
            for _ in 0..rounds {
                stream_round(&mut lane.stream, &out, &mut back).await;
            }
        }
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let packets = packets(&near).await - packets_before;
        if warm == 1 {
            assert!(packets > 150_000, "{packets} packets are few for 256 MiB");
            assert!(
                allocations < packets / 100,
                "{allocations} allocations for {packets} packets"
            );
        }
    }
}

/// Sends everything and has it back, at the same time.
async fn stream_round(stream: &mut TunnelStream, out: &[u8], back: &mut [u8]) {
    let (mut sent, mut received) = (0, 0);
    let (mut reader, mut writer) = tokio::io::split(stream);
    while received < back.len() {
        tokio::select! {
            count = writer.write(&out[sent..]), if sent < out.len() => sent += count.unwrap(),
            count = reader.read(&mut back[received..]) => received += count.unwrap(),
        }
    }
}

/// Packets that went either way.
async fn packets(shard: &ShardSetHandle) -> u64 {
    let wireguard = shard.metrics().await.unwrap().wireguard;
    wireguard.opened + wireguard.sealed
}
