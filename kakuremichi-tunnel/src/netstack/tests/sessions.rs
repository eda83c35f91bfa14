use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::net::{Link, Net, Program, settings, v4, v6};
use crate::{
    netstack::{
        CloseReason, ConnectError, Event, Received, SendError, SessionId, errors::ECHOES_PER_SECOND,
        udp::RECEIVED_BYTES,
    },
    packet::{IpPacket, Protocol, write_ip_header, write_udp},
    peer::PeerId,
};

const PEER: PeerId = PeerId::new(0, 0);
const SECOND: Duration = Duration::from_secs(1);
const UDP_PORT: u16 = 53;

fn pair(link: Link) -> Net {
    let mut net = Net::pair(link);
    for node in &mut net.nodes {
        node.stack.listen_udp([UDP_PORT]);
    }
    net
}

fn open(net: &mut Net, to: IpAddr, idle: Duration) -> Result<SessionId, ConnectError> {
    let local = match to {
        IpAddr::V4(_) => v4(1).into(),
        IpAddr::V6(_) => v6(1).into(),
    };
    let now = net.now;
    let remote = SocketAddr::new(to, UDP_PORT);
    net.nodes[0].stack.open_session(PEER, local, remote, idle, now)
}

fn send(net: &mut Net, node: usize, session: SessionId, data: &[u8]) -> Result<(), SendError> {
    let now = net.now;
    let node = &mut net.nodes[node];
    node.stack.send_datagram(session, &[], data, now, &mut node.wire)
}

fn received(net: &mut Net, node: usize) -> Vec<(SessionId, Vec<u8>)> {
    let mut list = Received::default();
    net.nodes[node].stack.take_received(&mut list);
    list.iter()
        .map(|(session, data)| (session, data.to_vec()))
        .collect()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(super::net::byte).collect()
}

#[test]
fn a_datagram_begins_a_session_and_is_answered() {
    for to in [IpAddr::from(v6(2)), v4(2).into()] {
        let mut net = pair(Link::default());
        let session = open(&mut net, to, SECOND).unwrap();
        for length in [0, 1, 1_000] {
            send(&mut net, 0, session, &pattern(length)).unwrap();
            net.run_for(Duration::from_millis(10));
            let asked = received(&mut net, 1);
            assert_eq!(asked.len(), 1);
            assert_eq!(asked[0].1, pattern(length));
            send(&mut net, 1, asked[0].0, b"answer").unwrap();
            net.run_for(Duration::from_millis(10));
            assert_eq!(received(&mut net, 0), [(session, b"answer".to_vec())]);
        }
        assert_eq!(
            (net.nodes[0].stack.sessions(), net.nodes[1].stack.sessions()),
            (1, 1)
        );
    }
}

/// Users of DNS, QUIC and tunnels expect datagrams of any length to arrive.
#[test]
fn datagrams_longer_than_the_mtu_pass_in_fragments() {
    let jitter = Duration::from_millis(3);
    for to in [IpAddr::from(v6(2)), v4(2).into()] {
        let mut net = pair(Link {
            jitter,
            repeat: 100,
            ..Link::default()
        });
        let session = open(&mut net, to, SECOND).unwrap();
        for length in [1_372, 1_373, 1_393, 4_096, 65_000] {
            let now = net.now;
            let node = &mut net.nodes[0];
            let (head, data) = (b"head", pattern(length));
            node.stack
                .send_datagram(session, head, &data, now, &mut node.wire)
                .unwrap();
            net.run_for(Duration::from_millis(20));
            let asked = received(&mut net, 1);
            // What the network duplicates whole comes twice, as datagrams may.
            assert!(!asked.is_empty(), "{length}");
            assert!(
                asked[0].1.starts_with(head) && asked[0].1[4..] == data,
                "{length}"
            );
        }
        let (one, two) = (net.nodes[0].stack.counters(), net.nodes[1].stack.counters());
        assert!(one.fragmented >= 3 && two.reassembled >= 3, "{one:?}");
        assert_eq!(
            send(&mut net, 0, session, &vec![0; 65_536]),
            Err(SendError::TooLong)
        );
    }
}

#[test]
fn a_session_ends_when_nothing_passes_for_its_time() {
    let mut net = pair(Link::default());
    net.nodes[1].stack.settings.session_idle = 2 * SECOND;
    let session = open(&mut net, v6(2).into(), SECOND).unwrap();
    for _ in 0..5 {
        send(&mut net, 0, session, b"still here").unwrap();
        net.run_for(SECOND * 9 / 10);
    }
    assert_eq!(net.nodes[0].sessions, []);
    net.run_for(SECOND / 5);
    let ended = Event::SessionEnded {
        session,
        reason: CloseReason::Timeout,
    };
    assert_eq!(net.nodes[0].sessions, [ended]);
    assert_eq!(net.nodes[1].stack.sessions(), 1);
    net.run_for(SECOND);
    assert_eq!(
        (net.nodes[0].stack.sessions(), net.nodes[1].stack.sessions()),
        (0, 0)
    );
    assert_eq!(send(&mut net, 0, session, b"late"), Err(SendError::Ended));
    assert_eq!(net.nodes[0].stack.poll_timeout(), None);
}

#[test]
fn a_port_that_nobody_listens_on_and_a_session_that_is_refused_are_told() {
    for to in [IpAddr::from(v6(2)), v4(2).into()] {
        let mut net = pair(Link::default());
        net.nodes[1].stack.listen_udp([]);
        let session = open(&mut net, to, 60 * SECOND).unwrap();
        send(&mut net, 0, session, b"anybody?").unwrap();
        net.run_for(Duration::from_millis(10));
        assert_eq!(net.nodes[0].sessions, [Event::SessionRefused(session)]);
        assert_eq!(net.nodes[1].stack.counters().unreachables_sent, 1);
        // The session goes on, and is told again.
        net.nodes[1].stack.listen_udp([UDP_PORT]);
        send(&mut net, 0, session, b"now?").unwrap();
        net.run_for(Duration::from_millis(10));
        let (asked, now) = (received(&mut net, 1)[0].0, net.now);
        let node = &mut net.nodes[1];
        node.stack.refuse_session(asked, now, &mut node.wire);
        net.run_for(Duration::from_millis(10));
        assert_eq!(net.nodes[0].sessions.len(), 2);
        assert_eq!(net.nodes[0].stack.counters().unreachables_received, 2);
        assert_eq!(net.nodes[1].stack.sessions(), 0);
    }
}

/// DESIGN invariant 7: beyond a bound the newest is shed and counted, and the others go on.
#[test]
fn sessions_are_bounded_per_peer_and_in_all() {
    let mut first = settings(1);
    first.limits.sessions_per_peer = 3;
    let mut second = settings(2);
    second.limits.sessions = 2;
    let mut net = Net::pair_of(Link::default(), first, second);
    net.nodes[1].stack.listen_udp([UDP_PORT]);
    let sessions: Vec<_> = (0..3)
        .map(|_| open(&mut net, v6(2).into(), SECOND).unwrap())
        .collect();
    assert_eq!(
        open(&mut net, v6(2).into(), SECOND),
        Err(ConnectError::TooManyFlows)
    );
    for session in &sessions {
        send(&mut net, 0, *session, b"x").unwrap();
    }
    net.run_for(Duration::from_millis(10));
    assert_eq!(received(&mut net, 1).len(), 2);
    assert_eq!(net.nodes[1].stack.counters().sessions_overflowed, 1);
    assert_eq!(net.nodes[0].stack.counters().sessions_overflowed, 1);
    net.nodes[0].stack.close_session(sessions[0]);
    assert!(open(&mut net, v6(2).into(), SECOND).is_ok());
    send(&mut net, 0, sessions[1], b"y").unwrap();
    net.run_for(Duration::from_millis(10));
    assert_eq!(received(&mut net, 1).len(), 1);
}

#[test]
fn a_dead_peer_frees_its_sessions_and_flows_at_once() {
    let mut net = pair(Link::default());
    let session = open(&mut net, v6(2).into(), 60 * SECOND).unwrap();
    send(&mut net, 0, session, b"x").unwrap();
    let flow = net.connect(Program::default());
    net.run_for(Duration::from_millis(100));
    net.nodes[0].stack.remove_peer(PEER);
    net.run_for(Duration::from_millis(1));
    let ended = Event::SessionEnded {
        session,
        reason: CloseReason::PeerGone,
    };
    assert_eq!(net.nodes[0].sessions, [ended]);
    assert_eq!(net.program(0, flow).closed, Some(CloseReason::PeerGone));
    let stack = &net.nodes[0].stack;
    assert_eq!((stack.sessions(), stack.flows(), stack.rings_in_use()), (0, 0, 0));
}

#[test]
fn a_session_whose_address_goes_ends() {
    let mut net = pair(Link::default());
    let session = open(&mut net, v4(2).into(), 60 * SECOND).unwrap();
    net.nodes[0].stack.set_addresses(Some(v6(1)), None).unwrap();
    net.run_for(Duration::from_millis(1));
    let ended = Event::SessionEnded {
        session,
        reason: CloseReason::AddressGone,
    };
    assert_eq!(net.nodes[0].sessions, [ended]);
}

#[test]
fn datagrams_that_nobody_takes_are_bounded() {
    let mut net = pair(Link::default());
    let session = open(&mut net, v6(2).into(), 60 * SECOND).unwrap();
    let count = RECEIVED_BYTES / 1_000 + 10;
    for _ in 0..count {
        send(&mut net, 0, session, &[0; 1_000]).unwrap();
    }
    let packets: Vec<_> = net.nodes[0].wire.packets.drain(..).collect();
    let now = net.now;
    let node = &mut net.nodes[1];
    for (_, packet) in packets {
        node.stack.handle_packet(PEER, &packet, now, &mut node.wire);
    }
    let kept = RECEIVED_BYTES / 1_000;
    assert_eq!(node.stack.counters().datagrams_shed, (count - kept) as u64);
    assert_eq!(received(&mut net, 1).len(), kept);
}

#[test]
fn echo_requests_and_strays_are_answered_at_a_bounded_rate() {
    let mut net = pair(Link::default());
    let now = net.now;
    let node = &mut net.nodes[1];
    let mut stray = vec![0; 2_000];
    let length = write_udp(
        SocketAddr::new(v6(1).into(), 7),
        SocketAddr::new(v6(2).into(), 9),
        &[],
        b"x",
        &mut stray,
    )
    .unwrap();
    let mut echo = vec![0; 48];
    write_ip_header(v6(1).into(), v6(2).into(), Protocol::Icmpv6, 8, &mut echo).unwrap();
    echo[40] = 128;
    for _ in 0..1_000 {
        node.stack
            .handle_packet(PEER, &stray[..length], now, &mut node.wire);
        node.stack.handle_packet(PEER, &echo, now, &mut node.wire);
    }
    let counted = node.stack.counters();
    assert_eq!(counted.echoed, u64::from(ECHOES_PER_SECOND));
    assert_eq!(
        counted.answers_shed + counted.echoed + counted.unreachables_sent,
        2_000
    );
    assert!(counted.unreachables_sent < 1_000);
    node.stack
        .handle_packet(PEER, &echo, now + SECOND, &mut node.wire);
    assert_eq!(node.stack.counters().echoed, counted.echoed + 1);
}

/// ICMP unreachable about a packet.
fn unreachable(packet: &[u8], from: IpAddr) -> Vec<u8> {
    let view = IpPacket::parse(packet).unwrap();
    let to = view.source();
    let (protocol, kind) = match to {
        IpAddr::V4(_) => (Protocol::Icmp, [3, 1]),
        IpAddr::V6(_) => (Protocol::Icmpv6, [1, 3]),
    };
    let mut out = vec![0; 48 + packet.len()];
    let header = write_ip_header(from, to, protocol, 8 + packet.len(), &mut out).unwrap();
    out.truncate(header + 8 + packet.len());
    out[header..header + 2].copy_from_slice(&kind);
    out[header + 8..].copy_from_slice(packet);
    out
}

/// Unreachable is refused, for who connects; an open flow outlives it (RFC 1122, section 4.2.3.9).
#[test]
fn an_unreachable_host_refuses_an_attempt_and_not_an_open_flow() {
    for (to, router) in [
        (IpAddr::from(v6(2)), IpAddr::from(v6(99))),
        (v4(2).into(), v4(99).into()),
    ] {
        let mut net = Net::pair(Link::default());
        let attempt = net.connect_to(0, PEER, to, Program::default());
        let now = net.now;
        let node = &mut net.nodes[0];
        node.stack.transmit(now, &mut node.wire);
        let (_, syn) = node.wire.packets.pop_front().unwrap();
        let message = unreachable(&syn, router);
        // About a number that is not under way, it is not believed.
        let mut forged = message.clone();
        let at = forged.len() - syn.len() + IpPacket::parse(&syn).unwrap().header_len() + 4;
        forged[at] ^= 1;
        node.stack.handle_packet(PEER, &forged, now, &mut node.wire);
        net.run_for(Duration::from_millis(1));
        assert_eq!(net.program(0, attempt).closed, None);
        let node = &mut net.nodes[0];
        node.stack.handle_packet(PEER, &message, now, &mut node.wire);
        net.run_for(Duration::from_millis(1));
        assert_eq!(net.program(0, attempt).closed, Some(CloseReason::Refused));

        let flow = net.connect_to(0, PEER, to, Program::default());
        net.run_for(SECOND);
        let now = net.now;
        let node = &mut net.nodes[0];
        node.stack.send(flow, |_| (100, ())).unwrap();
        node.stack.transmit(now, &mut node.wire);
        let (_, data) = node.wire.packets.pop_front().unwrap();
        node.stack
            .handle_packet(PEER, &unreachable(&data, router), now, &mut node.wire);
        net.run_for(Duration::from_millis(1));
        assert_eq!(net.program(0, flow).closed, None);
    }
}
