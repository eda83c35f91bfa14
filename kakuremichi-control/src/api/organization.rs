//! Who the caller is.

use axum::{Extension, Json, extract::State};
use kakuremichi_core::model::Organization;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    App,
    problem::Problem,
    text::{PermissionsText, TimeText},
};
use crate::service::Actor;

/// Who the caller is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Me {
    /// Who vouches for the caller: `user`, `api-key`, or the authenticator.
    authority: String,
    /// The caller's name there; the identifier of the user or of the API key.
    subject: String,
    /// The organization in which the caller acts.
    organization: OrganizationView,
    /// What the caller may do there.
    #[schema(value_type = Vec<String>)]
    permissions: PermissionsText,
    /// Whether the caller administers this Control.
    administrator: bool,
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
    let administrator = actor.administers();
    let principal = actor.principal;
    let (authority, subject) = principal
        .map(|principal| (principal.authority().to_owned(), principal.subject().to_owned()))
        .unwrap_or_default();
    Ok(Json(Me {
        authority,
        subject,
        organization,
        permissions: PermissionsText(actor.permissions),
        administrator,
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
    Ok(app.use_cases.organization(actor).await?.value.into())
}

impl From<Organization> for OrganizationView {
    fn from(organization: Organization) -> Self {
        Self {
            id: organization.id.to_string(),
            name: organization.name.to_string(),
            created_at: organization.created.into(),
        }
    }
}
