//! The table of routes.

use axum::{
    http::Method,
    routing::{MethodRouter, on},
};
use kakuremichi_core::model::Permission;

use super::{
    App, Requirement, account, api_keys, audit, channels, groups, identity_providers, invitations, link,
    mailed, members, nodes, openapi, organization, organizations, passkeys, policies, roles, service_tokens,
    services, sessions, simulate, sites, tokens, usage, users,
};

/// A row: what is at a path, and who may have it.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) requirement: Requirement,
    pub(super) handler: MethodRouter<App>,
}

macro_rules! requirement {
    (Public) => {
        Requirement::Public
    };
    (Link) => {
        Requirement::Link
    };
    (Anybody) => {
        Requirement::Anybody
    };
    (Person) => {
        Requirement::Person
    };
    (Administrator) => {
        Requirement::Administrator
    };
    ($permission:ident) => {
        Requirement::Permission(Permission::$permission)
    };
}

macro_rules! table {
    ($($method:ident $path:literal $requirement:ident $handler:path;)*) => {
        pub(super) fn routes() -> Vec<Route> {
            vec![$(Route {
                method: Method::$method,
                path: $path,
                requirement: requirement!($requirement),
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
    GET "/organization/accounts" Anybody organization::accounts;
    PUT "/organization/accounts" OrganizationWrite organization::set_accounts;

    POST "/sessions" Public sessions::create;
    POST "/sessions/passkey/challenge" Public passkeys::sign_in_challenge;
    POST "/sessions/passkey" Public passkeys::sign_in;
    GET "/sessions" Person sessions::list;
    DELETE "/sessions/current" Person sessions::delete_current;
    DELETE "/sessions/{id}" Person sessions::delete;
    GET "/account" Person account::get;
    PATCH "/account" Person account::update;
    PUT "/account/password" Person account::change_password;
    POST "/account/totp/secret" Person account::draw_totp;
    PUT "/account/totp" Person account::set_totp;
    DELETE "/account/totp" Person account::remove_totp;
    GET "/account/passkeys" Person passkeys::list;
    POST "/account/passkeys" Person passkeys::create;
    POST "/account/passkeys/challenge" Person passkeys::challenge;
    PATCH "/account/passkeys/{id}" Person passkeys::update;
    DELETE "/account/passkeys/{id}" Person passkeys::delete;
    POST "/account/organizations" Person account::join;
    DELETE "/account/identities/{id}" Person account::unlink;
    POST "/account/verification" Person mailed::request_verification;
    POST "/verifications" Public mailed::verify;
    POST "/password-resets" Public mailed::request_reset;
    POST "/password-resets/complete" Public mailed::complete_reset;

    GET "/organizations" Anybody organizations::list;
    POST "/organizations" Administrator organizations::create;
    GET "/organizations/{id}" Administrator organizations::get;
    PUT "/organizations/{id}" Administrator organizations::update;
    DELETE "/organizations/{id}" Administrator organizations::delete;

    GET "/users" Administrator users::list;
    GET "/users/{id}" Administrator users::get;
    PATCH "/users/{id}" Administrator users::update;
    DELETE "/users/{id}" Administrator users::delete;

    GET "/members" MembersRead members::list;
    GET "/members/{id}" MembersRead members::get;
    PUT "/members/{id}" MembersWrite members::update;
    DELETE "/members/{id}" MembersWrite members::delete;

    GET "/groups" MembersRead groups::list;
    POST "/groups" MembersWrite groups::create;
    GET "/groups/{id}" MembersRead groups::get;
    PUT "/groups/{id}" MembersWrite groups::update;
    DELETE "/groups/{id}" MembersWrite groups::delete;

    GET "/invitations" MembersRead invitations::list;
    POST "/invitations" MembersWrite invitations::create;
    POST "/invitations/accept" Public invitations::accept;
    GET "/invitations/{id}" MembersRead invitations::get;
    DELETE "/invitations/{id}" MembersWrite invitations::delete;

    GET "/permissions" Anybody roles::permissions;
    GET "/roles" RolesRead roles::list;
    POST "/roles" RolesWrite roles::create;
    GET "/roles/{id}" RolesRead roles::get;
    PUT "/roles/{id}" RolesWrite roles::update;
    DELETE "/roles/{id}" RolesWrite roles::delete;

    GET "/identity-providers" ProvidersRead identity_providers::list;
    POST "/identity-providers" ProvidersWrite identity_providers::create;
    GET "/identity-providers/{id}" ProvidersRead identity_providers::get;
    PUT "/identity-providers/{id}" ProvidersWrite identity_providers::update;
    DELETE "/identity-providers/{id}" ProvidersWrite identity_providers::delete;

    GET "/tokens" TokensRead tokens::list;
    POST "/tokens" TokensWrite tokens::create;
    GET "/tokens/{id}" TokensRead tokens::get;
    DELETE "/tokens/{id}" TokensWrite tokens::delete;
    POST "/tokens/{id}/revoke" TokensWrite tokens::revoke;

    GET "/nodes" NodesRead nodes::list;
    GET "/nodes/{id}" NodesRead nodes::get;
    PATCH "/nodes/{id}" NodesWrite nodes::update;
    DELETE "/nodes/{id}" NodesWrite nodes::delete;
    POST "/nodes/{id}/approve" NodesApprove nodes::approve;
    POST "/nodes/{id}/refuse" NodesApprove nodes::refuse;
    POST "/nodes/{id}/revoke" NodesWrite nodes::revoke;
    POST "/nodes/{id}/rotate-keys" NodesWrite nodes::rotate_keys;
    POST "/nodes/{id}/revoke-previous-keys" NodesWrite nodes::revoke_previous_keys;
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

    GET "/notification-channels" ChannelsRead channels::list;
    POST "/notification-channels" ChannelsWrite channels::create;
    GET "/notification-channels/{id}" ChannelsRead channels::get;
    PUT "/notification-channels/{id}" ChannelsWrite channels::update;
    DELETE "/notification-channels/{id}" ChannelsWrite channels::delete;
    POST "/notification-channels/{id}/test" ChannelsWrite channels::test;

    GET "/usage" ServicesRead usage::get;

    GET "/audit" AuditRead audit::list;
    GET "/audit/export" AuditRead audit::export;
    GET "/audit/verify" Administrator audit::verify;

    GET "/service-tokens" ServiceTokensRead service_tokens::list;
    POST "/service-tokens" ServiceTokensWrite service_tokens::create;
    GET "/service-tokens/{id}" ServiceTokensRead service_tokens::get;
    PATCH "/service-tokens/{id}" ServiceTokensWrite service_tokens::update;
    DELETE "/service-tokens/{id}" ServiceTokensWrite service_tokens::delete;

    GET "/api-keys" ApiKeysRead api_keys::list;
    POST "/api-keys" ApiKeysWrite api_keys::create;
    GET "/api-keys/{id}" ApiKeysRead api_keys::get;
    DELETE "/api-keys/{id}" ApiKeysWrite api_keys::delete;
}
