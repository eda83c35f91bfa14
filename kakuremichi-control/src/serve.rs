//! Serves a router on a socket, with TLS or without.
//!
//! Whoever mounts Control in a server of their own does not need this; the reference binary does. Before a
//! connection has got anything it has deadlines, byte bounds and a cap for its address (LESSONS, advisory 7).

mod activity;
mod lingering;
mod proxies;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use kakuremichi_core::net::Cidr;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use self::{
    activity::{Activity, Patience, UnderWay},
    lingering::Lingering,
};
use crate::hub::{Limits, MAX_UNAUTHENTICATED, MAX_UNAUTHENTICATED_PER_ADDRESS};

/// HTTP connections at once; more wait in the system's queue until one ends. The WebSocket of a node is none
/// any more: the hub bounds those of strangers, and each node has one.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Connections at once that have not got anything yet: no request of theirs was answered with anything but an
/// error. One more is closed.
pub const STRANGERS_MAX: usize = MAX_UNAUTHENTICATED;
/// Those of one address, or of one IPv6 /64. One more is closed. A trusted proxy has no such bound.
pub const STRANGERS_MAX_PER_ADDRESS: usize = MAX_UNAUTHENTICATED_PER_ADDRESS;
/// The TLS handshake must be complete within this time.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The first request's head must be there within this time, TLS and all.
pub const FIRST_REQUEST_TIME: Duration = Duration::from_secs(20);
/// A request's head must be complete within this time.
pub const HEAD_TIME: Duration = Duration::from_secs(15);
/// A connection without a request under way ends after this time.
pub const IDLE_TIME: Duration = Duration::from_secs(90);
/// An HTTP/2 connection is asked this often whether the other side is there, and ends when no answer comes
/// for as long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A connection that was told to end, because nothing goes on, is cut after this time.
const FAREWELL: Duration = Duration::from_secs(5);
/// Bytes that HTTP/1 buffers for a head.
const HEAD_MAX: usize = 32 * 1024;
/// HTTP/2 streams of one connection at once.
const STREAMS_MAX: u32 = 64;
/// After an accept that failed (too many open files), the next one waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a router is served.
#[derive(Debug, Clone, Default)]
pub struct Transport {
    /// TLS; plain HTTP without it.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The reverse proxies in front: of a request through them the client's address is the last one in
    /// `X-Forwarded-For` that is none of theirs. From everybody else the header means nothing.
    pub proxies: Vec<Cidr>,
}

/// Serves `router` until `stop` turns true, then waits until every request under way has ended. Dropping the
/// future cuts all connections.
///
/// Handlers find the client's address as `ConnectInfo<SocketAddr>`.
pub async fn serve(listener: TcpListener, transport: Transport, router: Router, stop: watch::Receiver<bool>) {
    let patience = Patience {
        first: FIRST_REQUEST_TIME,
        idle: IDLE_TIME,
    };
    serve_with(listener, transport, router, stop, patience, CONNECTIONS_MAX).await;
}

async fn serve_with(
    listener: TcpListener,
    transport: Transport,
    router: Router,
    mut stop: watch::Receiver<bool>,
    patience: Patience,
    connections_max: usize,
) {
    let server = Arc::new(Server {
        acceptor: transport.tls.map(TlsAcceptor::from),
        proxies: transport.proxies,
        router,
        patience,
    });
    let slots = Arc::new(Semaphore::new(connections_max));
    let strangers = Arc::new(Limits::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (slot, socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Many clients come from the address of a proxy.
        let by = (!proxies::is_trusted(&server.proxies, address.ip())).then_some(address.ip());
        let Some(place) = strangers.enter(by) else {
            tracing::debug!(%address, "too many connections that got nothing yet");
            continue;
        };
        let (server, stop) = (Arc::clone(&server), stop.clone());
        connections.spawn(async move {
            server
                .connection(socket, address, Activity::new(place), stop)
                .await;
            drop(slot);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The next connection, once there is room for it. Nothing is lost when this is dropped.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (socket, address) = listener.accept().await?;
    Ok((slot, socket, address))
}

/// What all connections share.
struct Server {
    acceptor: Option<TlsAcceptor>,
    proxies: Vec<Cidr>,
    router: Router,
    patience: Patience,
}

impl Server {
    /// Serves one connection until it ends, `stop` turns true and its requests have ended, or nothing goes on
    /// for too long.
    async fn connection(
        self: Arc<Self>,
        socket: TcpStream,
        address: SocketAddr,
        activity: Arc<Activity>,
        mut stop: watch::Receiver<bool>,
    ) {
        let accepted = Instant::now();
        let Some(socket) = secure(socket, self.acceptor.clone(), stop.clone()).await else {
            return;
        };
        let (server, requests) = (Arc::clone(&self), Arc::clone(&activity));
        let service = service_fn(move |request: Request<Incoming>| {
            Arc::clone(&server).respond(request, address, requests.begin())
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_concurrent_streams(STREAMS_MAX);
        let graceful = GracefulShutdown::new();
        let socket = TokioIo::new(Lingering::new(socket, Arc::clone(&activity)));
        let connection = graceful.watch(builder.serve_connection_with_upgrades(socket, service));
        let end = async {
            tokio::select! {
                () = stopped(&mut stop) => graceful.shutdown().await,
                () = activity.idle(self.patience, accepted) => {
                    tracing::debug!(%address, "nothing goes on on a connection");
                    let _ = timeout(FAREWELL, graceful.shutdown()).await;
                }
            }
        };
        tokio::select! {
            biased;
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%address, error, "a connection ended badly");
            },
            () = end => {}
        }
    }

    async fn respond(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        address: SocketAddr,
        under_way: UnderWay,
    ) -> Result<Response<Body>, std::convert::Infallible> {
        let client = proxies::client_address(address, &self.proxies, request.headers());
        request.extensions_mut().insert(ConnectInfo(client));
        let response = self.router.clone().oneshot(request).await?;
        Ok(under_way.answered(response))
    }
}

/// Waits until the server is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Whoever would say so may be gone: then it is time too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A socket with TLS or without.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

async fn secure(
    socket: TcpStream,
    acceptor: Option<TlsAcceptor>,
    mut stop: watch::Receiver<bool>,
) -> Option<Box<dyn Io>> {
    // Frames are small and answered at once: waiting to fill a segment only delays them.
    let _ = socket.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return Some(Box::new(socket));
    };
    tokio::select! {
        () = stopped(&mut stop) => None,
        handshake = timeout(HANDSHAKE_TIME, acceptor.accept(socket)) => match handshake {
            Ok(Ok(socket)) => Some(Box::new(socket)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SHORT: Patience = Patience {
        first: Duration::from_millis(50),
        idle: Duration::from_millis(50),
    };
    const LONG: Patience = Patience {
        first: FIRST_REQUEST_TIME,
        idle: IDLE_TIME,
    };
    /// What never happens within this time does not happen.
    const NEVER: Duration = Duration::from_secs(20);

    async fn start(
        patience: Patience,
        connections: usize,
    ) -> (SocketAddr, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "hello"));
        let (stop, stopped) = watch::channel(false);
        let server = serve_with(
            listener,
            Transport::default(),
            router,
            stopped,
            patience,
            connections,
        );
        (address, stop, tokio::spawn(server))
    }

    /// Sends something, and reads until the server ends the connection.
    async fn until_end(address: SocketAddr, first: &[u8]) -> Vec<u8> {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(first).await.unwrap();
        let mut read = Vec::new();
        let end = timeout(NEVER, socket.read_to_end(&mut read)).await;
        let _ = end.expect("the server ends the connection");
        read
    }

    /// LESSONS, advisory 7: every state before authentication has a deadline.
    #[tokio::test]
    async fn advisory_7_who_sends_no_request_is_given_up() {
        let (address, _stop, _server) = start(SHORT, CONNECTIONS_MAX).await;
        // Nothing at all, the beginning of HTTP/2's preface, and HTTP/2 without a request.
        assert!(until_end(address, b"").await.is_empty());
        assert!(until_end(address, b"PRI * HT").await.is_empty());
        let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        preface.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        until_end(address, &preface).await;
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_goes_on_ends() {
        let (address, _stop, _server) = start(SHORT, CONNECTIONS_MAX).await;
        let read = until_end(address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(read.starts_with(b"HTTP/1.1 200") && read.ends_with(b"hello"));
    }

    /// What was refused before its body was there is answered, and not reset.
    #[tokio::test]
    async fn who_still_sends_a_body_gets_the_answer() {
        let (address, _stop, _server) = start(LONG, CONNECTIONS_MAX).await;
        for head in [
            "POST / HTTP/1.1\r\nhost: a\r\nx: \u{1}\r\ncontent-length: 500000\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\n",
        ] {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(head.as_bytes()).await.unwrap();
            // The answer is there, and has not been read, while the body is sent.
            socket.readable().await.unwrap();
            for _ in 0..5 {
                socket.write_all(&[b'a'; 100_000]).await.unwrap();
            }
            let mut read = Vec::new();
            timeout(NEVER, socket.read_to_end(&mut read))
                .await
                .unwrap()
                .unwrap();
            assert!(
                read.starts_with(b"HTTP/1.1 40"),
                "{}",
                String::from_utf8_lossy(&read)
            );
        }
    }

    /// LESSONS, advisory 7: nobody keeps a connection that is over.
    #[tokio::test]
    async fn advisory_7_who_does_not_end_its_side_is_cut() {
        let (address, _stop, _server) = start(LONG, 1).await;
        let mut rude = TcpStream::connect(address).await.unwrap();
        rude.write_all(b"no request\r\n\r\n").await.unwrap();
        // There is room for one connection only.
        let read = until_end(address, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(read.ends_with(b"hello"));
        drop(rude);
    }

    /// LESSONS, advisory 7: every state before authentication has a per-address cap.
    #[tokio::test]
    async fn advisory_7_an_address_has_so_many_connections_that_got_nothing() {
        let (address, _stop, _server) = start(LONG, CONNECTIONS_MAX).await;
        let mut held = Vec::new();
        for _ in 0..STRANGERS_MAX_PER_ADDRESS {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(b"G").await.unwrap();
            held.push(socket);
        }
        assert!(until_end(address, b"").await.is_empty());
        // Whoever gets an answer makes room for another.
        let mut first = held.remove(0);
        first
            .write_all(b"ET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 12];
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let read = until_end(address, b"GET / HTTP/1.1\r\nconnection: close\r\nhost: a\r\n\r\n").await;
        assert!(read.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_server_that_is_full_still_stops() {
        let (address, stop, server) = start(LONG, 1).await;
        let mut only = TcpStream::connect(address).await.unwrap();
        only.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        only.read_exact(&mut [0; 12]).await.unwrap();
        stop.send_replace(true);
        timeout(NEVER, server).await.unwrap().unwrap();
    }
}
