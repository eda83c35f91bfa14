//! Signing in by an identity provider, and linking an account to one.

use axum::{
    Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use kakuremichi_core::{
    id::{ProviderId, UserId},
    model::{IdentityProvider, ProviderProtocol},
    store::{RecordKind, Stored},
};
use kakuremichi_proto::identity::CanonicalUrl;
use serde::Deserialize;

use super::{
    rendered::{check_own, page, refused},
    sign_in::{ACCOUNT, Asked, OnwardPage, failed, go_on, return_path},
};
use crate::{
    api::{App, At},
    browser::{Browser, ReturnPath, signed_in},
    federation::{Attempt, Party},
    service::{ATTEMPT_LIFE, Acting, UseCaseError, Whereabouts},
};

/// Where providers send browsers back to.
const CALLBACK: &str = "/sign-in/callback";
/// The cookie of an attempt.
const COOKIE: &str = "__Host-kkm_attempt";
const PLAIN_COOKIE: &str = "kkm_attempt";

/// What is in a path; by name, since Control can be mounted below a path that has parameters of its own.
#[derive(Debug, Deserialize)]
struct Named {
    provider: String,
}

/// What a provider sends a browser back with.
#[derive(Deserialize)]
struct Returned {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
    /// Who sent it (RFC 9207).
    iss: Option<String>,
}

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/sign-in/with/{provider}", get(begin))
        .route("/account/link/{provider}", post(begin_link))
        .route(CALLBACK, get(callback))
}

/// Sends a browser to a provider.
async fn begin(State(app): State<App>, Path(named): Path<Named>, Query(asked): Query<Asked>) -> Response {
    let back = match return_path(&app, asked.back) {
        Ok(back) => back,
        Err(refusal) => return *refusal,
    };
    match attempt(&app, &named.provider, back.as_ref(), None).await {
        Ok((cookie, url)) => match http::HeaderValue::try_from(url) {
            Ok(location) => {
                let location = [(http::header::LOCATION, location)];
                (StatusCode::SEE_OTHER, cookie, location).into_response()
            }
            Err(error) => show(&app, UseCaseError::ProviderBroken(Box::new(error))),
        },
        Err(error) => show(&app, error),
    }
}

/// Sends a browser to a provider to link the account that is signed in: by a page, since a form is redirected to no
/// other site.
async fn begin_link(State(app): State<App>, Path(named): Path<Named>, headers: HeaderMap) -> Response {
    if let Err(refusal) = check_own(&app, &headers) {
        return *refusal;
    }
    let user = match signed_in(&app, &headers).await {
        Ok(Some((session, user))) if session.value.organization.is_none() => user.value.id,
        Ok(Some(_)) => return show(&app, UseCaseError::OtherOrganization),
        Ok(None) => return Browser::of(&app.public_url).see(&super::sign_in_path(None)),
        Err(error) => return show(&app, error),
    };
    match attempt(&app, &named.provider, None, Some(user)).await {
        Ok((cookie, url)) => {
            let (base, onward) = (app.public_url.path(), url.as_str());
            let onward = OnwardPage { base, onward };
            (cookie, page(StatusCode::OK, &onward)).into_response()
        }
        Err(error) => show(&app, error),
    }
}

type Cookie = [(http::HeaderName, http::HeaderValue); 1];

async fn attempt(
    app: &App,
    provider: &str,
    back: Option<&ReturnPath>,
    link: Option<UserId>,
) -> Result<(Cookie, String), UseCaseError> {
    let id: ProviderId = provider
        .parse()
        .map_err(|_| UseCaseError::NotFound(RecordKind::IdentityProvider))?;
    let provider = app.use_cases.any_provider(id).await?.value;
    let secret = app.use_cases.provider_secret(&provider)?;
    let attempt = Attempt::new(id, back, link)?;
    let party = Party {
        provider: &provider,
        secret: &secret,
        redirect: &redirect_uri(&app.public_url),
    };
    let url = app.federation.authorize(party, &attempt).await?;
    let browser = Browser::of(&app.public_url);
    let life = i64::try_from(ATTEMPT_LIFE.as_secs()).unwrap_or_default();
    let sealed = attempt.seal(&app.use_cases)?;
    let cookie = browser.set(browser.name(COOKIE, PLAIN_COOKIE), sealed.expose(), life);
    Ok((cookie, url))
}

/// Takes a browser that comes back from a provider.
async fn callback(
    State(app): State<App>,
    At(at): At,
    Query(returned): Query<Returned>,
    headers: HeaderMap,
) -> Response {
    let browser = Browser::of(&app.public_url);
    let name = browser.name(COOKIE, PLAIN_COOKIE);
    let kept = browser.cookie(&headers, name).unwrap_or_default();
    let answer = match finish(&app, kept, returned, &headers, at).await {
        Ok(answer) => answer,
        Err(error) => show(&app, error),
    };
    // Whatever came of it, the attempt is over.
    let mut response = answer;
    for (name, value) in browser.set(name, "", 0) {
        response.headers_mut().append(name, value);
    }
    response
}

async fn finish(
    app: &App,
    kept: &str,
    returned: Returned,
    headers: &HeaderMap,
    at: Whereabouts,
) -> Result<Response, UseCaseError> {
    let state = returned.state.as_deref().unwrap_or_default();
    let attempt = Attempt::take(&app.use_cases, kept, state)?;
    if returned.error.is_some() {
        return Err(UseCaseError::Provider(
            "the identity provider did not sign you in",
        ));
    }
    let code = returned.code.ok_or(UseCaseError::SignInOver)?;
    let provider = app.use_cases.any_provider(attempt.provider.0).await?.value;
    check_sender(&provider, returned.iss.as_deref())?;
    let secret = app.use_cases.provider_secret(&provider)?;
    let party = Party {
        provider: &provider,
        secret: &secret,
        redirect: &redirect_uri(&app.public_url),
    };
    let vouched = app.federation.vouched(party, &attempt, code).await?;
    let browser = Browser::of(&app.public_url);
    let Some(link) = &attempt.link else {
        let begun = app.use_cases.sign_in_vouched(provider.id, vouched, at).await?;
        return Ok(go_on(app, &begun, attempt.return_path().as_ref()));
    };
    // Whoever is signed in now is who asked for it.
    let text = browser.session_text(headers).ok_or(UseCaseError::SignInOver)?;
    let actor = app.use_cases.person_of(text, Acting::Account).await?;
    let actor = actor.ok_or(UseCaseError::SignInOver)?;
    if actor.person.map(|person| person.user) != Some(link.0) {
        return Err(UseCaseError::SignInOver);
    }
    app.use_cases.link_identity(&actor, provider.id, &vouched).await?;
    Ok(browser.see(ACCOUNT))
}

/// Whoever sends the answer of another provider is not listened to (RFC 9207, section 2.4).
fn check_sender(provider: &IdentityProvider, sender: Option<&str>) -> Result<(), UseCaseError> {
    match (&provider.protocol, sender) {
        (ProviderProtocol::Oidc { issuer }, Some(sender)) if issuer != sender => Err(UseCaseError::Provider(
            "another identity provider answered than was asked",
        )),
        _ => Ok(()),
    }
}

/// Where providers have to be told to send browsers back to.
pub(crate) fn redirect_uri(url: &CanonicalUrl) -> String {
    format!("{url}{CALLBACK}")
}

fn show(app: &App, error: UseCaseError) -> Response {
    failed(error, |status, problem| refused(app, status, problem))
}

/// A provider on a page.
pub(super) struct Button {
    pub(super) id: String,
    pub(super) name: String,
}

pub(super) fn buttons(providers: Vec<Stored<IdentityProvider>>) -> Vec<Button> {
    let providers = providers.into_iter();
    let button = |provider: Stored<IdentityProvider>| Button {
        id: provider.value.id.to_string(),
        name: provider.value.name.to_string(),
    };
    providers.map(button).collect()
}
