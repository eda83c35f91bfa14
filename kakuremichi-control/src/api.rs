//! The REST API, below `/api/v1`, and the door to the hub.
//!
//! Handlers are thin: a request becomes a draft, a use case does the work, the outcome becomes a response.
//! Every route is a row of one table, with what it requires: there is no other way to add one.
//! Errors are `application/problem+json` (RFC 9457) with a stable code.

mod account;
mod api_keys;
#[expect(unused_qualifications, reason = "utoipa's macro names its parameters in full")]
mod audit;
mod channels;
mod conditional;
mod extract;
mod filter;
mod groups;
mod guard;
mod idempotency;
mod identity_providers;
mod invitations;
mod link;
mod links;
mod mailed;
mod members;
mod nodes;
mod openapi;
mod organization;
mod organizations;
mod origin;
mod page;
mod passkeys;
mod permission;
mod policies;
mod problem;
mod rate;
mod roles;
mod routes;
mod schema;
mod service_tokens;
mod services;
mod sessions;
mod simulate;
mod sites;
mod table;
mod text;
mod tokens;
#[expect(unused_qualifications, reason = "utoipa's macro names its parameters in full")]
mod usage;
mod users;

pub(crate) use extract::At;
pub use extract::MAX_BODY;
pub(crate) use idempotency::Busy;
pub(crate) use openapi::PERMISSION_EXTENSION;
pub use openapi::document;
pub(crate) use origin::Hosts;
pub use origin::{Origin, OriginError};
pub use permission::Requirement;
pub(crate) use problem::status_of;
pub(crate) use rate::Meter;
pub use rate::{Rate, Rates};
pub use table::permission_table;
pub(crate) use text::written;

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{from_fn, from_fn_with_state, map_response},
    response::Response,
    routing::any,
};
use kakuremichi_core::code::Code;

use self::problem::Problem;
use crate::control::Owner;

/// What handlers work with.
pub(crate) type App = Arc<Owner>;

/// The prefix of every path.
const PREFIX: &str = "/api/v1";

pub(crate) fn router(app: App) -> Router {
    let mut router: Router<App> = Router::new();
    for route in routes::routes() {
        let guard = from_fn_with_state((Arc::clone(&app), route.requirement), guard::guard);
        let path = format!("{PREFIX}{}", route.path);
        router = router.route(&path, route.handler.route_layer(guard));
    }
    let hosts = app.hosts.clone();
    // No fallback of the router: two of those cannot be merged, and an embedder has one.
    let router = router
        .route(PREFIX, any(nothing))
        .route(&format!("{PREFIX}/{{*rest}}"), any(nothing))
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(conditional::not_modified))
        .layer(from_fn(move |request, next| hosts.clone().check(request, next)));
    let router = match origin::cross_origin(&app.origins) {
        Some(layer) => router.layer(layer),
        None => router,
    };
    router.layer(map_response(secure)).with_state(app)
}

async fn nothing() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, Code::NOT_FOUND, "nothing is at this path")
}

async fn wrong_method(method: Method) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Code::REQUEST_INVALID,
        format!("{method} is not possible here"),
    )
}

/// Headers that take from a browser what it has no business doing with an answer of the API.
async fn secure(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
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

#[cfg(test)]
mod tests;
