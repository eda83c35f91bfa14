//! ICMP echo: answered, and sent as a probe.

use std::{net::IpAddr, time::Instant};

use super::{Event, PacketSink, PingError, Stack, stack::is_host};
use crate::{
    packet::{Echo, EchoKind, IpPacket},
    peer::PeerId,
};

/// How many echo replies wait to be polled at most. Beyond, they are dropped and counted.
pub(super) const MAX_PONGS: usize = 1_024;

impl Stack {
    /// Sends an ICMP echo request; [`Event::Pong`] follows if it is answered. The stack keeps no
    /// record of it: time and match the answer by what it brings back.
    ///
    /// # Errors
    /// When the stack has no address of that family, or the payload is too long.
    pub fn ping(
        &mut self,
        peer: PeerId,
        destination: IpAddr,
        identifier: u16,
        sequence: u16,
        payload: &[u8],
        sink: &mut (impl PacketSink + ?Sized),
    ) -> Result<(), PingError> {
        let source = match destination {
            IpAddr::V4(_) => self.settings.ipv4.map(IpAddr::from),
            IpAddr::V6(_) => self.settings.ipv6.map(IpAddr::from),
        };
        let source = source.ok_or(PingError::NoAddress)?;
        let echo = Echo {
            kind: EchoKind::Request,
            identifier,
            sequence,
            data: payload,
        };
        if self.rim.echo(&echo, source, destination, peer, sink) {
            Ok(())
        } else {
            Err(PingError::TooLong)
        }
    }

    pub(super) fn handle_icmp(
        &mut self,
        peer: PeerId,
        packet: &IpPacket<'_>,
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        let (source, destination) = (packet.source(), packet.destination());
        if !self.is_ours(destination) {
            self.counters.not_ours += 1;
            return;
        }
        let Ok(echo) = Echo::parse(packet) else {
            if !self.handle_error(peer, packet) {
                self.counters.unhandled += 1;
            }
            return;
        };
        match echo.kind {
            EchoKind::Request => {
                let tick = self.host.tick(now);
                if !self.answers.may_echo(peer, tick) {
                    self.counters.answers_shed += 1;
                    return;
                }
                let reply = Echo {
                    kind: EchoKind::Reply,
                    ..echo
                };
                if is_host(source) && self.rim.echo(&reply, destination, source, peer, sink) {
                    self.counters.echoed += 1;
                }
            }
            EchoKind::Reply if self.pongs < MAX_PONGS => {
                let mut payload = [0; 8];
                for (to, from) in payload.iter_mut().zip(echo.data) {
                    *to = *from;
                }
                self.pongs += 1;
                let (identifier, sequence) = (echo.identifier, echo.sequence);
                self.events.push_back(Event::Pong {
                    peer,
                    from: source,
                    identifier,
                    sequence,
                    payload,
                });
            }
            EchoKind::Reply => self.counters.lost_pongs += 1,
        }
    }
}
