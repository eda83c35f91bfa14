//! Conditions of rules.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A condition over what is known of a visitor and the request. What is not known makes it unknown: a rule that denies does
/// so then, and no other rule acts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Condition {
    /// All of them hold.
    All(Vec<Self>),
    /// One of them holds.
    Any(Vec<Self>),
    /// The other does not hold.
    Not(Box<Self>),
    /// The path matches: with all below it; with `=` before it, only the path itself.
    Path(String),
    /// The method is this one.
    Method(String),
    /// The visitor's address lies in the network.
    Source(String),
    /// The visitor has proven to be this subject, to whatever authority.
    Subject(String),
    /// A header field is like this. Only rules that deny can look at headers.
    Header(Header),
    /// The address is of this country (two letters, ISO 3166-1), by the gateway's database.
    Country(String),
    /// The address is of this autonomous system, by the gateway's database.
    Asn(u32),
    /// It is this time of the week.
    Time(TimeWindow),
    /// The visitor has signed in as this principal.
    User(Principal),
    /// The visitor has signed in, and has this role.
    Role(String),
    /// The visitor has signed in, and is in this group.
    Group(String),
    /// The visitor has signed in, at least as strongly. Who has signed in more weakly, and would get past otherwise, is
    /// asked to.
    Strength(Strength),
    /// What this client does not know.
    #[serde(untagged)]
    Other(Value),
}

impl std::ops::Not for Condition {
    type Output = Self;

    /// That it does not hold.
    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
}

/// What a header field is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The field.
    pub name: String,
    /// What it is like; upper and lower case are the same.
    pub is: HeaderTest,
}

/// What a header field is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HeaderTest {
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeWindow {
    /// The days on which it begins; every day if nothing is said.
    #[serde(default = "every_day")]
    pub days: Vec<Weekday>,
    /// When it begins, such as `09:00`.
    pub from: String,
    /// When it is over: on the next day, if it is before `from`. At most `24:00`.
    pub to: String,
    /// The offset of this clock from UTC, in minutes. Daylight saving time does not change it.
    #[serde(default)]
    pub utc_offset_minutes: i16,
}

impl TimeWindow {
    /// Every day, from one time of UTC to another.
    #[must_use]
    pub fn daily(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self {
            days: every_day(),
            from: from.into(),
            to: to.into(),
            utc_offset_minutes: 0,
        }
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weekday {
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

impl Weekday {
    /// The week.
    pub const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];
}

fn every_day() -> Vec<Weekday> {
    Weekday::ALL.to_vec()
}

/// A principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// Who vouches for it: the authenticator's name.
    pub authority: String,
    /// Its name there.
    pub subject: String,
}

/// How strongly somebody signed in. The order is that of strength.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strength {
    /// By one factor.
    #[default]
    OneFactor,
    /// By two.
    TwoFactors,
    /// By a passkey, or what else no other site can pass on.
    PhishingResistant,
}
