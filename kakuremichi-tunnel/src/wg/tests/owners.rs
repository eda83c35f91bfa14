//! Several shards, of which one owns a peer.

use super::*;

const SHARDS: u8 = 4;

/// A node with several shards at one address, and an agent that calls it.
struct Scene {
    shards: Vec<Device>,
    address: SocketAddr,
    wire: Wire,
    agent: Node,
    now: Instant,
    /// The agent's clock.
    agent_now: Instant,
    /// What shards opened.
    opened: usize,
}

impl Scene {
    fn new(handshakes: HandshakeLimits) -> Self {
        let now = Instant::now();
        let mut config = DeviceConfig::new(secret(1), 7);
        config.handshakes = handshakes;
        let mut shards = Device::for_shards(&config, SHARDS, now);
        let mut agent = Node::new(2);
        let as_peer = PeerConfig::new(agent.device.public_key(), vec![Cidr::host(agent.overlay)]);
        for shard in &mut shards {
            shard.set_peers(std::slice::from_ref(&as_peer), now);
        }
        let address = address("192.0.2.1:51820");
        let mut gate = PeerConfig::new(shards[0].public_key(), vec![Cidr::host(overlay(1))]);
        gate.endpoint = Some(address);
        agent.set_peers(&[gate]);
        Self {
            shards,
            address,
            wire: Wire::default(),
            agent,
            now,
            agent_now: now,
            opened: 0,
        }
    }

    fn gate(&self) -> PeerId {
        self.agent.device.peers().next().unwrap()
    }

    /// The initiation that the agent sends when it wants a new session.
    fn initiation(&mut self) -> Vec<u8> {
        let gate = self.gate();
        self.agent_now += Duration::from_secs(2);
        self.agent
            .device
            .initiate(gate, &mut self.agent.wire, self.agent_now);
        let (to, datagram) = self.agent.wire.0.pop_front().unwrap();
        assert_eq!((to, datagram[0]), (self.address, 1));
        datagram
    }

    /// Gives a datagram to a shard, and to the one that it hands it over to; returns where it went.
    fn deliver(&mut self, shard: u8, from: SocketAddr, datagram: &[u8]) -> Option<Elsewhere> {
        let mut out = [0; 2048];
        let device = &mut self.shards[usize::from(shard)];
        let opened = device.open(from.into(), datagram, &mut out, &mut self.wire, self.now);
        let elsewhere = device.poll_elsewhere();
        let handed = elsewhere.and_then(|to| {
            let device = &mut self.shards[usize::from(to.shard)];
            let admitted = to.admitted;
            let opened = device.open_handed(
                admitted,
                from.into(),
                datagram,
                &mut out,
                &mut self.wire,
                self.now,
            );
            assert_eq!(device.poll_elsewhere(), None, "it goes to no third one");
            opened
        });
        self.opened += usize::from(opened.is_some()) + usize::from(handed.is_some());
        elsewhere
    }

    /// A handshake that comes to `shard`, as all that follows does.
    fn shake_hands(&mut self, shard: u8) -> Option<Elsewhere> {
        let initiation = self.initiation();
        let from = self.agent.address;
        let elsewhere = self.deliver(shard, from, &initiation);
        self.exchange(shard);
        elsewhere
    }

    /// Delivers until nobody has anything to send.
    fn exchange(&mut self, shard: u8) {
        loop {
            if let Some((to, datagram)) = self.wire.0.pop_front() {
                assert_eq!(to, self.agent.address);
                let gate = self.address;
                self.agent.receive(gate, &datagram);
            } else if let Some((_, datagram)) = self.agent.wire.0.pop_front() {
                let from = self.agent.address;
                self.deliver(shard, from, &datagram);
            } else {
                return;
            }
        }
    }

    fn owner(&self) -> u8 {
        self.shards[0].owners().owner(&self.agent.device.public_key())
    }

    fn status(&self, shard: u8) -> PeerStatus {
        let device = &self.shards[usize::from(shard)];
        let peer = device.peers().next().unwrap();
        device.status(peer).unwrap()
    }

    /// A packet of the agent's, as it is on the wire.
    fn packet(&mut self) -> Vec<u8> {
        let (gate, source) = (self.gate(), self.agent.overlay);
        let mut packet = [0; 256];
        let echo = Echo {
            kind: EchoKind::Request,
            identifier: 0,
            sequence: 0,
            data: b"hello",
        };
        let length = echo.write(source, overlay(1), &mut packet).unwrap();
        let mut out = [0; 512];
        let sealed = self.agent.device.seal(
            gate,
            &packet[..length],
            &mut out,
            &mut self.agent.wire,
            self.agent_now,
        );
        let Sealed::Datagram { length, .. } = sealed else {
            panic!("{sealed:?}");
        };
        out[..length].to_vec()
    }

    fn hold_live(&mut self, flows: bool) {
        for shard in &mut self.shards {
            shard.hold_live(|_| flows, self.now);
            shard.handle_timeout(&mut self.wire, self.now);
        }
    }
}

#[test]
fn a_peer_belongs_to_the_shard_that_its_handshake_came_to() {
    for shard in 0..SHARDS {
        let mut scene = Scene::new(HandshakeLimits::default());
        assert_eq!(scene.shake_hands(shard), None);
        assert_eq!(scene.owner(), shard);
        for other in 0..SHARDS {
            let status = scene.status(other);
            assert_eq!(
                (status.owned, status.session_age.is_some()),
                (other == shard, other == shard)
            );
        }
        // Its packets name their shard, wherever they arrive.
        for arrives_at in 0..SHARDS {
            let packet = scene.packet();
            let roamed = SocketAddr::new(scene.agent.address.ip(), 1000 + u16::from(arrives_at));
            let elsewhere = scene.deliver(arrives_at, roamed, &packet);
            let expected = (arrives_at != shard).then_some(Elsewhere {
                shard,
                admitted: false,
            });
            assert_eq!(elsewhere, expected);
            assert_eq!(scene.status(shard).endpoint, Some(roamed));
        }
        assert_eq!(scene.opened, usize::from(SHARDS));
    }
}

#[test]
fn an_owner_keeps_a_peer_with_a_live_session() {
    let mut scene = Scene::new(HandshakeLimits::default());
    scene.shake_hands(3);
    let expected = Some(Elsewhere {
        shard: 3,
        admitted: true,
    });
    // The peer lost its session, or changed its port; the initiation came to another shard.
    assert_eq!(scene.shake_hands(1), expected);
    assert_eq!(scene.owner(), 3);
    let packet = scene.packet();
    let from = scene.agent.address;
    assert_eq!(scene.deliver(3, from, &packet), None);
    assert_eq!(scene.opened, 1);
    // Also without a session, as long as it has flows.
    scene.now += Duration::from_secs(200);
    scene.hold_live(true);
    assert_eq!(scene.shake_hands(2), expected);
}

#[test]
fn a_peer_that_was_idle_is_taken_over() {
    let mut scene = Scene::new(HandshakeLimits::default());
    scene.shake_hands(3);
    scene.now += Duration::from_secs(200);
    scene.hold_live(false);
    assert_eq!(scene.owner(), 3, "remembered");
    assert_eq!(scene.shake_hands(1), None);
    assert_eq!(scene.owner(), 1);
    assert_eq!(scene.shards[1].counters().taken_over, 1);
    scene.now += Duration::from_secs(1);
    scene.hold_live(false);
    assert_eq!(scene.status(3).session_age, None);
    let packet = scene.packet();
    let from = scene.agent.address;
    assert_eq!(scene.deliver(1, from, &packet), None);
    assert_eq!(scene.opened, 1);
}

/// A shard that never spoke with a peer cannot know which initiations it saw before.
#[test]
fn a_replayed_initiation_moves_nothing() {
    let mut scene = Scene::new(HandshakeLimits::default());
    let recorded = scene.initiation();
    let from = scene.agent.address;
    scene.deliver(3, from, &recorded);
    scene.exchange(3);
    scene.now += Duration::from_secs(200);
    scene.hold_live(false);
    let attacker = address("198.51.100.66:6666");
    assert_eq!(scene.deliver(0, attacker, &recorded), None);
    let (to, _) = scene.wire.0.pop_front().unwrap();
    assert_eq!(to, attacker);
    scene.hold_live(false);
    assert_eq!(scene.owner(), 3);
    assert_eq!(scene.status(3).endpoint, Some(scene.agent.address));
    assert_eq!(scene.status(0).endpoint, None);
    // At its owner it is known for what it is.
    scene.deliver(3, attacker, &recorded);
    assert_eq!(scene.shards[3].counters().replayed, 1);
    // What was made for it is given back, and the peer comes and goes as it likes.
    scene.now += Duration::from_secs(20);
    scene.hold_live(false);
    scene.wire.0.clear();
    assert_eq!(scene.shake_hands(2), None);
    assert_eq!(scene.owner(), 2);
}

/// LESSONS, advisory 7: a cap per address, however many sockets there are.
#[test]
fn handshakes_are_counted_over_all_shards() {
    let mut scene = Scene::new(HandshakeLimits {
        per_source_second: 1,
        per_source_burst: 8,
        ..HandshakeLimits::default()
    });
    for round in 0..32 {
        let initiation = scene.initiation();
        let from = scene.agent.address;
        scene.deliver(round % SHARDS, from, &initiation);
    }
    let challenged: u64 = scene.shards.iter().map(|shard| shard.counters().challenged).sum();
    assert_eq!(challenged, 32 - 8);
}

/// Both keys of a peer are one peer's, whichever shard they come to.
#[test]
fn a_peer_that_rotates_stays_with_its_owner() {
    let mut scene = Scene::new(HandshakeLimits::default());
    scene.shake_hands(3);
    let session = scene.status(3);
    scene.agent.rekey(7);
    let mut as_peer = PeerConfig::new(
        scene.agent.device.public_key(),
        vec![Cidr::host(scene.agent.overlay)],
    );
    as_peer.previous_key = scene.agent.previous;
    // They are told one after the other.
    let expected = Some(Elsewhere {
        shard: 3,
        admitted: true,
    });
    for shard in 0..SHARDS {
        let done = scene.shards[usize::from(shard)].set_peers(std::slice::from_ref(&as_peer), scene.now);
        assert_eq!(done, Reconciled::default());
        assert_eq!(scene.owner(), 3);
        let packet = scene.packet();
        let from = scene.agent.address;
        scene.deliver(0, from, &packet);
    }
    assert_eq!(scene.opened, usize::from(SHARDS));
    // It calls with the new key, and the datagrams come anywhere.
    scene.agent_now += Duration::from_secs(1);
    let now = scene.agent_now;
    scene.agent.device.handle_timeout(&mut scene.agent.wire, now);
    let (_, initiation) = scene.agent.wire.0.pop_front().unwrap();
    assert_eq!(initiation[0], 1);
    let from = scene.agent.address;
    assert_eq!(scene.deliver(1, from, &initiation), expected);
    scene.exchange(2);
    let status = scene.status(3);
    assert_eq!((status.id, status.public_key), (session.id, as_peer.public_key));
    assert_eq!((status.owned, scene.owner()), (true, 3));
    assert_eq!(scene.shards[3].counters().rotated, 1);
    assert_eq!(scene.agent.device.counters().rotated, 1);
    // In the end it has one key again, and the same owner.
    scene.agent.forget_previous_key();
    as_peer.previous_key = None;
    for shard in &mut scene.shards {
        assert_eq!(
            shard.set_peers(std::slice::from_ref(&as_peer), scene.now),
            Reconciled::default()
        );
    }
    assert_eq!(scene.owner(), 3);
    let packet = scene.packet();
    scene.deliver(0, from, &packet);
    assert_eq!(scene.opened, usize::from(SHARDS) + 1);
}

/// One call reaches all shards.
#[test]
fn a_key_of_ours_is_taken_up_by_all_shards() {
    for shard in 0..SHARDS {
        let mut scene = Scene::new(HandshakeLimits::default());
        scene.shards[2].rekey(&secret(9));
        // Who knows the former key only is answered by it, until it is forgotten.
        assert_eq!(scene.shake_hands(shard), None);
        assert_eq!(scene.owner(), shard);
        scene.shards[1].forget_previous_key();
        scene.agent_now += Duration::from_secs(2);
        let initiation = scene.initiation();
        let from = scene.agent.address;
        scene.deliver(shard, from, &initiation);
        assert_eq!(scene.shards[usize::from(shard)].counters().bad_mac, 1);
        assert_eq!(scene.status(shard).session_age, None, "it went with its key");
        let mut gate = PeerConfig::new(scene.shards[0].public_key(), vec![Cidr::host(overlay(1))]);
        gate.endpoint = Some(scene.address);
        scene.agent.set_peers(&[gate]);
        assert_eq!(scene.shake_hands(shard), None);
        assert!(scene.status(shard).session_age.is_some());
    }
}
