//! WebSockets: a handshake in HTTP/1.1, then bytes both ways.
//!
//! Bytes flow only once the target has answered 101 (LESSONS, advisory 6): until then the guard reads
//! what the visitor sends as a request.

#![expect(
    clippy::disallowed_methods,
    reason = "the handshake has a deadline and a task, which its owner ends"
)]

use std::{future::poll_fn, rc::Rc};

use http::{HeaderValue, Response, StatusCode, header};
use hyper::{body::Incoming, client::conn::http1::Parts, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    body::{RequestBody, ResponseBody},
    headers,
    kept::{InUse, TargetConnection, TaskGuard},
    pages::Problem,
    proxy::{Forward, handshake},
    relay::Relay,
    target::TargetStream,
};
use crate::gateway::{
    flows::Lease,
    upstream::{FlowError, Upstream},
};

/// Asks the targets of a route for a WebSocket; the first that takes the connection decides.
pub(super) async fn websocket<U: Upstream>(
    forward: Forward<'_, U>,
    body: Incoming,
    upgrade: OnUpgrade,
    lease: Lease,
) -> Result<Response<ResponseBody>, Problem> {
    drop(body);
    let mut problem = Problem::Unhealthy;
    for target in forward.candidates()? {
        forward.exchange.sent_to(target.id);
        match forward.open(&target, true).await {
            Ok(stream) => return handshake_with(forward, stream, upgrade, lease).await,
            Err(error) => problem = forward.failed(&target, error),
        }
    }
    Err(problem)
}

type Driver<S> = JoinHandle<hyper::Result<Parts<TokioIo<TargetStream<S>>>>>;

async fn handshake_with<U: Upstream>(
    forward: Forward<'_, U>,
    stream: TargetStream<U::Stream>,
    upgrade: OnUpgrade,
    lease: Lease,
) -> Result<Response<ResponseBody>, Problem> {
    let (mut sender, mut connection) = handshake(stream).await.map_err(|_| Problem::Broken)?;
    let driver: Driver<U::Stream> = tokio::task::spawn_local(async move {
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await?;
        Ok(connection.into_parts())
    });
    let task = TaskGuard(driver.abort_handle());
    let message = forward.message(RequestBody::empty(&forward.exchange));
    let patience = forward.connection.serving.timeouts.response_head;
    let response = tokio::select! {
        response = sender.send_request(message) => response.map_err(|error| {
            FlowError::find(&error).map_or(Problem::Broken, FlowError::problem)
        })?,
        () = sleep(patience) => return Err(Problem::TimedOut),
        () = lease.revoked() => return Err(Problem::Denied),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let connection = TargetConnection::new(sender, forward.exchange.relay(), task);
        let upstream = InUse {
            connection,
            keep: None,
        };
        return forward.relay(response, upstream, lease);
    }
    let (mut parts, _) = response.into_parts();
    let websocket = parts.headers.get(header::UPGRADE);
    if !websocket.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(Problem::Broken);
    }
    headers::to_visitor(&mut parts.headers);
    parts
        .headers
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    parts
        .headers
        .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    parts.extensions.clear();
    forward.exchange.answered(parts.status, None);
    forward.connection.serving.counters.websockets.one();

    let exchange = Rc::clone(&forward.exchange);
    let (idle, drain) = (
        forward.connection.serving.timeouts.idle,
        forward.connection.drain.clone(),
    );
    forward.connection.unguard.now();
    *forward.connection.upgraded.borrow_mut() = Some(Box::pin(async move {
        let _task = task;
        let (visitor, target) = match tokio::join!(upgrade, driver) {
            (Ok(visitor), Ok(Ok(target))) => (TokioIo::new(visitor), target),
            _ => return,
        };
        let relay = Relay {
            exchange: &exchange,
            lease: &lease,
            drain,
            idle,
        };
        if relay
            .run(visitor, target.io.into_inner(), &target.read_buf)
            .await
            .is_ok()
        {
            exchange.end_response();
        }
    }));
    Ok(Response::from_parts(
        parts,
        ResponseBody::upgraded(&forward.exchange),
    ))
}
