//! The HTTP port: sends visitors of known hosts to HTTPS, and serves nothing else.

use std::{convert::Infallible, net::SocketAddr, rc::Rc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use kakuremichi_core::request::CanonicalRequest;
use tokio::net::TcpStream;

use super::{Entry, https::Door};
use crate::gateway::{
    http::{
        Unguard, VisitorIo,
        pages::{self, Problem},
        request,
    },
    upstream::Upstream,
};

/// The port that needs no mention in a URL.
const HTTPS: u16 = 443;

/// Serves one connection: one request, one answer.
pub(crate) async fn connection<U: Upstream>(
    door: Rc<Door<U>>,
    stream: TcpStream,
    peer: SocketAddr,
    entry: Entry,
) {
    let (timeouts, limits) = (door.serving.timeouts, door.serving.limits);
    let io = VisitorIo::http1(stream, timeouts.write, Unguard::default());
    let mut drain = door.drain.clone();
    let service = service_fn(|request| {
        let answer = answer(&door, &request, peer);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.head)
        .max_headers(limits.fields)
        .max_buf_size(limits.head.max(8192))
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a visitor's connection ended");
        },
        // There is one small answer to wait for, which the visitor may ask for elsewhere.
        () = drain.begun() => {}
    }
    drop(entry);
}

fn answer<U: Upstream>(
    door: &Door<U>,
    request: &Request<Incoming>,
    peer: SocketAddr,
) -> Response<Full<Bytes>> {
    let serving = &door.serving;
    serving.counters.requests.one();
    let (host, outcome) = match request::read(request) {
        Ok(asked) => match serving.table.load().pattern(asked.canonical.host()) {
            Some(_) => (
                Some(asked.canonical.host().to_string()),
                Ok(location(&asked.canonical, door.public_port)),
            ),
            None => (Some(asked.canonical.host().to_string()), Err(Problem::NoService)),
        },
        Err(_) => (None, Err(Problem::BadRequest)),
    };
    let id = serving.numbers.request();
    let head = request.method() == Method::HEAD;
    let response = match outcome.map(HeaderValue::try_from) {
        Ok(Ok(location)) => {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Ok(Err(_)) => pages::page(Problem::BadRequest, head, request.headers(), &id),
        Err(problem) => pages::page(problem, head, request.headers(), &id),
    };
    tracing::info!(
        target: "kakuremichi::access",
        request = id,
        visitor = %peer.ip().to_canonical(),
        method = %request.method(),
        host,
        path = request.uri().path(),
        status = response.status().as_u16(),
        decision = "none",
        redirect = response.status().is_redirection(),
    );
    response.map(Full::new)
}

/// The same thing at HTTPS: the host as it is known, never as it was written.
fn location(request: &CanonicalRequest, port: u16) -> String {
    if port == HTTPS {
        format!("https://{}{}", request.host(), request.target())
    } else {
        format!("https://{}:{port}{}", request.host(), request.target())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_location_is_canonical() {
        let request = CanonicalRequest::parse("GET", "WWW.Example.NET.:8080", "//a/%7Eb?c=d").unwrap();
        assert_eq!(location(&request, 443), "https://www.example.net/a/~b?c=d");
        assert_eq!(location(&request, 8443), "https://www.example.net:8443/a/~b?c=d");
    }
}
