//! A peer belongs to one shard of the gateway, and to another one when it comes back there.

use std::{io::ErrorKind, time::Duration};

use super::{
    nat::Kind,
    node::{Cipher, Shards, Spread},
    properties::{UP_WITHIN, for_seeds},
    talk::{Ended, Talking},
    transfer::Outcome,
    world::World,
};

/// Longer than a session lives in which nothing is heard, and than flows wait for a lane that is down.
const IDLE: Duration = Duration::from_secs(190);

const TALKING: Talking = Talking {
    number: 0,
    count: 20,
    pause: Duration::from_millis(50),
    answers: 1,
    leaves: true,
};

/// Flows and sessions in both directions, of which the gateway's shard `owner` has all.
fn flows_work(world: &mut World, owner: u8) {
    let counts = |world: &World| {
        let threads = world.node(1).unwrap().threads.iter();
        let counts = threads.map(|thread| thread.metrics().netstack);
        counts
            .map(|counts| counts.connected + counts.accepted)
            .collect::<Vec<_>>()
    };
    let mut expected = counts(world);
    expected[usize::from(owner)] += 2;
    let transfers = [
        world.transfer(1, 2, 30_000, 60_000, None).unwrap(),
        world.transfer(2, 1, 60_000, 30_000, None).unwrap(),
    ];
    let talks = [
        world.talk(1, 2, true, TALKING).unwrap(),
        world.talk(2, 1, false, TALKING).unwrap(),
    ];
    world.run_for(Duration::from_secs(5));
    let sessions = world
        .node(1)
        .unwrap()
        .threads
        .iter()
        .map(|thread| thread.holds()[3]);
    assert_eq!(
        sessions.sum::<usize>(),
        1,
        "what the other one began is kept for a while"
    );
    assert_eq!(world.node(1).unwrap().threads[usize::from(owner)].holds()[3], 1);
    for transfer in transfers {
        let complete = Some(Outcome::Complete);
        assert_eq!(world.outcomes(transfer), (complete, complete));
    }
    for talk in talks {
        assert_eq!(world.book.borrow().of(talk, true), (20, 20));
        assert!(
            world.book.borrow().of(talk, false).1 >= 19,
            "the last answer may come too late"
        );
    }
    assert_eq!(counts(world), expected);
}

#[test]
fn a_peer_that_was_idle_is_served_by_the_shard_that_its_handshake_comes_to() {
    for_seeds(36, |seed| {
        let count = 2 + (seed % 3) as u8;
        let old = (seed / 3) as u8 % count;
        let new = (old + 1 + (seed / 9) as u8 % (count - 1)) % count;
        let nat = [None, Some(Kind::AddressAndPortDependent)][seed as usize / 2 % 2];
        let shards = Shards {
            count,
            spread: Spread::To(old),
        };
        let mut world = World::with_shards(seed, Cipher::Boringtun, shards, &[nat]);
        assert!(world.run_until(UP_WITHIN, World::all_online));
        assert_eq!(world.node(1).unwrap().owner(2), old);
        flows_work(&mut world, old);
        // A flow and a session are in use when the agent goes, or loses its network, and somebody goes on
        // sending in the session.
        let pace = Some((1_000, Duration::from_millis(100)));
        world.transfer(1, 2, 1_000_000, 1_000_000, pace).unwrap();
        let talking = Talking {
            count: 5_000,
            ..TALKING
        };
        let talk = world.talk(1, 2, true, talking).unwrap();
        world.run_for(Duration::from_secs(2));
        if seed % 2 == 0 {
            world.crash(2);
        }
        world.host(2).link.cut = true;
        world.run_for(IDLE);
        assert!(!world.is_busy());
        let gone = Some(Ended::Broken(ErrorKind::ConnectionAborted));
        assert_eq!(world.ends(talk).0, gone);
        let gateway = world.node_mut(1).unwrap();
        assert_eq!(gateway.owner(2), old, "remembered");
        assert!(!gateway.threads.iter().any(|thread| thread.knows(2)));
        gateway.spread = Spread::To(new);
        let before = gateway.metrics().wireguard.taken_over;
        world.host(2).link.cut = false;
        if seed % 2 == 0 {
            world.start(2);
        } else {
            // Otherwise the gateway, which knows the address, may be the one that calls.
            world.roam(2);
        }
        assert!(world.run_until(UP_WITHIN, World::all_online));
        let gateway = world.node(1).unwrap();
        assert_eq!(gateway.owner(2), new);
        assert_eq!(gateway.metrics().wireguard.taken_over - before, 1);
        flows_work(&mut world, new);
        // Afterwards the shards that do not own it have nothing of it, nor has anybody a flow.
        world.run_for(Duration::from_secs(120));
        assert!(world.all_online());
        for (shard, thread) in (0..).zip(&world.node(1).unwrap().threads) {
            assert_eq!(thread.knows(2), shard == new);
            assert_eq!(thread.holds(), [0; 5]);
            assert!(thread.is_at_rest());
        }
    });
}
