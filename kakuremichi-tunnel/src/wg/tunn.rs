//! The only file that knows boringtun. It reads the clock and the random source itself; a faster
//! cipher, or a model for simulations, would be put here.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use boringtun::{
    noise::{
        Packet, Tunn, TunnResult, errors::WireGuardError, handshake::parse_handshake_anon,
        rate_limiter::RateLimiter,
    },
    x25519::{PublicKey, StaticSecret},
};
use kakuremichi_core::{key::WireGuardKey, secret::Secret};

/// What a data packet is longer than the IP packet in it.
pub(super) const DATA_OVERHEAD: usize = 32;
/// Room for any handshake message, the longest of which has 148 bytes.
pub(super) const HANDSHAKE_ROOM: usize = 148;

/// The four messages of WireGuard, told apart by type and length (whitepaper, section 5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Initiation,
    Response { receiver: u32 },
    Cookie { receiver: u32 },
    Data { receiver: u32 },
}

impl Message {
    /// `None` when the bytes are no message of WireGuard.
    pub(super) fn of(datagram: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = datagram.get(at..at + 4)?;
            Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        Some(match (word(0)?, datagram.len()) {
            (1, 148) => Self::Initiation,
            (2, 92) => Self::Response { receiver: word(8)? },
            (3, 64) => Self::Cookie { receiver: word(4)? },
            (4, DATA_OVERHEAD..) => Self::Data { receiver: word(4)? },
            _ => return None,
        })
    }
}

/// Our own key, and what is checked of a handshake message before any peer is looked up.
pub(super) struct Identity {
    private: StaticSecret,
    public: PublicKey,
    /// Checks `mac1` and admits everything: the limiter in front decides.
    open: Arc<RateLimiter>,
    /// Checks `mac2` and answers with a cookie when it is missing or stale.
    strict: RateLimiter,
}

/// What `mac2` says about a handshake message.
pub(super) enum Proof {
    /// The sender received a cookie at the address it sends from.
    Proven,
    /// It did not; the first so many bytes of the buffer are the cookie reply for it.
    Challenge(usize),
    /// Not even a message.
    Invalid,
}

impl Identity {
    pub(super) fn new(private: &Secret<[u8; 32]>) -> Self {
        let private = StaticSecret::from(*private.expose());
        let public = PublicKey::from(&private);
        Self {
            open: Arc::new(RateLimiter::new(&public, u64::MAX)),
            strict: RateLimiter::new(&public, 0),
            private,
            public,
        }
    }

    /// The same with another key.
    #[expect(
        clippy::unused_self,
        reason = "its stand-ins in tests are to beget their like"
    )]
    pub(super) fn another(&self, private: &Secret<[u8; 32]>) -> Self {
        Self::new(private)
    }

    pub(super) fn public_key(&self) -> WireGuardKey {
        WireGuardKey::from_bytes(self.public.to_bytes())
    }

    /// Whether the sender of a handshake message knows our public key.
    pub(super) fn has_valid_mac1(&self, datagram: &[u8]) -> bool {
        self.open
            .verify_packet(None, datagram, &mut [0; HANDSHAKE_ROOM])
            .is_ok()
    }

    /// Whether the sender of a handshake message receives at the address it sends from.
    pub(super) fn verify_mac2(&self, from: IpAddr, datagram: &[u8], out: &mut [u8; HANDSHAKE_ROOM]) -> Proof {
        match self.strict.verify_packet(Some(from), datagram, out) {
            Ok(_) => Proof::Proven,
            Err(TunnResult::WriteToNetwork(cookie)) => Proof::Challenge(cookie.len()),
            Err(_) => Proof::Invalid,
        }
    }

    /// Who claims to have sent this initiation; proven only once the peer's tunnel received it.
    pub(super) fn initiator(&self, datagram: &[u8]) -> Option<WireGuardKey> {
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(datagram) else {
            return None;
        };
        let half = parse_handshake_anon(&self.private, &self.public, &initiation).ok()?;
        Some(WireGuardKey::from_bytes(half.peer_static_public))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("public", &self.public_key())
            .finish_non_exhaustive()
    }
}

/// The handshake, the sessions and the timers of one peer.
pub(super) struct Tunnel {
    // 11 kB: boxed with its peer.
    tunn: Tunn,
    /// Whether there is a session to send in. boringtun would queue what has none by itself.
    ready: bool,
}

/// What came out of an authenticated datagram.
pub(super) enum Received {
    /// An IP packet of so many bytes.
    Packet(usize),
    /// Nothing to hand on: an empty packet, or a cookie.
    Nothing,
    /// A handshake message of so many bytes to be sent back.
    Reply(usize),
}

/// Why a datagram was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Received before, or too old to tell.
    Replay,
    /// Of no session or handshake that is known.
    NoSession,
    /// The tag is wrong, or the inner packet is none.
    Forged,
}

/// What the timers ask for.
pub(super) enum Tick {
    /// Nothing.
    Idle,
    /// A message of so many bytes is to be sent.
    Send(usize),
    /// Attempts at a handshake have ended (90 s), or the last session is long gone (540 s).
    Expired,
}

impl Tunnel {
    /// `index`: the upper 24 bits of our receiver indices.
    pub(super) fn new(
        identity: &Identity,
        peer: &WireGuardKey,
        preshared: Option<&Secret<[u8; 32]>>,
        index: u32,
    ) -> Self {
        let tunn = Tunn::new(
            identity.private.clone(),
            PublicKey::from(*peer.as_bytes()),
            preshared.map(|key| *key.expose()),
            // Ours: boringtun's ends when a handshake expires, and queues what it sends without one.
            None,
            index,
            Some(Arc::clone(&identity.open)),
        );
        Self { tunn, ready: false }
    }

    /// Whether packets can be sealed now.
    pub(super) const fn is_ready(&self) -> bool {
        self.ready
    }

    /// How long ago the handshake of the current session was.
    pub(super) fn session_age(&self) -> Option<Duration> {
        self.tunn.time_since_last_handshake()
    }

    /// Encrypts a packet into `out`; `None` without a session, or when `out` has not
    /// [`DATA_OVERHEAD`] bytes more than `packet`.
    pub(super) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        if !self.ready || out.len() < packet.len() + DATA_OVERHEAD {
            return None;
        }
        match self.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }

    /// Writes an initiation to `out`; `None` when one is under way and `again` is not set.
    pub(super) fn initiate(&mut self, again: bool, out: &mut [u8; HANDSHAKE_ROOM]) -> Option<usize> {
        match self.tunn.format_handshake_initiation(out, again) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }

    /// Takes a datagram that names this tunnel. `out` must be as long as the datagram, and have
    /// [`HANDSHAKE_ROOM`].
    pub(super) fn receive(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<Received, Refusal> {
        let received = match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                // The hot path: a packet that opened belongs to a session, so there is one.
                self.ready = true;
                return Ok(Received::Packet(packet.len()));
            }
            TunnResult::WriteToNetwork(datagram) => Ok(Received::Reply(datagram.len())),
            TunnResult::Done => Ok(Received::Nothing),
            TunnResult::Err(error) => Err(match error {
                WireGuardError::InvalidCounter
                | WireGuardError::DuplicateCounter
                | WireGuardError::WrongTai64nTimestamp => Refusal::Replay,
                WireGuardError::NoCurrentSession
                | WireGuardError::WrongIndex
                | WireGuardError::UnexpectedPacket => Refusal::NoSession,
                _ => Refusal::Forged,
            }),
        };
        self.refresh();
        received
    }

    /// Runs the timers; to be called a few times per second. `out` as for [`receive`](Self::receive).
    pub(super) fn tick(&mut self, out: &mut [u8; HANDSHAKE_ROOM]) -> Tick {
        let tick = match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(datagram) => Tick::Send(datagram.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => Tick::Expired,
            _ => Tick::Idle,
        };
        self.refresh();
        tick
    }

    fn refresh(&mut self) {
        // Some if and only if the current session exists.
        self.ready = self.tunn.time_since_last_handshake().is_some();
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// The public half of a private key.
pub(super) fn public_key(private: &Secret<[u8; 32]>) -> WireGuardKey {
    let private = StaticSecret::from(*private.expose());
    WireGuardKey::from_bytes(PublicKey::from(&private).to_bytes())
}
