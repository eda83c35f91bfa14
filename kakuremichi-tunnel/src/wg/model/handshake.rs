//! The handshake of one peer.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kakuremichi_core::key::WireGuardKey;

use super::{cookie_tag, digest, macs, session::Session, word};
use crate::wg::tunn::{HANDSHAKE_ROOM, Refusal};

/// How many there were.
static EPHEMERALS: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Clone, Copy)]
enum State {
    None,
    Sent {
        index: u32,
        ephemeral: [u8; 32],
        at: Instant,
    },
    Expired,
}

#[derive(Debug)]
pub(super) struct Handshake {
    /// The upper 24 bits stay, the lower 8 count.
    index: u32,
    state: State,
    /// The one before: its answer may come late.
    previous: State,
    /// Of the newest initiation that was answered.
    newest: [u8; 12],
    /// Of the last message sent: its index and first MAC.
    last: Option<(u32, [u8; 16])>,
    cookie: Option<[u8; 16]>,
    /// The time of day when it was made, and the other clock then: only that one is looked at later.
    begin: (Duration, Instant),
}

/// What both ends can work out, and nobody else.
fn secret(one: &WireGuardKey, other: &WireGuardKey) -> [u8; 16] {
    let (low, high) = if one.as_bytes() < other.as_bytes() {
        (one, other)
    } else {
        (other, one)
    };
    digest(&[low.as_bytes(), high.as_bytes()])
}

fn static_tag(to: &WireGuardKey, datagram: &[u8]) -> [u8; 16] {
    digest(&[b"static", to.as_bytes(), &datagram[8..72]])
}

fn stamp_tag(secret: &[u8; 16], datagram: &[u8]) -> [u8; 16] {
    digest(&[b"stamp", secret, &datagram[8..100]])
}

/// Who claims to have sent an initiation to `to`.
pub(super) fn initiator(to: &WireGuardKey, datagram: &[u8]) -> Option<WireGuardKey> {
    let key: [u8; 32] = datagram[40..72].try_into().unwrap();
    (datagram[72..88] == static_tag(to, datagram)).then(|| WireGuardKey::from_bytes(key))
}

impl Handshake {
    pub(super) fn new(index: u32) -> Self {
        let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self {
            begin: (day, Instant::now()),
            index,
            state: State::None,
            previous: State::None,
            newest: [0; 12],
            last: None,
            cookie: None,
        }
    }

    pub(super) const fn is_in_progress(&self) -> bool {
        matches!(self.state, State::Sent { .. })
    }

    pub(super) const fn is_expired(&self) -> bool {
        matches!(self.state, State::Expired)
    }

    pub(super) const fn expire(&mut self) {
        self.state = State::Expired;
        self.previous = State::Expired;
    }

    pub(super) const fn sent_at(&self) -> Option<Instant> {
        match self.state {
            State::Sent { at, .. } => Some(at),
            State::None | State::Expired => None,
        }
    }

    pub(super) const fn forget_cookie(&mut self) {
        self.cookie = None;
    }

    fn next_index(&mut self) -> u32 {
        self.index = self.index & !0xff | u32::from((self.index as u8).wrapping_add(1));
        self.index
    }

    /// The time of day, as initiations have it: seconds and nanoseconds.
    fn stamp(&self) -> [u8; 12] {
        let time = self.begin.0 + self.begin.1.elapsed();
        let mut out = [0; 12];
        out[..8].copy_from_slice(&time.as_secs().to_be_bytes());
        out[8..].copy_from_slice(&time.subsec_nanos().to_be_bytes());
        out
    }

    /// Never the same twice, and that is all that matters of it.
    fn ephemeral(ours: &WireGuardKey) -> [u8; 32] {
        let number = EPHEMERALS.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        let half = |label| digest(&[label, ours.as_bytes(), &number]);
        let mut out = [0; 32];
        out[..16].copy_from_slice(&half(b"low"));
        out[16..].copy_from_slice(&half(b"hig"));
        out
    }

    pub(super) fn initiate(
        &mut self,
        ours: &WireGuardKey,
        theirs: &WireGuardKey,
        now: Instant,
        out: &mut [u8; HANDSHAKE_ROOM],
    ) {
        let index = self.next_index();
        let ephemeral = Self::ephemeral(ours);
        out.fill(0);
        out[0] = 1;
        out[4..8].copy_from_slice(&index.to_le_bytes());
        out[8..40].copy_from_slice(&ephemeral);
        out[40..72].copy_from_slice(ours.as_bytes());
        let tag = static_tag(theirs, out);
        out[72..88].copy_from_slice(&tag);
        out[88..100].copy_from_slice(&self.stamp());
        let tag = stamp_tag(&secret(ours, theirs), out);
        out[100..116].copy_from_slice(&tag);
        self.previous = self.state;
        self.state = State::Sent {
            index,
            ephemeral,
            at: now,
        };
        self.last = Some((index, macs(theirs, self.cookie, out)));
    }

    pub(super) fn respond(
        &mut self,
        ours: &WireGuardKey,
        theirs: &WireGuardKey,
        preshared: &[u8; 32],
        datagram: &[u8],
        out: &mut [u8],
    ) -> Result<Session, Refusal> {
        if initiator(ours, datagram) != Some(*theirs)
            || datagram[100..116] != stamp_tag(&secret(ours, theirs), datagram)
        {
            return Err(Refusal::Forged);
        }
        let stamp: [u8; 12] = datagram[88..100].try_into().unwrap();
        if stamp <= self.newest {
            return Err(Refusal::Replay);
        }
        self.newest = stamp;
        self.previous = std::mem::replace(&mut self.state, State::None);
        let index = self.next_index();
        let peer = word(datagram, 4);
        let ephemeral = Self::ephemeral(ours);
        let out = &mut out[..92];
        out.fill(0);
        out[0] = 2;
        out[4..8].copy_from_slice(&index.to_le_bytes());
        out[8..12].copy_from_slice(&datagram[4..8]);
        out[12..44].copy_from_slice(&ephemeral);
        let key = digest(&[&datagram[8..40], &ephemeral, &secret(ours, theirs), preshared]);
        out[44..60].copy_from_slice(&digest(&[b"nothing", &key]));
        self.last = Some((index, macs(theirs, self.cookie, out)));
        Ok(Session::new(index, peer, &key, false))
    }

    pub(super) fn complete(
        &mut self,
        ours: &WireGuardKey,
        theirs: &WireGuardKey,
        preshared: &[u8; 32],
        receiver: u32,
        datagram: &[u8],
    ) -> Result<Session, Refusal> {
        let sent = |state: &State| match state {
            State::Sent { index, ephemeral, .. } if *index == receiver => Some(*ephemeral),
            _ => None,
        };
        let (ephemeral, late) = match (sent(&self.state), sent(&self.previous)) {
            (Some(ephemeral), _) => (ephemeral, false),
            (None, Some(ephemeral)) => (ephemeral, true),
            (None, None) => return Err(Refusal::NoSession),
        };
        let key = digest(&[&ephemeral, &datagram[12..44], &secret(ours, theirs), preshared]);
        if datagram[44..60] != digest(&[b"nothing", &key]) {
            return Err(Refusal::Forged);
        }
        *(if late { &mut self.previous } else { &mut self.state }) = State::None;
        Ok(Session::new(receiver, word(datagram, 4), &key, true))
    }

    pub(super) fn take_cookie(
        &mut self,
        theirs: &WireGuardKey,
        receiver: u32,
        datagram: &[u8],
    ) -> Result<(), Refusal> {
        let Some((_, first)) = self.last.filter(|(index, _)| *index == receiver) else {
            return Err(Refusal::NoSession);
        };
        let cookie: [u8; 16] = datagram[32..48].try_into().unwrap();
        // The nonce is covered as well: it is zero.
        if datagram[8..32] != [0; 24] || datagram[48..64] != cookie_tag(theirs, &first, &cookie) {
            return Err(Refusal::Forged);
        }
        self.cookie = Some(cookie);
        Ok(())
    }
}
