//! Connections to a gateway's HTTPS port.

#![expect(clippy::disallowed_methods, reason = "a dial has a deadline")]

use std::{cell::Cell, io, sync::Arc, time::Duration};

use kakuremichi_core::{
    id::GatewayId,
    name::Label,
    net::{Endpoint, Host},
};
use kakuremichi_proto::lane::hello::{HelloRefusal, Purpose};
use rustls::{
    ClientConfig, ClientConnection,
    crypto::CryptoProvider,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::foreign::{Cut, Foreign};
use crate::{
    agent::transport::{Carrier, LaneDial, LaneTransport},
    streams::{
        connection::Connection,
        hello::{self, Ends, HelloError, Shown},
        socket::Socket,
        tls,
        websocket::{self, WebSocketError},
    },
};

/// How long name, connection, TLS and the proof of identity have. A WebSocket is tried after that, with as
/// much again.
const LIMIT: Duration = Duration::from_secs(8);
/// An agent has one.
const SHARD: u8 = 0;

/// Why a gateway cannot be reached over TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(in super::super) enum StreamError {
    /// Nothing was reached.
    #[error("cannot connect: {0}")]
    Dial(#[source] io::Error),
    /// The name cannot stand in a TLS handshake.
    #[error("the gateway's name cannot be used with TLS")]
    Name(#[from] InvalidDnsNameError),
    /// TLS failed.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// The cryptography provider cannot speak TLS 1.3.
    #[error("the cryptography provider cannot be used: {0}")]
    Provider(#[from] rustls::Error),
    /// One of the two did not prove who it is.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// Something in between chose another protocol.
    #[error("what answers TLS does not speak the lane's protocol")]
    Protocol,
    /// No WebSocket either.
    #[error("{direct}; and as a WebSocket: {websocket}")]
    Neither {
        /// Why not directly.
        direct: Box<Self>,
        /// Why not as a WebSocket.
        websocket: Box<Self>,
    },
    /// There is no WebSocket.
    #[error(transparent)]
    WebSocket(#[from] WebSocketError),
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// The plan says of no place where the gateway takes streams.
    #[error("the plan has no address for TLS streams of the gateway")]
    NoEndpoint,
}

/// How connections are made, to whomever.
#[derive(Debug, Clone)]
pub(in super::super) struct Dialling {
    pub(in super::super) transport: Arc<dyn LaneTransport>,
    pub(in super::super) provider: Arc<CryptoProvider>,
}

impl StreamError {
    /// Whether the gateway knows other keys than those that were shown.
    const fn is_of_keys(&self) -> bool {
        matches!(self, Self::Hello(HelloError::Refused(HelloRefusal::Identity)))
    }

    /// Whether something in between may be what does not let the lane's protocol pass, so that a WebSocket
    /// is worth a try.
    const fn may_be_a_middlebox(&self) -> bool {
        match self {
            Self::Tls(_) | Self::Protocol | Self::TimedOut => true,
            Self::Hello(error) => matches!(error, HelloError::Io(_) | HelloError::Protocol(_)),
            Self::Dial(_)
            | Self::Name(_)
            | Self::Provider(_)
            | Self::Neither { .. }
            | Self::WebSocket(_)
            | Self::NoEndpoint => false,
        }
    }
}

/// A connection that was made.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    pub(super) cut: Cut,
    /// The keys by which its ends know each other.
    pub(super) shown: Shown,
}

/// Dials one gateway. Sessions of TLS are remembered between dials, and so is what gets through.
#[derive(Debug)]
pub(super) struct Dialler {
    ends: Ends,
    name: Label,
    transport: Arc<dyn LaneTransport>,
    direct: Result<Arc<ClientConfig>, rustls::Error>,
    websocket: Result<Arc<ClientConfig>, rustls::Error>,
    /// Only a WebSocket got through last.
    insists: Cell<bool>,
}

impl Dialler {
    /// `name` is the gateway's.
    pub(super) fn new(ends: Ends, name: Label, dialling: Dialling) -> Self {
        Self {
            ends,
            name,
            transport: dialling.transport,
            direct: tls::client_config(&dialling.provider, tls::LANE),
            websocket: tls::client_config(&dialling.provider, tls::HTTP),
            insists: Cell::new(false),
        }
    }

    pub(super) const fn gateway(&self) -> GatewayId {
        self.ends.gateway
    }

    pub(super) const fn ends(&self) -> &Ends {
        &self.ends
    }

    /// A connection whose ends know each other, to the first of `endpoints` with which there is one. While keys are
    /// being rotated not everybody has heard of the new ones: where those are refused, the others that count are tried.
    pub(super) async fn dial(
        &self,
        endpoints: &[Endpoint],
        purpose: Purpose,
    ) -> Result<Dialled, StreamError> {
        let mut last = StreamError::NoEndpoint;
        for shown in self.ends.shown() {
            for endpoint in endpoints {
                match self.dial_one(endpoint, purpose, &shown).await {
                    Ok((connection, cut)) => {
                        return Ok(Dialled {
                            connection,
                            cut,
                            shown,
                        });
                    }
                    Err(error) => last = error,
                }
            }
            if !last.is_of_keys() {
                break;
            }
        }
        Err(last)
    }

    /// The lane's own protocol first, and a WebSocket where a middlebox insists on one. What the lane as a
    /// whole found out counts for its flows.
    async fn dial_one(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
        shown: &Shown,
    ) -> Result<(Connection, Cut), StreamError> {
        let mut direct = None;
        if purpose == Purpose::Control || !self.insists.get() {
            let connected = timeout(LIMIT, self.directly(endpoint, purpose, shown)).await;
            match connected.unwrap_or(Err(StreamError::TimedOut)) {
                Ok(connected) => {
                    self.insists.set(false);
                    return Ok(connected);
                }
                Err(error) if error.may_be_a_middlebox() => direct = Some(error),
                Err(error) => return Err(error),
            }
        }
        let connected = timeout(LIMIT, self.as_websocket(endpoint, purpose, shown)).await;
        match (connected.unwrap_or(Err(StreamError::TimedOut)), direct) {
            (Ok(connected), _) => {
                self.insists.set(true);
                Ok(connected)
            }
            // The other end, or who is in between, was found out.
            (Err(error @ StreamError::Hello(_)), _) | (Err(error), None) => Err(error),
            (Err(websocket), Some(direct)) => Err(StreamError::Neither {
                direct: Box::new(direct),
                websocket: Box::new(websocket),
            }),
        }
    }

    async fn directly(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
        shown: &Shown,
    ) -> Result<(Connection, Cut), StreamError> {
        let (carrier, config) = self.reach(endpoint, &self.direct).await?;
        match carrier {
            Reached::Tcp(socket, cut) => {
                let stream = encrypted(endpoint, config, socket).await?;
                Ok((self.introduced(stream, purpose, shown).await?, cut))
            }
            Reached::Other(stream, cut) => {
                let stream = encrypted(endpoint, config, stream).await?;
                Ok((self.introduced(stream, purpose, shown).await?, cut))
            }
        }
    }

    async fn as_websocket(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
        shown: &Shown,
    ) -> Result<(Connection, Cut), StreamError> {
        let (carrier, config) = self.reach(endpoint, &self.websocket).await?;
        match carrier {
            Reached::Tcp(socket, cut) => {
                let stream = encrypted(endpoint, config, socket).await?;
                Ok((self.upgraded(endpoint, stream, purpose, shown).await?, cut))
            }
            Reached::Other(stream, cut) => {
                let stream = encrypted(endpoint, config, stream).await?;
                Ok((self.upgraded(endpoint, stream, purpose, shown).await?, cut))
            }
        }
    }

    /// Has the transport open a stream.
    async fn reach(
        &self,
        endpoint: &Endpoint,
        config: &Result<Arc<ClientConfig>, rustls::Error>,
    ) -> Result<(Reached, Arc<ClientConfig>), StreamError> {
        let config = Arc::clone(config.as_ref().map_err(Clone::clone)?);
        let to = LaneDial {
            gateway: self.ends.gateway,
            name: &self.name,
            endpoint,
            limit: LIMIT,
        };
        let stream = self.transport.dial(to).await.map_err(StreamError::Dial)?;
        let reached = match stream.0 {
            Carrier::Tcp(stream) => {
                let socket = Socket::new(stream);
                socket.keep_alive();
                let cut = Cut::Socket(socket.cut());
                Reached::Tcp(socket, cut)
            }
            Carrier::Other(stream) => {
                let stream = Foreign::new(stream);
                let cut = stream.cut();
                Reached::Other(stream, cut)
            }
        };
        Ok((reached, config))
    }

    /// The lane's own protocol over TLS.
    async fn introduced<S: Stream>(
        &self,
        mut stream: TlsStream<S>,
        purpose: Purpose,
        shown: &Shown,
    ) -> Result<Connection, StreamError> {
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(tls::LANE) {
            return Err(StreamError::Protocol);
        }
        if purpose == Purpose::Control {
            self.tell(session);
        }
        let exporter = hello::exporter(session).map_err(StreamError::Tls)?;
        hello::introduce(&mut stream, &exporter, &self.ends, shown, purpose).await?;
        Ok(Connection::new(self.ends.agent, SHARD, Box::new(stream), None))
    }

    /// A WebSocket over TLS.
    async fn upgraded<S: Stream>(
        &self,
        endpoint: &Endpoint,
        stream: TlsStream<S>,
        purpose: Purpose,
        shown: &Shown,
    ) -> Result<Connection, StreamError> {
        let session = stream.get_ref().1;
        if purpose == Purpose::Control {
            self.tell(session);
        }
        let exporter = hello::exporter(session).map_err(StreamError::Tls)?;
        let mut socket = websocket::ask(stream, &endpoint.to_string()).await?;
        hello::introduce(&mut socket, &exporter, &self.ends, shown, purpose).await?;
        Ok(Connection::new(self.ends.agent, SHARD, Box::new(socket), None))
    }

    /// Says what was agreed on, for those who want to know whether it is what they think.
    fn tell(&self, session: &ClientConnection) {
        tracing::debug!(
            gateway = %self.name,
            transport = self.transport.name(),
            cipher = ?session.negotiated_cipher_suite().map(|suite| suite.suite()),
            // A session that is resumed may have none.
            exchange = ?session.negotiated_key_exchange_group().map(|group| group.name()),
            "TLS to a gateway"
        );
    }
}

/// What a transport opened.
enum Reached {
    Tcp(Socket, Cut),
    Other(Foreign, Cut),
}

/// What TLS runs over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

async fn encrypted<S: Stream>(
    endpoint: &Endpoint,
    config: Arc<ClientConfig>,
    stream: S,
) -> Result<TlsStream<S>, StreamError> {
    let name = match &endpoint.host {
        Host::Address(address) => ServerName::from(*address),
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned())?,
    };
    let connected = TlsConnector::from(config).connect(name, stream).await;
    connected.map_err(StreamError::Tls)
}
