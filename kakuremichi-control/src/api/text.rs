//! Texts of the API that people type: they are checked, and made canonical, when they are read.

use std::{fmt, time::Duration};

use kakuremichi_core::{
    id::{AgentId, PolicyId, ServiceId, ServiceTokenId, SiteId},
    model::{Permission, Permissions},
    name::{HostPattern, Hostname, Label},
    net::Endpoint,
    time::Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::problem::Problem;
use crate::service::{FieldError, Reference, now, parse_endpoint, parse_host, parse_host_pattern};

macro_rules! typed {
    ($($(#[$doc:meta])* $name:ident($inner:ty) = $parse:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub(super) struct $name(pub(super) $inner);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(text.as_str()).map(Self).map_err(D::Error::custom)
            }
        }
    )*};
}

typed! {
    /// A host name; Unicode is converted.
    HostText(Hostname) = parse_host;
    /// A host name or a wildcard; Unicode is converted.
    HostPatternText(HostPattern) = parse_host_pattern;
    /// `host:port`; Unicode is converted.
    EndpointText(Endpoint) = parse_endpoint;
    /// A time (RFC 3339).
    TimeText(Moment) = str::parse::<Moment>;
    /// An agent, by identifier or name.
    AgentText(Named<AgentId>) = str::parse::<Named<AgentId>>;
    /// A site, by identifier or name.
    SiteText(Named<SiteId>) = str::parse::<Named<SiteId>>;
    /// A shared policy, by identifier or name.
    PolicyText(Named<PolicyId>) = str::parse::<Named<PolicyId>>;
    /// A service, by identifier or name.
    ServiceText(Named<ServiceId>) = str::parse::<Named<ServiceId>>;
    /// A service token, by identifier or name.
    ServiceTokenText(Named<ServiceTokenId>) = str::parse::<Named<ServiceTokenId>>;
}

/// A time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment(Timestamp);

/// A time as the API writes it.
pub(crate) fn written(at: Timestamp) -> String {
    Moment(at).to_string()
}

impl From<Timestamp> for TimeText {
    fn from(at: Timestamp) -> Self {
        Self(Moment(at))
    }
}

impl std::str::FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| "a time looks like `2030-12-31T23:59:59Z` (RFC 3339)")?;
        let millis = at.unix_timestamp_nanos() / 1_000_000;
        i64::try_from(millis)
            .map(|millis| Self(Timestamp::from_millis(millis)))
            .map_err(|_| "the time is too far away")
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0.as_millis()) * 1_000_000);
        let text = at.ok().and_then(|at| at.format(&Rfc3339).ok());
        // A year past 9999 has no form in RFC 3339.
        f.write_str(text.as_deref().unwrap_or("9999-12-31T23:59:59Z"))
    }
}

/// Something by identifier or name.
#[derive(Debug, Clone)]
pub(super) struct Named<T>(pub(super) Reference<T>);

impl<T: std::str::FromStr> std::str::FromStr for Named<T> {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(id) = text.parse() {
            return Ok(Self(Reference::Id(id)));
        }
        text.parse::<Label>()
            .map(|name| Self(Reference::Name(name)))
            .map_err(|_| "give an identifier or a name")
    }
}

impl<T: fmt::Display> fmt::Display for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reference::Id(id) => id.fmt(f),
            Reference::Name(name) => name.fmt(f),
        }
    }
}

/// The names of permissions, or `*` for everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct PermissionsText(pub(super) Permissions);

pub(super) const EVERYTHING: &str = "*";

impl Serialize for PermissionsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_everything() {
            return serializer.collect_seq([EVERYTHING]);
        }
        serializer.collect_seq(self.0.iter().map(Permission::as_str))
    }
}

impl<'de> Deserialize<'de> for PermissionsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        if names == [EVERYTHING] {
            return Ok(Self(Permissions::EVERYTHING));
        }
        let parse = |name: &String| {
            let wrong = |_| {
                D::Error::custom(format_args!(
                    "there is no permission {name:?}: see `/api/v1/permissions`"
                ))
            };
            name.parse::<Permission>().map_err(wrong)
        };
        names.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }
}

impl TimeText {
    /// The time.
    pub(super) const fn timestamp(&self) -> Timestamp {
        self.0.0
    }
}

/// Shared policies as they are shown.
pub(super) fn policy_texts(policies: &[PolicyId]) -> Vec<PolicyText> {
    let policies = policies.iter();
    policies.map(|id| PolicyText(Named(Reference::Id(*id)))).collect()
}

/// When something ends: at a time, in so many seconds, or never.
pub(super) fn expiry(at: Option<TimeText>, within: Option<u64>) -> Result<Option<Timestamp>, Problem> {
    match (at, within) {
        (Some(_), Some(_)) => Err(Problem::fields(vec![FieldError::new(
            "expires_in",
            "give either `expires_at` or `expires_in`",
        )])),
        (Some(at), None) => Ok(Some(at.0.0)),
        (None, Some(seconds)) => Ok(Some(now().after(Duration::from_secs(seconds)))),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let moment: Moment = "2030-01-02T03:04:05.678+01:00".parse().unwrap();
        assert_eq!(moment.to_string(), "2030-01-02T02:04:05.678Z");
        assert!("tomorrow".parse::<Moment>().is_err());
        assert_eq!(
            Moment(Timestamp::from_millis(i64::MAX)).to_string(),
            "9999-12-31T23:59:59Z"
        );
    }

    #[test]
    fn an_agent_is_named_or_identified() {
        let id = AgentId::from_bytes([1; 16]);
        assert!(matches!(id.to_string().parse::<Named<AgentId>>(), Ok(Named(Reference::Id(of))) if of == id));
        assert!(matches!(
            "home".parse::<Named<AgentId>>(),
            Ok(Named(Reference::Name(_)))
        ));
        assert!("sit_x".parse::<Named<AgentId>>().is_err());
    }
}
