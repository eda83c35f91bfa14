//! Connections of a lane of TLS streams whose ends know each other already, for benches.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use kakuremichi_core::id::AgentId;
use kakuremichi_proto::lane::record::Record;
use rustls::{ClientConfig, ServerConfig, crypto::ring};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use crate::{
    engine::{EndReason, Meter},
    session::TunnelSession,
    streams::{
        connection::{Connection, Signal},
        datagrams,
        finish::Home,
        flow::LaneFlow,
        pump::pump,
        tls::{LANE, client_config, server_configs},
    },
};

/// A session without a datagram ends after so long.
const IDLE: Duration = Duration::from_secs(600);

/// What agent and gateway set for TLS: the client's side and the server's.
///
/// # Errors
///
/// When the system gives no random bytes.
pub fn tls_configs() -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), rustls::Error> {
    let provider = ring::default_provider();
    let client = client_config(&provider, LANE)?;
    Ok((client, server_configs(&provider)?.direct))
}

/// One end of a connection.
#[derive(Debug)]
pub struct LaneEnd(Connection);

impl LaneEnd {
    /// An end over a stream of bytes, on which nothing was said yet.
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let agent = AgentId::from_bytes([1; 16]);
        Self(Connection::new(agent, 0, Box::new(io), None))
    }

    /// Serves a socket with a flow that both ends have agreed on, until both directions have ended.
    pub async fn serve(mut self, mut socket: impl AsyncRead + AsyncWrite + Unpin) -> EndReason {
        let meter = Meter::default();
        pump(&mut socket, &mut self.0, &meter, true).await.reason
    }

    /// Begins a session of datagrams, and what carries them for as long as it is polled.
    pub fn open_session(mut self) -> (TunnelSession, impl Future<Output = ()>) {
        self.0.queue(Record::Begin {
            port: 1,
            preface: b"",
        });
        let (session, carrier) = datagrams::open(self.0, nowhere(), ends(), Arc::default(), IDLE);
        (session, carrier.run(|_| ()))
    }

    /// Takes the session that the other end begins.
    ///
    /// # Errors
    ///
    /// When it says something else.
    pub async fn take_session(mut self) -> io::Result<(TunnelSession, impl Future<Output = ()>)> {
        if !matches!(self.0.next().await?, Some(Signal::Begin(..))) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let flow = LaneFlow::undecided(self.0, nowhere());
        let (session, carrier) = datagrams::take(flow, ends(), Arc::default(), IDLE);
        Ok((session, carrier.run(|_| ())))
    }
}

/// The connection is not used again.
fn nowhere() -> Home {
    mpsc::unbounded_channel().0
}

fn ends() -> (SocketAddr, SocketAddr) {
    let any = SocketAddr::from(([127, 0, 0, 1], 1));
    (any, any)
}
