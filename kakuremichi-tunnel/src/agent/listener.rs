//! Handles to what an agent serves.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use kakuremichi_core::{id::ServiceId, name::Label};
use kakuremichi_proto::declare::{Declaration, DeclaredKind};
use tokio::sync::{mpsc, oneshot, watch};

use super::visitor::{VisitorSession, VisitorStream};
use crate::error::CloseReason;

/// The connections, or the sessions, of one service that wait to be accepted. One that comes while so many wait is
/// refused (the visitor gets `KKM-G012`) and counted; other services are not delayed.
pub const BACKLOG: usize = 128;

/// What a handle sees of its service.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) service: Option<ServiceId>,
    pub(super) urls: Vec<String>,
    pub(super) overflowed: u64,
    pub(super) closed: Option<CloseReason>,
}

/// What both kinds of handle have.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) name: Label,
    /// What `url` says while nobody knows better.
    pub(super) presumed: String,
    pub(super) view: watch::Receiver<View>,
    /// Held: the agent sees when it is dropped.
    _lease: Lease,
}

/// Says by its end that nobody wants the service any more. Nothing is ever sent.
pub(super) type Lease = oneshot::Sender<Infallible>;
/// The other end of a [`Lease`].
pub(super) type Leased = oneshot::Receiver<Infallible>;

impl Handle {
    pub(super) fn new(declaration: &Declaration, view: watch::Receiver<View>, lease: Lease) -> Self {
        let presumed = match &declaration.kind {
            DeclaredKind::Http { hosts, .. } => hosts
                .first()
                .map(|host| format!("https://{host}/"))
                .unwrap_or_default(),
            DeclaredKind::Tcp { port } => format!("tcp://*:{port}"),
            DeclaredKind::Udp { port } => format!("udp://*:{port}"),
        };
        Self {
            name: declaration.name.clone(),
            presumed,
            view,
            _lease: lease,
        }
    }

    fn url(&self) -> String {
        let view = self.view.borrow();
        view.urls.first().unwrap_or(&self.presumed).clone()
    }

    fn reason(&self) -> CloseReason {
        // A view that was left without a reason is one whose agent is gone.
        self.view.borrow().closed.clone().unwrap_or(CloseReason::Gone)
    }

    async fn closed(&self) -> CloseReason {
        let mut view = self.view.clone();
        match view.wait_for(|view| view.closed.is_some()).await {
            Ok(view) => view.closed.clone().unwrap_or(CloseReason::Gone),
            Err(_) => CloseReason::Gone,
        }
    }
}

macro_rules! handle_methods {
    () => {
        /// The service's name among those of the agent.
        #[must_use]
        pub const fn name(&self) -> &Label {
            &self.handle.name
        }

        /// The service's identifier; `None` until Control has answered.
        #[must_use]
        pub fn service(&self) -> Option<ServiceId> {
            self.handle.view.borrow().service
        }

        /// The first URL at which visitors find the service. While no gateway serves it, what it would
        /// be on a gateway with the usual port.
        #[must_use]
        pub fn url(&self) -> String {
            self.handle.url()
        }

        /// Every URL at which visitors find the service.
        #[must_use]
        pub fn urls(&self) -> Vec<String> {
            self.handle.view.borrow().urls.clone()
        }

        /// Waits until the service is no longer served, and says why.
        pub async fn closed(&self) -> CloseReason {
            self.handle.closed().await
        }
    };
}

/// A service inside this process: visitors' connections come out of it.
///
/// It is a [`Stream`] of them, and with the feature `axum` a listener for `axum::serve`. Dropping it ends
/// the service if that is ephemeral; connections that were accepted go on. It does not keep the agent
/// running.
#[derive(Debug)]
pub struct TunnelListener {
    pub(super) handle: Handle,
    pub(super) flows: mpsc::Receiver<VisitorStream>,
}

impl TunnelListener {
    handle_methods!();

    /// The next connection.
    ///
    /// # Errors
    /// Why the service is no longer served, when there is no further connection; each call says it
    /// again (LESSONS: an accept loop that spins after the stack under it died).
    pub async fn accept(&mut self) -> Result<VisitorStream, CloseReason> {
        self.flows.recv().await.ok_or_else(|| self.handle.reason())
    }

    /// How many connections were refused because [`BACKLOG`] others waited.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.handle.view.borrow().overflowed
    }
}

impl Stream for TunnelListener {
    type Item = VisitorStream;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<VisitorStream>> {
        self.flows.poll_recv(cx)
    }
}

#[cfg(feature = "axum")]
impl axum::serve::Listener for TunnelListener {
    type Io = VisitorStream;
    type Addr = super::visitor::Visitor;

    /// Pends after the service is closed, since an axum listener cannot end: see
    /// [`closed`](TunnelListener::closed).
    async fn accept(&mut self) -> (VisitorStream, super::visitor::Visitor) {
        match self.flows.recv().await {
            Some(stream) => {
                let visitor = stream.visitor().clone();
                (stream, visitor)
            }
            None => std::future::pending().await,
        }
    }

    /// There is none: the service has no local port.
    fn local_addr(&self) -> std::io::Result<super::visitor::Visitor> {
        Err(std::io::ErrorKind::AddrNotAvailable.into())
    }
}

#[cfg(feature = "axum")]
impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, TunnelListener>>
    for super::visitor::Visitor
{
    fn connect_info(stream: axum::serve::IncomingStream<'_, TunnelListener>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A UDP service inside this process: visitors' sessions come out of it.
///
/// It is a [`Stream`] of them. Dropping it ends the service if that is ephemeral; sessions that were accepted
/// go on. It does not keep the agent running.
#[derive(Debug)]
pub struct TunnelUdp {
    pub(super) handle: Handle,
    pub(super) sessions: mpsc::Receiver<VisitorSession>,
}

impl TunnelUdp {
    handle_methods!();

    /// The next session. Its first datagram waits in it.
    ///
    /// # Errors
    /// Why the service is no longer served, when there is no further session; each call says it again.
    pub async fn accept(&mut self) -> Result<VisitorSession, CloseReason> {
        self.sessions.recv().await.ok_or_else(|| self.handle.reason())
    }

    /// How many sessions were refused because [`BACKLOG`] others waited.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.handle.view.borrow().overflowed
    }
}

impl Stream for TunnelUdp {
    type Item = VisitorSession;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<VisitorSession>> {
        self.sessions.poll_recv(cx)
    }
}

/// A service that is forwarded to a target. Dropping it ends the service if that is ephemeral. It does
/// not keep the agent running.
#[derive(Debug)]
pub struct Forward {
    pub(super) handle: Handle,
}

impl Forward {
    handle_methods!();
}
