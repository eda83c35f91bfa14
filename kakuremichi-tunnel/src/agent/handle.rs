//! The handle to an agent.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    key::{IdentityKey, WireGuardKey},
    model::{TargetAddress, Transport},
    plan::AgentRecord,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    AgentBuilder, Forward, Service, ServiceError, TunnelListener, TunnelUdp, conductor::Request,
    exposure::Outlet, listener::Handle,
};
use crate::{
    engine::{self, ShardHandle},
    error::{CloseReason, ExposeError},
    keys::KeyRing,
    link::{self, LinkEnd, LinkStatus, PlanSource, RotateKeysError, RotationAnswer},
    status::{AgentEvent, AgentStatus, Events, Phase},
};

/// An agent, for as long as a handle to it is there: when the last clone is dropped, its tasks are
/// aborted and its flows are reset. Listeners, forwards and streams do not keep it running.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    shard: ShardHandle,
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<Arc<AgentStatus>>,
    events: broadcast::WeakSender<AgentEvent>,
    keys: KeyRing,
    rotations: mpsc::Sender<RotationAnswer>,
}

/// What a shutdown did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Flows that were still open when the time was up, and were reset.
    pub cut: usize,
}

impl Agent {
    /// An agent of the Control at `url`. The token lets it enrol when it starts for the first time.
    #[must_use]
    pub fn builder(url: impl Into<String>, token: impl Into<String>) -> AgentBuilder {
        AgentBuilder::control(url, token)
    }

    /// An agent whose plan comes from elsewhere, or from a [`ControlLink`](crate::link::ControlLink)
    /// that was set up by hand.
    #[must_use]
    pub fn with_source(source: impl PlanSource<AgentRecord>) -> AgentBuilder {
        AgentBuilder::new(source)
    }

    pub(super) fn new(
        shard: ShardHandle,
        requests: mpsc::Sender<Request>,
        status: watch::Receiver<Arc<AgentStatus>>,
        events: broadcast::WeakSender<AgentEvent>,
        keys: KeyRing,
        rotations: mpsc::Sender<RotationAnswer>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                shard,
                requests,
                status,
                events,
                keys,
                rotations,
            }),
        }
    }

    /// Serves a service inside this process, with no local port.
    ///
    /// It waits until Control has answered, or until the plan has such a service: then also while
    /// Control is away.
    ///
    /// # Errors
    /// When the service cannot be, Control refuses it, or nobody can be asked.
    pub async fn expose(&self, service: Service) -> Result<TunnelListener, ExposeError> {
        if service.transport() == Some(Transport::Udp) {
            return Err(ServiceError::Datagrams.into());
        }
        match self.declare(service, TargetAddress::InProcess).await? {
            (handle, Outlet::Streams(flows)) => Ok(TunnelListener { handle, flows }),
            (_, Outlet::Sessions(_)) => Err(ServiceError::Datagrams.into()),
        }
    }

    /// Serves a UDP service inside this process, as [`expose`](Self::expose) does others: the sessions of
    /// visitors come out of it.
    ///
    /// # Errors
    /// When the service is none of UDP, or as `expose` says.
    pub async fn expose_udp(&self, service: Service) -> Result<TunnelUdp, ExposeError> {
        if service.transport() == Some(Transport::Tcp) {
            return Err(ServiceError::Streams.into());
        }
        match self.declare(service, TargetAddress::InProcess).await? {
            (handle, Outlet::Sessions(sessions)) => Ok(TunnelUdp { handle, sessions }),
            (_, Outlet::Streams(_)) => Err(ServiceError::Streams.into()),
        }
    }

    /// Declares a service and forwards it to `target`: `host:port` as this machine sees it (a UDP port for
    /// a UDP service), or `unix:/path` of a stream socket. It waits as [`expose`](Self::expose) does.
    ///
    /// # Errors
    /// When the service cannot be, the target cannot be read, Control refuses it, or nobody can be
    /// asked. Whether the target can be reached is not asked here.
    pub async fn forward(&self, service: Service, target: &str) -> Result<Forward, ExposeError> {
        let datagrams = service.transport() == Some(Transport::Udp);
        let address = match target.strip_prefix("unix:") {
            Some(_) if datagrams => return Err(ExposeError::Target),
            None if datagrams => TargetAddress::Udp(target.parse().map_err(|_| ExposeError::Target)?),
            Some(path) if path.starts_with('/') => TargetAddress::Unix(PathBuf::from(path)),
            Some(_) => return Err(ExposeError::Target),
            None => TargetAddress::Tcp(target.parse().map_err(|_| ExposeError::Target)?),
        };
        let (handle, _) = self.declare(service, address).await?;
        Ok(Forward { handle })
    }

    async fn declare(
        &self,
        service: Service,
        address: TargetAddress,
    ) -> Result<(Handle, Outlet), ExposeError> {
        let declaration = Box::new(service.declaration(address)?);
        let (answer, answered) = oneshot::channel();
        let gone = || ExposeError::Closed(self.end().unwrap_or(CloseReason::Gone));
        self.inner
            .requests
            .send(Request::Expose(declaration, answer))
            .await
            .map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Waits until the data path works: a probe through one lane at least was answered. Pends when the
    /// agent is closed; see [`closed`](Self::closed).
    pub async fn online(&self) {
        let mut status = self.watch_status();
        if status.wait_for(|status| status.is_online()).await.is_err() {
            std::future::pending().await
        }
    }

    /// Everything about the agent, now and whenever it changes. It ends with the agent.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<Arc<AgentStatus>> {
        self.inner.status.clone()
    }

    /// What the engine has counted, about once a second. It ends with the agent.
    #[must_use]
    pub fn watch_engine_metrics(&self) -> watch::Receiver<engine::Metrics> {
        self.inner.shard.watch_metrics()
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events(match self.inner.events.upgrade() {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).1,
        })
    }

    /// Who the agent is.
    #[must_use]
    pub fn identity(&self) -> IdentityKey {
        self.inner.keys.current().identity()
    }

    /// How its lanes are keyed.
    #[must_use]
    pub fn wireguard_key(&self) -> WireGuardKey {
        self.inner.keys.current().wireguard()
    }

    /// Makes new keys and has Control take them in the place of those that it knows, without downtime: those of before
    /// count beside them for a while. It waits until Control has answered, for as long as there is no link to it;
    /// dropping the future ends the waiting, and not the rotation. Control can ask for it, too.
    ///
    /// The identity and the WireGuard key are replaced, and flows through tunnels go on.
    ///
    /// # Errors
    /// When there is no Control, it does not take the keys, or they cannot be kept.
    pub async fn rotate_keys(&self) -> Result<(), RotateKeysError> {
        let fixed = matches!(self.inner.status.borrow().link, LinkStatus::Fixed);
        link::rotate(&self.inner.rotations, fixed).await
    }

    /// The addresses at which it receives WireGuard's datagrams.
    #[must_use]
    pub fn local_addresses(&self) -> &[SocketAddr] {
        self.inner.shard.local_addresses()
    }

    /// Waits until the agent is shut down, or Control refuses it for good; then says why. An agent that
    /// is refused goes on by its last plan until it is dropped.
    pub async fn closed(&self) -> CloseReason {
        let mut status = self.watch_status();
        loop {
            if let Some(reason) = self.end() {
                return reason;
            }
            if status.changed().await.is_err() {
                return self.end().unwrap_or(CloseReason::Gone);
            }
        }
    }

    fn end(&self) -> Option<CloseReason> {
        let status = self.inner.status.borrow();
        match (&status.phase, &status.link) {
            (Phase::Closed(reason), _) => Some(reason.clone()),
            (_, LinkStatus::Ended(end @ LinkEnd::Refused(_))) => Some(CloseReason::Link(end.clone())),
            _ => None,
        }
    }

    /// Stops: takes no new flows, ends its listeners, waits for open flows at most `grace`, tells Control
    /// what was counted, and resets what is left. Services that were declared to stay stay.
    ///
    /// Dropping the future does not stop the stopping.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        #[expect(clippy::disallowed_methods, reason = "the caller's time counts from here")]
        let until = Instant::now() + grace;
        let (answer, answered) = oneshot::channel();
        // A closed channel means that another shutdown came first.
        if self
            .inner
            .requests
            .send(Request::Shutdown(grace, answer))
            .await
            .is_ok()
        {
            let _ = answered.await;
        }
        #[expect(clippy::disallowed_methods, reason = "the caller's time counts from there")]
        let left = until.saturating_duration_since(Instant::now());
        let drained = self.inner.shard.shutdown(left).await;
        ShutdownReport { cut: drained.cut }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("identity", &self.inner.keys.current().identity())
            .finish_non_exhaustive()
    }
}
