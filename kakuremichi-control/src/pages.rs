//! Pages for people, below Control's own path.
//!
//! Those with a script are files of this crate: nothing in them is made of what a request brings, and they work
//! through the REST API. The others are rendered, and work without a script, which only
//! passkeys need; the description of the API once, when Control starts.

mod passkeys;
mod providers;
mod reference;
mod rendered;
mod service;
mod sign_in;
mod step_up;
mod totp;

pub(crate) use providers::redirect_uri;
pub(crate) use sign_in::sign_in_path;

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;

use crate::api::App;

// What a page needs to know of its link stands behind a `#`, so that it is sent to nobody before the form is, and
// then in a body.

/// The path of the page on which an invitation is accepted.
pub(crate) const JOIN: &str = "/join";
/// The path of the page on which a new password is set.
pub(crate) const RESET: &str = "/reset";
/// The path of the script that asks authenticators.
const PASSKEYS_SCRIPT: &str = "/passkeys.js";
/// The path of the page that describes the REST API.
const REFERENCE: &str = "/reference";
/// The path of the page on which an address is confirmed.
pub(crate) const VERIFY: &str = "/verify";

pub(crate) fn router(app: App) -> Router {
    let rendered = sign_in::router()
        .merge(passkeys::router())
        .merge(totp::router())
        .merge(providers::router())
        .merge(service::router())
        .merge(step_up::router());
    files().merge(rendered.with_state(app))
}

fn files() -> Router {
    const HTML: &str = "text/html; charset=utf-8";
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    const STYLE: &str = "text/css; charset=utf-8";
    let reference = Bytes::from(reference::page());
    let file = |kind: &'static str, text: &'static str| {
        get(move || async move { ([(header::CONTENT_TYPE, kind)], text).into_response() })
    };
    Router::new()
        .route(JOIN, file(HTML, include_str!("pages/join.html")))
        .route(RESET, file(HTML, include_str!("pages/reset.html")))
        .route(VERIFY, file(HTML, include_str!("pages/verify.html")))
        .route("/join.js", file(SCRIPT, include_str!("pages/join.js")))
        .route("/reset.js", file(SCRIPT, include_str!("pages/reset.js")))
        .route("/verify.js", file(SCRIPT, include_str!("pages/verify.js")))
        .route("/pages.js", file(SCRIPT, include_str!("pages/pages.js")))
        .route(PASSKEYS_SCRIPT, file(SCRIPT, include_str!("pages/passkeys.js")))
        .route("/pages.css", file(STYLE, include_str!("pages/pages.css")))
        .route("/reference.css", file(STYLE, include_str!("pages/reference.css")))
        .route(
            REFERENCE,
            get(move || async move { ([(header::CONTENT_TYPE, HTML)], reference).into_response() }),
        )
        .layer(map_response(secure))
}

/// Headers that take from a page what it has no business doing.
async fn secure(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; \
             base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
