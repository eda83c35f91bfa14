//! Answers that a reader has already (RFC 9110, section 13.1.2).

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};

/// Answers 304 when what is read still has a tag that the reader names.
pub(super) async fn not_modified(request: Request, next: Next) -> Response {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let known: Vec<_> = request
        .headers()
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .cloned()
        .collect();
    let response = next.run(request).await;
    if !read || known.is_empty() || response.status() != StatusCode::OK {
        return response;
    }
    let Some(tag) = tag(response.headers()) else {
        return response;
    };
    let known = known.iter().filter_map(|value| value.to_str().ok());
    if !known
        .flat_map(|value| value.split(','))
        .any(|known| matches(known.trim(), tag))
    {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::empty())
}

fn tag(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ETAG)?.to_str().ok()
}

/// Tags have no commas in them, so a list of them is split at each.
fn matches(known: &str, tag: &str) -> bool {
    known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
}
