//! What can be done to the model, whoever asks: the REST API, an agent over its link, the command line.
//!
//! Nothing in here knows HTTP. Each use case is one transaction, with its audit entry inside. Who acts is an
//! [`Actor`]; what is loaded is checked to belong to the actor's organization, whatever identifiers a
//! request names (LESSONS, advisory 9).

mod actor;
mod anomalies;
mod api_keys;
mod approval;
mod audit;
mod channels;
mod declare;
mod draft;
mod enrol;
mod error;
mod groups;
mod invitations;
mod mailed;
mod members;
mod names;
mod nodes;
mod organizations;
mod passkeys;
mod passwords;
mod policies;
mod providers;
mod resolve;
mod roles;
mod rotation;
mod seal;
mod service_tokens;
mod services;
mod sign_in;
mod simulate;
mod sites;
mod step_up;
mod throttle;
mod tickets;
mod tokens;
mod totp;
mod usage;
mod users;
mod vouched;

pub use actor::{Actor, Person};
pub use api_keys::{ApiKeyDraft, NewApiKey};
pub use approval::PENDING_LIFE;
pub(crate) use approval::expire_for_ever;
pub use audit::{AuditFault, AuditFormat, LinkText, MAX_EXPORTS, MAX_HELD, ParseLinkError, Verified};
pub(crate) use audit::{StartKey, prune_for_ever, seal_for_ever};
pub(crate) use channels::deliver_for_ever;
pub use channels::{ChannelDraft, ChannelTargetDraft, DeliveryState, MAX_DELIVERIES, WrittenChannel};
pub use draft::{
    AccessDraft, KindDraft, MethodDraft, PasswordDraft, PlaceDraft, PolicyDraft, PoolDraft, Reference,
    RouteDraft, ServiceDraft, SharedPolicyDraft, TargetDraft, UserDraft,
};
pub use error::{FieldError, UseCaseError};
pub use invitations::{AcceptDraft, INVITATION_LIFE, InvitationDraft, NewInvitation, SET_UP_LIFE};
pub use mailed::{RESET_LIFE, ResetDraft, VERIFICATION_LIFE};
pub use members::Place;
pub use names::{parse_endpoint, parse_host, parse_host_pattern};
pub use nodes::NodeChange;
pub use organizations::MIN_SESSION_LIFE;
#[cfg(test)]
pub(crate) use passkeys::SoftKey;
pub use passkeys::{CHALLENGE_LIFE, NewPasskey, PasskeyChallenge, PasskeyDraft, RECENT_SIGN_IN};
pub use passwords::{MAX_PASSWORD, MAX_WAITING_PASSWORDS};
pub use providers::{MAX_PROVIDERS, ProviderDraft};
pub use roles::{OWNER, RoleDraft};
pub(crate) use rotation::end_overlaps_for_ever;
pub(crate) use seal::Seal;
pub use service_tokens::{NewServiceToken, ServiceTokenChange, ServiceTokenDraft};
pub use services::MAX_ENCODED_SERVICE;
pub use sign_in::{
    Acting, CODE_LIFE, MAX_SESSIONS, NewSession, OrganizationChoice, SESSION_LIFE, SignInDraft, SignInStep,
    Whereabouts,
};
pub use simulate::{Simulated, SimulatedProof, Simulation};
pub use sites::{MAX_NETWORKS, SiteDraft};
pub use step_up::StepUpWays;
pub(crate) use tickets::TicketKeys;
pub use tickets::{TicketDraft, TicketError};
pub use tokens::{MAX_SCOPE, NewToken, TokenDraft};
pub use totp::{NewTotp, TotpSecret};
pub(crate) use usage::forget_for_ever;
pub use usage::{MAX_USAGE_POINTS, UsageWish};
pub use users::{MIN_PASSWORD, UserChange, parse_email};
pub use vouched::{ATTEMPT_LIFE, Vouched};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use kakuremichi_core::{
    audit::{AuditEntry, AuditSink},
    id::OrganizationId,
    key::IdentityKey,
    model::{Organization, Service},
    name::Label,
    net::Overlay,
    store::{
        Batch, CommitError, Committed, Entity, IdempotencyKey, MAX_PAGE, Mutation, Query, RecordId,
        Remembered, Sequence, Store, StoreError, StoreRecord, Stored, UniqueKey, Version,
    },
    time::Timestamp,
};
use kakuremichi_proto::{identity::CanonicalUrl, plan::MAX_PLAN_BYTES};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{OnceCell, watch};

use crate::{lease::Lease, mail::Mailer, planner, webhook::Webhooks};

/// How often a use case starts anew when others change, at the same time, what it builds on.
const ATTEMPTS: usize = 8;
/// The most bytes of a plan for which anything may be added: three quarters of what a plan can have. The rest
/// is for what is added at the same time, by several Controls, and for what follows from it: one gateway more
/// is told to every agent. What goes beyond all of that is left out of plans, newest first.
pub const MAX_PLANNED_BYTES: usize = MAX_PLAN_BYTES / 4 * 3;
/// The most bytes of a node in the plan of another, but for networks.
const ENCODED_NODE: usize = 1024;
/// The organization that every Control has.
const DEFAULT_ORGANIZATION: &str = "default";

/// What a Control is from its first start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Its overlay.
    pub overlay: Overlay,
    /// The organization that is always there.
    pub organization: OrganizationId,
}

/// A part of a filtered list is taken from about so many records, at most a page more: what is not found among them is
/// looked for by the next request.
pub const MAX_LOOKED_AT: usize = 5_000;

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// The records, in the order of their identifiers.
    pub items: Vec<Stored<T>>,
    /// Behind which record the next part starts, if there is one.
    pub next: Option<RecordId>,
}

/// The use cases. Clones share everything.
#[derive(Clone)]
pub struct UseCases(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    sinks: Vec<Arc<dyn AuditSink>>,
    /// Set once tasks tell the sinks.
    telling: OnceCell<()>,
    control: IdentityKey,
    ca: Option<[u8; 32]>,
    passwords: passwords::Passwords,
    throttle: Mutex<throttle::Throttle>,
    /// Of mails that anybody can have sent to any address.
    mails: Mutex<throttle::Throttle>,
    used_attempts: Mutex<vouched::UsedAttempts>,
    seal: Seal,
    /// Nothing where passkeys do not work.
    party: Option<passkeys::RelyingParty>,
    url: CanonicalUrl,
    mail: Option<Mailer>,
    exports: audit::Exports,
    audit_start: StartKey,
    looks: anomalies::Looks,
    webhooks: Webhooks,
    /// Requests and mails of channels that are under way.
    deliveries: channels::Deliveries,
    /// The name of this process among those on the store.
    holder: Arc<str>,
    start: OnceCell<Start>,
    /// Counts commits, so that the planner looks at once.
    commits: watch::Sender<u64>,
    /// What the planner of this process found out last.
    planned: Mutex<BTreeMap<OrganizationId, Planned>>,
    tickets: TicketKeys,
}

/// What is known of an organization's plans.
#[derive(Debug)]
struct Planned {
    /// The bytes of the largest one.
    largest: usize,
    /// Where visitors reach HTTPS at its gateways.
    https_ports: BTreeSet<u16>,
}

/// What the use cases work with.
pub(crate) struct Wiring {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) sinks: Vec<Arc<dyn AuditSink>>,
    /// The key of this Control's identity, which tokens pin.
    pub(crate) control: IdentityKey,
    /// SHA-256 of the certificate authority that Control serves with, if that is its own; tokens pin it, too.
    pub(crate) ca: Option<[u8; 32]>,
    /// Keeps what has to be read again.
    pub(crate) seal: Seal,
    /// Where Control is, for links.
    pub(crate) url: CanonicalUrl,
    pub(crate) mail: Option<Mailer>,
    /// Signs tickets.
    pub(crate) tickets: TicketKeys,
    pub(crate) webhooks: Webhooks,
    /// Proves where the audit starts.
    pub(crate) audit_start: StartKey,
}

#[cfg(test)]
impl Wiring {
    /// Use cases of whatever Control.
    pub(crate) fn tests(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            sinks: Vec::new(),
            control: IdentityKey::from_bytes([9; 32]),
            ca: None,
            seal: Seal::new(b"tests").unwrap(),
            url: "https://control.example.net".parse().unwrap(),
            mail: None,
            tickets: TicketKeys::new(b"tests"),
            webhooks: Webhooks::new(true, None),
            audit_start: StartKey::new(b"tests").unwrap(),
        }
    }
}

impl fmt::Debug for UseCases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UseCases").field("store", &self.0.store).finish()
    }
}

impl UseCases {
    pub(crate) fn new(wiring: Wiring) -> Self {
        let Wiring {
            store,
            sinks,
            control,
            ca,
            seal,
            url,
            mail,
            tickets,
            webhooks,
            audit_start,
        } = wiring;
        Self(Arc::new(Inner {
            store,
            sinks,
            telling: OnceCell::new(),
            control,
            ca,
            passwords: passwords::Passwords::default(),
            throttle: Mutex::default(),
            mails: Mutex::default(),
            used_attempts: Mutex::default(),
            seal,
            party: passkeys::RelyingParty::at(&url),
            url,
            mail,
            exports: audit::Exports::default(),
            audit_start,
            looks: anomalies::Looks::default(),
            webhooks,
            deliveries: channels::Deliveries::default(),
            holder: holder(),
            start: OnceCell::new(),
            commits: watch::Sender::new(0),
            planned: Mutex::default(),
            tickets,
        }))
    }

    /// The store.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    /// What only one process does at a time, for this one.
    pub(crate) fn lease(&self, name: &'static str) -> Lease {
        Lease::new(Arc::clone(&self.0.store), name, Arc::clone(&self.0.holder))
    }

    /// Gives back what this process alone did.
    pub(crate) async fn release_leases(&self) {
        for name in [
            audit::SEALER,
            audit::RETENTION,
            usage::RETENTION,
            approval::EXPIRY,
            rotation::OVERLAPS,
            channels::DELIVERY,
            crate::hub::OUTAGES,
            crate::hub::OWN_CERTIFICATE,
        ] {
            if let Err(error) = self.store().release_lease(name, &self.0.holder).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    name,
                    "a lease is not given back"
                );
            }
        }
    }

    /// The key that tokens pin.
    pub(crate) fn identity(&self) -> IdentityKey {
        self.0.control
    }

    fn throttle(&self) -> MutexGuard<'_, throttle::Throttle> {
        self.0.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mails(&self) -> MutexGuard<'_, throttle::Throttle> {
        self.0.mails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns whenever something was committed here.
    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.0.commits.subscribe()
    }

    /// The planner has made an organization's plans.
    pub(crate) fn planned(&self, organization: OrganizationId, largest: usize, https_ports: BTreeSet<u16>) {
        let mut planned = self.0.planned.lock().unwrap_or_else(PoisonError::into_inner);
        planned.insert(organization, Planned { largest, https_ports });
    }

    /// Checks that so many bytes can be added to the plans of the actor's organization. Deleting is always
    /// possible.
    fn room_for(&self, actor: &Actor, more: usize) -> Result<(), UseCaseError> {
        let planned = self.0.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = planned
            .get(&actor.organization)
            .map_or(0, |planned| planned.largest);
        if more > 0 && planned.saturating_add(more) > MAX_PLANNED_BYTES {
            return Err(UseCaseError::Limit(
                "what the nodes of an organization are told has at most 48 MiB: delete what is not needed, or divide it among organizations",
            ));
        }
        Ok(())
    }

    /// What this Control is; made when it is asked for the first time.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn start(&self) -> Result<Start, UseCaseError> {
        let start = self.0.start.get_or_try_init(async || {
            let overlay = self.store().overlay(Overlay::from_global_id(random()?)).await?;
            let organization = self.default_organization().await?;
            Ok::<_, UseCaseError>(Start {
                overlay,
                organization,
            })
        });
        start.await.copied()
    }

    /// Control itself, in the organization that is always there.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn control(&self) -> Result<Actor, UseCaseError> {
        Ok(Actor::control(self.start().await?.organization))
    }

    /// The actor's organization.
    ///
    /// # Errors
    /// When it is not there, or the storage fails.
    pub async fn organization(&self, actor: &Actor) -> Result<Stored<Organization>, UseCaseError> {
        self.load(actor, actor.organization).await
    }

    /// Writes into the audit that Control starts, and returns the place of the last change before.
    pub(crate) async fn mark_start(&self) -> Result<Sequence, UseCaseError> {
        let actor = self.control().await?;
        let organization = actor.organization;
        Ok(self
            .commit(&actor, "control.start", organization, Vec::new())
            .await?
            .sequence)
    }

    async fn default_organization(&self) -> Result<OrganizationId, UseCaseError> {
        let name: Label = DEFAULT_ORGANIZATION
            .parse()
            .map_err(|_| UseCaseError::Contended)?;
        let key = UniqueKey::OrganizationName(name.clone());
        for _ in 0..ATTEMPTS {
            if let Some(found) = self
                .store()
                .find(&key)
                .await?
                .and_then(Stored::narrow::<Organization>)
            {
                return Ok(found.value.id);
            }
            let organization = Organization {
                id: OrganizationId::from_bytes(random()?),
                name: name.clone(),
                accounts: Default::default(),
                created: now(),
            };
            let (id, actor) = (organization.id, Actor::control(organization.id));
            let role = roles::owner_role(id)?;
            let create = vec![
                Mutation::Create(organization.into()),
                Mutation::Create(role.into()),
            ];
            match self.commit(&actor, "organization.create", id, create).await {
                Ok(_) => return Ok(id),
                // Another process was faster.
                Err(CommitError::Taken { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Writes, and wakes whoever is to hear of it.
    async fn commit(
        &self,
        actor: &Actor,
        action: &str,
        subject: impl Into<RecordId>,
        mutations: Vec<Mutation>,
    ) -> Result<Committed, CommitError> {
        let subject = subject.into();
        let audit = AuditEntry {
            at: now(),
            actor: actor.principal.clone(),
            organization: Some(actor.organization),
            action: action.to_owned(),
            subject: Some(subject),
        };
        self.start_telling().await?;
        let request = actor.request;
        let actor = audit.actor.as_ref().map(ToString::to_string);
        let batch = Batch {
            mutations,
            audit,
            request,
        };
        let (inner, action) = (Arc::clone(&self.0), action.to_owned());
        // In a task of its own: whoever asked may be gone before it is done, and others are to hear of it still.
        let committed = tokio::spawn(async move {
            let committed = inner.store.commit(batch).await?;
            inner.commits.send_modify(|count| *count = count.wrapping_add(1));
            tracing::info!(action, %subject, actor, "changed");
            Ok(committed)
        });
        committed
            .await
            .unwrap_or_else(|error| Err(StoreError::Backend(Box::new(error)).into()))
    }

    /// Sinks hear of everything from the first deed of this process on.
    async fn start_telling(&self) -> Result<(), StoreError> {
        if self.0.sinks.is_empty() {
            return Ok(());
        }
        let start = async || {
            let told = audit::last_entry(self.store()).await?;
            for sink in &self.0.sinks {
                let (store, sink) = (Arc::clone(&self.0.store), Arc::clone(sink));
                tokio::spawn(audit::tell(store, sink, told, self.commits()));
            }
            Ok::<_, StoreError>(())
        };
        self.0.telling.get_or_try_init(start).await.copied()
    }

    /// What is remembered of a request that may be sent again.
    pub(crate) async fn remembered(&self, key: IdempotencyKey) -> Result<Option<Remembered>, UseCaseError> {
        Ok(self.store().remembered(key, now()).await?)
    }

    /// Keeps what a request was answered.
    pub(crate) async fn keep_answer(&self, key: IdempotencyKey, answer: Vec<u8>) -> Result<(), UseCaseError> {
        Ok(self.store().keep_answer(key, answer).await?)
    }

    /// Reads a record that must belong to the actor's organization. One that does not is not there.
    async fn load<E: Entity>(
        &self,
        actor: &Actor,
        id: impl Into<RecordId>,
    ) -> Result<Stored<E>, UseCaseError> {
        let found = self.store().get(id.into()).await?;
        found
            .filter(|stored| stored.value.organization() == Some(actor.organization))
            .and_then(Stored::narrow)
            .ok_or(UseCaseError::NotFound(E::KIND))
    }

    /// Lists records of the actor's organization that `wanted` lets through, at most `limit` of those behind `after`.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn list<E: Entity>(
        &self,
        actor: &Actor,
        after: Option<RecordId>,
        limit: usize,
        wanted: impl Fn(&E) -> bool + Send,
    ) -> Result<Listing<E>, UseCaseError> {
        let query = Query {
            after,
            ..Query::all(E::KIND).of(actor.organization)
        };
        self.filtered(query, limit, wanted).await
    }

    /// The first `limit` records of a query that `wanted` lets through. It looks at about [`MAX_LOOKED_AT`] records: there
    /// can be fewer, and yet more behind them.
    async fn filtered<E: Entity>(
        &self,
        mut query: Query,
        limit: usize,
        wanted: impl Fn(&E) -> bool + Send,
    ) -> Result<Listing<E>, UseCaseError> {
        let (mut items, mut looked_at) = (Vec::new(), 0);
        // Without a filter that is all there is to read; with one, whole pages cost less than many small ones.
        query.limit = limit;
        loop {
            let page = self.store().list(query).await?;
            let more = page.next.is_some();
            let last = page.records.len().saturating_sub(1);
            looked_at += page.records.len();
            for (at, record) in page.records.into_iter().enumerate() {
                let id = record.value.id();
                let record = Stored::narrow::<E>(record);
                items.extend(record.filter(|record| wanted(&record.value)));
                if items.len() == limit {
                    let next = (at < last || more).then_some(id);
                    return Ok(Listing { items, next });
                }
            }
            if page.next.is_none() || looked_at >= MAX_LOOKED_AT {
                return Ok(Listing {
                    items,
                    next: page.next,
                });
            }
            (query.after, query.limit) = (page.next, MAX_PAGE);
        }
    }

    /// Where visitors find a service, through the gateways of its organization.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn urls(&self, service: &Service) -> Result<Vec<String>, UseCaseError> {
        let gateways = self.gateways(service.organization).await?;
        Ok(planner::service_urls(service, &gateways))
    }

    /// Where visitors find each of the actor's services.
    pub(crate) async fn all_urls(
        &self,
        actor: &Actor,
        services: impl Iterator<Item = &Service> + Send,
    ) -> Result<Vec<Vec<String>>, UseCaseError> {
        let gateways = self.gateways(actor.organization).await?;
        Ok(services
            .map(|service| planner::service_urls(service, &gateways))
            .collect())
    }
}

/// Checks that a record still has the version that its reader saw, if the reader says which.
fn at_version<T>(stored: &Stored<T>, expected: Option<Version>) -> Result<(), UseCaseError> {
    match expected {
        Some(expected) if expected != stored.version => Err(UseCaseError::Stale),
        Some(_) | None => Ok(()),
    }
}

/// The record that a mutation just wrote, as it is stored.
fn written<T>(value: T, before: Option<Version>) -> Stored<T> {
    Stored {
        value,
        version: Version(before.map_or(0, |version| version.0) + 1),
    }
}

fn update<T: Into<StoreRecord>>(value: T, version: Version) -> Mutation {
    Mutation::Update(value.into(), version)
}

pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], UseCaseError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| UseCaseError::Random)?;
    Ok(bytes)
}

/// A name that no other process has. Without random numbers it is one that several could have, and a lease saves
/// nothing.
fn holder() -> Arc<str> {
    let random = random::<16>().unwrap_or_default();
    data_encoding::HEXLOWER.encode(&random).into()
}

impl From<StoreError> for UseCaseError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
mod tests;
