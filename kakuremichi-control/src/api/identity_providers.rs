//! Identity providers.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    id::{ProviderId, RoleId},
    model::{ClaimNames, IdentityProvider, ProviderProtocol},
    name::Label,
    secret::Secret,
    store::Stored,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag},
    page::Page,
    problem::Problem,
    schema,
    text::TimeText,
};
use crate::{
    service::{Actor, ProviderDraft, UseCaseError},
    text::Text,
};

/// An identity provider, as somebody asks for it. Give one of `oidc` and `oauth2`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityProviderInput {
    /// Its name, which people read on a button.
    #[schema(value_type = schema::Name, example = "keycloak")]
    name: Text<Label>,
    /// Whether it is of the whole Control, which only an administrator may say.
    #[serde(default)]
    server_wide: bool,
    /// An OpenID Connect provider.
    oidc: Option<OidcView>,
    /// An OAuth 2.0 provider.
    oauth2: Option<OAuth2View>,
    /// What the provider calls this Control.
    client_id: String,
    /// The secret that goes with it. The one that is stored stays if it is left out.
    #[schema(format = Password)]
    client_secret: Option<String>,
    /// What is asked for, besides `openid`.
    #[serde(default)]
    #[schema(example = json!(["email", "profile"]))]
    scopes: BTreeSet<String>,
    /// What the provider calls what it tells of people.
    #[serde(default)]
    claims: ClaimsView,
    /// Whether somebody whom nobody knows yet gets an account.
    #[serde(default)]
    provision: bool,
    /// Whether that takes an address that the provider verified; usually it does.
    #[serde(default = "yes")]
    require_verified: bool,
    /// Whether an address that the provider verified leads to the account that has it. Of the whole Control only.
    #[serde(default)]
    link_verified: bool,
    /// Whether the provider asks for a second factor.
    #[serde(default)]
    multi_factor: bool,
    /// Identifiers of roles of whoever becomes a member.
    #[serde(default)]
    #[schema(value_type = Vec<schema::RoleId>)]
    default_roles: Vec<Text<RoleId>>,
    /// Identifiers of roles by groups of the provider: they come and go with each sign-in.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    group_roles: BTreeMap<String, Text<RoleId>>,
}

/// How an OpenID Connect provider is found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OidcView {
    /// The issuer.
    #[schema(example = "https://id.example.net/realms/staff")]
    issuer: String,
}

/// How an OAuth 2.0 provider is found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OAuth2View {
    /// Where browsers are sent.
    #[schema(example = "https://git.example.net/login/oauth/authorize")]
    authorize_url: String,
    /// Where codes are exchanged.
    #[schema(example = "https://git.example.net/login/oauth/access_token")]
    token_url: String,
    /// Who somebody is, as a JSON object.
    #[schema(example = "https://git.example.net/api/user")]
    userinfo_url: String,
}

/// What a provider calls what it tells of people.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClaimsView {
    /// What never changes, and is nobody else's: `sub` unless said otherwise.
    subject: String,
    /// The address: `email`.
    email: String,
    /// Whether the address is verified: `email_verified`.
    email_verified: String,
    /// What the person is called: `name`.
    name: String,
    /// The person's groups, a list of texts: `groups`.
    groups: String,
}

/// An identity provider, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IdentityProviderView {
    /// Its identifier.
    #[schema(example = "idp_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// Its name.
    name: String,
    /// Whether it is of the whole Control.
    server_wide: bool,
    /// An OpenID Connect provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    oidc: Option<OidcView>,
    /// An OAuth 2.0 provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    oauth2: Option<OAuth2View>,
    /// What the provider calls this Control.
    client_id: String,
    /// What is asked for.
    scopes: BTreeSet<String>,
    /// What the provider calls what it tells of people.
    claims: ClaimsView,
    /// Whether somebody whom nobody knows yet gets an account.
    provision: bool,
    /// Whether that takes an address that the provider verified.
    require_verified: bool,
    /// Whether an address that the provider verified leads to the account that has it.
    link_verified: bool,
    /// Whether the provider asks for a second factor.
    multi_factor: bool,
    /// Roles of whoever becomes a member.
    default_roles: Vec<String>,
    /// Roles by groups of the provider.
    group_roles: BTreeMap<String, String>,
    /// Where the provider has to be told to send browsers back to.
    #[schema(example = "https://control.example.net/sign-in/callback")]
    redirect_uri: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// Lists the identity providers of the organization, and for an administrator those of the whole Control.
#[utoipa::path(get, path = "/api/v1/identity-providers", tag = "identity providers",
    responses((status = 200, body = Page<IdentityProviderView>), (status = 401, body = Problem),
              (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<Page<IdentityProviderView>>, Problem> {
    let providers = app.use_cases.providers(&actor).await?;
    let items = providers.iter().map(|provider| view(&app, &provider.value));
    Ok(Json(Page::made(items.collect(), None)))
}

/// Adds an identity provider.
#[utoipa::path(post, path = "/api/v1/identity-providers", tag = "identity providers",
    request_body = IdentityProviderInput,
    responses((status = 201, body = IdentityProviderView), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<IdentityProviderInput>,
) -> Result<impl IntoResponse, Problem> {
    let stored = app
        .use_cases
        .create_provider(&actor, ProviderDraft::try_from(input)?)
        .await?;
    Ok((StatusCode::CREATED, answer(&app, &stored)))
}

/// Reads an identity provider.
#[utoipa::path(get, path = "/api/v1/identity-providers/{id}", tag = "identity providers",
    params(("id" = String, Path)),
    responses((status = 200, body = IdentityProviderView), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ProviderId>,
) -> Result<impl IntoResponse, Problem> {
    let stored = app.use_cases.provider(&actor, id).await?;
    Ok(answer(&app, &stored))
}

/// Describes an identity provider anew.
#[utoipa::path(put, path = "/api/v1/identity-providers/{id}", tag = "identity providers",
    request_body = IdentityProviderInput,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 200, body = IdentityProviderView), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
              (status = 409, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ProviderId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<IdentityProviderInput>,
) -> Result<impl IntoResponse, Problem> {
    let draft = ProviderDraft::try_from(input)?;
    let stored = app.use_cases.update_provider(&actor, id, draft, expected).await?;
    Ok(answer(&app, &stored))
}

/// Deletes an identity provider. Accounts that are linked to it stay.
#[utoipa::path(delete, path = "/api/v1/identity-providers/{id}", tag = "identity providers",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was read")),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ProviderId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_provider(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn answer(app: &App, stored: &Stored<IdentityProvider>) -> impl IntoResponse + use<> {
    (etag(stored.version), Json(view(app, &stored.value)))
}

fn view(app: &App, provider: &IdentityProvider) -> IdentityProviderView {
    let (oidc, oauth2) = match provider.protocol.clone() {
        ProviderProtocol::Oidc { issuer } => (Some(OidcView { issuer }), None),
        ProviderProtocol::OAuth2 {
            authorize,
            token,
            userinfo,
        } => {
            let found = OAuth2View {
                authorize_url: authorize,
                token_url: token,
                userinfo_url: userinfo,
            };
            (None, Some(found))
        }
    };
    let group_roles = provider.group_roles.iter();
    IdentityProviderView {
        id: provider.id.to_string(),
        name: provider.name.to_string(),
        server_wide: provider.organization.is_none(),
        oidc,
        oauth2,
        client_id: provider.client_id.clone(),
        scopes: provider.scopes.clone(),
        claims: provider.claims.clone().into(),
        provision: provider.provision,
        require_verified: provider.require_verified,
        link_verified: provider.link_verified,
        multi_factor: provider.multi_factor,
        default_roles: provider.default_roles.iter().map(ToString::to_string).collect(),
        group_roles: group_roles
            .map(|(group, role)| (group.clone(), role.to_string()))
            .collect(),
        redirect_uri: crate::pages::redirect_uri(&app.public_url),
        created_at: provider.created.into(),
    }
}

const fn yes() -> bool {
    true
}

impl TryFrom<IdentityProviderInput> for ProviderDraft {
    type Error = UseCaseError;

    fn try_from(input: IdentityProviderInput) -> Result<Self, UseCaseError> {
        let protocol = match (input.oidc, input.oauth2) {
            (Some(OidcView { issuer }), None) => ProviderProtocol::Oidc { issuer },
            (None, Some(found)) => ProviderProtocol::OAuth2 {
                authorize: found.authorize_url,
                token: found.token_url,
                userinfo: found.userinfo_url,
            },
            (Some(_), Some(_)) | (None, None) => {
                return Err(UseCaseError::field("oidc", "give one of `oidc` and `oauth2`"));
            }
        };
        let group_roles = input.group_roles.into_iter();
        Ok(Self {
            server_wide: input.server_wide,
            name: input.name.0,
            protocol,
            client_id: input.client_id,
            client_secret: input.client_secret.map(Secret::new),
            scopes: input.scopes,
            claims: input.claims.into(),
            provision: input.provision,
            require_verified: input.require_verified,
            link_verified: input.link_verified,
            multi_factor: input.multi_factor,
            default_roles: input.default_roles.into_iter().map(|role| role.0).collect(),
            group_roles: group_roles.map(|(group, role)| (group, role.0)).collect(),
        })
    }
}

impl Default for ClaimsView {
    fn default() -> Self {
        ClaimNames::default().into()
    }
}

impl From<ClaimNames> for ClaimsView {
    fn from(names: ClaimNames) -> Self {
        Self {
            subject: names.subject,
            email: names.email,
            email_verified: names.email_verified,
            name: names.name,
            groups: names.groups,
        }
    }
}

impl From<ClaimsView> for ClaimNames {
    fn from(view: ClaimsView) -> Self {
        Self {
            subject: view.subject,
            email: view.email,
            email_verified: view.email_verified,
            name: view.name,
            groups: view.groups,
        }
    }
}
