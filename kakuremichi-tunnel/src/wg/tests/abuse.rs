//! What strangers and hostile peers send, and what it costs.

use super::*;
use crate::{random::SplitMix64, virtual_clock::VirtualClock};

/// Two nodes with the model that stands for boringtun, under virtual time: a flood of them is cheap.
struct Flooded {
    clock: VirtualClock,
    /// Who is flooded.
    gate: Node,
    peer: Node,
}

impl Flooded {
    fn new(handshakes: HandshakeLimits) -> Self {
        let clock = VirtualClock::start();
        let modelled = |number| {
            let mut node = Node::with(number, handshakes);
            let config = DeviceConfig {
                handshakes,
                ..DeviceConfig::new(secret(number), number.into())
            };
            node.device = Device::modelled(&config, clock.now());
            node
        };
        let (mut gate, mut peer) = (modelled(1), modelled(2));
        gate.set_peers(&[PeerConfig {
            endpoint: None,
            ..peer.as_peer()
        }]);
        peer.set_peers(&[gate.as_peer()]);
        Self { clock, gate, peer }
    }

    fn pass(&self, time: Duration) {
        self.clock.advance_to(self.clock.now() + time);
    }

    /// An initiation of the peer, whoever sends it.
    fn initiation(&mut self) -> Vec<u8> {
        let gate = self.peer.peer(&self.gate);
        self.pass(Duration::from_secs(2));
        let now = self.clock.now();
        self.peer.device.initiate(gate, &mut self.peer.wire, now);
        self.peer.wire.0.pop_front().unwrap().1
    }
}

fn anywhere(random: &mut SplitMix64) -> SocketAddr {
    let bits = u128::from(random.next()) << 64 | u128::from(random.next());
    SocketAddr::new(std::net::Ipv6Addr::from_bits(bits).into(), 51_820)
}

/// LESSONS, advisory 7. Who does not know our key is told from who does before anything else is done, and takes
/// nothing of what the others may.
#[test]
fn a_wrong_mac1_costs_no_handshake() {
    let mut scene = Flooded::new(HandshakeLimits {
        unproven_per_second: 1,
        proven_per_second: 1,
        ..HandshakeLimits::default()
    });
    let genuine = scene.initiation();
    let mut forged = genuine.clone();
    forged[148 - 32] ^= 1;
    for _ in 0..1_000 {
        scene.gate.receive(scene.peer.address, &forged);
    }
    let counters = *scene.gate.device.counters();
    assert_eq!((counters.bad_mac, counters.challenged), (1_000, 0));
    assert!(scene.gate.wire.0.is_empty(), "nobody is answered");
    scene.gate.receive(scene.peer.address, &genuine);
    assert_eq!(scene.gate.device.counters().sessions, 1);
}

#[test]
fn a_cookie_is_sent_under_load_only_and_is_good_for_its_address_only() {
    let mut scene = Flooded::new(HandshakeLimits {
        per_source_second: 1,
        per_source_burst: 1,
        ..HandshakeLimits::default()
    });
    let first = scene.initiation();
    scene.gate.receive(scene.peer.address, &first);
    assert_eq!(scene.gate.device.counters().challenged, 0, "there was no load");
    scene.gate.wire.0.clear();
    // Another one at once is too much of one sender.
    scene.gate.receive(scene.peer.address, &first);
    let (to, cookie) = scene.gate.wire.0.pop_front().unwrap();
    assert_eq!(
        (to, scene.gate.device.counters().challenged),
        (scene.peer.address, 1)
    );
    assert!(
        cookie.len() < first.len(),
        "a forged sender is not sent more than was sent"
    );
    let stranger = address("203.0.113.9:9");
    // It is for the message that was answered; what comes next carries the proof.
    let again = scene.initiation();
    scene.gate.receive(scene.peer.address, &again);
    scene.gate.receive(scene.peer.address, &again);
    let (_, cookie) = scene.gate.wire.0.pop_back().unwrap();
    scene.peer.receive(scene.gate.address, &cookie);
    let proven = scene.initiation();
    for from in [stranger, scene.peer.address] {
        // What may come without proof is used up.
        scene.gate.receive(from, &first);
    }
    scene.gate.wire.0.clear();
    let before = *scene.gate.device.counters();
    scene.gate.receive(stranger, &proven);
    let after = *scene.gate.device.counters();
    assert_eq!(
        (after.sessions, after.challenged),
        (before.sessions, before.challenged + 1),
        "elsewhere it proves nothing"
    );
    scene.gate.receive(scene.peer.address, &proven);
    assert_eq!(scene.gate.device.counters().sessions, before.sessions + 1);
}

/// Twenty thousand initiations a second from as many places, all by somebody who knows our key.
#[test]
fn a_flood_from_forged_senders_does_not_keep_a_peer_from_connecting() {
    let mut scene = Flooded::new(HandshakeLimits::default());
    let mut random = SplitMix64::new(1);
    // A genuine one that was overheard: it is as costly as any.
    let overheard = scene.initiation();
    scene.gate.receive(scene.peer.address, &overheard);
    scene.gate.wire.0.clear();
    let gate = scene.peer.peer(&scene.gate);
    let begin = scene.clock.now();
    while scene.peer.device.status(gate).unwrap().session_age.is_none() {
        for _ in 0..20 {
            scene.gate.receive(anywhere(&mut random), &overheard);
        }
        scene.pass(Duration::from_millis(1));
        let now = scene.clock.now();
        // Its timers, and a probe without an answer, have it try every second.
        scene.peer.device.handle_timeout(&mut scene.peer.wire, now);
        scene.peer.device.initiate(gate, &mut scene.peer.wire, now);
        scene.gate.device.handle_timeout(&mut scene.gate.wire, now);
        scene.gate.wire.0.retain(|(to, _)| *to == scene.peer.address);
        settle(&mut [&mut scene.gate, &mut scene.peer]);
        assert!(now - begin < Duration::from_secs(60), "it never gets through");
    }
    let counters = *scene.gate.device.counters();
    let seconds = (scene.clock.now() - begin).as_secs() + 2;
    assert!(counters.replayed <= 200 * (seconds + 1), "{counters:?}");
    assert!(counters.limited > 0 && counters.challenged > 0, "{counters:?}");
}

/// A peer that does nothing but shake hands, from as many places as it likes, is answered ten times a second.
#[test]
fn a_peer_that_floods_initiations_is_limited_by_itself() {
    // What all together may is not what stops it.
    let mut scene = Flooded::new(HandshakeLimits {
        unproven_per_second: 1_000,
        ..HandshakeLimits::default()
    });
    let other = Node::new(3);
    let peers = [scene.peer.as_peer(), other.as_peer()].map(|peer| PeerConfig {
        endpoint: None,
        ..peer
    });
    scene.gate.set_peers(&peers);
    let mut random = SplitMix64::new(2);
    let initiations: Vec<_> = (0..200).map(|_| scene.initiation()).collect();
    for initiation in &initiations {
        scene.gate.receive(anywhere(&mut random), initiation);
    }
    let counters = *scene.gate.device.counters();
    assert_eq!((counters.sessions, counters.limited), (50, 150));
    scene.pass(Duration::from_secs(1));
    for _ in 0..200 {
        let next = scene.initiation();
        // Its own clock runs on in between; the gate's does not, as far as this is concerned.
        scene.gate.receive(anywhere(&mut random), &next);
    }
    assert_eq!(
        scene.gate.device.counters().sessions,
        250,
        "an honest pace is no flood"
    );
}

/// Who overhears our initiation has four tries at a response, whatever it costs to refuse one.
#[test]
fn each_initiation_asks_for_a_few_responses() {
    let (mut a, mut b) = pair();
    let peer = a.peer(&b);
    for round in 1..=2 {
        let later = Instant::now() + Duration::from_secs(2 * round);
        a.device.initiate(peer, &mut a.wire, later);
        let (_, initiation) = a.wire.0.pop_front().unwrap();
        b.receive(a.address, &initiation);
        let (_, response) = b.wire.0.pop_front().unwrap();
        let before = *a.device.counters();
        for _ in 0..20 {
            a.receive(b.address, &response);
        }
        let after = *a.device.counters();
        assert_eq!(after.sessions - before.sessions, 1);
        assert_eq!(after.unknown_session - before.unknown_session, 3);
        assert_eq!(after.limited - before.limited, 16);
        settle(&mut [&mut a, &mut b]);
    }
}

/// Whatever was said is said again by somebody else: nothing comes of it.
#[test]
fn what_is_replayed_is_dropped_and_counted() {
    let (mut a, mut b) = pair();
    let mut heard: Vec<(bool, Vec<u8>)> = Vec::new();
    let _ = a.send(&b, b"first");
    for _ in 0..8 {
        while let Some((_, datagram)) = a.wire.0.pop_front() {
            b.receive(a.address, &datagram);
            heard.push((true, datagram));
        }
        while let Some((_, datagram)) = b.wire.0.pop_front() {
            a.receive(b.address, &datagram);
            heard.push((false, datagram));
        }
        let _ = b.send(&a, b"back");
    }
    b.wire.0.clear();
    let (opened_a, opened_b) = (a.take().len(), b.take().len());
    assert!(opened_a > 1 && opened_b == 1, "{opened_a} {opened_b}");
    let stranger = address("203.0.113.7:7");
    let dropped = |node: &Node| {
        let counters = node.device.counters();
        counters.replayed + counters.unknown_session
    };
    let before = dropped(&a) + dropped(&b);
    for _ in 0..3 {
        for (to_b, datagram) in &heard {
            if *to_b { &mut b } else { &mut a }.receive(stranger, datagram);
        }
    }
    assert_eq!(dropped(&a) + dropped(&b) - before, 3 * heard.len() as u64);
    assert!(a.received.is_empty() && b.received.is_empty());
    assert!(a.wire.0.is_empty() && b.wire.0.is_empty(), "nobody is answered");
    let endpoint = |node: &Node, other: &Node| node.device.status(node.peer(other)).unwrap().endpoint;
    assert_eq!(
        (endpoint(&a, &b), endpoint(&b, &a)),
        (Some(b.address), Some(a.address))
    );
    let _ = a.send(&b, b"goes on");
    settle(&mut [&mut a, &mut b]);
    assert_eq!(b.take(), [b"goes on"]);
}

#[test]
fn datagrams_of_any_length_are_counted_and_survived() {
    let (mut a, mut b) = connected();
    let _ = a.send(&b, b"whole");
    let (_, whole) = a.wire.0.pop_front().unwrap();
    let before = *b.device.counters();
    for kind in 0..=5_u8 {
        for length in [0, 1, 3, 4, 31, 63, 65, 91, 93, 147, 149, 2_048, 65_507] {
            let mut datagram = vec![0; length];
            let head = length.min(4);
            datagram[..head].copy_from_slice(&[kind, 0, 0, 0][..head]);
            b.receive(a.address, &datagram);
        }
    }
    // Known to be somebody's, and far too long.
    let mut long = whole.clone();
    long.resize(65_507, 7);
    b.receive(a.address, &long);
    let after = *b.device.counters();
    let unknown = after.unknown_session - before.unknown_session;
    let malformed = after.malformed - before.malformed;
    assert_eq!(unknown + malformed, 6 * 13, "{after:?}");
    assert_eq!(after.forged - before.forged, 1);
    b.receive(a.address, &whole);
    assert_eq!(b.take(), [b"whole"]);
}
