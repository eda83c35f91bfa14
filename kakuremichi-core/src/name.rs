//! Names and patterns, canonical from the moment they exist.
//!
//! Two names that mean the same are equal, so rules, bans and routes can be keyed by them. Unicode
//! names are converted to A-labels (RFC 5890) by whoever takes them from a person.

use std::{fmt, str::FromStr};

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or an empty label between two dots.
    #[error("a name, and each label of a host name, has at least one character")]
    Empty,
    /// More than 253 characters, or a label of more than 63.
    #[error("a host name has at most 253 characters and each label at most 63")]
    Long,
    /// A character that may not stand in it.
    #[error("{0:?} cannot stand in this name here")]
    Character(char),
    /// An IP address where a name is wanted.
    #[error("an address is not a host name")]
    Address,
    /// A `*` that is not the whole first label, or not followed by two labels.
    #[error("a wildcard is a `*` as the whole first label, as in `*.example.net`")]
    Wildcard,
    /// A path that does not start with `/`, or is not in canonical form.
    #[error("a path starts with `/` and is in canonical form")]
    Path,
}

macro_rules! text_form {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                text.parse()
            }
        }
    };
}

/// A DNS host name: lower case, no trailing dot, ASCII (A-labels), not an IP address.
///
/// Underscores are accepted, since names with them are in use; RFC 1123 has letters, digits and
/// hyphens. Parsing folds case and drops one trailing dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(String);

impl Hostname {
    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its first label, if two labels or more remain: `example.net` of
    /// `www.example.net`.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        self.0
            .split_once('.')
            .map(|(_, rest)| rest)
            .filter(|rest| rest.contains('.') || *rest == "localhost")
    }
}

impl FromStr for Hostname {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.len() > 253 {
            return Err(NameError::Long);
        }
        for label in text.split('.') {
            check_label(label)?;
        }
        // A name whose last label is a number would be read as an IPv4 address by a resolver.
        if text
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err(NameError::Address);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(Hostname);

fn check_label(label: &str) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::Empty);
    }
    if label.len() > 63 {
        return Err(NameError::Long);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if let Some(bad) = label.chars().find(|c| !allowed(*c)) {
        return Err(NameError::Character(bad));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(NameError::Character('-'));
    }
    Ok(())
}

/// Matches one host name, or each name with exactly one label more than a base.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// `www.example.net`.
    Exact(Hostname),
    /// `*.example.net`: one label in place of the star, as in a certificate (RFC 6125).
    Wildcard(Hostname),
}

impl HostPattern {
    /// Whether `host` is matched.
    #[must_use]
    pub fn matches(&self, host: &Hostname) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(base) => host
                .as_str()
                .split_once('.')
                .is_some_and(|(_, rest)| rest == base.as_str()),
        }
    }

    /// Whether every name that `other` matches is matched by this one too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match other {
            Self::Exact(host) => self.matches(host),
            Self::Wildcard(_) => self == other,
        }
    }
}

impl FromStr for HostPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix("*.") {
            Some(base) => {
                let base: Hostname = base.parse()?;
                if !base.as_str().contains('.') && base.as_str() != "localhost" {
                    return Err(NameError::Wildcard);
                }
                Ok(Self::Wildcard(base))
            }
            None if text.contains('*') => Err(NameError::Wildcard),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Wildcard(base) => write!(f, "*.{base}"),
        }
    }
}

text_form!(HostPattern);

/// Matches canonical request paths: all below a prefix, or exactly one.
///
/// The text of a prefix is the path itself (`/api` matches `/api` and `/api/x`, not `/apix`); an exact
/// path has `=` before it (`=/api`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathPattern {
    /// The path and all below it, by whole segments. `/` matches everything.
    Prefix(String),
    /// Only this path.
    Exact(String),
}

impl PathPattern {
    /// Matches every path.
    #[must_use]
    pub fn any() -> Self {
        Self::Prefix("/".to_owned())
    }

    /// Whether the canonical path `path` is matched.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/')),
        }
    }

    /// The order in which patterns are tried: longer ones first, exact before prefix.
    #[must_use]
    pub fn specificity(&self) -> (usize, bool) {
        match self {
            Self::Exact(path) => (path.len(), true),
            Self::Prefix(path) => (path.len(), false),
        }
    }
}

impl FromStr for PathPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (path, exact) = text.strip_prefix('=').map_or((text, false), |path| (path, true));
        let canonical = crate::request::canonical_path(path).map_err(|_| NameError::Path)?;
        if canonical != path {
            return Err(NameError::Path);
        }
        Ok(if exact {
            Self::Exact(canonical)
        } else {
            Self::Prefix(canonical)
        })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(path) => f.write_str(path),
            Self::Exact(path) => write!(f, "={path}"),
        }
    }
}

text_form!(PathPattern);

/// A short name that a person gives to a node, a service or a key: 1 to 63 characters of a-z, 0-9 and
/// `-`, neither starting nor ending with `-`. Parsing folds case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

impl Label {
    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_label(text)?;
        if text.contains('_') {
            return Err(NameError::Character('_'));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(Label);

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        text.parse().unwrap()
    }

    /// LESSONS, advisory 17: bans and rules key on canonical names.
    #[test]
    fn names_are_canonical() {
        assert_eq!(host("WWW.Example.NET."), host("www.example.net"));
        assert_eq!("Web-1".parse::<Label>().unwrap().as_str(), "web-1");
    }

    #[test]
    fn what_is_not_a_host_name_is_refused() {
        for bad in [
            "",
            ".",
            "a..b",
            "-a.b",
            "a-.b",
            "a b",
            "a/b",
            "münchen.de",
            "1.2.3.4",
            "host.7",
            "[::1]",
        ] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
        assert!(format!("{}.x", "a".repeat(64)).parse::<Hostname>().is_err());
        assert!(vec!["abcdefgh"; 30].join(".").parse::<Hostname>().is_err());
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let pattern: HostPattern = "*.Example.net".parse().unwrap();
        assert!(pattern.matches(&host("a.example.net")));
        assert!(!pattern.matches(&host("example.net")));
        assert!(!pattern.matches(&host("a.b.example.net")));
        assert!(pattern.covers(&"a.example.net".parse().unwrap()));
        assert!(!HostPattern::Exact(host("a.example.net")).covers(&pattern));
        for bad in ["*", "*.net", "a.*.net", "*a.example.net", "*.*.example.net"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        let api: PathPattern = "/api".parse().unwrap();
        assert!(api.matches("/api") && api.matches("/api/x") && !api.matches("/apix") && !api.matches("/"));
        let slash: PathPattern = "/api/".parse().unwrap();
        assert!(slash.matches("/api/x") && !slash.matches("/api"));
        assert!(PathPattern::any().matches("/anything"));
        let exact: PathPattern = "=/api".parse().unwrap();
        assert!(exact.matches("/api") && !exact.matches("/api/x"));
        assert_eq!(exact.to_string().parse(), Ok(exact.clone()));
        assert!(exact.specificity() > api.specificity());
        assert!("api".parse::<PathPattern>().is_err() && "/a/../b".parse::<PathPattern>().is_err());
    }
}
