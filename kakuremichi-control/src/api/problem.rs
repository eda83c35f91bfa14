//! Errors, as `application/problem+json` (RFC 9457).

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use kakuremichi_core::code::Code;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::MAX_BODY;
use crate::service::{FieldError, UseCaseError};

/// Why a request was not done.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// A URI of the kind of problem: `urn:kakuremichi:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// What went wrong, in general.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What went wrong here, and what can be done.
    detail: String,
    /// The stable code, `KKM-…`.
    #[schema(value_type = String)]
    code: &'static str,
    /// The fields that are not valid.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem>,
    /// Seconds after which the same request may succeed; for the header.
    #[serde(skip)]
    retry_after: u64,
}

/// A field that is not valid.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct FieldProblem {
    /// Its place in the request: `http.routes[0].targets[1].agent`.
    field: String,
    /// What is wrong, and what would be right.
    message: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:kakuremichi:{code}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.as_str(),
            errors: Vec::new(),
            retry_after: u64::from(status == StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    pub(super) fn fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("`{}`: {}", one.field, one.message),
            _ => format!("{} fields are not valid", errors.len()),
        };
        let errors = errors.into_iter().map(|error| FieldProblem {
            field: error.field,
            message: error.message,
        });
        Self {
            errors: errors.collect(),
            ..Self::new(StatusCode::BAD_REQUEST, Code::REQUEST_INVALID, detail)
        }
    }

    pub(super) fn body_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::TOO_LARGE,
            format!("a body has at most {MAX_BODY} bytes, and has to arrive whole"),
        )
    }

    /// Too many requests: another one is taken in so many seconds.
    pub(super) fn too_many_requests(wait: u64) -> Response {
        let detail = format!("too many requests: send the next one in {wait} seconds");
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, Code::RATE, detail);
        problem.retry_after = wait;
        problem.into_response()
    }

    pub(super) fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Code::UNAUTHENTICATED,
            "show an API key or a session that is good: `Authorization: Bearer kkm_…`",
        )
    }
}

/// The HTTP status and the sentence of an error, for a page.
pub(crate) fn status_of(error: UseCaseError) -> (StatusCode, String) {
    let problem = Problem::from(error);
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, problem.detail)
}

impl From<UseCaseError> for Problem {
    fn from(error: UseCaseError) -> Self {
        let code = error.code();
        let status = match &error {
            UseCaseError::Invalid(errors) => return Self::fields(errors.clone()),
            UseCaseError::NotFound(_) | UseCaseError::NoPasskey => StatusCode::NOT_FOUND,
            UseCaseError::Stale => StatusCode::PRECONDITION_FAILED,
            UseCaseError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            UseCaseError::TooManyAttempts(wait) => {
                let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, code, error.sentence());
                problem.retry_after = wait.as_secs() + 1;
                return problem;
            }
            UseCaseError::WrongCredentials
            | UseCaseError::SecondFactor
            | UseCaseError::SignInOver
            | UseCaseError::PasskeyRefused => StatusCode::UNAUTHORIZED,
            UseCaseError::SessionAge => StatusCode::UNAUTHORIZED,
            UseCaseError::ProviderBroken(source) => {
                tracing::warn!(
                    error = &**source as &dyn std::error::Error,
                    "an identity provider failed"
                );
                StatusCode::BAD_GATEWAY
            }
            UseCaseError::MultiFactor
            | UseCaseError::NoPasswords
            | UseCaseError::OtherOrganization
            | UseCaseError::Provider(_)
            | UseCaseError::Exceeds(_)
            | UseCaseError::NoAdministrator
            | UseCaseError::NoPerson
            | UseCaseError::NoMember
            | UseCaseError::SignInAgain
            | UseCaseError::WrongPassword => StatusCode::FORBIDDEN,
            UseCaseError::ChooseOrganization => StatusCode::BAD_REQUEST,
            UseCaseError::Store(_) | UseCaseError::Random => {
                // What exactly failed is for the log, not for whoever asked.
                tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
            UseCaseError::Taken(_)
            | UseCaseError::Contended
            | UseCaseError::InUse(_)
            | UseCaseError::Declared(_)
            | UseCaseError::Limit(_)
            | UseCaseError::Bound(..)
            | UseCaseError::Repeated
            | UseCaseError::Token(_)
            | UseCaseError::NodeUnknown
            | UseCaseError::NodeRevoked
            | UseCaseError::NodePending
            | UseCaseError::ManyPending
            | UseCaseError::NotPending
            | UseCaseError::NodeKey
            | UseCaseError::PreviousKeys
            | UseCaseError::WireGuardKeyKnown
            | UseCaseError::WireGuardKeyWanted
            | UseCaseError::ScopeNone
            | UseCaseError::ScopeHost(_)
            | UseCaseError::ScopePort(_)
            | UseCaseError::NameTaken(_)
            | UseCaseError::DeclareLimit(_)
            | UseCaseError::BuiltIn
            | UseCaseError::HasMembers
            | UseCaseError::NotEmpty
            | UseCaseError::LastAdministrator
            | UseCaseError::Link
            | UseCaseError::NoMail
            | UseCaseError::NoPasskeys
            | UseCaseError::LastFactor(_)
            | UseCaseError::Invitation => StatusCode::CONFLICT,
        };
        Self::new(status, code, error.sentence())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.retry_after > 0 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after));
        }
        response
    }
}
