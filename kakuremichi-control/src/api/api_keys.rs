//! API keys.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    id::{ApiKeyId, UserId},
    model::ApiKey,
    name::Label,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag},
    filter::{Filter, Parameters, Search, holds},
    idempotency::SHOWN_ONCE,
    page::{Page, Part},
    problem::Problem,
    schema,
    text::{PermissionsText, TimeText, expiry},
};
use crate::{
    service::{Actor, ApiKeyDraft},
    text::Text,
};

/// An API key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeyInput {
    /// What it is for.
    #[schema(value_type = schema::Name, example = "ci")]
    name: Text<Label>,
    /// What it may do in the organization; whatever its maker may do, if this is absent.
    #[schema(value_type = Option<schema::Permissions>, example = json!(["services.read"]))]
    permissions: Option<PermissionsText>,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<TimeText>,
    /// In how many seconds it ends.
    expires_in: Option<u64>,
}

/// An API key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiKeyView {
    /// Its identifier.
    #[schema(example = "key_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// What it is for.
    name: String,
    /// What it may do.
    #[schema(value_type = schema::Permissions)]
    permissions: PermissionsText,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<TimeText>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// An API key that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewApiKeyView {
    /// What to send as a bearer token. It is shown this once.
    #[schema(example = "kkm_api_…")]
    key: String,
    /// What it is from now on.
    #[serde(flatten)]
    view: ApiKeyView,
}

/// Which API keys are wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApiKeyFilter {
    /// Only those whose name contains this, whatever its case: 1 to 100 characters.
    #[param(inline, value_type = Option<schema::Search>)]
    search: Option<Text<Search>>,
    /// Only those that this account made.
    #[param(inline, value_type = Option<schema::UserId>)]
    user: Option<Text<UserId>>,
}

impl Parameters for ApiKeyFilter {
    const NAMES: &'static [&'static str] = &["search", "user"];
}

impl Filter<ApiKey> for ApiKeyFilter {
    fn admits(&self, key: &ApiKey) -> bool {
        holds(self.search.as_ref(), |search| search.0.finds([key.name.as_str()]))
            && holds(self.user.as_ref(), |user| key.maker == Some(user.0))
    }
}

/// Lists the API keys.
#[utoipa::path(get, path = "/api/v1/api-keys", tag = "api-keys",
    params(ApiKeyFilter,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<ApiKeyView>), (status = 401, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<ApiKeyFilter>,
) -> Result<Json<Page<ApiKeyView>>, Problem> {
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &ApiKey| part.admits(item))
        .await?;
    Ok(Json(Page::of(listing, |stored| stored.value.into())))
}

/// Makes an API key. It can do nothing that its maker may not.
#[utoipa::path(post, path = "/api/v1/api-keys", tag = "api-keys", request_body = ApiKeyInput,
    responses((status = 201, body = NewApiKeyView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<ApiKeyInput>,
) -> Result<impl IntoResponse, Problem> {
    let draft = ApiKeyDraft {
        name: input.name.0,
        permissions: input
            .permissions
            .map_or(actor.permissions, |permissions| permissions.0),
        expires: expiry(input.expires_at, input.expires_in)?,
    };
    let made = app.use_cases.create_api_key(&actor, draft).await?;
    let version = made.key.version;
    let view = NewApiKeyView {
        key: made.text.expose().clone(),
        view: made.key.value.into(),
    };
    Ok((StatusCode::CREATED, SHOWN_ONCE, etag(version), Json(view)))
}

/// Reads an API key.
#[utoipa::path(get, path = "/api/v1/api-keys/{id}", tag = "api-keys", params(("id" = String, Path)),
    responses((status = 200, body = ApiKeyView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ApiKeyId>,
) -> Result<impl IntoResponse, Problem> {
    let stored = app.use_cases.api_key(&actor, id).await?;
    Ok((etag(stored.version), Json(ApiKeyView::from(stored.value))))
}

/// Deletes an API key: it opens nothing any more.
#[utoipa::path(delete, path = "/api/v1/api-keys/{id}", tag = "api-keys",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ApiKeyId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_api_key(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<ApiKey> for ApiKeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name.to_string(),
            permissions: PermissionsText(key.permissions),
            expires_at: key.expires.map(Into::into),
            created_at: key.created.into(),
        }
    }
}
