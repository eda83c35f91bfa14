#![expect(
    clippy::disallowed_methods,
    reason = "boringtun reads the clock, so tests start from it too"
)]

#[cfg(target_os = "linux")]
mod abuse;
#[cfg(target_os = "linux")]
mod clock;
mod owners;
#[cfg(target_os = "linux")]
mod rotation;
#[cfg(target_os = "linux")]
mod scripts;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};
use proptest::prelude::*;

use super::*;
use crate::{
    packet::{Echo, EchoKind},
    peer::PeerId,
};

/// Collects what a device sends.
#[derive(Default)]
struct Wire(VecDeque<(SocketAddr, Vec<u8>)>);

impl DatagramSink for Wire {
    fn datagram(&mut self, to: OuterPath, datagram: &[u8]) {
        self.0.push_back((to.remote, datagram.to_vec()));
    }
}

/// A device with an address and what it has to send.
struct Node {
    device: Device,
    address: SocketAddr,
    overlay: IpAddr,
    /// Its public key before the newest, if it still has it.
    previous: Option<WireGuardKey>,
    wire: Wire,
    received: Vec<(PeerId, Vec<u8>)>,
}

fn secret(number: u8) -> Secret<[u8; 32]> {
    Secret::new([number; 32])
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn overlay(number: u8) -> IpAddr {
    format!("fd00::{number:x}").parse().unwrap()
}

impl Node {
    fn new(number: u8) -> Self {
        Self::with(number, HandshakeLimits::default())
    }

    fn with(number: u8, handshakes: HandshakeLimits) -> Self {
        let config = DeviceConfig {
            handshakes,
            ..DeviceConfig::new(secret(number), number.into())
        };
        Self {
            device: Device::new(&config, Instant::now()),
            address: SocketAddr::new([192, 0, 2, number].into(), 51820),
            overlay: overlay(number),
            previous: None,
            wire: Wire::default(),
            received: Vec::new(),
        }
    }

    /// How others configure it.
    fn as_peer(&self) -> PeerConfig {
        let mut config = PeerConfig::new(self.device.public_key(), vec![Cidr::host(self.overlay)]);
        config.endpoint = Some(self.address);
        config.previous_key = self.previous;
        config
    }

    /// Takes up another private key and keeps the one before.
    fn rekey(&mut self, number: u8) {
        self.previous = Some(self.device.public_key());
        self.device.rekey(&secret(number));
    }

    fn forget_previous_key(&mut self) {
        self.previous = None;
        self.device.forget_previous_key();
    }

    fn set_peers(&mut self, peers: &[PeerConfig]) -> Reconciled {
        self.device.set_peers(peers, Instant::now())
    }

    fn peer(&self, other: &Self) -> PeerId {
        let known = self.device.peer(&other.device.public_key());
        // Who was not told of its newest key knows it by another one.
        known.or_else(|| self.device.peers().next()).unwrap()
    }

    /// Sends a packet whose source is `source`.
    fn send_as(&mut self, source: IpAddr, to: &Self, data: &[u8]) -> Sealed {
        let mut packet = [0; 2048];
        let echo = Echo {
            kind: EchoKind::Request,
            identifier: 0,
            sequence: 0,
            data,
        };
        let length = echo.write(source, to.overlay, &mut packet).unwrap();
        let peer = self.peer(to);
        let mut out = [0; 4096];
        let sealed = self
            .device
            .seal(peer, &packet[..length], &mut out, &mut self.wire, Instant::now());
        if let Sealed::Datagram { to, length } = sealed {
            self.wire.datagram(to, &out[..length]);
        }
        sealed
    }

    fn send(&mut self, to: &Self, data: &[u8]) -> Sealed {
        self.send_as(self.overlay, to, data)
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let mut out = vec![0; datagram.len().max(9)];
        let opened = self
            .device
            .open(from.into(), datagram, &mut out, &mut self.wire, Instant::now());
        if let Some((peer, length)) = opened {
            self.received.push((peer, out[..length].to_vec()));
        }
    }

    /// The echo data received so far.
    fn take(&mut self) -> Vec<Vec<u8>> {
        self.received
            .drain(..)
            .map(|(_, packet)| packet[48..].to_vec())
            .collect()
    }
}

/// Delivers until nobody has anything to send.
fn settle(nodes: &mut [&mut Node]) {
    while let Some((from, (to, datagram))) = nodes
        .iter_mut()
        .find_map(|node| Some((node.address, node.wire.0.pop_front()?)))
    {
        if let Some(node) = nodes.iter_mut().find(|node| node.address == to) {
            node.receive(from, &datagram);
        }
    }
}

/// Two nodes that know each other; only the first knows where the second is.
fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.set_peers(&[b.as_peer()]);
    b.set_peers(&[PeerConfig {
        endpoint: None,
        ..a.as_peer()
    }]);
    (a, b)
}

fn connected() -> (Node, Node) {
    let (mut a, mut b) = pair();
    let _ = a.send(&b, b"first");
    settle(&mut [&mut a, &mut b]);
    assert_eq!(b.take(), [b"first"]);
    (a, b)
}

#[test]
fn two_devices_shake_hands_and_exchange_packets() {
    let (mut a, mut b) = pair();
    assert_eq!(a.send(&b, b"waits"), Sealed::Queued);
    settle(&mut [&mut a, &mut b]);
    assert_eq!(b.take(), [b"waits"]);
    assert!(
        matches!(b.send(&a, b"back"), Sealed::Datagram { .. }),
        "the responder learned the address"
    );
    settle(&mut [&mut a, &mut b]);
    assert_eq!(a.take(), [b"back"]);
    assert_eq!(
        (a.device.counters().sessions, b.device.counters().sessions),
        (1, 1)
    );
    assert!(a.device.status(a.peer(&b)).unwrap().session_age.is_some());
    assert_eq!(a.device.poll_changed(), Some(a.peer(&b)));
    assert_eq!(a.device.poll_changed(), None);
}

#[test]
fn many_peers_are_told_apart() {
    // They come faster than strangers may.
    let mut hub = Node::with(
        1,
        HandshakeLimits {
            unproven_per_second: 1_000,
            ..HandshakeLimits::default()
        },
    );
    let mut spokes: Vec<Node> = (2..60).map(Node::new).collect();
    hub.set_peers(
        &spokes
            .iter()
            .map(|spoke| PeerConfig {
                endpoint: None,
                ..spoke.as_peer()
            })
            .collect::<Vec<_>>(),
    );
    for spoke in &mut spokes {
        spoke.set_peers(&[hub.as_peer()]);
        let _ = spoke.send(&hub, b"hello");
        settle(&mut [&mut hub, spoke]);
        let (peer, _) = hub.received.pop().unwrap();
        assert_eq!(peer, hub.peer(spoke));
        assert_eq!(hub.device.route(spoke.overlay), Some(peer));
    }
}

#[test]
fn a_peer_may_roam_and_only_authentic_packets_move_it() {
    let (mut a, mut b) = connected();
    let _ = a.send(&b, b"from afar");
    let (_, datagram) = a.wire.0.pop_front().unwrap();
    let elsewhere: SocketAddr = "198.51.100.7:9".parse().unwrap();
    let mut forged = datagram.clone();
    *forged.last_mut().unwrap() ^= 1;
    b.receive(elsewhere, &forged);
    assert_eq!(b.device.counters().forged, 1);
    let endpoint = |b: &Node, a: &Node| b.device.status(b.peer(a)).unwrap().endpoint;
    assert_eq!(endpoint(&b, &a), Some(a.address));
    b.receive(elsewhere, &datagram);
    assert_eq!(endpoint(&b, &a), Some(elsewhere));
    assert_eq!(b.device.counters().roamed, 1);
    // A repetition from a third place moves nothing.
    b.receive("198.51.100.8:9".parse().unwrap(), &datagram);
    assert_eq!(endpoint(&b, &a), Some(elsewhere));
    assert_eq!(b.device.counters().replayed, 1);
    assert_eq!(b.take().len(), 1);
}

#[test]
fn answers_leave_from_the_address_that_was_written_to() {
    let (mut a, mut b) = connected();
    let _ = a.send(&b, b"to the second address");
    let (_, datagram) = a.wire.0.pop_front().unwrap();
    let path = OuterPath {
        remote: a.address,
        local: Some([192, 0, 2, 77].into()),
    };
    b.device.open(
        path,
        &datagram,
        &mut [0; 256],
        &mut Wire::default(),
        Instant::now(),
    );
    let peer = b.peer(&a);
    let mut out = [0; 256];
    let sealed = b
        .device
        .seal(peer, b"x", &mut out, &mut Wire::default(), Instant::now());
    assert!(matches!(sealed, Sealed::Datagram { to, .. } if to == path));
    // A new handshake may need another address.
    b.device
        .initiate(peer, &mut b.wire, Instant::now() + Duration::from_secs(2));
    let sealed = b
        .device
        .seal(peer, b"x", &mut out, &mut Wire::default(), Instant::now());
    assert!(matches!(sealed, Sealed::Datagram { to, .. } if to == a.address.into()));
}

#[test]
fn packets_from_addresses_of_others_are_dropped() {
    let (mut a, mut b) = connected();
    for source in [overlay(9), b.overlay, "fd00::".parse().unwrap()] {
        let _ = a.send_as(source, &b, b"spoofed");
        settle(&mut [&mut a, &mut b]);
    }
    assert_eq!(b.take(), [[0u8; 0]; 0]);
    assert_eq!(b.device.counters().disallowed, 3);
}

#[test]
fn a_more_specific_network_of_another_peer_takes_an_address_away() {
    let (mut a, mut b) = connected();
    let third = Node::new(3);
    let wide = PeerConfig {
        allowed_ips: vec!["fd00::/16".parse().unwrap()],
        ..a.as_peer()
    };
    b.set_peers(&[wide, third.as_peer()]);
    let _ = a.send_as(overlay(8), &b, b"mine");
    let _ = a.send_as(third.overlay, &b, b"not mine");
    settle(&mut [&mut a, &mut b]);
    assert_eq!(b.take(), [b"mine"]);
}

#[test]
fn reconciling_keeps_sessions_and_is_idempotent() {
    let (mut a, mut b) = connected();
    let id = b.peer(&a);
    let config = [
        PeerConfig {
            endpoint: None,
            ..a.as_peer()
        },
        Node::new(3).as_peer(),
    ];
    let done = b.set_peers(&config);
    assert_eq!((done.added.len(), done.removed.len()), (1, 0));
    assert_eq!(b.set_peers(&config), Reconciled::default());
    assert_eq!(b.peer(&a), id);
    assert!(matches!(b.send(&a, b"still here"), Sealed::Datagram { .. }));
    settle(&mut [&mut a, &mut b]);
    assert_eq!(a.take(), [b"still here"]);
}

#[test]
fn conflicting_peers_are_reported() {
    let (mut a, b) = (Node::new(1), Node::new(2));
    let other = PeerConfig {
        public_key: Node::new(3).device.public_key(),
        ..b.as_peer()
    };
    let own = PeerConfig {
        public_key: a.device.public_key(),
        ..b.as_peer()
    };
    let done = a.set_peers(&[b.as_peer(), other.clone(), b.as_peer(), own.clone()]);
    assert_eq!(done.conflicts, [(other.public_key, Cidr::host(b.overlay))]);
    assert_eq!(done.refused, [b.device.public_key(), own.public_key]);
    assert_eq!(done.added.len(), 2);
    // Once the first owner lets go, in the same step, the network is free.
    let moved = PeerConfig {
        allowed_ips: vec![],
        ..b.as_peer()
    };
    assert_eq!(a.set_peers(&[other.clone(), moved]).conflicts, []);
    assert_eq!(a.device.route(b.overlay), a.device.peer(&other.public_key));
}

#[test]
fn a_removed_peer_is_gone_and_its_name_is_not_given_again() {
    let (mut a, mut b) = connected();
    let old = b.peer(&a);
    assert_eq!(b.set_peers(&[]).removed, [old]);
    let _ = a.send(&b, b"too late");
    settle(&mut [&mut a, &mut b]);
    assert_eq!(b.device.counters().unknown_session, 1);
    assert_eq!(b.device.status(old), None);
    assert_eq!(b.device.route(a.overlay), None);
    b.set_peers(&[a.as_peer()]);
    assert_ne!(b.peer(&a), old);
    // A handshake of the removed is not answered either.
    b.set_peers(&[]);
    let peer = a.peer(&b);
    a.device
        .initiate(peer, &mut a.wire, Instant::now() + Duration::from_secs(2));
    settle(&mut [&mut a, &mut b]);
    assert_eq!(b.device.counters().unknown_peer, 1);
}

#[test]
fn both_ends_may_begin_and_a_lost_session_is_made_again() {
    let (mut a, _) = connected();
    // The other restarts: it has neither session nor address.
    let mut b = Node::new(2);
    b.set_peers(&[PeerConfig {
        endpoint: None,
        ..a.as_peer()
    }]);
    let _ = a.send(&b, b"lost");
    settle(&mut [&mut a, &mut b]);
    assert_eq!(b.device.counters().unknown_session, 1);
    let later = Instant::now() + Duration::from_secs(2);
    let peer = a.peer(&b);
    a.device.initiate(peer, &mut a.wire, later);
    a.device.initiate(peer, &mut a.wire, later);
    assert_eq!(a.wire.0.len(), 1, "two initiations in one second are one");
    settle(&mut [&mut a, &mut b]);
    let _ = a.send(&b, b"again");
    settle(&mut [&mut a, &mut b]);
    assert_eq!(b.take(), [b"again"]);
}

/// LESSONS: "online but dead". Who answers a handshake goes on in the session before until it is spoken
/// to in the new one: a probe sent earlier is lost with the session of a peer that restarted.
#[test]
fn a_new_session_is_news_once_the_peer_was_heard_in_it() {
    let (mut a, mut b) = connected();
    while a.device.poll_changed().is_some() || b.device.poll_changed().is_some() {}
    // It restarts elsewhere, and calls.
    let mut again = Node::new(1);
    again.address = address("192.0.2.9:51820");
    again.set_peers(&[b.as_peer()]);
    let later = Instant::now() + Duration::from_secs(2);
    let peer = again.peer(&b);
    again.device.initiate(peer, &mut again.wire, later);
    let (_, initiation) = again.wire.0.pop_front().unwrap();
    b.receive(again.address, &initiation);
    assert_eq!(
        b.device.poll_changed(),
        None,
        "what is sent now goes to the one before"
    );
    settle(&mut [&mut again, &mut b]);
    let peer = b.peer(&again);
    assert_eq!(b.device.poll_changed(), Some(peer));
    let _ = b.send(&again, b"probe");
    settle(&mut [&mut again, &mut b]);
    assert_eq!(again.take(), [b"probe"]);
    // Afterwards only the next session is news.
    let _ = again.send(&b, b"more");
    settle(&mut [&mut again, &mut b]);
    assert_eq!(b.device.poll_changed(), None);
    a.take();
}

#[test]
fn a_rekey_drops_nothing() {
    let (mut a, mut b) = connected();
    let peer = a.peer(&b);
    for round in 0..20u8 {
        let now = Instant::now() + Duration::from_secs(2) * u32::from(round + 1);
        a.device.initiate(peer, &mut a.wire, now);
        let _ = a.send(&b, &[round, 1]);
        let _ = b.send(&a, &[round, 2]);
        settle(&mut [&mut a, &mut b]);
        let _ = b.send(&a, &[round, 3]);
        settle(&mut [&mut a, &mut b]);
        assert_eq!(
            (b.take(), a.take()),
            (vec![vec![round, 1]], vec![vec![round, 2], vec![round, 3]])
        );
    }
    assert_eq!(b.device.counters().sessions, 21);
}

#[test]
fn simultaneous_initiations_both_lead_to_a_session() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.set_peers(&[b.as_peer()]);
    b.set_peers(&[a.as_peer()]);
    let _ = a.send(&b, b"ping");
    let _ = b.send(&a, b"pong");
    settle(&mut [&mut a, &mut b]);
    assert_eq!(
        (a.take(), b.take()),
        (vec![b"pong".to_vec()], vec![b"ping".to_vec()])
    );
}

#[test]
fn a_keepalive_peer_is_called_at_once_and_for_ever() {
    let (mut a, mut b) = pair();
    a.set_peers(&[PeerConfig {
        persistent_keepalive: Some(Duration::from_secs(5)),
        ..b.as_peer()
    }]);
    let mut now = a.device.poll_timeout().unwrap();
    a.device.handle_timeout(&mut a.wire, now);
    assert_eq!(a.wire.0.len(), 1);
    settle(&mut [&mut a, &mut b]);
    assert!(a.device.status(a.peer(&b)).unwrap().session_age.is_some());
    let id = b.peer(&a);
    let received = |b: &Node| b.device.status(id).unwrap().last_received;
    let before = received(&b);
    for _ in 0..24 {
        now += Duration::from_millis(250);
        a.device.handle_timeout(&mut a.wire, now);
    }
    assert_eq!(a.wire.0.len(), 1, "one sign of life in six seconds");
    settle(&mut [&mut a, &mut b]);
    assert_ne!(received(&b), before);
    assert_eq!(b.take(), [[0u8; 0]; 0]);
}

#[test]
fn the_queue_drops_the_oldest_and_counts() {
    let (mut a, mut b) = pair();
    for number in 0..40u8 {
        assert_eq!(a.send(&b, &[number]), Sealed::Queued);
    }
    assert_eq!(a.wire.0.len(), 1, "one initiation for all of them");
    settle(&mut [&mut a, &mut b]);
    assert_eq!(a.device.counters().overflowed, 8);
    assert_eq!(b.take(), (8..40).map(|number| vec![number]).collect::<Vec<_>>());
}

#[test]
fn a_peer_that_is_nowhere_gets_nothing() {
    let (a, mut b) = pair();
    assert_eq!(b.send(&a, b"whither"), Sealed::Dropped);
    assert_eq!(b.device.counters().unreachable, 1);
}

#[test]
fn preshared_keys_must_agree() {
    let (mut a, mut b) = pair();
    a.set_peers(&[PeerConfig {
        preshared_key: Some(secret(9)),
        ..b.as_peer()
    }]);
    let _ = a.send(&b, b"x");
    settle(&mut [&mut a, &mut b]);
    assert_eq!(b.take(), [[0u8; 0]; 0]);
    b.set_peers(&[PeerConfig {
        preshared_key: Some(secret(9)),
        ..a.as_peer()
    }]);
    let peer = a.peer(&b);
    a.device
        .initiate(peer, &mut a.wire, Instant::now() + Duration::from_secs(2));
    settle(&mut [&mut a, &mut b]);
    assert_eq!(b.take(), [b"x"]);
}

#[test]
fn a_flood_is_limited_and_who_proves_its_address_gets_through() {
    let limits = HandshakeLimits {
        unproven_per_second: 5,
        proven_per_second: 5,
        per_source_second: 100,
        per_source_burst: 100,
        cookies_per_second: 5,
    };
    let (mut a, mut b) = (Node::new(1), Node::with(2, limits));
    a.set_peers(&[b.as_peer()]);
    b.set_peers(&[a.as_peer()]);
    let initiation = |a: &mut Node, b: &Node, second: u64| {
        let peer = a.peer(b);
        a.device
            .initiate(peer, &mut a.wire, Instant::now() + Duration::from_secs(second));
        a.wire.0.pop_front().unwrap().1
    };
    // Replays from forged addresses use up the rate of those without proof.
    let replay = initiation(&mut a, &b, 2);
    for number in 0..50 {
        b.receive(SocketAddr::new([198, 51, 100, number].into(), 7), &replay);
    }
    let counters = *b.device.counters();
    assert_eq!((counters.sessions, counters.replayed), (1, 0));
    assert_eq!(
        (counters.challenged, counters.limited),
        (1, 48),
        "cookies are limited too"
    );
    b.wire.0.clear();
    // Later, still under load, an honest one is asked for proof, and brings it.
    let fresh = initiation(&mut a, &b, 4);
    let now = Instant::now() + Duration::from_millis(400);
    let mut out = [0; 256];
    b.device.open(
        address("203.0.113.1:7").into(),
        &replay,
        &mut out,
        &mut Wire::default(),
        now,
    );
    b.device.open(
        a.address.into(),
        &fresh,
        &mut out,
        &mut b.wire,
        now + Duration::from_millis(100),
    );
    let (_, cookie) = b.wire.0.pop_front().unwrap();
    assert_eq!(cookie.len(), 64);
    a.receive(b.address, &cookie);
    let proven = initiation(&mut a, &b, 6);
    b.device.open(
        a.address.into(),
        &proven,
        &mut out,
        &mut b.wire,
        now + Duration::from_millis(100),
    );
    assert_eq!(b.device.counters().sessions, 2);
}

#[test]
fn one_sender_cannot_use_up_what_others_need() {
    let limits = HandshakeLimits {
        per_source_second: 1,
        per_source_burst: 2,
        ..HandshakeLimits::default()
    };
    let (mut a, mut b) = (Node::new(1), Node::with(2, limits));
    a.set_peers(&[b.as_peer()]);
    let peer = a.peer(&b);
    a.device.initiate(peer, &mut a.wire, Instant::now());
    let (_, initiation) = a.wire.0.pop_front().unwrap();
    let now = Instant::now();
    let mut from = |text: &str| {
        let before = b.device.counters().unknown_peer;
        b.device.open(
            address(text).into(),
            &initiation,
            &mut [0; 256],
            &mut Wire::default(),
            now,
        );
        b.device.counters().unknown_peer - before == 1
    };
    assert!(from("[2001:db8:0:1::1]:1") && from("[2001:db8:0:1::2]:2"));
    assert!(!from("[2001:db8:0:1::3]:3"), "a /64 is one sender");
    assert!(from("[2001:db8:0:2::1]:1") && from("192.0.2.9:1"));
}

#[test]
fn garbage_is_counted_and_survived() {
    let (mut a, mut b) = connected();
    let _ = a.send(&b, b"whole");
    let (_, datagram) = a.wire.0.pop_front().unwrap();
    for length in 0..datagram.len() {
        b.receive(a.address, &datagram[..length]);
    }
    let counters = *b.device.counters();
    assert_eq!(counters.malformed, 32);
    assert_eq!(counters.malformed + counters.forged, datagram.len() as u64);
    let mut initiation = vec![0; 148];
    initiation[0] = 1;
    b.receive(a.address, &initiation);
    assert_eq!(b.device.counters().bad_mac, 1);
    assert_eq!(
        b.device.open(
            a.address.into(),
            &datagram,
            &mut [0; 8],
            &mut Wire::default(),
            Instant::now()
        ),
        None
    );
    b.receive(a.address, &datagram);
    assert_eq!(b.take(), [b"whole"]);
}

proptest! {
    #[test]
    fn random_datagrams_never_open(kind in 0u8..6, mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (mut a, _) = pair();
        if let Some(head) = bytes.get_mut(..4) {
            head.copy_from_slice(&[kind, 0, 0, 0]);
        }
        a.receive("192.0.2.9:9".parse().unwrap(), &bytes);
        prop_assert!(a.received.is_empty());
    }
}
