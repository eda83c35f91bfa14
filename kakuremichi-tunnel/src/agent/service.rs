//! What an embedder asks to publish.

use kakuremichi_core::{
    model::{HealthCheck, MAX_HOSTS, TargetAddress, TargetScheme, Transport},
    name::{HostPattern, Hostname, Label, NameError, PathPattern},
    policy::{Policy, PolicyError},
};
use kakuremichi_proto::declare::{Declaration, DeclaredKind, DeclaredTarget};

/// Why a [`Service`] cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// A host that is neither a name nor a pattern.
    #[error("the host is unusable: {0}")]
    Host(#[source] NameError),
    /// More hosts than a service may have.
    #[error("a service has at most {MAX_HOSTS} hosts")]
    TooManyHosts,
    /// Hosts or a path for a service that is not HTTP.
    #[error("only an HTTP service has hosts and a path")]
    NotHttp,
    /// A path that is not in canonical form.
    #[error("the path is unusable: {0}")]
    Path(#[source] NameError),
    /// A port that cannot be listened on.
    #[error("a TCP or UDP service needs a port from 1 to 65535")]
    Port,
    /// A name that is none.
    #[error("the service's name is unusable: {0}")]
    Name(#[source] NameError),
    /// A policy beyond its bounds.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A name for the certificate of a target that is none.
    #[error("the name in the target's certificate is unusable: {0}")]
    ServerName(#[source] NameError),
    /// A UDP service where streams are wanted.
    #[error("a UDP service is exposed by `expose_udp`")]
    Datagrams,
    /// Another service where datagrams are wanted.
    #[error("only a UDP service is exposed by `expose_udp`")]
    Streams,
    /// A check of, or TLS to, what is sent datagrams.
    #[error("a UDP service has neither a health check nor TLS to its target")]
    Unchecked,
    /// What is spoken inside this process needs no TLS, and has no certificate.
    #[error("TLS is spoken to targets outside this process only")]
    TlsInProcess,
}

/// A service to be published: [`Agent::expose`](super::Agent::expose) serves it inside this process,
/// [`Agent::forward`](super::Agent::forward) at a target.
///
/// Without [`public`](Self::public) or a [`policy`](Self::policy) it denies everybody. It is ephemeral
/// unless it is [`declared`](Self::declared). What is wrong with a host, a path or a port is said by
/// `expose` and `forward`.
///
/// ```
/// use kakuremichi_tunnel::agent::Service;
///
/// let web = Service::http("billing.example.net").path("/api").public();
/// let database = Service::tcp(5432).named("orders-db").declared();
/// ```
#[derive(Debug, Clone)]
pub struct Service {
    kind: Result<DeclaredKind, ServiceError>,
    name: Option<Result<Label, ServiceError>>,
    policy: Policy,
    ephemeral: bool,
    health: Option<HealthCheck>,
    scheme: Result<TargetScheme, ServiceError>,
}

impl Service {
    /// HTTP at a host, `billing.example.net` or `*.example.net`, on the gateways' HTTPS port.
    #[must_use]
    pub fn http(host: &str) -> Self {
        Self::new(
            host.parse()
                .map(|host| DeclaredKind::Http {
                    hosts: vec![host],
                    path: PathPattern::any(),
                })
                .map_err(ServiceError::Host),
        )
    }

    /// Raw TCP on a port of every gateway.
    #[must_use]
    pub fn tcp(port: u16) -> Self {
        Self::new(if port == 0 {
            Err(ServiceError::Port)
        } else {
            Ok(DeclaredKind::Tcp { port })
        })
    }

    /// Datagrams on a UDP port of every gateway: served by
    /// [`Agent::expose_udp`](super::Agent::expose_udp) or [`Agent::forward`](super::Agent::forward).
    #[must_use]
    pub fn udp(port: u16) -> Self {
        Self::new(if port == 0 {
            Err(ServiceError::Port)
        } else {
            Ok(DeclaredKind::Udp { port })
        })
    }

    /// How it is carried; unknown while it is wrong.
    pub(super) fn transport(&self) -> Option<Transport> {
        self.kind.as_ref().ok().map(DeclaredKind::transport)
    }

    fn new(kind: Result<DeclaredKind, ServiceError>) -> Self {
        Self {
            kind,
            name: None,
            policy: Policy::deny(),
            ephemeral: true,
            health: None,
            scheme: Ok(TargetScheme::Plain),
        }
    }

    /// Another host of an HTTP service.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.kind = self.kind.and_then(|kind| match kind {
            DeclaredKind::Http { mut hosts, path } => {
                hosts.push(host.parse().map_err(ServiceError::Host)?);
                hosts.sort();
                hosts.dedup();
                if hosts.len() > MAX_HOSTS {
                    return Err(ServiceError::TooManyHosts);
                }
                Ok(DeclaredKind::Http { hosts, path })
            }
            DeclaredKind::Tcp { .. } | DeclaredKind::Udp { .. } => Err(ServiceError::NotHttp),
        });
        self
    }

    /// The paths of an HTTP service: all below `/api`, or with `=/api` only that one. All, without.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.kind = self.kind.and_then(|kind| match kind {
            DeclaredKind::Http { hosts, .. } => Ok(DeclaredKind::Http {
                hosts,
                path: path.parse().map_err(ServiceError::Path)?,
            }),
            DeclaredKind::Tcp { .. } | DeclaredKind::Udp { .. } => Err(ServiceError::NotHttp),
        });
        self
    }

    /// The service's name, by which Control tells the declarations of one agent apart. Without one it
    /// follows from the first host or the port.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.parse().map_err(ServiceError::Name));
        self
    }

    /// Everybody may reach it.
    #[must_use]
    pub fn public(self) -> Self {
        self.policy(Policy::public())
    }

    /// Who may reach it.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// It goes when it is no longer served: when its handle is dropped, and with the agent's lease.
    #[must_use]
    pub const fn ephemeral(mut self) -> Self {
        self.ephemeral = true;
        self
    }

    /// It stays when the agent stops, and is served again when the agent is back.
    #[must_use]
    pub const fn declared(mut self) -> Self {
        self.ephemeral = false;
        self
    }

    /// How the agent checks the target. A listener in this process passes while it is there.
    #[must_use]
    pub fn health(mut self, check: HealthCheck) -> Self {
        self.health = Some(check);
        self
    }

    /// Gateways speak TLS to the target, through the tunnel. Its certificate must be for `server_name`
    /// and from one of `roots` (DER), or, where there are none, from the gateways' own roots.
    #[must_use]
    pub fn tls(mut self, server_name: &str, roots: Vec<Vec<u8>>) -> Self {
        self.scheme = server_name
            .parse::<Hostname>()
            .map(|name| TargetScheme::Tls {
                server_name: Some(name),
                roots,
            })
            .map_err(ServiceError::ServerName);
        self
    }

    pub(super) fn declaration(self, address: TargetAddress) -> Result<Declaration, ServiceError> {
        let kind = self.kind?;
        self.policy.validate()?;
        let scheme = self.scheme?;
        let plain = self.health.is_none() && scheme == TargetScheme::Plain;
        if kind.transport() == Transport::Udp && !plain {
            return Err(ServiceError::Unchecked);
        }
        if address == TargetAddress::InProcess && scheme != TargetScheme::Plain {
            return Err(ServiceError::TlsInProcess);
        }
        let name = match self.name {
            Some(name) => name?,
            None => derived_name(&kind).map_err(ServiceError::Name)?,
        };
        Ok(Declaration {
            name,
            kind,
            target: DeclaredTarget {
                address,
                scheme,
                health: self.health,
            },
            policy: self.policy,
            ephemeral: self.ephemeral,
        })
    }
}

/// `billing-example-net`, `any-example-net` for `*.example.net`, `tcp-5432`, `udp-53`.
fn derived_name(kind: &DeclaredKind) -> Result<Label, NameError> {
    let text = match kind {
        DeclaredKind::Tcp { port } => format!("tcp-{port}"),
        DeclaredKind::Udp { port } => format!("udp-{port}"),
        DeclaredKind::Http { hosts, .. } => match hosts.first() {
            Some(HostPattern::Exact(host)) => host.to_string(),
            Some(HostPattern::Wildcard(base)) => format!("any.{base}"),
            None => String::new(),
        },
    };
    let mut label = text.replace(['.', '_'], "-");
    label.truncate(63);
    label.trim_matches('-').parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(service: Service) -> String {
        service
            .declaration(TargetAddress::InProcess)
            .unwrap()
            .name
            .to_string()
    }

    fn error(service: Service) -> ServiceError {
        service.declaration(TargetAddress::InProcess).unwrap_err()
    }

    /// DESIGN section 4: without `.public()` or a policy a declared service denies everybody.
    #[test]
    fn a_service_denies_everybody_unless_told_otherwise() {
        let quiet = Service::http("a.example").declaration(TargetAddress::InProcess);
        assert_eq!(quiet.unwrap().policy, Policy::deny());
        let public = Service::http("a.example")
            .public()
            .declaration(TargetAddress::InProcess);
        assert_eq!(public.unwrap().policy, Policy::public());
    }

    #[test]
    fn names_follow_from_what_is_published() {
        assert_eq!(name(Service::http("Billing.Example.net")), "billing-example-net");
        assert_eq!(name(Service::http("*.example.net")), "any-example-net");
        assert_eq!(name(Service::http("_x.example.net")), "x-example-net");
        assert_eq!(name(Service::tcp(5432)), "tcp-5432");
        assert_eq!(name(Service::udp(53)), "udp-53");
        assert_eq!(name(Service::tcp(5432).named("orders")), "orders");
        let long = format!("{0}.{0}.example.net", "a".repeat(60));
        assert_eq!(name(Service::http(&long)).len(), 63);
    }

    #[test]
    fn what_cannot_be_is_said_by_a_type() {
        assert!(matches!(error(Service::http("a b")), ServiceError::Host(_)));
        assert!(matches!(
            error(Service::http("a.example").host("192.0.2.1")),
            ServiceError::Host(NameError::Address)
        ));
        assert_eq!(error(Service::tcp(0)), ServiceError::Port);
        assert_eq!(error(Service::udp(0)), ServiceError::Port);
        assert_eq!(error(Service::udp(53).host("a.example")), ServiceError::NotHttp);
        assert_eq!(
            error(Service::udp(53).tls("a.example", Vec::new())),
            ServiceError::Unchecked
        );
        assert_eq!(error(Service::tcp(1).host("a.example")), ServiceError::NotHttp);
        assert_eq!(error(Service::tcp(1).path("/")), ServiceError::NotHttp);
        assert!(matches!(
            error(Service::http("a.example").path("/a/../b")),
            ServiceError::Path(_)
        ));
        assert!(matches!(
            error(Service::http("a.example").named("Not a name")),
            ServiceError::Name(_)
        ));
        assert_eq!(
            error(Service::http("a.example").tls("b.example", Vec::new())),
            ServiceError::TlsInProcess
        );
        let many = (0..=MAX_HOSTS).fold(Service::http("a.example"), |service, n| {
            service.host(&format!("a{n}.example"))
        });
        assert_eq!(error(many), ServiceError::TooManyHosts);
    }
}
