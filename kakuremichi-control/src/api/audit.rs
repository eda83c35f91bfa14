//! The audit.

use axum::{
    Extension, Json,
    body::Body,
    extract::{FromRequestParts, Query, State},
    http::{HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use data_encoding::HEXLOWER;
use kakuremichi_core::{
    audit::{AuditLink, AuditQuery, AuditRow},
    store::{MAX_PAGE, RecordId},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};

use super::{
    App,
    page::{Page, feed_cursor},
    problem::Problem,
    schema,
    text::TimeText,
};
use crate::{
    service::{Actor, AuditFormat, FieldError, LinkText},
    text::Text,
};

/// How many entries a part has if the caller does not say.
const USUAL: usize = 100;

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditFilter {
    /// Only those by this one: `usr_…`, `key_…`, a node.
    actor: Option<String>,
    /// Only those of this action, such as `service.create`, or of all that begin so, such as `service.`.
    action: Option<String>,
    /// Only those that were done to this.
    #[param(inline, value_type = Option<schema::AnyId>)]
    subject: Option<Text<RecordId>>,
    /// Only those from this time on.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<TimeText>,
    /// Only those before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<TimeText>,
    /// `newest` (usual) or `oldest` first. An export is oldest first.
    #[serde(default)]
    #[param(inline)]
    first: First,
    /// At most so many. Not of an export.
    #[param(ignore)]
    limit: Option<usize>,
    /// The `next_cursor` of the part before. Not of an export.
    #[param(ignore)]
    cursor: Option<String>,
    /// Of an export.
    #[param(ignore)]
    format: Option<Format>,
}

/// Which entries come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum First {
    /// The newest.
    #[default]
    Newest,
    /// The oldest.
    Oldest,
}

/// The text of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// A JSON object in each line.
    Jsonl,
    /// Comma-separated values; what a spreadsheet would take for a formula has an apostrophe in front.
    Csv,
}

/// What is pinned.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Pin {
    /// A head that an earlier check gave: it must still be in the chain.
    #[param(value_type = Option<String>)]
    head: Option<Text<LinkText>>,
}

/// An entry of the audit.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditView {
    /// Its place: a number, as text since it can have more digits than a program reads exactly.
    sequence: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: TimeText,
    /// Who vouches for the actor: `user`, `api-key`, `node`, or an authenticator.
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    /// Who; absent when Control itself, or its command line, did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    /// What.
    #[schema(example = "service.create")]
    action: String,
    /// To what.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// Its link of the chain (SHA-256); absent until it is sealed, moments after it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

/// Whether the audit is what was sealed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerificationView {
    /// Whether it is.
    intact: bool,
    /// How many entries are sealed, when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<u64>,
    /// How many of the newest are not yet, when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsealed: Option<u64>,
    /// The link behind which the audit begins, when it is and older entries were pruned.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    /// The newest link, when it is: keep it elsewhere, and give it to a later check.
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<String>,
    /// The first entry at which it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// What is wrong there.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

/// What stands behind the `?`, each part by its name; what has another name is refused.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let asked = Query::<T>::from_request_parts(parts, state).await;
        asked.map(|Query(asked)| Self(asked)).map_err(|rejection| {
            let message = rejection.body_text();
            Problem::fields(vec![FieldError::new("query", message)])
        })
    }
}

/// Lists entries of the audit.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit",
    params(AuditFilter,
           ("limit" = Option<u16>, Query, description = "At most so many: 1 to 500, usually 100"),
           ("cursor" = Option<String>, Query, description = "The `next_cursor` of the part before")),
    responses((status = 200, body = Page<AuditView>), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Asked(filter): Asked<AuditFilter>,
) -> Result<Json<Page<AuditView>>, Problem> {
    if filter.format.is_some() {
        return Err(wrong("format", "only an export has one: `/audit/export`"));
    }
    let query = filter.query()?;
    let limit = query.page();
    let rows = app.use_cases.audit(&actor, query).await?;
    let next = rows
        .last()
        .filter(|_| rows.len() >= limit)
        .map(|row| row.sequence);
    Ok(Json(Page::of_feed(
        rows.into_iter().map(AuditView::from).collect(),
        next,
    )))
}

/// Writes entries of the audit as text, oldest first: those that are there when it begins.
#[utoipa::path(get, path = "/api/v1/audit/export", tag = "audit",
    params(AuditFilter,
           ("format" = inline(Option<Format>), Query, description = "`jsonl` (usual) or `csv`")),
    responses((status = 200, content((String = "application/jsonl"), (String = "text/csv"))), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn export(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Asked(filter): Asked<AuditFilter>,
) -> Result<Response, Problem> {
    for (name, given) in [
        ("limit", filter.limit.is_some()),
        ("cursor", filter.cursor.is_some()),
    ] {
        if given {
            return Err(wrong(
                name,
                "an export is of everything that the filters let through",
            ));
        }
    }
    let (format, kind) = match filter.format {
        Some(Format::Csv) => (AuditFormat::Csv, "text/csv; charset=utf-8"),
        Some(Format::Jsonl) | None => (AuditFormat::JsonLines, "application/jsonl"),
    };
    let query = AuditQuery {
        organization: Some(actor.organization),
        ..filter.query()?
    };
    let body = Body::from_stream(app.use_cases.export_audit(query, format));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment"),
        ),
    ];
    Ok((headers, body).into_response())
}

/// Checks the audit of the whole Control: whether each entry is what was sealed, and none is missing.
#[utoipa::path(get, path = "/api/v1/audit/verify", tag = "audit", params(Pin),
    responses((status = 200, body = VerificationView), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn verify(
    State(app): State<App>,
    Asked(pin): Asked<Pin>,
) -> Result<Json<VerificationView>, Problem> {
    let verified = app.use_cases.verify_audit(pin.head.map(|head| head.0.0)).await?;
    Ok(Json(match verified {
        Ok(verified) => VerificationView {
            intact: true,
            sealed: Some(verified.sealed),
            unsealed: Some(verified.unsealed),
            start: (verified.start != AuditLink::default()).then(|| LinkText(verified.start).to_string()),
            head: Some(LinkText(verified.head).to_string()),
            at: None,
            fault: None,
        },
        Err(fault) => VerificationView {
            intact: false,
            sealed: None,
            unsealed: None,
            start: None,
            head: None,
            at: Some(fault.at().0.to_string()),
            fault: Some(fault.to_string()),
        },
    }))
}

fn wrong(field: &str, message: &str) -> Problem {
    Problem::fields(vec![FieldError::new(field, message)])
}

impl AuditFilter {
    fn query(self) -> Result<AuditQuery, Problem> {
        let limit = self.limit.unwrap_or(USUAL);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(wrong("limit", &format!("a number from 1 to {MAX_PAGE}")));
        }
        let after = match self.cursor {
            Some(text) => Some(
                feed_cursor(&text)
                    .ok_or_else(|| wrong("cursor", "give the `next_cursor` of the part before, unchanged"))?,
            ),
            None => None,
        };
        Ok(AuditQuery {
            after,
            newest_first: self.first == First::Newest,
            organization: None,
            actor: self.actor,
            action: self.action,
            subject: self.subject.map(|subject| subject.0),
            from: self.from.map(|at| at.timestamp()),
            to: self.to.map(|at| at.timestamp()),
            limit,
        })
    }
}

impl From<AuditRow> for AuditView {
    fn from(row: AuditRow) -> Self {
        let (authority, actor) = row
            .entry
            .actor
            .map(|actor| (actor.authority().to_owned(), actor.subject().to_owned()))
            .unzip();
        Self {
            sequence: row.sequence.0.to_string(),
            at: row.entry.at.into(),
            authority,
            actor,
            action: row.entry.action,
            subject: row.entry.subject.map(|id| id.to_string()),
            hash: row.hash.map(|hash| HEXLOWER.encode(&hash)),
        }
    }
}
