//! One session.

use std::collections::BTreeSet;

use super::{digest, word};
use crate::wg::tunn::Refusal;

/// So far behind the newest one a counter may be.
const WINDOW: u64 = 1_024;

#[derive(Debug)]
pub(super) struct Session {
    /// Ours, and the peer's.
    pub(super) index: u32,
    peer: u32,
    sending: [u8; 16],
    receiving: [u8; 16],
    counter: u64,
    /// The counter expected next, and those within the window that have come.
    next: u64,
    seen: BTreeSet<u64>,
}

impl Session {
    /// With the key of both; `first` has the one that began the handshake.
    pub(super) fn new(index: u32, peer: u32, key: &[u8; 16], first: bool) -> Self {
        let keys = [digest(&[key, b"initiator"]), digest(&[key, b"responder"])];
        Self {
            index,
            peer,
            sending: keys[usize::from(!first)],
            receiving: keys[usize::from(first)],
            counter: 0,
            next: 0,
            seen: BTreeSet::new(),
        }
    }

    pub(super) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> usize {
        let end = 16 + packet.len();
        out[..8].copy_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]);
        out[4..8].copy_from_slice(&self.peer.to_le_bytes());
        out[8..16].copy_from_slice(&self.counter.to_le_bytes());
        out[16..end].copy_from_slice(packet);
        let tag = digest(&[&self.sending, &out[8..end]]);
        out[end..end + 16].copy_from_slice(&tag);
        self.counter += 1;
        end + 16
    }

    /// Returns the length of what is in `out`.
    pub(super) fn open(&mut self, receiver: u32, datagram: &[u8], out: &mut [u8]) -> Result<usize, Refusal> {
        if receiver != self.index {
            return Err(Refusal::NoSession);
        }
        let counter = u64::from(word(datagram, 8)) | u64::from(word(datagram, 12)) << 32;
        let old = counter < self.next && (counter + WINDOW < self.next || self.seen.contains(&counter));
        if old {
            return Err(Refusal::Replay);
        }
        let (data, tag) = datagram.split_at(datagram.len() - 16);
        if tag != digest(&[&self.receiving, &data[8..]]) {
            return Err(Refusal::Forged);
        }
        self.seen.insert(counter);
        self.next = self.next.max(counter + 1);
        while self.seen.first().is_some_and(|first| first + WINDOW < self.next) {
            self.seen.pop_first();
        }
        out[..data.len() - 16].copy_from_slice(&data[16..]);
        Ok(data.len() - 16)
    }
}
