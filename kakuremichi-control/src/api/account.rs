//! The caller's own account.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    id::ProviderId,
    model::{LinkedIdentity, PersonName, User},
    secret::Secret,
};
use kakuremichi_proto::identity::InvitationText;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{At, Body, Id, etag},
    guard::Shown,
    members::MemberView,
    problem::Problem,
    sessions::{NewSessionView, instead},
    text::TimeText,
};
use crate::{
    service::{Actor, UseCaseError},
    text::Text,
};

/// An account.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UserView {
    /// Its identifier.
    #[schema(example = "usr_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// The address that the person signs in with.
    #[schema(example = "anna@example.net")]
    email: String,
    /// What the person is called.
    name: String,
    /// Whether the person administers this Control.
    administrator: bool,
    /// Whether the person has proved to read mail at the address.
    verified: bool,
    /// Whether an app is set up as a second factor.
    totp: bool,
    /// How many passkeys there are.
    passkeys: usize,
    /// How many recovery codes were not used yet.
    recovery_codes: usize,
    /// Who the person is at identity providers.
    identities: Vec<LinkedIdentityView>,
    /// Since when the account is disabled.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_at: Option<TimeText>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// Who a person is at an identity provider.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LinkedIdentityView {
    /// The identifier of the provider.
    #[schema(example = "idp_aebagbafaydqqcikbmga2dqpca")]
    provider: String,
    /// The subject there.
    subject: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    linked_at: TimeText,
}

impl From<LinkedIdentity> for LinkedIdentityView {
    fn from(identity: LinkedIdentity) -> Self {
        Self {
            provider: identity.provider.to_string(),
            subject: identity.subject,
            linked_at: identity.since.into(),
        }
    }
}

/// What may be changed of the own account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountInput {
    /// What the person is called.
    #[schema(value_type = String, example = "Anna")]
    name: Text<PersonName>,
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordInput {
    /// The password as it is.
    #[schema(format = Password)]
    password: String,
    /// The password as it is to be: at least 12 characters.
    #[schema(format = Password)]
    new_password: String,
}

/// A secret for the app that makes codes.
#[derive(Serialize, ToSchema)]
pub(crate) struct TotpSecretView {
    /// The secret in base 32, to be typed.
    secret: String,
    /// The same as a URI, to be shown as a QR code.
    #[schema(example = "otpauth://totp/…")]
    uri: String,
}

/// A second factor to be set up.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TotpInput {
    /// The secret that was drawn.
    secret: String,
    /// A code that the app makes with it.
    #[schema(example = "287082")]
    code: String,
    /// The password.
    #[schema(format = Password)]
    password: String,
    /// A code of the second factor that is set up, or a recovery code, if there is one.
    current_code: Option<String>,
}

/// The second factor is set up.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewTotpView {
    /// Codes that work once each in the place of the app. They are shown this once.
    recovery_codes: Vec<String>,
    /// The session to go on with: those before are over.
    #[serde(flatten)]
    session: NewSessionView,
}

/// A password, and a code, that confirm what is asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfirmInput {
    /// The password.
    #[schema(format = Password)]
    password: String,
    /// A code of the second factor, or a recovery code.
    #[schema(example = "287082")]
    code: Option<String>,
}

/// An invitation to be accepted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinInput {
    /// The invitation's text.
    #[schema(example = "kkm_invite_…")]
    invitation: String,
}

/// Reads the caller's account.
#[utoipa::path(get, path = "/api/v1/account", tag = "account",
    responses((status = 200, body = UserView), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
) -> Result<impl IntoResponse, Problem> {
    let user = app.use_cases.own_user(&actor).await?;
    Ok((etag(user.version), Json(UserView::from(user.value))))
}

/// Changes the caller's account.
#[utoipa::path(patch, path = "/api/v1/account", tag = "account", request_body = AccountInput,
    responses((status = 200, body = UserView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<AccountInput>,
) -> Result<impl IntoResponse, Problem> {
    let user = app.use_cases.rename_user(&actor, input.name.0).await?;
    Ok((etag(user.version), Json(UserView::from(user.value))))
}

/// Changes the caller's password. All sessions end, and another begins.
#[utoipa::path(put, path = "/api/v1/account/password", tag = "account", request_body = PasswordInput,
    responses((status = 200, body = NewSessionView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn change_password(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    At(at): At,
    Extension(shown): Extension<Shown>,
    Body(input): Body<PasswordInput>,
) -> Result<impl IntoResponse, Problem> {
    let (current, new) = (Secret::new(input.password), Secret::new(input.new_password));
    let begun = app.use_cases.change_password(&actor, current, new, at).await?;
    let (cookie, view) = instead(&app, shown, begun);
    Ok((cookie, Json(view)))
}

/// Draws a secret for the app that makes codes. It counts once it is confirmed.
#[utoipa::path(post, path = "/api/v1/account/totp/secret", tag = "account",
    responses((status = 200, body = TotpSecretView), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn draw_totp(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<TotpSecretView>, Problem> {
    let drawn = app.use_cases.draw_totp(&actor).await?;
    Ok(Json(TotpSecretView {
        secret: drawn.secret.expose().clone(),
        uri: drawn.uri.expose().clone(),
    }))
}

/// Sets the second factor up, or another in its place. All sessions end, and another begins.
#[utoipa::path(put, path = "/api/v1/account/totp", tag = "account", request_body = TotpInput,
    responses((status = 200, body = NewTotpView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn set_totp(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    At(at): At,
    Extension(shown): Extension<Shown>,
    Body(input): Body<TotpInput>,
) -> Result<impl IntoResponse, Problem> {
    let (secret, code) = (Secret::new(input.secret), Secret::new(input.code));
    let password = Secret::new(input.password);
    let current = input.current_code.map(Secret::new);
    let made = app
        .use_cases
        .set_totp(&actor, &secret, &code, password, current.as_ref(), at)
        .await?;
    let codes = made.recovery_codes.iter().map(|code| code.expose().clone());
    let recovery_codes = codes.collect();
    let (cookie, session) = instead(&app, shown, made.session);
    let view = NewTotpView {
        recovery_codes,
        session,
    };
    Ok((cookie, Json(view)))
}

/// Takes the second factor away. All sessions end, and another begins.
#[utoipa::path(delete, path = "/api/v1/account/totp", tag = "account", request_body = ConfirmInput,
    responses((status = 200, body = NewSessionView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn remove_totp(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    At(at): At,
    Extension(shown): Extension<Shown>,
    Body(input): Body<ConfirmInput>,
) -> Result<impl IntoResponse, Problem> {
    let (password, code) = (Secret::new(input.password), input.code.map(Secret::new));
    let begun = app
        .use_cases
        .remove_totp(&actor, password, code.as_ref(), at)
        .await?;
    let (cookie, view) = instead(&app, shown, begun);
    Ok((cookie, Json(view)))
}

/// Accepts an invitation for the account that is signed in.
#[utoipa::path(post, path = "/api/v1/account/organizations", tag = "account", request_body = JoinInput,
    responses((status = 201, body = MemberView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn join(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<JoinInput>,
) -> Result<impl IntoResponse, Problem> {
    let text: InvitationText = input.invitation.parse().map_err(|_| UseCaseError::Invitation)?;
    let member = app.use_cases.join(&actor, &text).await?;
    let view = MemberView::of(&app, member.value).await?;
    Ok((StatusCode::CREATED, etag(member.version), Json(view)))
}

/// Takes the links to an identity provider from the caller's account. Other sessions end.
#[utoipa::path(delete, path = "/api/v1/account/identities/{id}", tag = "account", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn unlink(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ProviderId>,
) -> Result<StatusCode, Problem> {
    app.use_cases.unlink_identity(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        Self {
            id: user.id.to_string(),
            email: user.email.to_string(),
            name: user.name.to_string(),
            administrator: user.administrator,
            verified: user.verified.is_some(),
            totp: user.totp.is_some(),
            passkeys: user.passkeys.len(),
            recovery_codes: user.recovery_codes.len(),
            identities: user.identities.into_iter().map(Into::into).collect(),
            disabled_at: user.disabled.map(Into::into),
            created_at: user.created.into(),
        }
    }
}
