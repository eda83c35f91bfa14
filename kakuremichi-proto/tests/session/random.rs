//! Whatever happens, in whatever order: in the end both sides agree, and usage is exact.

use std::time::Duration;

use kakuremichi_core::model::Role;
use kakuremichi_proto::testing::{Direction, Pair, ToyKeys, samples};
use proptest::prelude::*;

use crate::common::{ONE, plan, service};

#[derive(Debug, Clone)]
enum Op {
    Run(u16),
    Publish(u8),
    Declare(u8),
    Undeclare(u8, bool),
    Record(u8),
    CutNext(bool, u16),
    Disconnect,
    LoseNode(u16),
    RestartNode,
    RestartHub,
    Drain,
    Rotate,
    Replay(bool, prop::sample::Index),
    Garbage(bool, Vec<u8>),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..5000u16).prop_map(Op::Run),
        4 => any::<u8>().prop_map(Op::Publish),
        3 => (0..4u8).prop_map(Op::Declare),
        2 => (0..4u8, any::<bool>()).prop_map(|(name, delete)| Op::Undeclare(name, delete)),
        4 => any::<u8>().prop_map(Op::Record),
        3 => (any::<bool>(), 0..3000u16).prop_map(|(up, at)| Op::CutNext(up, at)),
        2 => Just(Op::Disconnect),
        2 => (0..60_000u16).prop_map(Op::LoseNode),
        1 => Just(Op::RestartNode),
        1 => Just(Op::RestartHub),
        1 => Just(Op::Drain),
        2 => Just(Op::Rotate),
        3 => (any::<bool>(), any::<prop::sample::Index>()).prop_map(|(up, frame)| Op::Replay(up, frame)),
        1 => (any::<bool>(), prop::collection::vec(any::<u8>(), 0..64)).prop_map(|(up, bytes)| Op::Garbage(up, bytes)),
    ]
}

fn direction(up: bool) -> Direction {
    if up { Direction::Up } else { Direction::Down }
}

fn apply(pair: &mut Pair, op: &Op, revision: u64) {
    let name = |number: &u8| format!("service-{number}");
    match op {
        Op::Run(millis) => pair.run(Duration::from_millis((*millis).into())),
        Op::Publish(services) => pair
            .hub
            .publish(plan(revision, u32::from(*services) * 5), pair.now),
        Op::Declare(number) => pair.node.declare(samples::declaration(&name(number))),
        Op::Undeclare(number, delete) => pair.node.undeclare(&name(number).parse().unwrap(), *delete),
        Op::Record(number) => pair.node.record(service(*number), ONE, pair.time_of_day()),
        Op::CutNext(up, at) => pair.cuts.push((direction(*up), (*at).into())),
        Op::Disconnect => pair.disconnect(),
        Op::LoseNode(delay) => pair.lose_node(Duration::from_millis((*delay).into())),
        Op::RestartNode => pair.restart_node(),
        Op::RestartHub => pair.restart_hub(),
        Op::Drain => pair.hub.drain(pair.now),
        // No keys are made twice.
        Op::Rotate => pair.node.rotate(ToyKeys([u8::try_from(revision).unwrap(); 32])),
        Op::Replay(up, frame) => {
            let frames = pair.history(direction(*up));
            if !frames.is_empty() {
                pair.inject(direction(*up), &frames[frame.index(frames.len())]);
            }
        }
        Op::Garbage(up, bytes) => pair.inject(direction(*up), bytes),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn both_sides_agree_in_the_end(ops in prop::collection::vec(op(), 1..40)) {
        let mut pair = Pair::new(Role::Agent);
        for (revision, op) in (1..).zip(&ops) {
            apply(&mut pair, op, revision);
        }
        let until = pair.time_of_day();
        pair.node.client.flush_usage(until);
        pair.converge();
    }
}
