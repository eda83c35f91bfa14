//! Paths that swallow long packets.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;
use crate::engine::PeerView;

/// Carries datagrams between node 2 and node 1, except those that are longer than it may be told; says
/// nothing about them.
struct Hole {
    address: SocketAddr,
    longest: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hole {
    fn before(target: SocketAddr) -> Self {
        let bind = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            socket
        };
        let (front, back) = (bind(), bind());
        back.connect(target).unwrap();
        let address = front.local_addr().unwrap();
        let (longest, stop) = (
            Arc::new(AtomicUsize::new(usize::MAX)),
            Arc::new(AtomicBool::new(false)),
        );
        let (bound, stopped) = (Arc::clone(&longest), Arc::clone(&stop));
        let thread = start(move || {
            let mut buffer = vec![0; 65_535];
            let mut caller = None;
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    let Ok((length, from)) = front.recv_from(&mut buffer) else {
                        break;
                    };
                    caller = Some(from);
                    if length <= bound.load(Ordering::Relaxed) {
                        let _ = back.send(&buffer[..length]);
                    }
                }
                for _ in 0..64 {
                    let (Ok(length), Some(caller)) = (back.recv(&mut buffer), caller) else {
                        break;
                    };
                    if length <= bound.load(Ordering::Relaxed) {
                        let _ = front.send_to(&buffer[..length], caller);
                    }
                }
            }
        });
        Self {
            address,
            longest,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// RFC 2923, section 2.1: a path that swallows long packets and says nothing stops neither flows that are
/// open nor sessions.
#[tokio::test]
async fn a_live_flow_survives_a_black_hole() {
    let one = Node::start(config(1, "127.0.0.1:0"), 1, |_| {});
    let two = Node::start(config(2, "127.0.0.1:0"), 2, |shard| shard.on_incoming(echo));
    let hole = Hole::before(one.address());
    one.meet(2, None);
    two.meet(1, Some(hole.address));
    one.sees(2, PeerView::is_online).await;
    two.sees(1, PeerView::is_online).await;
    let mut stream = one.shard.connect(to(PLAIN)).await.unwrap();
    let data = pattern(40_000, 5);
    let mut back = vec![0; data.len()];
    stream.write_all(&data).await.unwrap();
    within(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, data);
    one.sees(2, |view| view.mtu == 1_420).await;
    // An IPv4 path of 1,400 bytes.
    hole.longest.store(1_400 - 28, Ordering::Relaxed);
    stream.write_all(&data).await.unwrap();
    within(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, data);
    one.sees(2, |view| view.mtu == 1_340 || view.mtu == 1_280).await;
    assert!(one.shard.metrics().await.unwrap().engine.mtu_lowered > 0);
}
