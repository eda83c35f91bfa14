//! The way from the gateway to a target: the seam between what visitors speak and the engine.

use std::{cell::Cell, error::Error, fmt, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use kakuremichi_core::{
    id::GatewayId,
    plan::{PlannedTarget, Via},
    policy::Permit,
};
use kakuremichi_proto::{
    flow::FlowReply,
    preface::{ConnectionId, TlsFacts},
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{engine::ConnectError, session::TunnelSession, stream::FlowRefused};

use super::{
    balance::{Health, Reach},
    http::pages::Problem,
    usage::ServiceUsage,
};

/// Why a target cannot be reached. It may come from [`Upstream::open`], or as the error of the first
/// read of the stream: data may be sent before the other end has dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum FlowError {
    /// The agent or site is offline.
    #[error("the agent is offline")]
    Offline,
    /// The target refused the connection.
    #[error("the target refused the connection")]
    Refused,
    /// The target, or the way to it, did not answer in time.
    #[error("the target did not answer in time")]
    TimedOut,
    /// The agent has no way to the target.
    #[error("the target cannot be reached")]
    Unreachable,
    /// The agent's plan has no such target, or its listener is closed.
    #[error("the agent does not know the target")]
    Denied,
    /// A bound is reached, at the gateway or at the agent.
    #[error("there are too many flows")]
    Overloaded,
    /// The other end does not speak our protocol, or broke off.
    #[error("the flow broke off")]
    Broken,
    /// The target's certificate does not verify, or TLS failed.
    #[error("the target's certificate does not verify")]
    Certificate,
}

impl FlowError {
    /// What the visitor is told.
    pub(crate) const fn problem(self) -> Problem {
        match self {
            Self::Offline => Problem::Offline,
            Self::Refused | Self::Unreachable => Problem::Refused,
            Self::TimedOut => Problem::TimedOut,
            Self::Denied => Problem::AgentDenied,
            Self::Overloaded => Problem::Overloaded,
            Self::Broken => Problem::Broken,
            Self::Certificate => Problem::Certificate,
        }
    }

    /// Finds the reason in whatever an IO layer wrapped around it.
    pub(crate) fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(*found);
            }
            if let Some(refused) = error.downcast_ref::<FlowRefused>() {
                return Some(refused.0.into());
            }
            if let Some(failed) = error.downcast_ref::<ConnectError>() {
                return Some((*failed).into());
            }
            let inner = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
                .and_then(|inner| Self::find(inner));
            if inner.is_some() {
                return inner;
            }
            next = error.source();
        }
        None
    }
}

impl From<FlowReply> for FlowError {
    fn from(reply: FlowReply) -> Self {
        match reply {
            FlowReply::Refused => Self::Refused,
            FlowReply::TimedOut => Self::TimedOut,
            FlowReply::Unreachable => Self::Unreachable,
            FlowReply::Denied | FlowReply::Unknown => Self::Denied,
            FlowReply::Overloaded => Self::Overloaded,
            FlowReply::Draining | FlowReply::Offline => Self::Offline,
            FlowReply::Connected => Self::Broken,
        }
    }
}

impl From<ConnectError> for FlowError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::UnknownPeer | ConnectError::Offline | ConnectError::Unroutable => Self::Offline,
            ConnectError::Refused => Self::Refused,
            ConnectError::TimedOut => Self::TimedOut,
            ConnectError::Overloaded => Self::Overloaded,
            ConnectError::Socket | ConnectError::Stopped => Self::Broken,
        }
    }
}

impl From<FlowError> for io::Error {
    fn from(error: FlowError) -> Self {
        let kind = match error {
            FlowError::Offline | FlowError::Unreachable => io::ErrorKind::HostUnreachable,
            FlowError::Refused | FlowError::Denied | FlowError::Overloaded => {
                io::ErrorKind::ConnectionRefused
            }
            FlowError::TimedOut => io::ErrorKind::TimedOut,
            FlowError::Broken => io::ErrorKind::ConnectionReset,
            FlowError::Certificate => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// What the target's side is told about the visitor, in the preface of the flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VisitorFacts {
    /// The visitor's address.
    pub(crate) address: SocketAddr,
    /// The address at which it was accepted.
    pub(crate) local: SocketAddr,
    /// Names the visitor's connection.
    pub(crate) connection: ConnectionId,
    /// TLS toward the visitor; none at raw TCP services.
    pub(crate) tls: Option<TlsFacts>,
}

/// A flow to be opened for a visitor. Only with a [`Permit`] there is one.
#[derive(Debug)]
pub(crate) struct FlowRequest<'a> {
    /// The right to open it.
    pub(crate) permit: &'a Permit,
    /// Where it goes.
    pub(crate) target: &'a PlannedTarget,
    /// For whom.
    pub(crate) visitor: &'a VisitorFacts,
    /// Who is charged.
    pub(crate) usage: &'a Arc<ServiceUsage>,
    /// The target's answer is waited for. Otherwise data may be sent before it is known, and the
    /// stream's first read tells.
    pub(crate) wait: bool,
    /// Where it is noted which other gateway passes it on.
    pub(crate) relay: &'a Cell<Option<GatewayId>>,
}

/// Opens flows to targets.
pub(crate) trait Upstream: Clone + fmt::Debug + 'static {
    /// A connection to a target.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Opens a flow. The caller limits the time.
    fn open(&self, request: FlowRequest<'_>) -> impl Future<Output = Result<Self::Stream, FlowError>>;

    /// Serves a visitor's socket with a flow until both directions have ended, and charges the service.
    fn splice(
        &self,
        socket: std::net::TcpStream,
        request: FlowRequest<'_>,
    ) -> impl Future<Output = SpliceOutcome>;

    /// Opens a session of datagrams, which ends when none passes for `idle`. Whether the target takes any
    /// shows by its answers only.
    fn session(
        &self,
        request: FlowRequest<'_>,
        idle: Duration,
    ) -> impl Future<Output = Result<OpenedSession, FlowError>>;

    /// Whether a session that went this way is left there: its lane carries, or no other would.
    fn stays(&self, target: &PlannedTarget, way: SessionWay) -> bool;

    /// A session that went this way is given up, since it was refused again and again.
    fn refused(&self, way: SessionWay);

    /// Whether the path to an agent or a site works.
    fn reach(&self, via: &Via) -> Reach;

    /// What other gateways say about a target that is [reached](Self::reach) through them.
    fn relayed_health(&self, target: &PlannedTarget) -> Health;
}

/// A session that was opened.
#[derive(Debug)]
pub(crate) struct OpenedSession {
    /// The session.
    pub(crate) session: TunnelSession,
    /// How it goes.
    pub(crate) way: SessionWay,
}

/// How a session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionWay {
    /// Over WireGuard, straight.
    Engine,
    /// Over TLS streams. It ends with its connection.
    Streams,
    /// Through another gateway.
    Sibling(GatewayId),
}

/// What became of a spliced connection.
#[derive(Debug)]
pub(crate) struct SpliceOutcome {
    /// Bytes toward the target.
    pub(crate) sent: u64,
    /// Bytes from the target.
    pub(crate) received: u64,
    /// Why it ended before its time.
    pub(crate) error: Option<FlowError>,
    /// The socket, when the target did not take the connection and nothing of the visitor was read:
    /// it may be offered to another.
    pub(crate) returned: Option<std::net::TcpStream>,
}

impl SpliceOutcome {
    /// A connection on which nothing moved.
    pub(crate) const fn failed(error: FlowError, returned: Option<std::net::TcpStream>) -> Self {
        Self {
            sent: 0,
            received: 0,
            error: Some(error),
            returned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_reason_is_found_below_other_errors() {
        let wrapped = Outer(io::Error::other(Outer(FlowError::Refused.into())));
        assert_eq!(FlowError::find(&wrapped), Some(FlowError::Refused));
        assert_eq!(FlowError::find(&Outer(io::ErrorKind::BrokenPipe.into())), None);
    }
}
