//! Timers: a hierarchical hashed wheel of ticks, one timer per key.
//!
//! Setting a timer to a later time is free: it stays where it is and is moved when its old time
//! comes. That is what a retransmission timer does with nearly every packet.

use std::array;

/// Slots per level: each level's occupancy is one word.
const SLOTS: usize = 64;
const SLOT_BITS: u32 = SLOTS.trailing_zeros();
const LEVELS: usize = 5;
/// The longest a timer can be set to, twelve days of milliseconds: one slot of the last level less
/// than a whole turn, so that no timer lands in the slot that is current. Longer ones run out early.
const LONGEST: u64 = (SLOTS as u64 - 1) << (SLOT_BITS * (LEVELS as u32 - 1));

const NIL: u32 = u32::MAX;

/// The timers. Keys are small numbers: the table is as large as the largest key.
#[derive(Debug)]
pub(super) struct Wheel {
    /// Everything up to this tick has run out.
    now: u64,
    nodes: Vec<Node>,
    heads: [[u32; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// When the timer runs out.
    deadline: u64,
    /// When it is looked at, never after the deadline.
    at: u64,
    previous: u32,
    next: u32,
    /// The list it is on.
    place: Option<(u8, u8)>,
}

const UNSET: Node = Node {
    deadline: 0,
    at: 0,
    previous: NIL,
    next: NIL,
    place: None,
};

impl Wheel {
    /// A wheel without timers at tick zero.
    pub(super) fn new() -> Self {
        Self {
            now: 0,
            nodes: Vec::new(),
            heads: array::from_fn(|_| [NIL; SLOTS]),
            occupied: [0; LEVELS],
        }
    }

    /// Sets the key's timer, or moves it. A deadline that has passed runs out with the next tick.
    pub(super) fn set(&mut self, key: u32, deadline: u64) {
        let index = key as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, UNSET);
        }
        let deadline = deadline.clamp(self.now + 1, self.now + LONGEST);
        let node = &mut self.nodes[index];
        node.deadline = deadline;
        if node.place.is_some() && node.at <= deadline {
            return;
        }
        self.unlink(key);
        self.link(key, deadline);
    }

    /// Takes the key's timer away.
    pub(super) fn clear(&mut self, key: u32) {
        if (key as usize) < self.nodes.len() {
            self.unlink(key);
        }
    }

    /// A tick at or before the next deadline; nothing runs out earlier.
    pub(super) fn next(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, tick)| tick)
    }

    /// Moves on to `now` and appends the keys whose timers ran out to `due`, which unsets them.
    pub(super) fn expire(&mut self, now: u64, due: &mut Vec<u32>) {
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > now {
                break;
            }
            self.now = self.now.max(tick);
            let mut key = self.heads[level][slot];
            self.heads[level][slot] = NIL;
            self.occupied[level] &= !(1 << slot);
            while key != NIL {
                let node = &mut self.nodes[key as usize];
                let next = node.next;
                let deadline = node.deadline;
                *node = UNSET;
                if deadline <= self.now {
                    due.push(key);
                } else {
                    self.nodes[key as usize].deadline = deadline;
                    self.link(key, deadline);
                }
                key = next;
            }
        }
        self.now = self.now.max(now);
    }

    /// The first list that is not empty, and the tick at which it has to be looked at.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        // Lists of a lower level lie before those of a higher one: the higher ones begin where the
        // lower level's turn ends.
        let level = self.occupied.iter().position(|&occupied| occupied != 0)?;
        let shift = SLOT_BITS * level as u32;
        let current = (self.now >> shift) as usize % SLOTS;
        let ahead = self.occupied[level].rotate_right(current as u32).trailing_zeros() as usize;
        let slot = (current + ahead) % SLOTS;
        let turn = self.now >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        let mut tick = turn + ((slot as u64) << shift);
        if slot < current {
            // Only on the last level, whose slots are used again in the next turn.
            tick += 1 << (shift + SLOT_BITS);
        }
        Some((level, slot, tick))
    }

    fn link(&mut self, key: u32, at: u64) {
        // The highest bit in which it differs from now tells the level.
        let differs = (at ^ self.now) | (SLOTS as u64 - 1);
        let level = ((63 - differs.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1) as usize;
        let slot = (at >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        let head = self.heads[level][slot];
        let node = &mut self.nodes[key as usize];
        node.at = at;
        node.previous = NIL;
        node.next = head;
        node.place = Some((level as u8, slot as u8));
        if head != NIL {
            self.nodes[head as usize].previous = key;
        }
        self.heads[level][slot] = key;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, key: u32) {
        let node = self.nodes[key as usize];
        let Some((level, slot)) = node.place else { return };
        let (level, slot) = (usize::from(level), usize::from(slot));
        if node.next != NIL {
            self.nodes[node.next as usize].previous = node.previous;
        }
        if node.previous != NIL {
            self.nodes[node.previous as usize].next = node.next;
        } else {
            self.heads[level][slot] = node.next;
            if node.next == NIL {
                self.occupied[level] &= !(1 << slot);
            }
        }
        self.nodes[key as usize].place = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What a wheel is meant to do, one timer after the other.
    #[derive(Default)]
    struct Naive {
        now: u64,
        timers: BTreeMap<u32, u64>,
    }

    impl Naive {
        fn expire(&mut self, now: u64) -> Vec<u32> {
            self.now = self.now.max(now);
            let due: Vec<u32> = self
                .timers
                .iter()
                .filter(|(_, at)| **at <= self.now)
                .map(|(key, _)| *key)
                .collect();
            for key in &due {
                self.timers.remove(key);
            }
            due
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u32, u64),
        Clear(u32),
        Advance(u64),
        /// To the tick the wheel asks for, as an event loop does.
        Follow,
    }

    fn distance() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..3_u64,
            0..100_u64,
            0..5_000_u64,
            0..500_000_u64,
            0..LONGEST + 10
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..40_u32, distance()).prop_map(|(key, after)| Step::Set(key, after)),
            1 => (0..40_u32).prop_map(Step::Clear),
            2 => distance().prop_map(Step::Advance),
            3 => Just(Step::Follow),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_list(start in 0..1_000_000_u64, steps in prop::collection::vec(step(), 1..200)) {
            let mut wheel = Wheel::new();
            let mut naive = Naive::default();
            wheel.expire(start, &mut Vec::new());
            naive.expire(start);
            for step in steps {
                let now = match step {
                    Step::Set(key, after) => {
                        wheel.set(key, naive.now + after);
                        naive.timers.insert(key, naive.now + after.clamp(1, LONGEST));
                        continue;
                    }
                    Step::Clear(key) => {
                        wheel.clear(key);
                        naive.timers.remove(&key);
                        continue;
                    }
                    Step::Advance(by) => naive.now + by,
                    Step::Follow => match wheel.next() {
                        Some(tick) => tick,
                        None => {
                            prop_assert!(naive.timers.is_empty());
                            continue;
                        }
                    },
                };
                if let Some(first) = naive.timers.values().min() {
                    prop_assert!(wheel.next().is_some_and(|tick| tick <= *first));
                }
                let mut due = Vec::new();
                wheel.expire(now, &mut due);
                due.sort_unstable();
                prop_assert_eq!(due, naive.expire(now));
            }
            // An event loop that follows the wheel gets to every timer, and does not spin.
            let mut rounds = 0;
            while let Some(tick) = wheel.next() {
                prop_assert!(tick > naive.now);
                let mut due = Vec::new();
                wheel.expire(tick, &mut due);
                due.sort_unstable();
                prop_assert_eq!(due, naive.expire(tick));
                rounds += 1;
                prop_assert!(rounds <= 40 * (LEVELS + 1) * 2);
            }
            prop_assert!(naive.timers.is_empty());
        }
    }

    #[test]
    fn moving_a_timer_later_leaves_it_in_place() {
        let mut wheel = Wheel::new();
        wheel.set(0, 10);
        let before = wheel.nodes[0].place;
        wheel.set(0, 2_000);
        assert_eq!(wheel.nodes[0].place, before);
        let mut due = Vec::new();
        wheel.expire(1_999, &mut due);
        assert!(due.is_empty());
        wheel.expire(2_000, &mut due);
        assert_eq!(due, [0]);
    }
}
