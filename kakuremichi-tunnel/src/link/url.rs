//! Control's URL, as a node may dial it.

use std::{fmt, net::IpAddr, str::FromStr};

use kakuremichi_core::net::{Endpoint, Host};
use kakuremichi_proto::{
    identity::{self, CanonicalUrl},
    version::LINK_PATH,
};

/// Why a text is not the URL of a Control that may be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It is no URL of a Control at all.
    #[error(transparent)]
    Invalid(#[from] identity::UrlError),
    /// `http://` to another machine: the token would travel in the clear.
    #[error("http:// is only for a Control on this machine (localhost, 127.0.0.1, [::1]): use https://")]
    Clear,
}

/// The URL of a Control: `https://`, or `http://` to this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct ControlUrl(CanonicalUrl);

impl ControlUrl {
    /// The URL itself.
    #[must_use]
    pub const fn canonical(&self) -> &CanonicalUrl {
        &self.0
    }

    /// Whether TLS is spoken.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.0.is_secure()
    }

    /// The host and the port.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        self.0.endpoint()
    }

    /// The URL of the WebSocket.
    pub(crate) fn link(&self) -> String {
        let scheme = if self.is_secure() { "wss" } else { "ws" };
        format!("{scheme}://{}{}{LINK_PATH}", self.0.authority(), self.0.path())
    }

    /// Whether `address` may be dialled: without TLS only this machine's own.
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        self.is_secure() || address.to_canonical().is_loopback()
    }
}

impl FromStr for ControlUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url: CanonicalUrl = text.parse()?;
        let local = match &url.endpoint().host {
            Host::Address(address) => address.to_canonical().is_loopback(),
            Host::Name(name) => name.as_str() == "localhost" || name.as_str().ends_with(".localhost"),
        };
        if !url.is_secure() && !local {
            return Err(UrlError::Clear);
        }
        Ok(Self(url))
    }
}

impl fmt::Display for ControlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ControlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<String, UrlError> {
        text.parse::<ControlUrl>().map(|url| url.to_string())
    }

    #[test]
    fn a_token_never_travels_in_the_clear() {
        assert_eq!(url("http://control.example.net"), Err(UrlError::Clear));
        assert_eq!(url("http://192.0.2.1:3000"), Err(UrlError::Clear));
        assert_eq!(url("http://[::ffff:192.0.2.1]:3000"), Err(UrlError::Clear));
        // A name that only looks local.
        assert_eq!(url("http://localhost.example.net"), Err(UrlError::Clear));
        for text in [
            "http://localhost:3000",
            "http://127.0.0.1:3000",
            "http://[::1]:3000",
            "http://control.localhost:3000",
        ] {
            let control: ControlUrl = text.parse().unwrap();
            assert!(control.permits("127.0.0.1".parse().unwrap()));
            // What the name resolves to is checked too.
            assert!(!control.permits("192.0.2.1".parse().unwrap()));
            assert_eq!(control.to_string(), text);
        }
        let remote: ControlUrl = "https://control.example.net".parse().unwrap();
        assert!(remote.permits("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn the_link_lies_below_the_public_url() {
        let link = |text: &str| text.parse::<ControlUrl>().unwrap().link();
        assert_eq!(
            link("https://c.example:8443/km/"),
            "wss://c.example:8443/km/api/v1/link"
        );
        assert_eq!(link("http://[::1]"), "ws://[::1]/api/v1/link");
    }
}
