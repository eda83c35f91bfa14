//! From the netstack into the batch.

use std::time::Instant;

use super::udp::Udp;
use crate::{
    netstack::PacketSink,
    peer::PeerId,
    wg::{DatagramSink, Device, OuterPath, Sealed},
};

/// Where the netstack's packets go: into the batch, encrypted.
pub(super) struct Egress<'a> {
    pub(super) device: &'a mut Device,
    pub(super) udp: &'a mut Udp,
    pub(super) now: Instant,
}

impl PacketSink for Egress<'_> {
    fn packet(&mut self, peer: PeerId, packet: &[u8]) {
        let mut aside = Aside {
            bytes: [0; INITIATION],
            to: None,
        };
        match self
            .device
            .seal(peer, packet, self.udp.tail(), &mut aside, self.now)
        {
            Sealed::Datagram { to, length } => self.udp.commit(to, length),
            Sealed::Queued => {
                if let Some((to, length)) = aside.to {
                    self.udp.datagram(to, &aside.bytes[..length]);
                }
            }
            Sealed::Dropped => {}
        }
    }

    fn ready(&self) -> bool {
        !self.udp.is_blocked()
    }
}

/// The length of WireGuard's initiation.
const INITIATION: usize = 148;

/// Holds the initiation that sealing a packet may lead to, while the batch is in use.
struct Aside {
    bytes: [u8; INITIATION],
    to: Option<(OuterPath, usize)>,
}

impl DatagramSink for Aside {
    fn datagram(&mut self, to: OuterPath, datagram: &[u8]) {
        if let Some(room) = self.bytes.get_mut(..datagram.len()) {
            room.copy_from_slice(datagram);
            self.to = Some((to, datagram.len()));
        }
    }
}
