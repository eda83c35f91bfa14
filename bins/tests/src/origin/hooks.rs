//! A server that webhooks lead to.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use data_encoding::BASE64;
use http::header::LOCATION;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::hmac;
use serde_json::Value;

use super::{Server, acceptor};
use crate::ca::{Issued, TestCa};
use crate::net::{Host, Namespace};

/// How the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It takes everything.
    Takes,
    /// It fails.
    Fails,
    /// It sends requests to where they are taken.
    Redirects,
    /// It never answers.
    Hangs,
}

/// A request that was taken.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: String,
}

/// An HTTPS server that remembers what it took. It ends when dropped.
#[derive(Debug)]
pub struct Hooks {
    server: Option<Server>,
    port: u16,
    namespace: Option<Namespace>,
    name: String,
    ca: TestCa,
    certificate: Issued,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    manner: Mutex<Manner>,
    taken: Mutex<Vec<Delivery>>,
    asked: AtomicUsize,
}

impl Hooks {
    /// Starts one where the test itself runs.
    #[must_use]
    pub fn here() -> Self {
        Self::start(None, "localhost")
    }

    /// Starts one on a host, which others find by this name.
    #[must_use]
    pub fn on(host: &Host, name: &str) -> Self {
        Self::start(Some(host.namespace().clone()), name)
    }

    fn start(namespace: Option<Namespace>, name: &str) -> Self {
        let ca = TestCa::new("a webhook");
        let mut hooks = Self {
            server: None,
            port: 0,
            namespace,
            name: name.to_owned(),
            certificate: ca.issue(&[name]),
            ca,
            shared: Arc::new(Shared {
                manner: Mutex::new(Manner::Takes),
                taken: Mutex::default(),
                asked: AtomicUsize::new(0),
            }),
        };
        hooks.start_again();
        hooks
    }

    /// Ends it, with all its connections. What it took it keeps.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts it again, on the same port.
    pub fn start_again(&mut self) {
        let (tls, shared) = (acceptor(&self.certificate), Arc::clone(&self.shared));
        let serve = move |stream, _peer| {
            let (tls, shared) = (tls.clone(), Arc::clone(&shared));
            async move {
                let Ok(stream) = tls.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        };
        let server = Server::start(self.namespace.as_ref(), self.port, serve);
        self.port = server.port;
        self.server = Some(server);
    }

    /// Lets it answer otherwise from now on.
    pub fn set(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Where it takes requests.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{}/hook?key=1", self.name, self.port)
    }

    /// The authority that its certificate is of, in PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.ca.pem()
    }

    /// How many requests it had, taken or not.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// What it took, in its order.
    #[must_use]
    pub fn taken(&self) -> Vec<Delivery> {
        self.shared
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The events that it took, in their order.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let taken = self.taken();
        taken.iter().flat_map(Delivery::events).collect()
    }
}

impl Delivery {
    /// The events in it.
    ///
    /// # Panics
    ///
    /// It is not a message of events.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["data"]["events"].as_array().unwrap().clone()
    }

    /// Whether it is signed with this secret, as Standard Webhooks has it.
    ///
    /// # Panics
    ///
    /// The secret is none, or a header is missing.
    #[must_use]
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = secret.strip_prefix("whsec_").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(key.as_bytes()).unwrap());
        let header = |name| self.headers[name].to_str().unwrap();
        let signed = format!(
            "{}.{}.{}",
            header("webhook-id"),
            header("webhook-timestamp"),
            self.body
        );
        let tag = header("webhook-signature").strip_prefix("v1,").unwrap();
        let tag = BASE64.decode(tag.as_bytes()).unwrap();
        hmac::verify(&key, signed.as_bytes(), &tag).is_ok()
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    shared.asked.fetch_add(1, Ordering::Relaxed);
    let manner = *shared.manner.lock().unwrap_or_else(PoisonError::into_inner);
    let mut response = Response::new(Full::default());
    match manner {
        Manner::Redirects if request.uri().path() == "/hook" => {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response.headers_mut().insert(LOCATION, "/taken".parse().unwrap());
        }
        Manner::Fails => *response.status_mut() = StatusCode::BAD_GATEWAY,
        Manner::Hangs => std::future::pending().await,
        Manner::Takes | Manner::Redirects => {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let delivery = Delivery {
                    headers: parts.headers,
                    body: String::from_utf8(body.to_bytes().to_vec()).unwrap(),
                };
                let mut taken = shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
                taken.push(delivery);
            }
        }
    }
    Ok(response)
}
