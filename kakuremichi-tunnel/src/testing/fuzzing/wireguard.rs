//! WireGuard's datagrams.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use kakuremichi_core::{net::Cidr, secret::Secret};

use super::{Input, MAX_OPERATIONS, begin};
use crate::{
    packet::{Echo, EchoKind},
    wg::{DatagramSink, Device, DeviceConfig, OuterPath, PeerConfig, Sealed},
};

/// Datagrams on their way to one device.
#[derive(Default)]
struct Wire(VecDeque<Vec<u8>>);

/// One of the two.
struct Node {
    device: Device,
    overlay: IpAddr,
    /// What it has sent.
    wire: Wire,
    /// The packets that were sealed, to be compared with those that are opened at the other end.
    sealed: Vec<Vec<u8>>,
}

/// So many datagrams are kept; what is sent beyond is lost.
const MAX_WAITING: usize = 64;

impl DatagramSink for Wire {
    fn datagram(&mut self, _: OuterPath, datagram: &[u8]) {
        if self.0.len() < MAX_WAITING {
            self.0.push_back(datagram.to_vec());
        }
    }
}

/// Two devices, and whatever can happen to datagrams between them: only packets open that the other end
/// sealed, each at most once, and nothing panics.
///
/// The input is operations: a byte each, whose lowest bit says at which end, and what they need.
pub fn wg_datagram(data: &[u8]) {
    let mut input = Input(data);
    let mut now = begin();
    let mut nodes = pair(now);
    for _ in 0..MAX_OPERATIONS {
        let Some(operation) = input.byte() else { break };
        let at = usize::from(operation & 1);
        match operation >> 1 & 15 {
            0..4 => seal(&mut nodes[at], &mut input, now),
            4..7 => {
                if let Some(datagram) = nodes[1 - at].wire.0.pop_front() {
                    open(&mut nodes, at, &datagram, address(1 - at), now);
                }
            }
            7 => drop(nodes[at].wire.0.pop_front()),
            8 => {
                if let Some(datagram) = nodes[at].wire.0.front().cloned() {
                    nodes[at].wire.datagram(address(at).into(), &datagram);
                }
            }
            9 => {
                // Changed on its way.
                if let Some(mut datagram) = nodes[1 - at].wire.0.pop_front() {
                    let place = input.word().unwrap_or_default() % datagram.len();
                    datagram[place] ^= input.byte().unwrap_or_default();
                    open(&mut nodes, at, &datagram, address(1 - at), now);
                }
            }
            10 => {
                if let Some(mut datagram) = nodes[1 - at].wire.0.pop_front() {
                    datagram.truncate(input.word().unwrap_or_default() % (datagram.len() + 1));
                    open(&mut nodes, at, &datagram, address(1 - at), now);
                }
            }
            11 => {
                let length = input.word().unwrap_or_default() % 256;
                let datagram = input.take(length).to_vec();
                open(&mut nodes, at, &datagram, address(2), now);
            }
            12 => {
                now += Duration::from_millis(input.byte().unwrap_or_default().into()) * 100;
                let Node { device, wire, .. } = &mut nodes[at];
                device.handle_timeout(wire, now);
            }
            13 => {
                let waiting = nodes[at].wire.0.len();
                nodes[at].wire.0.rotate_left(usize::from(waiting > 1));
            }
            14 => {
                let Node { device, wire, .. } = &mut nodes[at];
                let peer = device.peers().next();
                if let Some(peer) = peer {
                    device.initiate(peer, wire, now);
                }
            }
            _ => {
                // From somewhere else: the peer roamed, if it is authentic.
                if let Some(datagram) = nodes[1 - at].wire.0.pop_front() {
                    open(&mut nodes, at, &datagram, address(3), now);
                }
            }
        }
        for node in &mut nodes {
            while node.device.poll_changed().is_some() {}
            assert!(node.device.poll_elsewhere().is_none(), "there is one shard");
        }
    }
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::new([192, 0, 2, number as u8 + 1].into(), 51_820)
}

fn pair(now: Instant) -> [Node; 2] {
    let node = |number: u8| {
        let config = DeviceConfig::new(Secret::new([number + 1; 32]), number.into());
        Node {
            device: Device::new(&config, now),
            overlay: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number) + 1).into(),
            wire: Wire::default(),
            sealed: Vec::new(),
        }
    };
    let mut nodes = [node(0), node(1)];
    for at in [0, 1] {
        let other = &nodes[1 - at];
        let mut peer = PeerConfig::new(other.device.public_key(), vec![Cidr::host(other.overlay)]);
        peer.endpoint = Some(address(1 - at));
        nodes[at].device.set_peers(&[peer], now);
    }
    nodes
}

fn seal(node: &mut Node, input: &mut Input<'_>, now: Instant) {
    let Some(peer) = node.device.peers().next() else {
        return;
    };
    let length = usize::from(input.byte().unwrap_or_default());
    let echo = Echo {
        kind: EchoKind::Request,
        identifier: 0,
        // No two packets are the same.
        sequence: node.sealed.len() as u16,
        data: input.take(length),
    };
    let (mut packet, mut out) = ([0; 512], [0; 1024]);
    let Some(length) = echo.write(node.overlay, node.overlay, &mut packet) else {
        return;
    };
    node.sealed.push(packet[..length].to_vec());
    let Node { device, wire, .. } = node;
    if let Sealed::Datagram { to, length } = device.seal(peer, &packet[..length], &mut out, wire, now) {
        wire.datagram(to, &out[..length]);
    }
}

fn open(nodes: &mut [Node; 2], at: usize, datagram: &[u8], from: SocketAddr, now: Instant) {
    let mut out = [0; 2048];
    let Node { device, wire, .. } = &mut nodes[at];
    let before = device.counters().opened;
    let opened = device.open(from.into(), datagram, &mut out, wire, now);
    assert_eq!(opened.is_some(), device.counters().opened > before);
    if let Some((_, length)) = opened {
        let sealed = &mut nodes[1 - at].sealed;
        let known = sealed.iter_mut().find(|packet| **packet == out[..length]);
        let Some(packet) = known else {
            panic!("nobody sealed {:?}", &out[..length])
        };
        // It opens no second time.
        packet.clear();
    }
}
