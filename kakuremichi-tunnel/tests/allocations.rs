//! No allocation is spent per packet: counted over everything that two shards do while they move data.
//!
//! One test only, since the counter is that of the process.

#![expect(unsafe_code, reason = "an allocator is unsafe to implement")]
#![expect(clippy::disallowed_methods, reason = "this drives IO")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use kakuremichi_core::{net::Cidr, secret::Secret};
use kakuremichi_tunnel::{
    engine::{Connect, Listen, LocalShard, Network, PeerSettings, PeerView, ShardConfig, ShardHandle},
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

fn node(number: u8, build: impl FnOnce(LocalShard) + Send + 'static) -> ShardHandle {
    let bind = vec!["127.0.0.1:0".parse().unwrap()];
    let config = ShardConfig::new("test", Secret::new([number; 32]), bind, [number; 16]);
    ShardHandle::spawn(config, build).unwrap()
}

fn meet(shard: &ShardHandle, own: u8, other: u8, endpoint: Option<SocketAddr>) {
    let mut wireguard = PeerConfig::new(
        public_key(&Secret::new([other; 32])),
        vec![Cidr::host(overlay(other).into())],
    );
    wireguard.endpoint = endpoint;
    shard.configure(Network {
        addresses: vec![overlay(own).into()],
        peers: vec![PeerSettings {
            wireguard,
            probe: Some(overlay(other).into()),
        }],
        listen: [SOCKETS, STREAMS]
            .map(|port| Listen { port, preface: None })
            .to_vec(),
    });
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
    let (sender, accepted) = std::sync::mpsc::channel();
    let one = node(1, |_| {});
    let two = node(2, move |shard| {
        let tasks = shard.clone();
        shard.on_incoming(move |flow| {
            if flow.local.port() == SOCKETS {
                let (near, far) = sockets();
                sender.send(far).unwrap();
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
    });
    meet(&one, 1, 2, Some(two.local_addresses()[0]));
    meet(&two, 2, 1, None);
    let mut peers = one.watch_peers();
    let online = peers.wait_for(|peers| peers.values().any(PeerView::is_online));
    tokio::time::timeout(Duration::from_secs(30), online)
        .await
        .unwrap()
        .unwrap();

    let key = public_key(&Secret::new([2; 32]));
    let (mut near, inside) = sockets();
    let splice = one.splice(
        inside,
        Connect::new(key, SocketAddr::new(overlay(2).into(), SOCKETS)),
    );
    let mut far = accepted.recv().unwrap();
    let mut stream = one
        .connect(Connect::new(key, SocketAddr::new(overlay(2).into(), STREAMS)))
        .await
        .unwrap();

    let out = vec![7; MIB];
    let mut back = vec![0; MIB];
    // Rings, lists and batches reach their size.
    for warm in 0..2 {
        let (packets_before, before) = (packets(&one).await, ALLOCATIONS.load(Ordering::Relaxed));
        let rounds = if warm == 0 { 16 } else { 64 };
        round(&mut near, &mut far, rounds, &out, &mut back);
        round(&mut far, &mut near, rounds, &out, &mut back);
        for _ in 0..rounds {
            stream_round(&mut stream, &out, &mut back).await;
        }
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let packets = packets(&one).await - packets_before;
        if warm == 1 {
            assert!(packets > 150_000, "{packets} packets are few for 256 MiB");
            assert!(
                allocations < packets / 100,
                "{allocations} allocations for {packets} packets"
            );
        }
    }
    drop(splice);
}

/// Sends everything and has it back, at the same time.
async fn stream_round(stream: &mut kakuremichi_tunnel::stream::TunnelStream, out: &[u8], back: &mut [u8]) {
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
async fn packets(shard: &ShardHandle) -> u64 {
    let wireguard = shard.metrics().await.unwrap().wireguard;
    wireguard.opened + wireguard.sealed
}
