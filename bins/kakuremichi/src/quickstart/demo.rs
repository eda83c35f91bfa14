//! The built-in service: a page that says how its visitor came.

use axum::{
    Router,
    extract::ConnectInfo,
    response::{Html, IntoResponse},
    routing::get,
};
use http::HeaderMap;
use kakuremichi_tunnel::agent::Visitor;

/// The demo's routes.
pub(super) fn router() -> Router {
    Router::new().route("/", get(page))
}

async fn page(ConnectInfo(visitor): ConnectInfo<Visitor>, headers: HeaderMap) -> impl IntoResponse {
    let host = headers
        .get("host")
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let tls = visitor.tls().map_or("no TLS", |tls| tls.version.as_str());
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>kakuremichi</title>\
         <style>body{{font:1rem/1.5 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem}}</style>\
         <h1>隠れ道</h1><p>This page listens on no port. You came from <b>{}</b> to <b>{}</b> ({}), through the gateway \
         {} and a WireGuard tunnel in user space.</p></html>\n",
        escape(&visitor.source().to_string()),
        escape(host),
        escape(tls),
        escape(&visitor.gateway().to_string()),
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
