//! One connection of a visitor.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Body, Version, VisitorError, patiently};

/// Bytes that a stream of HTTP/2 may send ahead of the reader.
const HTTP2_WINDOW: u32 = 1 << 20;

/// TCP, or TLS over it.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection that takes requests one after the other or, with HTTP/2, at once.
#[derive(Debug, Clone)]
pub struct Connection {
    sender: Arc<tokio::sync::Mutex<Sender>>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    pub(super) async fn start(stream: Box<dyn Stream>, version: Version) -> Result<Self, VisitorError> {
        let io = TokioIo::new(stream);
        let sender = match version {
            Version::Http1 => {
                let (sender, driver) = http1::handshake(io).await.map_err(VisitorError::Http)?;
                tokio::spawn(driver.with_upgrades());
                Sender::Http1(sender)
            }
            Version::Http2 => {
                let (sender, driver) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(HTTP2_WINDOW)
                    .initial_connection_window_size(HTTP2_WINDOW)
                    .handshake(io)
                    .await
                    .map_err(VisitorError::Http)?;
                tokio::spawn(driver);
                Sender::Http2(sender)
            }
        };
        Ok(Self {
            sender: Arc::new(tokio::sync::Mutex::new(sender)),
        })
    }

    /// Sends a request, whose URL is absolute, and waits for the head of the answer.
    ///
    /// # Errors
    ///
    /// See [`VisitorError`].
    pub async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, VisitorError> {
        patiently(self.send_without_deadline(request)).await
    }

    /// [`Self::send`], however long it takes.
    ///
    /// # Errors
    ///
    /// See [`VisitorError`].
    pub async fn send_without_deadline(
        &mut self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, VisitorError> {
        // The lock is not held while the answer is awaited: HTTP/2 has many requests on the way.
        let answer: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = match &mut *self.sender.lock().await {
            Sender::Http1(sender) => {
                origin_form(&mut request);
                sender.ready().await.map_err(VisitorError::Http)?;
                Box::pin(sender.send_request(request))
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(VisitorError::Http)?;
                Box::pin(sender.send_request(request))
            }
        };
        answer.await.map_err(VisitorError::Http)
    }
}

/// Connects, and speaks TLS when it is given a configuration and a name.
pub(super) async fn stream(
    address: SocketAddr,
    tls: Option<(&Arc<ClientConfig>, &str)>,
    version: Version,
) -> Result<Box<dyn Stream>, VisitorError> {
    let stream = TcpStream::connect(address).await.map_err(VisitorError::Connect)?;
    stream.set_nodelay(true).map_err(VisitorError::Connect)?;
    let Some((config, name)) = tls else {
        return Ok(Box::new(stream));
    };
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = match version {
        Version::Http1 => vec![b"http/1.1".to_vec()],
        Version::Http2 => vec![b"h2".to_vec()],
    };
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(name).expect("a host is a name or an address");
    let connector = TlsConnector::from(Arc::new(config));
    Ok(Box::new(
        connector.connect(name, stream).await.map_err(VisitorError::Tls)?,
    ))
}

/// HTTP/1.1 wants the path in the request line and the rest in Host, which a test may have set itself.
fn origin_form<B>(request: &mut Request<B>) {
    let uri = request.uri();
    let Some(authority) = uri.authority().cloned() else {
        return;
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let host = HeaderValue::from_str(authority.as_str()).expect("an authority is a header's value");
    request.headers_mut().entry(HOST).or_insert(host);
    *request.uri_mut() = path.parse::<Uri>().expect("a path is a URL");
}
