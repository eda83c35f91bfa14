//! What comes in: finding the flow of a segment, or making one, or refusing it.

use std::{net::SocketAddr, time::Instant};

use super::{
    PacketSink, Stack,
    flow::{Flow, Key, Stage},
    life::{Cause, QUIET},
    rim::Control,
    stack::{has_place, is_host},
    tcp::{Tcp, Way},
    time_wait::Answer,
};
use crate::{
    packet::{Fragment, IpPacket, Protocol, TcpFlags, TcpSegment},
    peer::PeerId,
};

/// The engine is told of room to send when this part of the ring is free, so that it fills large
/// pieces.
const ROOM_SHARE: usize = 8;

impl Stack {
    /// Takes in one IP packet from a peer, which must be the one its source address belongs to; or
    /// several segments that were joined to one packet of up to 65,535 bytes. Checksums are not
    /// verified: the tunnel authenticated the packet. Never fails: what cannot be used is counted.
    pub fn handle_packet(
        &mut self,
        peer: PeerId,
        packet: &[u8],
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        if Fragment::is_one(packet) {
            return self.handle_fragment(peer, packet, now, sink);
        }
        let Ok(packet) = IpPacket::parse(packet) else {
            self.counters.malformed += 1;
            return;
        };
        match packet.protocol() {
            Protocol::Tcp => self.handle_segment(peer, &packet, now, sink),
            Protocol::Udp => {
                let ends = (packet.source(), packet.destination());
                self.handle_udp(peer, ends, packet.payload(), now, sink);
            }
            Protocol::Icmp | Protocol::Icmpv6 => self.handle_icmp(peer, &packet, now, sink),
            Protocol::Other(_) => self.counters.unhandled += 1,
        }
    }

    fn handle_segment(
        &mut self,
        peer: PeerId,
        packet: &IpPacket<'_>,
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        let Ok(segment) = packet.tcp() else {
            self.counters.malformed += 1;
            return;
        };
        let local = SocketAddr::new(packet.destination(), segment.destination_port());
        let remote = SocketAddr::new(packet.source(), segment.source_port());
        let key = Key::new(peer, local, remote);
        let slot = match self.table.find(&key) {
            Some(slot) => slot,
            None => match self.meet(peer, &key, local, remote, &segment, now, sink) {
                Some(slot) => slot,
                None => return,
            },
        };
        self.ingest(slot, packet, &segment, now, sink);
    }

    /// Deals with a segment of no flow: returns the flow that was made for it, if any.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of it was parsed by the only caller"
    )]
    fn meet(
        &mut self,
        peer: PeerId,
        key: &Key,
        local: SocketAddr,
        remote: SocketAddr,
        segment: &TcpSegment<'_>,
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) -> Option<u32> {
        if !self.is_ours(local.ip()) {
            self.counters.not_ours += 1;
            return None;
        }
        if !is_host(remote.ip()) || remote.port() == 0 || local.port() == 0 {
            self.counters.malformed += 1;
            return None;
        }
        let flags = segment.flags();
        let tick = self.host.tick(now);
        match self.time_wait.answer(key, segment, tick) {
            Answer::Unknown => {}
            Answer::Silence => return None,
            Answer::Acknowledge {
                sequence,
                acknowledgement,
            } => {
                let answer = Control {
                    source: local,
                    destination: remote,
                    sequence,
                    acknowledgement,
                    flags: TcpFlags::ACK,
                    window: 0,
                };
                self.rim.control(&answer, peer, sink);
                return None;
            }
        }
        let opens = flags.contains(TcpFlags::SYN)
            && !flags.contains(TcpFlags::ACK)
            && !flags.contains(TcpFlags::RST)
            && !flags.contains(TcpFlags::FIN);
        if !opens {
            self.counters.stray += 1;
        } else if !self.ports.contains(local.port()) {
            self.counters.refused += 1;
        } else if !self
            .answers
            .may_accept(peer, tick, self.settings.limits.accepted_per_second)
        {
            // Without a word, which would cost as much again. Who means it says it again.
            self.counters.overflowed += 1;
            return None;
        } else if !self.may_accept(peer) {
            self.counters.overflowed += 1;
        } else if let Some(tcp) = Tcp::listen(&self.arena, &self.settings, local) {
            let mut flow = Flow::new(peer, local, remote, tcp, Stage::Accepting);
            flow.active = tick;
            self.narrow(&mut flow);
            return Some(self.table.insert(flow));
        } else {
            self.counters.no_buffers += 1;
        }
        self.refuse(peer, local, remote, segment, sink);
        None
    }

    fn may_accept(&self, peer: PeerId) -> bool {
        let limits = &self.settings.limits;
        let (half_open, of_peer) = self.table.half_open(peer);
        self.may_have_flow(peer)
            && of_peer < limits.half_open_per_peer
            && has_place(limits.half_open, half_open, of_peer)
    }

    /// Answers a segment with a reset (RFC 9293 section 3.5.2), but never a reset.
    fn refuse(
        &mut self,
        peer: PeerId,
        local: SocketAddr,
        remote: SocketAddr,
        segment: &TcpSegment<'_>,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        let flags = segment.flags();
        if flags.contains(TcpFlags::RST) {
            return;
        }
        let (sequence, acknowledgement, flags) = if flags.contains(TcpFlags::ACK) {
            (segment.acknowledgement(), 0, TcpFlags::RST)
        } else {
            let controls =
                u32::from(flags.contains(TcpFlags::SYN)) + u32::from(flags.contains(TcpFlags::FIN));
            let length = segment.payload().len() as u32 + controls;
            (
                0,
                segment.sequence().wrapping_add(length),
                TcpFlags::RST.union(TcpFlags::ACK),
            )
        };
        let reset = Control {
            source: local,
            destination: remote,
            sequence,
            acknowledgement,
            flags,
            window: 0,
        };
        self.rim.control(&reset, peer, sink);
    }

    fn ingest(
        &mut self,
        slot: u32,
        packet: &IpPacket<'_>,
        segment: &TcpSegment<'_>,
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        let tick = self.host.tick(now);
        let tight = self.table.memory.is_tight();
        if tight {
            self.allow(slot);
        }
        let bare = tight && self.is_too_much(slot, segment);
        let Some(flow) = self.table.at_mut(slot) else {
            return;
        };
        let Some(tcp) = &mut flow.tcp else { return };
        self.counters.received += 1;
        let before = tcp.received();
        let mut way = Way {
            host: &mut self.host,
            rim: &mut self.rim,
            peer: flow.peer,
            now,
            sink,
        };
        if bare {
            tcp.ingest_bare(&mut way, packet, segment);
        } else {
            tcp.ingest(&mut way, packet, segment);
        }
        // It is served as a new one if it was quiet: see `enqueue`.
        flow.heavy &= tick < flow.active + QUIET;
        flow.active = tick;
        let grew = tcp.received() > before;
        let has_room = flow.wants_room && tcp.room() >= tcp.send_capacity() / ROOM_SHARE;
        if has_room {
            flow.wants_room = false;
        }
        let reset = segment.flags().contains(TcpFlags::RST);
        if bare {
            self.tell_window(slot, true, sink);
        }
        self.charge(slot);
        self.settle(slot, Cause::Segment { reset }, tick);
        if grew || has_room {
            self.notify(slot);
        }
        self.enqueue(slot);
    }
}
