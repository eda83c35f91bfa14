//! Targets and their checks.

use std::{path::PathBuf, time::Duration};

use kakuremichi_core::{
    model::{Health, HealthCheck, TargetAddress, TargetScheme},
    net::Endpoint,
};

use super::{Cause, InField, Invalid, list, name};
use crate::{codec::Bytes, message};

impl TryFrom<&TargetAddress> for message::TargetAddress {
    type Error = Invalid;

    fn try_from(address: &TargetAddress) -> Result<Self, Invalid> {
        Ok(match address {
            TargetAddress::Tcp(endpoint) => Self::Tcp(endpoint.into()),
            TargetAddress::Unix(path) => {
                let path = path
                    .to_str()
                    .ok_or_else(|| Invalid::new("target.address", Cause::Text))?;
                Self::Unix(path.to_owned())
            }
            TargetAddress::InProcess => Self::InProcess,
            TargetAddress::Udp(endpoint) => Self::Udp(endpoint.into()),
        })
    }
}

impl TryFrom<message::TargetAddress> for TargetAddress {
    type Error = Invalid;

    fn try_from(address: message::TargetAddress) -> Result<Self, Invalid> {
        Ok(match address {
            message::TargetAddress::Tcp(endpoint) => {
                Self::Tcp(Endpoint::try_from(&endpoint).in_field("target.address")?)
            }
            message::TargetAddress::Unix(path) => Self::Unix(PathBuf::from(path)),
            message::TargetAddress::InProcess => Self::InProcess,
            message::TargetAddress::Udp(endpoint) => {
                Self::Udp(Endpoint::try_from(&endpoint).in_field("target.address")?)
            }
        })
    }
}

impl TryFrom<&TargetScheme> for message::TargetScheme {
    type Error = Invalid;

    fn try_from(scheme: &TargetScheme) -> Result<Self, Invalid> {
        Ok(match scheme {
            TargetScheme::Plain => Self::Plain,
            TargetScheme::Tls { server_name, roots } => Self::Tls {
                server_name: server_name.as_ref().map(|name| name.as_str().to_owned()),
                roots: list(roots, "target.scheme.roots", |root| Ok(Bytes(root.clone())))?,
            },
        })
    }
}

impl TryFrom<message::TargetScheme> for TargetScheme {
    type Error = Invalid;

    fn try_from(scheme: message::TargetScheme) -> Result<Self, Invalid> {
        Ok(match scheme {
            message::TargetScheme::Plain => Self::Plain,
            message::TargetScheme::Tls { server_name, roots } => Self::Tls {
                server_name: server_name
                    .map(|text| name(&text, "target.scheme.server_name"))
                    .transpose()?,
                roots: roots.into_vec().into_iter().map(|root| root.0).collect(),
            },
        })
    }
}

impl TryFrom<&HealthCheck> for message::HealthCheck {
    type Error = Invalid;

    fn try_from(check: &HealthCheck) -> Result<Self, Invalid> {
        Ok(Self {
            check: match &check.check {
                Health::Tcp => message::Health::Tcp,
                Health::Http { path, host } => message::Health::Http {
                    path: path.clone(),
                    host: host.as_ref().map(|name| name.as_str().to_owned()),
                },
            },
            interval: millis(check.interval, "health.interval")?,
            timeout: millis(check.timeout, "health.timeout")?,
            unhealthy_after: check.unhealthy_after,
            healthy_after: check.healthy_after,
        })
    }
}

impl TryFrom<message::HealthCheck> for HealthCheck {
    type Error = Invalid;

    fn try_from(check: message::HealthCheck) -> Result<Self, Invalid> {
        // A check without a pause, or one that decides on nothing, would be work without end.
        if check.interval == 0 {
            return Err(Invalid::new("health.interval", Cause::Duration));
        }
        if check.timeout == 0 {
            return Err(Invalid::new("health.timeout", Cause::Duration));
        }
        if check.unhealthy_after == 0 || check.healthy_after == 0 {
            return Err(Invalid::new("health.unhealthy_after", Cause::Empty));
        }
        Ok(Self {
            check: match check.check {
                message::Health::Tcp => Health::Tcp,
                message::Health::Http { path, host } => {
                    let plain = |byte: u8| byte > b' ' && byte < 0x7f;
                    if !path.starts_with('/') || !path.bytes().all(plain) {
                        return Err(Invalid::new("health.path", Cause::Text));
                    }
                    Health::Http {
                        path,
                        host: host.map(|text| name(&text, "health.host")).transpose()?,
                    }
                }
            },
            interval: Duration::from_millis(check.interval.into()),
            timeout: Duration::from_millis(check.timeout.into()),
            unhealthy_after: check.unhealthy_after,
            healthy_after: check.healthy_after,
        })
    }
}

fn millis(duration: Duration, field: &'static str) -> Result<u32, Invalid> {
    u32::try_from(duration.as_millis()).map_err(|_| Invalid::new(field, Cause::Duration))
}
