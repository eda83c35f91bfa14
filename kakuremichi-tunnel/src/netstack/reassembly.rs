//! Datagrams that come in fragments, until they are whole.

use std::net::IpAddr;

use crate::{packet::Fragment, peer::PeerId};

/// The datagrams of which parts are kept at a time, of all peers and of one. Beyond either the oldest of
/// the same peer is dropped and counted, and where that peer has none, the new one: a fragment that was
/// lost must not stand in the way of datagrams that are whole.
const MAX_PARTIAL: usize = 256;
const MAX_PARTIAL_PER_PEER: usize = 32;

/// How long the parts of a datagram are kept, in ticks (milliseconds). RFC 8200 has a minute; a tunnel
/// holds nothing back for so long, and who sent the datagram has long sent it again.
const LIFETIME: u64 = 5_000;

/// The parts that a datagram may come in: 65,535 bytes at the least MTU are 54.
const MAX_PARTS: usize = 64;

/// The datagrams that are not whole yet, oldest first. Memory is at most 64 KiB for each.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    partial: Vec<Partial>,
    /// Datagrams that were dropped because parts were missing, did not fit each other, or there were too
    /// many.
    pub(super) dropped: u64,
}

#[derive(Debug)]
struct Partial {
    peer: PeerId,
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    until: u64,
    data: Vec<u8>,
    /// What there is of it, as beginnings and ends, in order and without overlap.
    parts: Vec<(usize, usize)>,
    /// Its length, once the last part is there.
    length: Option<usize>,
}

impl Reassembly {
    /// Takes a fragment; returns what the whole carries when it was the last one missing.
    pub(super) fn take(&mut self, peer: PeerId, fragment: &Fragment<'_>, tick: u64) -> Option<Vec<u8>> {
        self.expire(tick);
        let known = self.partial.iter().position(|partial| {
            partial.identification == fragment.identification
                && partial.peer == peer
                && partial.source == fragment.source
                && partial.destination == fragment.destination
        });
        let at = match known {
            Some(at) => at,
            None => self.begin(peer, fragment, tick)?,
        };
        match self.partial[at].add(fragment) {
            Added::Incomplete => None,
            Added::Complete => Some(self.partial.remove(at).data),
            Added::Contradiction => {
                self.partial.remove(at);
                self.dropped += 1;
                None
            }
        }
    }

    /// Forgets what a peer began.
    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        self.partial.retain(|partial| partial.peer != peer);
    }

    fn expire(&mut self, tick: u64) {
        let old = self.partial.partition_point(|partial| partial.until <= tick);
        self.dropped += old as u64;
        self.partial.drain(..old);
    }

    /// Makes room for a datagram, and tells where it is.
    fn begin(&mut self, peer: PeerId, fragment: &Fragment<'_>, tick: u64) -> Option<usize> {
        let of_peer = self.partial.iter().filter(|partial| partial.peer == peer).count();
        if of_peer >= MAX_PARTIAL_PER_PEER || self.partial.len() >= MAX_PARTIAL {
            self.dropped += 1;
            let oldest = self.partial.iter().position(|partial| partial.peer == peer)?;
            self.partial.remove(oldest);
        }
        self.partial.push(Partial {
            peer,
            source: fragment.source,
            destination: fragment.destination,
            identification: fragment.identification,
            until: tick + LIFETIME,
            data: Vec::new(),
            parts: Vec::new(),
            length: None,
        });
        Some(self.partial.len() - 1)
    }
}

enum Added {
    Incomplete,
    Complete,
    Contradiction,
}

impl Partial {
    fn add(&mut self, fragment: &Fragment<'_>) -> Added {
        let (begin, end) = (fragment.offset, fragment.offset + fragment.data.len());
        let place = self.parts.partition_point(|part| part.0 < begin);
        if self.parts.get(place) == Some(&(begin, end)) {
            // The network duplicated it.
            return Added::Incomplete;
        }
        // Fragments that overlap are an attack, or nonsense (RFC 5722).
        let before = place.checked_sub(1).and_then(|place| self.parts.get(place));
        let overlaps = before.is_some_and(|part| part.1 > begin)
            || self.parts.get(place).is_some_and(|part| part.0 < end);
        let beyond = self.length.is_some_and(|length| end > length || !fragment.more);
        let behind = !fragment.more && self.parts.last().is_some_and(|part| part.1 > end);
        if overlaps || beyond || behind || self.parts.len() >= MAX_PARTS {
            return Added::Contradiction;
        }
        if !fragment.more {
            self.length = Some(end);
        }
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[begin..end].copy_from_slice(fragment.data);
        self.parts.insert(place, (begin, end));
        let have: usize = self.parts.iter().map(|part| part.1 - part.0).sum();
        if self.length == Some(have) {
            Added::Complete
        } else {
            Added::Incomplete
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{IpPacket, UdpDatagram, fragment, write_udp};

    fn peer(number: u32) -> PeerId {
        PeerId::new(number, 0)
    }

    /// The fragments of a datagram of `length` bytes.
    fn fragments(v4: bool, length: usize, identification: u32) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (source, destination) = if v4 {
            ("192.0.2.1:7".parse().unwrap(), "192.0.2.2:8".parse().unwrap())
        } else {
            ("[fd00::1]:7".parse().unwrap(), "[fd00::2]:8".parse().unwrap())
        };
        let data: Vec<u8> = (0..length).map(|at| at as u8 ^ (at >> 8) as u8).collect();
        let mut packet = vec![0; 65_535];
        let length = write_udp(source, destination, &[], &data, &mut packet).unwrap();
        let mut cut = Vec::new();
        fragment(
            &packet[..length],
            1_400,
            identification,
            &mut [0; 1_400],
            |part| {
                cut.push(part.to_vec());
            },
        );
        (cut, data)
    }

    fn take(reassembly: &mut Reassembly, peer: PeerId, bytes: &[u8], tick: u64) -> Option<Vec<u8>> {
        reassembly.take(peer, &Fragment::parse(bytes).unwrap(), tick)
    }

    proptest! {
        /// Whatever the order, and whatever comes twice: what is whole is what was sent.
        #[test]
        fn fragments_in_any_order_make_the_datagram(
            v4 in any::<bool>(),
            length in 1_400..60_000_usize,
            order in any::<u64>(),
        ) {
            let (mut parts, data) = fragments(v4, length, 5);
            let mut random = crate::random::SplitMix64::new(order);
            for at in (1..parts.len()).rev() {
                parts.swap(at, (random.next() % (at as u64 + 1)) as usize);
            }
            let mut reassembly = Reassembly::default();
            let mut whole = None;
            let last = parts.len() - 1;
            for (at, part) in parts.iter().enumerate() {
                prop_assert!(part.len() <= 1_400 && IpPacket::parse(part).is_err() == v4);
                prop_assert!(Fragment::is_one(part));
                whole = take(&mut reassembly, peer(1), part, 0);
                prop_assert_eq!(whole.is_some(), at == last);
                if at < last {
                    prop_assert!(take(&mut reassembly, peer(1), part, 0).is_none());
                }
            }
            let whole = whole.unwrap();
            let datagram = UdpDatagram::parse(&whole).unwrap();
            prop_assert_eq!(datagram.payload(), &data[..]);
            let first = Fragment::parse(&parts[0]).unwrap();
            prop_assert!(datagram.verify(first.source, first.destination));
            prop_assert!(reassembly.partial.is_empty());
        }
    }

    #[test]
    fn fragments_of_two_peers_or_two_datagrams_are_not_mixed() {
        let (one, _) = fragments(false, 2_000, 1);
        let (other, _) = fragments(false, 2_000, 2);
        let mut reassembly = Reassembly::default();
        assert!(take(&mut reassembly, peer(1), &one[0], 0).is_none());
        assert!(take(&mut reassembly, peer(1), &other[1], 0).is_none());
        assert!(take(&mut reassembly, peer(2), &one[1], 0).is_none());
        assert!(take(&mut reassembly, peer(1), &one[1], 0).is_some());
        reassembly.remove_peer(peer(2));
        assert_eq!(reassembly.partial.len(), 1);
    }

    /// RFC 5722: what overlaps is dropped whole.
    #[test]
    fn fragments_that_overlap_are_dropped() {
        let (parts, _) = fragments(false, 4_000, 1);
        let mut moved = parts[1].clone();
        let place = u16::from_be_bytes([moved[42], moved[43]]) - 8;
        moved[42..44].copy_from_slice(&place.to_be_bytes());
        let mut reassembly = Reassembly::default();
        assert!(take(&mut reassembly, peer(1), &parts[0], 0).is_none());
        assert!(take(&mut reassembly, peer(1), &moved, 0).is_none());
        assert_eq!((reassembly.partial.len(), reassembly.dropped), (0, 1));
    }

    #[test]
    fn what_stays_incomplete_is_dropped_in_time_and_by_number() {
        let mut reassembly = Reassembly::default();
        for number in 0..100 {
            let (parts, _) = fragments(false, 2_000, number);
            assert!(take(&mut reassembly, peer(1), &parts[0], 0).is_none());
        }
        assert_eq!(reassembly.partial.len(), MAX_PARTIAL_PER_PEER);
        assert_eq!(reassembly.dropped, 100 - MAX_PARTIAL_PER_PEER as u64);
        // The newest are still there.
        let (parts, _) = fragments(false, 2_000, 99);
        assert!(take(&mut reassembly, peer(1), &parts[1], LIFETIME - 1).is_some());
        let (parts, _) = fragments(false, 2_000, 98);
        assert!(take(&mut reassembly, peer(1), &parts[1], LIFETIME).is_none());
        assert_eq!(reassembly.partial.len(), 1);
    }

    #[test]
    fn one_peer_cannot_take_the_room_of_all() {
        let mut reassembly = Reassembly::default();
        for number in 0..MAX_PARTIAL as u32 {
            let (parts, _) = fragments(false, 2_000, number);
            let from = peer(number / (MAX_PARTIAL_PER_PEER as u32));
            assert!(take(&mut reassembly, from, &parts[0], 0).is_none());
        }
        assert_eq!((reassembly.partial.len(), reassembly.dropped), (MAX_PARTIAL, 0));
        let (parts, _) = fragments(false, 2_000, 7);
        assert!(take(&mut reassembly, peer(99), &parts[0], 0).is_none());
        assert_eq!((reassembly.partial.len(), reassembly.dropped), (MAX_PARTIAL, 1));
    }
}
