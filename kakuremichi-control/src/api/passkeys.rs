//! Passkeys: those of the caller, and signing in with one.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    id::PasskeyId,
    model::{Passkey, PersonName},
    secret::Secret,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    App,
    extract::{At, Body, Id},
    idempotency::SHOWN_ONCE,
    page::Page,
    problem::Problem,
    sessions::NewSessionView,
    text::TimeText,
};
use crate::{
    service::{Actor, PasskeyChallenge, PasskeyDraft, UseCaseError, parse_email},
    text::Text,
};

/// A passkey.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PasskeyView {
    /// Its identifier.
    #[schema(example = "pky_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// What its person calls it.
    #[schema(example = "Phone")]
    name: String,
    /// When it was added.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
    /// When it was used last to sign in.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    used_at: Option<TimeText>,
}

/// A challenge for an authenticator. It is good for five minutes, and once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PasskeyChallengeView {
    /// What goes back with the answer, unchanged.
    challenge: String,
    /// What the browser is asked with: `publicKey` goes to `PublicKeyCredential.parseCreationOptionsFromJSON()`, or
    /// to `parseRequestOptionsFromJSON()` to sign in.
    #[schema(value_type = Object)]
    options: Value,
}

/// A passkey to be added.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasskeyInput {
    /// The text of the challenge.
    challenge: String,
    /// What its person calls it.
    #[schema(value_type = String, example = "Phone")]
    name: Text<PersonName>,
    /// What `navigator.credentials.create()` made, as its `toJSON()` writes it.
    #[schema(value_type = Object)]
    credential: Value,
}

/// A passkey that was added.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewPasskeyView {
    /// The passkey.
    passkey: PasskeyView,
    /// If it is the account's first second factor: codes that work once each in its place. They are shown this once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    recovery_codes: Vec<String>,
}

/// Another name of a passkey.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasskeyNameInput {
    /// What its person calls it.
    #[schema(value_type = String, example = "Phone")]
    name: Text<PersonName>,
}

/// Who wants to sign in with a passkey: nobody in particular, or whoever has a password and uses it as the second factor.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasskeyChallengeInput {
    /// The address of the account, with the password.
    #[schema(example = "anna@example.net")]
    email: Option<String>,
    /// The password, with the address.
    #[schema(format = Password)]
    password: Option<String>,
}

/// A passkey's answer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasskeySignInInput {
    /// The text of the challenge.
    challenge: String,
    /// What `navigator.credentials.get()` gave, as its `toJSON()` writes it.
    #[schema(value_type = Object)]
    credential: Value,
}

impl From<Passkey> for PasskeyView {
    fn from(passkey: Passkey) -> Self {
        Self {
            id: passkey.id.to_string(),
            name: passkey.name.to_string(),
            created_at: passkey.created.into(),
            used_at: passkey.used.map(Into::into),
        }
    }
}

impl From<PasskeyChallenge> for PasskeyChallengeView {
    fn from(challenge: PasskeyChallenge) -> Self {
        Self {
            challenge: challenge.text,
            options: challenge.options,
        }
    }
}

/// Lists the caller's passkeys.
#[utoipa::path(get, path = "/api/v1/account/passkeys", tag = "passkeys",
    responses((status = 200, body = Page<PasskeyView>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<Page<PasskeyView>>, Problem> {
    let user = app.use_cases.own_user(&actor).await?.value;
    let passkeys = user.passkeys.into_iter().map(Into::into).collect();
    Ok(Json(Page::made(passkeys, None)))
}

/// Makes a challenge for another passkey of the caller, who signed in within the last ten minutes.
#[utoipa::path(post, path = "/api/v1/account/passkeys/challenge", tag = "passkeys",
    responses((status = 200, body = PasskeyChallengeView), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn challenge(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<PasskeyChallengeView>, Problem> {
    Ok(Json(app.use_cases.challenge_to_add(&actor).await?.into()))
}

/// Adds a passkey to the caller's account. Other sessions end.
#[utoipa::path(post, path = "/api/v1/account/passkeys", tag = "passkeys", request_body = PasskeyInput,
    responses((status = 201, body = NewPasskeyView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<PasskeyInput>,
) -> Result<impl IntoResponse, Problem> {
    let draft = PasskeyDraft {
        challenge: input.challenge,
        name: input.name.0,
        credential: input.credential,
    };
    let made = app.use_cases.add_passkey(&actor, draft).await?;
    let codes = made.recovery_codes.iter().map(|code| code.expose().clone());
    let view = NewPasskeyView {
        passkey: made.passkey.into(),
        recovery_codes: codes.collect(),
    };
    Ok((StatusCode::CREATED, SHOWN_ONCE, Json(view)))
}

/// Gives one of the caller's passkeys another name.
#[utoipa::path(patch, path = "/api/v1/account/passkeys/{id}", tag = "passkeys", params(("id" = String, Path)),
    request_body = PasskeyNameInput,
    responses((status = 200, body = PasskeyView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<PasskeyId>,
    Body(input): Body<PasskeyNameInput>,
) -> Result<Json<PasskeyView>, Problem> {
    let renamed = app.use_cases.rename_passkey(&actor, id, input.name.0).await?;
    Ok(Json(renamed.into()))
}

/// Takes a passkey from the account of the caller, who signed in within the last ten minutes. Other sessions end.
#[utoipa::path(delete, path = "/api/v1/account/passkeys/{id}", tag = "passkeys", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<PasskeyId>,
) -> Result<StatusCode, Problem> {
    app.use_cases.remove_passkey(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a challenge to sign in with a passkey: with nothing else, or after a password.
#[utoipa::path(post, path = "/api/v1/sessions/passkey/challenge", tag = "sessions",
    request_body = PasskeyChallengeInput,
    responses((status = 200, body = PasskeyChallengeView), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
              (status = 429, body = Problem)))]
pub(super) async fn sign_in_challenge(
    State(app): State<App>,
    At(at): At,
    Body(input): Body<PasskeyChallengeInput>,
) -> Result<Json<PasskeyChallengeView>, Problem> {
    let challenge = match (input.email, input.password) {
        (None, None) => app.use_cases.challenge_to_sign_in()?,
        (Some(email), Some(password)) => {
            // What is no address is nobody's: it is told apart from a wrong one by nothing.
            let email = parse_email(&email).map_err(|_| UseCaseError::WrongCredentials)?;
            let password = Secret::new(password);
            app.use_cases
                .challenge_with_password(email, password, &at)
                .await?
        }
        (None, Some(_)) => return Err(UseCaseError::field("email", "give the address, too").into()),
        (Some(_), None) => return Err(UseCaseError::field("password", "give the password, too").into()),
    };
    Ok(Json(challenge.into()))
}

/// Signs in with the answer of a passkey.
#[utoipa::path(post, path = "/api/v1/sessions/passkey", tag = "sessions", request_body = PasskeySignInInput,
    responses((status = 201, body = NewSessionView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 409, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn sign_in(
    State(app): State<App>,
    At(at): At,
    Body(input): Body<PasskeySignInInput>,
) -> Result<impl IntoResponse, Problem> {
    let begun = app
        .use_cases
        .sign_in_with_passkey(&input.challenge, &input.credential, at)
        .await?;
    Ok((StatusCode::CREATED, Json(NewSessionView::from(begun))))
}
