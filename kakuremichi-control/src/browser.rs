//! Browsers of people: the cookie that says who they are, and where a request of theirs comes from.
//!
//! A page of Control that is for people who are signed in asks [`signed_in`], and answers whoever is not with
//! [`to_sign_in`]; both are right for a navigation from wherever. What changes something, or tells a script
//! something, asks [`Browser::is_own`] first: another site has a browser send the cookie too.

mod return_path;

pub(crate) use return_path::ReturnPath;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use kakuremichi_core::{
    model::{Session, User},
    store::Stored,
};
use kakuremichi_proto::identity::CanonicalUrl;

use crate::{
    control::Owner,
    pages,
    service::{NewSession, UseCaseError, now},
};

/// The cookie of a session. The prefix makes a browser take it only over TLS, from this very host, for every path
/// (RFC 6265bis, section 4.1.3.2).
const COOKIE: &str = "__Host-kkm_session";
/// Its name where Control is reached over plain HTTP, on loopback: browsers keep no secure cookie from there.
const PLAIN_COOKIE: &str = "kkm_session";
/// Who sent a request, as a browser says it (Fetch Metadata Request Headers, section 2.3).
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// What browsers are told, and believed, by the Control at a URL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Browser<'a>(&'a CanonicalUrl);

/// The session of a browser and its user, if it has a cookie that is good now.
///
/// # Errors
/// When the storage fails.
pub(crate) async fn signed_in(
    control: &Owner,
    headers: &HeaderMap,
) -> Result<Option<(Stored<Session>, Stored<User>)>, UseCaseError> {
    match Browser::of(&control.public_url).session_text(headers) {
        Some(text) => control.use_cases.session_of(text).await,
        None => Ok(None),
    }
}

/// Sends a browser to the page on which its person signs in, and which sends it back to `asked`: the path and the
/// query of a request as Control's router has it, below the path where Control is mounted.
pub(crate) fn to_sign_in(control: &Owner, asked: &Uri) -> Response {
    let asked = asked.path_and_query().map_or("/", |asked| asked.as_str());
    let browser = Browser::of(&control.public_url);
    // What cannot be gone back to, because it is too long, is not: signing in is possible nonetheless.
    let back = asked.parse::<ReturnPath>().ok();
    browser.see(&pages::sign_in_path(back.as_ref()))
}

impl<'a> Browser<'a> {
    /// Of the Control at a URL.
    pub(crate) const fn of(url: &'a CanonicalUrl) -> Self {
        Self(url)
    }

    /// The text in the session's cookie, if there is exactly one: nobody shall choose between two.
    pub(crate) fn session_text(self, headers: &HeaderMap) -> Option<&str> {
        self.cookie(headers, self.name(COOKIE, PLAIN_COOKIE))
    }

    /// The value of a cookie that is there once.
    pub(crate) fn cookie<'h>(self, headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
        let lines = headers.get_all(header::COOKIE).iter();
        let pairs = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'));
        let mut values = pairs
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// The cookie of a session that began.
    pub(crate) fn session(self, begun: &NewSession) -> [(HeaderName, HeaderValue); 1] {
        let life = begun.session.value.expires.as_millis() - now().as_millis();
        self.set(
            self.name(COOKIE, PLAIN_COOKIE),
            begun.text.expose(),
            life.max(0) / 1000,
        )
    }

    /// Takes the session's cookie away.
    pub(crate) fn no_session(self) -> [(HeaderName, HeaderValue); 1] {
        self.set(self.name(COOKIE, PLAIN_COOKIE), "", 0)
    }

    /// A cookie for every path of this host, which no script reads and no other site has sent but by a link that
    /// somebody follows.
    pub(crate) fn set(self, name: &str, value: &str, seconds: i64) -> [(HeaderName, HeaderValue); 1] {
        let secure = if self.0.is_secure() { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        // A secret's text has no character that may not stand there: without one the cookie is just not set.
        let value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
        [(header::SET_COOKIE, value)]
    }

    /// The one of two names that fits the URL.
    pub(crate) const fn name<'n>(self, secure: &'n str, plain: &'n str) -> &'n str {
        if self.0.is_secure() { secure } else { plain }
    }

    /// Whether a page of this Control made the browser send a request. Whoever says neither that nor the opposite
    /// did not.
    pub(crate) fn is_own(self, headers: &HeaderMap) -> bool {
        let one = |name: &str| {
            let mut values = headers.get_all(name).iter();
            let value = values.next()?;
            Some(values.next().is_none().then(|| value.to_str().ok()).flatten())
        };
        let site = one(SEC_FETCH_SITE).map(|site| site == Some("same-origin"));
        let origin = one(header::ORIGIN.as_str()).map(|origin| origin == Some(self.origin().as_str()));
        (site.is_some() || origin.is_some()) && site.unwrap_or(true) && origin.unwrap_or(true)
    }

    /// Answers "see there" for a path below the URL: nowhere else, whatever the path is.
    pub(crate) fn see(self, path: &str) -> Response {
        match HeaderValue::try_from(format!("{}{path}", self.0)) {
            Ok(location) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }

    /// The origin of the URL (RFC 6454), as a browser writes it.
    fn origin(self) -> String {
        let scheme = if self.0.is_secure() { "https" } else { "http" };
        format!("{scheme}://{}", self.0.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_cookie_counts_when_it_is_there_once() {
        let url = "https://control.example.net".parse().unwrap();
        let browser = Browser::of(&url);
        let text = |lines: &[(&str, &str)]| browser.session_text(&headers(lines)).map(str::to_owned);
        assert_eq!(
            text(&[("cookie", "a=b; __Host-kkm_session=x"), ("cookie", "c=d")]).as_deref(),
            Some("x")
        );
        for none in [
            &[][..],
            &[("cookie", "kkm_session=x")],
            &[("cookie", "__Host-kkm_session")],
            &[("cookie", "__Host-kkm_session=x; __Host-kkm_session=y")],
            &[
                ("cookie", "__Host-kkm_session=x"),
                ("cookie", "__Host-kkm_session=x"),
            ],
        ] {
            assert_eq!(text(none), None, "{none:?}");
        }
        let plain = "http://127.0.0.1:7443".parse().unwrap();
        let found = headers(&[("cookie", "kkm_session=x")]);
        assert_eq!(Browser::of(&plain).session_text(&found), Some("x"));
    }

    /// LESSONS, advisory 15: Origin is looked at.
    #[test]
    fn advisory_15_a_request_is_our_own_when_the_browser_says_so() {
        let url = "https://control.example.net/km".parse().unwrap();
        let own = |lines: &[(&str, &str)]| Browser::of(&url).is_own(&headers(lines));
        let ours = ("origin", "https://control.example.net");
        assert!(own(&[ours]));
        assert!(own(&[("sec-fetch-site", "same-origin")]));
        assert!(own(&[("sec-fetch-site", "same-origin"), ours]));
        for (site, origin) in [
            (None, None),
            (Some("none"), None),
            (Some("same-site"), Some("https://control.example.net")),
            (Some("cross-site"), Some("https://control.example.net")),
            (Some("same-origin"), Some("null")),
            (None, Some("https://control.example.net.evil.example")),
            (None, Some("http://control.example.net")),
            (None, Some("https://control.example.net:8443")),
            (None, Some("https://other.example.net")),
        ] {
            let mut lines = Vec::new();
            lines.extend(site.map(|site| ("sec-fetch-site", site)));
            lines.extend(origin.map(|origin| ("origin", origin)));
            assert!(!own(&lines), "{lines:?}");
        }
        assert!(!own(&[ours, ours]), "nobody chooses between two");
    }
}
