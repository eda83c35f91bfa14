//! Visitors: HTTP/1.1, HTTP/2 and WebSocket over TLS, with a CA of their choice and names that resolve where the
//! test says. What goes wrong is an error, not a panic, since some tests count failures.

mod connection;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest as _};

pub use connection::{Connection, Stream};

use crate::pattern::{Digest, Pattern};
use crate::wait::PATIENCE;

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What a visitor may meet.
#[derive(Debug, thiserror::Error)]
pub enum VisitorError {
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    /// No TLS, for example because the certificate is not trusted.
    #[error("no TLS")]
    Tls(#[source] std::io::Error),
    /// No HTTP, or an end in the middle of it.
    #[error("no HTTP")]
    Http(#[source] hyper::Error),
    /// No WebSocket.
    #[error("no WebSocket")]
    WebSocket(#[source] Box<tungstenite::Error>),
    /// No answer within [`PATIENCE`].
    #[error("no answer")]
    Silence,
}

/// An answer with its whole body.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// It is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// Somebody at the gateway's door. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Visitor {
    tls: Arc<ClientConfig>,
    address: Option<IpAddr>,
}

impl Visitor {
    /// Trusts the certificates in these PEM texts and nothing else.
    ///
    /// # Panics
    ///
    /// One is no certificate.
    #[must_use]
    pub fn trusting(pems: &[&str]) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in pems
            .iter()
            .flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()))
        {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            tls: Arc::new(tls),
            address: None,
        }
    }

    /// Every name resolves to this address. Without it, address literals are themselves and names are 127.0.0.1.
    #[must_use]
    pub const fn at(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// A connection for requests to the host of `url` (`http` or `https`).
    ///
    /// # Errors
    ///
    /// See [`VisitorError`].
    pub async fn connect(&self, url: &str, version: Version) -> Result<Connection, VisitorError> {
        let url = parse(url);
        let stream = patiently(self.stream(&url, version)).await?;
        patiently(Connection::start(stream, version)).await
    }

    /// GET on a connection of its own, over HTTP/1.1.
    ///
    /// # Errors
    ///
    /// See [`VisitorError`].
    pub async fn get(&self, url: &str) -> Result<Reply, VisitorError> {
        self.send(Version::Http1, request(Method::GET, url)).await
    }

    /// Any request on a connection of its own.
    ///
    /// # Errors
    ///
    /// See [`VisitorError`].
    pub async fn send(&self, version: Version, request: Request<Body>) -> Result<Reply, VisitorError> {
        let url = request.uri().to_string();
        let mut connection = self.connect(&url, version).await?;
        let response = connection.send(request).await?;
        patiently(collect(response)).await
    }

    /// GET of a large body: its status, length and SHA-256.
    ///
    /// # Errors
    ///
    /// See [`VisitorError`].
    pub async fn download(
        &self,
        version: Version,
        url: &str,
    ) -> Result<(StatusCode, u64, String), VisitorError> {
        let mut connection = self.connect(url, version).await?;
        let mut response = connection.send(request(Method::GET, url)).await?;
        let mut hash = Digest::new();
        while let Some(frame) = patiently(async { Ok(response.frame().await) }).await? {
            if let Ok(data) = frame.map_err(VisitorError::Http)?.into_data() {
                hash.update(&data);
            }
        }
        Ok((response.status(), hash.length(), hash.finish()))
    }

    /// POST of a large body. There is no deadline: only the test knows how long it may take.
    ///
    /// # Errors
    ///
    /// See [`VisitorError`].
    pub async fn upload(
        &self,
        version: Version,
        url: &str,
        pattern: &Pattern,
        length: u64,
    ) -> Result<Reply, VisitorError> {
        let mut connection = self.connect(url, version).await?;
        let request = with_body(Method::POST, url, pattern.body(length).boxed_unsync());
        let response = connection.send_without_deadline(request).await?;
        patiently(collect(response)).await
    }

    /// A WebSocket.
    ///
    /// # Errors
    ///
    /// See [`VisitorError`].
    pub async fn websocket(&self, url: &str) -> Result<WebSocketStream<Box<dyn Stream>>, VisitorError> {
        self.websocket_with(url, &[]).await
    }

    /// A WebSocket that is asked for with further header fields.
    ///
    /// # Errors
    ///
    /// See [`VisitorError`].
    pub async fn websocket_with(
        &self,
        url: &str,
        fields: &[(HeaderName, HeaderValue)],
    ) -> Result<WebSocketStream<Box<dyn Stream>>, VisitorError> {
        let parsed = parse(url);
        let stream = patiently(self.stream(&parsed, Version::Http1)).await?;
        let url = url.replacen("http", "ws", 1);
        let mut asked = url
            .into_client_request()
            .map_err(|error| VisitorError::WebSocket(Box::new(error)))?;
        asked.headers_mut().extend(fields.iter().cloned());
        patiently(async {
            let joined = tokio_tungstenite::client_async(asked, stream).await;
            joined
                .map(|(socket, _)| socket)
                .map_err(|error| VisitorError::WebSocket(Box::new(error)))
        })
        .await
    }

    /// A bare stream to the host of a URL, over TLS for `https`, for what is no HTTP.
    ///
    /// # Errors
    ///
    /// See [`VisitorError`].
    pub async fn open(&self, url: &str) -> Result<Box<dyn Stream>, VisitorError> {
        patiently(self.stream(&parse(url), Version::Http1)).await
    }

    async fn stream(&self, url: &Uri, version: Version) -> Result<Box<dyn Stream>, VisitorError> {
        let host = url.host().expect("a URL has a host");
        let literal = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .ok();
        let address = self
            .address
            .or(literal)
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let secure = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        connection::stream(
            SocketAddr::new(address, port),
            secure.then_some((&self.tls, host)),
            version,
        )
        .await
    }
}

/// A request without a body.
///
/// # Panics
///
/// The URL is none.
#[must_use]
pub fn request(method: Method, url: &str) -> Request<Body> {
    with_body(method, url, Empty::new().boxed_unsync())
}

/// A request with a small body.
///
/// # Panics
///
/// The URL is none.
#[must_use]
pub fn request_with(method: Method, url: &str, body: impl Into<Bytes>) -> Request<Body> {
    with_body(method, url, Full::new(body.into()).boxed_unsync())
}

/// A request with a body of any kind.
///
/// # Panics
///
/// The URL is none.
#[must_use]
pub fn with_body(method: Method, url: &str, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = parse(url);
    request
}

/// The whole body of an answer.
///
/// # Errors
///
/// It ends too early.
pub async fn collect(response: Response<Incoming>) -> Result<Reply, VisitorError> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(VisitorError::Http)?.to_bytes();
    Ok(Reply {
        status: head.status,
        headers: head.headers,
        body,
    })
}

/// Within [`PATIENCE`] or not at all.
async fn patiently<T>(work: impl Future<Output = Result<T, VisitorError>>) -> Result<T, VisitorError> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or(Err(VisitorError::Silence))
}

fn parse(url: &str) -> Uri {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}
