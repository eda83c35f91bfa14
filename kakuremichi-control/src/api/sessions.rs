//! Signing in, and being signed in.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode},
    response::IntoResponse,
};
use kakuremichi_core::{email::EmailAddress, id::SessionId, model::Session, secret::Secret};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{At, Body, Id},
    guard::Shown,
    page::Page,
    problem::Problem,
    text::TimeText,
};
use crate::{
    browser::Browser,
    service::{Actor, NewSession, SignInDraft, UseCaseError, parse_email},
};

/// Who signs in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignInInput {
    /// The address of the account.
    #[schema(example = "anna@example.net")]
    email: String,
    /// The password.
    #[schema(format = Password)]
    password: String,
    /// A code of the second factor, or a recovery code.
    #[schema(example = "287082")]
    code: Option<String>,
}

/// A session, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionView {
    /// Its identifier.
    #[schema(example = "ses_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// By what the person signed in: `password`, `password+totp`, `password+recovery-code`,
    /// `password+passkey`, `passkey`, `identity-provider`, `identity-provider+second-factor`.
    sign_in: String,
    /// From which address.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// What the browser or the program called itself.
    user_agent: String,
    /// Whether it is the one that asks.
    current: bool,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    expires_at: TimeText,
}

/// A session that began.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewSessionView {
    /// What to send as a bearer token. It is shown this once, and not at all to a browser that has a cookie, which
    /// gets another cookie.
    #[schema(example = "kkm_session_…")]
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// What it is from now on.
    session: SessionView,
}

/// Signs in with a password.
#[utoipa::path(post, path = "/api/v1/sessions", tag = "sessions", request_body = SignInInput,
    responses((status = 201, body = NewSessionView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 429, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    At(at): At,
    Body(input): Body<SignInInput>,
) -> Result<impl IntoResponse, Problem> {
    // What is no address is nobody's: it is told apart from a wrong one by nothing.
    let email: EmailAddress = parse_email(&input.email).map_err(|_| UseCaseError::WrongCredentials)?;
    let draft = SignInDraft {
        email,
        password: Secret::new(input.password),
        code: input.code.map(Secret::new),
    };
    let begun = app.use_cases.sign_in(draft, at).await?;
    Ok((StatusCode::CREATED, Json(NewSessionView::from(begun))))
}

/// Lists the caller's sessions, newest first.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "sessions",
    responses((status = 200, body = Page<SessionView>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<Page<SessionView>>, Problem> {
    let sessions = app.use_cases.own_sessions(&actor).await?;
    let current = actor.person.map(|person| person.session);
    let items = sessions
        .into_iter()
        .map(|session| SessionView::of(session.value, current))
        .collect();
    Ok(Json(Page::made(items, None)))
}

/// Signs out: ends the session that asks.
#[utoipa::path(delete, path = "/api/v1/sessions/current", tag = "sessions",
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn delete_current(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Extension(shown): Extension<Shown>,
) -> Result<impl IntoResponse, Problem> {
    let session = actor.person.ok_or(UseCaseError::NoPerson)?.session;
    app.use_cases.end_session(&actor, session).await?;
    let cookie = (shown == Shown::Cookie).then(|| Browser::of(&app.public_url).no_session());
    Ok((cookie, StatusCode::NO_CONTENT))
}

/// Ends one of the caller's sessions.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<SessionId>,
) -> Result<StatusCode, Problem> {
    app.use_cases.end_session(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A session that began in the place of the caller's. Whoever showed a cookie gets another one, and no text that a
/// script could read.
pub(super) fn instead(
    app: &App,
    shown: Shown,
    begun: NewSession,
) -> (Option<[(HeaderName, HeaderValue); 1]>, NewSessionView) {
    match shown {
        Shown::Header => (None, begun.into()),
        Shown::Cookie => {
            let cookie = Browser::of(&app.public_url).session(&begun);
            let mut view = NewSessionView::from(begun);
            view.token = None;
            (Some(cookie), view)
        }
    }
}

impl SessionView {
    fn of(session: Session, current: Option<SessionId>) -> Self {
        Self {
            id: session.id.to_string(),
            sign_in: session.sign_in.as_str().to_owned(),
            address: session.source.map(|source| source.to_string()),
            user_agent: session.user_agent,
            current: current == Some(session.id),
            created_at: session.created.into(),
            expires_at: session.expires.into(),
        }
    }
}

impl From<NewSession> for NewSessionView {
    fn from(begun: NewSession) -> Self {
        let session = begun.session.value;
        let id = session.id;
        Self {
            token: Some(begun.text.expose().clone()),
            session: SessionView::of(session, Some(id)),
        }
    }
}
