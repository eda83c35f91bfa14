//! The OpenAPI document.

use axum::{Json, extract::State, http::Method};
use utoipa::{
    Modify, OpenApi, PartialSchema as _,
    openapi::{
        Content, Object, Ref, RefOr, Response, Type,
        extensions::Extensions,
        path::{Operation, ParameterBuilder, ParameterIn},
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
        server::Server,
    },
};

use super::{
    App, Requirement, account, api_keys, audit, channels, groups, identity_providers, invitations, link,
    links, mailed, members, nodes, organization, organizations, passkeys, policies, roles, routes::Route,
    schema, service_tokens, services, sessions, simulate, sites, tokens, usage, users,
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
        organization::accounts,
        organization::set_accounts,
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
        passkeys::list,
        passkeys::create,
        passkeys::challenge,
        passkeys::update,
        passkeys::delete,
        passkeys::sign_in_challenge,
        passkeys::sign_in,
        account::join,
        account::unlink,
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
        identity_providers::list,
        identity_providers::create,
        identity_providers::get,
        identity_providers::update,
        identity_providers::delete,
        tokens::list,
        tokens::create,
        tokens::get,
        tokens::delete,
        tokens::revoke,
        nodes::list,
        nodes::get,
        nodes::update,
        nodes::delete,
        nodes::approve,
        nodes::refuse,
        nodes::revoke,
        nodes::rotate_keys,
        nodes::revoke_previous_keys,
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
        channels::list,
        channels::create,
        channels::get,
        channels::update,
        channels::delete,
        channels::test,
        usage::get,
        audit::list,
        audit::export,
        audit::verify,
        service_tokens::list,
        service_tokens::create,
        service_tokens::get,
        service_tokens::update,
        service_tokens::delete,
        api_keys::list,
        api_keys::create,
        api_keys::get,
        api_keys::delete,
    ),
    modifiers(&Common)
)]
struct Document;

/// The name of the scheme by which callers prove who they are.
const SCHEME: &str = "api_key";
/// Where the document says what an operation requires.
pub(crate) const PERMISSION_EXTENSION: &str = "x-kakuremichi-requires";

/// What every operation has, or every one of its kind: it is said once, in the table of routes or here.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme(SCHEME, scheme);
        let routes = super::routes::routes();
        for route in &routes {
            if let Some(operation) = links::operation(document, route) {
                complete(operation, route);
            }
        }
        links::add(document, &routes);
    }
}

fn complete(operation: &mut Operation, route: &Route) {
    // Handlers are called `list` and `get` in each module; identifiers are unique in the document.
    let tag = operation.tags.iter().flatten().next().map_or("", String::as_str);
    let name = operation.operation_id.as_deref().unwrap_or_default();
    operation.operation_id = Some(format!("{tag}_{name}").replace([' ', '-'], "_"));
    let requires = (PERMISSION_EXTENSION, route.requirement.to_string());
    operation.extensions = Some(Extensions::from_iter([requires]));
    let responses = &mut operation.responses.responses;
    let mut problem = |status: &str, description: &str| {
        let response = responses.entry(status.to_owned());
        let RefOr::T(response) = response.or_insert_with(|| RefOr::T(Response::new(description))) else {
            return;
        };
        if response.description.is_empty() {
            description.clone_into(&mut response.description);
        }
        response.content = [(
            PROBLEM.to_owned(),
            RefOr::T(Content::new(Some(Ref::from_schema_name("Problem")))),
        )]
        .into_iter()
        .collect();
    };
    problem("421", "The request is for a host that is not Control's");
    if route.requirement != Requirement::Link {
        problem("429", "The caller, or its address, sent too many requests");
    }
    problem("500", "Control or its database failed");
    problem("503", "Control has too much to do: try again");
    if !route.requirement.is_open() {
        operation.security = Some(vec![SecurityRequirement::new(SCHEME, [] as [&str; 0])]);
        problem("400", "The request is not valid");
        problem("401", "No credential was shown, or one that is not good");
        problem("403", "The caller may not do this");
    }
    if !route.requirement.is_open() && route.method != Method::GET {
        problem(
            "409",
            "Something else is in the way, or a request with the idempotency key is under way",
        );
        problem("422", "The idempotency key was used for another request");
        let parameter = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .description(Some(
                "Any text of at most 255 characters that names this request among the caller's: when it is sent again \
                 within a day, it is answered as it was and not done again",
            ))
            .schema(Some(schema::RequestName::schema()))
            .build();
        operation
            .parameters
            .get_or_insert_default()
            .push(RefOr::T(parameter));
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        match parameter.name.as_str() {
            "If-Match" => parameter.schema = Some(schema::EntityTag::schema()),
            "limit" => parameter.schema = Some(schema::PartSize::schema()),
            _ => {}
        }
    }
    if operation.request_body.is_some() {
        problem("400", "The body is not valid");
        problem("413", "The body is too large");
        problem("415", "The body is not JSON");
    }
    for (status, response) in responses.iter_mut() {
        let RefOr::T(response) = response else { continue };
        if status.starts_with(['4', '5'])
            && let Some(content) = response.content.swap_remove("application/json")
        {
            response.content.insert(PROBLEM.to_owned(), content);
        }
        if response.description.is_empty() {
            usual_meaning(status).clone_into(&mut response.description);
        }
    }
    if route.method == Method::GET && route.path.ends_with("/{id}") {
        let seen = Response::new("Nothing changed since the tag that `If-None-Match` names");
        responses.insert("304".to_owned(), RefOr::T(seen));
        let parameter = ParameterBuilder::new()
            .name("If-None-Match")
            .parameter_in(ParameterIn::Header)
            .description(Some("The `ETag` of what is known already"))
            .schema(Some(Object::with_type(Type::String)))
            .build();
        operation
            .parameters
            .get_or_insert_default()
            .push(RefOr::T(parameter));
    }
}

/// The media type of errors (RFC 9457).
const PROBLEM: &str = "application/problem+json";

fn usual_meaning(status: &str) -> &'static str {
    match status {
        "200" => "It is done, or here it is",
        "201" => "It is made",
        "204" => "It is done",
        "400" => "The request is not valid",
        "401" => "No credential was shown, or one that is not good",
        "404" => "It is not there",
        "409" => "Something else is in the way",
        "412" => "It changed since it was read",
        _ => "",
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
