//! Roles of people.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    id::RoleId,
    model::{Permission, UserRole},
    name::Label,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag},
    filter::ByName,
    page::{Page, Part},
    problem::Problem,
    schema,
    text::{PermissionsText, TimeText},
};
use crate::{
    service::{Actor, RoleDraft},
    text::Text,
};

/// A role to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoleInput {
    /// Its name, unique in the organization.
    #[schema(value_type = schema::Name, example = "publisher")]
    name: Text<Label>,
    /// What whoever has it may do. `*` is everything, whatever will be added.
    #[schema(value_type = schema::Permissions, example = json!(["services.read", "services.write"]))]
    permissions: PermissionsText,
}

/// A role.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RoleView {
    /// Its identifier.
    #[schema(example = "rol_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// Its name.
    name: String,
    /// What whoever has it may do.
    #[schema(value_type = schema::Permissions)]
    permissions: PermissionsText,
    /// Whether it came with the organization, and stays as it is.
    built_in: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// Lists the roles.
#[utoipa::path(get, path = "/api/v1/roles", tag = "roles",
    params(ByName,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<RoleView>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<ByName>,
) -> Result<Json<Page<RoleView>>, Problem> {
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &UserRole| {
            part.admits(item)
        })
        .await?;
    Ok(Json(Page::of(listing, |stored| stored.value.into())))
}

/// Lists the permissions that there are.
#[utoipa::path(get, path = "/api/v1/permissions", tag = "roles",
    responses((status = 200, body = Page<String>), (status = 401, body = Problem)))]
pub(super) async fn permissions() -> Json<Page<String>> {
    let names = Permission::ALL.iter().map(ToString::to_string);
    Json(Page::made(names.collect(), None))
}

/// Makes a role.
#[utoipa::path(post, path = "/api/v1/roles", tag = "roles", request_body = RoleInput,
    responses((status = 201, body = RoleView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<RoleInput>,
) -> Result<impl IntoResponse, Problem> {
    let role = app.use_cases.create_role(&actor, input.into()).await?;
    Ok((
        StatusCode::CREATED,
        etag(role.version),
        Json(RoleView::from(role.value)),
    ))
}

/// Reads a role.
#[utoipa::path(get, path = "/api/v1/roles/{id}", tag = "roles", params(("id" = String, Path)),
    responses((status = 200, body = RoleView), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<RoleId>,
) -> Result<impl IntoResponse, Problem> {
    let role = app.use_cases.role(&actor, id).await?;
    Ok((etag(role.version), Json(RoleView::from(role.value))))
}

/// Changes a role, and with it what everybody may do who has it.
#[utoipa::path(put, path = "/api/v1/roles/{id}", tag = "roles", params(("id" = String, Path)),
    request_body = RoleInput,
    responses((status = 200, body = RoleView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<RoleId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<RoleInput>,
) -> Result<impl IntoResponse, Problem> {
    let role = app
        .use_cases
        .change_role(&actor, id, input.into(), expected)
        .await?;
    Ok((etag(role.version), Json(RoleView::from(role.value))))
}

/// Deletes a role that nobody has.
#[utoipa::path(delete, path = "/api/v1/roles/{id}", tag = "roles", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<RoleId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_role(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<RoleInput> for RoleDraft {
    fn from(input: RoleInput) -> Self {
        Self {
            name: input.name.0,
            permissions: input.permissions.0,
        }
    }
}

impl From<UserRole> for RoleView {
    fn from(role: UserRole) -> Self {
        Self {
            id: role.id.to_string(),
            name: role.name.to_string(),
            permissions: PermissionsText(role.permissions),
            built_in: role.built_in,
            created_at: role.created.into(),
        }
    }
}
