use std::{net::IpAddr, time::Duration};

use super::net::{Link, Net, settings, v4, v6};
use crate::{
    netstack::{Event, PingError, icmp::MAX_PONGS},
    peer::PeerId,
};

const PEER: PeerId = PeerId::new(0, 0);

fn ping(net: &mut Net, to: IpAddr, sequence: u16, payload: &[u8]) -> Result<(), PingError> {
    let node = &mut net.nodes[0];
    node.stack.ping(PEER, to, 7, sequence, payload, &mut node.wire)
}

#[test]
fn a_probe_is_answered_in_both_families() {
    let mut net = Net::pair(Link::default());
    for (sequence, to) in [(1, v6(2).into()), (2, v4(2).into())] {
        ping(&mut net, to, sequence, b"12345678 and more").unwrap();
        net.run_for(Duration::from_millis(10));
        let pong = Event::Pong {
            peer: PEER,
            from: to,
            identifier: 7,
            sequence,
            payload: *b"12345678",
        };
        assert_eq!(net.nodes[0].pongs.pop(), Some(pong));
    }
    assert_eq!(net.nodes[1].stack.counters().echoed, 2);
}

#[test]
fn a_probe_to_an_address_that_is_not_theirs_is_not_answered() {
    let mut net = Net::pair(Link::default());
    ping(&mut net, v6(3).into(), 1, b"").unwrap();
    net.run_for(Duration::from_millis(10));
    assert!(net.nodes[0].pongs.is_empty());
    assert_eq!(net.nodes[1].stack.counters().not_ours, 1);
}

#[test]
fn a_probe_fits_the_mtu_or_is_refused() {
    let mut net = Net::pair(Link::default());
    assert_eq!(ping(&mut net, v6(2).into(), 1, &[0; 1_420 - 48]), Ok(()));
    assert_eq!(
        ping(&mut net, v6(2).into(), 1, &[0; 1_420 - 47]),
        Err(PingError::TooLong)
    );
    net.nodes[0].stack.set_addresses(Some(v6(1)), None).unwrap();
    assert_eq!(ping(&mut net, v4(2).into(), 1, b""), Err(PingError::NoAddress));
}

#[test]
fn answers_that_nobody_polls_are_bounded() {
    let mut net = Net::pair_of(Link::default(), settings(1), settings(2));
    for sequence in 0..MAX_PONGS as u16 + 10 {
        ping(&mut net, v6(2).into(), sequence, b"").unwrap();
    }
    let requests: Vec<_> = net.nodes[0].wire.packets.drain(..).collect();
    let node = &mut net.nodes[1];
    for (number, (_, packet)) in requests.into_iter().enumerate() {
        // No faster than requests are answered.
        let now = net.now + Duration::from_secs(number as u64 / 200);
        node.stack.handle_packet(PEER, &packet, now, &mut node.wire);
    }
    let answers: Vec<_> = net.nodes[1].wire.packets.drain(..).collect();
    let node = &mut net.nodes[0];
    for (_, packet) in answers {
        node.stack.handle_packet(PEER, &packet, net.now, &mut node.wire);
    }
    assert_eq!(node.stack.counters().lost_pongs, 10);
    let mut polled = 0;
    while node.stack.poll_event().is_some() {
        polled += 1;
    }
    assert_eq!(polled, MAX_PONGS);
}
