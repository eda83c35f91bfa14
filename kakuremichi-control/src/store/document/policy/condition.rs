//! Conditions.

use kakuremichi_core::{
    auth::Principal,
    name::{Label, PathPattern},
    net::Cidr,
    policy::{Condition, CountryCode, HeaderTest, TimeWindow, TimeWindowError, Weekdays},
    request::HeaderName,
};
use serde::{Deserialize, Serialize};

use super::StrengthDocument;
use crate::text::Text;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ConditionDocument {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Path(Text<PathPattern>),
    Method(String),
    Source(Text<Cidr>),
    Subject(String),
    Header(HeaderDocument),
    Country(Text<CountryCode>),
    Asn(u32),
    Time(TimeDocument),
    User(UserDocument),
    Role(Text<Label>),
    Group(String),
    Strength(StrengthDocument),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderDocument {
    name: Text<HeaderName>,
    is: TestDocument,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TestDocument {
    Present,
    Equal(String),
    Prefix(String),
    Contains(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserDocument {
    authority: String,
    subject: String,
}

/// Hours that were checked when they were read.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "Hours", into = "Hours")]
pub(super) struct TimeDocument(TimeWindow);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hours {
    days: u8,
    from: u16,
    to: u16,
    offset: i16,
}

impl TryFrom<Hours> for TimeDocument {
    type Error = TimeWindowError;

    fn try_from(hours: Hours) -> Result<Self, TimeWindowError> {
        let days = Weekdays::from_bits(hours.days).ok_or(TimeWindowError::NoDay)?;
        TimeWindow::new(days, hours.from, hours.to, hours.offset).map(Self)
    }
}

impl From<TimeDocument> for Hours {
    fn from(TimeDocument(window): TimeDocument) -> Self {
        Self {
            days: window.days().bits(),
            from: window.start(),
            to: window.end(),
            offset: window.offset(),
        }
    }
}

impl From<&Condition> for ConditionDocument {
    fn from(condition: &Condition) -> Self {
        let all = |parts: &[Condition]| parts.iter().map(Into::into).collect();
        match condition {
            Condition::All(parts) => Self::All(all(parts)),
            Condition::Any(parts) => Self::Any(all(parts)),
            Condition::Not(part) => Self::Not(Box::new((&**part).into())),
            Condition::Path(path) => Self::Path(Text(path.clone())),
            Condition::Method(method) => Self::Method(method.clone()),
            Condition::Source(network) => Self::Source(Text(*network)),
            Condition::Subject(name) => Self::Subject(name.clone()),
            Condition::Header { name, is } => Self::Header(HeaderDocument {
                name: Text(name.clone()),
                is: match is {
                    HeaderTest::Present => TestDocument::Present,
                    HeaderTest::Equal(text) => TestDocument::Equal(text.clone()),
                    HeaderTest::Prefix(text) => TestDocument::Prefix(text.clone()),
                    HeaderTest::Contains(text) => TestDocument::Contains(text.clone()),
                },
            }),
            Condition::Country(country) => Self::Country(Text(*country)),
            Condition::Asn(asn) => Self::Asn(*asn),
            Condition::Time(window) => Self::Time(TimeDocument(*window)),
            Condition::User(user) => Self::User(UserDocument {
                authority: user.authority().to_owned(),
                subject: user.subject().to_owned(),
            }),
            Condition::Role(role) => Self::Role(Text(role.clone())),
            Condition::Group(group) => Self::Group(group.clone()),
            Condition::Strength(strength) => Self::Strength((*strength).into()),
        }
    }
}

impl From<ConditionDocument> for Condition {
    fn from(document: ConditionDocument) -> Self {
        let all = |parts: Vec<ConditionDocument>| parts.into_iter().map(Into::into).collect();
        match document {
            ConditionDocument::All(parts) => Self::All(all(parts)),
            ConditionDocument::Any(parts) => Self::Any(all(parts)),
            ConditionDocument::Not(part) => Self::Not(Box::new((*part).into())),
            ConditionDocument::Path(path) => Self::Path(path.0),
            ConditionDocument::Method(method) => Self::Method(method),
            ConditionDocument::Source(network) => Self::Source(network.0),
            ConditionDocument::Subject(name) => Self::Subject(name),
            ConditionDocument::Header(header) => Self::Header {
                name: header.name.0,
                is: match header.is {
                    TestDocument::Present => HeaderTest::Present,
                    TestDocument::Equal(text) => HeaderTest::Equal(text),
                    TestDocument::Prefix(text) => HeaderTest::Prefix(text),
                    TestDocument::Contains(text) => HeaderTest::Contains(text),
                },
            },
            ConditionDocument::Country(country) => Self::Country(country.0),
            ConditionDocument::Asn(asn) => Self::Asn(asn),
            ConditionDocument::Time(time) => Self::Time(time.0),
            ConditionDocument::User(user) => Self::User(Principal::new(user.authority, user.subject)),
            ConditionDocument::Role(role) => Self::Role(role.0),
            ConditionDocument::Group(group) => Self::Group(group),
            ConditionDocument::Strength(strength) => Self::Strength(strength.into()),
        }
    }
}
