//! The app that makes codes, for whoever has a browser: setting it up, and taking it away.

mod drawing;

use askama::Template;
use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, State, rejection::FormRejection},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use kakuremichi_core::secret::Secret;
use serde::Deserialize;

use self::drawing::Drawing;
use super::{
    passkeys::{RecoveryPage, person},
    rendered::{page, refused},
    sign_in::{ACCOUNT, MAX_FORM, failed, sent_form},
};
use crate::{
    api::{App, At},
    browser::{Browser, to_sign_in},
    service::{TotpSecret, UseCaseError},
};

/// The path of the page.
const TOTP: &str = "/account/totp";

#[derive(Deserialize)]
struct SetForm {
    secret: String,
    code: String,
    password: String,
    current_code: Option<String>,
}

#[derive(Deserialize)]
struct RemoveForm {
    code: String,
    password: String,
}

#[derive(Template)]
#[template(path = "totp.html")]
struct TotpPage<'a> {
    base: &'a str,
    problem: Option<&'a str>,
    secret: &'a str,
    drawing: Drawing,
    /// Whether a code of what was set up before is asked for.
    replaces: bool,
}

pub(super) fn router() -> Router<App> {
    Router::new()
        .route(TOTP, get(show).post(set))
        .route("/account/totp/remove", post(remove))
        .layer(DefaultBodyLimit::max(MAX_FORM))
}

/// Draws a secret, and shows it.
async fn show(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Response {
    let actor = match person(&app, &headers).await {
        Ok(actor) => actor,
        Err(UseCaseError::SignInOver) => return to_sign_in(&app, &uri),
        Err(error) => return refuse(&app, error),
    };
    let shown = async {
        let drawn = app.use_cases.draw_totp(&actor).await?;
        form(&app, StatusCode::OK, None, &drawn)
    };
    shown.await.unwrap_or_else(|error| refuse(&app, error))
}

async fn set(
    State(app): State<App>,
    At(at): At,
    headers: HeaderMap,
    sent: Result<Form<SetForm>, FormRejection>,
) -> Response {
    let (sent, _) = match sent_form(&app, &headers, sent, |_| None) {
        Ok(sent) => sent,
        Err(refusal) => return *refusal,
    };
    let actor = match person(&app, &headers).await {
        Ok(actor) => actor,
        Err(error) => return refuse(&app, error),
    };
    let (secret, code) = (Secret::new(sent.secret), Secret::new(sent.code));
    // A field that was left empty is sent, too; a passkey that was used just now stands for it.
    let current = sent.current_code.filter(|code| !code.is_empty()).map(Secret::new);
    let password = Secret::new(sent.password);
    let made = app
        .use_cases
        .set_totp(&actor, &secret, &code, password, current.as_ref(), at)
        .await;
    let error = match made {
        Ok(made) => {
            let codes = RecoveryPage {
                base: app.public_url.path(),
                codes: &made.recovery_codes,
            };
            let cookie = Browser::of(&app.public_url).session(&made.session);
            return (cookie, page(StatusCode::OK, &codes)).into_response();
        }
        Err(error) => error,
    };
    // The same secret again: the app has it already.
    match app.use_cases.totp_secret(&actor, secret).await {
        Ok(drawn) => failed(error, |status, problem| {
            form(&app, status, Some(problem), &drawn).unwrap_or_else(|error| refuse(&app, error))
        }),
        Err(error) => refuse(&app, error),
    }
}

async fn remove(
    State(app): State<App>,
    At(at): At,
    headers: HeaderMap,
    sent: Result<Form<RemoveForm>, FormRejection>,
) -> Response {
    let (sent, _) = match sent_form(&app, &headers, sent, |_| None) {
        Ok(sent) => sent,
        Err(refusal) => return *refusal,
    };
    let (code, password) = (Secret::new(sent.code), Secret::new(sent.password));
    let removed = async {
        let actor = person(&app, &headers).await?;
        app.use_cases.remove_totp(&actor, password, Some(&code), at).await
    };
    match removed.await {
        Ok(session) => {
            let browser = Browser::of(&app.public_url);
            (browser.session(&session), browser.see(ACCOUNT)).into_response()
        }
        Err(error) => refuse(&app, error),
    }
}

fn form(
    app: &App,
    status: StatusCode,
    problem: Option<&str>,
    secret: &TotpSecret,
) -> Result<Response, UseCaseError> {
    let shown = TotpPage {
        base: app.public_url.path(),
        problem,
        secret: secret.secret.expose(),
        drawing: Drawing::of(secret.uri.expose())?,
        replaces: secret.replaces,
    };
    Ok(page(status, &shown))
}

fn refuse(app: &App, error: UseCaseError) -> Response {
    failed(error, |status, problem| refused(app, status, problem))
}
