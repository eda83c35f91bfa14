//! A Control that listens on loopback.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_control::{
    Control, identity_key,
    serve::{Transport, serve},
    service::{
        Actor, KindDraft, PlaceDraft, PoolDraft, Reference, RouteDraft, ServiceDraft, TargetDraft,
        TokenDraft, UseCases,
    },
};
use kakuremichi_core::{
    id::{AgentId, NodeId, ServiceId},
    key::IdentityKey,
    model::{DeclareScope, IdentityForm, Node, Role, Service, TargetAddress, TargetScheme},
    policy::Policy,
    secret::Secret,
    store::{Store, Stored},
};
use kakuremichi_proto::identity::TokenText;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// What every node dials, whatever the listener's address is.
pub(crate) const PUBLIC_URL: &str = "https://control.example.net";
/// What takes longer has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A Control that listens on loopback.
pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<dyn Store>,
    identity: Secret<Vec<u8>>,
    server: JoinHandle<()>,
    _stop: watch::Sender<bool>,
}

impl World {
    /// Starts a Control.
    pub(crate) async fn start(store: Arc<dyn Store>) -> Self {
        Self::start_as(store, identity_key().unwrap(), Duration::from_secs(60)).await
    }

    /// Starts a Control where leases are short.
    pub(crate) async fn with_lease(store: Arc<dyn Store>, lease: Duration) -> Self {
        Self::start_as(store, identity_key().unwrap(), lease).await
    }

    /// Ends this Control without a word, and starts another on its store.
    pub(crate) async fn restart(self) -> Self {
        let (store, identity) = (Arc::clone(&self.store), self.identity.clone());
        drop(self);
        Self::start_as(store, identity, Duration::from_secs(60)).await
    }

    /// Starts another instance of this Control on a store of its own.
    pub(crate) async fn another_instance(&self, store: Arc<dyn Store>, lease: Duration) -> Self {
        Self::start_as(store, self.identity.clone(), lease).await
    }

    async fn start_as(store: Arc<dyn Store>, identity: Secret<Vec<u8>>, lease: Duration) -> Self {
        let control = Control::builder_shared(Arc::clone(&store))
            .public_url(PUBLIC_URL)
            .identity(identity.expose())
            .lease(lease)
            .build()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, Transport::default(), control.router(), stopped));
        control.ready().await;
        Self {
            control,
            address,
            store,
            identity,
            server,
            _stop: stop,
        }
    }

    pub(crate) fn use_cases(&self) -> &UseCases {
        self.control.use_cases()
    }

    pub(crate) fn identity(&self) -> IdentityKey {
        self.control.identity()
    }

    pub(crate) async fn actor(&self) -> Actor {
        self.use_cases().control().await.unwrap()
    }

    /// A token for one role, without a scope.
    pub(crate) async fn token(&self, role: Role) -> TokenText {
        self.scoped_token(role, None, DeclareScope::default()).await
    }

    pub(crate) async fn scoped_token(
        &self,
        role: Role,
        uses: Option<u32>,
        declare: DeclareScope,
    ) -> TokenText {
        let draft = TokenDraft {
            name: "test".parse().unwrap(),
            role,
            uses,
            expires: None,
            declare,
            approval: false,
            labels: Default::default(),
        };
        let token = self
            .use_cases()
            .create_token(&self.actor().await, draft)
            .await
            .unwrap();
        token.text.expose().parse().unwrap()
    }

    pub(crate) async fn node(&self, id: NodeId) -> Stored<Node> {
        self.use_cases().node(&self.actor().await, id).await.unwrap()
    }

    /// An HTTP service with one target at an agent.
    pub(crate) async fn publish(&self, name: &str, agent: AgentId) -> Stored<Service> {
        let actor = self.actor().await;
        self.use_cases()
            .create_service(&actor, service(name, agent))
            .await
            .unwrap()
    }

    pub(crate) async fn service(&self, id: ServiceId) -> Option<Service> {
        let found = self.use_cases().service(&self.actor().await, id).await;
        found.ok().map(|stored| stored.value)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An HTTP service with one target at an agent.
pub(crate) fn service(name: &str, agent: AgentId) -> ServiceDraft {
    let target = TargetDraft {
        place: PlaceDraft::Agent {
            agent: Reference::Id(agent),
            address: TargetAddress::Tcp("127.0.0.1:8080".parse().unwrap()),
        },
        scheme: TargetScheme::Plain,
    };
    ServiceDraft {
        name: name.parse().unwrap(),
        kind: KindDraft::Http {
            hosts: vec![format!("{name}.example.net").parse().unwrap()],
            routes: vec![RouteDraft {
                path: "/".parse().unwrap(),
                pool: PoolDraft {
                    targets: vec![target],
                    health: None,
                },
                policies: Vec::new(),
            }],
            identity: IdentityForm::default(),
        },
        policy: Policy::public().into(),
        policies: Vec::new(),
    }
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is().await {
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
