//! Packets.

use super::{Input, MAX_OPERATIONS};
use crate::{
    packet::{Coalescer, Echo, IpPacket, Protocol},
    peer::PeerId,
};

/// Views of any packet, and the joining of several: nothing panics, a view never reaches out of its packet,
/// and what was joined is a packet again that holds the same data.
///
/// The input is packets, each behind its length in two bytes.
pub fn ip_packet(data: &[u8]) {
    let mut input = Input(data);
    let mut coalescer = Coalescer::new();
    let (mut came, mut left) = (0, 0);
    let peer = PeerId::new(0, 0);
    let mut handed = |_, packet: &[u8]| left += look(packet);
    for _ in 0..MAX_OPERATIONS {
        let Some(length) = input.word() else { break };
        let packet = input.take(length);
        came += look(packet);
        coalescer.slot()[..packet.len()].copy_from_slice(packet);
        coalescer.commit(Some((peer, packet.len())), &mut handed);
    }
    coalescer.flush(&mut handed);
    assert_eq!(came, left, "joining loses nothing");
}

/// Looks at all there is; returns how much data TCP carries in it.
fn look(bytes: &[u8]) -> usize {
    let Ok(packet) = IpPacket::parse(bytes) else {
        return 0;
    };
    assert!(packet.as_bytes().len() <= bytes.len());
    assert_eq!(
        packet.as_bytes().len(),
        packet.header_len() + packet.payload().len()
    );
    assert_eq!(packet.source().is_ipv4(), packet.destination().is_ipv4());
    if let Ok(tuple) = packet.five_tuple() {
        assert_eq!(tuple.reversed().reversed(), tuple);
    }
    if let Ok(echo) = Echo::parse(&packet) {
        // What was understood can be written, and is understood as the same.
        let mut out = vec![0; packet.as_bytes().len() + 64];
        let length = echo.write(packet.source(), packet.destination(), &mut out);
        let written = length.and_then(|length| IpPacket::parse(&out[..length]).ok());
        assert_eq!(written.and_then(|packet| Echo::parse(&packet).ok()), Some(echo));
    }
    match packet.tcp() {
        Ok(segment) => {
            assert_eq!(packet.protocol(), Protocol::Tcp);
            assert_eq!(
                segment.header_len() + segment.payload().len(),
                packet.payload().len()
            );
            assert_eq!(segment.options().len() + 20, segment.header_len());
            segment.payload().len()
        }
        Err(_) => 0,
    }
}
