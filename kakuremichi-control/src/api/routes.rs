//! The table of routes.

use axum::{
    http::Method,
    routing::{MethodRouter, on},
};

use super::{
    App, Permission, api_keys, link, nodes, openapi, organization, policies, services, simulate, sites,
    tokens,
};

/// A row: what is at a path, and who may have it.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) permission: Permission,
    pub(super) handler: MethodRouter<App>,
}

macro_rules! table {
    ($($method:ident $path:literal $permission:ident $handler:path;)*) => {
        pub(super) fn routes() -> Vec<Route> {
            vec![$(Route {
                method: Method::$method,
                path: $path,
                permission: Permission::$permission,
                handler: on(axum::routing::MethodFilter::$method, $handler),
            }),*]
        }
    };
}

table! {
    GET "/openapi.json" Public openapi::serve;
    GET "/link" Link link::open;

    GET "/me" Anybody organization::me;
    GET "/organization" Anybody organization::get;

    GET "/tokens" TokensRead tokens::list;
    POST "/tokens" TokensWrite tokens::create;
    GET "/tokens/{id}" TokensRead tokens::get;
    DELETE "/tokens/{id}" TokensWrite tokens::delete;
    POST "/tokens/{id}/revoke" TokensWrite tokens::revoke;

    GET "/nodes" NodesRead nodes::list;
    GET "/nodes/{id}" NodesRead nodes::get;
    PATCH "/nodes/{id}" NodesWrite nodes::update;
    DELETE "/nodes/{id}" NodesWrite nodes::delete;
    POST "/nodes/{id}/revoke" NodesWrite nodes::revoke;
    GET "/nodes/{id}/status" NodesRead nodes::status;

    GET "/sites" SitesRead sites::list;
    POST "/sites" SitesWrite sites::create;
    GET "/sites/{id}" SitesRead sites::get;
    PUT "/sites/{id}" SitesWrite sites::update;
    DELETE "/sites/{id}" SitesWrite sites::delete;

    GET "/services" ServicesRead services::list;
    POST "/services" ServicesWrite services::create;
    GET "/services/{id}" ServicesRead services::get;
    PUT "/services/{id}" ServicesWrite services::update;
    DELETE "/services/{id}" ServicesWrite services::delete;
    GET "/services/{id}/usage" ServicesRead services::usage;

    GET "/policies" PoliciesRead policies::list;
    POST "/policies" PoliciesWrite policies::create;
    GET "/policies/{id}" PoliciesRead policies::get;
    PUT "/policies/{id}" PoliciesWrite policies::update;
    DELETE "/policies/{id}" PoliciesWrite policies::delete;
    POST "/simulate" PoliciesRead simulate::simulate;

    GET "/api-keys" ApiKeysRead api_keys::list;
    POST "/api-keys" ApiKeysWrite api_keys::create;
    GET "/api-keys/{id}" ApiKeysRead api_keys::get;
    DELETE "/api-keys/{id}" ApiKeysWrite api_keys::delete;
}
