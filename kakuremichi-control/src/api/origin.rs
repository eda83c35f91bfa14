//! Which names requests may be for, and which pages of others may send them (LESSONS, advisory 15).

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr, time::Duration};

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use kakuremichi_core::{
    code::Code,
    name::Hostname,
    net::{Endpoint, Host},
};
use kakuremichi_proto::identity::CanonicalUrl;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{extract::ORGANIZATION, problem::Problem};

/// How long a browser may remember what it was told about another origin's requests.
const PREFLIGHT_AGE: Duration = Duration::from_secs(10 * 60);

/// The origin of pages in a browser: scheme, host, perhaps a port, such as `https://dash.example.net`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin(String);

/// A text is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an origin is a scheme, a host and perhaps a port, such as `https://dash.example.net`, and each is listed by itself"
)]
pub struct OriginError;

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let url: CanonicalUrl = text.parse().map_err(|_| OriginError)?;
        if !url.path().is_empty() || text.ends_with('/') {
            return Err(OriginError);
        }
        let scheme = if url.is_secure() { "https" } else { "http" };
        Ok(Self(format!("{scheme}://{}", url.authority())))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets pages of these origins, and of no others, read answers. Credentials are never a browser's own: a page has to
/// show one in `Authorization`, like everybody else.
pub(super) fn cross_origin(origins: &BTreeSet<Origin>) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origins = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(&origin.0).ok());
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([
                Method::GET,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                header::IF_MATCH,
                header::IF_NONE_MATCH,
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static(ORGANIZATION),
            ])
            .expose_headers([
                header::ETAG,
                header::RETRY_AFTER,
                HeaderName::from_static("ratelimit"),
                HeaderName::from_static("ratelimit-policy"),
                HeaderName::from_static("idempotency-replayed"),
            ])
            .max_age(PREFLIGHT_AGE),
    )
}

/// The names that requests are for: that of the public URL, those that were listed, `localhost`, and addresses. A
/// page whose own name was made to lead here (DNS rebinding) has another one.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(BTreeSet<Hostname>);

impl Hosts {
    pub(crate) fn new(public: &CanonicalUrl, listed: impl IntoIterator<Item = Hostname>) -> Self {
        let public = match &public.endpoint().host {
            Host::Name(name) => Some(name.clone()),
            Host::Address(_) => None,
        };
        Self(public.into_iter().chain(listed).collect())
    }

    fn allows(&self, authority: &str) -> bool {
        let Ok(endpoint) = Endpoint::parse_with_port(authority, 0) else {
            return false;
        };
        match endpoint.host {
            Host::Address(IpAddr::V4(_) | IpAddr::V6(_)) => true,
            Host::Name(name) => {
                let text = name.as_str();
                text == "localhost" || text.ends_with(".localhost") || self.0.contains(&name)
            }
        }
    }

    /// Refuses requests that are for somebody else. One that names nobody is of no browser.
    pub(super) async fn check(self, request: Request, next: Next) -> Response {
        let named: Vec<_> = request.headers().get_all(header::HOST).iter().collect();
        let authority = request.uri().authority().map(Authority::as_str);
        let right = match (authority, named.as_slice()) {
            (None, []) => true,
            (Some(authority), []) => self.allows(authority),
            (authority, [named]) => {
                let named = named.to_str().unwrap_or_default();
                self.allows(named) && authority.is_none_or(|authority| self.allows(authority))
            }
            (_, [_, ..]) => false,
        };
        if right {
            return next.run(request).await;
        }
        Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            Code::HOST,
            "the request is for a name that is not Control's: use its public URL, or start Control with `--allow-host`",
        )
        .into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_and_an_authority() {
        let origin = |text: &str| text.parse::<Origin>().map(|origin| origin.to_string());
        assert_eq!(
            origin("HTTPS://Dash.Example.net:443").unwrap(),
            "https://dash.example.net"
        );
        assert_eq!(origin("http://[::1]:8080").unwrap(), "http://[::1]:8080");
        for bad in [
            "*",
            "null",
            "",
            "https://a.example/",
            "https://a.example/b",
            "a.example",
            "https://*.example",
        ] {
            assert_eq!(origin(bad), Err(OriginError), "{bad}");
        }
    }

    /// LESSONS, advisory 15: the API wants a token and checks Host.
    #[test]
    fn advisory_15_hosts_are_those_of_control() {
        let public = "https://control.example.net:7443/km".parse().unwrap();
        let hosts = Hosts::new(&public, ["control".parse().unwrap()]);
        for good in [
            "control.example.net",
            "CONTROL.example.net:1",
            "control:8080",
            "localhost:7443",
            "127.0.0.1:7443",
            "[2001:db8::1]:7443",
        ] {
            assert!(hosts.allows(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "control.example.net.evil.example",
            "a b",
            "example.net",
        ] {
            assert!(!hosts.allows(bad), "{bad}");
        }
    }
}
