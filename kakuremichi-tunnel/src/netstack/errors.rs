//! ICMP errors (RFC 792, RFC 4443): what is told about a packet of ours, and what we tell.

use std::net::{IpAddr, SocketAddr};

use super::{
    CloseReason, PacketSink, Stack,
    flow::{Key, Stage},
    rim::{IPV4_HEADER, IPV6_HEADER, TCP_HEADER, be32},
};
use crate::{
    packet::{IpPacket, Protocol},
    peer::PeerId,
};

/// The echo requests of one peer that are answered in a second; more are dropped and counted. Probes are
/// a few in that time.
pub(super) const ECHOES_PER_SECOND: u32 = 256;

/// The datagrams of one peer that are answered with an ICMP error in a second (RFC 4443 section 2.4 f);
/// more are dropped and counted.
pub(super) const ERRORS_PER_SECOND: u32 = 256;

/// The least MTU that is believed (RFC 8200 section 5), and the one of IPv4 (RFC 791).
const LEAST_MTU_V6: usize = 1_280;
const LEAST_MTU_V4: usize = 576;

/// How often each peer was answered in the current second.
#[derive(Debug, Default)]
pub(super) struct Answers {
    second: u64,
    /// By the peers' slots; emptied with each second.
    counts: Vec<Counts>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    echoes: u32,
    errors: u32,
    accepted: u32,
}

impl Answers {
    /// Whether an echo request of the peer may be answered.
    pub(super) fn may_echo(&mut self, peer: PeerId, tick: u64) -> bool {
        let count = &mut self.of(peer, tick).echoes;
        *count += 1;
        *count <= ECHOES_PER_SECOND
    }

    /// Whether the peer may be told of an error.
    pub(super) fn may_refuse(&mut self, peer: PeerId, tick: u64) -> bool {
        let count = &mut self.of(peer, tick).errors;
        *count += 1;
        *count <= ERRORS_PER_SECOND
    }

    /// Whether the peer may open a flow, of so many in a second.
    pub(super) fn may_accept(&mut self, peer: PeerId, tick: u64, most: u32) -> bool {
        let count = &mut self.of(peer, tick).accepted;
        *count = count.saturating_add(1);
        *count <= most
    }

    fn of(&mut self, peer: PeerId, tick: u64) -> &mut Counts {
        let second = tick / 1_000;
        if self.second != second {
            self.second = second;
            self.counts.clear();
        }
        if self.counts.len() <= peer.slot() {
            self.counts.resize(peer.slot() + 1, Counts::default());
        }
        &mut self.counts[peer.slot()]
    }
}

/// What an error says about a packet of ours.
#[derive(Debug, Clone, Copy)]
enum Problem {
    /// It was longer than this.
    TooBig(usize),
    /// It could not be delivered.
    Unreachable,
}

/// The beginning of a packet of ours.
#[derive(Debug, Clone, Copy)]
struct Quoted {
    protocol: Protocol,
    local: SocketAddr,
    remote: SocketAddr,
    /// The sequence number, of a TCP segment.
    sequence: u32,
}

impl Stack {
    /// Takes an ICMP error in. Returns whether it was one about something that there is.
    pub(super) fn handle_error(&mut self, peer: PeerId, packet: &IpPacket<'_>) -> bool {
        let v4 = packet.protocol() == Protocol::Icmp;
        let message = packet.payload();
        let problem = match *message {
            [3, 4, _, _, _, _, high, low, ..] if v4 => {
                Problem::TooBig(usize::from(u16::from_be_bytes([high, low])))
            }
            [3, _, _, _, _, _, _, _, ..] if v4 => Problem::Unreachable,
            [2, _, _, _, _, _, _, _, ..] if !v4 => Problem::TooBig(be32(message, 4) as usize),
            [1, _, _, _, _, _, _, _, ..] if !v4 => Problem::Unreachable,
            _ => return false,
        };
        let Some(quoted) = quoted(&message[8..], v4) else {
            return false;
        };
        let key = Key::new(peer, quoted.local, quoted.remote);
        match quoted.protocol {
            Protocol::Tcp => self.flow_error(&key, problem, quoted.sequence, v4),
            Protocol::Udp => self.session_error(&key, problem, v4),
            _ => false,
        }
    }

    /// Too big: the flow sends shorter packets from now on (RFC 8201, RFC 1191). Unreachable: an attempt to
    /// connect is over; a flow that is open goes on, since it may be a passing matter (RFC 1122 section
    /// 4.2.3.9). Either is believed about a number that is under way only (RFC 5927).
    fn flow_error(&mut self, key: &Key, problem: Problem, sequence: u32, v4: bool) -> bool {
        let Some(slot) = self.table.find(key) else {
            return false;
        };
        let Some((stage, tcp)) = self
            .table
            .at_mut(slot)
            .and_then(|flow| Some((flow.stage, flow.tcp.as_mut()?)))
        else {
            return false;
        };
        match problem {
            Problem::TooBig(mtu) => {
                let header = if v4 { IPV4_HEADER } else { IPV6_HEADER };
                tcp.lower_mss(sequence, mtu.saturating_sub(header + TCP_HEADER), v4)
            }
            Problem::Unreachable => {
                if stage != Stage::Connecting || !tcp.is_under_way(sequence) {
                    return false;
                }
                self.counters.unreachables_received += 1;
                self.end(slot, CloseReason::Refused);
                true
            }
        }
    }

    fn session_error(&mut self, key: &Key, problem: Problem, v4: bool) -> bool {
        let Some(id) = self.sessions.find(key) else {
            return false;
        };
        match problem {
            Problem::TooBig(mtu) => {
                let least = if v4 { LEAST_MTU_V4 } else { LEAST_MTU_V6 };
                if let Some(session) = self.sessions.get_mut(id) {
                    session.mtu = session.mtu.min(mtu.max(least));
                }
            }
            Problem::Unreachable => self.session_refused(id),
        }
        true
    }

    /// Tells a peer that nobody takes datagrams from `remote` at `local`.
    pub(super) fn answer_unreachable(
        &mut self,
        peer: PeerId,
        local: SocketAddr,
        remote: SocketAddr,
        tick: u64,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        if self.answers.may_refuse(peer, tick) {
            self.counters.unreachables_sent += 1;
            self.rim.unreachable(local, remote, peer, sink);
        } else {
            self.counters.answers_shed += 1;
        }
    }
}

/// Reads the packet in an error, up to the ports and, of TCP, the sequence number.
fn quoted(bytes: &[u8], v4: bool) -> Option<Quoted> {
    let header = if v4 { IPV4_HEADER } else { IPV6_HEADER };
    if bytes.len() < header + 8 || (v4 && bytes[0] != 0x45) || (!v4 && bytes[0] >> 4 != 6) {
        return None;
    }
    let protocol = match bytes[if v4 { 9 } else { 6 }] {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (local, remote) = if v4 {
        (v4_at(bytes, 12), v4_at(bytes, 16))
    } else {
        (v6_at(bytes, 8), v6_at(bytes, 24))
    };
    Some(Quoted {
        protocol,
        local: SocketAddr::new(local, port(header)),
        remote: SocketAddr::new(remote, port(header + 2)),
        sequence: be32(bytes, header + 4),
    })
}

fn v4_at(bytes: &[u8], at: usize) -> IpAddr {
    IpAddr::from([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn v6_at(bytes: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    IpAddr::from(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_bounded_per_peer_and_second() {
        let mut answers = Answers::default();
        let (one, other) = (PeerId::new(0, 0), PeerId::new(9, 0));
        let echoed = (0..1_000).filter(|_| answers.may_echo(one, 500)).count();
        assert_eq!(echoed, ECHOES_PER_SECOND as usize);
        assert!(answers.may_refuse(one, 500) && answers.may_echo(other, 999));
        assert!(!answers.may_echo(one, 999) && answers.may_echo(one, 1_000));
    }
}
