//! The OpenAPI document.

use axum::{Json, extract::State};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
        server::Server,
    },
};

use super::{
    App, account, api_keys, audit, groups, invitations, link, mailed, members, nodes, organization,
    organizations, policies, roles, services, sessions, simulate, sites, tokens, usage, users,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "kakuremichi Control",
        description = "Everything that can be configured. Errors are problem+json (RFC 9457) with a stable code; \
                       lists come in parts; changes can be made conditional by `If-Match`."
    ),
    paths(
        serve,
        link::open,
        organization::me,
        organization::get,
        sessions::create,
        sessions::list,
        sessions::delete_current,
        sessions::delete,
        account::get,
        account::update,
        account::change_password,
        account::draw_totp,
        account::set_totp,
        account::remove_totp,
        account::join,
        mailed::request_verification,
        mailed::verify,
        mailed::request_reset,
        mailed::complete_reset,
        organizations::list,
        organizations::create,
        organizations::get,
        organizations::update,
        organizations::delete,
        users::list,
        users::get,
        users::update,
        users::delete,
        members::list,
        members::get,
        members::update,
        members::delete,
        groups::list,
        groups::create,
        groups::get,
        groups::update,
        groups::delete,
        invitations::list,
        invitations::create,
        invitations::accept,
        invitations::get,
        invitations::delete,
        roles::permissions,
        roles::list,
        roles::create,
        roles::get,
        roles::update,
        roles::delete,
        tokens::list,
        tokens::create,
        tokens::get,
        tokens::delete,
        tokens::revoke,
        nodes::list,
        nodes::get,
        nodes::update,
        nodes::delete,
        nodes::revoke,
        nodes::status,
        sites::list,
        sites::create,
        sites::get,
        sites::update,
        sites::delete,
        services::list,
        services::create,
        services::get,
        services::update,
        services::delete,
        services::usage,
        policies::list,
        policies::create,
        policies::get,
        policies::update,
        policies::delete,
        simulate::simulate,
        usage::get,
        audit::list,
        audit::export,
        audit::verify,
        api_keys::list,
        api_keys::create,
        api_keys::get,
        api_keys::delete,
    ),
    modifiers(&Security)
)]
struct Document;

/// The name of the scheme by which callers prove who they are.
const SCHEME: &str = "api_key";

struct Security;

impl Modify for Security {
    /// What a route needs is said once, in the table of routes.
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme(SCHEME, scheme);
        for route in super::routes::routes() {
            let path = format!("{}{}", super::PREFIX, route.path);
            let Some(item) = document.paths.paths.get_mut(&path) else {
                continue;
            };
            let operation = match route.method.as_str() {
                "GET" => &mut item.get,
                "POST" => &mut item.post,
                "PUT" => &mut item.put,
                "PATCH" => &mut item.patch,
                "DELETE" => &mut item.delete,
                _ => continue,
            };
            let Some(operation) = operation else { continue };
            // Handlers are called `list` and `get` in each module; identifiers are unique in the document.
            let tag = operation.tags.iter().flatten().next().map_or("", String::as_str);
            let name = operation.operation_id.as_deref().unwrap_or_default();
            operation.operation_id = Some(format!("{tag}_{name}").replace('-', "_"));
            if !route.requirement.is_open() {
                operation.security = Some(vec![SecurityRequirement::new(SCHEME, [] as [&str; 0])]);
            }
        }
    }
}

/// The OpenAPI document of the REST API, as it is committed beside this crate.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    document.servers = Some(vec![Server::new("/")]);
    document
}

/// Serves this document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "organization", responses((status = 200, body = Object)))]
pub(super) async fn serve(State(app): State<App>) -> Json<utoipa::openapi::OpenApi> {
    let mut document = document();
    document.servers = Some(vec![Server::new(app.public_url.to_string())]);
    Json(document)
}
