//! Requests to servers that users name.
//!
//! Whoever may make a webhook chooses where Control connects to. So that they reach nothing that only Control can
//! reach, the addresses behind a name are looked at after it was resolved, and the very address that was looked at
//! is connected to; redirects are not followed, and nothing of an answer but its status is read.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, Method, Request, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kakuremichi_core::model::MAX_WEBHOOK_URL;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    sync::OnceCell,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long a server may take for one request, from looking its name up to the status of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many addresses of a server are tried.
const ADDRESSES: usize = 4;
/// The longest head of an answer, in bytes. One that is longer is none.
const MAX_HEAD: usize = 16 * 1024;

/// A text is no URL of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a webhook is `https://host/path`, without a user name, of at most {MAX_WEBHOOK_URL} characters")]
pub(crate) struct WebhookUrlError;

/// Why a request did not come through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookError {
    /// The URL is none.
    #[error(transparent)]
    Url(#[from] WebhookUrlError),
    /// The name has no address.
    #[error("the name has no address")]
    Name(#[source] std::io::Error),
    /// Each of its addresses is private.
    #[error(
        "the server is at a private address, which this Control connects to only with `--private-webhooks`"
    )]
    Private,
    /// Nobody answers there.
    #[error("the server cannot be connected to")]
    Connect(#[source] std::io::Error),
    /// There is no TLS, or not with whom it should be.
    #[error("no TLS is spoken with the server")]
    Tls(#[source] std::io::Error),
    /// TLS cannot be set up here.
    #[error("TLS cannot be set up")]
    SetUp(#[source] rustls::Error),
    /// It does not speak HTTP.
    #[error("the server does not answer as an HTTP server does")]
    Http(#[source] hyper::Error),
    /// The request cannot be written.
    #[error("the request cannot be written")]
    Request(#[source] http::Error),
    /// It takes too long.
    #[error("the server took longer than {} seconds", PATIENCE.as_secs())]
    Slow,
    /// It did not take it.
    #[error("the server answered {0}")]
    Status(StatusCode),
}

/// What sends requests. Clones share it.
#[derive(Clone)]
pub(crate) struct Webhooks {
    /// Whether private addresses are allowed.
    private: bool,
    /// The authorities that vouch for servers; the system's without.
    roots: Option<RootCertStore>,
    tls: Arc<OnceCell<TlsConnector>>,
}

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WebhookUrl {
    host: String,
    port: u16,
    authority: String,
    path: PathAndQuery,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks")
            .field("private", &self.private)
            .finish_non_exhaustive()
    }
}

impl Webhooks {
    /// Sends to public addresses; to whichever when `private` is.
    pub(crate) fn new(private: bool, roots: Option<RootCertStore>) -> Self {
        Self {
            private,
            roots,
            tls: Arc::default(),
        }
    }

    /// Checks a URL, as far as that can be done without the network.
    pub(crate) fn check(&self, url: &str) -> Result<(), WebhookUrlError> {
        WebhookUrl::parse(url).map(|_| ())
    }

    /// Sends JSON, and waits until the server has taken it: until it answers 2xx.
    pub(crate) async fn post(
        &self,
        url: &str,
        headers: impl IntoIterator<Item = (HeaderName, String)>,
        body: String,
    ) -> Result<(), WebhookError> {
        let url = WebhookUrl::parse(url)?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(Uri::from(url.path.clone()))
            .header(header::HOST, &url.authority)
            .header(header::USER_AGENT, "kakuremichi")
            .header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(WebhookError::Request)?;
        let status = timeout(PATIENCE, self.send(&url, request)).await;
        match status.map_err(|_| WebhookError::Slow)?? {
            status if status.is_success() => Ok(()),
            status => Err(WebhookError::Status(status)),
        }
    }

    async fn send(
        &self,
        url: &WebhookUrl,
        request: Request<Full<Bytes>>,
    ) -> Result<StatusCode, WebhookError> {
        let name = ServerName::try_from(url.host.clone()).map_err(|_| WebhookUrlError)?;
        let tls = self.tls.get_or_try_init(async || self.connector()).await?;
        let stream = self.connect(url).await?;
        let stream = tls.connect(name, stream).await.map_err(WebhookError::Tls)?;
        exchange(stream, request).await
    }

    async fn connect(&self, url: &WebhookUrl) -> Result<TcpStream, WebhookError> {
        let found = lookup_host((url.host.as_str(), url.port))
            .await
            .map_err(WebhookError::Name)?;
        let allowed: Vec<SocketAddr> = found
            .filter(|address| self.private || is_public(address.ip()))
            .take(ADDRESSES)
            .collect();
        let mut outcome = Err(WebhookError::Private);
        for address in allowed {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => outcome = Err(WebhookError::Connect(error)),
            }
        }
        outcome
    }

    fn connector(&self) -> Result<TlsConnector, WebhookError> {
        let roots = self.roots.clone().unwrap_or_else(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        });
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(WebhookError::SetUp)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

impl WebhookUrl {
    fn parse(text: &str) -> Result<Self, WebhookUrlError> {
        if text.len() > MAX_WEBHOOK_URL {
            return Err(WebhookUrlError);
        }
        let uri: Uri = text.parse().map_err(|_| WebhookUrlError)?;
        if uri.scheme_str() != Some("https") {
            return Err(WebhookUrlError);
        }
        let authority = uri.authority().ok_or(WebhookUrlError)?;
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|v6| v6.strip_suffix(']'))
            .unwrap_or(host);
        let named = ServerName::try_from(host).is_ok();
        if !named || authority.as_str().contains('@') {
            return Err(WebhookUrlError);
        }
        let path = uri.path_and_query().cloned();
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(443),
            authority: authority.to_string(),
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
        })
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<StatusCode, WebhookError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(WebhookError::Http)?;
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // When it has ended, the answer is there, or never will be.
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    Ok(answer.map_err(WebhookError::Http)?.status())
}

/// Whether an address is one of the public internet, which anybody can reach.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

const fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        // This network, carriers' own, protocols, measurements, and what is reserved.
        [0, ..] | [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] | [240..=255, ..] => true,
        _ => false,
    };
    !(special
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation())
}

const fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Teredo and protocols, documentation, and 6to4, which leads to IPv4 addresses.
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x2002, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for public in [
            "8.8.8.8",
            "100.63.0.1",
            "172.32.0.1",
            "2606:4700::1",
            "2001:4860:4860::8888",
            "::ffff:9.9.9.9",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.8",
            "203.0.113.1",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn a_webhook_is_https() {
        let url = WebhookUrl::parse("https://hooks.example/a?b=c").unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.path.as_str()),
            ("hooks.example", 443, "/a?b=c")
        );
        assert_eq!(WebhookUrl::parse("https://[::1]:8080").unwrap().host, "::1");
        for bad in [
            "",
            "hooks.example",
            "http://hooks.example/",
            "ftp://hooks.example/",
            "https://u:p@hooks.example/",
            "https://hooks.example\r\nx: y/",
            "/path",
            "https://",
        ] {
            assert!(WebhookUrl::parse(bad).is_err(), "{bad}");
        }
        let long = format!("https://hooks.example/{}", "a".repeat(MAX_WEBHOOK_URL));
        assert!(WebhookUrl::parse(&long).is_err());
    }

    /// A name that leads to this machine is refused when it was resolved, however it is written.
    #[tokio::test]
    async fn nothing_is_sent_to_a_private_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let webhooks = Webhooks::new(false, Some(RootCertStore::empty()));
        for host in [
            "127.0.0.1",
            "localhost",
            "[::ffff:127.0.0.1]",
            "127.1",
            "2130706433",
        ] {
            let url = format!("https://{host}:{port}/");
            let outcome = webhooks.post(&url, [], String::new()).await;
            assert!(
                matches!(
                    outcome,
                    Err(WebhookError::Private | WebhookError::Name(_) | WebhookError::Url(_))
                ),
                "{host}: {outcome:?}"
            );
        }
        let connected = timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(connected.is_err());
    }
}
