//! Services.

mod filter;
mod kind;
mod policy;

pub(crate) use kind::{HttpView, TcpView, UdpView};
pub(crate) use policy::{
    AccessView, ConditionView, EffectView, PolicyView, PrincipalView, RuleView, StrengthView, rules,
};

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    id::ServiceId,
    model::{Lifetime, Service},
    name::Label,
    store::Stored,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::filter::ServiceFilter;
use super::{
    App,
    extract::{Body, Id, IfMatch, etag_of},
    page::{Page, Part},
    problem::Problem,
    schema,
    text::{PolicyText, TimeText, policy_texts},
};
use crate::{
    service::{Actor, FieldError, ServiceDraft},
    text::Text,
};

/// A service, as somebody asks for it: `http`, `tcp` or `udp`, and who may reach it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceInput {
    /// Its name.
    #[schema(value_type = schema::Name, example = "billing")]
    name: Text<Label>,
    /// HTTP at host names, on the gateways' HTTPS port.
    http: Option<HttpView>,
    /// Raw TCP on a port of every gateway.
    tcp: Option<TcpView>,
    /// Datagrams on a UDP port of every gateway.
    udp: Option<UdpView>,
    /// Who may reach it; nobody if left out.
    #[serde(default)]
    policy: PolicyView,
    /// The shared policies, by identifier or name, that go before it, in this order.
    #[schema(value_type = Vec<String>, example = json!(["office-hours"]))]
    #[serde(default)]
    policies: Vec<PolicyText>,
}

/// A service.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServiceView {
    /// Its identifier.
    #[schema(example = "svc_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// Its name.
    name: String,
    /// HTTP at host names.
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<HttpView>,
    /// Raw TCP on a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<TcpView>,
    /// Datagrams on a UDP port.
    #[serde(skip_serializing_if = "Option::is_none")]
    udp: Option<UdpView>,
    /// Who may reach it. Passwords are not shown.
    policy: PolicyView,
    /// The shared policies that go before it.
    #[schema(value_type = Vec<String>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<PolicyText>,
    /// How long it lives.
    lifetime: LifetimeView,
    /// Where visitors find it.
    #[schema(example = json!(["https://billing.example.net/"]))]
    urls: Vec<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// How long a service lives.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LifetimeView {
    /// Made through the API, and deleted through it.
    Configured,
    /// Declared by this agent; it stays when the agent stops.
    Declared(String),
    /// Declared by this agent; it goes with the agent.
    Ephemeral(String),
}

/// What was counted for a service, by all gateways together, since it was made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageView {
    /// Connections of visitors.
    connections: u64,
    /// HTTP requests.
    requests: u64,
    /// Bytes from visitors to targets.
    bytes_in: u64,
    /// Bytes from targets to visitors.
    bytes_out: u64,
}

/// Lists the services.
#[utoipa::path(get, path = "/api/v1/services", tag = "services",
    params(ServiceFilter,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<ServiceView>), (status = 401, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<ServiceFilter>,
) -> Result<Json<Page<ServiceView>>, Problem> {
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &Service| part.admits(item))
        .await?;
    let urls = app
        .use_cases
        .all_urls(&actor, listing.items.iter().map(|stored| &stored.value))
        .await?;
    let views = listing
        .items
        .into_iter()
        .zip(urls)
        .map(|(stored, urls)| view(&stored.value, urls));
    Ok(Json(Page::made(views.collect(), listing.next)))
}

/// Publishes a service.
#[utoipa::path(post, path = "/api/v1/services", tag = "services", request_body = ServiceInput,
    responses((status = 201, body = ServiceView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 409, description = "A name, a host or a port is taken", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<ServiceInput>,
) -> Result<impl IntoResponse, Problem> {
    let stored = app.use_cases.create_service(&actor, input.try_into()?).await?;
    Ok((StatusCode::CREATED, answer(&app, stored).await?))
}

/// Reads a service.
#[utoipa::path(get, path = "/api/v1/services/{id}", tag = "services", params(("id" = String, Path)),
    responses((status = 200, body = ServiceView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ServiceId>,
) -> Result<impl IntoResponse, Problem> {
    answer(&app, app.use_cases.service(&actor, id).await?).await
}

/// Describes a service anew. Routes of the same path and targets at the same place stay what they are, and a
/// user without a password keeps the one that is stored.
#[utoipa::path(put, path = "/api/v1/services/{id}", tag = "services", request_body = ServiceInput,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 200, body = ServiceView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 404, body = Problem),
              (status = 409, description = "A name, a host or a port is taken, or an agent declared it", body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ServiceId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<ServiceInput>,
) -> Result<impl IntoResponse, Problem> {
    let stored = app
        .use_cases
        .update_service(&actor, id, input.try_into()?, expected)
        .await?;
    answer(&app, stored).await
}

/// Deletes a service.
#[utoipa::path(delete, path = "/api/v1/services/{id}", tag = "services",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ServiceId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_service(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads what was counted for a service.
#[utoipa::path(get, path = "/api/v1/services/{id}/usage", tag = "services", params(("id" = String, Path)),
    responses((status = 200, body = UsageView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn usage(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ServiceId>,
) -> Result<Json<UsageView>, Problem> {
    let counts = app.use_cases.usage(&actor, id).await?;
    Ok(Json(UsageView {
        connections: counts.connections,
        requests: counts.requests,
        bytes_in: counts.bytes_in,
        bytes_out: counts.bytes_out,
    }))
}

async fn answer(app: &App, stored: Stored<Service>) -> Result<impl IntoResponse + use<>, Problem> {
    let urls = app.use_cases.urls(&stored.value).await?;
    let view = view(&stored.value, urls);
    Ok((etag_of(stored.version, &view), Json(view)))
}

fn view(service: &Service, urls: Vec<String>) -> ServiceView {
    let kind::Views { http, tcp, udp } = kind::views(&service.kind);
    ServiceView {
        id: service.id.to_string(),
        name: service.name.to_string(),
        http,
        tcp,
        udp,
        policy: (&service.policy).into(),
        policies: policy_texts(&service.policies),
        lifetime: match service.lifetime {
            Lifetime::Configured => LifetimeView::Configured,
            Lifetime::Declared(agent) => LifetimeView::Declared(agent.to_string()),
            Lifetime::Ephemeral(agent) => LifetimeView::Ephemeral(agent.to_string()),
        },
        urls,
        created_at: service.created.into(),
    }
}

impl TryFrom<ServiceInput> for ServiceDraft {
    type Error = Problem;

    fn try_from(input: ServiceInput) -> Result<Self, Problem> {
        let kind = match (input.http, input.tcp, input.udp) {
            (Some(http), None, None) => http.try_into()?,
            (None, Some(tcp), None) => tcp.try_into()?,
            (None, None, Some(udp)) => udp.try_into()?,
            _ => {
                return Err(Problem::fields(vec![FieldError::new(
                    "http",
                    "give one of `http`, `tcp` and `udp`",
                )]));
            }
        };
        Ok(Self {
            name: input.name.0,
            kind,
            policy: input.policy.try_into()?,
            policies: input.policies.into_iter().map(|policy| policy.0.0).collect(),
        })
    }
}
