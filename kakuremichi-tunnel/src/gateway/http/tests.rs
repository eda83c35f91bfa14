//! Requests from visitors to targets and back, over real sockets and real clients.

#![expect(
    clippy::disallowed_methods,
    reason = "tests run visitors and targets as tasks, and wait for deadlines"
)]

mod failing;
mod forwarding;
mod hostile;
mod introducing;
mod logging;
mod signing_in;
mod stepping_up;
mod streaming;
mod upgrading;

use std::{cell::RefCell, convert::Infallible, future::Future, net::SocketAddr, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kakuremichi_core::{id::TargetId, plan::GatewayRecord, policy::Policy};
use rustls::RootCertStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::connection::{self, Protocol};
use crate::gateway::{
    drain::{BeginDrain, Drain, drain},
    serving::Serving,
    settings::Timeouts,
    testing::{PlainTcp, http_service, plan, serving, target},
    upstream::VisitorFacts,
};

const HOST: &str = "h.example";

/// A gateway without TLS, and what lies behind it.
struct Scene {
    serving: Rc<Serving<PlainTcp>>,
    upstream: PlainTcp,
    begin: BeginDrain,
    drain: Drain,
}

impl Scene {
    /// A public service at [`HOST`] with `targets` targets, none of which is online yet.
    fn new(targets: u8) -> Self {
        Self::with(Policy::public(), targets, Timeouts::default())
    }

    fn with(policy: Policy, targets: u8, timeouts: Timeouts) -> Self {
        Self::of([Self::service(policy, targets)], timeouts, RootCertStore::empty())
    }

    fn of(
        records: impl IntoIterator<Item = GatewayRecord>,
        timeouts: Timeouts,
        roots: RootCertStore,
    ) -> Self {
        let upstream = PlainTcp::default();
        let (begin, drain) = drain();
        Self {
            serving: serving(&plan(1, records), upstream.clone(), timeouts, roots),
            upstream,
            begin,
            drain,
        }
    }

    fn service(policy: Policy, targets: u8) -> GatewayRecord {
        http_service(1, HOST, policy, (1..=targets).map(target).collect())
    }

    /// A public service with one target, which answers by `answer`.
    async fn answering<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + 'static,
        A: Future<Output = Response<Full<Bytes>>> + 'static,
    {
        let scene = Self::new(1);
        scene.online(1, serve_target(answer).await);
        scene
    }

    fn online(&self, id: u8, address: SocketAddr) {
        self.upstream
            .addresses
            .borrow_mut()
            .insert(TargetId::from_bytes([id; 16]), address);
    }

    /// A visitor's connection.
    async fn visit(&self, protocol: Protocol) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, address) = listener.accept().await.unwrap();
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let visitor = VisitorFacts {
            address,
            local: far.local_addr().unwrap(),
            connection: self.serving.numbers.connection(),
            tls: None,
        };
        let serving = Rc::clone(&self.serving);
        tokio::task::spawn_local(connection::serve(
            serving,
            far,
            visitor,
            protocol,
            self.drain.clone(),
        ));
        near
    }

    /// Sends bytes over HTTP/1.1 and reads what comes until the gateway closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut visitor = self.visit(Protocol::Http1).await;
        visitor.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A close behind unread bytes may come as a reset.
        let _ = visitor.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// One request over HTTP/1.1 with these lines behind the request line.
    async fn get(&self, path: &str, lines: &str) -> String {
        self.raw(
            format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{lines}\r\n").as_bytes(),
        )
        .await
    }
}

/// Runs a target that answers each request by `answer`.
async fn serve_target<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Clone + 'static,
    A: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn_local(connection);
        }
    });
    address
}

/// Runs a target that plays a script on each connection, with its number.
async fn script<F, A>(play: F) -> SocketAddr
where
    F: Fn(TcpStream, usize) -> A + 'static,
    A: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(play(stream, number));
            number += 1;
        }
    });
    address
}

/// Reads up to the end of a head.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

fn ok(text: &str) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())))
}

/// A target that says what it was sent: the request line, the fields sorted, the body.
async fn echo(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let mut fields: Vec<String> = parts
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    fields.sort_unstable();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    ok(&format!(
        "{} {}\n{}\n\n{body}",
        parts.method,
        parts.uri,
        fields.join("\n")
    ))
}

/// Waits until something holds.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Notes what happened, in order.
#[derive(Debug, Clone, Default)]
struct Notes(Rc<RefCell<Vec<String>>>);

impl Notes {
    fn note(&self, text: impl Into<String>) {
        self.0.borrow_mut().push(text.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}
