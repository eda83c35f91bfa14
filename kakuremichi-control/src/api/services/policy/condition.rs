//! Conditions.

use kakuremichi_core::{
    auth::{Principal, Strength},
    name::{Label, PathPattern},
    net::Cidr,
    policy::{Condition, CountryCode, HeaderTest, TimeWindow, Weekday, Weekdays},
    request::HeaderName,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text::Text;

/// A condition over what is known of a visitor and the request. What is not known makes it unknown: a rule
/// that denies does so then, and no other rule acts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConditionView {
    /// All of them hold.
    #[schema(no_recursion)]
    All(Vec<Self>),
    /// One of them holds.
    #[schema(no_recursion)]
    Any(Vec<Self>),
    /// The other does not hold.
    #[schema(no_recursion)]
    Not(Box<Self>),
    /// The path matches: with all below it; with `=` before it, only the path itself.
    #[schema(value_type = String)]
    Path(Text<PathPattern>),
    /// The method is this one.
    Method(String),
    /// The visitor's address lies in the network.
    #[schema(value_type = String)]
    Source(Text<Cidr>),
    /// The visitor has proven to be this subject, to whatever authority.
    Subject(String),
    /// A header field is like this. Only rules that deny can look at headers.
    Header(HeaderView),
    /// The address is of this country (two letters, ISO 3166-1), by the gateway's database.
    #[schema(value_type = String)]
    Country(Text<CountryCode>),
    /// The address is of this autonomous system, by the gateway's database.
    Asn(u32),
    /// It is this time of the week.
    Time(TimeView),
    /// The visitor has signed in as this principal.
    User(PrincipalView),
    /// The visitor has signed in, and has this role.
    #[schema(value_type = String)]
    Role(Text<Label>),
    /// The visitor has signed in, and is in this group.
    Group(String),
    /// The visitor has signed in, at least as strongly. Who has signed in more weakly, and would get past otherwise, is
    /// asked to.
    Strength(StrengthView),
}

/// What a header field is like.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderView {
    /// The field.
    #[schema(value_type = String, example = "user-agent")]
    name: Text<HeaderName>,
    /// What it is like; upper and lower case are the same.
    is: HeaderTestView,
}

/// What a header field is like.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HeaderTestView {
    /// It was sent.
    Present,
    /// A line of it is this.
    Equal(String),
    /// A line of it begins with this.
    Prefix(String),
    /// A line of it has this in it.
    Contains(String),
}

/// A part of the day on some days of the week.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeView {
    /// The days on which it begins; every day if left out.
    #[serde(default = "every_day")]
    days: Vec<WeekdayView>,
    /// When it begins.
    #[schema(example = "09:00")]
    from: String,
    /// When it is over: on the next day, if it is before `from`. At most `24:00`.
    #[schema(example = "18:00")]
    to: String,
    /// The offset of this clock from UTC, in minutes. Daylight saving time does not change it.
    #[serde(default)]
    utc_offset_minutes: i16,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WeekdayView {
    /// Monday.
    Monday,
    /// Tuesday.
    Tuesday,
    /// Wednesday.
    Wednesday,
    /// Thursday.
    Thursday,
    /// Friday.
    Friday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}

/// A principal.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrincipalView {
    /// Who vouches for it: the authenticator's name.
    #[schema(example = "directory")]
    pub(crate) authority: String,
    /// Its name there.
    #[schema(example = "ann")]
    pub(crate) subject: String,
}

/// How strongly somebody signed in.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StrengthView {
    /// By one factor.
    #[default]
    OneFactor,
    /// By two.
    TwoFactors,
    /// By a passkey, or what else no other site can pass on.
    PhishingResistant,
}

fn every_day() -> Vec<WeekdayView> {
    Weekdays::ALL.iter().map(Into::into).collect()
}

impl From<Weekday> for WeekdayView {
    fn from(day: Weekday) -> Self {
        match day {
            Weekday::Monday => Self::Monday,
            Weekday::Tuesday => Self::Tuesday,
            Weekday::Wednesday => Self::Wednesday,
            Weekday::Thursday => Self::Thursday,
            Weekday::Friday => Self::Friday,
            Weekday::Saturday => Self::Saturday,
            Weekday::Sunday => Self::Sunday,
        }
    }
}

impl From<WeekdayView> for Weekday {
    fn from(day: WeekdayView) -> Self {
        match day {
            WeekdayView::Monday => Self::Monday,
            WeekdayView::Tuesday => Self::Tuesday,
            WeekdayView::Wednesday => Self::Wednesday,
            WeekdayView::Thursday => Self::Thursday,
            WeekdayView::Friday => Self::Friday,
            WeekdayView::Saturday => Self::Saturday,
            WeekdayView::Sunday => Self::Sunday,
        }
    }
}

impl From<Strength> for StrengthView {
    fn from(strength: Strength) -> Self {
        match strength {
            Strength::OneFactor => Self::OneFactor,
            Strength::TwoFactors => Self::TwoFactors,
            Strength::PhishingResistant => Self::PhishingResistant,
        }
    }
}

impl From<StrengthView> for Strength {
    fn from(strength: StrengthView) -> Self {
        match strength {
            StrengthView::OneFactor => Self::OneFactor,
            StrengthView::TwoFactors => Self::TwoFactors,
            StrengthView::PhishingResistant => Self::PhishingResistant,
        }
    }
}

/// The minute of the day.
fn minutes(clock: &str) -> Result<u16, String> {
    // The parser of numbers would take a sign, too.
    let digits = |text: &str| {
        let two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        two.then(|| text.parse::<u16>().ok()).flatten()
    };
    let parsed = clock
        .split_once(':')
        .and_then(|(hour, minute)| Some((digits(hour)?, digits(minute)?)));
    match parsed {
        Some((hour, minute)) if hour < 24 && minute < 60 || (hour, minute) == (24, 0) => {
            Ok(hour * 60 + minute)
        }
        _ => Err(format!("{clock:?} is no time of the day: it looks like `09:00`")),
    }
}

fn clock(minutes: u16) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

impl TryFrom<TimeView> for TimeWindow {
    type Error = String;

    fn try_from(view: TimeView) -> Result<Self, String> {
        let days = view.days.into_iter().map(Weekday::from).collect();
        Self::new(
            days,
            minutes(&view.from)?,
            minutes(&view.to)?,
            view.utc_offset_minutes,
        )
        .map_err(|error| error.to_string())
    }
}

impl TryFrom<ConditionView> for Condition {
    type Error = String;

    /// JSON is read at most 128 deep, so this recursion is bounded; how deep a condition may be, the policy
    /// itself checks.
    fn try_from(view: ConditionView) -> Result<Self, String> {
        let all =
            |parts: Vec<ConditionView>| parts.into_iter().map(TryInto::try_into).collect::<Result<_, _>>();
        Ok(match view {
            ConditionView::All(parts) => Self::All(all(parts)?),
            ConditionView::Any(parts) => Self::Any(all(parts)?),
            ConditionView::Not(part) => Self::Not(Box::new((*part).try_into()?)),
            ConditionView::Path(path) => Self::Path(path.0),
            ConditionView::Method(method) => Self::Method(method),
            ConditionView::Source(network) => Self::Source(network.0),
            ConditionView::Subject(name) => Self::Subject(name),
            ConditionView::Header(header) => Self::Header {
                name: header.name.0,
                is: match header.is {
                    HeaderTestView::Present => HeaderTest::Present,
                    HeaderTestView::Equal(text) => HeaderTest::Equal(text),
                    HeaderTestView::Prefix(text) => HeaderTest::Prefix(text),
                    HeaderTestView::Contains(text) => HeaderTest::Contains(text),
                },
            },
            ConditionView::Country(country) => Self::Country(country.0),
            ConditionView::Asn(asn) => Self::Asn(asn),
            ConditionView::Time(time) => Self::Time(time.try_into()?),
            ConditionView::User(user) => Self::User(Principal::new(user.authority, user.subject)),
            ConditionView::Role(role) => Self::Role(role.0),
            ConditionView::Group(group) => Self::Group(group),
            ConditionView::Strength(strength) => Self::Strength(strength.into()),
        })
    }
}

impl From<&Condition> for ConditionView {
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
            Condition::Header { name, is } => Self::Header(HeaderView {
                name: Text(name.clone()),
                is: match is {
                    HeaderTest::Present => HeaderTestView::Present,
                    HeaderTest::Equal(text) => HeaderTestView::Equal(text.clone()),
                    HeaderTest::Prefix(text) => HeaderTestView::Prefix(text.clone()),
                    HeaderTest::Contains(text) => HeaderTestView::Contains(text.clone()),
                },
            }),
            Condition::Country(country) => Self::Country(Text(*country)),
            Condition::Asn(asn) => Self::Asn(*asn),
            Condition::Time(window) => Self::Time(TimeView {
                days: window.days().iter().map(Into::into).collect(),
                from: clock(window.start()),
                to: clock(window.end()),
                utc_offset_minutes: window.offset(),
            }),
            Condition::User(user) => Self::User(PrincipalView {
                authority: user.authority().to_owned(),
                subject: user.subject().to_owned(),
            }),
            Condition::Role(role) => Self::Role(Text(role.clone())),
            Condition::Group(group) => Self::Group(group.clone()),
            Condition::Strength(strength) => Self::Strength((*strength).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_read_as_people_write_them() {
        let read = |text: &str| -> Result<TimeWindow, String> {
            serde_json::from_str::<TimeView>(text).unwrap().try_into()
        };
        let office =
            read(r#"{"days":["monday"],"from":"09:00","to":"24:00","utc_offset_minutes":540}"#).unwrap();
        assert_eq!((office.start(), office.end(), office.offset()), (540, 1440, 540));
        assert_eq!(
            read(r#"{"from":"22:00","to":"06:00"}"#).unwrap().days(),
            Weekdays::ALL
        );
        for bad in ["9:00", "24:01", "12:60", "0900", "+9:00", ""] {
            assert!(
                read(&format!(r#"{{"from":"{bad}","to":"10:00"}}"#)).is_err(),
                "{bad}"
            );
        }
        assert!(read(r#"{"days":[],"from":"09:00","to":"10:00"}"#).is_err());
    }
}
