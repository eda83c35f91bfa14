//! Sends browsers away to sign in, and takes the tickets that they come back with.

use std::{
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, HeaderValue};
use kakuremichi_core::{
    auth::Strength,
    id::{OrganizationId, ServiceId},
    key::SigningKey,
    name::Hostname,
    time::Timestamp,
};
use kakuremichi_proto::{
    identity::sha256,
    sign_in::{CONTROL_PATH, GatewaySession, SignedError, TICKET_LIFE, Ticket},
};

use super::{
    People, SigningKeys,
    cookies::{self, Attempt},
    tickets::{NotTaken, UsedTickets},
};
use crate::{
    gateway::identity::{Introduction, Signed},
    keys::RingVerifier,
    state::{StateDir, StateError},
};

/// How long after a ticket was made it can be shown, on the slowest clock.
const SHOWN: Duration = TICKET_LIFE.saturating_add(TICKET_LIFE);

/// Where visitors sign in, for all shards.
#[derive(Debug)]
pub(crate) struct SignInDesk {
    keys: Mutex<SigningKeys>,
    used: Mutex<UsedTickets>,
    /// The port of the HTTPS listener, as visitors see it.
    port: u16,
}

/// A browser that is sent away.
#[derive(Debug)]
pub(crate) struct Departure {
    /// Where to.
    pub(crate) location: HeaderValue,
    /// What it remembers.
    pub(crate) cookies: Vec<HeaderValue>,
}

/// A browser that came back.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The path and query that it wanted at first.
    pub(crate) location: HeaderValue,
    /// Its session, and what it can forget.
    pub(crate) cookies: Vec<HeaderValue>,
}

/// Why a browser that came back is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArrivalError {
    /// It brings no ticket, or does not have the cookie of the attempt that the ticket is for.
    #[error("the browser has not begun to sign in here, or has forgotten it")]
    NoAttempt,
    /// The ticket is not good.
    #[error("the ticket is not taken: {0}")]
    Ticket(#[from] SignedError),
    /// The ticket is for another service.
    #[error("the ticket is for another service")]
    Service,
    /// The ticket was taken before.
    #[error("the ticket was taken before")]
    Used,
    /// The plan does not have the person, or says that the session has ended.
    #[error("the plan does not know the person")]
    Unknown,
    /// Nobody can sign in at this gateway right now: it has too much to do, or others do not know its key yet.
    #[error("nobody can sign in here right now")]
    NotNow,
}

impl SignInDesk {
    /// `port` is that of the HTTPS listener, as visitors see it.
    pub(crate) fn new(keys: SigningKeys, port: u16) -> Self {
        Self {
            keys: Mutex::new(keys),
            used: Mutex::default(),
            port,
        }
    }

    /// Replaces keys that are old. Returns the public halves if they are others than before. It blocks for the disk.
    ///
    /// # Errors
    /// When the disk, or the system's randomness, fails.
    pub(crate) fn rotate(
        &self,
        state: &StateDir,
        now: Timestamp,
    ) -> Result<Option<Vec<SigningKey>>, StateError> {
        let mut keys = lock(&self.keys);
        Ok(keys.rotate(state, now)?.then(|| keys.public()))
    }

    /// The public halves of what it signs with.
    pub(crate) fn public_keys(&self) -> Vec<SigningKey> {
        lock(&self.keys).public()
    }

    /// The keys that assertions about visitors verify with: those that the plan's gateways sign with, and this one's, of
    /// which the newest may not be in the plan yet.
    pub(crate) fn verifying_keys(&self, people: &People) -> Vec<SigningKey> {
        let mut keys = people.signers().to_vec();
        for key in self.public_keys() {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// The assertion that tells the targets of `host` who a visitor is. Without a key, which does not happen, there is
    /// none.
    pub(crate) fn assertion(
        &self,
        people: &People,
        told: &Introduction,
        host: &Hostname,
        now: Timestamp,
    ) -> Option<Signed> {
        let own = || format!("https://{host}");
        let issuer = people
            .sign_in()
            .map_or_else(own, |sign_in| sign_in.control.clone());
        people.assertions().of(told, (&issuer, host), now, |sign| {
            let keys = lock(&self.keys);
            // Targets look for a key that they do not know where this gateway shows it.
            keys.best(people.own_keys()).map(sign)
        })
    }

    /// Sends a browser away, to come back with a ticket for what it asked for; none where nobody can sign in.
    pub(crate) fn depart(
        &self,
        people: &People,
        service: ServiceId,
        (host, target): (&Hostname, &str),
        (strength, max_age): (Strength, Option<Duration>),
        (headers, secret): (&HeaderMap, [u8; 32]),
    ) -> Option<Departure> {
        let sign_in = people.sign_in()?;
        // Without a key that is known the visitor would be sent round and round.
        lock(&self.keys).known(people.own_keys())?;
        let binding = sha256(&secret);
        let mut location = format!("{}{CONTROL_PATH}?service={service}&host={host}", sign_in.control);
        let _ = write!(
            location,
            "&port={}&binding={}&strength={}",
            self.port,
            BASE64URL_NOPAD.encode(&binding),
            strength.as_str()
        );
        if let Some(age) = max_age {
            let _ = write!(location, "&max_age={}", age.as_secs());
        }
        Some(Departure {
            location: HeaderValue::try_from(location).ok()?,
            cookies: Attempt::new(secret, target).set(&binding, headers),
        })
    }

    /// Takes the ticket that a browser comes back with.
    pub(crate) fn arrive(
        &self,
        people: &People,
        (service, organization): (ServiceId, OrganizationId),
        host: &Hostname,
        (headers, ticket): (&HeaderMap, &str),
        now: Timestamp,
    ) -> Result<Arrival, ArrivalError> {
        let sign_in = people.sign_in().ok_or(ArrivalError::NotNow)?;
        let binding = Ticket::presumed_binding(ticket).ok_or(ArrivalError::NoAttempt)?;
        let attempt = Attempt::find(headers, &binding).ok_or(ArrivalError::NoAttempt)?;
        let binding = sha256(&attempt.secret);
        let ticket = Ticket::open(ticket, &sign_in.keys, &RingVerifier, host, &binding, now)?;
        if ticket.service != service {
            return Err(ArrivalError::Service);
        }
        let session = GatewaySession::of(&ticket);
        people
            .identity(organization, &session, now)
            .ok_or(ArrivalError::Unknown)?;
        let keys = lock(&self.keys);
        let signer = keys.known(people.own_keys()).ok_or(ArrivalError::NotNow)?;
        lock(&self.used)
            .take(ticket.id, ticket.made.after(SHOWN), now)
            .map_err(|error| match error {
                NotTaken::Used => ArrivalError::Used,
                NotTaken::Full => ArrivalError::NotNow,
            })?;
        let life = session.expires.as_millis().saturating_sub(now.as_millis());
        let life = Duration::from_millis(u64::try_from(life).unwrap_or_default());
        let cookies = [
            cookies::set_session(&session.seal(signer), life),
            cookies::forget_attempt(&binding),
        ];
        Ok(Arrival {
            location: HeaderValue::try_from(attempt.target).map_err(|_| ArrivalError::NoAttempt)?,
            cookies: cookies.into_iter().flatten().collect(),
        })
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under the locks panics half way.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
