//! Lists, part by part.

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use data_encoding::BASE64URL_NOPAD;
use kakuremichi_core::store::{MAX_PAGE, RecordId, Sequence};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    filter::{Filter, Parameters},
    problem::Problem,
};
use crate::service::{FieldError, Listing};

/// How many items a part has if the caller does not say.
const USUAL: usize = 100;

/// Which part of a list.
pub(super) struct Part<F> {
    pub(super) after: Option<RecordId>,
    pub(super) limit: usize,
    filter: F,
}

impl<F> Part<F> {
    /// Whether an item of the list is wanted.
    pub(super) fn admits<T>(&self, item: &T) -> bool
    where
        F: Filter<T>,
    {
        self.filter.admits(item)
    }
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    items: Vec<T>,
    /// Give this as `cursor` to get the next part; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl<T> Page<T> {
    pub(super) fn of<E>(
        listing: Listing<E>,
        item: impl FnMut(kakuremichi_core::store::Stored<E>) -> T,
    ) -> Self {
        Self {
            items: listing.items.into_iter().map(item).collect(),
            next_cursor: listing
                .next
                .map(|id| BASE64URL_NOPAD.encode(id.to_string().as_bytes())),
        }
    }

    /// A page of a feed, the next part of which begins behind `next`.
    pub(super) fn of_feed(items: Vec<T>, next: Option<Sequence>) -> Self {
        Self {
            items,
            next_cursor: next.map(|next| BASE64URL_NOPAD.encode(&next.0.to_be_bytes())),
        }
    }

    /// A page of items that are made already.
    pub(super) fn made(items: Vec<T>, next: Option<RecordId>) -> Self {
        Self {
            items,
            next_cursor: next.map(|id| BASE64URL_NOPAD.encode(id.to_string().as_bytes())),
        }
    }
}

impl<S: Sync, F: Parameters> FromRequestParts<S> for Part<F> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut part = Self {
            after: None,
            limit: USUAL,
            filter: F::default(),
        };
        let mut filters = Vec::new();
        let pairs = parts.uri.query().unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("limit", text) => {
                    let limit = text.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                    part.limit =
                        limit.ok_or_else(|| wrong("limit", format!("a number from 1 to {MAX_PAGE}")))?;
                }
                ("cursor", text) => {
                    part.after = Some(cursor(text).ok_or_else(|| {
                        wrong("cursor", "give the `next_cursor` of the part before, unchanged")
                    })?);
                }
                (name, _) if F::NAMES.contains(&name) => {
                    // Of one alone it is known which one is wrong.
                    read::<F>(pair).map_err(|message| wrong(name, message))?;
                    filters.push(pair);
                }
                (other, _) => {
                    let names: Vec<_> = ["limit", "cursor"].iter().chain(F::NAMES).collect();
                    let names: String = names.iter().map(|name| format!(" `{name}`")).collect();
                    return Err(wrong(
                        other,
                        format!("there is no such parameter; there are:{names}"),
                    ));
                }
            }
        }
        part.filter = read(&filters.join("&")).map_err(|message| wrong("query", message))?;
        Ok(part)
    }
}

fn wrong(field: &str, message: impl std::fmt::Display) -> Problem {
    Problem::fields(vec![FieldError::new(field, message)])
}

fn read<F: Parameters>(query: &str) -> Result<F, String> {
    let uri = format!("/?{query}")
        .parse()
        .map_err(|_| "it is no query".to_owned())?;
    Query::try_from_uri(&uri)
        .map(|Query(filter)| filter)
        .map_err(|rejection| rejection.body_text())
}

/// The place in a feed that a cursor of [`Page::of_feed`] stands for.
pub(super) fn feed_cursor(text: &str) -> Option<Sequence> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    Some(Sequence(u64::from_be_bytes(bytes.try_into().ok()?)))
}

fn cursor(text: &str) -> Option<RecordId> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}
