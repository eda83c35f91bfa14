//! What Control says to a gateway about a visitor.

use std::time::Duration;

use kakuremichi_core::{
    auth::Strength,
    id::{ServiceId, SessionId, UserId},
    key::SigningKey,
    name::Hostname,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{
    SignedError,
    signed::{self, Labels},
};
use crate::identity::{Signer, Verifier, constant_time_eq};

/// How long a ticket is good.
pub const TICKET_LIFE: Duration = Duration::from_secs(60);
/// How much the clocks of Control and a gateway may differ.
pub(super) const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

const LABELS: Labels = Labels {
    plain: b"kakuremichi sign-in ticket v1\0",
    dated: b"kakuremichi sign-in ticket v2\0",
};

/// Says who the visitor is that a gateway sent to Control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Random; a gateway takes it once.
    pub id: [u8; 16],
    /// The service that was asked for.
    pub service: ServiceId,
    /// The host at which it was asked for: nowhere else is the ticket good.
    pub host: Hostname,
    /// SHA-256 of the secret that the browser has in a cookie of the host: in no other is the ticket good.
    pub binding: [u8; 32],
    /// Who it is.
    pub user: UserId,
    /// The person's session at Control.
    pub session: SessionId,
    /// When that session ends.
    pub session_expires: Timestamp,
    /// How strongly the person signed in.
    pub strength: Strength,
    /// When the person signed in, or confirmed it; only in a ticket for a gateway that asked for it.
    pub authenticated: Option<Timestamp>,
    /// When the ticket was made.
    pub made: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Body {
    id: [u8; 16],
    service: [u8; 16],
    host: String,
    binding: [u8; 32],
    user: [u8; 16],
    session: [u8; 16],
    session_expires: i64,
    strength: u8,
    made: i64,
}

impl Ticket {
    /// The text for the browser.
    #[must_use]
    pub fn seal(&self, control: &dyn Signer) -> String {
        let body = Body {
            id: self.id,
            service: *self.service.as_bytes(),
            host: self.host.as_str().to_owned(),
            binding: self.binding,
            user: *self.user.as_bytes(),
            session: *self.session.as_bytes(),
            session_expires: self.session_expires.as_millis(),
            strength: write_strength(self.strength),
            made: self.made.as_millis(),
        };
        signed::seal_dated(LABELS, body, self.authenticated, control)
    }

    /// The binding of a ticket that is still to be verified: where to look for the browser's secret.
    #[must_use]
    pub fn presumed_binding(text: &str) -> Option<[u8; 32]> {
        signed::peek_dated::<Body>(text).map(|body| body.binding)
    }

    /// Reads a ticket that a browser shows at `host`, with the hash of the secret in its cookie.
    ///
    /// # Errors
    /// When it was not signed with one of Control's `keys`, is for another host or browser, or not of this time.
    pub fn open<'a>(
        text: &str,
        keys: impl IntoIterator<Item = &'a SigningKey>,
        verifier: &dyn Verifier,
        host: &Hostname,
        binding: &[u8; 32],
        now: Timestamp,
    ) -> Result<Self, SignedError> {
        let (body, authenticated): (Body, _) = signed::open_dated(LABELS, text, keys, verifier)?;
        let ticket = Self {
            id: body.id,
            service: ServiceId::from_bytes(body.service),
            host: body.host.parse().map_err(|_| SignedError::Malformed)?,
            binding: body.binding,
            user: UserId::from_bytes(body.user),
            session: SessionId::from_bytes(body.session),
            session_expires: Timestamp::from_millis(body.session_expires),
            strength: read_strength(body.strength)?,
            authenticated,
            made: Timestamp::from_millis(body.made),
        };
        if ticket.host != *host {
            return Err(SignedError::Host);
        }
        if !constant_time_eq(&ticket.binding, binding) {
            return Err(SignedError::Browser);
        }
        if ticket.made > now.after(CLOCKS_DIFFER) {
            return Err(SignedError::Early);
        }
        if now > ticket.made.after(TICKET_LIFE + CLOCKS_DIFFER) || ticket.session_expires <= now {
            return Err(SignedError::Expired);
        }
        Ok(ticket)
    }
}

pub(super) const fn write_strength(strength: Strength) -> u8 {
    match strength {
        Strength::OneFactor => 1,
        Strength::TwoFactors => 2,
        Strength::PhishingResistant => 3,
    }
}

pub(super) const fn read_strength(strength: u8) -> Result<Strength, SignedError> {
    match strength {
        1 => Ok(Strength::OneFactor),
        2 => Ok(Strength::TwoFactors),
        3 => Ok(Strength::PhishingResistant),
        _ => Err(SignedError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::sha256,
        testing::{ToyKeys, ToyVerifier},
    };

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    const fn key(n: u8) -> ToyKeys {
        ToyKeys([n; 32])
    }

    fn public(key: &ToyKeys) -> SigningKey {
        SigningKey::from_bytes(*key.public_key().as_bytes())
    }

    fn ticket() -> Ticket {
        Ticket {
            id: [1; 16],
            service: ServiceId::from_bytes([2; 16]),
            host: "app.example.net".parse().unwrap(),
            binding: sha256(b"secret"),
            user: UserId::from_bytes([3; 16]),
            session: SessionId::from_bytes([4; 16]),
            session_expires: NOW.after(Duration::from_secs(3600)),
            strength: Strength::TwoFactors,
            authenticated: None,
            made: NOW,
        }
    }

    /// LESSONS, advisory 12: login tickets are bound to the browser and to the host.
    #[test]
    fn a_ticket_is_good_at_its_host_in_its_browser_for_a_while() {
        let control = key(1);
        let keys = [public(&control)];
        let text = ticket().seal(&control);
        let host: Hostname = "app.example.net".parse().unwrap();
        let other: Hostname = "other.example.net".parse().unwrap();
        let open = |text: &str, host, secret: &[u8], now| {
            Ticket::open(text, &keys, &ToyVerifier, host, &sha256(secret), now)
        };
        assert_eq!(open(&text, &host, b"secret", NOW), Ok(ticket()));
        assert_eq!(open(&text, &other, b"secret", NOW), Err(SignedError::Host));
        assert_eq!(open(&text, &host, b"another", NOW), Err(SignedError::Browser));
        let late = NOW.after(TICKET_LIFE + CLOCKS_DIFFER + Duration::from_millis(1));
        assert_eq!(open(&text, &host, b"secret", late), Err(SignedError::Expired));
        let early = Timestamp::from_millis(NOW.as_millis() - 60_001);
        assert_eq!(open(&text, &host, b"secret", early), Err(SignedError::Early));
        assert_eq!(Ticket::presumed_binding(&text), Some(sha256(b"secret")));
        let dated = Ticket {
            authenticated: Some(NOW),
            ..ticket()
        };
        let dated_text = dated.seal(&control);
        assert_eq!(open(&dated_text, &host, b"secret", NOW), Ok(dated));
        assert_eq!(Ticket::presumed_binding(&dated_text), Some(sha256(b"secret")));
        let stranger = ticket().seal(&key(2));
        assert_eq!(
            open(&stranger, &host, b"secret", NOW),
            Err(SignedError::UnknownKey)
        );
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(open(&changed, &host, b"secret", NOW).is_err(), "{at}");
            assert!(open(&text[..at], &host, b"secret", NOW).is_err());
        }
        assert!(open(&"A".repeat(signed::MAX_TEXT + 1), &host, b"secret", NOW).is_err());
    }
}
