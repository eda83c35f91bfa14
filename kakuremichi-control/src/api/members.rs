//! Who is in the organization.

use std::collections::BTreeSet;

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    id::{GroupId, MemberId, RoleId, UserId},
    model::Member,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag_of},
    filter::{Filter, Parameters, holds},
    page::{Page, Part},
    problem::Problem,
    schema,
    text::TimeText,
};
use crate::{
    service::{Actor, Place},
    text::Text,
};

/// What a member is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlaceInput {
    /// The identifiers of the roles.
    #[schema(value_type = Vec<schema::RoleId>)]
    roles: Vec<Text<RoleId>>,
    /// The identifiers of the groups.
    #[schema(value_type = Vec<schema::GroupId>)]
    #[serde(default)]
    groups: Vec<Text<GroupId>>,
}

/// A member.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemberView {
    /// Its identifier.
    #[schema(example = "mem_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// The identifier of the account.
    user: String,
    /// The address of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    /// What the person is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The identifiers of the roles.
    roles: Vec<String>,
    /// The identifiers of the groups.
    groups: Vec<String>,
    /// When the person joined.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// Which members are wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MemberFilter {
    /// Only the one of this account.
    #[param(inline, value_type = Option<schema::UserId>)]
    user: Option<Text<UserId>>,
    /// Only those with this role.
    #[param(inline, value_type = Option<schema::RoleId>)]
    role: Option<Text<RoleId>>,
    /// Only those in this group.
    #[param(inline, value_type = Option<schema::GroupId>)]
    group: Option<Text<GroupId>>,
}

impl Parameters for MemberFilter {
    const NAMES: &'static [&'static str] = &["user", "role", "group"];
}

impl Filter<Member> for MemberFilter {
    fn admits(&self, member: &Member) -> bool {
        holds(self.user.as_ref(), |user| member.user == user.0)
            && holds(self.role.as_ref(), |role| member.roles.contains(&role.0))
            && holds(self.group.as_ref(), |group| member.groups.contains(&group.0))
    }
}

/// Lists the members.
#[utoipa::path(get, path = "/api/v1/members", tag = "members",
    params(MemberFilter,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<MemberView>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<MemberFilter>,
) -> Result<Json<Page<MemberView>>, Problem> {
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &Member| part.admits(item))
        .await?;
    let next = listing.next;
    let mut items = Vec::with_capacity(listing.items.len());
    for member in listing.items {
        items.push(MemberView::of(&app, member.value).await?);
    }
    Ok(Json(Page::made(items, next)))
}

/// Reads a member.
#[utoipa::path(get, path = "/api/v1/members/{id}", tag = "members", params(("id" = String, Path)),
    responses((status = 200, body = MemberView), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<MemberId>,
) -> Result<impl IntoResponse, Problem> {
    let member = app.use_cases.member(&actor, id).await?;
    let view = MemberView::of(&app, member.value).await?;
    Ok((etag_of(member.version, &view), Json(view)))
}

/// Changes what a member is.
#[utoipa::path(put, path = "/api/v1/members/{id}", tag = "members", params(("id" = String, Path)),
    request_body = PlaceInput,
    responses((status = 200, body = MemberView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 404, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<MemberId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<PlaceInput>,
) -> Result<impl IntoResponse, Problem> {
    let place = place(input.roles, input.groups);
    let member = app.use_cases.change_member(&actor, id, place, expected).await?;
    let view = MemberView::of(&app, member.value).await?;
    Ok((etag_of(member.version, &view), Json(view)))
}

/// Removes a member from the organization; the account stays.
#[utoipa::path(delete, path = "/api/v1/members/{id}", tag = "members", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<MemberId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.remove_member(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a member, or whoever is invited, is to be.
pub(super) fn place(roles: Vec<Text<RoleId>>, groups: Vec<Text<GroupId>>) -> Place {
    Place {
        roles: roles.into_iter().map(|role| role.0).collect(),
        groups: groups.into_iter().map(|group| group.0).collect(),
    }
}

pub(super) fn listed<T: ToString>(ids: &BTreeSet<T>) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

impl MemberView {
    pub(super) async fn of(app: &App, member: Member) -> Result<Self, Problem> {
        let user = app.use_cases.user_of(&member).await?;
        let (email, name) = user
            .map(|user| (user.email.to_string(), user.name.to_string()))
            .unzip();
        Ok(Self {
            id: member.id.to_string(),
            user: member.user.to_string(),
            email,
            name,
            roles: listed(&member.roles),
            groups: listed(&member.groups),
            created_at: member.created.into(),
        })
    }
}
