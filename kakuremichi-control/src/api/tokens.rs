//! Enrolment tokens.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    id::TokenId,
    model::{DeclareScope, EnrolmentToken, Role},
    name::Label,
    net::PortRange,
    store::Stored,
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
    text::{HostPatternText, TimeText, expiry},
};
use crate::{
    service::{Actor, TokenDraft},
    text::{LabelsText, Text, texts, untexts},
};

/// What a node is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
// People have roles too, and a document has one schema of a name.
#[schema(as = NodeRoleView)]
pub(crate) enum RoleView {
    /// An agent.
    Agent,
    /// A gateway.
    Gateway,
}

/// Whether somebody has to approve nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Approval {
    /// They are let in at once.
    #[default]
    None,
    /// Each waits until somebody with `nodes.approve` approves or refuses it, at most for seven days.
    Required,
}

/// What an agent may declare by itself.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ScopeView {
    /// Hosts that its HTTP services may have.
    #[schema(value_type = Vec<String>, example = json!(["*.example.net"]))]
    hosts: Vec<HostPatternText>,
    /// Ports, or ranges of ports, that its TCP and UDP services may have.
    #[schema(value_type = Vec<String>, example = json!(["5432", "8000-8999"]))]
    ports: Vec<Text<PortRange>>,
}

/// An enrolment token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenInput {
    /// What it is for.
    #[schema(value_type = schema::Name, example = "home")]
    name: Text<Label>,
    /// What the nodes are to be.
    role: RoleView,
    /// How many nodes may enrol with it; 1 if left out.
    uses: Option<u32>,
    /// Any number of nodes may enrol with it.
    #[serde(default)]
    unlimited: bool,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<TimeText>,
    /// In how many seconds it ends.
    expires_in: Option<u64>,
    /// What agents that enrol with it may declare; nothing if left out.
    #[serde(default)]
    declare: ScopeView,
    /// Whether somebody has to approve each node that enrols with it.
    #[serde(default)]
    approval: Approval,
    /// The labels that nodes begin with, by the rules of Kubernetes; at most 32.
    #[serde(default)]
    #[schema(value_type = schema::Labels, example = json!({"env": "prod"}))]
    labels: LabelsText,
}

/// An enrolment token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenView {
    /// Its identifier.
    #[schema(example = "tok_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// What it is for.
    name: String,
    /// What the nodes are to be.
    role: RoleView,
    /// How many nodes may still enrol; absent when any number may.
    #[serde(skip_serializing_if = "Option::is_none")]
    uses_left: Option<u32>,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<TimeText>,
    /// When it was revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<TimeText>,
    /// What agents that enrol with it may declare.
    declare: ScopeView,
    /// Whether somebody has to approve each node that enrols with it.
    approval: Approval,
    /// The labels that nodes begin with.
    #[schema(value_type = schema::Labels)]
    labels: LabelsText,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// An enrolment token that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewTokenView {
    /// What nodes enrol with. It is shown this once.
    #[schema(example = "kkm_enroll_…")]
    token: String,
    /// What it is from now on.
    #[serde(flatten)]
    view: TokenView,
}

/// Which tokens are wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TokenFilter {
    /// Only those whose name contains this, whatever its case: 1 to 100 characters.
    #[param(inline, value_type = Option<schema::Search>)]
    search: Option<Text<Search>>,
    /// Only those for agents, or only those for gateways.
    role: Option<RoleView>,
    /// Only those that are revoked, or only those that are not.
    revoked: Option<bool>,
}

impl Parameters for TokenFilter {
    const NAMES: &'static [&'static str] = &["search", "role", "revoked"];
}

impl Filter<EnrolmentToken> for TokenFilter {
    fn admits(&self, token: &EnrolmentToken) -> bool {
        holds(self.search.as_ref(), |search| {
            search.0.finds([token.name.as_str()])
        }) && holds(self.role.as_ref(), |role| Role::from(*role) == token.role)
            && holds(self.revoked.as_ref(), |revoked| {
                *revoked == token.revoked.is_some()
            })
    }
}

/// Lists the enrolment tokens.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens",
    params(TokenFilter,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<TokenView>), (status = 401, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<TokenFilter>,
) -> Result<Json<Page<TokenView>>, Problem> {
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &EnrolmentToken| {
            part.admits(item)
        })
        .await?;
    Ok(Json(Page::of(listing, |stored| stored.value.into())))
}

/// Makes an enrolment token.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = TokenInput,
    responses((status = 201, body = NewTokenView), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<TokenInput>,
) -> Result<impl IntoResponse, Problem> {
    let uses = match (input.uses, input.unlimited) {
        (Some(_), true) => {
            let error = crate::service::FieldError::new("uses", "give either `uses` or `unlimited`");
            return Err(Problem::fields(vec![error]));
        }
        (None, true) => None,
        (uses, false) => Some(uses.unwrap_or(1)),
    };
    let draft = TokenDraft {
        name: input.name.0,
        role: input.role.into(),
        uses,
        expires: expiry(input.expires_at, input.expires_in)?,
        declare: input.declare.into(),
        approval: input.approval == Approval::Required,
        labels: input.labels.0,
    };
    let made = app.use_cases.create_token(&actor, draft).await?;
    let version = made.token.version;
    let view = NewTokenView {
        token: made.text.expose().clone(),
        view: made.token.value.into(),
    };
    Ok((StatusCode::CREATED, SHOWN_ONCE, etag(version), Json(view)))
}

/// Reads an enrolment token.
#[utoipa::path(get, path = "/api/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 200, body = TokenView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<TokenId>,
) -> Result<impl IntoResponse, Problem> {
    Ok(answer(app.use_cases.token(&actor, id).await?))
}

/// Revokes an enrolment token: nobody enrols with it any more. Nodes that did stay.
#[utoipa::path(post, path = "/api/v1/tokens/{id}/revoke", tag = "tokens", params(("id" = String, Path)),
    responses((status = 200, body = TokenView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn revoke(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<TokenId>,
) -> Result<impl IntoResponse, Problem> {
    Ok(answer(app.use_cases.revoke_token(&actor, id).await?))
}

/// Deletes an enrolment token: nobody enrols with it any more. Nodes that did stay.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<TokenId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_token(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn answer(stored: Stored<EnrolmentToken>) -> impl IntoResponse {
    (etag(stored.version), Json(TokenView::from(stored.value)))
}

impl From<EnrolmentToken> for TokenView {
    fn from(token: EnrolmentToken) -> Self {
        Self {
            id: token.id.to_string(),
            name: token.name.to_string(),
            role: token.role.into(),
            uses_left: token.uses_left,
            expires_at: token.expires.map(Into::into),
            revoked_at: token.revoked.map(Into::into),
            declare: (&token.declare).into(),
            approval: if token.approval {
                Approval::Required
            } else {
                Approval::None
            },
            labels: LabelsText(token.labels),
            created_at: token.created.into(),
        }
    }
}

impl From<Role> for RoleView {
    fn from(role: Role) -> Self {
        match role {
            Role::Agent => Self::Agent,
            Role::Gateway => Self::Gateway,
        }
    }
}

impl From<RoleView> for Role {
    fn from(role: RoleView) -> Self {
        match role {
            RoleView::Agent => Self::Agent,
            RoleView::Gateway => Self::Gateway,
        }
    }
}

impl From<&DeclareScope> for ScopeView {
    fn from(scope: &DeclareScope) -> Self {
        Self {
            hosts: scope.hosts.iter().cloned().map(HostPatternText).collect(),
            ports: texts(&scope.ports),
        }
    }
}

impl From<ScopeView> for DeclareScope {
    fn from(view: ScopeView) -> Self {
        Self {
            hosts: view.hosts.into_iter().map(|host| host.0).collect(),
            ports: untexts(view.ports),
        }
    }
}
