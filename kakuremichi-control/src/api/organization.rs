//! Who the caller is.

use std::time::Duration;

use axum::{Extension, Json, extract::State, response::IntoResponse};
use kakuremichi_core::model::{AccountPolicy, Organization};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, IfMatch, etag},
    problem::Problem,
    schema,
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
    #[schema(value_type = schema::Permissions)]
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

/// What an organization asks of the accounts of its members, whenever they act in it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountPolicyView {
    /// Whether two factors are asked for.
    multi_factor: bool,
    /// For how many minutes a session counts after it began: 5 at least; as long as it lasts if it is left out.
    #[schema(minimum = 5)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_minutes: Option<u32>,
    /// Whether a password counts, alone or with a second factor.
    passwords: bool,
}

/// Reads what the caller's organization asks of accounts.
#[utoipa::path(get, path = "/api/v1/organization/accounts", tag = "organization", responses(
    (status = 200, body = AccountPolicyView),
    (status = 401, body = Problem),
))]
pub(super) async fn accounts(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
) -> Result<impl IntoResponse, Problem> {
    let organization = app.use_cases.organization(&actor).await?;
    let view = AccountPolicyView::from(organization.value.accounts);
    Ok((etag(organization.version), Json(view)))
}

/// Says what the caller's organization asks of accounts. It counts from the next request of each member on. Whoever
/// signed in says only what their own session has.
#[utoipa::path(put, path = "/api/v1/organization/accounts", tag = "organization", request_body = AccountPolicyView,
    params(("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 200, body = AccountPolicyView), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 403, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn set_accounts(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    IfMatch(expected): IfMatch,
    Body(input): Body<AccountPolicyView>,
) -> Result<impl IntoResponse, Problem> {
    let stored = app
        .use_cases
        .set_account_policy(&actor, input.into(), expected)
        .await?;
    let view = AccountPolicyView::from(stored.value.accounts);
    Ok((etag(stored.version), Json(view)))
}

impl From<AccountPolicy> for AccountPolicyView {
    fn from(policy: AccountPolicy) -> Self {
        let minutes = policy.session_life.map(|life| life.as_secs() / 60);
        Self {
            multi_factor: policy.multi_factor,
            session_minutes: minutes.map(|minutes| u32::try_from(minutes).unwrap_or(u32::MAX)),
            passwords: policy.passwords,
        }
    }
}

impl From<AccountPolicyView> for AccountPolicy {
    fn from(view: AccountPolicyView) -> Self {
        let life = view
            .session_minutes
            .map(|minutes| Duration::from_secs(u64::from(minutes) * 60));
        Self {
            multi_factor: view.multi_factor,
            session_life: life,
            passwords: view.passwords,
        }
    }
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
