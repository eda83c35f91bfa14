//! The pages of the HTTP origin.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::pattern::{Digest, Pattern};

/// What all connections of an origin share.
pub(super) struct Origin {
    pub(super) name: String,
    pub(super) requests: Arc<AtomicU64>,
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Serves one connection to its end.
pub(super) async fn serve<S>(stream: S, peer: SocketAddr, origin: Arc<Origin>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let origin = Arc::clone(&origin);
        async move {
            origin.requests.fetch_add(1, Ordering::Relaxed);
            answer(request, peer, &origin.name).await
        }
    });
    // A visitor may leave whenever it likes.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

async fn answer(request: Request<Incoming>, peer: SocketAddr, name: &str) -> io::Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    let mut parts = path.splitn(3, '/').skip(1);
    match (parts.next().unwrap_or_default(), parts.next()) {
        ("hello", None) => Ok(text(StatusCode::OK, format!("hello from {name}\n"))),
        ("bytes", Some(length)) => Ok(pattern(length, request.uri().query().unwrap_or("0"))),
        ("digest", None) => digest(request).await,
        ("echo", None) => Ok(Response::new(request.into_body().boxed_unsync())),
        ("request", None) => Ok(describe(&request, peer)),
        ("status", Some(code)) => {
            let code = code.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
            Ok(text(
                code.unwrap_or(StatusCode::BAD_REQUEST),
                format!("{path} from {name}\n"),
            ))
        }
        ("ws", None) => Ok(websocket(request)),
        ("never", None) => std::future::pending().await,
        ("cut", None) => Err(io::Error::other("asked to")),
        _ => Ok(text(StatusCode::NOT_FOUND, format!("no {path} at {name}\n"))),
    }
}

fn pattern(length: &str, seed: &str) -> Response<Body> {
    match (length.parse(), seed.parse()) {
        (Ok(length), Ok(seed)) => {
            Response::new(Pattern::new(seed).body(length).map_err(never).boxed_unsync())
        }
        _ => text(StatusCode::BAD_REQUEST, "/bytes/LENGTH?SEED\n".to_owned()),
    }
}

async fn digest(request: Request<Incoming>) -> io::Result<Response<Body>> {
    let mut body = request.into_body();
    let mut hash = Digest::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            hash.update(&data);
        }
    }
    let bytes = hash.length();
    Ok(object(&json!({ "bytes": bytes, "sha256": hash.finish() })))
}

fn describe(request: &Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    let headers: Vec<(&str, String)> = request
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.as_str(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    object(&json!({
        "method": request.method().as_str(),
        "uri": request.uri().to_string(),
        "headers": headers,
        "peer": peer.to_string(),
    }))
}

fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return text(StatusCode::BAD_REQUEST, "this is a WebSocket\n".to_owned());
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let (mut send, mut receive) = socket.split();
        while let Some(Ok(message)) = receive.next().await {
            // Pings and closes are answered by the library.
            if (message.is_text() || message.is_binary()) && send.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).unwrap());
    response
}

fn object(value: &serde_json::Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, value.to_string());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).map_err(never).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn never<E>(error: Infallible) -> E {
    match error {}
}
