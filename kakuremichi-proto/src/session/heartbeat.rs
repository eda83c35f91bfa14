//! Whether the other side is there. Both sides ping; each answers the newest ping that it has seen.

use std::time::{Duration, Instant};

use super::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, Timer};
use crate::message::{Ping, Pong};

#[derive(Debug)]
pub(super) struct Heartbeat {
    next_ping: Instant,
    /// The number of the newest ping.
    sent: u64,
    ping_due: bool,
    /// The oldest ping that is not answered.
    open: Option<Open>,
    /// The newest ping of the other side, if it is not answered. One answer is for all before it, so no
    /// flood of pings makes a queue.
    pong_due: Option<u64>,
    rtt: Option<Duration>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    sent_at: Instant,
}

/// The other side did not answer for [`HEARTBEAT_TIMEOUT`].
#[derive(Debug)]
pub(super) struct Silent;

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_ping: now + HEARTBEAT_INTERVAL,
            sent: 0,
            ping_due: false,
            open: None,
            pong_due: None,
            rtt: None,
        }
    }

    pub(super) fn handle_ping(&mut self, ping: Ping) {
        self.pong_due = Some(ping.number);
    }

    pub(super) fn handle_pong(&mut self, pong: Pong, now: Instant) {
        let Some(open) = &self.open else { return };
        // A number that was not sent, or was answered: a frame of another connection.
        if pong.number < open.number || pong.number > self.sent {
            return;
        }
        if pong.number == open.number {
            self.rtt = Some(now - open.sent_at);
        }
        self.open = (pong.number < self.sent).then_some(Open {
            number: pong.number + 1,
            sent_at: now,
        });
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), Silent> {
        if let Some(open) = &self.open
            && now >= open.sent_at + HEARTBEAT_TIMEOUT
        {
            return Err(Silent);
        }
        if now >= self.next_ping {
            self.next_ping = now + HEARTBEAT_INTERVAL;
            self.sent += 1;
            self.ping_due = true;
            self.open.get_or_insert(Open {
                number: self.sent,
                sent_at: now,
            });
        }
        Ok(())
    }

    pub(super) fn poll_pong(&mut self) -> Option<Pong> {
        self.pong_due.take().map(|number| Pong { number })
    }

    pub(super) fn poll_ping(&mut self) -> Option<Ping> {
        std::mem::take(&mut self.ping_due).then_some(Ping { number: self.sent })
    }

    pub(super) fn poll_timeout(&self) -> (Instant, Timer) {
        let ping = (self.next_ping, Timer::Ping);
        match &self.open {
            Some(open) => ping.min((open.sent_at + HEARTBEAT_TIMEOUT, Timer::Pong)),
            None => ping,
        }
    }

    pub(super) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }
}
