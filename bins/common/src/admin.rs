//! The admin address: `/healthz`, `/readyz` and `/metrics`, for probes and for Prometheus.
//!
//! It only reads, and it wants no token. That it is on loopback does not protect it: a page in a browser on the same
//! machine can send requests there, by a name that resolves to loopback. So the `Host` of a request must be an
//! address of this end or `localhost`, and an `Origin`, which only browsers send, is judged in the same way.

mod answer;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::metrics::Exposition;
use crate::role::Role;

/// Connections served at once; more wait in the system's queue until one ends.
const CONNECTIONS_MAX: usize = 32;
/// A request's head must be complete within this time, and a kept-alive connection sends its next one within it.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request's head; a longer one is refused by hyper with 431.
const HEAD_MAX: usize = 16 * 1024;
/// A connection ends after this time, whatever it does.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// After an accept that failed (too many open files), the next one waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the admin address is, if anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum AdminAddress {
    /// Not served.
    Off,
    /// Served here.
    At(SocketAddr),
}

/// A text that is neither an address with a port nor `off`.
#[derive(Debug, thiserror::Error)]
#[error("neither an address with a port nor `off`")]
pub struct NoAdminAddress;

impl FromStr for AdminAddress {
    type Err = NoAdminAddress;

    fn from_str(text: &str) -> Result<Self, NoAdminAddress> {
        match text {
            "off" => Ok(Self::Off),
            text => text.parse().map(Self::At).map_err(|_| NoAdminAddress),
        }
    }
}

impl TryFrom<String> for AdminAddress {
    type Error = NoAdminAddress;

    fn try_from(text: String) -> Result<Self, NoAdminAddress> {
        text.parse()
    }
}

/// Whether a process does its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// Not yet, not any more, or not now; with the reason in a few words.
    NotReady(String),
}

/// What a role tells on its admin address. Both methods answer from memory, at once.
pub trait AdminSource: fmt::Debug + Send + Sync + 'static {
    /// Whether the process does its work: for a gateway that it has a plan, for an agent a lane as well.
    fn readiness(&self) -> Readiness;

    /// Adds the role's metrics to those that every process has.
    fn metrics(&self, page: &mut Exposition);
}

/// The admin address, bound but not served yet.
#[derive(Debug)]
pub struct Admin {
    listener: Option<TcpListener>,
    role: Role,
}

impl Admin {
    /// Binds the address, so that one that is taken is noticed before anything else has been started.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on.
    pub fn bind(address: AdminAddress, role: Role) -> Result<Self, Failure> {
        let AdminAddress::At(address) = address else {
            return Ok(Self { listener: None, role });
        };
        let bind = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = bind().map_err(|error| Failure::listen("--admin", address, &error))?;
        Ok(Self {
            listener: Some(listener),
            role,
        })
    }

    /// The bound address, with the port that the system chose for port 0.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until the returned handle is dropped. On this runtime, one task for the address and one for each
    /// connection.
    ///
    /// # Errors
    ///
    /// The runtime refuses the socket.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO and time enabled.
    pub fn serve(self, source: Arc<dyn AdminSource>) -> Result<AdminHandle, Failure> {
        let Some(listener) = self.listener else {
            return Ok(AdminHandle { task: None });
        };
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|error| Failure::because("--admin: cannot serve", &error))?;
        let page = Arc::new(Page {
            source,
            role: self.role,
            started: Instant::now(),
        });
        Ok(AdminHandle {
            task: Some(tokio::spawn(accept(listener, page))),
        })
    }
}

/// Owns the tasks of a served admin address; dropping it ends them.
#[derive(Debug)]
#[must_use = "the admin address is closed when this is dropped"]
pub struct AdminHandle {
    task: Option<JoinHandle<()>>,
}

impl Drop for AdminHandle {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What the answers are made from.
#[derive(Debug)]
struct Page {
    source: Arc<dyn AdminSource>,
    role: Role,
    started: Instant,
}

async fn accept(listener: tokio::net::TcpListener, page: Arc<Page>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Connections end with the address.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = Arc::clone(&page);
                connections.spawn(async move {
                    let served = tokio::time::timeout(CONNECTION_TIME, connection(stream, page)).await;
                    if let Ok(Err(error)) = served {
                        tracing::debug!(%error, "admin connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin address: cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: tokio::net::TcpStream, page: Arc<Page>) -> io::Result<()> {
    let local = stream.local_addr()?;
    let service = service_fn(move |request| {
        let answer = answer::answer(&request, local, &page);
        std::future::ready(Ok::<_, std::convert::Infallible>(answer))
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
