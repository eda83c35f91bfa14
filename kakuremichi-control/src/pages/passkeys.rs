//! Passkeys in a browser: signing in with one, and those of an account. A script asks the authenticator; what it
//! answers comes in a form.

use askama::Template;
use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, Path, State, rejection::FormRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::post,
};
use kakuremichi_core::secret::Secret;
use serde::Deserialize;
use serde_json::Value;

use super::{
    rendered::{check_own, page, refused},
    sign_in::{ACCOUNT, MAX_FORM, again, failed, go_on, sent_form},
};
use crate::{
    api::{App, At},
    browser::Browser,
    service::{Acting, Actor, PasskeyDraft, UseCaseError},
};

#[derive(Deserialize)]
struct AnswerForm {
    challenge: String,
    credential: String,
    #[serde(rename = "return")]
    back: Option<String>,
}

#[derive(Deserialize)]
struct AddForm {
    challenge: String,
    credential: String,
    name: String,
}

#[derive(Deserialize)]
struct NameForm {
    name: String,
}

/// What is in a path; by name, since Control can be mounted below a path that has parameters of its own.
#[derive(Deserialize)]
struct Named {
    passkey: String,
}

#[derive(Template)]
#[template(path = "recovery.html")]
pub(super) struct RecoveryPage<'a> {
    pub(super) base: &'a str,
    pub(super) codes: &'a [Secret<String>],
}

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/sign-in/passkey", post(sign_in))
        .route("/account/passkeys", post(add))
        .route("/account/passkeys/{passkey}/rename", post(rename))
        .route("/account/passkeys/{passkey}/remove", post(remove))
        .layer(DefaultBodyLimit::max(MAX_FORM))
}

async fn sign_in(
    State(app): State<App>,
    At(at): At,
    headers: HeaderMap,
    sent: Result<Form<AnswerForm>, FormRejection>,
) -> Response {
    let (sent, back) = match sent_form(&app, &headers, sent, |form| form.back.take()) {
        Ok(sent) => sent,
        Err(refusal) => return *refusal,
    };
    let begun = match credential(&sent.credential) {
        Ok(credential) => {
            app.use_cases
                .sign_in_with_passkey(&sent.challenge, &credential, at)
                .await
        }
        Err(error) => Err(error),
    };
    match begun {
        Ok(begun) => go_on(&app, &begun, back.as_ref()),
        Err(error) => again(&app, error, back.as_ref(), "").await,
    }
}

async fn add(
    State(app): State<App>,
    headers: HeaderMap,
    sent: Result<Form<AddForm>, FormRejection>,
) -> Response {
    let (sent, _) = match sent_form(&app, &headers, sent, |_| None) {
        Ok(sent) => sent,
        Err(refusal) => return *refusal,
    };
    let added = async {
        let name = sent.name.parse();
        let draft = PasskeyDraft {
            challenge: sent.challenge,
            name: name.map_err(|error| UseCaseError::field("name", error))?,
            credential: credential(&sent.credential)?,
        };
        let actor = person(&app, &headers).await?;
        app.use_cases.add_passkey(&actor, draft).await
    };
    match added.await {
        Ok(made) if made.recovery_codes.is_empty() => Browser::of(&app.public_url).see(ACCOUNT),
        Ok(made) => {
            let codes = RecoveryPage {
                base: app.public_url.path(),
                codes: &made.recovery_codes,
            };
            page(StatusCode::OK, &codes)
        }
        Err(error) => show(&app, error),
    }
}

async fn rename(
    State(app): State<App>,
    Path(named): Path<Named>,
    headers: HeaderMap,
    sent: Result<Form<NameForm>, FormRejection>,
) -> Response {
    let (sent, _) = match sent_form(&app, &headers, sent, |_| None) {
        Ok(sent) => sent,
        Err(refusal) => return *refusal,
    };
    let renamed = async {
        let actor = person(&app, &headers).await?;
        let id = named.passkey.parse().map_err(|_| UseCaseError::NoPasskey)?;
        let name = sent.name.parse();
        let name = name.map_err(|error| UseCaseError::field("name", error))?;
        app.use_cases.rename_passkey(&actor, id, name).await
    };
    match renamed.await {
        Ok(_) => Browser::of(&app.public_url).see(ACCOUNT),
        Err(error) => show(&app, error),
    }
}

async fn remove(State(app): State<App>, Path(named): Path<Named>, headers: HeaderMap) -> Response {
    if let Err(refusal) = check_own(&app, &headers) {
        return *refusal;
    }
    let removed = async {
        let actor = person(&app, &headers).await?;
        let id = named.passkey.parse().map_err(|_| UseCaseError::NoPasskey)?;
        app.use_cases.remove_passkey(&actor, id).await
    };
    match removed.await {
        Ok(()) => Browser::of(&app.public_url).see(ACCOUNT),
        Err(error) => show(&app, error),
    }
}

/// Whoever the browser is signed in as, in their own account.
pub(super) async fn person(app: &App, headers: &HeaderMap) -> Result<Actor, UseCaseError> {
    let text = Browser::of(&app.public_url).session_text(headers);
    let text = text.ok_or(UseCaseError::SignInOver)?;
    let actor = app.use_cases.person_of(text, Acting::Account).await?;
    actor.ok_or(UseCaseError::SignInOver)
}

pub(super) fn credential(text: &str) -> Result<Value, UseCaseError> {
    serde_json::from_str(text).map_err(|_| UseCaseError::field("credential", "it is not whole: try again"))
}

fn show(app: &App, error: UseCaseError) -> Response {
    failed(error, |status, problem| refused(app, status, problem))
}
