//! One request to the admin address, and its answer.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;

use super::{Page, Readiness};
use crate::metrics::{Exposition, MetricKind};
use crate::process;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Answers a request that came in at `local`.
pub(super) fn answer<B>(request: &Request<B>, local: SocketAddr, page: &Page) -> Response<Full<Bytes>> {
    if let Err(why) = judge(request.uri(), request.headers(), local.ip()) {
        return text(StatusCode::FORBIDDEN, why.to_owned());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "this address only reads\n".to_owned(),
        );
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match page.source.readiness() {
            Readiness::Ready => text(StatusCode::OK, "ready\n".to_owned()),
            Readiness::NotReady(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, metrics(page));
            response.headers_mut().insert(CONTENT_TYPE, PROMETHEUS);
            response
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /healthz, /readyz and /metrics\n".to_owned(),
        ),
    }
}

/// A request must be meant for this address: see the module above.
fn judge(uri: &Uri, headers: &HeaderMap, local: IpAddr) -> Result<(), &'static str> {
    if uri.authority().is_some() {
        return Err("this is no proxy\n");
    }
    let host = single(headers, HOST).and_then(|host| host.parse::<Authority>().ok());
    if !host.is_some_and(|host| means(&host, local)) {
        return Err("Host is not this address\n");
    }
    if headers.contains_key(ORIGIN) {
        let origin = single(headers, ORIGIN).and_then(|origin| origin.parse::<Uri>().ok());
        let origin = origin.and_then(|origin| origin.authority().cloned());
        if !origin.is_some_and(|origin| means(&origin, local)) {
            return Err("Origin is not this address\n");
        }
    }
    Ok(())
}

/// The one value of a header that must not be given twice.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// True when a host is an address literal of this end or, on loopback, `localhost`. The port may differ: it does
/// behind a forwarded port, and a stranger's page cannot choose the name.
fn means(authority: &Authority, local: IpAddr) -> bool {
    let local = local.to_canonical();
    let host = authority.host();
    let literal = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match literal.parse::<IpAddr>() {
        Ok(address) => {
            let address = address.to_canonical();
            address == local || (address.is_loopback() && local.is_loopback())
        }
        Err(_) => local.is_loopback() && host.eq_ignore_ascii_case("localhost"),
    }
}

fn metrics(page: &Page) -> String {
    let mut out = Exposition::default();
    let labels = [("role", page.role.name()), ("version", env!("CARGO_PKG_VERSION"))];
    out.family(
        "kakuremichi_build_info",
        "Always 1; its labels say what runs.",
        MetricKind::Gauge,
    );
    out.sample("kakuremichi_build_info", &labels, 1);
    let uptime = page.started.elapsed().as_secs();
    out.single(
        "kakuremichi_uptime_seconds",
        "Seconds since the start.",
        MetricKind::Gauge,
        uptime,
    );
    let resident = process::resident_memory();
    out.single(
        "process_resident_memory_bytes",
        "Memory in use.",
        MetricKind::Gauge,
        resident,
    );
    page.source.metrics(&mut out);
    out.into_string()
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, TEXT);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
