//! What a visitor asks for, read once from what hyper parsed.

use http::{HeaderValue, Method, Request, Version, header, uri::Scheme};
use kakuremichi_core::request::{BadRequest, CanonicalRequest};

use super::headers;

/// The port that needs no mention in a host.
const HTTPS: u16 = 443;

/// A request that can be routed.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The request in its one form.
    pub(crate) canonical: CanonicalRequest,
    /// The host as it is forwarded: canonical, with the port if the visitor named another than 443.
    pub(crate) host: HeaderValue,
    /// The connection is to become a WebSocket.
    pub(crate) websocket: bool,
}

/// Why a request is refused before anything is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request has no canonical form.
    #[error(transparent)]
    Bad(#[from] BadRequest),
    /// CONNECT: the gateway is no proxy for whoever asks (LESSONS, advisory 13).
    #[error("CONNECT is not for services")]
    Connect,
    /// The target has a scheme and an authority, as for a proxy (LESSONS, advisory 13).
    #[error("the request target must be a path")]
    Absolute,
    /// There is not exactly one host, or two that differ.
    #[error("the request must name exactly one host")]
    Hosts,
    /// A protocol version that is not served.
    #[error("this version of HTTP is not served")]
    Version,
}

/// Reads a request.
///
/// # Errors
/// When it is malformed, ambiguous, or meant for a proxy.
pub(crate) fn read<B>(request: &Request<B>) -> Result<Asked, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let authority = authority(request)?;
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let canonical = CanonicalRequest::parse(request.method().as_str(), authority, target)?;
    // The canonical form has no port, but the target may write it into links.
    let host = match authority
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok())
    {
        Some(port) if port != HTTPS => HeaderValue::try_from(format!("{}:{port}", canonical.host())),
        Some(_) | None => HeaderValue::from_str(canonical.host().as_str()),
    };
    Ok(Asked {
        host: host.map_err(|_| Refusal::Hosts)?,
        websocket: request.version() == Version::HTTP_11
            && request.method() == Method::GET
            && headers::asks_for_websocket(request.headers()),
        canonical,
    })
}

/// The one authority that the request names.
fn authority<B>(request: &Request<B>) -> Result<&str, Refusal> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.to_str().map_err(|_| Refusal::Hosts)?),
        (None, _) => None,
        (Some(_), Some(_)) => return Err(Refusal::Hosts),
    };
    match request.version() {
        Version::HTTP_10 | Version::HTTP_11 => {
            if request.uri().scheme().is_some() || request.uri().authority().is_some() {
                return Err(Refusal::Absolute);
            }
            host.ok_or(Refusal::Bad(BadRequest::NoHost))
        }
        Version::HTTP_2 => {
            if request
                .uri()
                .scheme()
                .is_some_and(|scheme| *scheme != Scheme::HTTPS && *scheme != Scheme::HTTP)
            {
                return Err(Refusal::Absolute);
            }
            match (request.uri().authority(), host) {
                (Some(authority), Some(host)) if authority.as_str() != host => Err(Refusal::Hosts),
                (Some(authority), _) => Ok(authority.as_str()),
                (None, Some(host)) => Ok(host),
                (None, None) => Err(Refusal::Bad(BadRequest::NoHost)),
            }
        }
        _ => Err(Refusal::Version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(version: Version, method: &str, uri: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn the_host_is_canonical_and_keeps_its_port() {
        let h1 = |host| read(&parts(Version::HTTP_11, "GET", "//a/%62", &[("host", host)]));
        let asked = h1("WWW.Example.Net.:8443").unwrap();
        assert_eq!(asked.host, "www.example.net:8443");
        assert_eq!(asked.canonical.path(), "/a/b");
        assert_eq!(h1("h.example:443").unwrap().host, "h.example");
        assert_eq!(h1("h.example").unwrap().host, "h.example");
        assert!(h1("[::1]:8443").is_err());
        let h2 = read(&parts(Version::HTTP_2, "GET", "https://h.example:8443/x", &[])).unwrap();
        assert_eq!(h2.host, "h.example:8443");
    }

    /// LESSONS, advisory 13: absolute-form requests and CONNECT are refused.
    #[test]
    fn requests_for_a_proxy_are_refused() {
        let host = [("host", "h.example")];
        let refused = |method, uri| read(&parts(Version::HTTP_11, method, uri, &host)).unwrap_err();
        assert_eq!(refused("GET", "http://other.example/"), Refusal::Absolute);
        assert_eq!(refused("CONNECT", "other.example:443"), Refusal::Connect);
        let h2 = parts(Version::HTTP_2, "GET", "ftp://h.example/", &[]);
        assert_eq!(read(&h2).unwrap_err(), Refusal::Absolute);
    }

    #[test]
    fn a_request_names_exactly_one_host() {
        let two = [("host", "a.example"), ("host", "a.example")];
        assert_eq!(
            read(&parts(Version::HTTP_11, "GET", "/", &two)).unwrap_err(),
            Refusal::Hosts
        );
        let none = parts(Version::HTTP_11, "GET", "/", &[]);
        assert_eq!(read(&none).unwrap_err(), Refusal::Bad(BadRequest::NoHost));
        let differ = parts(
            Version::HTTP_2,
            "GET",
            "https://a.example/",
            &[("host", "b.example")],
        );
        assert_eq!(read(&differ).unwrap_err(), Refusal::Hosts);
    }

    #[test]
    fn a_websocket_is_asked_for_in_http_1_only() {
        let fields = [
            ("host", "h.example"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
        ];
        assert!(
            read(&parts(Version::HTTP_11, "GET", "/", &fields))
                .unwrap()
                .websocket
        );
        assert!(
            !read(&parts(Version::HTTP_11, "POST", "/", &fields))
                .unwrap()
                .websocket
        );
        assert!(
            !read(&parts(Version::HTTP_2, "GET", "https://h.example/", &fields))
                .unwrap()
                .websocket
        );
    }
}
