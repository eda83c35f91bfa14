//! Datagrams of UDP sessions: what holds for every seed. That each is whole, is of its session and its other end,
//! was sent, and comes once is looked at wherever one arrives ([`Talk`](super::talk::Talk)).

use std::time::Duration;

use super::{
    nat::Kind,
    network::Link,
    node::{Cipher, SESSION_IDLE, Shards},
    properties::{ALL, ALL_ENDED, MILD, UP_WITHIN, for_seeds},
    script::{Action, Script},
    talk::{Ended, Talking},
    world::World,
};

const TALKING: Talking = Talking {
    number: 0,
    count: 60,
    pause: Duration::from_millis(40),
    answers: 1,
    leaves: false,
};

/// Flows are left out, so that there is time for more of sessions.
fn talks_only(seed: u64, mut script: Script) -> Script {
    let talks = |seed: u64| Action::Talk {
        from_agent: seed.is_multiple_of(2),
        with_preface: !seed.is_multiple_of(3),
        wanted: Talking {
            pause: Duration::from_millis(300),
            count: 100 + seed % 150,
            answers: 1 + seed % 2,
            ..TALKING
        },
    };
    let is_transfer = |action: &Action| matches!(action, Action::Transfer { .. });
    script.actions.retain(|(.., action)| !is_transfer(action));
    for agent in 0..script.nats.len() as u8 {
        let at = Duration::from_secs(3 + u64::from(agent));
        script
            .actions
            .push((at, 2 + agent, talks(seed + u64::from(agent))));
    }
    script.actions.sort_by_key(|(at, ..)| *at);
    script
}

#[test]
fn datagrams_arrive_whole_and_once_or_not_at_all_and_sessions_end() {
    for_seeds(120, |seed| {
        let script = talks_only(seed, Script::new(seed, ALL));
        let (mut world, _) = script.play(Cipher::Model);
        assert!(world.run_until(ALL_ENDED, |world| !world.is_busy()), "{script:?}");
        for thread in world.nodes.iter().flatten().flat_map(|node| &node.threads) {
            assert_eq!(thread.holds()[3..], [0; 2], "{script:?}");
            assert!(thread.is_at_rest(), "{script:?}");
        }
    });
}

/// Datagrams that overtake each other and come twice, and none that is lost: each arrives, at both ends.
#[test]
fn what_the_network_does_not_lose_arrives() {
    for_seeds(60, |seed| {
        let nats = [
            None,
            Some(Kind::EndpointIndependent),
            Some(Kind::AddressAndPortDependent),
        ];
        let nats = [nats[seed as usize % 3], nats[seed as usize / 3 % 3]];
        let mut world = World::with_shards(seed, Cipher::Boringtun, Shards::any(seed), &nats);
        assert!(world.run_until(UP_WITHIN, World::all_online));
        for host in &mut world.net.hosts {
            host.link = Link {
                delay: Duration::from_millis(1 + seed % 30),
                jitter: Duration::from_millis(seed * 7 % 90),
                repeat: 200,
                ..Link::default()
            };
        }
        let talks: Vec<_> = [(1, 2), (1, 3), (2, 1), (1, 2), (3, 1), (1, 3)]
            .into_iter()
            .zip(0_u64..)
            .filter_map(|((from, to), at)| world.talk(from, to, (seed ^ at) % 2 == 0, TALKING))
            .collect();
        let begun = world.elapsed();
        assert!(world.run_until(SESSION_IDLE * 2, |world| !world.is_busy()));
        // The last answer, and then nothing for as long as a session is kept.
        let took = world.elapsed() - begun;
        assert!(
            took > SESSION_IDLE && took < SESSION_IDLE + Duration::from_secs(6),
            "{took:?}"
        );
        for number in talks {
            for by_client in [true, false] {
                assert_eq!(world.book.borrow().of(number, by_client), (60, 60));
            }
            assert_eq!(world.ends(number), (Some(Ended::Idle), vec![Ended::Idle]));
        }
    });
}

#[test]
fn what_networks_do_now_and_then_costs_datagrams_and_no_session() {
    let (mut sent, mut arrived) = (0, 0);
    let counts = std::cell::RefCell::new((&mut sent, &mut arrived));
    for_seeds(40, |seed| {
        let mut script = Script::new(seed, MILD);
        script
            .actions
            .retain(|(.., action)| !matches!(action, Action::Transfer { .. } | Action::Talk { .. }));
        let (mut world, _) = script.play(Cipher::Model);
        assert!(world.run_until(UP_WITHIN, World::all_online));
        let number = world.talk(1, 2, seed % 2 == 0, TALKING).unwrap();
        world.run_until(SESSION_IDLE * 2, |world| !world.is_busy());
        assert_eq!(world.ends(number).0, Some(Ended::Idle), "{script:?}");
        for by_client in [true, false] {
            let (said, heard) = world.book.borrow().of(number, by_client);
            *counts.borrow_mut().0 += said;
            *counts.borrow_mut().1 += heard;
        }
    });
    // Links lose one in a hundred at most, at each end; one in sixteen is of up to five fragments.
    assert!(arrived * 100 > sent * 95, "{arrived} of {sent}");
}

/// It forgot all its sessions: who talks to it is told, and introduces itself again.
#[test]
fn sessions_go_on_with_an_agent_that_was_started_anew() {
    for_seeds(30, |seed| {
        let shards = Shards::any(seed);
        let mut world = World::with_shards(seed, Cipher::Boringtun, shards, &[None]);
        assert!(world.run_until(UP_WITHIN, World::all_online));
        let wanted = Talking {
            count: 200,
            pause: Duration::from_millis(250),
            ..TALKING
        };
        let number = world.talk(1, 2, true, wanted).unwrap();
        world.run_for(Duration::from_secs(5));
        let (_, before) = world.book.borrow().of(number, true);
        world.crash(2);
        world.run_for(Duration::from_millis(50 + seed * 97));
        world.start(2);
        world.run_until(ALL_ENDED, |world| !world.is_busy());
        let (said, heard) = world.book.borrow().of(number, true);
        assert_eq!((before, said), (20, 200));
        // Those of the time in which it was not there, or not known to be back, are lost.
        assert!(heard > 100, "{heard}");
        let (client, others) = world.ends(number);
        assert_eq!((client, others.len()), (Some(Ended::Idle), 2));
    });
}
