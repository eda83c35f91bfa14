//! Runs that once failed, written down: seeds mean something else whenever the generator of scripts changes.

use std::time::Duration;

use super::{
    nat::Kind,
    network::Link,
    node::{Cipher, Shards},
    properties::ALL_ENDED,
    script::{Action, Script},
    transfer::Outcome,
};

/// A gateway and one agent.
fn one_agent(seed: u64, nat: Option<Kind>, links: [Link; 2], actions: Vec<(Duration, u8, Action)>) -> Script {
    Script {
        seed,
        shards: Shards::ONE,
        nats: vec![nat],
        links: links.to_vec(),
        calm: Duration::ZERO,
        actions,
    }
}

fn link(delay: u64, jitter: u64, loss: u64) -> Link {
    Link {
        delay: Duration::from_millis(delay),
        jitter: Duration::from_millis(jitter),
        loss,
        ..Link::default()
    }
}

/// smoltcp takes no notice of a window that opens in LAST-ACK, so the second half of an answer never left; nor
/// did its end when the window of an acknowledgement that had been overtaken was taken for the present one.
#[test]
fn an_answer_that_is_longer_than_the_window_reaches_who_ended_first() {
    for seed in [4, 11, 50, 51, 52] {
        let transfer = Action::Transfer {
            from_agent: true,
            up: 44,
            down: 261_229,
            pace: Some((1_433, Duration::from_millis(197))),
        };
        let script = one_agent(
            seed,
            Some(Kind::AddressAndPortDependent),
            [link(24, 4, 2), link(38, 16, 9)],
            vec![(Duration::from_secs(5), 2, transfer)],
        );
        let (mut world, transfers) = script.play(Cipher::Boringtun);
        world.run_until(ALL_ENDED, |world| !world.is_busy());
        let complete = Some(Outcome::Complete);
        assert_eq!(world.outcomes(transfers[0]), (complete, complete));
    }
}
