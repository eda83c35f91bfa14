//! Runs that once failed, written down: seeds mean something else whenever the generator of scripts changes.

use std::time::Duration;

use super::{
    flows::{Script, play},
    lane::{self, Fault, returns_to_idle},
    pipe::{Break, Conditions},
    user::{Flow, Manner, Outcome, Part},
};

const fn part(sends: usize, socket: bool) -> Part {
    Part {
        sends,
        manner: Manner::Whole,
        socket,
    }
}

/// The other end closed the connection behind the last bytes of the flow, while the socket took no more: they
/// were given up, though they had come.
#[test]
fn a_flow_whose_end_came_with_that_of_its_connection_is_complete() {
    for seed in 0..30 {
        let script = Script {
            seed,
            conditions: Conditions {
                delay: Duration::from_millis(4),
                room: 159,
                piece: 159,
            },
            flows: vec![Flow {
                number: 4,
                near: part(1_251, true),
                far: part(2_965, false),
                refused: false,
            }],
            breaks: None,
            stalls: Vec::new(),
        };
        let ends = play(&script);
        assert_eq!(ends.near, [Outcome::Complete], "{seed}");
        assert_eq!(ends.far, [Outcome::Complete], "{seed}");
    }
}

/// A connection whose flow outlived the control connection waited for the next flow, though no pool counted it, and
/// took the word to go that was for another one.
#[test]
fn a_connection_that_outlived_its_lane_goes_after_its_flow() {
    let flow = |number| Flow {
        number,
        near: part(60_000, false),
        far: part(60_000, true),
        refused: false,
    };
    for how in [Break::Reset, Break::End] {
        returns_to_idle(&lane::Script {
            seed: 1,
            conditions: Conditions {
                delay: Duration::from_millis(80),
                room: 4_096,
                piece: 4_096,
            },
            faults: vec![(Duration::from_millis(3_000), Fault::BreakControl(how))],
            visits: (0..3)
                .map(|number| (Duration::from_millis(2_000), flow(number)))
                .collect(),
        });
    }
}
