//! Nodes.

mod status;

pub(crate) use status::NodeStatusView;

use std::time::Duration;

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    id::NodeId,
    model::{LabelSelector, Node, NodeKind, NodeState},
    name::Label,
    net::Overlay,
    store::Stored,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag_of},
    filter::{Filter, Parameters, Search, holds},
    page::{Page, Part},
    problem::Problem,
    schema,
    text::TimeText,
    tokens::{RoleView, ScopeView},
};
use crate::{
    hub::Seen,
    service::{Actor, NodeChange, UseCaseError},
    text::{LabelsText, Text},
};

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeView {
    /// Its identifier.
    #[schema(example = "agt_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// What it is.
    role: RoleView,
    /// Its name.
    #[schema(example = "home")]
    name: String,
    /// How it is with it.
    state: NodeStateView,
    /// Until when it waits for approval; then it is forgotten.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_until: Option<TimeText>,
    /// What people find it by.
    #[schema(value_type = schema::Labels, example = json!({"env": "prod"}))]
    labels: LabelsText,
    /// Its identity: an Ed25519 public key, base 64.
    identity_key: String,
    /// Its WireGuard public key, base 64.
    wireguard_key: String,
    /// When it got the keys that it has; absent where these are the ones that it enrolled with.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    keys_rotated_at: Option<TimeText>,
    /// Until when the keys that it had before count beside them; absent where they do not.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_keys_until: Option<TimeText>,
    /// Since when it is asked for new keys; absent once it has them.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    keys_asked_at: Option<TimeText>,
    /// Its address in the overlay.
    #[schema(value_type = String, example = "fd12:3456:789a::1")]
    address: Text<std::net::Ipv6Addr>,
    /// What only a gateway has.
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<GatewayView>,
    /// What only an agent has.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentView>,
    /// Whether it is connected to Control. It serves without that, too.
    connected: bool,
    /// Since when it is connected.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    connected_at: Option<TimeText>,
    /// When its last connection ended, as far as is known.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnected_at: Option<TimeText>,
    /// When it was revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<TimeText>,
    /// The enrolment token that it enrolled with.
    token: String,
    /// When it enrolled.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// How it is with a node.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = NodeState)]
pub(crate) enum NodeStateView {
    /// It waits for approval: it is in nobody's plan, and has none.
    Pending,
    /// It takes part.
    Active,
    /// It was refused or revoked.
    Revoked,
}

/// What only a gateway has.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GatewayView {
    /// Where agents and sites reach its WireGuard socket, best first.
    #[schema(example = json!(["gw.example.net:51820"]))]
    endpoints: Vec<String>,
    /// The port at which visitors reach its HTTPS listener.
    https_port: u16,
    /// Its IPv4 address toward stock WireGuard devices.
    #[schema(value_type = String, example = "100.64.0.1")]
    address_v4: Text<std::net::Ipv4Addr>,
}

/// What only an agent has.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentView {
    /// What it may declare by itself.
    declare: ScopeView,
}

/// What can be changed of a node.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeInput {
    /// Its name; as it was, if left out.
    #[schema(value_type = Option<schema::Name>, example = "home")]
    name: Option<Text<Label>>,
    /// All its labels, by the rules of Kubernetes, at most 32; as they were, if left out.
    #[schema(value_type = Option<schema::Labels>, example = json!({"env": "prod"}))]
    labels: Option<LabelsText>,
}

/// How a node gets new keys.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotationInput {
    /// For how many seconds the keys of before count beside the new ones: a day, if left out. With 0 they do not count
    /// at all, which is for keys that somebody else has, and cuts what is open by them.
    #[schema(maximum = 2_592_000, example = 86400)]
    overlap: Option<u32>,
}

/// Which nodes are wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct NodeFilter {
    /// Only those whose name contains this, whatever its case: 1 to 100 characters.
    #[param(inline, value_type = Option<schema::Search>)]
    search: Option<Text<Search>>,
    /// Only agents, or only gateways.
    role: Option<RoleView>,
    /// Only those with which it is so.
    state: Option<NodeStateView>,
    /// Only those with such labels, as Kubernetes selects them: `key=value`, `key!=value`, `key` and `!key`, with
    /// commas between.
    #[param(value_type = Option<String>, example = "env=prod")]
    label: Option<Text<LabelSelector>>,
}

impl Parameters for NodeFilter {
    const NAMES: &'static [&'static str] = &["search", "role", "state", "label"];
}

impl Filter<Node> for NodeFilter {
    fn admits(&self, node: &Node) -> bool {
        holds(self.search.as_ref(), |search| {
            search.0.finds([node.name.as_str()])
        }) && holds(self.role.as_ref(), |role| match role {
            RoleView::Agent => matches!(node.kind, NodeKind::Agent { .. }),
            RoleView::Gateway => matches!(node.kind, NodeKind::Gateway { .. }),
        }) && holds(self.state.as_ref(), |state| node.state() == (*state).into())
            && holds(self.label.as_ref(), |label| label.0.selects(&node.labels))
    }
}

/// Lists the nodes: agents, then gateways.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "nodes",
    params(NodeFilter,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<NodeView>), (status = 401, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<NodeFilter>,
) -> Result<Json<Page<NodeView>>, Problem> {
    let overlay = app.use_cases.start().await?.overlay;
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &Node| part.admits(item))
        .await?;
    let nodes: Vec<_> = listing.items.iter().map(|stored| stored.value.id).collect();
    let seen = app.hub.seen(&nodes).await.map_err(UseCaseError::from)?;
    Ok(Json(Page::of(listing, |stored| {
        let seen = seen.get(&stored.value.id).copied().unwrap_or_default();
        view(overlay, stored.value, seen)
    })))
}

/// Reads a node.
#[utoipa::path(get, path = "/api/v1/nodes/{id}", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, body = NodeView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<NodeId>,
) -> Result<impl IntoResponse, Problem> {
    answer(&app, app.use_cases.node(&actor, id).await?).await
}

/// Changes the name or the labels of a node.
#[utoipa::path(patch, path = "/api/v1/nodes/{id}", tag = "nodes", request_body = NodeInput,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 200, body = NodeView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<NodeId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<NodeInput>,
) -> Result<impl IntoResponse, Problem> {
    let change = NodeChange {
        name: input.name.map(|name| name.0),
        labels: input.labels.map(|labels| labels.0),
    };
    answer(
        &app,
        app.use_cases.update_node(&actor, id, &change, expected).await?,
    )
    .await
}

/// Lets a node in that waits for approval.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/approve", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, body = NodeView), (status = 401, body = Problem), (status = 404, body = Problem),
              (status = 409, description = "It was refused or revoked", body = Problem)))]
pub(super) async fn approve(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<NodeId>,
) -> Result<impl IntoResponse, Problem> {
    answer(&app, app.use_cases.approve_node(&actor, id).await?).await
}

/// Turns a node away that waits for approval. It is revoked from then on.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/refuse", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, body = NodeView), (status = 401, body = Problem), (status = 404, body = Problem),
              (status = 409, description = "It was approved already", body = Problem)))]
pub(super) async fn refuse(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<NodeId>,
) -> Result<impl IntoResponse, Problem> {
    answer(&app, app.use_cases.refuse_node(&actor, id).await?).await
}

/// Revokes a node: it is cut off at once, and nobody's plan has it any more.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/revoke", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, body = NodeView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn revoke(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<NodeId>,
) -> Result<impl IntoResponse, Problem> {
    answer(&app, app.use_cases.revoke_node(&actor, id).await?).await
}

/// Asks a node for other keys. One that is away is asked when it comes back.
///
/// It gets another identity key and another WireGuard key. A gateway of an organization that has sites keeps its WireGuard
/// key, since their configurations have it, unless `overlap` is 0.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/rotate-keys", tag = "nodes", request_body = RotationInput,
    params(("id" = String, Path)),
    responses((status = 200, body = NodeView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 404, body = Problem), (status = 409, description = "It does not take part", body = Problem)))]
pub(super) async fn rotate_keys(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<NodeId>,
    Body(input): Body<RotationInput>,
) -> Result<impl IntoResponse, Problem> {
    let overlap = input.overlap.map(|seconds| Duration::from_secs(seconds.into()));
    answer(&app, app.use_cases.ask_for_keys(&actor, id, overlap).await?).await
}

/// Ends the time of the keys that a node had before: whoever shows them is refused from now on.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/revoke-previous-keys", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, body = NodeView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn revoke_previous_keys(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<NodeId>,
) -> Result<impl IntoResponse, Problem> {
    answer(&app, app.use_cases.revoke_previous_keys(&actor, id).await?).await
}

/// Deletes a node, and the services that it declared.
#[utoipa::path(delete, path = "/api/v1/nodes/{id}", tag = "nodes",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem),
              (status = 409, description = "Services have targets at it", body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<NodeId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_node(&actor, id, expected).await?;
    app.hub.forget(id);
    Ok(StatusCode::NO_CONTENT)
}

/// Reads what a node said of itself lately: its plan, its lanes, its targets. It is kept in memory only, by the instance
/// of Control that the node is connected to; another one asks it.
#[utoipa::path(get, path = "/api/v1/nodes/{id}/status", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, body = NodeStatusView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn status(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<NodeId>,
) -> Result<Json<NodeStatusView>, Problem> {
    app.use_cases.node(&actor, id).await?;
    let (presence, elsewhere) = app.hub.presence_anywhere(id).await?;
    let mut status = NodeStatusView::from(presence);
    status.elsewhere = elsewhere;
    Ok(Json(status))
}

async fn answer(app: &App, stored: Stored<Node>) -> Result<impl IntoResponse + use<>, Problem> {
    let overlay = app.use_cases.start().await?.overlay;
    let seen = seen(app, stored.value.id).await?;
    let view = view(overlay, stored.value, seen);
    Ok((etag_of(stored.version, &view), Json(view)))
}

/// How it is with a node, at whichever instance.
async fn seen(app: &App, node: NodeId) -> Result<Seen, Problem> {
    let seen = app.hub.seen(&[node]).await.map_err(UseCaseError::from)?;
    Ok(seen.get(&node).copied().unwrap_or_default())
}

impl From<NodeState> for NodeStateView {
    fn from(state: NodeState) -> Self {
        match state {
            NodeState::Pending => Self::Pending,
            NodeState::Active => Self::Active,
            NodeState::Revoked => Self::Revoked,
        }
    }
}

impl From<NodeStateView> for NodeState {
    fn from(state: NodeStateView) -> Self {
        match state {
            NodeStateView::Pending => Self::Pending,
            NodeStateView::Active => Self::Active,
            NodeStateView::Revoked => Self::Revoked,
        }
    }
}

fn view(overlay: Overlay, node: Node, seen: Seen) -> NodeView {
    let state = node.state();
    let pending = node.pending.filter(|_| state == NodeState::Pending);
    let (role, gateway, agent) = match node.kind {
        NodeKind::Agent { declare, .. } => {
            let agent = AgentView {
                declare: (&declare).into(),
            };
            (RoleView::Agent, None, Some(agent))
        }
        NodeKind::Gateway {
            endpoints,
            https_port,
            address_v4,
            signing_keys: _,
        } => {
            let gateway = GatewayView {
                endpoints: endpoints.iter().map(ToString::to_string).collect(),
                https_port,
                address_v4: Text(address_v4),
            };
            (RoleView::Gateway, Some(gateway), None)
        }
    };
    NodeView {
        id: node.id.to_string(),
        role,
        name: node.name.to_string(),
        state: state.into(),
        pending_until: pending.map(|pending| pending.until.into()),
        labels: LabelsText(node.labels),
        identity_key: node.identity.to_string(),
        wireguard_key: node.wireguard.to_string(),
        keys_rotated_at: node.rotation.rotated.map(Into::into),
        previous_keys_until: node.rotation.previous.map(|previous| previous.until.into()),
        keys_asked_at: node.rotation.asked.map(|asked| asked.at.into()),
        address: Text(overlay.address(node.id.as_bytes())),
        gateway,
        agent,
        connected: seen.connected.is_some(),
        connected_at: seen.connected.map(Into::into),
        disconnected_at: seen.disconnected.map(Into::into),
        revoked_at: node.revoked.map(Into::into),
        token: node.token.to_string(),
        created_at: node.created.into(),
    }
}
