//! How an agent reaches a gateway for its lane of TLS streams.

use std::{fmt, io, time::Duration};

use async_trait::async_trait;
use kakuremichi_core::{id::GatewayId, name::Label, net::Endpoint};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::link::{
    EgressProxy,
    dial::{self, DialError},
};

/// Makes the streams of bytes under a lane of TLS streams: how an agent reaches its gateways over TCP.
///
/// Without one the agent dials TCP, through the [egress proxy](super::AgentBuilder::egress_proxy) if there is
/// one. One of your own takes the bytes another way: through a proxy of a special kind, a relay of your
/// company, a serial link, a pipe in a test. They have to arrive at the gateway's HTTPS port.
///
/// A transport carries ciphertext and is trusted with nothing: TLS and the proof of both ends' identities stay
/// above it. One that leads elsewhere is found out. It is asked again and again, with pauses that grow, for as
/// long as there is to be a lane, and several times at once.
///
/// ```
/// use async_trait::async_trait;
/// use kakuremichi_tunnel::agent::{LaneDial, LaneStream, LaneTransport};
/// use tokio::net::UnixStream;
///
/// /// A program on this machine that leads to the gateway.
/// #[derive(Debug)]
/// struct Sidecar;
///
/// #[async_trait]
/// impl LaneTransport for Sidecar {
///     async fn dial(&self, _: LaneDial<'_>) -> std::io::Result<LaneStream> {
///         Ok(LaneStream::new(UnixStream::connect("/run/sidecar.sock").await?))
///     }
/// }
/// # let _ = Sidecar;
/// ```
#[async_trait]
pub trait LaneTransport: fmt::Debug + Send + Sync + 'static {
    /// Opens a stream to the gateway's HTTPS port. Dropping the future gives the attempt up.
    ///
    /// It runs on the agent's thread, inside its tokio runtime: it must not block.
    ///
    /// # Errors
    /// When there is no way there now. The text is shown to whoever looks at the lane, and the same is tried
    /// again later.
    async fn dial(&self, to: LaneDial<'_>) -> io::Result<LaneStream>;

    /// What it is called where people read about it; `custom` without.
    fn name(&self) -> &str {
        "custom"
    }
}

/// What is dialled.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct LaneDial<'a> {
    /// The gateway.
    pub gateway: GatewayId,
    /// Its name.
    pub name: &'a Label,
    /// Where it takes TLS streams, as the plan has it: its HTTPS port.
    pub endpoint: &'a Endpoint,
    /// How long there is for it, TLS and the proof of identity included.
    pub limit: Duration,
}

/// A stream of bytes to a gateway, in both directions, reliable and in order.
///
/// What ends in one direction ends in both: a lane is done with a stream that has ended.
pub struct LaneStream(pub(super) Carrier);

/// What carries a stream.
pub(super) enum Carrier {
    Tcp(TcpStream),
    Other(Box<dyn Duplex>),
}

/// Any stream of bytes.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl LaneStream {
    /// A TCP connection. It is given TCP's keepalive, and its Nagle algorithm is switched off.
    #[must_use]
    pub const fn tcp(stream: TcpStream) -> Self {
        Self(Carrier::Tcp(stream))
    }

    /// Anything else. That nobody is there any more has to be found out by what is below, or is found out by
    /// the lane's own probes, in ten seconds while flows are expected.
    #[must_use]
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Carrier::Other(Box::new(stream)))
    }
}

impl From<TcpStream> for LaneStream {
    fn from(stream: TcpStream) -> Self {
        Self::tcp(stream)
    }
}

impl fmt::Debug for LaneStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Carrier::Tcp(stream) => f.debug_tuple("LaneStream").field(stream).finish(),
            Carrier::Other(_) => f.debug_tuple("LaneStream").finish_non_exhaustive(),
        }
    }
}

/// TCP, through a proxy if there is one.
#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) egress: Option<EgressProxy>,
}

#[async_trait]
impl LaneTransport for Tcp {
    async fn dial(&self, to: LaneDial<'_>) -> io::Result<LaneStream> {
        let connected = match &self.egress {
            Some(proxy) => proxy.connect(to.endpoint, to.limit).await,
            None => dial::connect(to.endpoint, to.limit, |_| true).await,
        };
        connected.map(LaneStream::tcp).map_err(said)
    }

    fn name(&self) -> &str {
        "tcp"
    }
}

fn said(error: DialError) -> io::Error {
    io::Error::other(error)
}
