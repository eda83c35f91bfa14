//! Datagrams that arrived at one shard and belong to another.
//!
//! Initiations of a peer that another shard owns, and everything where the kernel cannot be told which
//! shard a datagram is for. They are copied into a list per shard; a batch of them costs one lock and
//! one wake-up, and no allocation once the lists have their size.

use std::{
    io,
    net::UdpSocket,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::command::Inbox;
use crate::wg::{Elsewhere, OuterPath};

/// Datagrams that wait for one shard. One more is dropped and counted, as by a full socket.
const DATAGRAMS: usize = 4096;
/// The bytes of such datagrams; beyond, the same.
const BYTES: usize = 2 << 20;

/// All shards of a node, as they know each other.
#[derive(Debug)]
pub(super) struct Siblings {
    shards: Vec<Sibling>,
    /// More descriptors of all UDP sockets: as long as one shard runs, the kernel's numbers for the
    /// sockets of the others stay theirs.
    _sockets: Vec<UdpSocket>,
}

#[derive(Debug)]
struct Sibling {
    inbox: Arc<Inbox>,
    waiting: Mutex<Parcels>,
    /// Whether something waits: spares a lock in most turns.
    any: AtomicBool,
}

/// Datagrams, one behind the other.
#[derive(Debug, Default)]
struct Parcels {
    bytes: Vec<u8>,
    list: Vec<Parcel>,
}

/// One datagram.
#[derive(Debug, Clone, Copy)]
struct Parcel {
    from: OuterPath,
    length: usize,
    admitted: bool,
}

impl Siblings {
    /// Makes the shards with these mailboxes and sockets known to each other.
    pub(super) fn new(inboxes: Vec<Arc<Inbox>>, sockets: &[Vec<UdpSocket>]) -> io::Result<Self> {
        let spare = if inboxes.len() > 1 { sockets } else { &sockets[..0] };
        let sockets = spare.iter().flatten().map(UdpSocket::try_clone);
        Ok(Self {
            _sockets: sockets.collect::<io::Result<_>>()?,
            shards: inboxes
                .into_iter()
                .map(|inbox| Sibling {
                    inbox,
                    waiting: Mutex::default(),
                    any: AtomicBool::new(false),
                })
                .collect(),
        })
    }

    /// Has all shards stop: one of them is broken.
    pub(super) fn orphan(&self) {
        for shard in &self.shards {
            shard.inbox.orphan();
        }
    }
}

impl Sibling {
    fn lock(&self) -> MutexGuard<'_, Parcels> {
        // Nothing that is done under the lock panics half way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One shard's end.
#[derive(Debug)]
pub(super) struct Handover {
    siblings: Arc<Siblings>,
    own: usize,
    /// What goes to each shard when the batch ends.
    out: Vec<Parcels>,
    taken: Parcels,
    /// Datagrams that were handed to other shards.
    pub(super) handed: u64,
    /// Datagrams that were dropped, since too many waited for their shard.
    pub(super) dropped: u64,
}

impl Handover {
    pub(super) fn new(siblings: Arc<Siblings>, own: usize) -> Self {
        Self {
            out: siblings.shards.iter().map(|_| Parcels::default()).collect(),
            siblings,
            own,
            taken: Parcels::default(),
            handed: 0,
            dropped: 0,
        }
    }

    /// All shards.
    pub(super) const fn siblings(&self) -> &Arc<Siblings> {
        &self.siblings
    }

    /// Adds a datagram to what goes to another shard.
    pub(super) fn put(&mut self, to: Elsewhere, from: OuterPath, datagram: &[u8]) {
        match self.out.get_mut(usize::from(to.shard)) {
            Some(out) if out.has_room(datagram.len()) => {
                out.bytes.extend_from_slice(datagram);
                out.list.push(Parcel {
                    from,
                    length: datagram.len(),
                    admitted: to.admitted,
                });
            }
            _ => self.dropped += 1,
        }
    }

    /// Hands over what was added.
    pub(super) fn flush(&mut self) {
        for (shard, out) in self.siblings.shards.iter().zip(&mut self.out) {
            if out.list.is_empty() {
                continue;
            }
            let total = out.list.len();
            let moved = shard.lock().append(out);
            self.handed += moved as u64;
            self.dropped += (total - moved) as u64;
            shard.any.store(true, Ordering::Release);
            shard.inbox.wake();
        }
    }

    /// Gives what others handed to this shard to `open`, with whether it was admitted.
    pub(super) fn take(&mut self, mut open: impl FnMut(OuterPath, &[u8], bool)) {
        let Some(own) = self.siblings.shards.get(self.own) else {
            return;
        };
        if !own.any.swap(false, Ordering::AcqRel) {
            return;
        }
        std::mem::swap(&mut *own.lock(), &mut self.taken);
        let mut rest = self.taken.bytes.as_slice();
        for parcel in &self.taken.list {
            let (datagram, behind) = rest.split_at(parcel.length);
            rest = behind;
            open(parcel.from, datagram, parcel.admitted);
        }
        self.taken.clear();
    }
}

impl Parcels {
    fn has_room(&self, length: usize) -> bool {
        self.list.len() < DATAGRAMS && self.bytes.len() + length <= BYTES
    }

    /// Takes what there is room for from `other`, and empties it; returns how many.
    fn append(&mut self, other: &mut Self) -> usize {
        let (mut count, mut length) = (0, 0);
        for parcel in &other.list {
            if self.list.len() + count >= DATAGRAMS || self.bytes.len() + length + parcel.length > BYTES {
                break;
            }
            count += 1;
            length += parcel.length;
        }
        self.list.extend_from_slice(&other.list[..count]);
        self.bytes.extend_from_slice(&other.bytes[..length]);
        other.clear();
        count
    }

    fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (Handover, Handover) {
        let inboxes = vec![Arc::new(Inbox::new(1)), Arc::new(Inbox::new(1))];
        let siblings = Arc::new(Siblings::new(inboxes, &[]).unwrap());
        (
            Handover::new(Arc::clone(&siblings), 0),
            Handover::new(siblings, 1),
        )
    }

    fn to(shard: u8, admitted: bool) -> Elsewhere {
        Elsewhere { shard, admitted }
    }

    #[test]
    fn datagrams_arrive_as_they_were_given() {
        let (mut one, mut two) = two();
        let from: OuterPath = "192.0.2.1:7".parse::<std::net::SocketAddr>().unwrap().into();
        one.put(to(1, true), from, b"first");
        one.put(to(1, false), from, b"second one");
        two.take(|_, _, _| panic!("nothing was handed over yet"));
        one.flush();
        let mut taken = Vec::new();
        two.take(|path, datagram, admitted| taken.push((path, datagram.to_vec(), admitted)));
        assert_eq!(
            taken,
            [
                (from, b"first".to_vec(), true),
                (from, b"second one".to_vec(), false)
            ]
        );
        two.take(|_, _, _| panic!("once is enough"));
        assert_eq!((one.handed, one.dropped), (2, 0));
        one.put(to(2, false), from, b"to nobody");
        assert_eq!(one.dropped, 1);
    }

    /// DESIGN invariant 7: a shard that does not take what is its own costs no memory.
    #[test]
    fn a_shard_that_takes_nothing_overflows() {
        let (mut one, mut two) = two();
        let from: OuterPath = "192.0.2.1:7".parse::<std::net::SocketAddr>().unwrap().into();
        for _ in 0..DATAGRAMS / 64 + 1 {
            (0..64).for_each(|_| one.put(to(1, false), from, &[7; 100]));
            one.flush();
        }
        assert_eq!((one.handed, one.dropped), (DATAGRAMS as u64, 64));
        let mut count = 0;
        two.take(|_, _, _| count += 1);
        assert_eq!(count, DATAGRAMS);
        for _ in 0..40 {
            one.put(to(1, false), from, &[7; 65_000]);
            one.flush();
        }
        assert_eq!(one.dropped, 64 + 8);
    }
}
