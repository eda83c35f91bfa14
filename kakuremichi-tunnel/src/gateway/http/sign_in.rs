//! The paths that the gateway answers itself at every host, and the way to Control and back.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use kakuremichi_core::{policy::Challenge, request::CanonicalRequest};
use kakuremichi_proto::sign_in::{ARRIVAL_PATH, RESERVED_PATH, SIGN_OUT_PATH};

use super::pages::{self, Problem};
use crate::{
    gateway::{
        access::wall_clock,
        identity::{JWKS_PATH, jwks},
        serving::Serving,
        sign_in::{ArrivalError, cookies},
        table::{RouteTable, ServiceEntry},
    },
    keys,
};

/// Where the ticket is in the query of a browser that comes back.
const TICKET: &str = "ticket=";

/// Whether a request is for the gateway itself.
pub(super) fn is_ours(request: &CanonicalRequest) -> bool {
    request.path().starts_with(RESERVED_PATH)
}

/// Answers a request for the gateway itself.
pub(super) fn answer<U>(
    serving: &Serving<U>,
    table: &RouteTable,
    service: &ServiceEntry,
    parts: &Parts,
    request: &CanonicalRequest,
) -> Result<Response<Bytes>, Problem> {
    match (request.path(), &parts.method) {
        (JWKS_PATH, &Method::GET | &Method::HEAD) => {
            let keys = serving.sign_in.verifying_keys(table.people());
            Ok(jwks(&keys, parts.method == Method::HEAD))
        }
        (ARRIVAL_PATH, &Method::GET) => arrive(serving, table, service, parts, request),
        (SIGN_OUT_PATH, &Method::GET) => Ok(pages::sign_out(false)),
        (SIGN_OUT_PATH, &Method::POST) if is_own(&parts.headers, request) => {
            let mut response = pages::sign_out(true);
            let forget = cookies::forget_session().into_iter();
            response
                .headers_mut()
                .extend(forget.map(|cookie| (header::SET_COOKIE, cookie)));
            Ok(response)
        }
        (SIGN_OUT_PATH, &Method::POST) => Err(Problem::Denied),
        _ => Err(Problem::NoRoute),
    }
}

fn arrive<U>(
    serving: &Serving<U>,
    table: &RouteTable,
    service: &ServiceEntry,
    parts: &Parts,
    request: &CanonicalRequest,
) -> Result<Response<Bytes>, Problem> {
    let mut fields = parts.uri.query().unwrap_or_default().split('&');
    let ticket = fields.find_map(|field| field.strip_prefix(TICKET));
    let arrived = serving.sign_in.arrive(
        table.people(),
        (service.id, service.organization),
        request.host(),
        (&parts.headers, ticket.unwrap_or_default()),
        wall_clock(),
    );
    match arrived {
        Ok(arrival) => {
            serving.counters.signed_in.one();
            Ok(see_other(arrival.location, arrival.cookies))
        }
        Err(error) => {
            serving.counters.sign_ins_failed.one();
            tracing::info!(service = %service.id, %error, "a visitor came back from signing in, and is not let in");
            Err(match error {
                ArrivalError::Unknown | ArrivalError::NotNow => Problem::SignInUnavailable,
                ArrivalError::NoAttempt
                | ArrivalError::Ticket(_)
                | ArrivalError::Service
                | ArrivalError::Used => Problem::SignInFailed,
            })
        }
    }
}

/// Sends a browser away to sign in. Whatever is no person in front of a browser is not: a program would be told to
/// read a page, where it has to be told that it is not let in.
pub(super) fn depart<U>(
    serving: &Serving<U>,
    table: &RouteTable,
    service: &ServiceEntry,
    parts: &Parts,
    request: &CanonicalRequest,
    challenge: &Challenge,
) -> Option<Response<Bytes>> {
    if !challenge.signed_in || !is_navigation(parts) {
        return None;
    }
    let secret = keys::random().ok()?;
    let departure = serving.sign_in.depart(
        table.people(),
        service.id,
        (request.host(), &request.target()),
        (challenge.strength, challenge.max_age),
        (&parts.headers, secret),
    )?;
    Some(see_other(departure.location, departure.cookies))
}

/// Whether a person has gone to this page (Fetch Metadata; older browsers are known by what they accept).
fn is_navigation(parts: &Parts) -> bool {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return false;
    }
    let says = |name: &str, value: &str| {
        parts
            .headers
            .get(name)
            .map(|said| said.as_bytes() == value.as_bytes())
    };
    match (
        says("sec-fetch-mode", "navigate"),
        says("sec-fetch-dest", "document"),
    ) {
        (Some(navigates), document) => navigates && document.unwrap_or(true),
        (None, _) => parts.headers.get_all(header::ACCEPT).iter().any(|value| {
            value
                .to_str()
                .is_ok_and(|value| value.to_ascii_lowercase().contains("text/html"))
        }),
    }
}

/// Whether a form of this host sends the request (Fetch Metadata, or else the origin).
fn is_own(headers: &HeaderMap, request: &CanonicalRequest) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let origin = headers
        .get(header::ORIGIN)
        .and_then(|origin| origin.to_str().ok());
    let host = origin.and_then(|origin| origin.strip_prefix("https://"));
    host.is_some_and(|host| host.split(':').next() == Some(request.host().as_str()))
}

fn see_other(location: HeaderValue, cookies: Vec<HeaderValue>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.extend(cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie)));
    pages::protect(headers);
    response
}
