//! Bodies on their way through: counted, watched, never gathered.

#![expect(clippy::disallowed_methods, reason = "a body waits for its idle time here")]

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep_until};

use super::{exchange::Exchange, headers, kept::InUse};
use crate::gateway::flows::Lease;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The side that sends it did.
    #[error("the sender broke off")]
    Sender(#[source] hyper::Error),
    /// The visitor may no longer see it.
    #[error("the visitor is no longer permitted")]
    Revoked,
    /// Nothing moved for too long.
    #[error("nothing moved for too long")]
    Idle,
}

/// A visitor's request body, on its way to the target.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    exchange: Rc<Exchange>,
}

impl RequestBody {
    /// Forwards `incoming`.
    pub(crate) fn new(incoming: Incoming, exchange: &Rc<Exchange>) -> Self {
        let body = Self {
            incoming: Some(incoming),
            exchange: Rc::clone(exchange),
        };
        if body.is_end_stream() {
            exchange.end_request();
        }
        body
    }

    /// There is none.
    pub(crate) fn empty(exchange: &Rc<Exchange>) -> Self {
        exchange.end_request();
        Self {
            incoming: None,
            exchange: Rc::clone(exchange),
        }
    }

    /// Gives back what was to be forwarded, of which nothing was taken yet.
    pub(crate) fn into_incoming(self) -> Option<Incoming> {
        self.incoming
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        let ended = frame.is_none() || incoming.is_end_stream();
        let frame = frame.map(|frame| frame.map_err(BodyError::Sender));
        if ended {
            this.exchange.end_request();
        }
        Poll::Ready(frame.map(|frame| {
            frame.map(|mut frame| {
                if let Some(data) = frame.data_ref() {
                    this.exchange.moved_in(data.len());
                }
                if let Some(trailers) = frame.trailers_mut() {
                    headers::trailers_to_target(trailers);
                }
                frame
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// What a visitor gets: a page of ours, or what the target sends.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    content: Content,
    exchange: Rc<Exchange>,
}

#[derive(Debug)]
enum Content {
    Page(Option<Bytes>),
    Relayed(Box<Relayed>),
}

#[derive(Debug)]
struct Relayed {
    incoming: Incoming,
    /// The connection it comes from; given back at its end, closed when dropped before.
    upstream: Option<InUse>,
    lease: Lease,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    /// A page.
    pub(crate) fn page(content: Bytes, exchange: &Rc<Exchange>) -> Self {
        let content = Some(content).filter(|content| !content.is_empty());
        if content.is_none() {
            exchange.end_response();
        }
        Self {
            content: Content::Page(content),
            exchange: Rc::clone(exchange),
        }
    }

    /// None, since the connection becomes something else: the exchange ends with that.
    pub(crate) fn upgraded(exchange: &Rc<Exchange>) -> Self {
        Self {
            content: Content::Page(None),
            exchange: Rc::clone(exchange),
        }
    }

    /// What the target sends. It breaks off when nothing moves for `idle`, or the lease lapses.
    pub(crate) fn relayed(
        incoming: Incoming,
        upstream: InUse,
        lease: Lease,
        idle: Duration,
        exchange: &Rc<Exchange>,
    ) -> Self {
        let mut relayed = Relayed {
            incoming,
            upstream: Some(upstream),
            lease,
            idle,
            timer: None,
        };
        if relayed.incoming.is_end_stream() {
            relayed.ended(exchange);
        }
        Self {
            content: Content::Relayed(Box::new(relayed)),
            exchange: Rc::clone(exchange),
        }
    }
}

impl Relayed {
    fn poll_frame(
        &mut self,
        exchange: &Exchange,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.lease.poll_revoked(cx).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Revoked)));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            exchange.awaits_target();
            ready!(self.poll_idle(exchange, cx));
            return Poll::Ready(Some(Err(BodyError::Idle)));
        };
        let frame = match frame {
            None => {
                self.ended(exchange);
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Sender(error)))),
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    exchange.moved_out(data.len());
                }
                if let Some(trailers) = frame.trailers_mut() {
                    headers::trailers_to_visitor(trailers);
                }
                frame
            }
        };
        if self.incoming.is_end_stream() {
            self.ended(exchange);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Ready when nothing moved for too long. The timer is not touched while things move: when it
    /// fires it looks at when they last did.
    fn poll_idle(&mut self, exchange: &Exchange, cx: &mut Context<'_>) -> Poll<()> {
        let due = exchange.idle_at(self.idle);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            ready!(timer.as_mut().poll(cx));
            let due = exchange.idle_at(self.idle);
            if due <= timer.deadline() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }

    fn ended(&mut self, exchange: &Exchange) {
        exchange.end_response();
        if let Some(upstream) = self.upstream.take() {
            // A target that answered without reading all it was sent is not asked again: what it has
            // not read would be the start of the next request (LESSONS, advisory 6).
            upstream.finish(exchange.request_ended());
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match &mut this.content {
            Content::Page(content) => Poll::Ready(content.take().map(|content| {
                this.exchange.moved_out(content.len());
                this.exchange.end_response();
                Ok(Frame::data(content))
            })),
            Content::Relayed(relayed) => relayed.poll_frame(&this.exchange, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Page(content) => content.is_none(),
            Content::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Page(content) => SizeHint::with_exact(content.as_ref().map_or(0, Bytes::len) as u64),
            Content::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}
