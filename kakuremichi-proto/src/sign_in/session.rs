//! What a visitor who has signed in has at gateways.

use std::time::Duration;

use kakuremichi_core::{
    auth::Strength,
    id::{SessionId, UserId},
    key::SigningKey,
    name::Hostname,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{
    SignedError, Ticket,
    signed::{self, Labels},
    ticket::{CLOCKS_DIFFER, read_strength, write_strength},
};
use crate::identity::{Signer, Verifier};

/// The longest life of a session at gateways. It never outlives the one at Control.
pub const GATEWAY_SESSION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

const LABELS: Labels = Labels {
    plain: b"kakuremichi gateway session v1\0",
    dated: b"kakuremichi gateway session v2\0",
};

/// A person's session at one host, as the host's cookie has it. Which roles and groups the person has, and whether the
/// session still counts, is not in it: each gateway has that in its plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySession {
    /// The host: nowhere else is it good.
    pub host: Hostname,
    /// Who it is.
    pub user: UserId,
    /// The person's session at Control that it comes from, and ends with.
    pub session: SessionId,
    /// How strongly the person signed in.
    pub strength: Strength,
    /// When the person signed in, or confirmed it, if the ticket said that.
    pub authenticated: Option<Timestamp>,
    /// When the ticket was made that it was given for.
    pub made: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Body {
    host: String,
    user: [u8; 16],
    session: [u8; 16],
    strength: u8,
    made: i64,
    expires: i64,
}

impl GatewaySession {
    /// What is given for a ticket.
    #[must_use]
    pub fn of(ticket: &Ticket) -> Self {
        Self {
            host: ticket.host.clone(),
            user: ticket.user,
            session: ticket.session,
            strength: ticket.strength,
            authenticated: ticket.authenticated,
            made: ticket.made,
            expires: ticket
                .session_expires
                .min(ticket.made.after(GATEWAY_SESSION_LIFE)),
        }
    }

    /// The value of the cookie.
    #[must_use]
    pub fn seal(&self, gateway: &dyn Signer) -> String {
        let body = Body {
            host: self.host.as_str().to_owned(),
            user: *self.user.as_bytes(),
            session: *self.session.as_bytes(),
            strength: write_strength(self.strength),
            made: self.made.as_millis(),
            expires: self.expires.as_millis(),
        };
        signed::seal_dated(LABELS, body, self.authenticated, gateway)
    }

    /// Reads the value of a cookie that a browser shows at `host`.
    ///
    /// # Errors
    /// When it was not signed with one of the gateways' `keys`, is for another host, or not of this time.
    pub fn open<'a>(
        text: &str,
        keys: impl IntoIterator<Item = &'a SigningKey>,
        verifier: &dyn Verifier,
        host: &Hostname,
        now: Timestamp,
    ) -> Result<Self, SignedError> {
        let (body, authenticated): (Body, _) = signed::open_dated(LABELS, text, keys, verifier)?;
        let session = Self {
            host: body.host.parse().map_err(|_| SignedError::Malformed)?,
            user: UserId::from_bytes(body.user),
            session: SessionId::from_bytes(body.session),
            strength: read_strength(body.strength)?,
            authenticated,
            made: Timestamp::from_millis(body.made),
            expires: Timestamp::from_millis(body.expires),
        };
        if session.host != *host {
            return Err(SignedError::Host);
        }
        if session.made > now.after(CLOCKS_DIFFER) {
            return Err(SignedError::Early);
        }
        if session.expires <= now || session.expires > session.made.after(GATEWAY_SESSION_LIFE) {
            return Err(SignedError::Expired);
        }
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ToyKeys, ToyVerifier};

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    const fn key(n: u8) -> ToyKeys {
        ToyKeys([n; 32])
    }

    fn public(key: &ToyKeys) -> SigningKey {
        SigningKey::from_bytes(*key.public_key().as_bytes())
    }

    fn session(life: Duration) -> GatewaySession {
        GatewaySession {
            host: "app.example.net".parse().unwrap(),
            user: UserId::from_bytes([3; 16]),
            session: SessionId::from_bytes([4; 16]),
            strength: Strength::OneFactor,
            authenticated: None,
            made: NOW,
            expires: NOW.after(life),
        }
    }

    #[test]
    fn a_session_is_good_at_its_host_until_it_ends() {
        let gateway = key(1);
        let keys = [public(&key(2)), public(&gateway)];
        let host: Hostname = "app.example.net".parse().unwrap();
        let open = |session: &GatewaySession, host: &Hostname, now| {
            GatewaySession::open(&session.seal(&gateway), &keys, &ToyVerifier, host, now)
        };
        let hour = session(Duration::from_secs(3600));
        assert_eq!(open(&hour, &host, NOW), Ok(hour.clone()));
        let dated = GatewaySession {
            authenticated: Some(NOW),
            ..hour.clone()
        };
        assert_eq!(open(&dated, &host, NOW), Ok(dated.clone()));
        let other = "other.example.net".parse().unwrap();
        assert_eq!(open(&hour, &other, NOW), Err(SignedError::Host));
        assert_eq!(open(&hour, &host, hour.expires), Err(SignedError::Expired));
        // No gateway gives one that lasts longer, whatever it signs.
        let long = session(GATEWAY_SESSION_LIFE + Duration::from_secs(1));
        assert_eq!(open(&long, &host, NOW), Err(SignedError::Expired));
    }

    /// A ticket is no session, and no session a ticket: each is signed below a label of its own.
    #[test]
    fn a_ticket_is_no_session() {
        let key = key(1);
        let host: Hostname = "app.example.net".parse().unwrap();
        let text = session(Duration::from_secs(3600)).seal(&key);
        let opened = Ticket::open(&text, &[public(&key)], &ToyVerifier, &host, &[0; 32], NOW);
        assert_eq!(opened, Err(SignedError::Signature));
    }
}
