//! One request: read, found, decided on, forwarded.

#![expect(
    clippy::disallowed_methods,
    reason = "connections and heads have deadlines, and each connection to a target has a task, which its \
              owner ends"
)]

use std::{cell::Cell, error::Error, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use kakuremichi_core::{model::IdentityForm, plan::PlannedTarget, request::CanonicalRequest};
use tokio::time::{sleep_until, timeout};

use super::{
    body::{RequestBody, ResponseBody},
    connection::Connection,
    exchange::{Decided, Exchange},
    headers::{self, Forwarded},
    kept::{InUse, KeptKey, TargetConnection, TaskGuard},
    pages::{self, Problem},
    request::{self, Asked},
    sign_in,
    target::TargetStream,
    upgrade,
};
use crate::gateway::{
    access::{Admission, Known, Verdict, wall_clock},
    balance::Unavailable,
    flows::Lease,
    identity::{Fields, Introduction},
    serving::Serving,
    table::{Matched, NoMatch, RouteTable},
    upstream::{FlowError, FlowRequest, Upstream},
    usage::ServiceUsage,
};

/// The read buffer of a connection to a target, at most, in bytes.
const TARGET_BUFFER: usize = 128 * 1024;
/// The header fields of a target's response, at most.
const TARGET_FIELDS: usize = 256;

/// Everything that is known about a request once it may be forwarded.
pub(super) struct Forward<'a, U> {
    pub(super) connection: &'a Rc<Connection<U>>,
    pub(super) exchange: Rc<Exchange>,
    pub(super) admission: Admission,
    pub(super) matched: Matched,
    pub(super) usage: Arc<ServiceUsage>,
    /// The head as it is sent.
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
}

/// Why a request got no answer from a target.
struct Failed {
    problem: Problem,
    again: Again,
}

/// Whether a request that got no answer may be sent again.
enum Again {
    /// It may have been done.
    No,
    /// The target closed the connection without a word: it may be sent again if doing it twice is
    /// the same as doing it once.
    Unanswered,
    /// No target has seen it; here is its body.
    Unsent(Option<Incoming>),
}

impl Failed {
    const fn now(problem: Problem) -> Self {
        Self {
            problem,
            again: Again::No,
        }
    }
}

/// Answers one request.
pub(super) async fn answer<U: Upstream>(
    connection: Rc<Connection<U>>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let serving = &connection.serving;
    let exchange = Rc::new(Exchange::begin(
        &serving.counters,
        serving.numbers.request(),
        connection.visitor.address.ip().to_canonical(),
        Some(request.method().clone()),
        Some(connection.load.open()),
    ));
    connection.load.began(&exchange);
    let version = request.version();
    let method = request.method().clone();
    let upgrade = hyper::upgrade::on(&mut request);
    let accept = accept(request.headers());
    let share = serving.requests.take(connection.visitor.address.ip());
    let outcome = match (request::read(&request), share) {
        (Err(refusal), _) => {
            tracing::debug!(request = exchange.id(), %refusal, "the request is refused");
            Err(Problem::BadRequest)
        }
        (Ok(_), None) => {
            serving.counters.requests_refused.one();
            Err(Problem::Overloaded)
        }
        (Ok(asked), Some(share)) => {
            exchange.counts_as(share);
            route(&connection, &exchange, request, asked, upgrade).await
        }
    };
    let mut response = outcome.unwrap_or_else(|problem| {
        if problem.status().is_server_error() {
            serving.counters.failures.one();
        }
        let page = pages::page(problem, method == Method::HEAD, &accept, &exchange.id());
        exchange.answered(page.status(), Some(problem.code()));
        page.map(|content| ResponseBody::page(content, &exchange))
    });
    if version == Version::HTTP_2 {
        response.headers_mut().remove(header::CONNECTION);
    }
    response
}

/// What decides about the form of a page.
fn accept(headers: &HeaderMap) -> HeaderMap {
    let values = headers.get_all(header::ACCEPT).iter();
    values.map(|value| (header::ACCEPT, value.clone())).collect()
}

/// Finds the route, decides, forwards.
async fn route<U: Upstream>(
    connection: &Rc<Connection<U>>,
    exchange: &Rc<Exchange>,
    message: Request<Incoming>,
    asked: Asked,
    upgrade: OnUpgrade,
) -> Result<Response<ResponseBody>, Problem> {
    let serving = &connection.serving;
    let (parts, body) = message.into_parts();
    let request = &asked.canonical;
    exchange.asked(request.host().as_str(), request.path());
    let table = serving.table.load_full();
    let ours = |answer: Response<Bytes>| {
        exchange.answered(answer.status(), None);
        answer.map(|content| ResponseBody::page(content, exchange))
    };
    let found = table.find(request.host(), request.path());
    if sign_in::is_ours(request) {
        let service = match &found {
            Ok(matched) => &matched.service,
            Err(NoMatch::Route(service)) => service,
            Err(NoMatch::Service) => return Err(Problem::NoService),
        };
        exchange.found(service, None);
        return sign_in::answer(serving, &table, service, &parts, request).map(ours);
    }
    let matched = match found {
        Ok(matched) => matched,
        Err(NoMatch::Service) => return Err(Problem::NoService),
        Err(NoMatch::Route(service)) => {
            exchange.found(&service, None);
            return Err(Problem::NoRoute);
        }
    };
    exchange.found(&matched.service, Some(matched.route().id));
    let visitor = connection.visitor.address.ip();
    let admission = match serving
        .access
        .decide(visitor, &parts.headers, request, (table.people(), &matched))
        .await
    {
        Verdict::Admitted(admission) => *admission,
        Verdict::Challenged(challenge, known) => {
            exchange.decided(Decided::Challenge, None);
            // Whoever is known by a credential would come back with it, and be sent away again.
            if known != Known::ByCredential
                && let Some(away) =
                    sign_in::depart(serving, &table, &matched.service, &parts, request, &challenge)
            {
                return Ok(ours(away));
            }
            return Err(if known != Known::Nobody && challenge.signed_in {
                Problem::NotProvenEnough {
                    strength: challenge.strength,
                    max_age: challenge.max_age,
                    basic: challenge.basic,
                }
            } else {
                Problem::Unauthenticated {
                    basic: challenge.basic,
                    bearer: challenge.service_token,
                }
            });
        }
        Verdict::Denied(denial) => {
            exchange.decided(Decided::Deny, denial.rule());
            return Err(Problem::Denied);
        }
        Verdict::Throttled(wait) => {
            serving.counters.throttled.one();
            return Err(Problem::TooManyAttempts {
                retry_after: wait.as_secs().max(1),
            });
        }
        Verdict::Overloaded => return Err(Problem::Overloaded),
    };
    exchange.decided(Decided::Permit, admission.permit.rule());
    let lease = serving.flows.lease(admission.facts.clone());
    exchange.permitted_until(lease.revocation());
    // A plan may have come while the visitor was being decided about.
    let newest = serving.table.load();
    if !Arc::ptr_eq(&table, &newest) && lease.decide_anew(&newest) {
        return Err(Problem::Denied);
    }
    let usage = serving.usage.of(matched.service.id);
    exchange.charge(&usage);
    let identity = identify(serving, &table, &admission, &matched, request);
    let mut headers = parts.headers;
    headers::to_target(
        &mut headers,
        &Forwarded {
            visitor: visitor.to_canonical(),
            host: &asked.host,
            authorization_used: admission.authorization_used,
            websocket: asked.websocket,
            identity: &identity,
        },
    );
    let forward = Forward {
        connection,
        exchange: Rc::clone(exchange),
        admission,
        matched,
        usage,
        method: parts.method,
        uri: Uri::try_from(request.target()).map_err(|_| Problem::BadRequest)?,
        headers,
    };
    if asked.websocket {
        return upgrade::websocket(forward, body, upgrade, lease).await;
    }
    forward.request(body, lease).await
}

/// What the target is told of the visitor, in the form that the service has.
fn identify<U>(
    serving: &Serving<U>,
    table: &RouteTable,
    admission: &Admission,
    matched: &Matched,
    request: &CanonicalRequest,
) -> Fields {
    let (people, form) = (table.people(), matched.service.identity);
    if form == IdentityForm::Nothing {
        return Fields::NONE;
    }
    let Some(told) = Introduction::of(admission, people, &matched.service) else {
        return Fields::NONE;
    };
    if !form.has_assertion() {
        return Fields::new(&told, form, None);
    }
    let assertion = serving
        .sign_in
        .assertion(people, &told, request.host(), wall_clock());
    assertion.map_or(Fields::NONE, |assertion| {
        Fields::new(&told, form, Some(assertion.as_str()))
    })
}

impl<U: Upstream> Forward<'_, U> {
    /// Offers the request to the targets of its route, one after the other, until one takes it.
    async fn request(self, body: Incoming, lease: Lease) -> Result<Response<ResponseBody>, Problem> {
        let mut body = Some(body).filter(|body| !body.is_end_stream());
        let bodyless = body.is_none();
        let repeatable = bodyless && self.method.is_idempotent();
        let mut problem = Problem::Unhealthy;
        for target in self.candidates()? {
            self.exchange.sent_to(target.id);
            let key = self.key(&target);
            let keep = || Some((key.clone(), Rc::clone(&self.connection.kept)));
            if let Some(connection) = self.connection.kept.take(&key, repeatable) {
                self.exchange.relayed_by(connection.relay);
                let upstream = InUse {
                    connection,
                    keep: keep(),
                };
                match self.send(upstream, body.take(), &lease).await {
                    Ok((response, upstream)) => return self.relay(response, upstream, lease),
                    // The target closed the kept connection meanwhile.
                    Err(Failed {
                        again: Again::Unsent(unsent),
                        ..
                    }) => body = unsent,
                    Err(Failed {
                        again: Again::Unanswered,
                        ..
                    }) if repeatable => {}
                    Err(failed) => return Err(failed.problem),
                }
            }
            let upstream = match self.connect(&target, !bodyless).await {
                Ok(connection) => InUse {
                    connection,
                    keep: keep(),
                },
                Err(error) => {
                    problem = self.failed(&target, error);
                    continue;
                }
            };
            match self.send(upstream, body.take(), &lease).await {
                Ok((response, upstream)) => return self.relay(response, upstream, lease),
                Err(Failed {
                    again: Again::Unsent(unsent),
                    problem: reason,
                }) if bodyless || unsent.is_some() => {
                    problem = reason;
                    body = unsent;
                }
                Err(failed) => return Err(failed.problem),
            }
        }
        Err(problem)
    }

    /// The targets to try.
    pub(super) fn candidates(&self) -> Result<Vec<Arc<PlannedTarget>>, Problem> {
        let candidates = self.connection.serving.candidates(&self.matched.route().pool);
        candidates.map_err(|unavailable| match unavailable {
            Unavailable::Offline => Problem::Offline,
            Unavailable::Unhealthy => Problem::Unhealthy,
        })
    }

    fn key(&self, target: &Arc<PlannedTarget>) -> KeptKey {
        KeptKey {
            service: self.matched.service.id,
            principal: self.admission.permit.principal().cloned(),
            target: Arc::clone(target),
        }
    }

    /// Notes that a target could not be reached.
    pub(super) fn failed(&self, target: &PlannedTarget, error: FlowError) -> Problem {
        self.connection.serving.counters.flows_failed.one();
        tracing::debug!(request = self.exchange.id(), target = %target.id, %error, "no way to the target");
        error.problem()
    }

    /// Opens a flow, and TLS in it where it is planned. With `wait`, the target has accepted when this
    /// returns.
    pub(super) async fn open(
        &self,
        target: &PlannedTarget,
        wait: bool,
    ) -> Result<TargetStream<U::Stream>, FlowError> {
        let serving = &self.connection.serving;
        let relay = Cell::new(None);
        let request = FlowRequest {
            permit: &self.admission.permit,
            target,
            visitor: &self.connection.visitor,
            usage: &self.usage,
            wait,
            relay: &relay,
        };
        let opened = timeout(serving.timeouts.connect, async {
            let stream = serving.upstream.open(request).await?;
            serving.target_tls.wrap(target, stream).await
        });
        let opened = opened.await.unwrap_or(Err(FlowError::TimedOut));
        self.exchange.relayed_by(relay.get());
        let stream = opened?;
        serving.counters.flows.one();
        Ok(stream)
    }

    async fn connect(&self, target: &PlannedTarget, wait: bool) -> Result<TargetConnection, FlowError> {
        let stream = self.open(target, wait).await?;
        let (sender, driver) = handshake(stream).await.map_err(|_| FlowError::Broken)?;
        let task = tokio::task::spawn_local(async move {
            if let Err(error) = driver.await {
                tracing::trace!(%error, "a connection to a target ended");
            }
        });
        let task = TaskGuard(task.abort_handle());
        Ok(TargetConnection::new(sender, self.exchange.relay(), task))
    }

    /// The request, as it is sent.
    pub(super) fn message(&self, body: RequestBody) -> Request<RequestBody> {
        let mut message = Request::new(body);
        *message.method_mut() = self.method.clone();
        *message.uri_mut() = self.uri.clone();
        *message.headers_mut() = self.headers.clone();
        message
    }

    /// Sends the request and waits for the head of the answer, as long as the request's body moves.
    async fn send(
        &self,
        mut upstream: InUse,
        body: Option<Incoming>,
        lease: &Lease,
    ) -> Result<(Response<Incoming>, InUse), Failed> {
        let body = body.map_or_else(
            || RequestBody::empty(&self.exchange),
            |body| RequestBody::new(body, &self.exchange),
        );
        self.exchange.sent();
        let sent = upstream.connection.sender.try_send_request(self.message(body));
        let head = async {
            let mut sent = std::pin::pin!(sent);
            let patience = self.connection.serving.timeouts.response_head;
            loop {
                let due = self.exchange.idle_at(patience);
                tokio::select! {
                    sent = &mut sent => return sent.map_err(|error| self.explain(error)),
                    () = sleep_until(due) => {
                        if self.exchange.idle_at(patience) <= due {
                            return Err(Failed::now(Problem::TimedOut));
                        }
                    }
                    () = lease.revoked() => return Err(Failed::now(Problem::Denied)),
                }
            }
        };
        let response = head.await?;
        Ok((response, upstream))
    }

    fn explain(&self, mut error: TrySendError<Request<RequestBody>>) -> Failed {
        let unsent = error.take_message().map(Request::into_body);
        let error = error.into_error();
        tracing::debug!(request = self.exchange.id(), error = %chain(&error), "the target gave no answer");
        let reason = FlowError::find(&error);
        if reason.is_some() {
            self.connection.serving.counters.flows_failed.one();
        }
        let closed = error.is_canceled() || error.is_closed() || error.is_incomplete_message();
        Failed {
            problem: reason.map_or(Problem::Broken, FlowError::problem),
            again: match unsent {
                Some(body) => Again::Unsent(body.into_incoming()),
                // The flow never reached a target. A body that was begun is gone, though.
                None if reason.is_some() => Again::Unsent(None),
                None if closed => Again::Unanswered,
                None => Again::No,
            },
        }
    }

    /// Hands the answer on.
    pub(super) fn relay(
        &self,
        response: Response<Incoming>,
        upstream: InUse,
        lease: Lease,
    ) -> Result<Response<ResponseBody>, Problem> {
        // Only an upgrade that was asked for can be answered so.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Problem::Broken);
        }
        let (mut parts, incoming) = response.into_parts();
        headers::to_visitor(&mut parts.headers);
        parts.extensions.clear();
        self.exchange.answered(parts.status, None);
        let idle = self.connection.serving.timeouts.idle;
        let body = ResponseBody::relayed(incoming, upstream, lease, idle, &self.exchange);
        Ok(Response::from_parts(parts, body))
    }
}

/// Starts HTTP/1.1 on a connection to a target.
pub(super) async fn handshake<S>(
    stream: TargetStream<S>,
) -> hyper::Result<(
    http1::SendRequest<RequestBody>,
    http1::Connection<TokioIo<TargetStream<S>>, RequestBody>,
)>
where
    TargetStream<S>: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    http1::Builder::new()
        .max_buf_size(TARGET_BUFFER)
        .max_headers(TARGET_FIELDS)
        .handshake(TokioIo::new(stream))
        .await
}

/// An error and what it was caused by, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
