//! Service tokens.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{id::ServiceTokenId, model::ServiceToken, name::Label};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag},
    filter::ByName,
    idempotency::SHOWN_ONCE,
    page::{Page, Part},
    problem::Problem,
    schema,
    text::{TimeText, expiry},
};
use crate::{
    service::{Actor, ServiceTokenChange, ServiceTokenDraft},
    text::Text,
};

/// A service token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceTokenInput {
    /// What it is for, unique in the organization.
    #[schema(value_type = schema::Name, example = "ci")]
    name: Text<Label>,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<TimeText>,
    /// In how many seconds it ends.
    expires_in: Option<u64>,
}

/// What can be changed of a service token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceTokenChangeInput {
    /// Its name; as it was, if left out.
    #[schema(value_type = Option<schema::Name>, example = "ci")]
    name: Option<Text<Label>>,
    /// When it ends; as it was, if neither is given.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<TimeText>,
    /// In how many seconds it ends.
    expires_in: Option<u64>,
}

/// A service token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServiceTokenView {
    /// Its identifier, which targets are told as who asks.
    #[schema(example = "stk_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// What it is for.
    name: String,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<TimeText>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// A service token that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewServiceTokenView {
    /// What a program sends to services: as `Authorization: Bearer`, or in `X-Kakuremichi-Service-Token`. It is shown
    /// this once.
    #[schema(example = "kkm_service_…")]
    token: String,
    /// What it is from now on.
    #[serde(flatten)]
    view: ServiceTokenView,
}

/// Lists the service tokens.
#[utoipa::path(get, path = "/api/v1/service-tokens", tag = "service-tokens",
    params(ByName,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<ServiceTokenView>), (status = 401, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<ByName>,
) -> Result<Json<Page<ServiceTokenView>>, Problem> {
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &ServiceToken| {
            part.admits(item)
        })
        .await?;
    Ok(Json(Page::of(listing, |stored| stored.value.into())))
}

/// Makes a service token. It leads to services whose policies take it.
#[utoipa::path(post, path = "/api/v1/service-tokens", tag = "service-tokens", request_body = ServiceTokenInput,
    responses((status = 201, body = NewServiceTokenView), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<ServiceTokenInput>,
) -> Result<impl IntoResponse, Problem> {
    let draft = ServiceTokenDraft {
        name: input.name.0,
        expires: expiry(input.expires_at, input.expires_in)?,
    };
    let made = app.use_cases.create_service_token(&actor, draft).await?;
    let version = made.token.version;
    let view = NewServiceTokenView {
        token: made.text.expose().clone(),
        view: made.token.value.into(),
    };
    Ok((StatusCode::CREATED, SHOWN_ONCE, etag(version), Json(view)))
}

/// Reads a service token.
#[utoipa::path(get, path = "/api/v1/service-tokens/{id}", tag = "service-tokens", params(("id" = String, Path)),
    responses((status = 200, body = ServiceTokenView), (status = 401, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ServiceTokenId>,
) -> Result<impl IntoResponse, Problem> {
    let stored = app.use_cases.service_token(&actor, id).await?;
    Ok((etag(stored.version), Json(ServiceTokenView::from(stored.value))))
}

/// Changes the name of a service token, or when it ends.
#[utoipa::path(patch, path = "/api/v1/service-tokens/{id}", tag = "service-tokens",
    request_body = ServiceTokenChangeInput,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 200, body = ServiceTokenView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ServiceTokenId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<ServiceTokenChangeInput>,
) -> Result<impl IntoResponse, Problem> {
    let change = ServiceTokenChange {
        name: input.name.map(|name| name.0),
        expires: expiry(input.expires_at, input.expires_in)?,
    };
    let stored = app
        .use_cases
        .update_service_token(&actor, id, change, expected)
        .await?;
    Ok((etag(stored.version), Json(ServiceTokenView::from(stored.value))))
}

/// Deletes a service token: whatever is open by it is closed, and it opens nothing any more.
#[utoipa::path(delete, path = "/api/v1/service-tokens/{id}", tag = "service-tokens",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ServiceTokenId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_service_token(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<ServiceToken> for ServiceTokenView {
    fn from(token: ServiceToken) -> Self {
        Self {
            id: token.id.to_string(),
            name: token.name.to_string(),
            expires_at: token.expires.map(Into::into),
            created_at: token.created.into(),
        }
    }
}
