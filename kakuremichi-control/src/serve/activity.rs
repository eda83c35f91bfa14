//! What goes on on one connection, so that one on which nothing does is given up.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use crate::hub::Unauthenticated;

/// How long a connection may be of no use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From the connection to its first request: TLS and all.
    pub(super) first: Duration,
    /// From the end of a request to the next one.
    pub(super) idle: Duration,
}

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    requests: watch::Sender<Requests>,
    /// The connection's place among those on which nothing succeeded yet.
    place: Mutex<Option<Unauthenticated>>,
    /// It speaks another protocol than HTTP now.
    upgraded: AtomicBool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Requests {
    begun: u64,
    under_way: usize,
}

/// A request under way; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Activity>);

impl Activity {
    pub(super) fn new(place: Unauthenticated) -> Arc<Self> {
        Arc::new(Self {
            requests: watch::Sender::default(),
            place: Mutex::new(Some(place)),
            upgraded: AtomicBool::new(false),
        })
    }

    /// Whether the connection speaks another protocol than HTTP now.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// A request was dispatched.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.requests.send_modify(|requests| {
            requests.begun += 1;
            requests.under_way += 1;
        });
        UnderWay(Arc::clone(self))
    }

    /// Waits until the connection has been of no use for too long.
    pub(super) async fn idle(&self, patience: Patience, accepted: Instant) {
        let mut requests = self.requests.subscribe();
        let first = requests.wait_for(|requests| requests.begun > 0);
        if !matches!(timeout_at(accepted + patience.first, first).await, Ok(Ok(_))) {
            return;
        }
        loop {
            let quiet = requests.wait_for(|requests| requests.under_way == 0).await;
            let Ok(begun) = quiet.map(|requests| requests.begun) else {
                return;
            };
            let next = requests.wait_for(|requests| requests.begun > begun);
            if !matches!(timeout(patience.idle, next).await, Ok(Ok(_))) {
                return;
            }
        }
    }
}

impl UnderWay {
    /// The request was answered; it ends with the body. Who got something is no stranger any more, and its
    /// connection gives its place back.
    pub(super) fn answered(self, response: Response<Body>) -> Response<Body> {
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.0.upgraded.store(true, Ordering::Relaxed);
        }
        if !status.is_client_error() && !status.is_server_error() {
            let mut place = self.0.place.lock().unwrap_or_else(PoisonError::into_inner);
            place.take();
        }
        response.map(|body| {
            Body::new(Held {
                body,
                _under_way: self,
            })
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.requests.send_modify(|requests| requests.under_way -= 1);
    }
}

/// A body whose request is under way until it was sent, or dropped.
struct Held {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
