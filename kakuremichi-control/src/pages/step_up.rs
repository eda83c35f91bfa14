//! The page on which somebody who is signed in confirms that it is them, for a service that wants that.

use askama::Template;
use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, Query, State, rejection::FormRejection},
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
    routing::post,
};
use kakuremichi_core::{
    auth::Strength,
    model::{Session, User},
    secret::Secret,
};
use kakuremichi_proto::sign_in::SignInQuery;
use serde::Deserialize;

use super::{
    passkeys::credential,
    rendered::{page_with_script, refused},
    sign_in::{ACCOUNT, Failure, MAX_FORM, failed, go_on, sent_form},
};
use crate::{
    api::{App, At},
    browser::{Browser, ReturnPath, signed_in},
    service::{StepUpWays, TicketDraft, UseCaseError, Whereabouts},
};

/// What the person confirms it by, and where they go on to.
#[derive(Deserialize)]
struct Sent {
    code: Option<String>,
    password: Option<String>,
    challenge: Option<String>,
    credential: Option<String>,
    #[serde(rename = "return")]
    back: Option<String>,
}

#[derive(Template)]
#[template(path = "step_up.html")]
struct StepUpPage<'a> {
    base: &'a str,
    problem: Option<&'a str>,
    email: &'a str,
    back: &'a ReturnPath,
    account: &'a str,
    ways: &'a StepUpWays,
    /// How the passkey is asked.
    options: String,
    /// What is missing to be as strong as that, where nothing is there.
    missing: &'static str,
}

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/sign-in/step-up", post(step_up))
        .layer(DefaultBodyLimit::max(MAX_FORM))
}

/// Shows by what the person can confirm it, or what they have to set up first: without that no round would help.
pub(super) fn show(
    app: &App,
    (session, user): (&Session, &User),
    wanted: Strength,
    back: &ReturnPath,
    failure: Option<&Failure>,
) -> Response {
    let ways = match app.use_cases.ways_to_step_up((session, user), wanted) {
        Ok(ways) => ways,
        Err(error) => return failed(error, |status, problem| refused(app, status, problem)),
    };
    let missing = match (session.sign_in.strength() < wanted, wanted) {
        (true, Strength::PhishingResistant) => "a passkey",
        (true, _) if app.use_cases.has_passkeys() => "a passkey, or an app that shows codes,",
        (true, _) => "an app that shows codes",
        // It is only too long ago.
        (false, _) => "",
    };
    let status = failure.map_or(StatusCode::FORBIDDEN, |failure| failure.status);
    let step_up = StepUpPage {
        base: app.public_url.path(),
        problem: failure.map(|failure| failure.problem.as_str()),
        email: user.email.as_str(),
        back,
        account: ACCOUNT,
        options: ways
            .passkey
            .as_ref()
            .map(|passkey| passkey.options.to_string())
            .unwrap_or_default(),
        ways: &ways,
        missing,
    };
    let mut response = page_with_script(status, &step_up);
    if let Some(failure) = failure {
        failure.mark(&mut response);
    }
    response
}

/// Takes what the person confirms it by.
async fn step_up(
    State(app): State<App>,
    At(at): At,
    headers: HeaderMap,
    sent: Result<Form<Sent>, FormRejection>,
) -> Response {
    let (sent, back) = match sent_form(&app, &headers, sent, |form| form.back.take()) {
        Ok(sent) => sent,
        Err(refusal) => return *refusal,
    };
    let Some(back) = back else {
        return refused(&app, StatusCode::BAD_REQUEST, "The form is not whole.");
    };
    let text = Browser::of(&app.public_url).session_text(&headers);
    match confirm(&app, text.unwrap_or_default(), sent, &at).await {
        Ok(begun) => go_on(&app, &begun, Some(&back)),
        Err(error) => {
            let failure = Failure::of(error);
            match signed_in(&app, &headers).await {
                Ok(Some((session, user))) => show(
                    &app,
                    (&session.value, &user.value),
                    wanted(&back),
                    &back,
                    Some(&failure),
                ),
                Ok(None) => Browser::of(&app.public_url).see(&super::sign_in_path(Some(&back))),
                Err(error) => failed(error, |status, problem| refused(&app, status, problem)),
            }
        }
    }
}

async fn confirm(
    app: &App,
    text: &str,
    sent: Sent,
    at: &Whereabouts,
) -> Result<crate::service::NewSession, UseCaseError> {
    match sent {
        Sent {
            challenge: Some(challenge),
            credential: Some(answer),
            ..
        } => {
            let answer = credential(&answer)?;
            app.use_cases
                .step_up_with_passkey(text, &challenge, &answer, at)
                .await
        }
        Sent { code: Some(code), .. } => {
            app.use_cases
                .step_up_with_code(text, &Secret::new(code), at)
                .await
        }
        Sent {
            password: Some(password),
            ..
        } => {
            app.use_cases
                .step_up_with_password(text, Secret::new(password), at)
                .await
        }
        _ => Err(UseCaseError::WrongCredentials),
    }
}

/// How strong the gateway wants it that sent the browser.
fn wanted(back: &ReturnPath) -> Strength {
    let asked = back.as_str().parse::<Uri>().ok();
    let asked = asked.and_then(|asked| Query::<SignInQuery>::try_from_uri(&asked).ok());
    let draft = asked.and_then(|Query(asked)| TicketDraft::read(&asked));
    draft.map_or(Strength::OneFactor, |draft| draft.strength)
}
