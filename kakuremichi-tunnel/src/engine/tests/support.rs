//! Two shards that know each other, and ends for their flows.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    engine::{
        Connect, IncomingFlow, Listen, LocalShard, Meter, Network, PeerSettings, PeerView, ShardConfig,
        ShardHandle, proxy_v2_length,
    },
    lane::Timing,
    wg::{PeerConfig, public_key},
};

/// A port whose flows begin with a preface.
pub(super) const WITH_PREFACE: u16 = 7001;
/// A port whose flows do not.
pub(super) const PLAIN: u16 = 7002;

/// A preface, as a gateway sends it.
pub(super) fn preface() -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    bytes.extend_from_slice(&[9; 12]);
    bytes
}

/// One of two nodes.
pub(super) struct Node {
    pub(super) shard: ShardHandle,
    number: u8,
}

pub(super) fn config(number: u8, bind: &str) -> ShardConfig {
    let secret = Secret::new([number; 32]);
    let mut config = ShardConfig::new("test", secret, vec![bind.parse().unwrap()], [number; 16]);
    config.limits.peer_lost = Duration::from_millis(100);
    config.limits.linger = Duration::from_secs(2);
    config.limits.preface_timeout = Duration::from_millis(300);
    config.probes = Timing {
        interval: Duration::from_millis(100),
        patience: Duration::from_millis(300),
        patience_cap: Duration::from_millis(300),
        down_interval_cap: Duration::from_millis(300),
        ..Timing::default()
    };
    config.flows.limits.flows = 1024;
    config
}

pub(super) fn key(number: u8) -> WireGuardKey {
    public_key(&Secret::new([number; 32]))
}

pub(super) fn overlay(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into()
}

pub(super) fn overlay_v4(number: u8) -> IpAddr {
    Ipv4Addr::new(100, 64, 0, number).into()
}

impl Node {
    pub(super) fn start(
        config: ShardConfig,
        number: u8,
        build: impl FnOnce(LocalShard) + Send + 'static,
    ) -> Self {
        Self::wrap(ShardHandle::spawn(config, build).unwrap(), number)
    }

    pub(super) const fn wrap(shard: ShardHandle, number: u8) -> Self {
        Self { shard, number }
    }

    pub(super) const fn number(&self) -> u8 {
        self.number
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.shard.local_addresses()[0]
    }

    /// Tells this node about another one; `endpoint` if it is to call it.
    pub(super) fn meet(&self, other: u8, endpoint: Option<SocketAddr>) {
        self.meet_as(other, (key(other), None), endpoint);
    }

    /// The same, of one that has this key, and this one before.
    pub(super) fn meet_as(
        &self,
        other: u8,
        (key, previous): (WireGuardKey, Option<WireGuardKey>),
        endpoint: Option<SocketAddr>,
    ) {
        let allowed = vec![Cidr::host(overlay(other)), Cidr::host(overlay_v4(other))];
        let mut wireguard = PeerConfig::new(key, allowed);
        wireguard.previous_key = previous;
        wireguard.endpoint = endpoint;
        wireguard.persistent_keepalive = endpoint.map(|_| Duration::from_secs(5));
        self.shard.configure(Network {
            addresses: vec![overlay(self.number), overlay_v4(self.number)],
            peers: vec![PeerSettings {
                wireguard,
                probe: Some(overlay(other)),
            }],
            listen: vec![
                Listen {
                    port: WITH_PREFACE,
                    preface: Some(proxy_v2_length),
                },
                Listen {
                    port: PLAIN,
                    preface: None,
                },
            ],
            listen_udp: vec![
                Listen {
                    port: WITH_PREFACE,
                    preface: Some(proxy_v2_length),
                },
                Listen {
                    port: PLAIN,
                    preface: None,
                },
            ],
        });
    }

    /// Waits until what is known about the other node fits.
    pub(super) async fn sees(&self, other: u8, fits: impl Fn(&PeerView) -> bool) {
        let mut peers = self.shard.watch_peers();
        let seen = peers.wait_for(|peers| peers.get(&key(other)).is_some_and(&fits));
        within(seen).await.unwrap();
    }

    /// Waits until flows, as the engine counts them, are `count`.
    pub(super) async fn has_flows(&self, count: usize) {
        let wait = async {
            while self.shard.metrics().await.unwrap().flows != count {
                tokio::task::yield_now().await;
            }
        };
        within(wait).await;
    }
}

/// Node 1, which listens, and node 2, which calls it. `handler` takes the flows that come to node 2.
pub(super) async fn pair(handler: impl Fn(IncomingFlow) + Clone + Send + 'static) -> (Node, Node) {
    pair_at("127.0.0.1:0", handler).await
}

pub(super) async fn pair_at(
    bind: &str,
    handler: impl Fn(IncomingFlow) + Clone + Send + 'static,
) -> (Node, Node) {
    let one = Node::start(config(1, bind), 1, |_| {});
    let two = Node::start(config(2, bind), 2, move |shard| shard.on_incoming(handler));
    one.meet(2, None);
    two.meet(1, Some(one.address()));
    one.sees(2, PeerView::is_online).await;
    two.sees(1, PeerView::is_online).await;
    (one, two)
}

/// A flow to node 2.
pub(super) fn to(port: u16) -> Connect {
    let mut connect = Connect::new(key(2), SocketAddr::new(overlay(2), port));
    if port == WITH_PREFACE {
        connect.preface = Some(preface());
        connect.expect_reply = true;
    }
    connect
}

/// Takes a flow as a stream and sends back what comes.
pub(super) fn echo(flow: IncomingFlow) {
    let mut stream = flow.accept_stream(Arc::new(Meter::default()));
    spawn(async move {
        let mut buffer = vec![0; 8192];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            if stream.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
        let _ = stream.shutdown().await;
    });
}

/// Two connected sockets.
pub(super) fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Bytes that repeat late, so that shifted data shows.
pub(super) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut random = crate::random::SplitMix64::new(seed);
    (0..length.div_ceil(8))
        .flat_map(|_| random.next().to_le_bytes())
        .take(length)
        .collect()
}

#[expect(clippy::disallowed_methods, reason = "a test's task")]
pub(super) fn spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

#[expect(clippy::disallowed_methods, reason = "a test's task")]
pub(super) fn spawn_anywhere(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

#[expect(clippy::disallowed_methods, reason = "a test's thread")]
pub(super) fn start<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(work)
}

/// Fails a test that would hang.
#[expect(clippy::disallowed_methods, reason = "a test's deadline")]
pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work)
        .await
        .expect("this takes too long")
}
