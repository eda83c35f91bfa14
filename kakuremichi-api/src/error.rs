//! What may go wrong.

use std::{fmt, time::Duration};

use http::StatusCode;
use serde::Deserialize;

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// There was no answer, also not to the repeats that were allowed.
    #[error("Control cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Control refused.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// The answer is none that a Control of this version gives.
    #[error("the answer is none of Control's: {0}")]
    Unreadable(String),
    /// The request cannot be sent: an identifier or a key has characters that it cannot have.
    #[error("this cannot be sent: {0}")]
    Unsendable(String),
}

impl ApiError {
    /// The problem, if Control refused.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            Self::Unreachable(_) | Self::Unreadable(_) | Self::Unsendable(_) => None,
        }
    }

    /// Whether what was asked for is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.problem()
            .is_some_and(|problem| problem.status == StatusCode::NOT_FOUND.as_u16())
    }

    /// Whether somebody else changed it since it was read.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.problem()
            .is_some_and(|problem| problem.status == StatusCode::PRECONDITION_FAILED.as_u16())
    }
}

/// Why Control refused (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable code, `KKM-…`.
    pub code: String,
    /// What went wrong here, and what can be done.
    pub detail: String,
    /// The fields that are not valid.
    #[serde(default)]
    pub errors: Vec<FieldProblem>,
    /// After which time to try again, if Control said so.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

/// A field that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct FieldProblem {
    /// Its place in the request: `http.routes[0].targets[1].agent`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}

impl std::error::Error for Problem {}
