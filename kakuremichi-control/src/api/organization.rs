//! Who the caller is.

use axum::{Extension, Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, problem::Problem, text::TimeText};
use crate::service::Actor;

/// Who the caller is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Me {
    /// Who vouches for the caller: `api-key`, or the authenticator.
    authority: String,
    /// The caller's name there; the identifier of the API key.
    subject: String,
    /// The caller's organization.
    organization: OrganizationView,
}

/// An organization.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrganizationView {
    /// Its identifier.
    #[schema(example = "org_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// Its name.
    #[schema(example = "default")]
    name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// Tells who the caller is.
#[utoipa::path(get, path = "/api/v1/me", tag = "organization", responses(
    (status = 200, body = Me),
    (status = 401, body = Problem),
))]
pub(super) async fn me(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<Me>, Problem> {
    let organization = view(&app, &actor).await?;
    let principal = actor.principal;
    let (authority, subject) = principal
        .map(|principal| (principal.authority().to_owned(), principal.subject().to_owned()))
        .unwrap_or_default();
    Ok(Json(Me {
        authority,
        subject,
        organization,
    }))
}

/// Reads the caller's organization.
#[utoipa::path(get, path = "/api/v1/organization", tag = "organization", responses(
    (status = 200, body = OrganizationView),
    (status = 401, body = Problem),
))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<OrganizationView>, Problem> {
    view(&app, &actor).await.map(Json)
}

async fn view(app: &App, actor: &Actor) -> Result<OrganizationView, Problem> {
    let organization = app.use_cases.organization(actor).await?.value;
    Ok(OrganizationView {
        id: organization.id.to_string(),
        name: organization.name.to_string(),
        created_at: organization.created.into(),
    })
}
