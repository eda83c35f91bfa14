//! One suite of scripts, run by devices with boringtun and by devices with the model that stands for it in
//! large simulations: both emit the same messages at the same times, accept and refuse the same, and are in
//! the same state after each step.

use std::fmt::Debug;

use super::*;
use crate::{random::SplitMix64, virtual_clock::VirtualClock};

/// How often devices are ticked.
const TICK: Duration = Duration::from_millis(250);

/// One step. Nodes are 0 and 1; messages are named by their place on the wire, modulo what is there.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A packet with so many bytes of data to the other one.
    Send(usize, usize),
    Deliver(usize),
    Lose(usize),
    /// It comes, and comes again later.
    Repeat(usize),
    /// One that was delivered comes once more.
    Replay(usize),
    /// A bit of it is turned, and it comes.
    Corrupt(usize, usize),
    /// Everything comes, and what follows from it.
    Settle,
    /// Time passes, with ticks.
    Pass(Duration),
    /// Time passes at once, as when a host was suspended.
    Jump(Duration),
    /// The clock of the day is so many seconds behind, and one of them notices.
    Set(u64, usize),
    Initiate(usize),
    /// It sends from another address from now on.
    Roam(usize),
    /// It forgets its peer.
    Remove(usize),
    /// It knows it again, with this preshared key and a keep-alive if wanted.
    Add(usize, Option<u8>, Option<u64>),
    /// It takes up the next private key and keeps the one before.
    Rekey(usize),
    /// It drops the one before.
    Forget(usize),
}

use Step::*;

/// Two nodes and what is between them.
struct Scene {
    nodes: [Node; 2],
    roamed: [u8; 2],
    wire: VecDeque<(usize, Vec<u8>)>,
    delivered: Vec<(usize, Vec<u8>)>,
    log: Vec<String>,
    begin: Instant,
    clock: VirtualClock,
    /// Private keys that there were.
    secrets: u8,
}

impl Scene {
    fn new(limits: HandshakeLimits, model: bool) -> Self {
        let clock = VirtualClock::start();
        let nodes = [1, 2].map(|number| {
            let mut node = Node::with(number, limits);
            if model {
                let config = DeviceConfig {
                    handshakes: limits,
                    ..DeviceConfig::new(secret(number), number.into())
                };
                node.device = Device::modelled(&config, clock.now());
            }
            node
        });
        let mut scene = Self {
            nodes,
            roamed: [0; 2],
            wire: VecDeque::new(),
            delivered: Vec::new(),
            log: Vec::new(),
            begin: clock.now(),
            clock,
            secrets: 2,
        };
        scene.add(0, None, None);
        scene.add(1, None, None);
        scene
    }

    fn note(&mut self, what: impl Debug) {
        let at = self.clock.now() - self.begin;
        self.log.push(format!("{at:?} {what:?}"));
    }

    fn run(&mut self, steps: &[Step]) {
        for &step in steps {
            self.note(step);
            self.step(step);
            self.collect();
            for at in [0, 1] {
                let node = &self.nodes[at];
                let statuses: Vec<_> = node.device.peers().map(|peer| node.device.status(peer)).collect();
                let counters = *node.device.counters();
                let packets = self.nodes[at].take();
                while let Some(peer) = self.nodes[at].device.poll_changed() {
                    self.note((at, "changed", peer));
                }
                self.note((at, statuses, counters, packets));
            }
        }
    }

    fn step(&mut self, step: Step) {
        let place = |at: usize, of: usize| at.checked_rem(of).unwrap_or_default();
        match step {
            Send(at, length) => {
                let [one, two] = &mut self.nodes;
                let (from, to) = if at == 0 { (one, &*two) } else { (two, &*one) };
                if from.device.peers().next().is_some() {
                    let sealed = from.send(to, &vec![7; length]);
                    self.note(sealed);
                }
            }
            Deliver(at) => {
                if let Some((to, datagram)) = self.wire.remove(place(at, self.wire.len())) {
                    self.deliver(to, datagram);
                }
            }
            Lose(at) => drop(self.wire.remove(place(at, self.wire.len()))),
            Repeat(at) => {
                if let Some((to, datagram)) = self.wire.get(place(at, self.wire.len())).cloned() {
                    self.deliver(to, datagram);
                }
            }
            Replay(at) => {
                if let Some((to, datagram)) = self.delivered.get(place(at, self.delivered.len())).cloned() {
                    self.deliver(to, datagram);
                }
            }
            Corrupt(at, bit) => {
                if let Some((to, mut datagram)) = self.wire.remove(place(at, self.wire.len())) {
                    // Not the type, and what boringtun's nonce is in a cookie is the model's zero.
                    let bit = 32 + place(bit, datagram.len() * 8 - 32);
                    datagram[bit / 8] ^= 1 << (bit % 8);
                    self.deliver(to, datagram);
                }
            }
            Settle => {
                for _ in 0..1_000 {
                    self.collect();
                    let Some((to, datagram)) = self.wire.pop_front() else {
                        return;
                    };
                    self.deliver(to, datagram);
                }
                panic!("they talk for ever");
            }
            Pass(time) => {
                let end = self.clock.now() + time;
                while self.clock.now() < end {
                    self.clock.advance_to(end.min(self.clock.now() + TICK));
                    self.tick();
                }
            }
            Jump(time) => {
                self.clock.advance_to(self.clock.now() + time);
                self.tick();
            }
            Set(behind, at) => {
                self.clock.set_back(Duration::from_secs(behind));
                self.nodes[at].device.clock_stepped();
            }
            Initiate(at) => {
                let now = self.clock.now();
                let node = &mut self.nodes[at];
                let peer = node.device.peers().next();
                if let Some(peer) = peer {
                    node.device.initiate(peer, &mut node.wire, now);
                }
            }
            Roam(at) => self.roamed[at] = self.roamed[at].wrapping_add(1),
            Remove(at) => drop(self.nodes[at].set_peers(&[])),
            Add(at, preshared, keepalive) => self.add(at, preshared, keepalive),
            Rekey(at) => {
                self.secrets += 1;
                self.nodes[at].rekey(self.secrets);
            }
            Forget(at) => self.nodes[at].forget_previous_key(),
        }
    }

    fn add(&mut self, at: usize, preshared: Option<u8>, keepalive: Option<u64>) {
        let mut peer = self.nodes[1 - at].as_peer();
        peer.preshared_key = preshared.map(secret);
        peer.persistent_keepalive = keepalive.map(Duration::from_secs);
        self.nodes[at].set_peers(&[peer]);
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        for node in &mut self.nodes {
            node.device.handle_timeout(&mut node.wire, now);
        }
        self.collect();
    }

    fn deliver(&mut self, to: usize, datagram: Vec<u8>) {
        let mut from = self.nodes[1 - to].address;
        from.set_port(from.port() + u16::from(self.roamed[1 - to]));
        self.nodes[to].receive(from, &datagram);
        self.delivered.push((to, datagram));
        self.collect();
    }

    /// Notes what was sent: all that is not encrypted, and the length.
    fn collect(&mut self) {
        for at in [0, 1] {
            while let Some((to, datagram)) = self.nodes[at].wire.0.pop_front() {
                let clear = match datagram[0] {
                    1 | 3 => 8,
                    2 => 12,
                    _ => 16,
                };
                self.note((at, to, datagram.len(), &datagram[..clear]));
                self.wire.push_back((1 - at, datagram));
            }
        }
    }
}

/// Runs a script with both, and returns what happened.
fn both_limited(limits: HandshakeLimits, steps: &[Step]) -> Vec<String> {
    let run = |model| {
        let mut scene = Scene::new(limits, model);
        scene.run(steps);
        scene.log
    };
    let (real, model) = (run(false), run(true));
    for (at, (one, other)) in real.iter().zip(&model).enumerate() {
        assert_eq!(one, other, "after {:#?}", &real[at.saturating_sub(12)..at]);
    }
    assert_eq!(real.len(), model.len());
    real
}

fn both(steps: &[Step]) -> Vec<String> {
    both_limited(HandshakeLimits::default(), steps)
}

/// How often a message of this kind was sent by a node.
fn sent(log: &[String], node: usize, kind: u8) -> usize {
    let lengths = [0, 148, 92, 64];
    log.iter()
        .filter(|line| {
            let length = lengths.get(usize::from(kind)).copied().unwrap_or(32);
            line.contains(&format!("({node}, 192.0.2.")) && line.contains(&format!(", {length}, [{kind}, "))
        })
        .count()
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_handshake_and_data_both_ways() {
    let log = both(&[Send(0, 5), Settle, Send(1, 6), Send(0, 7), Settle]);
    assert_eq!((sent(&log, 0, 1), sent(&log, 1, 2)), (1, 1));
}

#[test]
fn a_lost_initiation_is_repeated_after_five_seconds() {
    let log = both(&[Send(0, 5), Lose(0), Pass(seconds(6)), Settle]);
    assert_eq!(sent(&log, 0, 1), 2);
}

#[test]
fn a_lost_answer_and_a_lost_confirmation() {
    both(&[
        Send(0, 5),
        Deliver(0),
        Lose(0),
        Pass(seconds(6)),
        Settle,
        Send(1, 1),
        Settle,
    ]);
    both(&[
        Send(0, 5),
        Deliver(0),
        Deliver(0),
        Lose(0),
        Send(1, 1),
        Settle,
        Send(0, 2),
        Settle,
    ]);
    both(&[
        Send(0, 5),
        Deliver(0),
        Deliver(0),
        Lose(0),
        Lose(0),
        Pass(seconds(20)),
        Settle,
        Send(1, 1),
        Settle,
    ]);
}

#[test]
fn replays_of_everything() {
    let replays: Vec<_> = (0..12).map(Replay).collect();
    let mut steps = vec![Send(0, 5), Settle, Send(1, 6), Send(0, 7), Settle];
    steps.extend(&replays);
    steps.extend([Pass(seconds(2)), Settle]);
    steps.extend(&replays);
    steps.extend([Send(1, 1), Settle, Pass(seconds(30)), Settle]);
    both(&steps);
}

#[test]
fn rekey_reject_and_keepalive_timers() {
    // The initiator sends for four minutes, and is answered by keepalives alone.
    let mut steps = vec![Send(0, 5), Settle];
    for _ in 0..48 {
        steps.extend([Pass(seconds(5)), Settle, Send(0, 1), Settle]);
    }
    let log = both(&steps);
    assert_eq!(sent(&log, 0, 1), 2 + 1, "at first, and every two minutes");
    // The responder sends.
    let mut steps = vec![Send(0, 5), Settle];
    for _ in 0..48 {
        steps.extend([Pass(seconds(5)), Settle, Send(1, 1), Settle]);
    }
    both(&steps);
    // Nobody does.
    both(&[Send(0, 5), Settle, Pass(seconds(700)), Settle, Send(1, 1), Settle]);
}

#[test]
fn attempts_end_after_ninety_seconds_and_begin_anew() {
    let mut steps = vec![Send(0, 5)];
    steps.extend([Pass(seconds(100)), Send(0, 6)]);
    steps.extend((0..20).map(Lose));
    steps.extend([Pass(seconds(7)), Settle, Send(1, 1), Settle]);
    let log = both(&steps);
    assert!(sent(&log, 0, 1) >= 19);
}

#[test]
fn jumps_of_the_clock() {
    for jump in [1, 9, 11, 16, 119, 121, 166, 179, 181, 541, 86_400] {
        both(&[
            Send(0, 5),
            Settle,
            Send(1, 5),
            Settle,
            Jump(seconds(jump)),
            Send(0, 1),
            Settle,
            Send(1, 1),
            Settle,
            Jump(seconds(jump)),
            Jump(seconds(1)),
            Send(1, 1),
            Settle,
        ]);
    }
}

#[test]
fn roaming_and_peers_that_come_and_go() {
    both(&[
        Send(0, 5),
        Settle,
        Roam(0),
        Send(0, 1),
        Settle,
        Send(1, 1),
        Settle,
        Remove(1),
        Send(0, 1),
        Settle,
        Add(1, None, None),
        Send(0, 2),
        Pass(seconds(20)),
        Settle,
        Send(0, 3),
        Settle,
        Add(0, Some(3), None),
        Send(0, 4),
        Settle,
        Add(1, Some(3), Some(25)),
        Pass(seconds(10)),
        Settle,
        Send(0, 5),
        Settle,
        Pass(seconds(60)),
        Settle,
    ]);
}

#[test]
fn clocks_that_are_set() {
    let exchange = [Send(0, 1), Settle, Send(1, 2), Settle, Pass(seconds(200)), Settle];
    let mut steps = Vec::from(exchange);
    for (behind, at) in [(3_600, 0), (7_200, 1), (0, 0), (0, 1)] {
        steps.push(Set(behind, at));
        steps.extend(exchange);
        steps.extend([Pass(seconds(100)), Initiate(1), Settle, Initiate(0), Settle]);
    }
    both(&steps);
}

#[test]
fn both_begin_at_once_and_answers_cross() {
    for order in 0..6 {
        both(&[
            Send(0, 1),
            Send(1, 2),
            Deliver(order % 2),
            Deliver(order / 2),
            Deliver(order),
            Settle,
            Send(0, 3),
            Send(1, 4),
            Settle,
        ]);
    }
}

#[test]
fn keys_that_are_rotated() {
    let talk = [Send(0, 1), Send(1, 2), Settle, Pass(seconds(1)), Settle];
    let learn = |at| Add(at, None, Some(25));
    let orders: [&[Step]; 5] = [
        &[Rekey(0), learn(1)],
        &[Rekey(1), learn(0)],
        &[Rekey(0), Rekey(1), learn(0), learn(1)],
        &[Rekey(1), learn(0), Rekey(1), Rekey(0), learn(1), learn(0)],
        &[Rekey(1), Forget(1), Pass(seconds(20)), learn(0)],
    ];
    for order in orders {
        let mut steps = vec![Send(0, 1), Settle];
        for step in order {
            steps.push(*step);
            steps.extend(talk);
        }
        let replays = (0..6).map(Replay);
        steps.extend(replays.chain([Pass(seconds(15)), Settle]).chain(talk));
        steps.extend([Forget(0), Forget(1), learn(0), learn(1)]);
        steps.extend(talk);
        steps.extend([Pass(seconds(200)), Settle]);
        steps.extend(talk);
        both(&steps);
    }
}

/// A device under load.
fn under_load() -> HandshakeLimits {
    HandshakeLimits {
        unproven_per_second: 2,
        proven_per_second: 2,
        per_source_second: 1,
        per_source_burst: 1,
        cookies_per_second: 2,
    }
}

#[test]
fn cookies_under_load() {
    let mut steps = vec![Send(0, 1), Settle];
    for _ in 0..8 {
        steps.extend([
            Pass(Duration::from_millis(1_000)),
            Initiate(0),
            Initiate(1),
            Settle,
            Replay(0),
        ]);
        steps.extend([
            Pass(Duration::from_millis(1_250)),
            Initiate(0),
            Settle,
            Send(1, 1),
            Settle,
        ]);
    }
    steps.extend([
        Pass(seconds(140)),
        Initiate(0),
        Settle,
        Replay(0),
        Initiate(1),
        Settle,
    ]);
    let log = both_limited(under_load(), &steps);
    assert!(sent(&log, 1, 3) > 0);
}

#[test]
fn any_script() {
    for seed in 0..120 {
        let random = std::cell::RefCell::new(SplitMix64::new(seed));
        let below = |bound: u64| (random.borrow_mut().next() % bound) as usize;
        let steps: Vec<_> = (0..80)
            .map(|_| match below(37) {
                0..7 => Send(below(2), below(40)),
                7..14 => Deliver(below(4)),
                14..16 => Lose(below(4)),
                16 => Repeat(below(4)),
                17 => Replay(below(60)),
                18 => Corrupt(below(4), below(2_000)),
                19..23 => Settle,
                23..27 => Pass(Duration::from_millis(below(1 << 17) as u64 >> below(12))),
                27 => Jump(Duration::from_millis(below(600_000) as u64)),
                28 => Initiate(below(2)),
                29 => Roam(below(2)),
                30 => Remove(below(2)),
                31 => Set(below(3) as u64 * 1_000, below(2)),
                32 | 33 => Rekey(below(2)),
                34 => Forget(below(2)),
                _ => {
                    let preshared = (below(4) == 0).then_some(9);
                    Add(below(2), preshared, (below(2) == 0).then_some(25))
                }
            })
            .collect();
        let limits = if seed % 3 == 0 {
            under_load()
        } else {
            HandshakeLimits::default()
        };
        both_limited(limits, &steps);
    }
}
