//! Many nodes and long times, with the model of WireGuard.

use std::time::Duration;

use super::{
    nat::Kind,
    node::{Cipher, Shards},
    properties::{ALL, ALL_ENDED, UP_WITHIN, ends, for_seeds},
    script::Script,
    transfer::Outcome,
    world::World,
};

const AGENTS: usize = 48;

fn nats(count: usize) -> Vec<Option<Kind>> {
    let kinds = [
        None,
        Some(Kind::EndpointIndependent),
        Some(Kind::AddressAndPortDependent),
    ];
    kinds.into_iter().cycle().take(count).collect()
}

#[test]
fn a_seed_gives_the_same_run_with_the_model_as_with_boringtun() {
    for_seeds(12, |seed| {
        let run = |cipher| {
            let (mut world, _) = Script::new(seed, ALL).play(cipher);
            world.run_for(Duration::from_secs(30));
            (world.net.trace, world.wakeups.clone())
        };
        assert_eq!(run(Cipher::Boringtun), run(Cipher::Model));
    });
}

#[test]
fn many_more_seeds_end_in_order() {
    for_seeds(400, |seed| {
        ends(&Script::new(1_000_000 + seed, ALL), Cipher::Model)
    });
}

/// A gateway crashes and comes back: all its agents return, and it does not call all of them at once.
#[test]
fn all_agents_of_a_gateway_return_after_it_restarts() {
    for_seeds(4, |seed| {
        let shards = Shards::several(seed);
        let mut world = World::with_shards(seed, Cipher::Model, shards, &nats(AGENTS));
        assert!(world.run_until(UP_WITHIN, World::all_online));
        world.crash(1);
        world.run_for(Duration::from_secs(20 + seed * 30));
        world.start(1);
        assert!(world.run_until(UP_WITHIN, World::all_online));
        let transfers: Vec<_> = world
            .agents()
            .filter_map(|agent| world.transfer(1, agent, 2_000, 20_000, None))
            .collect();
        assert!(world.run_until(Duration::from_secs(30), |world| !world.is_busy()));
        let complete = Some(Outcome::Complete);
        for transfer in transfers {
            assert_eq!(world.outcomes(transfer), (complete, complete));
        }
    });
}

/// Two hours: sessions are renewed sixty times, and nothing grows or wakes more often.
#[test]
fn hours_without_anything_cost_nothing() {
    for_seeds(2, |seed| {
        let mut world = World::new(seed, Cipher::Model, &nats(8));
        assert!(world.run_until(UP_WITHIN, World::all_online));
        for _ in 0..8 {
            let before = world.wakeups.clone();
            world.run_for(Duration::from_secs(900));
            assert!(world.all_online());
            for (after, before) in world.wakeups.iter().zip(before) {
                assert!(
                    (after - before) / 900 <= 10,
                    "{} per second",
                    (after - before) / 900
                );
            }
        }
        for agent in world.agents() {
            let transfer = world.transfer(agent, 1, 1_000, 1_000, None).unwrap();
            world.run_until(ALL_ENDED, |world| !world.is_busy());
            assert_eq!(world.outcomes(transfer).0, Some(Outcome::Complete));
        }
    });
}
