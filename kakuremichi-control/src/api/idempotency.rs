//! Requests that may be sent again (draft-ietf-httpapi-idempotency-key-header).
//!
//! A request with an `Idempotency-Key` is remembered in the transaction that carries it out, so that no crash comes
//! between the two. Its answer is kept right after. Sent again, it is answered as it was; where the answer is not there,
//! because Control ended before it was kept, or because it showed a secret, which is stored nowhere, the caller is told
//! what was done. What was refused, or changed nothing, is not remembered: it is tried anew.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use axum::{
    Extension,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use kakuremichi_core::{
    code::Code,
    store::{IdempotencyKey, IdempotentRequest, Remembered},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{App, extract::MAX_BODY, problem::Problem};
use crate::service::{Actor, FieldError, UseCaseError};

const KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key, in bytes.
const MAX_KEY: usize = 255;
/// The largest answer that is kept, in bytes. A larger one is told as one that is not there.
const MAX_ANSWER: usize = 64 * 1024;

/// An answer that shows a secret, this once: it is kept nowhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShownOnce;

/// For the answer of a handler.
pub(super) const SHOWN_ONCE: Extension<ShownOnce> = Extension(ShownOnce);

/// The requests with a key that this process works on: no more than there are connections.
#[derive(Debug, Default)]
pub(crate) struct Busy(Mutex<BTreeSet<IdempotencyKey>>);

/// A request is under way for as long as this is there.
struct UnderWay<'a>(&'a Busy, IdempotencyKey);

impl Busy {
    fn begin(&self, key: IdempotencyKey) -> Option<UnderWay<'_>> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = keys.insert(key);
        drop(keys);
        // What is made ends the request when it is dropped, so it is made for the one that begins only.
        fresh.then(|| UnderWay(self, key))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut keys = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&self.1);
    }
}

/// An answer, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    status: u16,
    content_type: Option<String>,
    etag: Option<String>,
    body: String,
}

/// Carries a request out for `actor`, whom its handler finds among the extensions; or not again.
pub(super) async fn idempotent(app: &App, mut actor: Actor, mut request: Request, next: Next) -> Response {
    let key = match key_of(&actor, &request) {
        Ok(Some(key)) => key,
        Ok(None) => {
            request.extensions_mut().insert(actor);
            return next.run(request).await;
        }
        Err(problem) => return problem.into_response(),
    };
    let Some(_under_way) = app.busy.begin(key) else {
        return Problem::from(UseCaseError::Repeated).into_response();
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return Problem::body_too_large().into_response();
    };
    let digest = digest(&[
        parts.method.as_str().as_bytes(),
        parts.uri.to_string().as_bytes(),
        &body,
    ]);
    match app.use_cases.remembered(key).await {
        Ok(None) => {}
        Ok(Some(remembered)) if remembered.request == digest => return again(&remembered),
        Ok(Some(_)) => return reused().into_response(),
        Err(error) => return Problem::from(error).into_response(),
    }
    actor.request = Some(IdempotentRequest { key, request: digest });
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(actor);
    let response = next.run(request).await;
    if response.status().is_success() && response.extensions().get::<ShownOnce>().is_none() {
        return keep(app, key, response).await;
    }
    response
}

/// The name of a request, if it has one: a text in quotes (RFC 8941) or bare.
fn key_of(actor: &Actor, request: &Request) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = request.headers().get_all(KEY).iter();
    let Some(value) = values.next().filter(|_| !request.method().is_safe()) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    if values.next().is_some() || text.is_empty() || text.len() > MAX_KEY {
        let error = FieldError::new(
            "Idempotency-Key",
            format!("give one text of 1 to {MAX_KEY} characters, such as a random UUID"),
        );
        return Err(Problem::fields(vec![error]));
    }
    let (authority, subject) = match &actor.principal {
        Some(principal) => (principal.authority(), principal.subject()),
        None => ("", ""),
    };
    Ok(Some(IdempotencyKey {
        caller: digest(&[
            authority.as_bytes(),
            subject.as_bytes(),
            actor.organization.as_bytes(),
        ]),
        key: digest(&[text.as_bytes()]),
    }))
}

/// A digest of parts, each with its length before it.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn reused() -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        Code::KEY_REUSED,
        "the idempotency key was used for another request: choose a new one for each",
    )
}

fn again(remembered: &Remembered) -> Response {
    let answer = remembered.answer.as_deref();
    let answer = answer.and_then(|answer| serde_json::from_slice::<Answer>(answer).ok());
    let Some(answer) = answer else {
        let subject = remembered
            .subject
            .map_or_else(String::new, |id| format!(" to {id}"));
        return Problem::new(
            StatusCode::CONFLICT,
            Code::ANSWER_GONE,
            format!(
                "the request was carried out before{subject}, and its answer is not kept: read it; a secret that was \
                 shown in it is shown once, so delete it and make another if you have lost that"
            ),
        )
        .into_response();
    };
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, answer.body).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    let kept = [
        (header::CONTENT_TYPE, answer.content_type),
        (header::ETAG, answer.etag),
        (REPLAYED, Some("true".to_owned())),
    ];
    for (name, value) in kept {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

/// Keeps an answer. Whether that works or not, the request was carried out, and the caller hears of it.
async fn keep(app: &App, key: IdempotencyKey, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let bytes = match to_bytes(body, usize::MAX).await {
        Ok(bytes) => bytes,
        // Handlers make their bodies whole, so this does not happen.
        Err(_) => Bytes::new(),
    };
    if bytes.len() <= MAX_ANSWER
        && let Ok(body) = std::str::from_utf8(&bytes)
    {
        let answer = Answer {
            status: parts.status.as_u16(),
            content_type: text(&parts.headers, header::CONTENT_TYPE),
            etag: text(&parts.headers, header::ETAG),
            body: body.to_owned(),
        };
        let kept = app
            .use_cases
            .keep_answer(key, serde_json::to_vec(&answer).unwrap_or_default());
        if let Err(error) = kept.await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an answer cannot be kept"
            );
        }
    }
    Response::from_parts(parts, Body::from(bytes))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}
