//! Pages that are made anew for each request, and work without a script.

use askama::Template;
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};

use crate::{api::App, browser::Browser};

/// A page with no script, whose forms go to this Control only. `same-origin` and not `no-referrer`: a form of a page
/// without a referrer is sent from the origin `null`.
pub(super) const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
];

#[derive(Template)]
#[template(path = "refused.html")]
struct Refused<'a> {
    base: &'a str,
    problem: &'a str,
}

/// Renders a page.
pub(super) fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => (status, HEADERS, Html(html)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page cannot be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, HEADERS).into_response()
        }
    }
}

/// Renders a page whose script, of this Control, asks an authenticator.
pub(super) fn page_with_script(status: StatusCode, template: &impl Template) -> Response {
    const POLICY: HeaderValue = HeaderValue::from_static(
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    );
    let mut response = page(status, template);
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, POLICY);
    response
}

/// A page that says why nothing was done.
pub(super) fn refused(app: &App, status: StatusCode, problem: &str) -> Response {
    let base = app.public_url.path();
    page(status, &Refused { base, problem })
}

/// Refuses what no page of this Control sent (LESSONS, advisory 15).
pub(super) fn check_own(app: &App, headers: &HeaderMap) -> Result<(), Box<Response>> {
    if Browser::of(&app.public_url).is_own(headers) {
        return Ok(());
    }
    let problem = format!(
        "This did not come from a page of this Control. Open it by its own address, {}, and try again.",
        app.public_url
    );
    Err(Box::new(refused(app, StatusCode::FORBIDDEN, &problem)))
}
