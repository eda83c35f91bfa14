//! Connections to Control: TCP from an address of the node's own, TLS, WebSocket.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use kakuremichi_benches::machine::Trouble;
use kakuremichi_proto::{
    frame::MAX_FRAME,
    version::{LINK_PATH, SUBPROTOCOL},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, ClientRequestBuilder, protocol::WebSocketConfig},
};

pub(crate) type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Where Control is, and whom to believe that.
#[derive(Clone)]
pub(crate) struct Dialler {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Dialler {
    /// For the Control at `address` whose authority's certificate is in a file.
    pub(crate) fn new(address: SocketAddr, authority: &Path) -> Result<Self, Trouble> {
        let unusable = |error: &dyn std::fmt::Display| Trouble::Unreadable {
            program: authority.display().to_string(),
            said: error.to_string(),
        };
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(authority).map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each node is a process of its own that knows no session of another one's.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            address,
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// Control's URL.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A connection with TLS from this address.
    pub(crate) async fn tls(&self, from: Ipv4Addr) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        self.connector
            .connect(ServerName::from(self.address.ip()), stream)
            .await
    }

    /// A node's WebSocket.
    pub(crate) async fn socket(&self, from: Ipv4Addr) -> Result<Socket, tungstenite::Error> {
        let stream = self.tls(from).await?;
        let uri = format!("wss://{}{LINK_PATH}", self.address).parse().map_err(
            |error: tungstenite::http::uri::InvalidUri| tungstenite::Error::HttpFormat(error.into()),
        )?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
        let config = WebSocketConfig::default()
            .read_buffer_size(4 * 1024)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MAX_FRAME)
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
        Ok(socket)
    }
}

/// The address that a node comes from: one for each, as each is behind an uplink of its own.
pub(crate) fn source(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = (((number % 62_500 / 250) << 8) | (number % 250)).to_be_bytes();
    Ipv4Addr::new(127, low + 1, high + 1, 1)
}
