//! What it sends.

use super::Hostile;
use crate::packet::{Echo, EchoKind, TcpFlags, fragment, write_udp};

/// The data of what is to be long, in bytes.
const LONG: usize = 1_200;

/// A kind of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Handshakes of somebody who does not know the gateway's key.
    WrongMac,
    /// Genuine initiations of the agent, without end.
    Initiations,
    /// The same from many places.
    ForgedSenders,
    /// Messages that came before.
    Replays,
    /// Datagrams of all lengths that are no messages, or none of a session.
    Garbage,
    /// Packets from addresses that are not the agent's.
    Foreign,
    /// SYNs to that port, which are never followed up.
    Syns(u16),
    /// SYNs to all ports.
    Scan,
    /// Flows to that port, on which nothing is said.
    Flows(u16),
    /// Segments of all kinds that belong to no flow, or to any.
    Segments(u16),
    /// Long datagrams to all ports, each from another one.
    Datagrams,
    /// The same to that port.
    Sessions(u16),
    /// Long echo requests.
    Echoes,
    /// Beginnings of datagrams of which the rest never comes.
    Fragments,
}

impl Hostile {
    pub(super) fn send_one(&mut self, attack: Attack) {
        let endpoint = self.aim;
        // No port repeats soon.
        let from = 1_024 + (self.number % 60_000) as u16;
        let any = 1 + (self.number % 65_535) as u16;
        match attack {
            Attack::WrongMac => {
                let mut message = [7; 148];
                message[..4].copy_from_slice(&[1, 0, 0, 0]);
                let _ = self.socket.send_to(&message, endpoint);
            }
            Attack::Initiations => {
                self.prepare(attack);
                let message = &self.initiations[self.number % self.initiations.len()];
                let _ = self.socket.send_to(message, endpoint);
            }
            Attack::ForgedSenders => {
                self.prepare(attack);
                let message = &self.initiations[self.number % self.initiations.len()];
                let sender = self.senders.get(self.number % self.senders.len().max(1));
                let _ = sender.unwrap_or(&self.socket).send_to(message, endpoint);
            }
            Attack::Replays => {
                if self.last.is_empty() {
                    return self.send_one(Attack::Echoes);
                }
                let _ = self.socket.send_to(&self.last, endpoint);
            }
            Attack::Garbage => {
                let length = self.random.next() as usize % 1_400;
                let kind = self.random.next() as u8 % 6;
                let datagram = &mut self.datagram[..length];
                datagram.fill(self.number as u8);
                let head = length.min(4);
                datagram[..head].copy_from_slice(&[kind, 0, 0, 0][..head]);
                let _ = self.socket.send_to(datagram, endpoint);
            }
            Attack::Foreign => {
                let other = (self.place.overlay, from).into();
                let ends = (other, (self.place.overlay, any).into());
                self.send_datagram(ends);
            }
            Attack::Syns(port) | Attack::Flows(port) => {
                self.send_segment(from, port, TcpFlags::SYN, 1_000, &[])
            }
            Attack::Scan => self.send_segment(from, any, TcpFlags::SYN, 1_000, &[]),
            Attack::Segments(port) => {
                let flags = TcpFlags::new(self.random.next() as u8);
                let number = self.random.next() as u32;
                // A few ports, so that some of them meet what others have begun.
                self.send_segment(from % 64, port, flags, number, &[7; 100]);
            }
            Attack::Datagrams => self.send_own(from, any),
            Attack::Sessions(port) => self.send_own(from, port),
            Attack::Echoes => {
                let echo = Echo {
                    kind: EchoKind::Request,
                    identifier: from,
                    sequence: any,
                    data: &[7; LONG],
                };
                let (own, other) = (self.place.own, self.place.overlay);
                if let Some(length) = echo.write(own, other, &mut self.packet) {
                    self.send(length);
                }
            }
            Attack::Fragments => self.send_fragment(from, any),
        }
    }

    fn send_own(&mut self, from: u16, to: u16) {
        let ends = ((self.place.own, from).into(), (self.place.overlay, to).into());
        self.send_datagram(ends);
    }

    fn send_datagram(&mut self, (from, to): (std::net::SocketAddr, std::net::SocketAddr)) {
        if let Some(length) = write_udp(from, to, &[], &[7; LONG], &mut self.packet) {
            self.send(length);
        }
    }

    /// The first part of a datagram of two.
    fn send_fragment(&mut self, from: u16, to: u16) {
        let ends = ((self.place.own, from).into(), (self.place.overlay, to).into());
        let mut whole = vec![0; 4_096];
        let Some(length) = write_udp(ends.0, ends.1, &[], &[7; 2 * LONG], &mut whole) else {
            return;
        };
        let (mut part, mut first) = (vec![0; 2_048], Vec::new());
        fragment(&whole[..length], 1_420, self.number as u32, &mut part, |piece| {
            if first.is_empty() {
                first = piece.to_vec();
            }
        });
        self.packet[..first.len()].copy_from_slice(&first);
        self.send(first.len());
    }
}
