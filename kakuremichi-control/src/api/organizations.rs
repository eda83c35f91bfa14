//! Tenants, for the administrators of this Control; everybody else sees their own.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{id::OrganizationId, name::Label};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag},
    filter::ByName,
    organization::OrganizationView,
    page::{Page, Part},
    problem::Problem,
    schema,
};
use crate::{service::Actor, text::Text};

/// An organization to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrganizationInput {
    /// Its name, unique in this Control.
    #[schema(value_type = schema::Name, example = "acme")]
    name: Text<Label>,
}

/// Lists the organizations that the caller is in; all of them for an administrator.
#[utoipa::path(get, path = "/api/v1/organizations", tag = "organizations",
    params(ByName,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<OrganizationView>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<ByName>,
) -> Result<Json<Page<OrganizationView>>, Problem> {
    let listing = app
        .use_cases
        .organizations(&actor, part.after, part.limit, |item| part.admits(item))
        .await?;
    Ok(Json(Page::of(listing, |stored| stored.value.into())))
}

/// Makes an organization.
#[utoipa::path(post, path = "/api/v1/organizations", tag = "organizations", request_body = OrganizationInput,
    responses((status = 201, body = OrganizationView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<OrganizationInput>,
) -> Result<impl IntoResponse, Problem> {
    let organization = app.use_cases.create_organization(&actor, input.name.0).await?;
    Ok((
        StatusCode::CREATED,
        etag(organization.version),
        Json(OrganizationView::from(organization.value)),
    ))
}

/// Reads an organization.
#[utoipa::path(get, path = "/api/v1/organizations/{id}", tag = "organizations", params(("id" = String, Path)),
    responses((status = 200, body = OrganizationView), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<OrganizationId>,
) -> Result<impl IntoResponse, Problem> {
    let organization = app.use_cases.any_organization(&actor, id).await?;
    Ok((
        etag(organization.version),
        Json(OrganizationView::from(organization.value)),
    ))
}

/// Renames an organization.
#[utoipa::path(put, path = "/api/v1/organizations/{id}", tag = "organizations", params(("id" = String, Path)),
    request_body = OrganizationInput,
    responses((status = 200, body = OrganizationView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<OrganizationId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<OrganizationInput>,
) -> Result<impl IntoResponse, Problem> {
    let organization = app
        .use_cases
        .rename_organization(&actor, id, input.name.0, expected)
        .await?;
    Ok((
        etag(organization.version),
        Json(OrganizationView::from(organization.value)),
    ))
}

/// Deletes an organization without nodes, sites and services, with all else that it has.
#[utoipa::path(delete, path = "/api/v1/organizations/{id}", tag = "organizations", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<OrganizationId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_organization(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}
