use std::{net::SocketAddr, time::Duration};

use super::*;

fn udp() -> (Udp, mio::Poll) {
    let poll = mio::Poll::new().unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let registry = poll.registry().try_clone().unwrap();
    (Udp::new(vec![socket], registry).unwrap(), poll)
}

fn receiver() -> (std::net::UdpSocket, OuterPath) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let address: SocketAddr = socket.local_addr().unwrap();
    (socket, address.into())
}

fn next(socket: &std::net::UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

#[test]
fn datagrams_of_any_length_and_address_arrive_whole_and_in_order() {
    let (mut udp, _poll) = udp();
    let (a, to_a) = receiver();
    let (b, to_b) = receiver();
    let lengths = [100, 100, 100, 60, 100, 1400, 1400, 20, 20, 21];
    for (number, length) in lengths.iter().enumerate() {
        udp.datagram(to_a, &vec![number as u8; *length]);
        if number == 5 {
            udp.datagram(to_b, b"elsewhere");
        }
    }
    udp.flush();
    for (number, length) in lengths.iter().enumerate() {
        assert_eq!(next(&a), vec![number as u8; *length]);
    }
    assert_eq!(next(&b), b"elsewhere");
    assert_eq!(udp.counters.sent, 11);
    assert!(udp.counters.sends < 9, "equal ones leave together");
}

#[test]
fn a_full_socket_keeps_the_batch_and_drops_what_exceeds_it() {
    let (mut udp, _poll) = udp();
    let (a, to_a) = receiver();
    udp.datagram(to_a, &[1; 1000]);
    udp.sockets[0].blocked = true;
    udp.flush();
    assert!(udp.is_blocked());
    let mut kept = 1;
    for _ in 0..100 {
        udp.datagram(to_a, &[2; 1000]);
        kept += 1;
    }
    assert!(udp.counters.dropped > 0);
    kept -= udp.counters.dropped;
    // The system tells that there is room.
    udp.set_ready(0, false, true);
    assert!(!udp.is_blocked());
    udp.flush();
    assert_eq!(next(&a), [1; 1000]);
    for _ in 1..kept {
        assert_eq!(next(&a), [2; 1000]);
    }
    assert_eq!(udp.counters.sent, kept);
}

#[test]
fn an_address_of_ours_that_is_gone_is_not_insisted_on() {
    let (mut udp, _poll) = udp();
    let (a, to_a) = receiver();
    // TEST-NET-1 (RFC 5737) is nobody's.
    let path = OuterPath {
        local: Some([192, 0, 2, 1].into()),
        ..to_a
    };
    for _ in 0..3 {
        udp.datagram(path, b"from anywhere");
    }
    udp.flush();
    for _ in 0..3 {
        assert_eq!(next(&a), b"from anywhere");
    }
}

#[test]
fn a_family_without_a_socket_is_dropped_and_counted() {
    let (mut udp, _poll) = udp();
    udp.datagram(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 9)).into(), b"x");
    udp.flush();
    assert_eq!((udp.counters.sent, udp.counters.dropped), (0, 1));
}
