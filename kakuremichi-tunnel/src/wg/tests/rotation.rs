//! Static keys that are rotated while packets pass.

use std::collections::BTreeSet;

use super::*;
use crate::{random::SplitMix64, virtual_clock::VirtualClock, wg::pairing::Pair};

/// How long a datagram is on its way.
const DELAY: Duration = Duration::from_millis(30);
/// The clock's step, and how often each node sends a packet.
const STEP: Duration = Duration::from_millis(10);
const PACE: u32 = 5;

/// Node 0, which calls, and node 1, which sent packets all the time.
struct Scene {
    clock: VirtualClock,
    nodes: [Node; 2],
    /// When it arrives, at whom, and which packet is in it.
    wire: VecDeque<(Instant, usize, Option<u32>, Vec<u8>)>,
    /// What was sent in clear of each node.
    overheard: Vec<(usize, Vec<u8>)>,
    packets: u32,
    steps: u32,
    /// Packets that the network took and did not deliver so far, by whom they are for.
    underway: [BTreeSet<u32>; 2],
    /// Of a hundred datagrams so many are lost.
    loss: u64,
    seed: u64,
    random: SplitMix64,
    secrets: u8,
    preshared: Option<u8>,
}

impl Scene {
    /// Two nodes in a session.
    fn new(model: bool, seed: u64) -> Self {
        let mut scene = Self::strangers(model, seed);
        scene.learn(0);
        scene.learn(1);
        scene.pass(Duration::from_secs(1));
        scene.underway = Default::default();
        scene.pass(Duration::from_secs(1));
        scene.lost_nothing();
        scene
    }

    fn strangers(model: bool, seed: u64) -> Self {
        let clock = VirtualClock::start();
        let nodes = [1, 2].map(|number| {
            let mut node = Node::new(number);
            if model {
                node.device =
                    Device::modelled(&DeviceConfig::new(secret(number), number.into()), clock.now());
            }
            node
        });
        Self {
            clock,
            nodes,
            wire: VecDeque::new(),
            overheard: Vec::new(),
            packets: 0,
            steps: 0,
            underway: Default::default(),
            loss: 0,
            seed,
            random: SplitMix64::new(seed),
            secrets: 2,
            preshared: None,
        }
    }

    /// The node gets a new private key.
    fn rekey(&mut self, at: usize) {
        self.secrets += 1;
        self.nodes[at].rekey(self.secrets);
    }

    /// The node is told the keys that the other one has.
    fn learn(&mut self, at: usize) {
        let done = self.meet(at);
        assert_eq!(
            (done.removed, done.refused),
            (vec![], vec![]),
            "it is the same peer"
        );
    }

    /// The same, of one that has no key of those that were known.
    fn meet(&mut self, at: usize) -> Reconciled {
        let mut peer = self.nodes[1 - at].as_peer();
        peer.preshared_key = self.preshared.map(secret);
        match at {
            0 => peer.persistent_keepalive = Some(Duration::from_secs(25)),
            _ => peer.endpoint = None,
        }
        self.nodes[at].set_peers(&[peer])
    }

    fn id(&self, at: usize) -> PeerId {
        self.nodes[at].device.peers().next().unwrap()
    }

    fn pass(&mut self, time: Duration) {
        let end = self.clock.now() + time;
        while self.clock.now() < end {
            self.step();
        }
    }

    fn step(&mut self) {
        self.clock.advance_to(self.clock.now() + STEP);
        let now = self.clock.now();
        self.steps += 1;
        while self.wire.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, to, number, datagram) = self.wire.pop_front().unwrap();
            let from = self.nodes[1 - to].address;
            if self.random.next() % 100 < self.loss {
                number.map(|number| self.underway[to].remove(&number));
                continue;
            }
            self.nodes[to].receive(from, &datagram);
            self.read(to);
            self.collect();
        }
        for at in [0, 1] {
            let node = &mut self.nodes[at];
            node.device.handle_timeout(&mut node.wire, now);
        }
        self.collect();
        if self.steps.is_multiple_of(PACE) {
            self.send(0);
            self.send(1);
        }
    }

    /// A packet to the other one, with a number.
    fn send(&mut self, at: usize) {
        self.packets += 1;
        let number = self.packets;
        let [one, two] = &mut self.nodes;
        let (from, to) = if at == 0 { (one, &*two) } else { (two, &*one) };
        let sealed = from.send(to, &number.to_be_bytes());
        if sealed != Sealed::Dropped {
            self.underway[1 - at].insert(number);
        }
        let datagram = from.wire.0.pop_back();
        self.collect();
        if let Some((_, datagram)) = datagram {
            let number = matches!(sealed, Sealed::Datagram { .. }).then_some(number);
            self.put(at, number, datagram);
        }
    }

    fn collect(&mut self) {
        for at in [0, 1] {
            while let Some((to, datagram)) = self.nodes[at].wire.0.pop_front() {
                if to == self.nodes[1 - at].address {
                    self.put(at, None, datagram);
                }
            }
        }
    }

    fn put(&mut self, from: usize, number: Option<u32>, datagram: Vec<u8>) {
        if datagram[0] < 4 {
            self.overheard.push((from, datagram.clone()));
        }
        self.wire
            .push_back((self.clock.now() + DELAY, 1 - from, number, datagram));
    }

    fn read(&mut self, at: usize) {
        let id = self.id(at);
        for (peer, packet) in self.nodes[at].received.drain(..) {
            assert_eq!(peer, id);
            let number = u32::from_be_bytes(packet[48..].try_into().unwrap());
            self.underway[at].remove(&number);
        }
    }

    /// Everything arrived that the network did not lose, but what is on its way.
    fn lost_nothing(&self) {
        let mut missing = self.underway.clone();
        for (_, to, number, _) in &self.wire {
            number.map(|number| missing[*to].remove(&number));
        }
        assert_eq!(missing, [BTreeSet::new(), BTreeSet::new()], "seed {}", self.seed);
    }

    /// The keys of the tunnel that a node sends in.
    fn pair(&self, at: usize) -> Option<Pair> {
        let device = &self.nodes[at].device;
        let peer = device.slots[self.id(at).slot()].as_ref().unwrap();
        peer.is_ready().then_some(peer.tunnel.as_ref()?.keys)
    }

    fn newest(&self, at: usize) -> Pair {
        Pair {
            ours: self.nodes[at].device.public_key(),
            theirs: self.nodes[1 - at].device.public_key(),
        }
    }

    fn is_through(&self) -> bool {
        [0, 1]
            .into_iter()
            .all(|at| self.pair(at) == Some(self.newest(at)))
    }

    /// Passes time until both send between their newest keys.
    fn until_through(&mut self, within: Duration) {
        let end = self.clock.now() + within;
        while !self.is_through() {
            assert!(
                self.clock.now() < end,
                "{:?}",
                self.nodes.each_ref().map(|node| node.device.counters())
            );
            self.step();
        }
    }

    fn forget(&mut self) {
        for at in [0, 1] {
            self.nodes[at].forget_previous_key();
        }
        for at in [0, 1] {
            self.learn(at);
        }
    }

    /// So many tunnels and indices a node has.
    fn holds(&self, at: usize) -> (usize, usize) {
        let device = &self.nodes[at].device;
        let peer = device.slots[self.id(at).slot()].as_ref().unwrap();
        let tunnels = usize::from(peer.tunnel.is_some()) + usize::from(peer.second.is_some());
        (tunnels, device.indices.len())
    }

    /// What is kept for a handover is given back.
    fn is_at_rest(&mut self) {
        self.pass(Duration::from_secs(185));
        assert_eq!((self.holds(0), self.holds(1)), ((1, 1), (1, 1)));
        assert!(self.is_through());
    }

    /// An initiation that the first node sent, the last one.
    fn initiation(&self) -> Vec<u8> {
        let mut initiations = self.overheard.iter().rev();
        let found = initiations.find(|(from, datagram)| *from == 0 && datagram[0] == 1);
        found.unwrap().1.clone()
    }
}

/// With boringtun, and with the model that stands for it.
fn with_both(test: impl Fn(bool)) {
    test(false);
    test(true);
}

const SOON: Duration = Duration::from_secs(1);

#[test]
fn whoever_rotates_loses_no_packet() {
    for at in [0, 1] {
        with_both(|model| {
            let mut scene = Scene::new(model, 1);
            let ids = [scene.id(0), scene.id(1)];
            scene.rekey(at);
            scene.pass(Duration::from_secs(7));
            assert!(!scene.is_through(), "the other one was not told");
            scene.learn(1 - at);
            scene.until_through(SOON);
            scene.pass(Duration::from_secs(7));
            scene.lost_nothing();
            scene.forget();
            scene.pass(SOON);
            scene.lost_nothing();
            assert_eq!([scene.id(0), scene.id(1)], ids);
            let rotated = scene.nodes.each_ref().map(|node| node.device.counters().rotated);
            assert_eq!(rotated, [1, 1]);
            scene.is_at_rest();
            scene.lost_nothing();
        });
    }
}

/// The keys may also be told before they are taken up.
#[test]
fn a_key_that_is_told_before_it_is_used_costs_nothing() {
    with_both(|model| {
        for at in [0, 1] {
            let mut scene = Scene::new(model, 2);
            let mut peer = scene.nodes[at].as_peer();
            peer.previous_key = Some(peer.public_key);
            peer.public_key = public_key(&secret(3));
            peer.persistent_keepalive = (at == 1).then_some(Duration::from_secs(25));
            scene.nodes[1 - at].set_peers(&[peer]);
            scene.pass(Duration::from_secs(12));
            scene.lost_nothing();
            scene.rekey(at);
            scene.until_through(SOON);
            scene.pass(SOON);
            scene.lost_nothing();
        }
    });
}

#[test]
fn both_rotate_at_once_in_any_order() {
    // Who has its own new key, and who was told of the other's.
    let orders = [
        [0, 1, 2, 3],
        [0, 1, 3, 2],
        [0, 3, 1, 2],
        [1, 0, 2, 3],
        [1, 0, 3, 2],
        [1, 2, 0, 3],
    ];
    for (number, order) in orders.iter().enumerate() {
        for pause in [0, 40, 3_000, 14_000] {
            with_both(|model| {
                let mut scene = Scene::new(model, number as u64);
                for action in order {
                    match action {
                        0 | 1 => scene.rekey(*action),
                        // The first is told of the second's, and the other way round.
                        _ => scene.learn(*action - 2),
                    }
                    scene.pass(Duration::from_millis(pause));
                }
                // Who was told last knows all keys, and calls.
                scene.until_through(Duration::from_secs(20));
                scene.pass(Duration::from_secs(6));
                scene.lost_nothing();
                scene.forget();
                scene.pass(SOON);
                scene.lost_nothing();
                scene.is_at_rest();
            });
        }
    }
}

#[test]
fn a_rotation_follows_the_other() {
    with_both(|model| {
        let mut scene = Scene::new(model, 3);
        for round in 0..6 {
            let at = round % 2;
            scene.rekey(at);
            scene.learn(1 - at);
            scene.until_through(Duration::from_secs(7));
        }
        scene.pass(SOON);
        scene.lost_nothing();
        scene.is_at_rest();
    });
}

/// Two keys are kept and no more: the session of a third one ends, and the peer is called with what is left.
#[test]
fn a_rotation_that_overtakes_the_one_before_is_survived() {
    for at in [0, 1] {
        with_both(|model| {
            for pause in [0, 40, 100, 270, 300, 330, 360, 2_000] {
                let mut scene = Scene::new(model, 4);
                let ids = [scene.id(0), scene.id(1)];
                for _ in 0..3 {
                    scene.rekey(at);
                    scene.learn(1 - at);
                    scene.pass(Duration::from_millis(pause));
                }
                scene.until_through(Duration::from_secs(20));
                assert_eq!([scene.id(0), scene.id(1)], ids);
                scene.underway = Default::default();
                scene.wire.clear();
                scene.pass(SOON);
                scene.lost_nothing();
            }
        });
    }
}

#[test]
fn who_never_came_is_refused_when_the_overlap_ends() {
    with_both(|model| {
        // The responder's old key is gone.
        let mut scene = Scene::new(model, 5);
        scene.rekey(1);
        scene.pass(Duration::from_secs(130));
        scene.lost_nothing();
        assert!(
            scene.pair(1).is_some(),
            "it goes on, and is renewed, with the old one"
        );
        scene.nodes[1].forget_previous_key();
        assert_eq!(scene.pair(1), None);
        assert_eq!(scene.nodes[1].device.poll_changed(), Some(scene.id(1)));
        let before = scene.nodes[1].device.counters().bad_mac;
        scene.pass(Duration::from_secs(60));
        assert_eq!(scene.pair(1), None);
        assert!(scene.nodes[1].device.counters().bad_mac > before);
        assert_eq!(scene.meet(0).added.len(), 1, "nothing is left of what it knew");
        scene.until_through(Duration::from_secs(20));

        // The initiator's is.
        scene.rekey(0);
        let mut peer = scene.nodes[0].as_peer();
        peer.previous_key = None;
        // It is told first, and then has one that it did not come with.
        scene.learn(1);
        peer.public_key = scene.nodes[0].device.public_key();
        scene.nodes[0].device.rekey(&secret(98));
        scene.nodes[0].device.rekey(&secret(99));
        scene.nodes[1].set_peers(&[peer]);
        let refused = |scene: &Scene| scene.nodes[1].device.counters().unknown_peer;
        let before = refused(&scene);
        scene.pass(Duration::from_secs(60));
        assert!(refused(&scene) > before);
        assert_eq!(scene.pair(1), None);
    });
}

/// A node that starts anew with what it had on its disk.
#[test]
fn a_peer_that_is_back_with_its_old_key_is_answered_during_the_overlap() {
    with_both(|model| {
        let mut scene = Scene::new(model, 6);
        let old = scene.nodes[0].device.public_key();
        scene.rekey(0);
        scene.learn(1);
        scene.until_through(SOON);
        scene.pass(Duration::from_secs(6));
        let config = DeviceConfig::new(secret(1), 77);
        let now = scene.clock.now();
        scene.nodes[0].device = if model {
            Device::modelled(&config, now)
        } else {
            Device::new(&config, now)
        };
        scene.learn(0);
        scene.pass(Duration::from_secs(2));
        assert_eq!(scene.pair(1).map(|pair| pair.theirs), Some(old));
        scene.underway = Default::default();
        scene.wire.clear();
        scene.pass(Duration::from_secs(20));
        scene.lost_nothing();
        // It finds its newer one.
        scene.nodes[0].device.rekey(&secret(3));
        scene.until_through(SOON);
        scene.pass(SOON);
        scene.lost_nothing();
    });
}

/// The peer's keys are known, and what was said with the old one is said again by somebody else.
#[test]
fn a_replayed_initiation_of_the_old_key_moves_nothing() {
    for at in [0, 1] {
        with_both(|model| {
            let mut scene = Scene::new(model, 7);
            let old = scene.initiation();
            scene.rekey(at);
            scene.learn(1 - at);
            scene.until_through(SOON);
            let attacker = address("198.51.100.66:6666");
            let pair = scene.pair(1);
            // Nothing is left that would know it for what it is.
            scene.pass(Duration::from_secs(185));
            for round in 0..80 {
                scene.nodes[1].receive(attacker, &old);
                scene.nodes[1].wire.0.retain(|(to, _)| *to != attacker);
                scene.pass(Duration::from_millis(500));
                assert_eq!(scene.pair(1), pair, "{round}");
                let status = scene.nodes[1].device.status(scene.id(1)).unwrap();
                assert_eq!(status.endpoint, Some(scene.nodes[0].address));
                assert!(scene.holds(1).0 <= 2 && scene.holds(1).1 <= 2);
            }
            scene.lost_nothing();
            assert!(scene.nodes[1].device.counters().replayed > 0);
            // Nor does it keep the other one from rotating.
            scene.rekey(1 - at);
            scene.nodes[1].receive(attacker, &old);
            scene.learn(at);
            for _ in 0..40 {
                scene.nodes[1].receive(attacker, &old);
                scene.nodes[1].wire.0.retain(|(to, _)| *to != attacker);
                scene.pass(Duration::from_millis(500));
            }
            assert!(scene.is_through());
            scene.lost_nothing();
            scene.forget();
            scene.nodes[1].receive(attacker, &old);
            assert_eq!(
                scene.holds(1),
                (1, 1),
                "what was left went with its key, and nothing is made"
            );
            scene.is_at_rest();
        });
    }
}

/// Who knows our key and the peer's, and neither's secret, takes no place of anybody.
#[test]
fn a_forged_initiation_displaces_nothing() {
    let mut scene = Scene::new(true, 8);
    let old = scene.initiation();
    scene.rekey(0);
    scene.learn(1);
    // The handover has begun, and is not through.
    while scene.holds(0).0 < 2 && scene.holds(1).0 < 2 {
        scene.step();
    }
    let mut forged = old;
    // Of the model, the stamp's tag: with boringtun nobody can do so much as this.
    forged[100] ^= 1;
    let end = forged.len() - 32;
    let mac = model::mac1(&scene.nodes[1].device.public_key(), &forged[..end]);
    forged[end..end + 16].copy_from_slice(&mac);
    for _ in 0..5 {
        scene.nodes[1].receive(address("198.51.100.66:6666"), &forged);
    }
    assert!(scene.nodes[1].device.counters().forged + scene.nodes[1].device.counters().limited >= 5);
    scene.until_through(SOON);
    scene.pass(SOON);
    scene.lost_nothing();
}

/// LESSONS, advisory 7: a cap per peer, however many keys it has.
#[test]
fn initiations_of_both_keys_are_counted_together() {
    let mut scene = Scene::new(true, 9);
    // What all together may is not what stops it.
    let limits = HandshakeLimits {
        unproven_per_second: 10_000,
        ..HandshakeLimits::default()
    };
    let config = DeviceConfig {
        handshakes: limits,
        ..DeviceConfig::new(secret(2), 2)
    };
    scene.nodes[1].device = Device::modelled(&config, scene.clock.now());
    scene.rekey(0);
    let mut peer = scene.nodes[0].as_peer();
    peer.endpoint = None;
    scene.nodes[1].set_peers(&[peer]);
    let before = *scene.nodes[1].device.counters();
    // Two devices of it, with a key each.
    let mut callers = [1, 3].map(|number| {
        let mut node = Node::new(number);
        node.device = Device::modelled(
            &DeviceConfig::new(secret(number), number.into()),
            scene.clock.now(),
        );
        node.set_peers(&[scene.nodes[1].as_peer()]);
        node
    });
    let mut initiations = Vec::new();
    for _ in 0..100 {
        scene.clock.advance_to(scene.clock.now() + Duration::from_secs(1));
        let now = scene.clock.now();
        for caller in &mut callers {
            let peer = caller.device.peers().next().unwrap();
            caller.device.initiate(peer, &mut caller.wire, now);
            initiations.extend(caller.wire.0.pop_front());
        }
    }
    for (number, (_, initiation)) in initiations.iter().enumerate() {
        let from = SocketAddr::new([203, 0, 113, number as u8].into(), 7);
        scene.nodes[1].receive(from, initiation);
    }
    let after = *scene.nodes[1].device.counters();
    let sessions = after.sessions - before.sessions;
    assert!((1..=50).contains(&sessions), "{sessions}");
    assert!(after.limited - before.limited >= 100);
    assert!(scene.holds(1).1 <= 2);
}

#[test]
fn preshared_keys_stay() {
    with_both(|model| {
        let mut scene = Scene::strangers(model, 10);
        scene.preshared = Some(9);
        scene.learn(0);
        scene.learn(1);
        scene.pass(SOON);
        scene.underway = Default::default();
        for at in [0, 1] {
            scene.rekey(at);
            scene.learn(1 - at);
            scene.until_through(Duration::from_secs(7));
        }
        scene.pass(SOON);
        scene.lost_nothing();
    });
}

#[test]
fn keys_that_are_somebody_elses_are_refused() {
    let (mut a, b, c) = (Node::new(1), Node::new(2), Node::new(3));
    let with = |node: &Node, previous: &Node| PeerConfig {
        previous_key: Some(previous.device.public_key()),
        ..node.as_peer()
    };
    let key = |node: &Node| node.device.public_key();
    assert_eq!(a.set_peers(&[with(&b, &c), c.as_peer()]).refused, [key(&c)]);
    assert_ne!(a.peer(&b), a.peer(&c));
    let own = with(&b, &a);
    assert_eq!(a.set_peers(&[own]).refused, [key(&a)]);
    // It was the key before, and is another peer's then.
    let before = a.peer(&b);
    assert_eq!(a.set_peers(&[with(&b, &c)]), Reconciled::default());
    assert_eq!(a.device.peer(&key(&c)), Some(before));
    let done = a.set_peers(&[b.as_peer(), c.as_peer()]);
    assert_eq!(done.added.len(), 1);
    assert_eq!((a.peer(&b), a.peer(&c) != before), (before, true));
    // And both are one.
    let done = a.set_peers(&[with(&c, &b)]);
    assert_eq!(done.removed, [before]);
    assert_eq!(a.device.peer(&key(&b)), a.device.peer(&key(&c)));
}

/// Whatever happens: what the network delivers is opened, and in the end both have moved.
#[test]
fn any_rotation() {
    for seed in 0..60 {
        let mut scene = Scene::new(seed % 4 > 0, seed);
        let mut random = SplitMix64::new(seed);
        let mut below = |bound: u64| random.next() % bound;
        scene.loss = [0, 0, 5, 20][below(4) as usize];
        for _ in 0..6 {
            // Each rotates once before both were told and moved.
            let mut actions = vec![0, 1, 2, 3];
            if below(3) == 0 {
                actions = vec![0, 3];
            }
            while !actions.is_empty() {
                let at = below(actions.len() as u64) as usize;
                let action = actions[at];
                if action >= 2 && actions.contains(&(3 - action)) {
                    // There is nothing to tell yet.
                    continue;
                }
                match actions.remove(at) {
                    action @ (0 | 1) => scene.rekey(action),
                    action => scene.learn(action - 2),
                }
                scene.pass(Duration::from_millis(below(20_000) >> below(10)));
                scene.lost_nothing();
            }
            scene.until_through(Duration::from_secs(150));
            scene.pass(Duration::from_secs(12));
            scene.lost_nothing();
            scene.forget();
            scene.pass(Duration::from_millis(below(5_000)));
            scene.lost_nothing();
        }
        scene.loss = 0;
        scene.is_at_rest();
    }
}
