//! Tickets, with which people sign in to services.

use std::{fmt, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use kakuremichi_core::{
    auth::Strength,
    id::ServiceId,
    key::{IdentityKey, SigningKey},
    model::{Permissions, Service, ServiceKind, Session, User},
    name::Hostname,
    plan::GatewaySignIn,
    policy::{MAX_SIGN_IN_AGE, MIN_SIGN_IN_AGE},
    store::{Stored, UniqueKey},
    time::Timestamp,
};
use kakuremichi_proto::{
    identity::{Signature, Signer},
    sign_in::{ARRIVAL_PATH, SignInQuery, TICKET_LIFE, Ticket},
};
use ring::{
    hkdf::{HKDF_SHA256, Prk, Salt},
    signature::{Ed25519KeyPair, KeyPair as _},
};

use super::{Actor, Person, UseCaseError, UseCases, now, random};

/// How long one key signs. Gateways are told of it as long before, and take what it signed as long after.
const KEY_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How much a gateway's clock may be ahead when it takes a ticket. So much younger than it asks a sign-in has to be: it
/// then finds it young enough, and sends nobody round and round.
const AHEAD: Duration = TICKET_LIFE.saturating_mul(2);
/// The port that a URL with `https` need not name.
const HTTPS: u16 = 443;

/// The keys that tickets are signed with, each for its time. They come from Control's identity (HKDF-SHA256, RFC
/// 5869), so that all instances have the same, and nothing has to be stored or handed over when one follows another.
#[derive(Clone)]
pub(crate) struct TicketKeys(Prk);

/// One of them.
struct TicketKey {
    pair: Ed25519KeyPair,
    public: IdentityKey,
}

impl TicketKeys {
    /// Derives them from the private key of Control's identity.
    pub(crate) fn new(identity: &[u8]) -> Self {
        Self(Salt::new(HKDF_SHA256, b"kakuremichi control").extract(identity))
    }

    /// The number of the key that signs at a time.
    pub(crate) fn generation(at: Timestamp) -> u64 {
        let millis = u64::try_from(at.as_millis()).unwrap_or_default();
        millis / (KEY_LIFE.as_secs() * 1000)
    }

    /// The public halves of those that are to be taken at a time: that of now, the one before and the one after it.
    fn public(&self, at: Timestamp) -> Result<Vec<SigningKey>, UseCaseError> {
        let now = Self::generation(at);
        let around = now.saturating_sub(1)..=now + 1;
        let keys = around.map(|generation| self.key(generation));
        keys.map(|key| Ok(SigningKey::from_bytes(*key?.public.as_bytes())))
            .collect()
    }

    fn key(&self, generation: u64) -> Result<TicketKey, UseCaseError> {
        let mut seed = [0; 32];
        self.0
            .expand(&[b"ticket key ", &generation.to_be_bytes()], HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut seed))
            .map_err(|_| UseCaseError::Random)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| UseCaseError::Random)?;
        let public = pair.public_key().as_ref().try_into();
        Ok(TicketKey {
            public: IdentityKey::from_bytes(public.map_err(|_| UseCaseError::Random)?),
            pair,
        })
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys")
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TicketKey").field(&self.public).finish()
    }
}

impl Signer for TicketKey {
    fn public_key(&self) -> IdentityKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        Signature(signature)
    }
}

/// What a gateway wants a ticket for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketDraft {
    /// The service.
    pub service: ServiceId,
    /// The host at which the visitor asks for it.
    pub host: Hostname,
    /// The port of the gateway's HTTPS listener, as the visitor sees it.
    pub port: u16,
    /// SHA-256 of what the browser has in a cookie of the host.
    pub binding: [u8; 32],
    /// How strongly the person has to be signed in.
    pub strength: Strength,
    /// How long ago they may have signed in, or confirmed it.
    pub max_age: Option<Duration>,
}

impl TicketDraft {
    /// Reads what a gateway wrote into a query; `None` if it is none.
    #[must_use]
    pub fn read(query: &SignInQuery) -> Option<Self> {
        let binding = BASE64URL_NOPAD.decode(query.binding.as_bytes()).ok()?;
        let max_age = query.max_age.map(|age| Duration::from_secs(age.into()));
        if max_age.is_some_and(|age| !(MIN_SIGN_IN_AGE..=MAX_SIGN_IN_AGE).contains(&age)) {
            return None;
        }
        Some(Self {
            service: query.service.parse().ok()?,
            host: query.host.parse().ok()?,
            port: query.port,
            binding: binding.try_into().ok()?,
            strength: Strength::from_text(&query.strength)?,
            max_age,
        })
    }

    /// Whether a session is as strong, and as recent, as the gateway asks.
    fn is_met(&self, session: &Session) -> bool {
        let recent = |age: Duration| now() < session.authenticated.after(age.saturating_sub(AHEAD));
        session.sign_in.strength() >= self.strength && self.max_age.is_none_or(recent)
    }
}

/// Why there is no ticket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// No such service is at the host and the port.
    #[error("nothing is published at the address that you come from: its service was changed or removed")]
    NoService,
    /// The person is in another organization, or in none.
    #[error("your account is not a member of the organization that publishes this")]
    NoMember,
    /// The person has signed in less strongly than this, which the service wants, or too long ago: they have to step
    /// up.
    #[error("this wants you to confirm that it is you")]
    StepUp(Strength),
    /// It could not be found out.
    #[error(transparent)]
    Failed(#[from] UseCaseError),
}

impl UseCases {
    /// Where gateways send visitors to sign in, and the keys of the tickets that they bring back.
    ///
    /// # Errors
    /// When the system's cryptography fails.
    pub(crate) fn gateway_sign_in(&self) -> Result<GatewaySignIn, UseCaseError> {
        Ok(GatewaySignIn {
            control: self.0.url.to_string(),
            keys: self.0.tickets.public(now())?,
        })
    }

    /// Gives a person who is signed in a ticket for a service. Returns the URL with it, to which the browser goes
    /// back.
    ///
    /// # Errors
    /// When there is no such service, the person is no member of its organization or has not signed in as strongly as
    /// it has to be, or the storage fails.
    pub async fn ticket(
        &self,
        (session, user): (&Session, &User),
        draft: &TicketDraft,
    ) -> Result<String, TicketError> {
        let service = self
            .store()
            .get(draft.service.into())
            .await
            .map_err(UseCaseError::from)?;
        let service = service
            .and_then(Stored::narrow::<Service>)
            .ok_or(TicketError::NoService)?;
        let service = service.value;
        if !serves(&service, &draft.host) || !self.has_port(&service, draft.port) {
            return Err(TicketError::NoService);
        }
        let membership = UniqueKey::Membership(service.organization, user.id);
        let member = self.store().find(&membership).await;
        if member.map_err(UseCaseError::from)?.is_none() {
            return Err(TicketError::NoMember);
        }
        let session_expires = match self.counts_in(session, service.organization).await {
            Err(UseCaseError::MultiFactor) => {
                return Err(TicketError::StepUp(draft.strength.max(Strength::TwoFactors)));
            }
            ends => ends?,
        };
        if !draft.is_met(session) {
            return Err(TicketError::StepUp(draft.strength));
        }
        let ticket = Ticket {
            id: random()?,
            service: service.id,
            host: draft.host.clone(),
            binding: draft.binding,
            user: user.id,
            session: session.id,
            session_expires,
            strength: session.sign_in.strength(),
            authenticated: draft.max_age.map(|_| session.authenticated),
            made: now(),
        };
        let person = Person {
            user: user.id,
            session: session.id,
            administrator: user.administrator,
            organization: session.organization,
        };
        let actor = Actor::person(service.organization, person, Permissions::NONE);
        self.commit(&actor, "service.sign-in", service.id, Vec::new())
            .await
            .map_err(UseCaseError::from)?;
        let key = self.0.tickets.key(TicketKeys::generation(ticket.made))?;
        let text = ticket.seal(&key);
        let (host, port) = (&draft.host, draft.port);
        Ok(match port {
            HTTPS => format!("https://{host}{ARRIVAL_PATH}?ticket={text}"),
            port => format!("https://{host}:{port}{ARRIVAL_PATH}?ticket={text}"),
        })
    }

    /// Whether a gateway of the service's organization takes visitors at a port: nobody else is to see a ticket.
    fn has_port(&self, service: &Service, port: u16) -> bool {
        let planned = self
            .0
            .planned
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        planned
            .get(&service.organization)
            .is_some_and(|planned| planned.https_ports.contains(&port))
    }
}

fn serves(service: &Service, host: &Hostname) -> bool {
    match &service.kind {
        ServiceKind::Http { hosts, .. } => hosts.iter().any(|pattern| pattern.matches(host)),
        ServiceKind::Tcp { .. } | ServiceKind::Udp { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kakuremichi_core::{
        model::{AccountPolicy, Organization},
        store::{Batch, MemoryStore, Mutation, Store, conformance::sample},
    };
    use kakuremichi_proto::identity::{Verifier as _, sha256};

    use super::*;
    use crate::{identity::Ed25519, service::Wiring};

    /// A ticket is given for where the service is, to whom may have it, and to nobody else.
    #[tokio::test]
    async fn a_ticket_leads_only_to_where_the_service_is() {
        let store = Arc::new(MemoryStore::new());
        let service = sample::http_service(0, 1);
        let organization = Organization {
            accounts: AccountPolicy::default(),
            ..sample::organization(0)
        };
        let records = [
            organization.into(),
            sample::user(1).into(),
            sample::member(0, 1).into(),
            service.clone().into(),
        ];
        let batch = Batch {
            mutations: records.map(Mutation::Create).into(),
            audit: sample::audit("test"),
            request: None,
        };
        store.commit(batch).await.unwrap();
        let use_cases = UseCases::new(Wiring::tests(store));
        use_cases.planned(service.organization, 0, [8443].into());
        let mut session = sample::session(1, 1);
        session.expires = now().after(Duration::from_secs(600));
        let draft = |host: &str, port| TicketDraft {
            service: service.id,
            host: host.parse().unwrap(),
            port,
            binding: sha256(b"secret"),
            strength: Strength::TwoFactors,
            max_age: None,
        };
        let ask = async |draft: TicketDraft, user: &User| use_cases.ticket((&session, user), &draft).await;
        let (anna, bert) = (sample::user(1), sample::user(2));
        let good = draft("app-1.example.net", 8443);
        let url = ask(good.clone(), &anna).await.unwrap();
        let text = url
            .strip_prefix("https://app-1.example.net:8443/.kakuremichi/signed-in?ticket=")
            .unwrap();
        let keys = use_cases.gateway_sign_in().unwrap().keys;
        let ticket = Ticket::open(text, &keys, &Ed25519, &good.host, &good.binding, now()).unwrap();
        assert_eq!(
            (ticket.user, ticket.session, ticket.service),
            (anna.id, session.id, service.id)
        );

        for wrong in [draft("evil.example", 8443), draft("app-1.example.net", 9999)] {
            assert!(matches!(ask(wrong, &anna).await, Err(TicketError::NoService)));
        }
        let gone = TicketDraft {
            service: sample::http_service(0, 2).id,
            ..good.clone()
        };
        assert!(matches!(ask(gone, &anna).await, Err(TicketError::NoService)));
        assert!(matches!(
            ask(good.clone(), &bert).await,
            Err(TicketError::NoMember)
        ));
        let strong = TicketDraft {
            strength: Strength::PhishingResistant,
            ..good.clone()
        };
        assert!(matches!(
            ask(strong, &anna).await,
            Err(TicketError::StepUp(Strength::PhishingResistant))
        ));
        // What is older by the clock of a gateway that is ahead is older.
        let recent = TicketDraft {
            max_age: Some(MIN_SIGN_IN_AGE),
            ..good
        };
        let tried = async |ago: u64| {
            let at = now().as_millis() - i64::try_from(ago * 1000).unwrap();
            let session = Session {
                authenticated: Timestamp::from_millis(at),
                ..session.clone()
            };
            use_cases.ticket((&session, &anna), &recent).await
        };
        let url = tried(170).await.unwrap();
        let text = url.split("ticket=").nth(1).unwrap();
        let ticket = Ticket::open(text, &keys, &Ed25519, &recent.host, &recent.binding, now()).unwrap();
        assert!(ticket.authenticated.is_some());
        assert!(matches!(
            tried(185).await,
            Err(TicketError::StepUp(Strength::TwoFactors))
        ));
    }

    #[test]
    fn keys_follow_each_other_and_are_known_before_and_after() {
        let (keys, others) = (TicketKeys::new(b"identity"), TicketKeys::new(b"another"));
        let at = |lives: i64| Timestamp::from_millis(lives * 30 * 24 * 60 * 60 * 1000 + 1);
        let known = |lives| keys.public(at(lives)).unwrap();
        assert_eq!(known(5)[1..], known(6)[..2]);
        assert_eq!(known(5), TicketKeys::new(b"identity").public(at(5)).unwrap());
        assert_ne!(known(5)[1], others.public(at(5)).unwrap()[1]);
        let key = keys.key(TicketKeys::generation(at(5))).unwrap();
        assert_eq!(known(5)[1].as_bytes(), key.public_key().as_bytes());
        let signature = key.sign(b"message");
        assert!(Ed25519.verify(&key.public_key(), b"message", &signature));
        assert!(!format!("{keys:?} {key:?}").contains("pair"));
    }
}
