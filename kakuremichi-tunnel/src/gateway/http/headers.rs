//! Which header fields cross the gateway, and which it adds.
//!
//! The order matters (LESSONS, advisory 2): first the visitor's own hop-by-hop fields go, those that
//! its `Connection` names among them; then every field that only the gateway may set goes, whatever
//! its spelling; only then ours are added. So nothing a visitor sends can remove or double ours.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, Entry},
};

use crate::gateway::{identity::Fields, sign_in::cookies};

/// Fields of one hop, removed on the way through (RFC 9110, section 7.6.1, and what is treated so).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Fields that tell a target who the visitor is or what was asked for. They are compared folded, and
/// a visitor's own are deleted whatever they say.
const PROTECTED: [&str; 12] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-original-url",
    "x-original-host",
    "x-rewrite-url",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-arr-ssl",
];
/// Families of such fields.
const PROTECTED_PREFIXES: [&str; 2] = ["x-forwarded-", "x-kakuremichi-"];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What the gateway says about a request.
#[derive(Debug)]
pub(crate) struct Forwarded<'a> {
    /// The visitor's address.
    pub(crate) visitor: IpAddr,
    /// The host as it is forwarded, with the port if the visitor named one.
    pub(crate) host: &'a HeaderValue,
    /// The gateway used the `Authorization` field itself.
    pub(crate) authorization_used: bool,
    /// The connection is to become a WebSocket.
    pub(crate) websocket: bool,
    /// Who the visitor is.
    pub(crate) identity: &'a Fields,
}

/// Turns a visitor's header section into the target's.
pub(crate) fn to_target(headers: &mut HeaderMap, forwarded: &Forwarded<'_>) {
    let trailers = headers
        .get_all(header::TE)
        .iter()
        .any(|value| has_token(value, "trailers"));
    remove_hop_by_hop(headers);
    remove_protected(headers);
    cookies::hide(headers);
    join_cookies(headers);
    headers.remove(header::EXPECT);
    if forwarded.authorization_used {
        headers.remove(header::AUTHORIZATION);
    }
    headers.insert(header::HOST, forwarded.host.clone());
    headers.insert(X_FORWARDED_HOST, forwarded.host.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    if let Ok(address) = HeaderValue::try_from(forwarded.visitor.to_string()) {
        headers.insert(X_FORWARDED_FOR, address);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.append(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if forwarded.websocket {
        headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    forwarded.identity.write(headers);
}

/// Turns a target's header section into the visitor's.
pub(crate) fn to_visitor(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    // It would send the visitor to a port of the target's, which the visitor cannot reach.
    headers.remove(header::ALT_SVC);
    cookies::refuse(headers);
}

/// Removes from a visitor's trailer section what may not stand there.
pub(crate) fn trailers_to_target(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    remove_protected(trailers);
    remove_framing(trailers);
    trailers.remove(header::AUTHORIZATION);
    trailers.remove(header::COOKIE);
}

/// Removes from a target's trailer section what may not stand there.
pub(crate) fn trailers_to_visitor(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    remove_framing(trailers);
    trailers.remove(header::SET_COOKIE);
}

/// Whether the visitor asks to turn the connection into a WebSocket (RFC 6455, section 4.1). Every
/// other protocol is treated as if it had not been asked for.
pub(crate) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|value| has_token(value, "upgrade"))
        && headers
            .get_all(header::UPGRADE)
            .iter()
            .any(|value| has_token(value, "websocket"))
}

fn has_token(list: &HeaderValue, token: &str) -> bool {
    list.to_str().is_ok_and(|list| {
        list.split(',').any(|item| {
            item.split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .eq_ignore_ascii_case(token)
        })
    })
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn remove_framing(trailers: &mut HeaderMap) {
    for name in [
        header::CONTENT_LENGTH,
        header::HOST,
        header::TRAILER,
        header::CONTENT_ENCODING,
    ] {
        trailers.remove(name);
    }
}

fn remove_protected(headers: &mut HeaderMap) {
    let protected: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_protected(name.as_str()))
        .cloned()
        .collect();
    for name in protected {
        headers.remove(name);
    }
}

/// Whether only the gateway may set the field. Servers and frameworks fold `_`, `.` and `-` into each
/// other, so names are compared folded (LESSONS, advisory 3).
fn is_protected(name: &str) -> bool {
    let folded: String = name
        .chars()
        .map(|c| match c {
            '_' | '.' => '-',
            c => c.to_ascii_lowercase(),
        })
        .collect();
    PROTECTED.contains(&folded.as_str()) || PROTECTED_PREFIXES.iter().any(|prefix| folded.starts_with(prefix))
}

/// HTTP/2 may carry a cookie in several fields; HTTP/1.1 has one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(mut cookies) = headers.entry(header::COOKIE) else {
        return;
    };
    if cookies.iter().count() < 2 {
        return;
    }
    let joined = cookies
        .iter()
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        cookies.insert(joined);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static NOBODY: Fields = Fields::NONE;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    fn forwarded(host: &HeaderValue) -> Forwarded<'_> {
        Forwarded {
            visitor: "203.0.113.9".parse().unwrap(),
            host,
            authorization_used: false,
            websocket: false,
            identity: &NOBODY,
        }
    }

    fn sent(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = map(fields);
        let host = HeaderValue::from_static("h.example");
        to_target(&mut headers, &forwarded(&host));
        headers
    }

    /// LESSONS, advisory 2: `Connection` cannot remove what the gateway adds.
    #[test]
    fn connection_cannot_name_our_fields() {
        let headers = sent(&[
            ("connection", "close, X-Forwarded-For, x-secret, host"),
            ("connection", "x-forwarded-proto"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
        ]);
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["host"], "h.example");
        for gone in ["connection", "x-secret", "keep-alive"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }

    /// LESSONS, advisory 3: protected names are compared folded and deleted.
    #[test]
    fn a_visitors_own_forwarding_fields_are_deleted() {
        let headers = sent(&[
            ("X-Forwarded-For", "1.2.3.4"),
            ("x_forwarded_for", "1.2.3.4"),
            ("X.Forwarded-Proto", "http"),
            ("x-forwarded-prefix", "/admin"),
            ("X_Real_IP", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("x-original-url", "/admin"),
            ("x_kakuremichi-user", "root"),
            ("x-mine", "stays"),
        ]);
        assert!(
            headers
                .values()
                .all(|value| value != "1.2.3.4" && value != "root")
        );
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "host",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto",
                "x-mine"
            ]
        );
        let mut trailers = map(&[("x_forwarded_for", "1"), ("content-length", "3"), ("x-sum", "1")]);
        trailers_to_target(&mut trailers);
        assert_eq!(trailers.len(), 1);
    }

    #[test]
    fn cookies_are_joined_and_credentials_of_ours_kept_back() {
        let mut headers = map(&[
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("authorization", "Basic eA=="),
        ]);
        let host = HeaderValue::from_static("h.example");
        to_target(
            &mut headers,
            &Forwarded {
                authorization_used: true,
                ..forwarded(&host)
            },
        );
        assert_eq!(headers["cookie"], "a=1; b=2");
        assert!(!headers.contains_key("authorization"));
        assert_eq!(
            sent(&[("authorization", "Bearer x")])["authorization"],
            "Bearer x"
        );
    }

    #[test]
    fn only_websockets_are_upgrades() {
        assert!(asks_for_websocket(&map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket")
        ])));
        assert!(!asks_for_websocket(&map(&[
            ("connection", "upgrade"),
            ("upgrade", "h2c")
        ])));
        assert!(!asks_for_websocket(&map(&[("upgrade", "websocket")])));
        let headers = sent(&[
            ("connection", "upgrade, http2-settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "AA"),
        ]);
        assert!(!headers.contains_key("upgrade") && !headers.contains_key("http2-settings"));
    }

    #[test]
    fn trailers_are_announced_again() {
        let headers = sent(&[("te", "trailers, deflate"), ("connection", "te")]);
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["connection"], "te");
        assert!(!sent(&[("te", "gzip")]).contains_key("te"));
    }

    proptest! {
        /// Whatever a visitor sends, a target sees exactly one value of each field of ours.
        #[test]
        fn ours_are_always_there_once(fields in prop::collection::vec(
            ("(connection|x[-_.]forwarded[-_.](for|proto|host)|host|te|upgrade|cookie)", "[ -~]{0,40}"), 0..12,
        )) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let headers = sent(&fields);
            for (name, value) in [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https"),
                                  ("x-forwarded-host", "h.example"), ("host", "h.example")] {
                prop_assert_eq!(headers.get_all(name).iter().collect::<Vec<_>>(), vec![value]);
            }
        }
    }
}
