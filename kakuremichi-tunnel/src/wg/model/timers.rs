//! The timers of one peer (whitepaper, section 6), with the times that boringtun has.

use std::time::{Duration, Instant};

use super::SESSIONS;

const REKEY_AFTER: Duration = Duration::from_secs(120);
const REJECT_AFTER: Duration = Duration::from_secs(180);
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(10);
const COOKIE: Duration = Duration::from_secs(120);

/// Times since the tunnel was made, as of the last tick.
#[derive(Debug)]
pub(super) struct Timers {
    begin: Instant,
    now: Duration,
    is_initiator: bool,
    established: Duration,
    attempt: Duration,
    received: Duration,
    received_data: Duration,
    sent: Duration,
    sent_data: Duration,
    cookie: Duration,
    sessions: [Duration; SESSIONS],
    wants_keepalive: bool,
    wants_handshake: bool,
}

impl Timers {
    pub(super) const fn new(now: Instant) -> Self {
        let zero = Duration::ZERO;
        Self {
            begin: now,
            now: zero,
            is_initiator: false,
            established: zero,
            attempt: zero,
            received: zero,
            received_data: zero,
            sent: zero,
            sent_data: zero,
            cookie: zero,
            sessions: [zero; SESSIONS],
            wants_keepalive: false,
            wants_handshake: false,
        }
    }

    pub(super) fn clear(&mut self, now: Instant) {
        let now = now - self.begin;
        *self = Self {
            begin: self.begin,
            is_initiator: self.is_initiator,
            sessions: self.sessions,
            now,
            established: now,
            attempt: now,
            received: now,
            received_data: now,
            sent: now,
            sent_data: now,
            cookie: now,
            wants_keepalive: false,
            wants_handshake: false,
        };
    }

    /// Time has passed; tells which sessions are too old.
    pub(super) fn tick(&mut self, now: Instant) -> [bool; SESSIONS] {
        self.now = now - self.begin;
        let now = self.now;
        self.sessions.each_mut().map(|begin| {
            let reject = now - *begin > REJECT_AFTER;
            if reject {
                *begin = now;
            }
            reject
        })
    }

    pub(super) fn since_established(&self, now: Instant) -> Duration {
        now - self.begin - self.established
    }

    pub(super) fn sent(&mut self, data: bool) {
        self.wants_handshake = true;
        self.wants_keepalive = false;
        self.sent = self.now;
        if data {
            self.sent_data = self.now;
        }
    }

    /// Of data it is told twice: that something came, and that it was data.
    pub(super) const fn received(&mut self, data: bool) {
        if data {
            self.received_data = self.now;
        } else {
            self.wants_keepalive = true;
            self.wants_handshake = false;
            self.received = self.now;
        }
    }

    pub(super) fn initiated(&mut self, starts: bool) {
        if starts {
            self.attempt = self.now;
        }
        self.sent(false);
    }

    pub(super) const fn took_cookie(&mut self) {
        self.cookie = self.now;
    }

    pub(super) const fn established(&mut self, is_initiator: bool, index: u32) {
        self.is_initiator = is_initiator;
        self.established = self.now;
        self.sessions[index as usize % SESSIONS] = self.now;
    }

    pub(super) fn is_not_older(&self, one: u32, other: u32) -> bool {
        let age = |index: u32| self.sessions[index as usize % SESSIONS];
        age(one) >= age(other)
    }

    pub(super) fn is_cookie_stale(&self) -> bool {
        self.now - self.cookie >= COOKIE
    }

    pub(super) fn is_session_long_gone(&self) -> bool {
        self.now - self.established >= REJECT_AFTER * 3
    }

    pub(super) fn is_attempt_over(&self) -> bool {
        self.now - self.attempt >= REKEY_ATTEMPT
    }

    /// Whether to begin a handshake, or to repeat the one that began at `attempt`; and whether to send an
    /// empty packet.
    pub(super) fn due(&mut self, attempt: Option<Instant>, now: Instant) -> (bool, bool) {
        if let Some(sent) = attempt {
            return (now - sent >= REKEY_TIMEOUT, false);
        }
        let age = self.now - self.established;
        let mut initiate = self.is_initiator
            && (self.established < self.sent_data && age >= REKEY_AFTER
                || self.established < self.received_data && age >= REJECT_AFTER - KEEPALIVE - REKEY_TIMEOUT);
        let unanswered =
            self.sent_data > self.received && self.now - self.received >= KEEPALIVE + REKEY_TIMEOUT;
        if unanswered && std::mem::replace(&mut self.wants_handshake, false) {
            initiate = true;
        }
        let owed = self.received_data > self.sent && self.now - self.sent >= KEEPALIVE;
        let keepalive = !initiate && owed && std::mem::replace(&mut self.wants_keepalive, false);
        (initiate, keepalive)
    }
}
