//! The audit as text, entry by entry.

use std::borrow::Cow;

use data_encoding::HEXLOWER;
use futures_util::{Stream, stream::try_unfold};
use kakuremichi_core::{
    audit::{AuditQuery, AuditRow},
    store::{Sequence, Store, StoreError},
};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::service::{UseCaseError, UseCases};

/// The most exports and checks of the audit at once. One more is told to come back.
pub const MAX_EXPORTS: usize = 4;

/// The text of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditFormat {
    /// A JSON object in each line.
    JsonLines,
    /// Comma-separated values (RFC 4180) with a line of names in front.
    Csv,
}

/// The places of those who go through the whole audit.
#[derive(Debug)]
pub(in crate::service) struct Exports(Semaphore);

impl Default for Exports {
    fn default() -> Self {
        Self(Semaphore::new(MAX_EXPORTS))
    }
}

impl Exports {
    pub(super) fn enter(&self) -> Result<SemaphorePermit<'_>, UseCaseError> {
        self.0.try_acquire().map_err(|_| UseCaseError::Busy)
    }
}

/// An entry as it is written.
#[derive(Debug, Serialize)]
struct Line<'a> {
    sequence: String,
    at: String,
    authority: Option<&'a str>,
    actor: Option<&'a str>,
    organization: Option<String>,
    action: &'a str,
    subject: Option<String>,
    hash: Option<String>,
}

const NAMES: &str = "sequence,at,authority,actor,organization,action,subject,hash\r\n";

impl UseCases {
    /// Writes the entries that a query is about as text, a page at a time: those that are there when it begins.
    /// The query's order, place and limit do not count. Whoever reads slowly slows it down; nothing piles up.
    ///
    /// # Errors
    /// At its beginning when there are too many already; at any time when the storage fails.
    pub fn export_audit(
        &self,
        query: AuditQuery,
        format: AuditFormat,
    ) -> impl Stream<Item = Result<String, UseCaseError>> + Send + use<> {
        let begin = Export {
            use_cases: self.clone(),
            query: AuditQuery {
                after: Some(Sequence::START),
                newest_first: false,
                limit: 0,
                ..query
            },
            format,
            end: None,
        };
        try_unfold(Some(begin), async |state| {
            let Some(mut export) = state else { return Ok(None) };
            let text = export.page().await?;
            Ok(text.map(|(text, more)| (text, more.then_some(export))))
        })
    }
}

struct Export {
    use_cases: UseCases,
    query: AuditQuery,
    format: AuditFormat,
    /// The last entry that there was when it began.
    end: Option<Sequence>,
}

impl Export {
    /// The next part, and whether there is another.
    async fn page(&mut self) -> Result<Option<(String, bool)>, UseCaseError> {
        let _turn = self.use_cases.0.exports.enter()?;
        let store = self.use_cases.store();
        let mut text = String::new();
        let end = match self.end {
            Some(end) => end,
            None => {
                if self.format == AuditFormat::Csv {
                    text.push_str(NAMES);
                }
                *self.end.insert(newest(store).await?)
            }
        };
        let mut rows = store.audit_rows(&self.query).await?;
        let full = rows.len() >= self.query.page();
        rows.retain(|row| row.sequence <= end);
        for row in &rows {
            match self.format {
                AuditFormat::JsonLines => json_line(&mut text, row),
                AuditFormat::Csv => csv_line(&mut text, row),
            }
        }
        let Some(last) = rows.last() else {
            return Ok((!text.is_empty()).then_some((text, false)));
        };
        self.query.after = Some(last.sequence);
        Ok(Some((text, full && last.sequence < end)))
    }
}

async fn newest(store: &dyn Store) -> Result<Sequence, StoreError> {
    let query = AuditQuery {
        newest_first: true,
        limit: 1,
        ..AuditQuery::default()
    };
    let rows = store.audit_rows(&query).await?;
    Ok(rows.first().map_or(Sequence::START, |row| row.sequence))
}

fn line(row: &AuditRow) -> Line<'_> {
    let at = i128::from(row.entry.at.as_millis()) * 1_000_000;
    let at = OffsetDateTime::from_unix_timestamp_nanos(at).ok();
    Line {
        sequence: row.sequence.0.to_string(),
        at: at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default(),
        authority: row.entry.actor.as_ref().map(|actor| actor.authority()),
        actor: row.entry.actor.as_ref().map(|actor| actor.subject()),
        organization: row.entry.organization.map(|id| id.to_string()),
        action: &row.entry.action,
        subject: row.entry.subject.map(|id| id.to_string()),
        hash: row.hash.map(|hash| HEXLOWER.encode(&hash)),
    }
}

fn json_line(text: &mut String, row: &AuditRow) {
    // Texts only: nothing in it can fail.
    text.push_str(&serde_json::to_string(&line(row)).unwrap_or_default());
    text.push('\n');
}

fn csv_line(text: &mut String, row: &AuditRow) {
    let line = line(row);
    let fields = [
        Some(line.sequence.as_str()),
        Some(line.at.as_str()),
        line.authority,
        line.actor,
        line.organization.as_deref(),
        Some(line.action),
        line.subject.as_deref(),
        line.hash.as_deref(),
    ];
    for (at, field) in fields.into_iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&csv_field(field.unwrap_or_default()));
    }
    text.push_str("\r\n");
}

/// A field that a spreadsheet takes for text: what it would take for a formula gets an apostrophe in front, and
/// what has a meaning in the format is quoted.
fn csv_field(field: &str) -> Cow<'_, str> {
    let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    if !formula && !field.contains([',', '"', '\r', '\n']) {
        return Cow::Borrowed(field);
    }
    let apostrophe = if formula { "'" } else { "" };
    Cow::Owned(format!("\"{apostrophe}{}\"", field.replace('"', "\"\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_of_a_table_is_a_formula() {
        assert_eq!(csv_field("service.create"), "service.create");
        assert_eq!(csv_field("=HYPERLINK(\"x\")"), "\"'=HYPERLINK(\"\"x\"\")\"");
        for formula in ["+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"] {
            assert!(csv_field(formula).starts_with("\"'"), "{formula:?}");
        }
        assert_eq!(csv_field("a,b\nc"), "\"a,b\nc\"");
    }
}
