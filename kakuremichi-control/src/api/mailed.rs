//! Links that people get by mail.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::secret::Secret;
use kakuremichi_proto::identity::{ResetText, VerificationText};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    App,
    extract::{At, Body},
    problem::Problem,
    sessions::NewSessionView,
};
use crate::service::{Actor, ResetDraft, UseCaseError, parse_email};

/// Whose password is forgotten.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResetRequestInput {
    /// The address of the account.
    #[schema(example = "anna@example.net")]
    email: String,
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResetInput {
    /// What the link has.
    #[schema(example = "kkm_reset_…")]
    reset: String,
    /// The password as it is to be: at least 12 characters.
    #[schema(format = Password)]
    password: String,
    /// A code of the second factor, or a recovery code, where there is one.
    code: Option<String>,
}

/// The proof that somebody reads an address.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerificationInput {
    /// What the link has.
    #[schema(example = "kkm_verify_…")]
    verification: String,
}

/// Mails a link to a new password, if there is an account with the address. The answer does not tell.
#[utoipa::path(post, path = "/api/v1/password-resets", tag = "mail", request_body = ResetRequestInput,
    responses((status = 202), (status = 400, body = Problem), (status = 409, body = Problem),
              (status = 429, body = Problem)))]
pub(super) async fn request_reset(
    State(app): State<App>,
    At(at): At,
    Body(input): Body<ResetRequestInput>,
) -> Result<StatusCode, Problem> {
    let email = parse_email(&input.email).map_err(|message| UseCaseError::field("email", message))?;
    app.use_cases.mail_reset(email, &at)?;
    Ok(StatusCode::ACCEPTED)
}

/// Sets a new password by a link. All sessions end, and another begins.
#[utoipa::path(post, path = "/api/v1/password-resets/complete", tag = "mail", request_body = ResetInput,
    responses((status = 201, body = NewSessionView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 409, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn complete_reset(
    State(app): State<App>,
    At(at): At,
    Body(input): Body<ResetInput>,
) -> Result<impl IntoResponse, Problem> {
    let reset: ResetText = input.reset.parse().map_err(|_| UseCaseError::Link)?;
    let draft = ResetDraft {
        reset,
        password: Secret::new(input.password),
        code: input.code.map(Secret::new),
    };
    let begun = app.use_cases.reset_password(draft, at).await?;
    Ok((StatusCode::CREATED, Json(NewSessionView::from(begun))))
}

/// Mails the caller a link that confirms their address; nothing, if it is confirmed already.
#[utoipa::path(post, path = "/api/v1/account/verification", tag = "mail",
    responses((status = 202), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 409, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn request_verification(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    At(at): At,
) -> Result<StatusCode, Problem> {
    app.use_cases.mail_verification(&actor, &at).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Confirms an address by a link.
#[utoipa::path(post, path = "/api/v1/verifications", tag = "mail", request_body = VerificationInput,
    responses((status = 204), (status = 400, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn verify(
    State(app): State<App>,
    Body(input): Body<VerificationInput>,
) -> Result<StatusCode, Problem> {
    let text: VerificationText = input.verification.parse().map_err(|_| UseCaseError::Link)?;
    app.use_cases.verify_address(&text).await?;
    Ok(StatusCode::NO_CONTENT)
}
