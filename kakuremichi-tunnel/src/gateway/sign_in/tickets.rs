//! Which tickets were taken.

use std::collections::VecDeque;

use kakuremichi_core::time::Timestamp;
use rustc_hash::FxHashSet;

/// The tickets that are remembered; beyond, no other is taken until the time of some is over.
const TICKETS: usize = 65_536;

/// Tickets that were taken, for as long as somebody could show them again (LESSONS, advisory 12). Another gateway would
/// take one again, in the same browser, and give the same session.
#[derive(Debug, Default)]
pub(super) struct UsedTickets {
    ids: FxHashSet<[u8; 16]>,
    order: VecDeque<(Timestamp, [u8; 16])>,
}

/// A ticket was taken before, or too many were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It was taken before.
    Used,
    /// There is no room to remember it.
    Full,
}

impl UsedTickets {
    /// Takes a ticket, which nobody can show after `until`.
    pub(super) fn take(&mut self, id: [u8; 16], until: Timestamp, now: Timestamp) -> Result<(), NotTaken> {
        while let Some((over, old)) = self.order.front()
            && *over < now
        {
            self.ids.remove(old);
            self.order.pop_front();
        }
        if self.ids.contains(&id) {
            return Err(NotTaken::Used);
        }
        if self.ids.len() >= TICKETS {
            return Err(NotTaken::Full);
        }
        self.ids.insert(id);
        self.order.push_back((until, id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LESSONS, advisory 12: login tickets are single-use.
    #[test]
    fn a_ticket_is_taken_once() {
        let at = Timestamp::from_millis;
        let mut used = UsedTickets::default();
        assert_eq!(used.take([1; 16], at(10), at(0)), Ok(()));
        assert_eq!(used.take([1; 16], at(10), at(10)), Err(NotTaken::Used));
        // It cannot be shown any more, so nobody has to remember it.
        assert_eq!(used.take([2; 16], at(30), at(11)), Ok(()));
        assert_eq!(used.ids.len(), 1);
        for n in 0..TICKETS as u64 - 1 {
            let mut id = [0xff; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            assert_eq!(used.take(id, at(30), at(11)), Ok(()));
        }
        assert_eq!(used.take([3; 16], at(30), at(11)), Err(NotTaken::Full));
        assert_eq!(used.take([3; 16], at(50), at(31)), Ok(()));
    }
}
