//! Groups of people, for policies.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{id::GroupId, model::Group, name::Label};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag},
    filter::ByName,
    page::{Page, Part},
    problem::Problem,
    schema,
    text::TimeText,
};
use crate::{service::Actor, text::Text};

/// A group to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupInput {
    /// Its name, unique in the organization.
    #[schema(value_type = schema::Name, example = "engineers")]
    name: Text<Label>,
}

/// A group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupView {
    /// Its identifier.
    #[schema(example = "grp_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// Its name.
    name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// Lists the groups.
#[utoipa::path(get, path = "/api/v1/groups", tag = "groups",
    params(ByName,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<GroupView>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<ByName>,
) -> Result<Json<Page<GroupView>>, Problem> {
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &Group| part.admits(item))
        .await?;
    Ok(Json(Page::of(listing, |stored| stored.value.into())))
}

/// Makes a group.
#[utoipa::path(post, path = "/api/v1/groups", tag = "groups", request_body = GroupInput,
    responses((status = 201, body = GroupView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<GroupInput>,
) -> Result<impl IntoResponse, Problem> {
    let group = app.use_cases.create_group(&actor, input.name.0).await?;
    Ok((
        StatusCode::CREATED,
        etag(group.version),
        Json(GroupView::from(group.value)),
    ))
}

/// Reads a group.
#[utoipa::path(get, path = "/api/v1/groups/{id}", tag = "groups", params(("id" = String, Path)),
    responses((status = 200, body = GroupView), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<GroupId>,
) -> Result<impl IntoResponse, Problem> {
    let group = app.use_cases.group(&actor, id).await?;
    Ok((etag(group.version), Json(GroupView::from(group.value))))
}

/// Renames a group.
#[utoipa::path(put, path = "/api/v1/groups/{id}", tag = "groups", params(("id" = String, Path)),
    request_body = GroupInput,
    responses((status = 200, body = GroupView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<GroupId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<GroupInput>,
) -> Result<impl IntoResponse, Problem> {
    let group = app
        .use_cases
        .rename_group(&actor, id, input.name.0, expected)
        .await?;
    Ok((etag(group.version), Json(GroupView::from(group.value))))
}

/// Deletes a group without members.
#[utoipa::path(delete, path = "/api/v1/groups/{id}", tag = "groups", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<GroupId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_group(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<Group> for GroupView {
    fn from(group: Group) -> Self {
        Self {
            id: group.id.to_string(),
            name: group.name.to_string(),
            created_at: group.created.into(),
        }
    }
}
