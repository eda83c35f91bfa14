//! TCP.

use std::{
    collections::VecDeque,
    net::{Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use super::{Input, MAX_OPERATIONS, begin};
use crate::{
    netstack::{Event, FlowId, PacketSink, Settings, Stack},
    packet::{IpPacket, Protocol, checksum, transport_checksum, write_ip_header},
    peer::PeerId,
};

const PORT: u16 = 80;
const PEER: PeerId = PeerId::new(0, 0);
/// So many packets are kept; what is sent beyond is lost.
const MAX_WAITING: usize = 256;
const MAX_FLOWS: usize = 8;

/// Packets on their way from one stack, each held to what a sink is promised.
#[derive(Default)]
struct Wire(VecDeque<Vec<u8>>);

impl PacketSink for Wire {
    fn packet(&mut self, _: PeerId, packet: &[u8]) {
        check(packet);
        if self.0.len() < MAX_WAITING {
            self.0.push_back(packet.to_vec());
        }
    }

    fn ready(&self) -> bool {
        self.0.len() < MAX_WAITING
    }
}

struct Node {
    stack: Stack,
    wire: Wire,
    flows: Vec<Flow>,
}

struct Flow {
    id: FlowId,
    sent: u64,
    received: u64,
}

/// Two stacks, and whatever can happen to packets between them, or be made up: what is sent is well-formed
/// and fits the tunnel, bounds hold, data that was not tampered with arrives in order, and nothing is left
/// once the peer is gone.
///
/// The input is operations: a byte each, whose lowest bit says at which end, and what they need.
pub fn netstack(data: &[u8]) {
    let mut input = Input(data);
    let mut now = begin();
    let (Some(first), Some(second)) = (node(0, now), node(1, now)) else {
        return;
    };
    let mut nodes = [first, second];
    let mut honest = true;
    for _ in 0..MAX_OPERATIONS {
        let Some(operation) = input.byte() else { break };
        let at = usize::from(operation & 1);
        match operation >> 1 & 15 {
            0 => connect(&mut nodes[at], at, now),
            1 | 2 => send(&mut nodes[at], &mut input),
            3 | 4 => receive(&mut nodes[at], &mut input, honest),
            5 => end(&mut nodes[at], &mut input),
            6..9 => {
                let waiting = nodes[1 - at].wire.0.len();
                for _ in 0..waiting.min(1 + usize::from(operation >> 5)) {
                    let packet = nodes[1 - at].wire.0.pop_front().unwrap_or_default();
                    handle(&mut nodes[at], &packet, now);
                }
            }
            9 => drop(nodes[at].wire.0.pop_front()),
            10 => {
                if let Some(packet) = nodes[1 - at].wire.0.front().cloned() {
                    handle(&mut nodes[at], &packet, now);
                }
            }
            11 => {
                if let Some(mut packet) = nodes[1 - at].wire.0.pop_front() {
                    honest = false;
                    let place = input.word().unwrap_or_default() % packet.len();
                    packet[place] ^= input.byte().unwrap_or_default();
                    handle(&mut nodes[at], &packet, now);
                }
            }
            12 => {
                honest = false;
                let packet = made_up(&mut input, at);
                handle(&mut nodes[at], &packet, now);
            }
            13 => {
                let waiting = nodes[at].wire.0.len();
                nodes[at].wire.0.rotate_left(usize::from(waiting > 1));
            }
            14 => now += Duration::from_millis(input.word().unwrap_or_default() as u64),
            _ if operation >> 5 == 0 => nodes[at].stack.remove_peer(PEER),
            _ => {}
        }
        for node in &mut nodes {
            turn(node, now);
        }
    }
    for node in &mut nodes {
        node.stack.remove_peer(PEER);
        turn(node, now);
        assert_eq!((node.stack.flows(), node.stack.rings_in_use()), (0, 0));
    }
}

fn host(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number as u16 + 1)
}

fn node(number: usize, now: Instant) -> Option<Node> {
    let mut settings = Settings {
        ipv6: Some(host(number)),
        ring: 16 * 1024,
        ..Settings::default()
    };
    settings.limits.flows = MAX_FLOWS;
    let mut stack = Stack::new(settings, number as u64, now).ok()?;
    stack.listen([PORT]);
    Some(Node {
        stack,
        wire: Wire::default(),
        flows: Vec::new(),
    })
}

/// Timers, events and what is to be sent.
fn turn(node: &mut Node, now: Instant) {
    let Node { stack, wire, flows } = node;
    stack.handle_timeout(now);
    loop {
        while let Some(event) = stack.poll_event() {
            match event {
                Event::Incoming { flow, .. } => flows.push(Flow {
                    id: flow,
                    sent: 0,
                    received: 0,
                }),
                Event::Closed { flow, .. } => {
                    stack.release(flow);
                    flows.retain(|known| known.id != flow);
                }
                _ => {}
            }
        }
        stack.transmit(now, wire);
        if !stack.has_events() {
            break;
        }
    }
    assert!(stack.flows() <= MAX_FLOWS && stack.rings_in_use() <= MAX_FLOWS);
}

fn connect(node: &mut Node, at: usize, now: Instant) {
    let to = SocketAddr::new(host(1 - at).into(), PORT);
    if let Ok(id) = node.stack.connect(PEER, host(at).into(), to, now) {
        node.flows.push(Flow {
            id,
            sent: 0,
            received: 0,
        });
    }
}

/// Which flow an operation is about.
fn choose<'a>(flows: &'a mut [Flow], input: &mut Input<'_>) -> Option<&'a mut Flow> {
    let number = usize::from(input.byte()?);
    let count = flows.len();
    flows.get_mut(number.checked_rem(count)?)
}

fn send(node: &mut Node, input: &mut Input<'_>) {
    let Node { stack, flows, .. } = node;
    let Some(flow) = choose(flows, input) else { return };
    let length = input.word().unwrap_or_default();
    let begin = flow.sent;
    let sent = stack.send(flow.id, |room| {
        let length = length.min(room.len());
        for (place, at) in room[..length].iter_mut().zip(begin..) {
            *place = at as u8;
        }
        (length, length)
    });
    flow.sent += sent.unwrap_or_default() as u64;
}

fn receive(node: &mut Node, input: &mut Input<'_>, honest: bool) {
    let Node { stack, flows, .. } = node;
    let Some(flow) = choose(flows, input) else { return };
    let length = input.word().unwrap_or_default();
    let begin = flow.received;
    let taken = stack.recv(flow.id, |data| {
        let data = &data[..length.min(data.len())];
        let expected = data.iter().zip(begin..).all(|(byte, at)| *byte == at as u8);
        assert!(expected || !honest, "at {begin}");
        (data.len(), data.len())
    });
    flow.received += taken.unwrap_or_default() as u64;
}

fn end(node: &mut Node, input: &mut Input<'_>) {
    let Node { stack, flows, .. } = node;
    let Some(flow) = choose(flows, input) else { return };
    let id = flow.id;
    match input.byte().unwrap_or_default() % 4 {
        0 | 1 => return stack.shutdown(id),
        2 => stack.release(id),
        _ => stack.abort(id),
    }
    flows.retain(|flow| flow.id != id);
}

fn handle(node: &mut Node, packet: &[u8], now: Instant) {
    let Node { stack, wire, .. } = node;
    stack.handle_packet(PEER, packet, now, wire);
}

/// A packet to one end: a header that fits, and then anything.
fn made_up(input: &mut Input<'_>, to: usize) -> Vec<u8> {
    let length = input.word().unwrap_or_default() % 1_400;
    let protocol = if length.is_multiple_of(8) {
        Protocol::Icmpv6
    } else {
        Protocol::Tcp
    };
    let rest = input.take(length);
    let mut packet = vec![0; 40 + rest.len()];
    let (source, destination) = (host(1 - to).into(), host(to).into());
    if let Some(ip) = write_ip_header(source, destination, protocol, rest.len(), &mut packet) {
        packet[ip..].copy_from_slice(rest);
    }
    packet
}

/// A packet is whole, fits the tunnel, and its checksum is valid.
fn check(packet: &[u8]) {
    let Ok(view) = IpPacket::parse(packet) else {
        panic!("{packet:?} is no packet")
    };
    assert!(packet.len() <= Settings::default().mtu && view.as_bytes().len() == packet.len());
    let sum = match view.protocol() {
        Protocol::Icmp => checksum(view.payload()),
        protocol => transport_checksum(view.source(), view.destination(), protocol, view.payload()),
    };
    assert_eq!(sum, 0);
}
