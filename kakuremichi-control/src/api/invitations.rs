//! Inviting people, and accepting.

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use kakuremichi_core::{
    email::EmailAddress,
    id::{GroupId, InvitationId, RoleId},
    model::{Invitation, PersonName},
    secret::Secret,
};
use kakuremichi_proto::identity::InvitationText;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{At, Body, Id, IfMatch, etag},
    filter::{Filter, Parameters, Search, holds},
    idempotency::SHOWN_ONCE,
    members::{listed, place},
    page::{Page, Part},
    problem::Problem,
    schema,
    sessions::NewSessionView,
    text::TimeText,
};
use crate::{
    service::{AcceptDraft, Actor, InvitationDraft, UseCaseError, parse_email},
    text::Text,
};

/// An invitation to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InvitationInput {
    /// Who is meant.
    #[schema(example = "anna@example.net")]
    email: String,
    /// The identifiers of the roles that the person gets.
    #[schema(value_type = Vec<schema::RoleId>)]
    roles: Vec<Text<RoleId>>,
    /// The identifiers of the groups that the person gets.
    #[schema(value_type = Vec<schema::GroupId>)]
    #[serde(default)]
    groups: Vec<Text<GroupId>>,
}

/// An invitation, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvitationView {
    /// Its identifier.
    #[schema(example = "inv_aebagbafaydqqcikbmga2dqpca")]
    id: String,
    /// Who is meant; absent of the invitation of the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    /// The identifiers of the roles that the person gets.
    roles: Vec<String>,
    /// The identifiers of the groups that the person gets.
    groups: Vec<String>,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    expires_at: TimeText,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// An invitation that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewInvitationView {
    /// What the person needs to accept. It is shown this once.
    #[schema(example = "kkm_invite_…")]
    invitation: String,
    /// What it is from now on.
    #[serde(flatten)]
    view: InvitationView,
}

/// Who accepts.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AcceptInput {
    /// The invitation's text.
    #[schema(example = "kkm_invite_…")]
    invitation: String,
    /// The address of the account. It may be absent where the invitation says who is meant.
    #[schema(example = "anna@example.net")]
    email: Option<String>,
    /// What the person is called.
    #[schema(value_type = String, example = "Anna")]
    name: Text<PersonName>,
    /// The password of the account: at least 12 characters.
    #[schema(format = Password)]
    password: String,
}

/// Which invitations are wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct InvitationFilter {
    /// Only those to an address that contains this, whatever its case: 1 to 100 characters.
    #[param(inline, value_type = Option<schema::Search>)]
    search: Option<Text<Search>>,
}

impl Parameters for InvitationFilter {
    const NAMES: &'static [&'static str] = &["search"];
}

impl Filter<Invitation> for InvitationFilter {
    fn admits(&self, invitation: &Invitation) -> bool {
        holds(self.search.as_ref(), |search| {
            search
                .0
                .finds(invitation.email.as_ref().map(|email| email.as_str()))
        })
    }
}

/// Lists the invitations.
#[utoipa::path(get, path = "/api/v1/invitations", tag = "invitations",
    params(InvitationFilter,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<InvitationView>), (status = 401, body = Problem),
              (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<InvitationFilter>,
) -> Result<Json<Page<InvitationView>>, Problem> {
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &Invitation| {
            part.admits(item)
        })
        .await?;
    Ok(Json(Page::of(listing, |stored| stored.value.into())))
}

/// Invites somebody.
#[utoipa::path(post, path = "/api/v1/invitations", tag = "invitations", request_body = InvitationInput,
    responses((status = 201, body = NewInvitationView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<InvitationInput>,
) -> Result<impl IntoResponse, Problem> {
    let draft = InvitationDraft {
        email: email(&input.email)?,
        place: place(input.roles, input.groups),
    };
    let made = app.use_cases.invite(&actor, draft).await?;
    let version = made.invitation.version;
    let view = NewInvitationView {
        invitation: made.text.expose().clone(),
        view: made.invitation.value.into(),
    };
    Ok((StatusCode::CREATED, SHOWN_ONCE, etag(version), Json(view)))
}

/// Accepts an invitation with a new account, which is signed in.
#[utoipa::path(post, path = "/api/v1/invitations/accept", tag = "invitations", request_body = AcceptInput,
    responses((status = 201, body = NewSessionView), (status = 400, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn accept(
    State(app): State<App>,
    At(at): At,
    Body(input): Body<AcceptInput>,
) -> Result<impl IntoResponse, Problem> {
    let invitation: InvitationText = input.invitation.parse().map_err(|_| UseCaseError::Invitation)?;
    let draft = AcceptDraft {
        invitation,
        email: input.email.as_deref().map(email).transpose()?,
        name: input.name.0,
        password: Secret::new(input.password),
    };
    let begun = app.use_cases.accept_invitation(draft, at).await?;
    Ok((StatusCode::CREATED, Json(NewSessionView::from(begun))))
}

/// Reads an invitation.
#[utoipa::path(get, path = "/api/v1/invitations/{id}", tag = "invitations", params(("id" = String, Path)),
    responses((status = 200, body = InvitationView), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<InvitationId>,
) -> Result<impl IntoResponse, Problem> {
    let invitation = app.use_cases.invitation(&actor, id).await?;
    Ok((
        etag(invitation.version),
        Json(InvitationView::from(invitation.value)),
    ))
}

/// Takes an invitation back.
#[utoipa::path(delete, path = "/api/v1/invitations/{id}", tag = "invitations", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<InvitationId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_invitation(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn email(text: &str) -> Result<EmailAddress, UseCaseError> {
    parse_email(text).map_err(|message| UseCaseError::field("email", message))
}

impl From<Invitation> for InvitationView {
    fn from(invitation: Invitation) -> Self {
        Self {
            id: invitation.id.to_string(),
            email: invitation.email.as_ref().map(ToString::to_string),
            roles: listed(&invitation.roles),
            groups: listed(&invitation.groups),
            expires_at: invitation.expires.into(),
            created_at: invitation.created.into(),
        }
    }
}
