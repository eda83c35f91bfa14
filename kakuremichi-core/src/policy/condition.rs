//! Conditions over the facts about a visitor.

use std::{fmt, str::FromStr};

use super::{Truth, time_window::TimeWindow};
use crate::{
    auth::{Principal, Strength},
    name::{Label, NameError, PathPattern},
    net::Cidr,
    request::HeaderName,
};

/// The deepest nesting of one condition.
pub const MAX_CONDITION_DEPTH: usize = 8;
/// The most nodes of one condition.
pub const MAX_CONDITION_NODES: usize = 256;
/// The longest text that a condition compares with, in bytes.
pub const MAX_CONDITION_TEXT: usize = 1024;

/// A condition over the facts about a visitor and the request.
///
/// A condition holds, does not hold, or is [unknown](Truth::Unknown) when what it is about is not known:
/// a request at a TCP service, a country without a database, or who the visitor is before they have
/// proven it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// All of them hold; true when there are none.
    All(Vec<Self>),
    /// One of them holds; false when there are none.
    Any(Vec<Self>),
    /// The other does not hold.
    Not(Box<Self>),
    /// The canonical path matches.
    Path(PathPattern),
    /// The method is this one, in this spelling.
    Method(String),
    /// The visitor's address lies in the network.
    Source(Cidr),
    /// The visitor has proven to be this subject, to whatever authority.
    Subject(String),
    /// A header field of the request is like this. A visitor writes what they like into headers, so only
    /// rules that deny can look at them.
    Header {
        /// The field.
        name: HeaderName,
        /// What it is like.
        is: HeaderTest,
    },
    /// The visitor's address is of this country.
    Country(CountryCode),
    /// The visitor's address is of this autonomous system.
    Asn(u32),
    /// It is this time of the week.
    Time(TimeWindow),
    /// The visitor has signed in as this principal.
    User(Principal),
    /// The visitor has signed in, and has this role.
    Role(Label),
    /// The visitor has signed in, and is in this group, in this spelling.
    Group(String),
    /// The visitor has signed in, at least as strongly as this.
    Strength(Strength),
}

/// What a header field is like. A field of several lines is like this if one of its lines is. ASCII
/// letters are compared without their case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTest {
    /// It was sent, with whatever value.
    Present,
    /// A line of it is this.
    Equal(String),
    /// A line of it begins with this.
    Prefix(String),
    /// A line of it has this in it.
    Contains(String),
}

impl HeaderTest {
    /// Whether a field with these lines is like this.
    #[must_use]
    pub fn matches(&self, lines: &[Box<[u8]>]) -> bool {
        match self {
            Self::Present => !lines.is_empty(),
            Self::Equal(text) => lines
                .iter()
                .any(|line| line.eq_ignore_ascii_case(text.as_bytes())),
            Self::Prefix(text) => lines.iter().any(|line| {
                line.get(..text.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
            }),
            Self::Contains(text) => lines.iter().any(|line| {
                let mut windows = line.windows(text.len().max(1));
                text.is_empty() || windows.any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
            }),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Present => "",
            Self::Equal(text) | Self::Prefix(text) | Self::Contains(text) => text,
        }
    }
}

/// A country, as the two letters of ISO 3166-1. Parsing folds case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountryCode([u8; 2]);

impl CountryCode {
    /// The two letters, upper case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // They are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for CountryCode {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_alphabetic()) {
            return Err(NameError::Character(bad));
        }
        match text.to_ascii_uppercase().as_bytes() {
            [] | [_] => Err(NameError::Empty),
            [a, b] => Ok(Self([*a, *b])),
            _ => Err(NameError::Long),
        }
    }
}

impl TryFrom<&str> for CountryCode {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        text.parse()
    }
}

impl fmt::Display for CountryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for CountryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A condition is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a condition is at most {MAX_CONDITION_DEPTH} deep, has at most {MAX_CONDITION_NODES} parts, and no text in it is longer than {MAX_CONDITION_TEXT} bytes"
)]
pub struct ConditionError;

impl Condition {
    /// Checks depth and size.
    ///
    /// # Errors
    /// When it is deeper than [`MAX_CONDITION_DEPTH`], has more parts than [`MAX_CONDITION_NODES`], or
    /// compares with a text longer than [`MAX_CONDITION_TEXT`].
    pub fn validate(&self) -> Result<(), ConditionError> {
        let mut nodes = 0;
        self.measure(1, &mut nodes)
    }

    fn measure(&self, depth: usize, nodes: &mut usize) -> Result<(), ConditionError> {
        *nodes += 1;
        if depth > MAX_CONDITION_DEPTH || *nodes > MAX_CONDITION_NODES {
            return Err(ConditionError);
        }
        if self.text_len() > MAX_CONDITION_TEXT {
            return Err(ConditionError);
        }
        self.parts()
            .iter()
            .try_for_each(|part| part.measure(depth + 1, nodes))
    }

    fn text_len(&self) -> usize {
        match self {
            Self::Method(text) | Self::Subject(text) | Self::Group(text) => text.len(),
            Self::Header { is, .. } => is.text().len(),
            Self::User(principal) => principal.authority().len() + principal.subject().len(),
            Self::All(_)
            | Self::Any(_)
            | Self::Not(_)
            | Self::Path(_)
            | Self::Source(_)
            | Self::Country(_)
            | Self::Asn(_)
            | Self::Time(_)
            | Self::Role(_)
            | Self::Strength(_) => 0,
        }
    }

    /// The conditions that this one is made of.
    #[must_use]
    pub fn parts(&self) -> &[Self] {
        match self {
            Self::All(parts) | Self::Any(parts) => parts,
            Self::Not(part) => std::slice::from_ref(part),
            Self::Path(_)
            | Self::Method(_)
            | Self::Source(_)
            | Self::Subject(_)
            | Self::Header { .. }
            | Self::Country(_)
            | Self::Asn(_)
            | Self::Time(_)
            | Self::User(_)
            | Self::Role(_)
            | Self::Group(_)
            | Self::Strength(_) => &[],
        }
    }

    /// Calls `visit` with this condition and all that it is made of, each before its parts.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        for part in self.parts() {
            part.walk(visit);
        }
    }

    /// The part with this number, when they are counted in the order of [`walk`](Self::walk).
    #[must_use]
    pub fn part(&self, number: usize) -> Option<&Self> {
        let (mut found, mut next) = (None, 0);
        self.walk(&mut |part| {
            if next == number {
                found = Some(part);
            }
            next += 1;
        });
        found
    }

    /// Whether it looks at a header field.
    #[must_use]
    pub fn looks_at_headers(&self) -> bool {
        let mut looks = false;
        self.walk(&mut |part| looks |= matches!(part, Self::Header { .. }));
        looks
    }

    /// Whether it looks at how strongly the visitor signed in.
    pub(super) fn looks_at_strength(&self) -> bool {
        let mut looks = false;
        self.walk(&mut |part| looks |= matches!(part, Self::Strength(_)));
        looks
    }
}

/// A value of a condition, and which of its parts gave it that value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) truth: Truth,
    /// The number of the part, as in [`Condition::part`].
    pub(super) part: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_compared_line_by_line_without_case() {
        let lines: Vec<Box<[u8]>> = [&b"Mozilla/5.0"[..], b"\xff curl/8"]
            .map(Into::into)
            .into_iter()
            .collect();
        let holds = |test: HeaderTest| test.matches(&lines);
        assert!(holds(HeaderTest::Present) && !HeaderTest::Present.matches(&[]));
        assert!(
            holds(HeaderTest::Equal("mozilla/5.0".into())) && !holds(HeaderTest::Equal("mozilla".into()))
        );
        assert!(holds(HeaderTest::Prefix("MOZ".into())) && !holds(HeaderTest::Prefix("curl".into())));
        assert!(holds(HeaderTest::Contains("CURL".into())) && !holds(HeaderTest::Contains("wget".into())));
        assert!(
            holds(HeaderTest::Contains(String::new())) && !HeaderTest::Contains(String::new()).matches(&[])
        );
        assert!(!holds(HeaderTest::Contains("x".repeat(100))));
    }

    #[test]
    fn a_country_has_two_letters() {
        assert_eq!("de".parse::<CountryCode>().unwrap().as_str(), "DE");
        for bad in ["", "d", "deu", "d1", "é"] {
            assert!(bad.parse::<CountryCode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_are_numbered_in_the_order_of_the_walk() {
        let method = |text: &str| Condition::Method(text.to_owned());
        let tree = Condition::All(vec![
            Condition::Not(Box::new(method("a"))),
            Condition::Any(vec![method("b")]),
        ]);
        assert_eq!(tree.part(2), Some(&method("a")));
        assert_eq!(tree.part(4), Some(&method("b")));
        assert_eq!(tree.part(5), None);
    }

    #[test]
    fn large_conditions_are_refused() {
        let deep =
            |depth: usize| (1..depth).fold(Condition::Asn(1), |part, _| Condition::Not(Box::new(part)));
        assert!(
            deep(MAX_CONDITION_DEPTH).validate().is_ok() && deep(MAX_CONDITION_DEPTH + 1).validate().is_err()
        );
        let wide = |parts: usize| Condition::Any(vec![Condition::Asn(1); parts]);
        assert!(
            wide(MAX_CONDITION_NODES - 1).validate().is_ok() && wide(MAX_CONDITION_NODES).validate().is_err()
        );
        let group = |length: usize| Condition::Group("x".repeat(length));
        assert!(
            group(MAX_CONDITION_TEXT).validate().is_ok() && group(MAX_CONDITION_TEXT + 1).validate().is_err()
        );
    }
}
