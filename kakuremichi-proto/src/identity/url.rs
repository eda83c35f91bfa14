//! Control's URL in one form, so that both sides can sign it.

use std::{fmt, str::FromStr};

use kakuremichi_core::net::{Endpoint, Host, NetError};

/// The longest URL, in bytes.
const MAX_URL: usize = 1024;

/// Why a text is not the URL of a Control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither `https://` nor `http://`.
    #[error("Control's URL starts with `https://` (or `http://`)")]
    Scheme,
    /// The host or the port.
    #[error("the host or port of Control's URL is not valid: {0}")]
    Authority(#[from] NetError),
    /// A user name, a query, a fragment, or a character that may not stand in a path.
    #[error("Control's URL has a scheme, a host, perhaps a port and a path, and nothing else")]
    Extra,
    /// Longer than any sensible URL.
    #[error("Control's URL is longer than {MAX_URL} bytes")]
    Long,
}

/// The public URL of a Control: scheme, host, port and perhaps a path below which it is mounted. Two
/// texts that mean the same are equal: case of the host, the default port and a slash at the end do not
/// count.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CanonicalUrl {
    secure: bool,
    endpoint: Endpoint,
    path: String,
}

impl CanonicalUrl {
    /// Whether it is `https`.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host and the port.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The path below which Control is mounted: empty, or starting with a slash and not ending in one.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The authority as in a `Host` header: without the default port, IPv6 in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        let text = self.endpoint.to_string();
        if self.endpoint.port == default_port(self.secure) {
            text[..text.rfind(':').unwrap_or(text.len())].to_owned()
        } else {
            text
        }
    }
}

const fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

impl FromStr for CanonicalUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_URL {
            return Err(UrlError::Long);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(UrlError::Scheme),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains(['@', '?', '#']) {
            return Err(UrlError::Extra);
        }
        let endpoint = Endpoint::parse_with_port(authority, default_port(secure))?;
        // `::1` without brackets is not how a URL writes an address.
        if matches!(endpoint.host, Host::Address(address) if address.is_ipv6()) && !authority.starts_with('[')
        {
            return Err(UrlError::Authority(NetError::Address));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
        let path = path.trim_end_matches('/');
        if !path.bytes().all(allowed)
            || path.contains("//")
            || path.split('/').any(|part| part == "." || part == "..")
        {
            return Err(UrlError::Extra);
        }
        Ok(Self {
            secure,
            endpoint,
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for CanonicalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl fmt::Debug for CanonicalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_mean_the_same_are_equal() {
        for (text, canonical) in [
            ("HTTPS://Control.Example.net:443/", "https://control.example.net"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("https://[2001:DB8::1]:8443/km/", "https://[2001:db8::1]:8443/km"),
            ("https://[::1]", "https://[::1]"),
        ] {
            assert_eq!(text.parse::<CanonicalUrl>().unwrap().to_string(), canonical);
            assert_eq!(canonical.parse::<CanonicalUrl>(), text.parse());
        }
    }

    #[test]
    fn what_is_not_the_url_of_a_control_is_refused() {
        for bad in [
            "control.example.net",
            "ftp://a.example",
            "https://",
            "https://user@a.example",
            "https://a.example?x",
            "https://a.example/x?y",
            "https://a.example/a/../b",
            "https://a.example:0",
            "https://::1",
        ] {
            assert!(bad.parse::<CanonicalUrl>().is_err(), "{bad}");
        }
    }
}
