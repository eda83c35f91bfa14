//! What stands for boringtun in large simulations: its messages, states and timers, without cryptography.
//!
//! Who may read or forge a message is not modelled: what a cipher protects is copied, and every tag is a
//! digest of what it covers. `wg/tests/scripts.rs` holds the model to boringtun, message by message.

#![expect(
    clippy::disallowed_methods,
    reason = "it reads the clock where boringtun does, which a simulation holds"
)]

mod handshake;
mod session;
mod timers;

use std::{
    hash::Hasher,
    net::IpAddr,
    time::{Duration, Instant},
};

use kakuremichi_core::{key::WireGuardKey, secret::Secret};
use rustc_hash::FxHasher;

use self::{handshake::Handshake, session::Session, timers::Timers};
use super::tunn::{self, DATA_OVERHEAD, HANDSHAKE_ROOM, Message, Proof, Received, Refusal, Tick};

/// How many sessions are kept, by the lowest bits of their indices.
const SESSIONS: usize = 8;
/// How long a cookie is good (whitepaper, section 5.4.7), in seconds as boringtun has it.
const COOKIE_REFRESH: u64 = 128;

/// As [`tunn::Identity`].
#[derive(Debug)]
pub(super) struct Identity {
    public: WireGuardKey,
    begin: Instant,
}

/// As [`tunn::Tunnel`].
#[derive(Debug)]
pub(super) struct Tunnel {
    ours: WireGuardKey,
    theirs: WireGuardKey,
    preshared: [u8; 32],
    handshake: Handshake,
    sessions: [Option<Session>; SESSIONS],
    /// The index of the session that is sent in.
    current: u32,
    timers: Timers,
    ready: bool,
}

/// Sixteen bytes that nobody makes by accident.
fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut out = [0; 16];
    for (half, seed) in out.chunks_mut(8).zip([1, 2]) {
        let mut hasher = FxHasher::default();
        hasher.write_u64(seed);
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        half.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    out
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// What proves that a handshake message was made for this receiver.
pub(super) fn mac1(receiver: &WireGuardKey, message: &[u8]) -> [u8; 16] {
    digest(&[b"mac1", receiver.as_bytes(), message])
}

/// The two MACs at the end of a handshake message.
fn macs(receiver: &WireGuardKey, cookie: Option<[u8; 16]>, message: &mut [u8]) -> [u8; 16] {
    let end = message.len() - 32;
    let first = mac1(receiver, &message[..end]);
    message[end..end + 16].copy_from_slice(&first);
    let second = cookie.map_or([0; 16], |cookie| digest(&[&cookie, &message[..end + 16]]));
    message[end + 16..].copy_from_slice(&second);
    first
}

impl Identity {
    pub(super) fn new(private: &Secret<[u8; 32]>) -> Self {
        Self {
            public: tunn::public_key(private),
            begin: Instant::now(),
        }
    }

    pub(super) const fn public_key(&self) -> WireGuardKey {
        self.public
    }

    pub(super) fn has_valid_mac1(&self, datagram: &[u8]) -> bool {
        match Message::of(datagram) {
            Some(Message::Initiation | Message::Response { .. }) => {
                let end = datagram.len() - 32;
                datagram[end..end + 16] == mac1(&self.public, &datagram[..end])
            }
            message => message.is_some(),
        }
    }

    pub(super) fn verify_mac2(&self, from: IpAddr, datagram: &[u8], out: &mut [u8; HANDSHAKE_ROOM]) -> Proof {
        if !self.has_valid_mac1(datagram) {
            return Proof::Invalid;
        }
        let period = self.begin.elapsed().as_secs() / COOKIE_REFRESH;
        let from = from.to_string();
        let cookie = digest(&[self.public.as_bytes(), &period.to_le_bytes(), from.as_bytes()]);
        let (message, second) = datagram.split_at(datagram.len() - 16);
        if second == digest(&[&cookie, message]) {
            return Proof::Proven;
        }
        let first = &message[message.len() - 16..];
        out[..64].fill(0);
        out[0] = 3;
        out[4..8].copy_from_slice(&datagram[4..8]);
        out[32..48].copy_from_slice(&cookie);
        out[48..64].copy_from_slice(&cookie_tag(&self.public, first, &cookie));
        Proof::Challenge(64)
    }

    pub(super) fn initiator(&self, datagram: &[u8]) -> Option<WireGuardKey> {
        if Message::of(datagram) != Some(Message::Initiation) {
            return None;
        }
        handshake::initiator(&self.public, datagram)
    }
}

fn cookie_tag(from: &WireGuardKey, first: &[u8], cookie: &[u8]) -> [u8; 16] {
    digest(&[b"cookie", from.as_bytes(), first, cookie])
}

impl Tunnel {
    pub(super) fn new(
        identity: &Identity,
        peer: &WireGuardKey,
        preshared: Option<&Secret<[u8; 32]>>,
        index: u32,
    ) -> Self {
        Self {
            ours: identity.public,
            theirs: *peer,
            preshared: preshared.map_or([0; 32], |key| *key.expose()),
            handshake: Handshake::new(index << 8),
            sessions: [const { None }; SESSIONS],
            current: 0,
            timers: Timers::new(Instant::now()),
            ready: false,
        }
    }

    pub(super) const fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn session_age(&self) -> Option<Duration> {
        self.slot(self.current).as_ref()?;
        Some(self.timers.since_established(Instant::now()))
    }

    pub(super) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        if !self.ready || out.len() < packet.len() + DATA_OVERHEAD {
            return None;
        }
        let session = self.sessions[self.current as usize % SESSIONS].as_mut()?;
        let length = session.seal(packet, out);
        self.timers.sent(!packet.is_empty());
        Some(length)
    }

    pub(super) fn initiate(&mut self, again: bool, out: &mut [u8; HANDSHAKE_ROOM]) -> Option<usize> {
        if self.handshake.is_in_progress() && !again {
            return None;
        }
        let now = Instant::now();
        if self.handshake.is_expired() {
            self.timers.clear(now);
        }
        let starts = !self.handshake.is_in_progress();
        self.handshake.initiate(&self.ours, &self.theirs, now, out);
        self.timers.initiated(starts);
        Some(out.len())
    }

    pub(super) fn receive(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<Received, Refusal> {
        let received = self.take(datagram, out);
        self.refresh();
        received
    }

    fn take(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<Received, Refusal> {
        let Some(message) = Message::of(datagram) else {
            return Err(Refusal::Forged);
        };
        if matches!(message, Message::Initiation | Message::Response { .. }) {
            let end = datagram.len() - 32;
            if datagram[end..end + 16] != mac1(&self.ours, &datagram[..end]) {
                return Err(Refusal::Forged);
            }
        }
        match message {
            Message::Initiation => {
                let (ours, theirs) = (self.ours, self.theirs);
                let session = self
                    .handshake
                    .respond(&ours, &theirs, &self.preshared, datagram, out)?;
                let index = session.index;
                *self.slot_mut(index) = Some(session);
                self.timers.received(false);
                self.timers.sent(false);
                self.timers.established(false, index);
                Ok(Received::Reply(92))
            }
            Message::Response { receiver } => {
                let (ours, theirs) = (self.ours, self.theirs);
                let mut session =
                    self.handshake
                        .complete(&ours, &theirs, &self.preshared, receiver, datagram)?;
                let length = session.seal(&[], out);
                *self.slot_mut(receiver) = Some(session);
                self.timers.received(false);
                self.timers.established(true, receiver);
                self.use_session(receiver);
                Ok(Received::Reply(length))
            }
            Message::Cookie { receiver } => {
                self.handshake.take_cookie(&self.theirs, receiver, datagram)?;
                self.timers.received(false);
                self.timers.took_cookie();
                Ok(Received::Nothing)
            }
            Message::Data { receiver } => {
                let session = self.slot_mut(receiver).as_mut().ok_or(Refusal::NoSession)?;
                let length = session.open(receiver, datagram, out)?;
                self.use_session(receiver);
                self.timers.received(false);
                let Some(length) = packet_length(&out[..length])? else {
                    return Ok(Received::Nothing);
                };
                self.timers.received(true);
                Ok(Received::Packet(length))
            }
        }
    }

    pub(super) fn tick(&mut self, out: &mut [u8; HANDSHAKE_ROOM]) -> Tick {
        let tick = self.update(out);
        self.refresh();
        tick
    }

    fn update(&mut self, out: &mut [u8; HANDSHAKE_ROOM]) -> Tick {
        let now = Instant::now();
        for (session, reject) in self.sessions.iter_mut().zip(self.timers.tick(now)) {
            if reject {
                *session = None;
            }
        }
        if self.handshake.is_expired() {
            return Tick::Expired;
        }
        if self.timers.is_cookie_stale() {
            self.handshake.forget_cookie();
        }
        let given_up = self.handshake.sent_at().is_some() && self.timers.is_attempt_over();
        if self.timers.is_session_long_gone() || given_up {
            self.handshake.expire();
            self.sessions = [const { None }; SESSIONS];
            self.timers.clear(now);
            return Tick::Expired;
        }
        let (initiate, keepalive) = self.timers.due(self.handshake.sent_at(), now);
        if initiate {
            return self.initiate(true, out).map_or(Tick::Idle, Tick::Send);
        }
        if !keepalive {
            return Tick::Idle;
        }
        // Without a session boringtun would begin a handshake for the sake of it.
        let Some(session) = self.sessions[self.current as usize % SESSIONS].as_mut() else {
            return self.initiate(false, out).map_or(Tick::Idle, Tick::Send);
        };
        let length = session.seal(&[], out);
        self.timers.sent(false);
        Tick::Send(length)
    }

    fn slot(&self, index: u32) -> &Option<Session> {
        &self.sessions[index as usize % SESSIONS]
    }

    fn slot_mut(&mut self, index: u32) -> &mut Option<Session> {
        &mut self.sessions[index as usize % SESSIONS]
    }

    /// The newer session is sent in, once it is known that the peer has it.
    fn use_session(&mut self, index: u32) {
        if index != self.current
            && (self.slot(self.current).is_none() || self.timers.is_not_older(index, self.current))
        {
            self.current = index;
        }
    }

    fn refresh(&mut self) {
        self.ready = self.slot(self.current).is_some();
    }
}

/// The length of the IP packet in what was opened; `None` of an empty one.
fn packet_length(packet: &[u8]) -> Result<Option<usize>, Refusal> {
    let half = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let length = match packet.first().map(|first| first >> 4) {
        None => return Ok(None),
        Some(4) if packet.len() >= 20 => half(2),
        Some(6) if packet.len() >= 40 => half(4) + 40,
        Some(_) => return Err(Refusal::Forged),
    };
    if length > packet.len() {
        return Err(Refusal::Forged);
    }
    Ok(Some(length))
}
