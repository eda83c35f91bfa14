//! All accounts of this Control, for its administrators.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{id::UserId, model::User};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    App,
    account::UserView,
    extract::{Body, Id, IfMatch, etag},
    filter::{Filter, Parameters, Search, holds},
    page::{Page, Part},
    problem::Problem,
    schema,
};
use crate::{
    service::{Actor, UserChange},
    text::Text,
};

/// What an administrator may change of an account. What is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserInput {
    /// Whether the person administers this Control.
    administrator: Option<bool>,
    /// Whether the account is disabled: it cannot sign in, and its sessions are over.
    disabled: Option<bool>,
}

/// Which accounts are wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UserFilter {
    /// Only those of which the name or the address contains this, whatever its case: 1 to 100 characters.
    #[param(inline, value_type = Option<schema::Search>)]
    search: Option<Text<Search>>,
    /// Only administrators of this Control, or only others.
    administrator: Option<bool>,
    /// Only those that are disabled, or only those that are not.
    disabled: Option<bool>,
}

impl Parameters for UserFilter {
    const NAMES: &'static [&'static str] = &["search", "administrator", "disabled"];
}

impl Filter<User> for UserFilter {
    fn admits(&self, user: &User) -> bool {
        holds(self.search.as_ref(), |search| {
            search.0.finds([user.name.as_str(), user.email.as_str()])
        }) && holds(self.administrator.as_ref(), |administrator| {
            *administrator == user.administrator
        }) && holds(self.disabled.as_ref(), |disabled| {
            *disabled == user.disabled.is_some()
        })
    }
}

/// Lists the accounts.
#[utoipa::path(get, path = "/api/v1/users", tag = "users",
    params(UserFilter,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<UserView>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<UserFilter>,
) -> Result<Json<Page<UserView>>, Problem> {
    let listing = app
        .use_cases
        .users(&actor, part.after, part.limit, |item| part.admits(item))
        .await?;
    Ok(Json(Page::of(listing, |stored| stored.value.into())))
}

/// Reads an account.
#[utoipa::path(get, path = "/api/v1/users/{id}", tag = "users", params(("id" = String, Path)),
    responses((status = 200, body = UserView), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<UserId>,
) -> Result<impl IntoResponse, Problem> {
    let user = app.use_cases.user(&actor, id).await?;
    Ok((etag(user.version), Json(UserView::from(user.value))))
}

/// Changes an account. Its sessions end.
#[utoipa::path(patch, path = "/api/v1/users/{id}", tag = "users", params(("id" = String, Path)),
    request_body = UserInput,
    responses((status = 200, body = UserView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<UserId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<UserInput>,
) -> Result<impl IntoResponse, Problem> {
    let change = UserChange {
        administrator: input.administrator,
        disabled: input.disabled,
    };
    let user = app.use_cases.change_user(&actor, id, change, expected).await?;
    Ok((etag(user.version), Json(UserView::from(user.value))))
}

/// Deletes an account, with its memberships and sessions.
#[utoipa::path(delete, path = "/api/v1/users/{id}", tag = "users", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<UserId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_user(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}
