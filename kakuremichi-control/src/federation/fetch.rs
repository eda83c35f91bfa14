//! Requests to identity providers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Map, Value};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::timeout,
};

use crate::service::UseCaseError;

/// An answer has to be there, whole, within this time.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The largest answer, in bytes. A larger one is none.
const MAX_ANSWER: usize = 512 * 1024;
/// Requests at once; one more is refused.
const MAX_REQUESTS: usize = 64;

type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no trusted certificates are on this machine")]
    Roots(#[source] std::io::Error),
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("the provider cannot be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the answer broke off, or is larger than {MAX_ANSWER} bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer took more than {} seconds", ANSWER_TIME.as_secs())]
    Slow,
    #[error("too many requests to identity providers are under way")]
    Busy,
    #[error("the request cannot be made")]
    Request(#[source] http::Error),
    #[error("the provider answers {0}")]
    Status(StatusCode),
    #[error("the answer is no JSON object")]
    Json(#[source] serde_json::Error),
}

/// Makes requests over TLS. It follows no redirects.
#[derive(Debug)]
pub(super) struct Web {
    /// The authorities that vouch for servers; the system's without.
    roots: Option<RootCertStore>,
    client: OnceCell<HttpsClient>,
    places: Semaphore,
}

impl Web {
    pub(super) const fn new(roots: Option<RootCertStore>) -> Self {
        Self {
            roots,
            client: OnceCell::const_new(),
            places: Semaphore::const_new(MAX_REQUESTS),
        }
    }

    /// Makes a request.
    pub(super) async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, FetchError> {
        let _place = self.places.try_acquire().map_err(|_| FetchError::Busy)?;
        let client = self
            .client
            .get_or_try_init(async || client(self.roots.clone()))
            .await?;
        let mut request = request.map(|body| Full::new(Bytes::from(body)));
        // Some refuse whoever does not say what they are.
        let agent = header::HeaderValue::from_static("kakuremichi");
        request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
        let answer = async {
            let response = client.request(request).await.map_err(FetchError::Unreachable)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER)
                .collect()
                .await
                .map_err(FetchError::Body)?;
            Ok(HttpResponse::from_parts(parts, body.to_bytes().to_vec()))
        };
        timeout(ANSWER_TIME, answer)
            .await
            .unwrap_or(Err(FetchError::Slow))
    }

    /// Reads a JSON object with an access token (RFC 6750, section 2.1).
    pub(super) async fn json(&self, url: &str, token: &str) -> Result<Map<String, Value>, UseCaseError> {
        self.object(url, token).await.map_err(super::broken)
    }

    async fn object(&self, url: &str, token: &str) -> Result<Map<String, Value>, FetchError> {
        let request = Request::get(url)
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Vec::new())
            .map_err(FetchError::Request)?;
        let answer = self.fetch(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        serde_json::from_slice(answer.body()).map_err(FetchError::Json)
    }
}

impl<'c> AsyncHttpClient<'c> for Web {
    type Error = FetchError;
    type Future = BoxFuture<'c, Result<HttpResponse, FetchError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.fetch(request))
    }
}

fn client(roots: Option<RootCertStore>) -> Result<HttpsClient, FetchError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = match roots {
        Some(roots) => {
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(FetchError::Tls)?
                .with_root_certificates(roots)
                .with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(config)
        }
        None => HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(FetchError::Roots)?,
    };
    let connector = builder.https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

#[cfg(test)]
mod tests {
    use http_body_util::LengthLimitError;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// What a server that answers this is worth.
    async fn answered(answer: Vec<u8>) -> Result<HttpResponse, FetchError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.write_all(&answer).await;
        });
        let request = Request::get(format!("http://{address}/"))
            .body(Vec::new())
            .unwrap();
        Web::new(None).fetch(request).await
    }

    #[tokio::test]
    async fn an_answer_is_bounded_and_a_redirect_is_not_followed() {
        let moved = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(
            answered(moved.to_vec()).await.unwrap().status(),
            StatusCode::FOUND
        );
        let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        endless.resize(2 * MAX_ANSWER, b'x');
        match answered(endless).await {
            Err(FetchError::Body(error)) => assert!(error.downcast_ref::<LengthLimitError>().is_some()),
            other => panic!("{other:?}"),
        }
    }
}
