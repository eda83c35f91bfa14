//! Serves a router on a socket, with TLS or without.
//!
//! Whoever mounts Control in a server of their own does not need this; the reference binary does.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use http::{HeaderMap, Request};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// Connections at once, nodes and API clients together; more wait in the system's queue until one ends.
pub const CONNECTIONS_MAX: usize = 16_384;
/// The TLS handshake must be complete within this time.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// A request's head must be complete within this time.
pub const HEAD_TIME: Duration = Duration::from_secs(15);
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
    /// A reverse proxy stands in front: the client's address is the last one in `X-Forwarded-For`. Without
    /// this the header means nothing.
    pub behind_proxy: bool,
}

/// Serves `router` until `stop` turns true, then waits until every request under way has ended. Dropping the
/// future cuts all connections.
///
/// Handlers find the client's address as `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: TcpListener,
    transport: Transport,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = transport.tls.map(TlsAcceptor::from);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        let (stop, behind_proxy) = (stop.clone(), transport.behind_proxy);
        let watcher = graceful.watcher();
        connections.spawn(async move {
            let _slot = slot;
            let Some(socket) = secure(socket, acceptor, stop).await else {
                return;
            };
            let service = service_fn(move |mut request: Request<Incoming>| {
                let client = client_address(address, behind_proxy, request.headers());
                request.extensions_mut().insert(ConnectInfo(client));
                router.clone().oneshot(request)
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
                .max_concurrent_streams(STREAMS_MAX);
            let connection = builder
                .serve_connection_with_upgrades(TokioIo::new(socket), service)
                .into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%address, error, "a connection ended badly");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
    while connections.join_next().await.is_some() {}
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
        _ = stop.wait_for(|stop| *stop) => None,
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

/// Where a request comes from. Behind a proxy it is the last address in `X-Forwarded-For`, the one that the
/// proxy itself added; what stands before it is a visitor's claim.
fn client_address(peer: SocketAddr, behind_proxy: bool, headers: &HeaderMap) -> SocketAddr {
    if !behind_proxy {
        return peer;
    }
    let last = headers.get_all("x-forwarded-for").iter().next_back();
    let text = last
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.rsplit(',').next());
    text.and_then(|text| text.trim().parse().ok())
        .map_or(peer, |ip| SocketAddr::new(ip, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LESSONS, advisory 4: forwarded headers count only from listed peers, and the default is none.
    #[test]
    fn a_forwarded_address_counts_only_behind_a_proxy() {
        let peer: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "203.0.113.9, 198.51.100.7".parse().unwrap());
        assert_eq!(client_address(peer, false, &headers), peer);
        assert_eq!(
            client_address(peer, true, &headers),
            "198.51.100.7:0".parse().unwrap()
        );
        assert_eq!(client_address(peer, true, &HeaderMap::new()), peer);
    }
}
