//! What is open on a visitor's connection, and who is waited for.
//!
//! hyper asks the body of an HTTP/2 response for more only while the visitor's window is open. A visitor
//! that opens no window and answers pings would hold its flows for ever, and no body of theirs would hear
//! of a revocation: so each stream is watched from outside of hyper.

#![expect(clippy::disallowed_methods, reason = "the clock is read here, for idle times")]

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, Sleep, sleep_until},
};

use super::exchange::Exchange;

/// Streams that a visitor gave up while they were being answered, beyond those that it took whole
/// (CVE-2023-44487: each costs a flow to a target). Beyond, the connection is closed.
const H2_GIVEN_UP: usize = 256;

/// What is open on a connection.
#[derive(Debug)]
pub(crate) struct Load {
    open: Cell<usize>,
    quiet_since: Cell<Instant>,
    asked: Cell<bool>,
    /// When the visitor last took something, of whichever answer.
    taken: Cell<Instant>,
    /// The exchange that began last.
    began: RefCell<Option<Weak<Exchange>>>,
    /// Requests that the visitor gave up, beyond those that were answered whole.
    given_up: Cell<usize>,
    too_many: Notify,
}

/// A request that is open on a connection, until its answer has ended.
#[derive(Debug)]
pub(crate) struct OpenRequest(Rc<Load>);

/// How long a visitor may leave an answer untaken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// When it takes nothing of any other answer either.
    pub(super) takes_nothing: Duration,
    /// When it takes others meanwhile: they may have to share a slow line.
    pub(super) takes_others: Duration,
}

impl Load {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            open: Cell::new(0),
            quiet_since: Cell::new(now),
            asked: Cell::new(false),
            taken: Cell::new(now),
            began: RefCell::new(None),
            given_up: Cell::new(0),
            too_many: Notify::new(),
        }
    }

    /// A request begins.
    pub(super) fn open(self: &Rc<Self>) -> OpenRequest {
        self.asked.set(true);
        self.open.set(self.open.get() + 1);
        OpenRequest(Rc::clone(self))
    }

    /// Its exchange, for whoever [watches](Self::watch).
    pub(super) fn began(&self, exchange: &Rc<Exchange>) {
        *self.began.borrow_mut() = Some(Rc::downgrade(exchange));
    }

    /// Waits until the visitor gave up too many requests.
    pub(super) async fn too_many_given_up(&self) {
        self.too_many.notified().await;
    }

    /// When the connection will have been without a request for too long; `None` while one is open.
    /// Before the first one it is a deadline.
    pub(super) fn quiet_at(&self, first: Duration, next: Duration) -> Option<Instant> {
        let patience = if self.asked.get() { next } else { first };
        (self.open.get() == 0).then(|| self.quiet_since.get() + patience)
    }

    /// Runs what serves requests: a stream, or the connection. `None` when it has to end because the
    /// visitor does not take the answer, within the patience, or may no longer have it.
    pub(super) async fn watch<F: Future + Unpin>(
        &self,
        mut serves: F,
        patience: Option<Patience>,
    ) -> Option<F::Output> {
        let mut exchange = Weak::new();
        let mut timer = None;
        poll_fn(|cx| {
            let ended = Pin::new(&mut serves).poll(cx);
            // A stream has one exchange, which began when the stream was asked first; a connection has
            // the newest.
            let began = match patience {
                Some(_) => self.began.borrow_mut().take(),
                None => self.began.borrow().clone(),
            };
            if let Some(began) = began {
                exchange = began;
            }
            if let Poll::Ready(ended) = ended {
                return Poll::Ready(Some(ended));
            }
            let Some(exchange) = exchange.upgrade() else {
                return Poll::Pending;
            };
            if exchange.offered_since().is_some() && exchange.is_revoked() {
                return Poll::Ready(None);
            }
            let Some(patience) = patience else {
                return Poll::Pending;
            };
            self.poll_untaken(&exchange, patience, &mut timer, cx)
                .map(|()| None)
        })
        .await
    }

    /// Ready when the visitor has left an answer untaken for too long. The timer is not touched while
    /// things move.
    fn poll_untaken(
        &self,
        exchange: &Exchange,
        patience: Patience,
        timer: &mut Option<Pin<Box<Sleep>>>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            let Some(offered) = exchange.offered_since() else {
                return Poll::Pending;
            };
            let alone = offered.max(self.taken.get()) + patience.takes_nothing;
            let due = alone.min(offered + patience.takes_others);
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(timer.as_mut().poll(cx));
            if due <= timer.deadline() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}

impl OpenRequest {
    /// The visitor takes something of the answer.
    pub(super) fn takes(&self, now: Instant) {
        self.0.taken.set(now);
    }

    /// The request has ended: its answer was `complete`, or the visitor gave it up.
    pub(super) fn ended(&self, complete: bool) {
        let given_up = self.0.given_up.get();
        if complete {
            self.0.given_up.set(given_up.saturating_sub(1));
            return;
        }
        self.0.given_up.set(given_up + 1);
        if given_up >= H2_GIVEN_UP {
            self.0.too_many.notify_one();
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.quiet_since.set(Instant::now());
    }
}
