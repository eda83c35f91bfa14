//! UDP sessions: datagrams between two addresses, for as long as some pass. They have no rings, only a
//! place in a table.

use std::{collections::HashMap, fmt, net::SocketAddr};

use rustc_hash::FxHashMap;

use super::{
    flow::{Key, Seeded},
    wheel::Wheel,
};
use crate::peer::PeerId;

/// Names one UDP session of one [`Stack`](super::Stack). A name is never given twice: one that outlived
/// its session is harmless.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl SessionId {
    /// The slot of the table, dense from zero, below [`Limits::sessions`](super::Limits::sessions).
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session{}.{}", self.slot, self.generation)
    }
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: Key,
    pub(super) peer: PeerId,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// It ends when nothing passed for so many ticks.
    pub(super) idle: u64,
    /// The tick of the last datagram, in or out.
    pub(super) active: u64,
    /// The longest packet that passes the whole way, as far as is known.
    pub(super) mtu: usize,
    /// The engine was told that it is refused, and has not taken note of it.
    pub(super) refused: bool,
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    keys: HashMap<Key, u32, Seeded>,
    peers: FxHashMap<PeerId, usize>,
    /// Idle timers.
    wheel: Wheel,
    due: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    session: Option<Session>,
}

impl Sessions {
    pub(super) fn new(hasher: Seeded) -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            keys: HashMap::with_hasher(hasher),
            peers: FxHashMap::default(),
            wheel: Wheel::new(),
            due: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub(super) fn of_peer(&self, peer: PeerId) -> usize {
        self.peers.get(&peer).copied().unwrap_or_default()
    }

    pub(super) fn find(&self, key: &Key) -> Option<SessionId> {
        self.keys.get(key).map(|&slot| self.name(slot))
    }

    /// Adds a session whose key is not in the table.
    pub(super) fn insert(&mut self, session: Session) -> SessionId {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                session: None,
            });
            (self.slots.len() - 1) as u32
        });
        self.keys.insert(session.key, slot);
        *self.peers.entry(session.peer).or_default() += 1;
        self.wheel.set(slot, session.active + session.idle);
        self.slots[slot as usize].session = Some(session);
        self.name(slot)
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<Session> {
        let slot = self.slots.get_mut(id.slot())?;
        if slot.generation != id.generation {
            return None;
        }
        let session = slot.session.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.vacant.push(id.slot);
        self.wheel.clear(id.slot);
        self.keys.remove(&session.key);
        if let Some(count) = self.peers.get_mut(&session.peer) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&session.peer);
            }
        }
        Some(session)
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        let slot = self.slots.get(id.slot())?;
        slot.session.as_ref().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        let slot = self.slots.get_mut(id.slot())?;
        slot.session.as_mut().filter(|_| slot.generation == id.generation)
    }

    /// The sessions for which `wanted` holds.
    pub(super) fn select(&self, wanted: impl Fn(&Session) -> bool) -> Vec<SessionId> {
        let entries = self.slots.iter().zip(0..);
        entries
            .filter(|(slot, _)| slot.session.as_ref().is_some_and(&wanted))
            .map(|(_, slot)| self.name(slot))
            .collect()
    }

    /// A tick at or before the next one at which a session may have idled for too long.
    pub(super) fn next_timeout(&self) -> Option<u64> {
        self.wheel.next()
    }

    /// Appends the sessions that idled for too long to `idle`.
    pub(super) fn expire(&mut self, tick: u64, idle: &mut Vec<SessionId>) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(tick, &mut due);
        for slot in due.drain(..) {
            let session = self
                .slots
                .get(slot as usize)
                .and_then(|slot| slot.session.as_ref());
            let Some(until) = session.map(|session| session.active + session.idle) else {
                continue;
            };
            if until > tick {
                self.wheel.set(slot, until);
            } else {
                idle.push(self.name(slot));
            }
        }
        self.due = due;
    }

    fn name(&self, slot: u32) -> SessionId {
        SessionId {
            slot,
            generation: self.slots.get(slot as usize).map_or(0, |slot| slot.generation),
        }
    }
}
