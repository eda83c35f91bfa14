//! The handle to a gateway.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    key::{IdentityKey, WireGuardKey},
    plan::GatewayRecord,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    GatewayBuilder,
    conductor::Request,
    metrics::{Counters, GatewayMetrics},
    status::GatewayStatus,
};
use crate::{
    engine::{self, ShardSetHandle},
    keys::KeyRing,
    link::{self, LinkStatus, PlanSource, RotateKeysError, RotationAnswer},
};

/// A gateway, for as long as a handle to it is there: when the last clone is dropped, its tasks are
/// aborted, its listeners close, and its flows are reset.
#[derive(Clone)]
pub struct Gateway {
    shards: ShardSetHandle,
    inner: Arc<Inner>,
}

/// What a handle knows without asking.
pub(super) struct Inner {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) status: watch::Receiver<Arc<GatewayStatus>>,
    pub(super) counters: Arc<Counters>,
    pub(super) http: Option<SocketAddr>,
    pub(super) https: SocketAddr,
    pub(super) ca: Option<String>,
    pub(super) keys: KeyRing,
    pub(super) rotations: mpsc::Sender<RotationAnswer>,
}

/// What a shutdown did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Requests, WebSockets and TCP connections that were still open when the time was up, and were cut.
    pub cut: usize,
}

impl Gateway {
    /// A gateway whose plan comes from `source`: Control ([`ControlLink`](crate::link::ControlLink)), a
    /// file or a value ([`FixedPlan`](crate::link::FixedPlan)), or something else.
    #[must_use]
    pub fn builder(source: impl PlanSource<GatewayRecord>) -> GatewayBuilder {
        GatewayBuilder::new(source)
    }

    pub(super) fn new(shards: ShardSetHandle, inner: Inner) -> Self {
        Self {
            shards,
            inner: Arc::new(inner),
        }
    }

    /// Everything about the gateway, now and whenever it changes. It ends with the gateway.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<Arc<GatewayStatus>> {
        self.inner.status.clone()
    }

    /// Waits until the gateway is [ready](GatewayStatus::is_ready). Pends when it has stopped.
    pub async fn ready(&self) {
        let mut status = self.watch_status();
        if status.wait_for(|status| status.is_ready()).await.is_err() {
            std::future::pending().await
        }
    }

    /// What the gateway counted.
    #[must_use]
    pub fn metrics(&self) -> GatewayMetrics {
        self.inner.counters.snapshot()
    }

    /// What the engine counted, on all shards; `None` when it has stopped or is overloaded.
    pub async fn engine_metrics(&self) -> Option<engine::Metrics> {
        self.shards.metrics().await
    }

    /// What the engine had counted about a second ago, on all shards: without waiting.
    #[must_use]
    pub fn latest_engine_metrics(&self) -> engine::Metrics {
        self.shards.latest_metrics()
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.shards().len()
    }

    /// Where HTTP is listened to.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.inner.http
    }

    /// Where HTTPS is listened to.
    #[must_use]
    pub fn https_address(&self) -> SocketAddr {
        self.inner.https
    }

    /// The addresses at which WireGuard's datagrams are received.
    #[must_use]
    pub fn wireguard_addresses(&self) -> &[SocketAddr] {
        self.shards.local_addresses()
    }

    /// The certificate, in PEM, of the CA of the gateway's own, if it uses one: what browsers have to be
    /// told to trust. It is `ca.pem` in the state directory.
    #[must_use]
    pub fn ca_certificate(&self) -> Option<&str> {
        self.inner.ca.as_deref()
    }

    /// Who the gateway is.
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
    /// The identity and the WireGuard key are replaced, the latter not where its organization has sites, whose configurations have it.
    ///
    /// # Errors
    /// When there is no Control, it does not take the keys, or they cannot be kept.
    pub async fn rotate_keys(&self) -> Result<(), RotateKeysError> {
        let fixed = matches!(self.inner.status.borrow().link, LinkStatus::Fixed);
        link::rotate(&self.inner.rotations, fixed).await
    }

    /// Stops: takes no new visitors, announces the end on open connections, waits for open requests at
    /// most `grace`, tells Control what was counted, and cuts what is left.
    ///
    /// Dropping the future does not stop the stopping.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        #[expect(clippy::disallowed_methods, reason = "the caller's time counts from here")]
        let until = Instant::now() + grace;
        let (answer, answered) = oneshot::channel();
        let mut cut = 0;
        // A closed channel means that another shutdown came first.
        if self
            .inner
            .requests
            .send(Request::Shutdown(grace, answer))
            .await
            .is_ok()
        {
            cut = answered.await.unwrap_or_default();
        }
        #[expect(clippy::disallowed_methods, reason = "the caller's time counts from there")]
        let left = until.saturating_duration_since(Instant::now());
        self.shards.shutdown(left).await;
        ShutdownReport { cut }
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("identity", &self.inner.keys.current().identity())
            .field("https", &self.inner.https)
            .finish_non_exhaustive()
    }
}
