//! The WebSocket to Control: from a URL to a connection that carries frames.

#![expect(
    clippy::disallowed_methods,
    reason = "a connection waits for sockets and for time"
)]

use std::{io, pin::pin, sync::Arc, time::Duration};

use kakuremichi_core::net::Host;
use kakuremichi_proto::{frame::MAX_FRAME, version::SUBPROTOCOL};
use rustls::{crypto::CryptoProvider, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, ClientRequestBuilder,
        http::{HeaderMap, StatusCode, Uri, header::RETRY_AFTER},
        protocol::WebSocketConfig,
    },
};

use super::{
    dial::{self, DialError},
    egress::EgressProxy,
    tls::{self, Trust},
    url::ControlUrl,
};

/// The time in which name, connection, TLS and WebSocket must be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that a `Retry-After` makes a node wait.
pub(super) const RETRY_AFTER_CAP: Duration = Duration::from_secs(3600);
/// The most bytes that wait to be written; what exceeds it ends the connection.
const WRITE_BOUND: usize = 4 * MAX_FRAME;

/// Why there is no connection to Control. All of these pass, and are retried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nothing was reached.
    #[error("Control cannot be reached: {0}")]
    Dial(#[from] DialError),
    /// TLS failed; most of all, the certificate is not one for this Control.
    #[error("TLS with Control failed")]
    Tls(#[source] io::Error),
    /// Something answered, but not with a WebSocket.
    #[error("Control's address answered with HTTP status {status} instead of a WebSocket")]
    Http {
        /// The status.
        status: u16,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// What answered does not speak WebSocket.
    #[error("Control's address does not speak WebSocket")]
    WebSocket(#[source] Box<tungstenite::Error>),
    /// It took too long.
    #[error("Control did not answer in time")]
    TimedOut,
}

impl ConnectError {
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http { retry_after, .. } => *retry_after,
            Self::Dial(_) | Self::Tls(_) | Self::WebSocket(_) | Self::TimedOut => None,
        }
    }
}

/// What a WebSocket runs over.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(super) type Socket = WebSocketStream<Box<dyn Io>>;

/// Connects to the link of the Control at `url`. The name is resolved anew, the system's roots are read
/// anew. Where several instances of Control are behind the name, `attempts` that failed make another one the first to
/// be asked.
pub(super) async fn connect(
    url: &ControlUrl,
    trust: Trust,
    provider: &Arc<CryptoProvider>,
    egress: Option<&EgressProxy>,
    attempts: u32,
) -> Result<Socket, ConnectError> {
    let connecting = pin!(open(url, trust, provider, egress, attempts));
    time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .unwrap_or(Err(ConnectError::TimedOut))
}

async fn open(
    url: &ControlUrl,
    trust: Trust,
    provider: &Arc<CryptoProvider>,
    egress: Option<&EgressProxy>,
    attempts: u32,
) -> Result<Socket, ConnectError> {
    // What is not encrypted stays on this machine.
    let stream = match egress.filter(|_| url.is_secure()) {
        Some(proxy) => proxy.connect(url.endpoint(), CONNECT_TIMEOUT).await?,
        None => {
            let permitted = |address| url.permits(address);
            dial::connect_beyond(url.endpoint(), CONNECT_TIMEOUT, permitted, attempts as usize).await?
        }
    };
    let stream: Box<dyn Io> = if url.is_secure() {
        let provider = Arc::clone(provider);
        // Reading the system's roots takes long enough to hold up packets on this thread.
        let config = tokio::task::spawn_blocking(move || tls::client_config(trust, &provider))
            .await
            .map_err(|error| ConnectError::Tls(io::Error::other(error)))?
            .map_err(|error| ConnectError::Tls(io::Error::other(error)))?;
        let name = match &url.endpoint().host {
            Host::Address(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|error| ConnectError::Tls(io::Error::other(error)))?,
        };
        let connector = TlsConnector::from(Arc::new(config));
        Box::new(connector.connect(name, stream).await.map_err(ConnectError::Tls)?)
    } else {
        Box::new(stream)
    };
    let uri = url
        .link()
        .parse::<Uri>()
        .map_err(|error| ConnectError::WebSocket(Box::new(tungstenite::Error::HttpFormat(error.into()))))?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BOUND)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME));
    match client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => Err(ConnectError::Http {
            status: response.status().as_u16(),
            retry_after: retry_after(response.status(), response.headers()),
        }),
        Err(other) => Err(ConnectError::WebSocket(Box::new(other))),
    }
}

/// The pause that an answer asks for (RFC 9110, section 10.2.3), in seconds; dates are not read.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    ) {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_CAP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_honoured_within_bounds() {
        let headers = |value: &str| HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
        let after = |value: &str| retry_after(StatusCode::SERVICE_UNAVAILABLE, &headers(value));
        assert_eq!(after("17"), Some(Duration::from_secs(17)));
        assert_eq!(after("99999999999"), Some(RETRY_AFTER_CAP));
        assert_eq!(after("-1"), None);
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(retry_after(StatusCode::NOT_FOUND, &headers("17")), None);
    }
}
