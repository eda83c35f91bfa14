//! Services, their routes and targets.

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use crate::{
    id::{AgentId, OrganizationId, PolicyId, RouteId, ServiceId, SiteId, TargetId},
    name::{HostPattern, Hostname, Label, PathPattern},
    net::Endpoint,
    policy::{MAX_ATTACHED, Policy},
    time::Timestamp,
};

/// The most hosts of one service.
pub const MAX_HOSTS: usize = 64;
/// The most routes of one service.
pub const MAX_ROUTES: usize = 256;
/// The most targets of one pool.
pub const MAX_TARGETS: usize = 64;

/// The longest path of a Unix socket, in bytes: Linux takes no longer ones.
pub const MAX_SOCKET_PATH: usize = 107;
/// The longest path of a health check, in bytes.
pub const MAX_HEALTH_PATH: usize = 1024;

/// A thing that is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its identifier.
    pub id: ServiceId,
    /// The owner.
    pub organization: OrganizationId,
    /// Its name, unique in the organization.
    pub name: Label,
    /// What is published.
    pub kind: ServiceKind,
    /// Who may reach it. Without a rule or a method it denies everybody.
    pub policy: Policy,
    /// The shared policies that go before its own, in this order, at most [`MAX_ATTACHED`].
    pub policies: Vec<PolicyId>,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// When it was made.
    pub created: Timestamp,
}

/// How long a service lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Made through the API; deleted through the API.
    Configured,
    /// Declared by an agent, and stays when the agent stops.
    Declared(AgentId),
    /// Declared by an agent, and goes with the agent's lease.
    Ephemeral(AgentId),
}

impl Lifetime {
    /// The agent that declared the service.
    #[must_use]
    pub const fn declared_by(&self) -> Option<AgentId> {
        match self {
            Self::Configured => None,
            Self::Declared(agent) | Self::Ephemeral(agent) => Some(*agent),
        }
    }
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// HTTP at host names, on the gateways' HTTPS port.
    Http {
        /// The hosts, 1 to [`MAX_HOSTS`].
        hosts: Vec<HostPattern>,
        /// The routes, at most [`MAX_ROUTES`]; the most specific path wins.
        routes: Vec<Route>,
        /// What the targets are told of who a visitor is.
        identity: IdentityForm,
    },
    /// Raw TCP on a port of every gateway.
    Tcp {
        /// The port.
        port: u16,
        /// Where connections go.
        pool: Pool,
    },
    /// Datagrams on a UDP port of every gateway.
    Udp {
        /// The port.
        port: u16,
        /// Where sessions go. Nothing checks whether a UDP target is alive.
        pool: Pool,
    },
}

/// In which form the targets of an HTTP service are told who a visitor is. Whichever it is, what visitors send under the
/// names of these header fields does not reach the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IdentityForm {
    /// They are not told.
    Nothing,
    /// Header fields, one for each thing that is known. Who reaches the target past the gateway can write them, too.
    Headers,
    /// An assertion in one header field, which the gateway signs.
    Assertion,
    /// Both.
    #[default]
    Both,
}

impl IdentityForm {
    /// Every form.
    pub const ALL: [Self; 4] = [Self::Nothing, Self::Headers, Self::Assertion, Self::Both];

    /// Whether there is a header field for each thing that is known.
    #[must_use]
    pub const fn has_headers(self) -> bool {
        matches!(self, Self::Headers | Self::Both)
    }

    /// Whether there is an assertion.
    #[must_use]
    pub const fn has_assertion(self) -> bool {
        matches!(self, Self::Assertion | Self::Both)
    }
}

/// A path of an HTTP service and where its requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its identifier.
    pub id: RouteId,
    /// The paths.
    pub path: PathPattern,
    /// Where the requests go.
    pub pool: Pool,
    /// The shared policies that go, for this route, between those of the service and the service's own, in
    /// this order, at most [`MAX_ATTACHED`].
    pub policies: Vec<PolicyId>,
}

/// Targets that serve the same thing. They are taken in turn, as long as their check passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// The targets, at most [`MAX_TARGETS`].
    pub targets: Vec<Target>,
    /// How agents check them.
    pub health: Option<HealthCheck>,
}

/// Where an agent, or a site, delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its identifier.
    pub id: TargetId,
    /// Who reaches it, and at which address.
    pub place: TargetPlace,
    /// What is spoken to it.
    pub scheme: TargetScheme,
}

/// Who reaches a target, and at which address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPlace {
    /// Through an agent.
    Agent {
        /// The agent.
        agent: AgentId,
        /// The port in the overlay at which the agent takes flows for this target: a UDP port at a UDP
        /// service, otherwise a TCP port.
        port: VirtualPort,
        /// What the agent dials.
        address: TargetAddress,
    },
    /// Behind a stock WireGuard device.
    Site {
        /// The site.
        site: SiteId,
        /// The address, which must lie in the site's networks or be the site itself.
        address: std::net::SocketAddr,
    },
}

/// A port in the overlay, at an agent. No two targets have the same, of whatever transport. Ports below [`VirtualPort::FIRST`] are reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualPort(u16);

impl VirtualPort {
    /// The first port that a target can have.
    pub const FIRST: Self = Self(1024);

    /// Takes a port.
    #[must_use]
    pub const fn new(port: u16) -> Option<Self> {
        if port < Self::FIRST.0 {
            None
        } else {
            Some(Self(port))
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The port behind this one; `None` when all have been given.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(port) => Some(Self(port)),
            None => None,
        }
    }
}

impl fmt::Debug for VirtualPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What an agent dials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetAddress {
    /// A TCP address, by name or number, as the agent sees it.
    Tcp(Endpoint),
    /// A Unix stream socket on the agent's host.
    Unix(PathBuf),
    /// A listener in the program that embeds the agent.
    InProcess,
    /// A UDP address, by name or number, as the agent sees it.
    Udp(Endpoint),
}

impl TargetAddress {
    /// Whether a target of a service of this transport can be here.
    #[must_use]
    pub const fn takes(&self, transport: Transport) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => matches!(transport, Transport::Tcp),
            Self::Udp(_) => matches!(transport, Transport::Udp),
            Self::InProcess => true,
        }
    }
}

/// How flows to targets are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// As streams.
    Tcp,
    /// As datagrams.
    Udp,
}

/// What the gateway speaks to a target, through the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetScheme {
    /// Plain: HTTP in the clear, or raw TCP.
    Plain,
    /// TLS, verified.
    Tls {
        /// The name that the certificate must have. Without one it is the target's own host name.
        server_name: Option<Hostname>,
        /// The certificates (DER) that are trusted instead of the gateway's own roots.
        roots: Vec<Vec<u8>>,
    },
}

/// How a target is checked, by the agent that reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What counts as alive.
    pub check: Health,
    /// The time from one check to the next.
    pub interval: Duration,
    /// The time in which a check must succeed.
    pub timeout: Duration,
    /// So many failures in a row take a target out.
    pub unhealthy_after: u8,
    /// So many successes in a row bring it back.
    pub healthy_after: u8,
}

/// What counts as alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// A TCP connection can be made.
    Tcp,
    /// A GET of `path` with the Host `host` answers 200 to 399.
    Http {
        /// The path and query.
        path: String,
        /// The Host header; the target's own address without one.
        host: Option<Hostname>,
    },
}

/// Why a service cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// An HTTP service without a host.
    #[error("an HTTP service needs at least one host")]
    NoHost,
    /// More than a bound allows.
    #[error(
        "a service has at most {MAX_HOSTS} hosts, {MAX_ROUTES} routes and {MAX_TARGETS} targets in a pool"
    )]
    TooMany,
    /// A host stands twice.
    #[error("the host {0} stands twice")]
    DuplicateHost(HostPattern),
    /// A path stands twice.
    #[error("the path {0} stands twice")]
    DuplicatePath(PathPattern),
    /// Too many policies, or one twice.
    #[error("a service and each of its routes have at most {MAX_ATTACHED} policies, each of them once")]
    Policies,
    /// A port that cannot be listened on.
    #[error("a TCP or UDP service needs a port from 1 to 65535")]
    Port,
    /// A target that is not of the service's transport.
    #[error("a UDP service has UDP targets, and any other service has none")]
    Transport,
    /// A check of, or TLS to, what is sent datagrams.
    #[error("a UDP service has neither a health check nor TLS to its targets")]
    Datagrams,
    /// A check that cannot be run.
    #[error(
        "a health check needs an interval and a timeout from 100 ms to 1 h, and thresholds of at least 1"
    )]
    HealthCheck,
    /// The path of a check does not start with a slash, or is too long.
    #[error(
        "the path of a health check starts with `/`, has no control characters and at most {MAX_HEALTH_PATH} bytes"
    )]
    HealthPath,
    /// A path that no socket can have.
    #[error("the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes")]
    SocketPath,
    /// TLS with a site's target needs a name to verify.
    #[error("an https target at an address needs `server_name`, the name in its certificate")]
    ServerName,
}

impl Service {
    /// Every pool of the service.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        let (routes, pool) = match &self.kind {
            ServiceKind::Http { routes, .. } => (routes.as_slice(), None),
            ServiceKind::Tcp { pool, .. } | ServiceKind::Udp { pool, .. } => (&[][..], Some(pool)),
        };
        routes.iter().map(|route| &route.pool).chain(pool)
    }

    /// Every target of the service.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.pools().flat_map(|pool| &pool.targets)
    }

    /// Every shared policy that is attached to the service or to one of its routes, once.
    #[must_use]
    pub fn attached(&self) -> BTreeSet<PolicyId> {
        let routes = match &self.kind {
            ServiceKind::Http { routes, .. } => routes.as_slice(),
            ServiceKind::Tcp { .. } | ServiceKind::Udp { .. } => &[],
        };
        let of_routes = routes.iter().flat_map(|route| &route.policies);
        self.policies.iter().chain(of_routes).copied().collect()
    }

    /// Checks what the types alone cannot hold.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ServiceError> {
        validate_attached(&self.policies)?;
        match &self.kind {
            ServiceKind::Http { hosts, routes, .. } => {
                if hosts.is_empty() {
                    return Err(ServiceError::NoHost);
                }
                if hosts.len() > MAX_HOSTS || routes.len() > MAX_ROUTES {
                    return Err(ServiceError::TooMany);
                }
                let mut seen = BTreeSet::new();
                if let Some(host) = hosts.iter().find(|host| !seen.insert(*host)) {
                    return Err(ServiceError::DuplicateHost(host.clone()));
                }
                let mut seen = BTreeSet::new();
                if let Some(route) = routes.iter().find(|route| !seen.insert(&route.path)) {
                    return Err(ServiceError::DuplicatePath(route.path.clone()));
                }
                routes
                    .iter()
                    .try_for_each(|route| validate_attached(&route.policies))?;
            }
            ServiceKind::Tcp { port: 0, .. } | ServiceKind::Udp { port: 0, .. } => {
                return Err(ServiceError::Port);
            }
            ServiceKind::Tcp { .. } | ServiceKind::Udp { .. } => {}
        }
        let transport = self.kind.transport();
        self.pools().try_for_each(|pool| pool.validate(transport))
    }
}

fn validate_attached(policies: &[PolicyId]) -> Result<(), ServiceError> {
    let distinct: BTreeSet<_> = policies.iter().collect();
    if policies.len() > MAX_ATTACHED || distinct.len() < policies.len() {
        return Err(ServiceError::Policies);
    }
    Ok(())
}

impl ServiceKind {
    /// How flows to its targets are carried.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Http { .. } | Self::Tcp { .. } => Transport::Tcp,
            Self::Udp { .. } => Transport::Udp,
        }
    }
}

impl Pool {
    fn validate(&self, transport: Transport) -> Result<(), ServiceError> {
        if self.targets.len() > MAX_TARGETS {
            return Err(ServiceError::TooMany);
        }
        let fits = |target: &Target| match &target.place {
            TargetPlace::Agent { address, .. } => address.takes(transport),
            TargetPlace::Site { .. } => true,
        };
        if !self.targets.iter().all(fits) {
            return Err(ServiceError::Transport);
        }
        let plain = |target: &Target| target.scheme == TargetScheme::Plain;
        if transport == Transport::Udp && !(self.health.is_none() && self.targets.iter().all(plain)) {
            return Err(ServiceError::Datagrams);
        }
        self.targets.iter().try_for_each(Target::validate)?;
        self.health.iter().try_for_each(HealthCheck::validate)
    }
}

impl Target {
    fn validate(&self) -> Result<(), ServiceError> {
        if let TargetPlace::Agent {
            address: TargetAddress::Unix(path),
            ..
        } = &self.place
            && path.as_os_str().len() > MAX_SOCKET_PATH
        {
            return Err(ServiceError::SocketPath);
        }
        let TargetScheme::Tls {
            server_name: None, ..
        } = &self.scheme
        else {
            return Ok(());
        };
        match &self.place {
            TargetPlace::Agent {
                address: TargetAddress::Tcp(endpoint),
                ..
            } if matches!(endpoint.host, crate::net::Host::Name(_)) => Ok(()),
            TargetPlace::Agent { .. } | TargetPlace::Site { .. } => Err(ServiceError::ServerName),
        }
    }
}

impl HealthCheck {
    fn validate(&self) -> Result<(), ServiceError> {
        let sane = Duration::from_millis(100)..=Duration::from_secs(3600);
        let bounded = sane.contains(&self.interval) && sane.contains(&self.timeout);
        if !bounded || self.unhealthy_after == 0 || self.healthy_after == 0 {
            return Err(ServiceError::HealthCheck);
        }
        match &self.check {
            Health::Http { path, .. }
                if !path.starts_with('/')
                    || path.len() > MAX_HEALTH_PATH
                    || path.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) =>
            {
                Err(ServiceError::HealthPath)
            }
            Health::Http { .. } | Health::Tcp => Ok(()),
        }
    }
}
