//! Control as one thing: built from a store, mounted as a router.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderValue, header},
    middleware::map_response,
    response::Response,
};
use kakuremichi_core::{
    audit::AuditSink, auth::Authenticator, id::NodeId, key::IdentityKey, name::Hostname, net::Host,
    secret::Secret, store::Store,
};
use kakuremichi_proto::{
    capability::Capabilities,
    identity::{CanonicalUrl, Signer, UrlError},
    session::ServerConfig,
};
use rustls::RootCertStore;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    api::{self, Busy, Hosts, Meter, Origin, Rates},
    federation::Federation,
    hub::{Counters, Hub, HubState, Presence},
    identity::{Ed25519, Identity, IdentityError},
    mail::Mailer,
    pages,
    planner::{self, PlanBoard},
    service::{
        UseCaseError, UseCases, Wiring, deliver_for_ever, end_overlaps_for_ever, expire_for_ever,
        forget_for_ever, prune_for_ever, random, seal_for_ever,
    },
    tls::CertificateFiles,
    webhook::Webhooks,
};

/// How long an agent may be gone before what it declared as ephemeral is removed.
pub const LEASE: Duration = Duration::from_secs(90);

/// How long a node may be gone before its organization is told that it is down: more than nodes take to find a Control
/// that was restarted.
pub const NODE_DOWN_AFTER: Duration = Duration::from_secs(90);

/// Why no Control can be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No public URL was given.
    #[error("a Control needs its public URL: nodes refuse one that they did not dial")]
    NoPublicUrl,
    /// The public URL is none.
    #[error("the public URL is not valid")]
    PublicUrl(#[from] UrlError),
    /// No identity was given.
    #[error("a Control needs an identity: make one with `identity_key`, once, and keep it")]
    NoIdentity,
    /// The identity is none.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// Settings of a [`Control`] to be.
#[derive(Debug)]
#[must_use = "nothing is built before `build`"]
pub struct ControlBuilder {
    store: Arc<dyn Store>,
    public_url: Option<String>,
    identity: Option<Result<Identity, IdentityError>>,
    ca_fingerprint: Option<[u8; 32]>,
    authenticator: Option<Arc<dyn Authenticator>>,
    sinks: Vec<Arc<dyn AuditSink>>,
    mail: Option<Mailer>,
    roots: Option<RootCertStore>,
    private_webhooks: bool,
    node_down_after: Duration,
    audit_retention: Option<Duration>,
    lease: Duration,
    certificate: Option<Arc<CertificateFiles>>,
    origins: BTreeSet<Origin>,
    hosts: Vec<Hostname>,
    rates: Rates,
}

/// A control plane. Clones are handles to the same one; with the last handle, and the last clone of its
/// [`router`](Self::router), its tasks and its connections to nodes end.
///
/// ```
/// # use kakuremichi_control::{Control, identity_key};
/// # use kakuremichi_core::store::MemoryStore;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let identity = identity_key()?; // once: read it from where it is kept
/// let control = Control::builder(MemoryStore::new())
///     .public_url("https://example.net/km")
///     .identity(identity.expose())
///     .build()?;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let app: axum::Router = axum::Router::new().nest("/km", control.router());
/// # drop(app);
/// # });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Control(Arc<Owner>);

/// What lives as long as any handle.
pub(crate) struct Owner {
    pub(crate) use_cases: UseCases,
    pub(crate) hub: Arc<Hub>,
    pub(crate) authenticator: Option<Arc<dyn Authenticator>>,
    pub(crate) public_url: CanonicalUrl,
    pub(crate) meter: Meter,
    pub(crate) busy: Busy,
    pub(crate) hosts: Hosts,
    pub(crate) origins: BTreeSet<Origin>,
    pub(crate) federation: Federation,
    board: Arc<PlanBoard>,
    state: watch::Sender<HubState>,
    ready: watch::Sender<bool>,
    mail: Option<Mailer>,
    node_down_after: Duration,
    audit_retention: Option<Duration>,
    certificate: Option<Arc<CertificateFiles>>,
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("public_url", &self.0.public_url)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// Starts with a store.
    pub fn builder(store: impl Store) -> ControlBuilder {
        Self::builder_shared(Arc::new(store))
    }

    /// Starts with a store that others use too.
    pub fn builder_shared(store: Arc<dyn Store>) -> ControlBuilder {
        ControlBuilder {
            store,
            public_url: None,
            identity: None,
            ca_fingerprint: None,
            authenticator: None,
            sinks: Vec::new(),
            mail: None,
            roots: None,
            private_webhooks: false,
            node_down_after: NODE_DOWN_AFTER,
            audit_retention: None,
            lease: LEASE,
            certificate: None,
            origins: BTreeSet::new(),
            hosts: Vec::new(),
            rates: Rates::default(),
        }
    }

    /// The routes of Control: the REST API and the link for nodes, below `/api/v1`, and a few pages. Mount them at the path of
    /// the public URL. Requests should carry `ConnectInfo<SocketAddr>`
    /// (`into_make_service_with_connect_info`): with it the work that one address can cause before it has
    /// proven anything is bounded.
    ///
    /// The first call starts Control's tasks.
    ///
    /// # Panics
    /// When the first call is not made within a tokio runtime.
    pub fn router(&self) -> Router {
        self.0.start();
        let router = api::router(Arc::clone(&self.0)).merge(pages::router(Arc::clone(&self.0)));
        match self.0.strict_transport() {
            true => router.layer(map_response(strict_transport)),
            false => router,
        }
    }

    /// A link with which the first user makes an account, who then administers this Control. It is good once, and
    /// for [`SET_UP_LIFE`](crate::service::SET_UP_LIFE); those of before are good no more. `None` once there is a
    /// user.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn set_up_link(&self) -> Result<Option<Secret<String>>, UseCaseError> {
        self.0.use_cases.set_up().await
    }

    /// What can be done to the model.
    #[must_use]
    pub fn use_cases(&self) -> &UseCases {
        &self.0.use_cases
    }

    /// The public half of the identity, which tokens pin.
    #[must_use]
    pub fn identity(&self) -> IdentityKey {
        self.0.use_cases.identity()
    }

    /// The public URL.
    #[must_use]
    pub fn public_url(&self) -> &CanonicalUrl {
        &self.0.public_url
    }

    /// Whether the model was read, so that nodes get their plans. It never is before
    /// [`router`](Self::router) was called.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.0.ready.borrow()
    }

    /// Waits until [`is_ready`](Self::is_ready).
    pub async fn ready(&self) {
        // The sender lives as long as this handle.
        let _ = self.0.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// How many nodes are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.0.hub.connected()
    }

    /// What was counted of nodes' connections so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.hub.counters()
    }

    /// What is known of a node's connection.
    #[must_use]
    pub fn presence(&self, node: NodeId) -> Presence {
        self.0.hub.presence(node)
    }

    /// Takes no more connections of nodes, asks those there are to end and to come back later, and waits at
    /// most for `grace`. Then all tasks end. Returns how many connections were cut.
    pub async fn shutdown(&self, grace: Duration) -> usize {
        self.0.state.send_replace(HubState::Draining);
        let cut = self.0.hub.drained(grace).await;
        self.0.state.send_replace(HubState::Ended);
        let tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
            self.0.use_cases.release_leases().await;
        }
        cut
    }
}

impl ControlBuilder {
    /// How nodes and API clients reach this Control: scheme, host, port, and the path where it is mounted.
    pub fn public_url(self, url: impl Into<String>) -> Self {
        Self {
            public_url: Some(url.into()),
            ..self
        }
    }

    /// Who this Control is: what [`identity_key`](crate::identity_key) made, once.
    pub fn identity(self, pkcs8: &[u8]) -> Self {
        Self {
            identity: Some(Identity::from_pkcs8(pkcs8)),
            ..self
        }
    }

    /// The SHA-256 of the certificate (DER) of the authority that the listener's certificate is from, where
    /// that is one of its own. Tokens carry it, and nodes trust nothing else.
    pub fn ca_fingerprint(self, fingerprint: Option<[u8; 32]>) -> Self {
        Self {
            ca_fingerprint: fingerprint,
            ..self
        }
    }

    /// A second way into the REST API, for whoever shows something else than an API key. Whom it proves has
    /// every right in the organization that is always there.
    pub fn authenticator(self, authenticator: impl Authenticator) -> Self {
        Self {
            authenticator: Some(Arc::new(authenticator)),
            ..self
        }
    }

    /// Somebody who hears of every deed after it was committed. There may be several.
    pub fn audit(mut self, sink: impl AuditSink) -> Self {
        self.sinks.push(Arc::new(sink));
        self
    }

    /// By which server mail is sent: invitations, links to a new password, links that verify an address. Without,
    /// none is.
    pub fn mail(self, mailer: Mailer) -> Self {
        Self {
            mail: Some(mailer),
            ..self
        }
    }

    /// The authorities that vouch for identity providers and webhooks, in the place of the system's.
    pub fn trust(self, roots: RootCertStore) -> Self {
        Self {
            roots: Some(roots),
            ..self
        }
    }

    /// Lets webhooks lead to private addresses: to where only this machine and its network reach. Whoever may make
    /// notification channels then chooses what Control connects to there.
    pub fn private_webhooks(self, allowed: bool) -> Self {
        Self {
            private_webhooks: allowed,
            ..self
        }
    }

    /// How long a node may be gone, from Control and from its gateways, before its organization is told:
    /// [`NODE_DOWN_AFTER`], unless this is called.
    pub fn node_down_after(self, grace: Duration) -> Self {
        Self {
            node_down_after: grace,
            ..self
        }
    }

    /// How long entries of the audit are kept: for ever, unless this is called. What a stream of the audit has not
    /// delivered yet is kept for [`MAX_HELD`](crate::service::MAX_HELD) more.
    pub fn audit_retention(self, keep: Option<Duration>) -> Self {
        Self {
            audit_retention: keep,
            ..self
        }
    }

    /// How long an agent may be gone before what it declared as ephemeral is removed: [`LEASE`], unless this
    /// is called.
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// The files of the certificate that Control is served with: they are read again when they change, and their end is
    /// told as the event `certificate.expiring`, in the organization that is always there.
    pub fn certificate(self, files: Arc<CertificateFiles>) -> Self {
        Self {
            certificate: Some(files),
            ..self
        }
    }

    /// An origin whose pages may use the REST API from a browser, with a credential of their own. There may be
    /// several; without any, no page may.
    pub fn allow_origin(mut self, origin: Origin) -> Self {
        self.origins.insert(origin);
        self
    }

    /// A name that requests to the REST API may be for, besides that of the public URL and `localhost`: one that a
    /// proxy in front uses. There may be several.
    pub fn allow_host(mut self, host: Hostname) -> Self {
        self.hosts.push(host);
        self
    }

    /// How many requests the REST API takes from one side: [`Rates::default`], unless this is called.
    pub fn rates(self, rates: Rates) -> Self {
        Self { rates, ..self }
    }

    /// Builds it. Nothing is started before [`Control::router`] is called.
    ///
    /// # Errors
    /// When the public URL or the identity is missing, or is none.
    pub fn build(self) -> Result<Control, BuildError> {
        let public_url: CanonicalUrl = self.public_url.ok_or(BuildError::NoPublicUrl)?.parse()?;
        let identity = self.identity.ok_or(BuildError::NoIdentity)??;
        let use_cases = UseCases::new(Wiring {
            store: self.store,
            sinks: self.sinks,
            control: identity.public_key(),
            ca: self.ca_fingerprint,
            seal: identity.seal(),
            url: public_url.clone(),
            mail: self.mail.clone(),
            tickets: identity.ticket_keys(),
            audit_start: identity.audit_start(),
            webhooks: Webhooks::new(self.private_webhooks, self.roots.clone()),
        });
        let board = Arc::new(PlanBoard::default());
        let config = ServerConfig {
            url: public_url.clone(),
            capabilities: Capabilities::SUPPORTED,
            signer: Arc::new(identity),
            verifier: Arc::new(Ed25519),
        };
        let state = watch::Sender::default();
        let hub = Hub::new(
            config,
            use_cases.clone(),
            Arc::clone(&board),
            self.lease,
            random().map_err(|_| BuildError::Random)?,
            state.subscribe(),
        );
        Ok(Control(Arc::new(Owner {
            use_cases,
            hub: Arc::new(hub),
            authenticator: self.authenticator,
            meter: Meter::new(self.rates),
            busy: Busy::default(),
            hosts: Hosts::new(&public_url, self.hosts),
            origins: self.origins,
            public_url,
            federation: Federation::new(self.roots),
            board,
            state,
            ready: watch::Sender::new(false),
            mail: self.mail,
            node_down_after: self.node_down_after,
            audit_retention: self.audit_retention,
            certificate: self.certificate,
            tasks: Mutex::new(None),
        })))
    }
}

/// Tells browsers to come over TLS only (RFC 6797).
async fn strict_transport(mut response: Response) -> Response {
    let value = HeaderValue::from_static("max-age=31536000");
    response
        .headers_mut()
        .insert(header::STRICT_TRANSPORT_SECURITY, value);
    response
}

impl Owner {
    /// Whether browsers are told to come over TLS only. Not on this machine's own names: the promise would bind
    /// whatever else it serves there, on any port.
    fn strict_transport(&self) -> bool {
        let local = match &self.public_url.endpoint().host {
            Host::Name(name) => {
                let name = name.as_str();
                name == "localhost" || name.ends_with(".localhost")
            }
            Host::Address(_) => true,
        };
        self.public_url.is_secure() && !local
    }

    fn start(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.is_some() || *self.state.borrow() != HubState::Open {
            return;
        }
        let tasks = tasks.insert(JoinSet::new());
        tasks.spawn(planner::run(
            self.use_cases.clone(),
            Arc::clone(&self.board),
            self.ready.clone(),
        ));
        let hub = Arc::clone(&self.hub);
        tasks.spawn(async move { hub.watch_leases().await });
        tasks.spawn(seal_for_ever(self.use_cases.clone()));
        tasks.spawn(forget_for_ever(self.use_cases.clone()));
        tasks.spawn(deliver_for_ever(self.use_cases.clone()));
        if let Some(keep) = self.audit_retention {
            tasks.spawn(prune_for_ever(self.use_cases.clone(), keep));
        }
        tasks.spawn(Arc::clone(&self.hub).watch_outages(self.node_down_after));
        tasks.spawn(Arc::clone(&self.hub).watch_certificates());
        if let Some(files) = &self.certificate {
            tasks.spawn(Arc::clone(&self.hub).watch_own_certificate(Arc::clone(files)));
        }
        tasks.spawn(expire_for_ever(self.use_cases.clone()));
        tasks.spawn(end_overlaps_for_ever(self.use_cases.clone()));
        let hub = Arc::clone(&self.hub);
        tasks.spawn(async move { hub.tell_instances().await });
        tasks.spawn(Arc::clone(&self.hub).answer_instances());
        if let Some(mailer) = self.mail.clone() {
            tasks.spawn(mailer.run());
        }
    }
}
