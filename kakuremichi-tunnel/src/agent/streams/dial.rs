//! Connections to a gateway's HTTPS port.

#![expect(clippy::disallowed_methods, reason = "a dial has a deadline")]

use std::{cell::Cell, io, sync::Arc, time::Duration};

use kakuremichi_core::{
    id::GatewayId,
    net::{Endpoint, Host},
};
use kakuremichi_proto::lane::hello::Purpose;
use rustls::{
    ClientConfig,
    crypto::CryptoProvider,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    link::{
        EgressProxy,
        dial::{self, DialError},
    },
    streams::{
        connection::Connection,
        hello::{self, Ends, HelloError},
        socket::{Cut, Socket},
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
    Dial(#[from] DialError),
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
    pub(in super::super) egress: Option<EgressProxy>,
    pub(in super::super) provider: Arc<CryptoProvider>,
}

impl StreamError {
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

/// Dials one gateway. Sessions of TLS are remembered between dials, and so is what gets through.
#[derive(Debug)]
pub(super) struct Dialler {
    ends: Ends,
    egress: Option<EgressProxy>,
    direct: Result<Arc<ClientConfig>, rustls::Error>,
    websocket: Result<Arc<ClientConfig>, rustls::Error>,
    /// Only a WebSocket got through last.
    insists: Cell<bool>,
}

impl Dialler {
    pub(super) fn new(ends: Ends, dialling: Dialling) -> Self {
        Self {
            ends,
            egress: dialling.egress,
            direct: tls::client_config(&dialling.provider, tls::LANE),
            websocket: tls::client_config(&dialling.provider, tls::HTTP),
            insists: Cell::new(false),
        }
    }

    pub(super) const fn gateway(&self) -> GatewayId {
        self.ends.gateway
    }

    /// A connection whose ends know each other, to the first of `endpoints` with which there is one.
    pub(super) async fn dial(
        &self,
        endpoints: &[Endpoint],
        purpose: Purpose,
    ) -> Result<(Connection, Cut), StreamError> {
        let mut last = StreamError::NoEndpoint;
        for endpoint in endpoints {
            match self.dial_one(endpoint, purpose).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
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
    ) -> Result<(Connection, Cut), StreamError> {
        let mut direct = None;
        if purpose == Purpose::Control || !self.insists.get() {
            let connected = timeout(LIMIT, self.directly(endpoint, purpose)).await;
            match connected.unwrap_or(Err(StreamError::TimedOut)) {
                Ok(connected) => {
                    self.insists.set(false);
                    return Ok(connected);
                }
                Err(error) if error.may_be_a_middlebox() => direct = Some(error),
                Err(error) => return Err(error),
            }
        }
        let connected = timeout(LIMIT, self.as_websocket(endpoint, purpose)).await;
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
    ) -> Result<(Connection, Cut), StreamError> {
        let (mut stream, cut) = self.tls(endpoint, &self.direct).await?;
        if stream.get_ref().1.alpn_protocol() != Some(tls::LANE) {
            return Err(StreamError::Protocol);
        }
        let exporter = hello::exporter(stream.get_ref().1).map_err(StreamError::Tls)?;
        hello::introduce(&mut stream, &exporter, &self.ends, purpose).await?;
        Ok((
            Connection::new(self.ends.agent, SHARD, Box::new(stream), None),
            cut,
        ))
    }

    async fn as_websocket(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
    ) -> Result<(Connection, Cut), StreamError> {
        let (stream, cut) = self.tls(endpoint, &self.websocket).await?;
        let exporter = hello::exporter(stream.get_ref().1).map_err(StreamError::Tls)?;
        let mut socket = websocket::ask(stream, &endpoint.to_string()).await?;
        hello::introduce(&mut socket, &exporter, &self.ends, purpose).await?;
        Ok((
            Connection::new(self.ends.agent, SHARD, Box::new(socket), None),
            cut,
        ))
    }

    async fn tls(
        &self,
        endpoint: &Endpoint,
        config: &Result<Arc<ClientConfig>, rustls::Error>,
    ) -> Result<(TlsStream<Socket>, Cut), StreamError> {
        let config = Arc::clone(config.as_ref().map_err(Clone::clone)?);
        let stream = match &self.egress {
            Some(proxy) => proxy.connect(endpoint, LIMIT).await?,
            None => dial::connect(endpoint, LIMIT, |_| true).await?,
        };
        let socket = Socket::new(stream);
        socket.keep_alive();
        let cut = socket.cut();
        let name = match &endpoint.host {
            Host::Address(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned())?,
        };
        let connected = TlsConnector::from(config).connect(name, socket).await;
        Ok((connected.map_err(StreamError::Tls)?, cut))
    }
}
