//! Notification channels: where an organization hears of what happens.

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kakuremichi_core::{
    id::ChannelId,
    model::{Channel, ChannelTarget},
    name::Label,
    store::Stored,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::{Body, Id, IfMatch, etag, etag_of},
    filter::ByName,
    idempotency::SHOWN_ONCE,
    page::{Page, Part},
    problem::Problem,
    schema,
    text::TimeText,
};
use crate::{
    service::{
        Actor, ChannelDraft, ChannelTargetDraft, DeliveryState, FieldError, WrittenChannel, parse_email,
    },
    text::Text,
};

/// A notification channel to be. Give one of `webhook` and `mail`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NotificationChannelInput {
    /// Its name, unique in the organization.
    #[schema(value_type = schema::Name, example = "siem")]
    name: Text<Label>,
    /// Where events are sent by POST, as JSON, signed as Standard Webhooks has it; at a public address unless whoever
    /// runs this Control allows private ones. What answers 2xx has taken them; otherwise they come again.
    #[schema(example = "https://hooks.example.net/kakuremichi")]
    webhook: Option<String>,
    /// To which members events are mailed.
    #[schema(min_items = 1, max_items = 16)]
    mail: Option<Vec<String>>,
    /// The events that are sent: actions of the audit such as `node.down`, or all that begin with `node.`. All when
    /// there are none: then the channel is a stream of the audit.
    #[serde(default)]
    #[schema(value_type = Vec<schema::EventName>, max_items = 32,
             example = json!(["node.", "sign_in.", "certificate."]))]
    events: Vec<String>,
    /// Of a change: whether a webhook gets another secret. Only requests from then on are signed with it.
    #[serde(default)]
    new_secret: bool,
}

/// A notification channel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NotificationChannelView {
    /// Its identifier.
    id: String,
    /// Its name.
    name: String,
    /// Where events are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<String>,
    /// To which members events are mailed.
    #[serde(skip_serializing_if = "Option::is_none")]
    mail: Option<Vec<String>>,
    /// The events that are sent; all when there are none.
    events: Vec<String>,
    /// What requests are signed with, shown this once: `whsec_` and the key in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// How delivery goes; absent in answers to a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<DeliveryView>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: TimeText,
}

/// How delivery on a notification channel goes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryView {
    /// The last entry of the audit that was delivered, or is not for this channel; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<String>,
    /// When something was delivered last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    delivered_at: Option<TimeText>,
    /// How many attempts failed since then. Another one follows after a second, and then after twice as long each time,
    /// at most 5 minutes.
    failures: u32,
    /// When the first of these was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    failing_since: Option<TimeText>,
    /// Why the last attempt failed; or which of several addresses the mail server refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What became of a test.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NotificationTestView {
    /// Whether it was taken.
    delivered: bool,
    /// Why it was not; or which of several addresses the mail server refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Lists the notification channels.
#[utoipa::path(get, path = "/api/v1/notification-channels", tag = "notification-channels",
    params(ByName,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<NotificationChannelView>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    part: Part<ByName>,
) -> Result<Json<Page<NotificationChannelView>>, Problem> {
    let listing = app
        .use_cases
        .list(&actor, part.after, part.limit, |item: &Channel| part.admits(item))
        .await?;
    let next = listing.next;
    let mut items = Vec::with_capacity(listing.items.len());
    for Stored { value, .. } in listing.items {
        let delivery = app.use_cases.delivery_state(&value).await?;
        items.push(view(value, Some(delivery)));
    }
    Ok(Json(Page::made(items, next)))
}

/// Makes a notification channel. It is sent what happens from now on, in its order, everything at least once.
#[utoipa::path(post, path = "/api/v1/notification-channels", tag = "notification-channels", request_body = NotificationChannelInput,
    responses((status = 201, body = NotificationChannelView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<NotificationChannelInput>,
) -> Result<impl IntoResponse, Problem> {
    let made = app.use_cases.create_channel(&actor, input.try_into()?).await?;
    Ok(answer(StatusCode::CREATED, made))
}

/// Reads a notification channel.
#[utoipa::path(get, path = "/api/v1/notification-channels/{id}", tag = "notification-channels", params(("id" = String, Path)),
    responses((status = 200, body = NotificationChannelView), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ChannelId>,
) -> Result<impl IntoResponse, Problem> {
    let channel = app.use_cases.channel(&actor, id).await?;
    let delivery = app.use_cases.delivery_state(&channel.value).await?;
    let view = view(channel.value, Some(delivery));
    Ok((etag_of(channel.version, &view), Json(view)))
}

/// Changes a notification channel, which goes on where it was.
#[utoipa::path(put, path = "/api/v1/notification-channels/{id}", tag = "notification-channels", params(("id" = String, Path)),
    request_body = NotificationChannelInput,
    responses((status = 200, body = NotificationChannelView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
              (status = 412, body = Problem)))]
pub(super) async fn update(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ChannelId>,
    IfMatch(expected): IfMatch,
    Body(input): Body<NotificationChannelInput>,
) -> Result<impl IntoResponse, Problem> {
    let changed = app
        .use_cases
        .change_channel(&actor, id, input.try_into()?, expected)
        .await?;
    Ok(answer(StatusCode::OK, changed))
}

/// Deletes a notification channel.
#[utoipa::path(delete, path = "/api/v1/notification-channels/{id}", tag = "notification-channels", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ChannelId>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    app.use_cases.delete_channel(&actor, id, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a test on a notification channel, once, and says what became of it.
#[utoipa::path(post, path = "/api/v1/notification-channels/{id}/test", tag = "notification-channels", params(("id" = String, Path)),
    responses((status = 200, body = NotificationTestView), (status = 401, body = Problem), (status = 403, body = Problem),
              (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn test(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<ChannelId>,
) -> Result<Json<NotificationTestView>, Problem> {
    let error = app.use_cases.test_channel(&actor, id).await?;
    Ok(Json(NotificationTestView {
        delivered: error.is_none(),
        error,
    }))
}

fn answer(status: StatusCode, written: WrittenChannel) -> Response {
    let tag = etag(written.channel.version);
    let shown = written.secret.map(|secret| secret.expose().clone());
    let once = shown.is_some();
    let view = NotificationChannelView {
        secret: shown,
        ..view(written.channel.value, None)
    };
    match once {
        true => (status, SHOWN_ONCE, tag, Json(view)).into_response(),
        false => (status, tag, Json(view)).into_response(),
    }
}

fn view(channel: Channel, delivery: Option<DeliveryState>) -> NotificationChannelView {
    let (webhook, mail) = match channel.target {
        ChannelTarget::Webhook { url, .. } => (Some(url), None),
        ChannelTarget::Mail(to) => (None, Some(to.iter().map(ToString::to_string).collect())),
    };
    NotificationChannelView {
        id: channel.id.to_string(),
        name: channel.name.to_string(),
        webhook,
        mail,
        events: channel.events,
        secret: None,
        delivery: delivery.map(Into::into),
        created_at: channel.created.into(),
    }
}

impl From<DeliveryState> for DeliveryView {
    fn from(state: DeliveryState) -> Self {
        Self {
            sequence: state.sequence.map(|sequence| sequence.0.to_string()),
            delivered_at: state.delivered.map(Into::into),
            failures: state.failures,
            failing_since: state.failing_since.map(Into::into),
            error: state.error,
        }
    }
}

impl TryFrom<NotificationChannelInput> for ChannelDraft {
    type Error = Problem;

    fn try_from(input: NotificationChannelInput) -> Result<Self, Problem> {
        let wrong = |field: String, message: &str| Problem::fields(vec![FieldError::new(field, message)]);
        let target = match (input.webhook, input.mail) {
            (Some(url), None) => ChannelTargetDraft::Webhook(url),
            (None, Some(to)) => {
                let to = to.iter().enumerate().map(|(at, text)| {
                    parse_email(text).map_err(|error| wrong(format!("mail[{at}]"), &error))
                });
                ChannelTargetDraft::Mail(to.collect::<Result<_, _>>()?)
            }
            (Some(_), Some(_)) | (None, None) => {
                return Err(wrong("webhook".to_owned(), "give either `webhook` or `mail`"));
            }
        };
        Ok(Self {
            name: input.name.0,
            target,
            events: input.events,
            new_secret: input.new_secret,
        })
    }
}
