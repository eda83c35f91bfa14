//! A visitor's connection, and who the visitor is.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use kakuremichi_core::{
    auth::Principal,
    id::{GatewayId, ServiceId},
};
use kakuremichi_proto::preface::Preface;
pub use kakuremichi_proto::preface::{ConnectionId, TlsFacts};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flows::Ticket;
use crate::{session::TunnelSession, stream::TunnelStream};

/// Who came, as the gateway says. The agent has checked that the gateway may speak for this service.
/// Clones share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor(Arc<Preface>);

impl Visitor {
    pub(super) fn new(preface: Preface) -> Self {
        Self(Arc::new(preface))
    }

    /// The visitor's address.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.0.source
    }

    /// The address at which the visitor reached the gateway.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.0.destination
    }

    /// What is known of the visitor's TLS; none where there was no TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.0.tls.as_ref()
    }

    /// Who the visitor has proven to be, if the service's policy asks for it.
    ///
    /// At an HTTP service it is who opened the connection: gateways never share a connection to a target
    /// between visitors.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.0.principal.as_ref()
    }

    /// The service that was asked for.
    #[must_use]
    pub fn service(&self) -> ServiceId {
        self.0.service
    }

    /// The gateway that let the visitor in.
    #[must_use]
    pub fn gateway(&self) -> GatewayId {
        self.0.gateway
    }

    /// The gateway that passed the flow on to this agent, where the one that let the visitor in has no lane
    /// to it.
    #[must_use]
    pub fn relay(&self) -> Option<GatewayId> {
        self.0.relay
    }

    /// The visitor's connection, by the name that it has in the gateway's log.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        self.0.connection
    }
}

/// A visitor's connection to a service inside this process.
///
/// It reads, writes, half-closes and is dropped as the [`TunnelStream`] that it is; its tasks may run on
/// any runtime. When the agent's plan does not allow it any more, it fails to read and write; dropping it
/// then resets the flow.
#[derive(Debug)]
pub struct VisitorStream {
    stream: TunnelStream,
    visitor: Visitor,
    /// Dropped behind the stream: the flow has ended.
    ticket: Ticket,
}

/// Why a stream fails that did nothing wrong.
#[derive(Debug, thiserror::Error)]
#[error("the agent's plan does not allow the flow any more")]
struct Revoked;

impl VisitorStream {
    pub(super) const fn new(stream: TunnelStream, visitor: Visitor, ticket: Ticket) -> Self {
        Self {
            stream,
            visitor,
            ticket,
        }
    }

    /// Fails once the agent's plan does not allow the flow any more.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ticket.poll_revoked(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, Revoked)),
            Poll::Pending => Ok(()),
        }
    }

    /// Who came.
    #[must_use]
    pub const fn visitor(&self) -> &Visitor {
        &self.visitor
    }
}

/// A visitor's session at a UDP service inside this process: datagrams to and from one address and port.
///
/// It ends when no datagram passes for a while. Dropping it ends it too; what the visitor sends then begins
/// another one.
#[derive(Debug)]
pub struct VisitorSession {
    session: TunnelSession,
    visitor: Visitor,
    /// Dropped behind the session.
    ticket: Ticket,
}

impl VisitorSession {
    pub(super) const fn new(session: TunnelSession, visitor: Visitor, ticket: Ticket) -> Self {
        Self {
            session,
            visitor,
            ticket,
        }
    }

    /// Who came.
    #[must_use]
    pub const fn visitor(&self) -> &Visitor {
        &self.visitor
    }

    /// Receives a datagram and returns its length; what of it does not fit into `buffer` is lost.
    ///
    /// # Errors
    /// `TimedOut` when no datagram passed for a while; else why the session has ended. The session ends,
    /// too, when the agent's plan does not allow it any more.
    pub async fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        tokio::select! {
            biased;
            () = self.ticket.revoked() => {
                self.session.refuse();
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, Revoked))
            }
            received = self.session.recv(buffer) => received,
        }
    }

    /// Sends a datagram to the visitor. It may be lost, as any may.
    ///
    /// # Errors
    /// `WouldBlock` when so many wait that this one is dropped; else why the session has ended.
    pub fn try_send(&self, data: &[u8]) -> io::Result<()> {
        self.session.try_send(data)
    }
}

impl AsyncRead for VisitorStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl AsyncWrite for VisitorStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
