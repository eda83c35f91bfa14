//! Stock WireGuard devices.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    id::SiteId,
    key::WireGuardKey,
    model::Site,
    name::Label,
    net::{Cidr, Overlay},
    store::Stored,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag},
    filter::ByName,
    page::{Page, Part},
    problem::Problem,
    schema,
    text::{EndpointText, TimeText},
};
use crate::{
    service::{Actor, SiteDraft},
    text::{Text, texts, untexts},
};

/// A stock WireGuard device, as somebody describes it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SiteInput {
    /// Its name.
    #[schema(value_type = schema::Name, example = "office")]
    name: Text<Label>,
    /// Its WireGuard public key, base 64, as `wg pubkey` prints it.
    #[schema(value_type = schema::PublicKey)]
    wireguard_key: Text<WireGuardKey>,
    /// The networks behind it.
    #[schema(value_type = Vec<String>, example = json!(["192.168.7.0/24"]))]
    #[serde(default)]
    networks: Vec<Text<Cidr>>,
    /// Where it listens, if gateways are to reach out; otherwise it dials.
    #[schema(value_type = Option<String>, example = "office.example.net:51820")]
    endpoint: Option<EndpointText>,
}

/// A stock WireGuard device.
///
/// It has each gateway (`GET /nodes`, with its key, endpoints and addresses) as a peer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SiteView {
    /// Its identifier.
    #[schema(example = "sit_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// Its name.
    name: String,
    /// Its WireGuard public key, base 64.
    wireguard_key: String,
    /// The IPv4 address that the device is to have.
    #[schema(value_type = String, example = "100.64.0.7")]
    address_v4: Text<std::net::Ipv4Addr>,
    /// The IPv6 address that the device is to have.
    #[schema(value_type = String, example = "fd12:3456:789a::7")]
    address: Text<std::net::Ipv6Addr>,
    /// The networks behind it.
    #[schema(value_type = Vec<String>)]
    networks: Vec<Text<Cidr>>,
    /// Where it listens, if gateways reach out.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    /// When it was added.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// Lists the sites.
#[utoipa::path(get, path = "/api/v1/sites", tag = "sites",
    params(ByName,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<SiteView>), (status = 401, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<ByName>,
) -> Result<Json<Page<SiteView>>, Problem> {
    let overlay = app.use_cases.start().await?.overlay;
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &Site| part.admits(item))
        .await?;
    Ok(Json(Page::of(listing, |stored| view(overlay, stored.value))))
}

/// Adds a site, and gives it addresses.
#[utoipa::path(post, path = "/api/v1/sites", tag = "sites", request_body = SiteInput,
    responses((status = 201, body = SiteView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 409, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<SiteInput>,
) -> Result<impl IntoResponse, Problem> {
    let stored = app.use_cases.create_site(&actor, input.into()).await?;
    Ok((StatusCode::CREATED, answer(&app, stored).await?))
}

/// Reads a site.
#[utoipa::path(get, path = "/api/v1/sites/{id}", tag = "sites", params(("id" = String, Path)),
    responses((status = 200, body = SiteView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<SiteId>,
) -> Result<impl IntoResponse, Problem> {
    answer(&app, app.use_cases.site(&actor, id).await?).await
}

/// Describes a site anew. Its addresses stay.
#[utoipa::path(put, path = "/api/v1/sites/{id}", tag = "sites", request_body = SiteInput,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 200, body = SiteView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<SiteId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<SiteInput>,
) -> Result<impl IntoResponse, Problem> {
    answer(
        &app,
        app.use_cases
            .update_site(&actor, id, input.into(), expected)
            .await?,
    )
    .await
}

/// Removes a site.
#[utoipa::path(delete, path = "/api/v1/sites/{id}", tag = "sites",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem),
              (status = 409, description = "Services have targets behind it", body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<SiteId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_site(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn answer(app: &App, stored: Stored<Site>) -> Result<impl IntoResponse + use<>, Problem> {
    let overlay = app.use_cases.start().await?.overlay;
    Ok((etag(stored.version), Json(view(overlay, stored.value))))
}

fn view(overlay: Overlay, site: Site) -> SiteView {
    SiteView {
        id: site.id.to_string(),
        name: site.name.to_string(),
        wireguard_key: site.wireguard.to_string(),
        address_v4: Text(site.address_v4),
        address: Text(overlay.address(site.id.as_bytes())),
        networks: texts(&site.networks),
        endpoint: site.endpoint.map(|endpoint| endpoint.to_string()),
        created_at: site.created.into(),
    }
}

impl From<SiteInput> for SiteDraft {
    fn from(input: SiteInput) -> Self {
        Self {
            name: input.name.0,
            wireguard: input.wireguard_key.0,
            networks: untexts(input.networks),
            endpoint: input.endpoint.map(|endpoint| endpoint.0),
        }
    }
}
