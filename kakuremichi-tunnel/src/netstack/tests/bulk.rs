use std::time::Duration;

use proptest::prelude::*;

use super::net::{Link, Net, PORT, Program, settings, v4};
use crate::{netstack::CloseReason, peer::PeerId};

const SECOND: Duration = Duration::from_secs(1);

/// Sends so much each way, and holds both ends to having all of it and an orderly end.
fn both_ways(mut net: Net, up: u64, down: u64, limit: Duration) -> Net {
    net.nodes[1].server.to_send = down;
    let flow = net.connect(Program {
        to_send: up,
        shut: true,
        ..Program::default()
    });
    let done = |net: &Net| {
        net.program(0, flow).closed.is_some()
            && net.nodes[1]
                .programs
                .values()
                .all(|program| program.closed.is_some())
    };
    net.run_until(limit, done);
    let (here, there) = (net.program(0, flow), net.program(1, net.accepted()));
    assert_eq!((here.received, there.received), (down, up));
    assert!(here.finished && there.finished);
    assert_eq!(
        (here.closed, there.closed),
        (Some(CloseReason::Finished), Some(CloseReason::Finished))
    );
    assert_eq!(
        (
            net.nodes[0].stack.rings_in_use(),
            net.nodes[1].stack.rings_in_use()
        ),
        (0, 0)
    );
    net
}

#[test]
fn bulk_arrives_whole_both_ways() {
    let net = both_ways(Net::pair(Link::default()), 20_000_000, 30_000_000, 60 * SECOND);
    // Large segments went out, and came in joined.
    let (sent, received) = (
        net.nodes[0].stack.counters().sent,
        net.nodes[0].stack.counters().received,
    );
    assert!(sent >= 20_000_000 / 1_360);
    assert!(received < 30_000_000 / 1_360 / 4, "{received}");
}

#[test]
fn bulk_arrives_whole_over_ipv4() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server.to_send = 5_000_000;
    let program = Program {
        to_send: 3_000_000,
        shut: true,
        ..Program::default()
    };
    let flow = net.connect_to(0, PeerId::new(0, 0), v4(2).into(), program);
    net.run_until(60 * SECOND, |net| net.program(0, flow).closed.is_some());
    assert_eq!(net.program(0, flow).received, 5_000_000);
    assert_eq!(net.program(1, net.accepted()).received, 3_000_000);
}

#[test]
fn bulk_arrives_whole_without_joining() {
    both_ways(
        Net::pair(Link {
            join: false,
            ..Link::default()
        }),
        1_000_000,
        1_000_000,
        60 * SECOND,
    );
}

#[test]
fn bulk_arrives_whole_over_a_bad_link() {
    let link = Link {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(3),
        loss: 20,
        repeat: 20,
        join: true,
        rate: None,
    };
    both_ways(Net::pair(link), 300_000, 300_000, 3_000 * SECOND);
}

#[test]
fn rings_of_different_sizes_and_mtus_get_along() {
    let mut first = settings(1);
    first.ring = 64 * 1024;
    first.mtu = 1_280;
    let mut second = settings(2);
    second.ring = 1024 * 1024;
    second.mtu = 9_000;
    let mut net = Net::pair_of(Link::default(), first, second);
    // The node with the small MTU says so in its SYN, and is sent nothing longer.
    net.nodes[1].wire.mtu = 1_280;
    both_ways(net, 3_000_000, 3_000_000, 60 * SECOND);
}

#[test]
fn a_slow_reader_slows_the_sender_and_loses_nothing() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server = Program {
        shut: true,
        take: Some(0),
        ..Program::default()
    };
    let flow = net.connect(Program {
        to_send: 2_000_000,
        shut: true,
        ..Program::default()
    });
    net.run_for(90 * SECOND);
    // The reader's ring and the sender's are full, and that is all: no time-out, and no spinning.
    assert!(net.steps < 1_000, "{}", net.steps);
    let sent = net.program(0, flow).sent;
    assert!((500_000..=2 * 256 * 1024).contains(&sent), "{sent}");
    assert_eq!(net.program(0, flow).closed, None);
    let accepted = net.accepted();
    net.nodes[1].programs.get_mut(&accepted).unwrap().take = Some(10_000);
    let mut rounds = 0;
    while !net.program(1, accepted).finished {
        net.run_for(Duration::from_millis(20));
        rounds += 1;
        assert!(rounds < 10_000);
    }
    assert_eq!(net.program(1, accepted).received, 2_000_000);
}

#[test]
fn many_flows_at_once_arrive_whole() {
    let mut net = Net::pair(Link {
        delay: Duration::from_millis(2),
        loss: 2,
        ..Link::default()
    });
    net.nodes[1].server.to_send = 200_000;
    let flows: Vec<_> = (0..40)
        .map(|_| {
            net.connect(Program {
                to_send: 100_000,
                shut: true,
                ..Program::default()
            })
        })
        .collect();
    net.run_until(300 * SECOND, |net| {
        flows.iter().all(|flow| net.program(0, *flow).closed.is_some())
    });
    for flow in flows {
        assert_eq!(net.program(0, flow).received, 200_000);
        assert_eq!(net.program(0, flow).closed, Some(CloseReason::Finished));
    }
    assert!(
        net.nodes[1]
            .programs
            .values()
            .all(|program| program.received == 100_000)
    );
}

#[test]
fn a_sink_that_is_full_holds_flows_back() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program {
        to_send: 1_000_000,
        shut: true,
        ..Program::default()
    });
    net.run_until(SECOND, |net| net.program(0, flow).established);
    net.nodes[0].wire.room = 0;
    let sent = net.nodes[0].stack.counters().sent;
    net.run_for(Duration::from_millis(50));
    assert_eq!(net.nodes[0].stack.counters().sent, sent);
    let node = &mut net.nodes[0];
    assert!(node.stack.transmit(net.now, &mut node.wire));
    net.nodes[0].wire.room = 10;
    net.run_until(60 * SECOND, |net| net.program(0, flow).closed.is_some());
    assert_eq!(net.program(1, net.accepted()).received, 1_000_000);
}

#[test]
fn a_request_is_answered_fast_beside_downloads() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].server.to_send = 50_000_000;
    for _ in 0..4 {
        net.connect(Program::default());
    }
    net.run_for(2 * SECOND);
    net.nodes[1].server = Program {
        to_send: 1_000,
        shut: true,
        ..Program::default()
    };
    let begin = net.now;
    let flow = net.connect(Program {
        to_send: 100,
        shut: true,
        ..Program::default()
    });
    net.run_until(SECOND, |net| net.program(0, flow).received == 1_000);
    // The handshake, the answer, and no more than a tick of waiting.
    assert!(net.now - begin <= 5 * net.link.delay, "{:?}", net.now - begin);
}

#[test]
fn a_small_message_is_sent_at_once_and_acknowledged_late() {
    let mut net = Net::pair(Link::default());
    let flow = net.connect(Program::default());
    net.run_for(SECOND);
    let sent = net.nodes[1].stack.counters().sent;
    for part in 1..=3 {
        net.nodes[0].programs.get_mut(&flow).unwrap().to_send = part * 10;
        net.step();
        net.now += net.link.delay;
        net.step();
        assert_eq!(net.program(1, net.accepted()).received, part * 10);
    }
    assert_eq!(net.nodes[1].stack.counters().sent, sent);
    net.run_for(Duration::from_millis(20));
    assert_eq!(net.nodes[1].stack.counters().sent, sent + 1);
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 500, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn any_link_delivers_every_byte_in_order(
        seed: u64,
        loss in 0..60_u64,
        repeat in 0..60_u64,
        jitter in 0..4_000_u64,
        join: bool,
        up in 0..120_000_u64,
        down in 0..120_000_u64,
    ) {
        let jitter = Duration::from_micros(jitter);
        let link = Link { delay: Duration::from_millis(2), jitter, loss, repeat, join, rate: None };
        let mut net = Net::pair(link);
        net.random = super::net::Random::new(seed);
        net.nodes[1].server.to_send = down;
        let flow = net.connect(Program { to_send: up, shut: true, ..Program::default() });
        net.run_until(10_000 * SECOND, |net| net.program(0, flow).closed.is_some());
        let here = net.program(0, flow).clone();
        if here.closed == Some(CloseReason::Finished) {
            prop_assert_eq!(here.received, down);
            prop_assert_eq!(net.program(1, net.accepted()).received, up);
        } else {
            // A handshake that lost every try.
            prop_assert_eq!(here.closed, Some(CloseReason::Timeout));
            prop_assert!(!here.established, "{here:?}");
        }
    }
}

#[test]
fn a_flow_to_a_listened_port_of_each_family_is_accepted() {
    let mut net = Net::pair(Link::default());
    net.nodes[1].stack.listen([PORT, PORT + 1]);
    let flow = net.connect_to(0, PeerId::new(0, 0), v4(2).into(), Program::default());
    net.run_until(SECOND, |net| net.program(0, flow).established);
}
