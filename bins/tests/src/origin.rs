//! What is published: an HTTP origin and a TCP echo, each on a thread of its own on some host.
//!
//! | path | answer |
//! |---|---|
//! | `/hello` | `hello from NAME` |
//! | `/bytes/LENGTH?SEED` | that many bytes of a [`Pattern`](crate::Pattern) |
//! | `/digest` | JSON with `bytes` and `sha256` of the request's body |
//! | `/echo` | the request's body, while it comes in |
//! | `/request` | JSON with `method`, `uri`, `headers` (an array of pairs) and `peer` of the request |
//! | `/status/CODE` | that status |
//! | `/ws` | a WebSocket that returns each message |
//! | `/never` | nothing, for ever |
//! | `/cut` | the connection ends without an answer |

mod hooks;
mod http;

pub use hooks::{Delivery, Hooks, Manner};

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::ca::Issued;
use crate::net::{Host, Namespace};

/// An HTTP/1.1 origin. It ends when dropped, with all its connections.
#[derive(Debug)]
pub struct Origin {
    server: Server,
    requests: Arc<AtomicU64>,
}

impl Origin {
    /// Starts one on a host, on every address and a port that is free.
    #[must_use]
    pub fn on(host: &Host, name: &str) -> Self {
        Self::start(Some(host.namespace()), 0, name, None)
    }

    /// Starts one on a host, on this port.
    #[must_use]
    pub fn on_port(host: &Host, port: u16, name: &str) -> Self {
        Self::start(Some(host.namespace()), port, name, None)
    }

    /// Starts one on a host that speaks HTTPS.
    #[must_use]
    pub fn on_with_tls(host: &Host, name: &str, certificate: &Issued) -> Self {
        Self::start(Some(host.namespace()), 0, name, Some(certificate))
    }

    /// Starts one where the test itself runs.
    #[must_use]
    pub fn here(name: &str) -> Self {
        Self::start(None, 0, name, None)
    }

    fn start(namespace: Option<&Namespace>, port: u16, name: &str, certificate: Option<&Issued>) -> Self {
        let requests = Arc::new(AtomicU64::new(0));
        let tls = certificate.map(acceptor);
        let origin = Arc::new(http::Origin {
            name: name.to_owned(),
            requests: Arc::clone(&requests),
        });
        let serve = move |stream, peer| {
            let (tls, origin) = (tls.clone(), Arc::clone(&origin));
            async move {
                match tls {
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            http::serve(stream, peer, origin).await;
                        }
                    }
                    None => http::serve(stream, peer, origin).await,
                }
            }
        };
        Self {
            server: Server::start(namespace, port, serve),
            requests,
        }
    }

    /// The port it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.server.port
    }

    /// Requests that have reached it.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// A TCP server that returns what it gets, and ends its direction when the other has ended.
#[derive(Debug)]
pub struct Echo {
    server: Server,
}

impl Echo {
    /// Starts one on a host, on every address and a port that is free.
    #[must_use]
    pub fn on(host: &Host) -> Self {
        Self {
            server: Server::start(Some(host.namespace()), 0, echo),
        }
    }

    /// Starts one where the test itself runs.
    #[must_use]
    pub fn here() -> Self {
        Self {
            server: Server::start(None, 0, echo),
        }
    }

    /// The port it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.server.port
    }
}

/// A thread that accepts connections.
#[derive(Debug)]
struct Server {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start<F>(
        namespace: Option<&Namespace>,
        port: u16,
        serve: impl Fn(TcpStream, SocketAddr) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let namespace = namespace.cloned();
        let (stop, stopped) = oneshot::channel();
        let (bound, port_of) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            if let Some(namespace) = &namespace {
                namespace.enter();
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = listen(port);
                bound.send(listener.local_addr().unwrap().port()).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let accept = async {
                    loop {
                        let (stream, peer) = listener.accept().await.unwrap();
                        let _ = stream.set_nodelay(true);
                        tokio::spawn(serve(stream, peer));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        let port = port_of.recv().expect("the server can listen");
        Self {
            port,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// On every IPv6 and IPv4 address; without IPv6, on every IPv4 address.
fn listen(port: u16) -> TcpListener {
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(everywhere)
        .or_else(|_| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn acceptor(certificate: &Issued) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.certificate.clone()], certificate.key.clone_key())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn echo(mut stream: TcpStream, _peer: SocketAddr) {
    let (mut read, mut write) = stream.split();
    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
        let _ = write.shutdown().await;
    }
}
