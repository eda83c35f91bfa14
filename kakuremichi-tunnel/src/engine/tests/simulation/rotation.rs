//! WireGuard keys that are rotated while flows and sessions are open.

use std::time::Duration;

use kakuremichi_core::{key::WireGuardKey, secret::Secret};

use super::{
    nat::Kind,
    node::{Cipher, Shards},
    properties::{ALL_ENDED, UP_WITHIN, for_seeds},
    talk::Talking,
    transfer::Outcome,
    world::World,
};
use crate::{random::SplitMix64, wg::public_key};

/// The gateway and its agent.
const NODES: [u8; 2] = [1, 2];
/// A session is renewed every two minutes, and the newest keys are tried again with it.
const THROUGH: Duration = Duration::from_secs(130);

fn secret(number: u8) -> Secret<[u8; 32]> {
    Secret::new([number; 32])
}

/// The private keys of both, by their numbers.
struct Keys([(u8, Option<u8>); 2]);

impl Keys {
    fn rekey(&mut self, world: &World, node: u8) {
        let keys = &mut self.0[usize::from(node) - 1];
        *keys = (keys.0 + 10, Some(keys.0));
        world.node(node).unwrap().set.rekey(&secret(keys.0));
    }

    fn forget(&mut self, world: &mut World) {
        for node in NODES {
            self.0[usize::from(node) - 1].1 = None;
            world.node(node).unwrap().set.forget_previous_key();
        }
        for node in NODES {
            self.tell(world, node);
        }
    }

    /// Tells a node the keys of the other one.
    fn tell(&self, world: &mut World, node: u8) {
        let public = |number| -> WireGuardKey { public_key(&secret(number)) };
        let (newest, previous) = self.0[2 - usize::from(node)];
        let told = world.node_mut(node).unwrap();
        told.tell(3 - node, public(newest), previous.map(public));
    }
}

/// How often both went over to other keys.
fn rotated(world: &World) -> [u64; 2] {
    NODES.map(|node| world.node(node).unwrap().metrics().wireguard.rotated)
}

#[test]
fn nodes_that_rotate_keep_their_flows() {
    for_seeds(36, |seed| {
        let nat = [
            None,
            Some(Kind::EndpointIndependent),
            Some(Kind::AddressAndPortDependent),
        ];
        let nats = [nat[seed as usize % 3]];
        let mut world = World::with_shards(seed, Cipher::Boringtun, Shards::any(seed), &nats);
        assert!(world.run_until(UP_WITHIN, World::all_online));
        let mut random = SplitMix64::new(seed);
        let mut below = |bound: u64| random.next() % bound;
        world.host(2).link.loss = below(30);
        world.host(2).link.jitter = Duration::from_millis(below(40));
        // For as long as all of it takes.
        let pace = Some((1_000, Duration::from_millis(100)));
        let from = 1 + (seed % 2) as u8;
        let transfer = world.transfer(from, 3 - from, 200_000, 2_000_000, pace).unwrap();
        let talking = Talking {
            number: 0,
            count: 1_000,
            pause: Duration::from_millis(100),
            answers: 1,
            leaves: false,
        };
        let talk = world.talk(3 - from, from, true, talking).unwrap();
        world.run_for(Duration::from_secs(2));
        let mut keys = Keys([(1, None), (2, None)]);
        for _ in 0..2 {
            let first = 1 + below(2) as u8;
            let both = below(2) == 0;
            let before = rotated(&world);
            keys.rekey(&world, first);
            if both {
                world.run_for(Duration::from_millis(below(4_000)));
                keys.rekey(&world, 3 - first);
            }
            for told in [3 - first, first].iter().take(if both { 2 } else { 1 }) {
                world.run_for(Duration::from_millis(below(4_000)));
                keys.tell(&mut world, *told);
            }
            let through = world.run_until(THROUGH, |world| {
                let now = rotated(world);
                now[0] > before[0] && now[1] > before[1]
            });
            assert!(through, "{:?}", rotated(&world));
            // Of both, one may have been first.
            world.run_for(Duration::from_secs(if both { 130 } else { 6 }));
            keys.forget(&mut world);
            world.run_for(Duration::from_secs(1));
            assert!(world.all_online());
        }
        assert!(world.run_until(ALL_ENDED, |world| !world.is_busy()));
        let complete = Some(Outcome::Complete);
        assert_eq!(world.outcomes(transfer), (complete, complete));
        // The network itself loses three of a hundred at most.
        let (_, arrived) = world.book.borrow().of(talk, true);
        assert!(arrived >= 900, "{arrived}");
    });
}
