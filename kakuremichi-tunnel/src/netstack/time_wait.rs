//! Flows that ended but whose last segments may still be under way (TIME-WAIT, RFC 9293 section
//! 3.6.1): only their addresses and sequence numbers are kept, not their sockets and rings.

use std::collections::{HashMap, VecDeque};

use super::flow::{Key, Seeded};
use crate::packet::{TcpFlags, TcpSegment};

/// How long an ended flow is remembered, in ticks (milliseconds). Shorter than twice the maximum
/// segment life of RFC 9293: a tunnel replays nothing and holds nothing back for long, so all that
/// has to fit in are retransmissions of the peer's FIN.
const TIME_WAIT: u64 = 10_000;

/// The ended flows. Beyond the capacity the oldest is forgotten.
#[derive(Debug)]
pub(super) struct TimeWait {
    capacity: usize,
    entries: HashMap<Key, Entry, Seeded>,
    /// In the order in which they end, which is that of their beginning. A key may have been taken
    /// out, or taken out and put in again, since.
    order: VecDeque<(u64, Key)>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    until: u64,
    /// The next sequence number of ours.
    next: u32,
    /// The next sequence number of the peer's.
    expected: u32,
}

/// What a segment for an ended flow calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing is known of the flow.
    Unknown,
    /// The flow is known, and nothing is to be said.
    Silence,
    /// An acknowledgement.
    Acknowledge { sequence: u32, acknowledgement: u32 },
}

impl TimeWait {
    pub(super) fn new(capacity: usize, hasher: Seeded) -> Self {
        Self {
            capacity,
            entries: HashMap::with_hasher(hasher),
            order: VecDeque::new(),
        }
    }

    /// Remembers a flow: the sequence numbers that ours and the peer's next segment would have.
    pub(super) fn insert(&mut self, key: Key, next: u32, expected: u32, tick: u64) {
        self.expire(tick);
        while self.order.len() >= self.capacity {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            self.forget(oldest);
        }
        let until = tick + TIME_WAIT;
        self.entries.insert(
            key,
            Entry {
                until,
                next,
                expected,
            },
        );
        self.order.push_back((until, key));
    }

    /// What to do about a segment that belongs to no flow. A SYN that starts a new connection with
    /// the same addresses ends the wait (RFC 9293 section 3.10.7.4): then nothing is known any more.
    pub(super) fn answer(&mut self, key: &Key, segment: &TcpSegment<'_>, tick: u64) -> Answer {
        if self.entries.is_empty() {
            return Answer::Unknown;
        }
        self.expire(tick);
        let Some(entry) = self.entries.get(key) else {
            return Answer::Unknown;
        };
        let acknowledge = Answer::Acknowledge {
            sequence: entry.next,
            acknowledgement: entry.expected,
        };
        let flags = segment.flags();
        let ahead = segment.sequence().wrapping_sub(entry.expected);
        if flags.contains(TcpFlags::RST) {
            // Only an exact one counts (RFC 5961): it answers our acknowledgement of a new SYN.
            if ahead == 0 {
                self.entries.remove(key);
            }
            return Answer::Silence;
        }
        if flags.contains(TcpFlags::SYN) {
            if !flags.contains(TcpFlags::ACK) && ahead < 1 << 31 {
                self.entries.remove(key);
                return Answer::Unknown;
            }
            return acknowledge;
        }
        if flags.contains(TcpFlags::FIN) || !segment.payload().is_empty() {
            return acknowledge;
        }
        Answer::Silence
    }

    fn expire(&mut self, tick: u64) {
        while let Some(&(until, key)) = self.order.front() {
            if until > tick {
                break;
            }
            self.order.pop_front();
            self.forget((until, key));
        }
    }

    fn forget(&mut self, (until, key): (u64, Key)) {
        if self.entries.get(&key).is_some_and(|entry| entry.until == until) {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::PeerId;

    fn key(port: u16) -> Key {
        let local = "[fd00::1]:80".parse().unwrap();
        Key::new(
            PeerId::new(0, 0),
            local,
            std::net::SocketAddr::new("fd00::2".parse().unwrap(), port),
        )
    }

    fn segment(flags: TcpFlags, sequence: u32) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
        bytes[12] = 5 << 4;
        for bit in 0..8 {
            let one = [
                TcpFlags::FIN,
                TcpFlags::SYN,
                TcpFlags::RST,
                TcpFlags::PSH,
                TcpFlags::ACK,
            ]
            .get(bit);
            if one.is_some_and(|one| flags.contains(*one)) {
                bytes[13] |= 1 << bit;
            }
        }
        bytes
    }

    fn answer(wait: &mut TimeWait, port: u16, flags: TcpFlags, sequence: u32, tick: u64) -> Answer {
        wait.answer(
            &key(port),
            &TcpSegment::parse(&segment(flags, sequence)).unwrap(),
            tick,
        )
    }

    const AGAIN: Answer = Answer::Acknowledge {
        sequence: 100,
        acknowledgement: 200,
    };

    fn one() -> TimeWait {
        let mut wait = TimeWait::new(2, Seeded::new(1));
        wait.insert(key(1), 100, 200, 0);
        wait
    }

    #[test]
    fn a_repeated_fin_is_acknowledged_until_the_wait_ends() {
        let mut wait = one();
        let fin = TcpFlags::FIN.union(TcpFlags::ACK);
        assert_eq!(answer(&mut wait, 1, fin, 199, TIME_WAIT - 1), AGAIN);
        assert_eq!(
            answer(&mut wait, 1, TcpFlags::ACK, 200, TIME_WAIT - 1),
            Answer::Silence
        );
        assert_eq!(answer(&mut wait, 2, fin, 199, TIME_WAIT - 1), Answer::Unknown);
        assert_eq!(answer(&mut wait, 1, fin, 199, TIME_WAIT), Answer::Unknown);
    }

    #[test]
    fn a_new_connection_ends_the_wait_and_an_old_syn_does_not() {
        let mut wait = one();
        assert_eq!(answer(&mut wait, 1, TcpFlags::SYN, 199, 1), AGAIN);
        assert_eq!(answer(&mut wait, 1, TcpFlags::SYN, 201, 1), Answer::Unknown);
        assert_eq!(answer(&mut wait, 1, TcpFlags::FIN, 199, 1), Answer::Unknown);
    }

    #[test]
    fn only_an_exact_reset_ends_the_wait() {
        let mut wait = one();
        assert_eq!(answer(&mut wait, 1, TcpFlags::RST, 199, 1), Answer::Silence);
        assert_eq!(answer(&mut wait, 1, TcpFlags::FIN, 199, 1), AGAIN);
        assert_eq!(answer(&mut wait, 1, TcpFlags::RST, 200, 1), Answer::Silence);
        assert_eq!(answer(&mut wait, 1, TcpFlags::FIN, 199, 1), Answer::Unknown);
    }

    #[test]
    fn beyond_the_capacity_the_oldest_is_forgotten() {
        let mut wait = one();
        wait.insert(key(2), 100, 200, 1);
        wait.insert(key(3), 100, 200, 2);
        assert_eq!(answer(&mut wait, 1, TcpFlags::FIN, 199, 3), Answer::Unknown);
        assert_eq!(answer(&mut wait, 2, TcpFlags::FIN, 199, 3), AGAIN);
        assert_eq!(answer(&mut wait, 3, TcpFlags::FIN, 199, 3), AGAIN);
    }

    #[test]
    fn a_flow_that_waits_anew_waits_the_whole_time() {
        let mut wait = one();
        assert_eq!(answer(&mut wait, 1, TcpFlags::SYN, 201, 1), Answer::Unknown);
        wait.insert(key(1), 100, 200, 5_000);
        assert_eq!(answer(&mut wait, 1, TcpFlags::FIN, 199, TIME_WAIT), AGAIN);
        assert_eq!(
            answer(&mut wait, 1, TcpFlags::FIN, 199, TIME_WAIT + 5_000),
            Answer::Unknown
        );
    }
}
