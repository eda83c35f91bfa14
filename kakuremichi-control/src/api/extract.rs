//! What handlers take from a request.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use axum::{
    body::to_bytes,
    extract::{ConnectInfo, FromRequest, FromRequestParts, RawPathParams, Request},
    http::{Extensions, HeaderMap, StatusCode, header, request::Parts},
};
use data_encoding::HEXLOWER;
use kakuremichi_core::{code::Code, store::Version};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::problem::Problem;
use crate::service::{FieldError, OrganizationChoice, Whereabouts};

/// In which organization a person acts, who is in several.
pub(super) const ORGANIZATION: &str = "kakuremichi-organization";

/// The largest body of a request, in bytes. A larger one is refused.
pub const MAX_BODY: usize = 1024 * 1024;

/// A JSON body. What is wrong with it is said of the field.
pub(super) struct Body<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Code::REQUEST_INVALID,
                "send JSON, with `Content-Type: application/json`",
            ));
        }
        let bytes = to_bytes(request.into_body(), MAX_BODY)
            .await
            .map_err(|_| Problem::body_too_large())?;
        // serde takes an array of the fields for an object, too, and the document does not.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            let error = FieldError::new("body", "send a JSON object");
            return Err(Problem::fields(vec![error]));
        }
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let body = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let field = match error.path().to_string().as_str() {
                "." => "body".to_owned(),
                path => path.to_owned(),
            };
            Problem::fields(vec![FieldError::new(field, error.inner())])
        })?;
        json.end()
            .map_err(|error| Problem::fields(vec![FieldError::new("body", error)]))?;
        Ok(Self(body))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The identifier in the path. What cannot be one is of nothing that exists.
pub(super) struct Id<T>(pub(super) T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // By name: Control can be mounted below a path that has parameters of its own.
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let text = params
            .as_ref()
            .and_then(|params| params.iter().find(|(name, _)| *name == "id"));
        text.and_then(|(_, text)| text.parse().ok())
            .map(Self)
            .ok_or_else(|| {
                Problem::new(
                    StatusCode::NOT_FOUND,
                    Code::NOT_FOUND,
                    "nothing has this identifier",
                )
            })
    }
}

/// The version that the caller saw, if it says: `If-Match` with what `ETag` said.
pub(super) struct IfMatch(pub(super) Option<Version>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else {
            return Ok(Self(None));
        };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        let tag = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        // What may stand behind the version is of what was shown beside the record.
        let number = tag.map(|tag| tag.split_once('.').map_or(tag, |(number, _)| number));
        match number.and_then(|number| number.parse().ok()) {
            Some(version) => Ok(Self(Some(Version(version)))),
            None => Err(Problem::fields(vec![FieldError::new(
                "If-Match",
                "give back the `ETag` of the answer that you changed, quotes included",
            )])),
        }
    }
}

/// Where the caller is.
pub(crate) struct At(pub(crate) Whereabouts);

impl<S: Sync> FromRequestParts<S> for At {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let user_agent = parts.headers.get(header::USER_AGENT);
        Ok(Self(Whereabouts {
            source: client_address(&parts.extensions),
            user_agent: user_agent
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .unwrap_or_default(),
        }))
    }
}

/// The organization that the caller names in the header [`ORGANIZATION`], by identifier or name.
pub(super) fn organization_choice(headers: &HeaderMap) -> Result<Option<OrganizationChoice>, Problem> {
    let Some(value) = headers.get(ORGANIZATION) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    if let Ok(id) = text.parse() {
        return Ok(Some(OrganizationChoice::Id(id)));
    }
    let named = text.parse().map(OrganizationChoice::Name);
    named.map(Some).map_err(|_| {
        Problem::fields(vec![FieldError::new(
            "Kakuremichi-Organization",
            "give the identifier or the name of an organization",
        )])
    })
}

/// Where a request comes from, if the server that Control is mounted in tells.
pub(super) fn client_address(extensions: &Extensions) -> Option<IpAddr> {
    let info = extensions.get::<ConnectInfo<SocketAddr>>();
    info.map(|ConnectInfo(address)| address.ip())
}

/// The `ETag` of a view that shows more than its record: it is another one too when only that is.
pub(super) fn etag_of(version: Version, view: &impl Serialize) -> [(header::HeaderName, String); 1] {
    let text = serde_json::to_vec(view).unwrap_or_default();
    let digest = Sha256::digest(&text);
    let digest = HEXLOWER.encode(&digest[..8]);
    [(header::ETAG, format!("\"{}.{digest}\"", version.0))]
}

/// The `ETag` of a version.
pub(super) fn etag(version: Version) -> [(header::HeaderName, String); 1] {
    [(header::ETAG, format!("\"{}\"", version.0))]
}
