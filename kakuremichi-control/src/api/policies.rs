//! Policies that services and routes share.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{id::PolicyId, name::Label, policy::SharedPolicy, store::Stored};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag},
    filter::ByName,
    page::{Page, Part},
    problem::Problem,
    schema,
    services::{AccessView, RuleView, rules},
    text::TimeText,
};
use crate::{
    service::{Actor, SharedPolicyDraft},
    text::Text,
};

/// A shared policy, as somebody asks for it. It does nothing until it is attached to a service or a route.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SharedPolicyInput {
    /// Its name.
    #[schema(value_type = schema::Name, example = "office-hours")]
    name: Text<Label>,
    /// The rules; the first whose condition holds decides.
    #[serde(default)]
    rules: Vec<RuleView>,
    /// What is asked of visitors for whom no rule decided; that is left to the service if it is left out.
    #[serde(default)]
    access: Option<AccessView>,
}

/// A shared policy.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SharedPolicyView {
    /// Its identifier.
    #[schema(example = "pol_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// Its name.
    name: String,
    /// The rules.
    rules: Vec<RuleView>,
    /// What is asked of visitors for whom no rule decided. Passwords are not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<AccessView>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// Lists the shared policies.
#[utoipa::path(get, path = "/api/v1/policies", tag = "policies",
    params(ByName,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<SharedPolicyView>), (status = 401, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<ByName>,
) -> Result<Json<Page<SharedPolicyView>>, Problem> {
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &SharedPolicy| {
            part.admits(item)
        })
        .await?;
    Ok(Json(Page::of(listing, |stored| view(&stored.value))))
}

/// Makes a shared policy.
#[utoipa::path(post, path = "/api/v1/policies", tag = "policies", request_body = SharedPolicyInput,
    responses((status = 201, body = SharedPolicyView), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<SharedPolicyInput>,
) -> Result<impl IntoResponse, Problem> {
    let stored = app.use_cases.create_policy(&actor, input.try_into()?).await?;
    Ok((StatusCode::CREATED, answer(&stored)))
}

/// Reads a shared policy.
#[utoipa::path(get, path = "/api/v1/policies/{id}", tag = "policies", params(("id" = String, Path)),
    responses((status = 200, body = SharedPolicyView), (status = 401, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<PolicyId>,
) -> Result<impl IntoResponse, Problem> {
    Ok(answer(&app.use_cases.policy(&actor, id).await?))
}

/// Describes a shared policy anew, for everything that it is attached to. A user without a password keeps the
/// one that is stored.
#[utoipa::path(put, path = "/api/v1/policies/{id}", tag = "policies", request_body = SharedPolicyInput,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 200, body = SharedPolicyView), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<PolicyId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<SharedPolicyInput>,
) -> Result<impl IntoResponse, Problem> {
    let stored = app
        .use_cases
        .update_policy(&actor, id, input.try_into()?, expected)
        .await?;
    Ok(answer(&stored))
}

/// Deletes a shared policy that is attached to nothing.
#[utoipa::path(delete, path = "/api/v1/policies/{id}", tag = "policies",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem),
              (status = 409, description = "Services use it", body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<PolicyId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_policy(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn answer(stored: &Stored<SharedPolicy>) -> impl IntoResponse + use<> {
    (etag(stored.version), Json(view(&stored.value)))
}

fn view(policy: &SharedPolicy) -> SharedPolicyView {
    SharedPolicyView {
        id: policy.id.to_string(),
        name: policy.name.to_string(),
        rules: policy.rules.iter().map(Into::into).collect(),
        access: policy.access.as_ref().map(Into::into),
        created_at: policy.created.into(),
    }
}

impl TryFrom<SharedPolicyInput> for SharedPolicyDraft {
    type Error = Problem;

    fn try_from(input: SharedPolicyInput) -> Result<Self, Problem> {
        Ok(Self {
            name: input.name.0,
            rules: rules(input.rules, "rules")?,
            access: input.access.map(|access| access.draft("access")).transpose()?,
        })
    }
}
