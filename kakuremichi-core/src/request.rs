//! One HTTP request, parsed once.
//!
//! What is routed, authorized and forwarded is the same [`CanonicalRequest`]: nobody looks at the
//! visitor's own spelling of the path again, so the three can never disagree.

mod header;

pub use header::HeaderName;

use std::fmt;

use crate::{
    name::{Hostname, NameError},
    net::{Host, NetError},
};

/// The longest path and query together, in bytes. A longer target is refused.
pub const MAX_TARGET: usize = 16 * 1024;
/// The most lines of one header field that are [noted](CanonicalRequest::note).
pub const MAX_NOTED_LINES: usize = 16;
/// The longest line of a header field that is [noted](CanonicalRequest::note), in bytes.
pub const MAX_NOTED_LINE: usize = 1024;

/// Why a request is refused before anything is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// No host is named.
    #[error("the request names no host")]
    NoHost,
    /// The host is not a name.
    #[error("the host is not valid: {0}")]
    Host(#[from] NameError),
    /// The port behind the host is not a port.
    #[error("the port behind the host is not valid")]
    Port,
    /// The target does not start with `/` (nor is it the `*` of OPTIONS).
    #[error("the request target must be a path")]
    Target,
    /// The target is longer than [`MAX_TARGET`].
    #[error("the request target is too long")]
    Long,
    /// A `%` that two hexadecimal digits do not follow.
    #[error("the path has a broken percent escape")]
    Escape,
    /// An encoded slash, backslash or NUL, which servers read in different ways.
    #[error("the path has an encoded slash, backslash or NUL")]
    Encoded,
    /// A `.` or `..` segment, plain or encoded.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A character that may not stand in a target unencoded.
    #[error("the request target has a character that must be encoded")]
    Character,
}

/// A request in the one form in which it is routed, authorized and forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalRequest {
    method: String,
    host: Hostname,
    path: String,
    query: Option<String>,
    noted: Vec<Noted>,
}

/// A header field that somebody looked up: each of its lines, and none if it was not sent.
#[derive(Clone, PartialEq, Eq)]
struct Noted {
    name: HeaderName,
    lines: Vec<Box<[u8]>>,
}

impl fmt::Debug for Noted {
    /// Without the values, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} lines)", self.name, self.lines.len())
    }
}

impl CanonicalRequest {
    /// Parses what the visitor sent: the method, the authority (the `Host` header or `:authority`) and
    /// the target in origin form.
    ///
    /// The path's escapes are normalised (RFC 3986, section 6.2.2): unreserved characters are decoded,
    /// the rest has upper-case digits; runs of slashes become one. The query is left as it is.
    ///
    /// # Errors
    /// When a part is malformed, or could be understood in two ways.
    pub fn parse(method: &str, authority: &str, target: &str) -> Result<Self, BadRequest> {
        if target.len() > MAX_TARGET {
            return Err(BadRequest::Long);
        }
        let host = canonical_host(authority)?;
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(path, query)| (path, Some(query)));
        if query.is_some_and(|query| {
            query
                .bytes()
                .any(|byte| byte <= b' ' || byte >= 0x7f || byte == b'#')
        }) {
            return Err(BadRequest::Character);
        }
        let path = if target == "*" && method == "OPTIONS" {
            "/".to_owned()
        } else {
            canonical_path(path)?
        };
        Ok(Self {
            method: method.to_owned(),
            host,
            path,
            query: query.map(str::to_owned),
            noted: Vec::new(),
        })
    }

    /// Notes a header field as the visitor sent it, for the conditions that look at it: each line of it,
    /// and no line when it was not sent. Which fields a policy looks at, it
    /// [says](crate::policy::CompiledPolicy::needs); the others need no place here.
    ///
    /// A field with more than [`MAX_NOTED_LINES`] lines, or one longer than [`MAX_NOTED_LINE`], is not
    /// noted: what a condition says about it is then unknown.
    #[must_use]
    pub fn note<'a>(mut self, name: HeaderName, lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.noted.retain(|noted| noted.name != name);
        let mut kept = Vec::new();
        for line in lines {
            if kept.len() == MAX_NOTED_LINES || line.len() > MAX_NOTED_LINE {
                return self;
            }
            kept.push(line.into());
        }
        self.noted.push(Noted { name, lines: kept });
        self
    }

    /// The lines of a header field; `None` when it was not noted.
    #[must_use]
    pub fn noted(&self, name: &HeaderName) -> Option<&[Box<[u8]>]> {
        let noted = self.noted.iter().find(|noted| noted.name == *name)?;
        Some(&noted.lines)
    }

    /// The method, as sent: methods are case-sensitive (RFC 9110, section 9.1).
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The host, without a port.
    #[must_use]
    pub const fn host(&self) -> &Hostname {
        &self.host
    }

    /// The canonical path, which starts with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query behind the first `?`, as sent.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Path and query as they are forwarded.
    #[must_use]
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

fn canonical_host(authority: &str) -> Result<Hostname, BadRequest> {
    if authority.is_empty() {
        return Err(BadRequest::NoHost);
    }
    if authority.contains('@') {
        return Err(BadRequest::Host(NameError::Character('@')));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if port.is_some_and(|port| port.is_empty() || port.parse::<u16>().is_err() || port.starts_with('+')) {
        return Err(BadRequest::Port);
    }
    match host.parse() {
        Ok(Host::Name(name)) => Ok(name),
        Ok(Host::Address(_)) => Err(BadRequest::Host(NameError::Address)),
        Err(NetError::Host(error)) => Err(BadRequest::Host(error)),
        Err(_) => Err(BadRequest::Host(NameError::Address)),
    }
}

/// Brings a path into canonical form, or says why it has none.
pub(crate) fn canonical_path(path: &str) -> Result<String, BadRequest> {
    if !path.starts_with('/') {
        return Err(BadRequest::Target);
    }
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let escape = (bytes.next().and_then(hex), bytes.next().and_then(hex));
                let (Some(high), Some(low)) = escape else {
                    return Err(BadRequest::Escape);
                };
                match high << 4 | low {
                    b'/' | b'\\' | 0 => return Err(BadRequest::Encoded),
                    plain if is_unreserved(plain) => out.push(char::from(plain)),
                    other => out.push_str(&format!("%{other:02X}")),
                }
            }
            b'/' if out.ends_with('/') => {}
            b'\\' | b'#' | b'?' | 0..=b' ' | 0x7f.. => return Err(BadRequest::Character),
            _ => out.push(char::from(byte)),
        }
    }
    if out.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(BadRequest::DotSegment);
    }
    Ok(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> Result<String, BadRequest> {
        CanonicalRequest::parse("GET", "h.example", target).map(|request| request.path().to_owned())
    }

    /// LESSONS, advisory 1: parse once.
    #[test]
    fn each_path_has_one_spelling() {
        assert_eq!(path("/%61dmin/%7Euser").unwrap(), "/admin/~user");
        assert_eq!(path("/a%3ab%c3%a9").unwrap(), "/a%3Ab%C3%A9");
        assert_eq!(path("//a///b//").unwrap(), "/a/b/");
        assert_eq!(path("/a?x=/../%2f").unwrap(), "/a");
    }

    /// LESSONS, advisory 1: encoded slash, dot segments and NUL are rejected.
    #[test]
    fn ambiguous_paths_are_refused() {
        use BadRequest::{Character, DotSegment, Encoded, Escape, Target};
        for (target, error) in [
            ("/a%2fb", Encoded),
            ("/a%2Fb", Encoded),
            ("/a%5Cb", Encoded),
            ("/a%00", Encoded),
            ("/a/../b", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/.", DotSegment),
            ("/a/..", DotSegment),
            ("/a\\b", Character),
            ("/a b", Character),
            ("/é", Character),
            ("/a#b", Character),
            ("/%zz", Escape),
            ("/%2", Escape),
            ("http://h.example/", Target),
            ("*", Target),
        ] {
            assert_eq!(path(target), Err(error), "{target}");
        }
    }

    #[test]
    fn the_host_is_canonical_and_never_an_address() {
        let host = |authority| {
            CanonicalRequest::parse("GET", authority, "/").map(|request| request.host().to_string())
        };
        assert_eq!(host("WWW.Example.Net.:8443").unwrap(), "www.example.net");
        assert_eq!(host(""), Err(BadRequest::NoHost));
        assert_eq!(host("h.example:"), Err(BadRequest::Port));
        assert_eq!(host("h.example:+1"), Err(BadRequest::Port));
        assert!(host("user@h.example").is_err() && host("[::1]:443").is_err() && host("127.0.0.1").is_err());
        assert!(host("h.example:80:80").is_err());
    }

    #[test]
    fn a_noted_field_is_bounded_and_never_printed() {
        let name: HeaderName = "X-Team".parse().unwrap();
        let request = CanonicalRequest::parse("GET", "h.example", "/").unwrap();
        assert_eq!(request.noted(&name), None);
        let absent = request.note(name.clone(), []);
        assert_eq!(absent.noted(&name), Some(&[][..]));
        let sent = absent.note(name.clone(), [&b"secret"[..], b"other"]);
        assert_eq!(sent.noted(&name).map(<[_]>::len), Some(2));
        assert!(!format!("{sent:?}").contains("secret"));
        let long = [0; MAX_NOTED_LINE + 1];
        assert_eq!(sent.clone().note(name.clone(), [&long[..]]).noted(&name), None);
        let many = [&b"x"[..]; MAX_NOTED_LINES + 1];
        assert_eq!(sent.note(name.clone(), many).noted(&name), None);
    }

    #[test]
    fn the_query_is_forwarded_as_sent() {
        let request = CanonicalRequest::parse("GET", "h.example", "//x?a=%2F..&b").unwrap();
        assert_eq!(request.target(), "/x?a=%2F..&b");
        assert!(CanonicalRequest::parse("GET", "h.example", "/x?a b").is_err());
    }
}
