//! One visitor's connection that speaks HTTP.

#![expect(
    clippy::disallowed_methods,
    reason = "idle connections are closed by the clock; hyper's streams run as tasks that end with their \
              connection"
)]

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use http::StatusCode;
use hyper::{
    Request, Response,
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use kakuremichi_core::code::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep_until},
};

use super::{
    body::ResponseBody,
    exchange::Exchange,
    io::{Unguard, VisitorIo},
    kept::Kept,
    load::{Load, Patience},
    proxy,
};
use crate::gateway::{
    drain::Drain,
    serving::Serving,
    upstream::{Upstream, VisitorFacts},
};

/// What of an HTTP/2 stream is buffered toward the visitor, at most, in bytes.
const H2_SEND_BUFFER: usize = 128 * 1024;
/// What a visitor may send on one stream before it is taken, in bytes.
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
/// The same on all streams of a connection.
const H2_CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Streams that a visitor reset before they were answered (CVE-2023-44487). Beyond, the connection is
/// closed.
const H2_PENDING_RESETS: usize = 20;
/// Streams that we reset because of a visitor's errors (CVE-2025-8671). Beyond, the connection is
/// closed.
const H2_LOCAL_RESETS: usize = 256;
/// A quiet HTTP/2 connection is asked whether it is still there this often.
const H2_PING: Duration = Duration::from_secs(30);
/// How long a visitor may take to close a connection that was announced to end.
const H2_GOAWAY: Duration = Duration::from_secs(2);

/// How HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 (and 1.0).
    Http1,
    /// HTTP/2.
    Http2,
}

type Upgraded = Pin<Box<dyn Future<Output = ()>>>;

/// A visitor's connection, as its requests see it.
pub(crate) struct Connection<U> {
    /// What visitors are served from.
    pub(super) serving: Rc<Serving<U>>,
    /// The visitor.
    pub(super) visitor: VisitorFacts,
    /// Connections to targets that this one may use again.
    pub(super) kept: Rc<Kept>,
    /// Tells when the gateway stops.
    pub(super) drain: Drain,
    /// Takes the guard away.
    pub(super) unguard: Unguard,
    /// What the connection does once it is no longer HTTP.
    pub(super) upgraded: RefCell<Option<Upgraded>>,
    /// What is open on it.
    pub(super) load: Rc<Load>,
}

/// Serves a connection to its end.
pub(crate) async fn serve<U, T>(
    serving: Rc<Serving<U>>,
    io: T,
    visitor: VisitorFacts,
    protocol: Protocol,
    drain: Drain,
) where
    U: Upstream,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Rc::new(Connection {
        kept: serving.draining.keep(),
        serving,
        visitor,
        drain,
        unguard: Unguard::default(),
        upgraded: RefCell::new(None),
        load: Rc::new(Load::new()),
    });
    match protocol {
        Protocol::Http1 => Rc::clone(&connection).http1(io).await,
        Protocol::Http2 => Rc::clone(&connection).http2(io).await,
    }
    let upgraded = connection.upgraded.borrow_mut().take();
    if let Some(upgraded) = upgraded {
        upgraded.await;
    }
}

impl<U: Upstream> Connection<U> {
    async fn http1<T>(self: Rc<Self>, io: T)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (timeouts, limits) = (&self.serving.timeouts, &self.serving.limits);
        let io = VisitorIo::http1(io, timeouts.write, self.unguard.clone());
        let this = Rc::clone(&self);
        let service = service_fn(move |request| Rc::clone(&this).request(request));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.head)
            .max_headers(limits.fields)
            .max_header_size(limits.head)
            .max_buf_size(limits.head.max(8192))
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        let mut drain = self.drain.clone();
        let ended = tokio::select! {
            ended = self.load.watch(&mut connection, None) => ended,
            () = drain.begun() => {
                Pin::new(&mut connection).graceful_shutdown();
                self.load.watch(&mut connection, None).await
            }
        };
        let Some(ended) = ended else {
            tracing::debug!("a visitor who is no longer permitted takes nothing");
            return;
        };
        if let Some(error) = ended.as_ref().err().filter(|error| error.is_parse()) {
            self.refused(error);
        }
        if ended.as_ref().is_err_and(hyper::Error::is_parse)
            && let Some(parts) = connection.into_parts()
        {
            // The answer that says what was wrong is written; it is to arrive.
            let _ = parts.io.into_inner().shutdown().await;
        }
        log_end(ended);
    }

    async fn http2<T>(self: Rc<Self>, io: T)
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (timeouts, limits) = (&self.serving.timeouts, &self.serving.limits);
        let io = VisitorIo::http2(io, timeouts.write);
        let this = Rc::clone(&self);
        let service = service_fn(move |request| Rc::clone(&this).request(request));
        let connection = http2::Builder::new(LocalExecutor {
            load: Rc::clone(&self.load),
            patience: Patience {
                takes_nothing: timeouts.write,
                takes_others: timeouts.idle,
            },
        })
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(H2_PENDING_RESETS)
        .max_local_error_reset_streams(H2_LOCAL_RESETS)
        .max_send_buf_size(H2_SEND_BUFFER)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(timeouts.head)
        .serve_connection(TokioIo::new(io), service);
        let mut connection = pin!(connection);
        let mut drain = self.drain.clone();
        let mut ending = false;
        let mut check = Instant::now() + timeouts.head;
        loop {
            tokio::select! {
                ended = &mut connection => return log_end(ended),
                () = self.load.too_many_given_up() => {
                    tracing::debug!("a visitor gave up too many requests");
                    return;
                }
                () = drain.begun(), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(check) => {
                    let now = Instant::now();
                    check = match self.load.quiet_at(timeouts.head, timeouts.keep_alive) {
                        None => now + timeouts.keep_alive,
                        Some(due) if due > now => due,
                        Some(_) if ending => return,
                        Some(_) => {
                            ending = true;
                            connection.as_mut().graceful_shutdown();
                            now + H2_GOAWAY
                        }
                    };
                }
            }
        }
    }

    /// Logs a request that hyper answered itself, since it could not be read.
    fn refused(&self, error: &hyper::Error) {
        let (status, code) = match error.is_parse_too_large() {
            true => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, None),
            false => (StatusCode::BAD_REQUEST, Some(Code::BAD_REQUEST)),
        };
        let exchange = Exchange::begin(
            &self.serving.counters,
            self.serving.numbers.request(),
            self.visitor.address.ip().to_canonical(),
            None,
            None,
        );
        exchange.answered(status, code);
        exchange.end_response();
    }

    async fn request(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Infallible> {
        Ok(proxy::answer(self, request).await)
    }
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a visitor's connection ended");
    }
}

/// Runs hyper's HTTP/2 streams on this thread. Each ends with its connection.
#[derive(Debug, Clone)]
struct LocalExecutor {
    load: Rc<Load>,
    patience: Patience,
}

impl<F> Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        let (load, patience) = (Rc::clone(&self.load), self.patience);
        tokio::task::spawn_local(async move {
            // Dropped before its end, the stream is reset.
            if load.watch(pin!(future), Some(patience)).await.is_none() {
                tracing::debug!("a stream is reset: the visitor does not take it, or may no longer");
            }
        });
    }
}
