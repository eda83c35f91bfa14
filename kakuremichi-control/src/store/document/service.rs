//! Services.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use kakuremichi_core::{
    id::{AgentId, PolicyId, RouteId, SiteId, TargetId},
    model::{
        Health, HealthCheck, IdentityForm, Lifetime, Pool, Route, ServiceKind, Target, TargetAddress,
        TargetPlace, TargetScheme,
    },
    name::{HostPattern, Hostname, PathPattern},
    net::Endpoint,
};
use serde::{Deserialize, Serialize};

use super::node::PortDocument;
use crate::text::{Text, texts, untexts};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::store) enum LifetimeDocument {
    Configured,
    Declared(Text<AgentId>),
    Ephemeral(Text<AgentId>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(in crate::store) enum KindDocument {
    Http {
        hosts: Vec<Text<HostPattern>>,
        routes: Vec<RouteDocument>,
        #[serde(default, skip_serializing_if = "IdentityDocument::is_both")]
        identity: IdentityDocument,
    },
    Tcp {
        port: u16,
        pool: PoolDocument,
    },
    Udp {
        port: u16,
        pool: PoolDocument,
    },
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::store) enum IdentityDocument {
    None,
    Headers,
    Assertion,
    /// Absent of services that were made when there was nothing else.
    #[default]
    Both,
}

impl IdentityDocument {
    const fn is_both(&self) -> bool {
        matches!(self, Self::Both)
    }
}

impl From<IdentityForm> for IdentityDocument {
    fn from(form: IdentityForm) -> Self {
        match form {
            IdentityForm::Nothing => Self::None,
            IdentityForm::Headers => Self::Headers,
            IdentityForm::Assertion => Self::Assertion,
            IdentityForm::Both => Self::Both,
        }
    }
}

impl From<IdentityDocument> for IdentityForm {
    fn from(document: IdentityDocument) -> Self {
        match document {
            IdentityDocument::None => Self::Nothing,
            IdentityDocument::Headers => Self::Headers,
            IdentityDocument::Assertion => Self::Assertion,
            IdentityDocument::Both => Self::Both,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct RouteDocument {
    id: Text<RouteId>,
    path: Text<PathPattern>,
    pool: PoolDocument,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    policies: Vec<Text<PolicyId>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct PoolDocument {
    targets: Vec<TargetDocument>,
    health: Option<HealthDocument>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetDocument {
    id: Text<TargetId>,
    place: PlaceDocument,
    scheme: SchemeDocument,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum PlaceDocument {
    Agent {
        agent: Text<AgentId>,
        port: PortDocument,
        address: AddressDocument,
    },
    Site {
        site: Text<SiteId>,
        address: SocketAddr,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AddressDocument {
    Tcp(Text<Endpoint>),
    Unix(PathBuf),
    InProcess,
    Udp(Text<Endpoint>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum SchemeDocument {
    Plain,
    Tls {
        server_name: Option<Text<Hostname>>,
        roots: Vec<Certificate>,
    },
}

/// DER, as base 64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Certificate(Vec<u8>);

impl Clone for Certificate {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl From<Certificate> for String {
    fn from(certificate: Certificate) -> Self {
        data_encoding::BASE64.encode(&certificate.0)
    }
}

impl TryFrom<String> for Certificate {
    type Error = data_encoding::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        data_encoding::BASE64.decode(text.as_bytes()).map(Self)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthDocument {
    check: CheckDocument,
    interval_ms: u64,
    timeout_ms: u64,
    unhealthy_after: u8,
    healthy_after: u8,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum CheckDocument {
    Tcp,
    Http {
        path: String,
        host: Option<Text<Hostname>>,
    },
}

impl From<Lifetime> for LifetimeDocument {
    fn from(lifetime: Lifetime) -> Self {
        match lifetime {
            Lifetime::Configured => Self::Configured,
            Lifetime::Declared(agent) => Self::Declared(Text(agent)),
            Lifetime::Ephemeral(agent) => Self::Ephemeral(Text(agent)),
        }
    }
}

impl From<LifetimeDocument> for Lifetime {
    fn from(document: LifetimeDocument) -> Self {
        match document {
            LifetimeDocument::Configured => Self::Configured,
            LifetimeDocument::Declared(agent) => Self::Declared(agent.0),
            LifetimeDocument::Ephemeral(agent) => Self::Ephemeral(agent.0),
        }
    }
}

impl From<&ServiceKind> for KindDocument {
    fn from(kind: &ServiceKind) -> Self {
        let route = |route: &Route| RouteDocument {
            id: Text(route.id),
            path: Text(route.path.clone()),
            pool: (&route.pool).into(),
            policies: texts(&route.policies),
        };
        match kind {
            ServiceKind::Http {
                hosts,
                routes,
                identity,
            } => Self::Http {
                hosts: texts(hosts),
                routes: routes.iter().map(route).collect(),
                identity: (*identity).into(),
            },
            ServiceKind::Tcp { port, pool } => Self::Tcp {
                port: *port,
                pool: pool.into(),
            },
            ServiceKind::Udp { port, pool } => Self::Udp {
                port: *port,
                pool: pool.into(),
            },
        }
    }
}

impl From<KindDocument> for ServiceKind {
    fn from(document: KindDocument) -> Self {
        let route = |route: RouteDocument| Route {
            id: route.id.0,
            path: route.path.0,
            pool: route.pool.into(),
            policies: untexts(route.policies),
        };
        match document {
            KindDocument::Http {
                hosts,
                routes,
                identity,
            } => Self::Http {
                hosts: untexts(hosts),
                routes: routes.into_iter().map(route).collect(),
                identity: identity.into(),
            },
            KindDocument::Tcp { port, pool } => Self::Tcp {
                port,
                pool: pool.into(),
            },
            KindDocument::Udp { port, pool } => Self::Udp {
                port,
                pool: pool.into(),
            },
        }
    }
}

impl From<&Pool> for PoolDocument {
    fn from(pool: &Pool) -> Self {
        Self {
            targets: pool.targets.iter().map(Into::into).collect(),
            health: pool.health.as_ref().map(Into::into),
        }
    }
}

impl From<PoolDocument> for Pool {
    fn from(document: PoolDocument) -> Self {
        Self {
            targets: document.targets.into_iter().map(Into::into).collect(),
            health: document.health.map(Into::into),
        }
    }
}

impl From<&Target> for TargetDocument {
    fn from(target: &Target) -> Self {
        let address = |address: &TargetAddress| match address {
            TargetAddress::Tcp(endpoint) => AddressDocument::Tcp(Text(endpoint.clone())),
            TargetAddress::Unix(path) => AddressDocument::Unix(path.clone()),
            TargetAddress::InProcess => AddressDocument::InProcess,
            TargetAddress::Udp(endpoint) => AddressDocument::Udp(Text(endpoint.clone())),
        };
        Self {
            id: Text(target.id),
            place: match &target.place {
                TargetPlace::Agent {
                    agent,
                    port,
                    address: at,
                } => PlaceDocument::Agent {
                    agent: Text(*agent),
                    port: PortDocument(*port),
                    address: address(at),
                },
                TargetPlace::Site { site, address } => PlaceDocument::Site {
                    site: Text(*site),
                    address: *address,
                },
            },
            scheme: match &target.scheme {
                TargetScheme::Plain => SchemeDocument::Plain,
                TargetScheme::Tls { server_name, roots } => SchemeDocument::Tls {
                    server_name: server_name.clone().map(Text),
                    roots: roots.iter().cloned().map(Certificate).collect(),
                },
            },
        }
    }
}

impl From<TargetDocument> for Target {
    fn from(document: TargetDocument) -> Self {
        let address = |address| match address {
            AddressDocument::Tcp(endpoint) => TargetAddress::Tcp(endpoint.0),
            AddressDocument::Unix(path) => TargetAddress::Unix(path),
            AddressDocument::InProcess => TargetAddress::InProcess,
            AddressDocument::Udp(endpoint) => TargetAddress::Udp(endpoint.0),
        };
        Self {
            id: document.id.0,
            place: match document.place {
                PlaceDocument::Agent {
                    agent,
                    port,
                    address: at,
                } => TargetPlace::Agent {
                    agent: agent.0,
                    port: port.0,
                    address: address(at),
                },
                PlaceDocument::Site { site, address } => TargetPlace::Site {
                    site: site.0,
                    address,
                },
            },
            scheme: match document.scheme {
                SchemeDocument::Plain => TargetScheme::Plain,
                SchemeDocument::Tls { server_name, roots } => TargetScheme::Tls {
                    server_name: server_name.map(|name| name.0),
                    roots: roots.into_iter().map(|root| root.0).collect(),
                },
            },
        }
    }
}

impl From<&HealthCheck> for HealthDocument {
    fn from(health: &HealthCheck) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            check: match &health.check {
                Health::Tcp => CheckDocument::Tcp,
                Health::Http { path, host } => CheckDocument::Http {
                    path: path.clone(),
                    host: host.clone().map(Text),
                },
            },
            interval_ms: millis(health.interval),
            timeout_ms: millis(health.timeout),
            unhealthy_after: health.unhealthy_after,
            healthy_after: health.healthy_after,
        }
    }
}

impl From<HealthDocument> for HealthCheck {
    fn from(document: HealthDocument) -> Self {
        Self {
            check: match document.check {
                CheckDocument::Tcp => Health::Tcp,
                CheckDocument::Http { path, host } => Health::Http {
                    path,
                    host: host.map(|name| name.0),
                },
            },
            interval: Duration::from_millis(document.interval_ms),
            timeout: Duration::from_millis(document.timeout_ms),
            unhealthy_after: document.unhealthy_after,
            healthy_after: document.healthy_after,
        }
    }
}
