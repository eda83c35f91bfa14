//! How a gateway is set up.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use arc_swap::ArcSwap;
use data_encoding::BASE32_NOPAD;
use kakuremichi_core::{
    auth::{Authenticator, Authorizer},
    model::Role,
    name::{Label, NameError},
    net::Endpoint,
    plan::GatewayRecord,
};
use kakuremichi_proto::report::{GatewayInfo, NodeInfo};
use rustls::{RootCertStore, crypto::CryptoProvider};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Gateway,
    access::Hooks,
    blueprint::{Blueprint, Wiring},
    certificates::{CertificateSource, Certificates, LocalCa, LocalCaError, Resolver},
    handle::Inner,
    http::TargetTls,
    ingress::{BindError, bind},
    metrics::Counters,
    network,
    serving::Numbers,
    settings::{Limits, Timeouts},
    status::{GatewayStatus, Phase},
    table::RouteTable,
};
use crate::{
    engine::{self, ShardConfig, ShardHandle},
    keys::{self, KeyError, NodeKeys},
    link::{self, LinkStatus, PlanSource, SetupError},
    state::{PEERS, StateDir, StateError},
};

/// The requests of handles that wait for the gateway; further ones wait with their callers.
const REQUESTS: usize = 16;
/// WireGuard's usual port.
const WIREGUARD: u16 = 51_820;

/// Why a gateway could not be started. Nothing is left running. What only the network can tell is no
/// reason: `spawn` never waits for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The URL, the token or what is known of the enrolment does not fit.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The name that it should have is none.
    #[error("the gateway's name is unusable: {0}")]
    Name(#[source] NameError),
    /// An address is none.
    #[error("{0:?} is not an address to listen on, such as \"[::]:443\"")]
    Address(String),
    /// A public address is none.
    #[error("{0:?} is not a public address, such as \"gateway.example.net\" or \"203.0.113.1:51820\"")]
    PublicAddress(String),
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// There is no certificate authority.
    #[error(transparent)]
    LocalCa(#[from] LocalCaError),
    /// The cryptography provider cannot do what TLS needs.
    #[error("the cryptography provider cannot be used for TLS")]
    Tls(#[from] rustls::Error),
    /// The system gave no random bytes.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The data path cannot be started.
    #[error(transparent)]
    Engine(#[from] engine::SpawnError),
}

/// What a gateway is made of; see [`Gateway::builder`].
#[derive(Debug)]
pub struct GatewayBuilder {
    source: Arc<dyn PlanSource<GatewayRecord>>,
    state: State,
    name: Option<Result<Label, NameError>>,
    http: Option<Given>,
    https: Given,
    wireguard: Given,
    tcp: Option<IpAddr>,
    public: Vec<String>,
    public_https: Option<u16>,
    certificates: Certificates,
    hooks: Hooks,
    roots: Option<RootCertStore>,
    provider: Option<Arc<CryptoProvider>>,
    timeouts: Timeouts,
    limits: Limits,
    software: String,
}

#[derive(Debug)]
enum State {
    Path(PathBuf),
    Open(StateDir),
}

/// An address as it was given.
#[derive(Debug, Clone)]
struct Given(Result<SocketAddr, String>);

impl Given {
    fn parse(text: &str) -> Self {
        Self(text.parse().map_err(|_| text.to_owned()))
    }

    fn get(&self) -> Result<SocketAddr, SpawnError> {
        self.0.clone().map_err(SpawnError::Address)
    }
}

impl GatewayBuilder {
    pub(super) fn new(source: impl PlanSource<GatewayRecord>) -> Self {
        let any = |port| Given(Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))));
        Self {
            source: Arc::new(source),
            state: State::Open(StateDir::memory()),
            name: None,
            http: None,
            https: any(443),
            wireguard: any(WIREGUARD),
            tcp: None,
            public: Vec::new(),
            public_https: None,
            certificates: Certificates::default(),
            hooks: Hooks::default(),
            roots: None,
            provider: None,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            software: concat!("kakuremichi ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    // What everybody should say.

    /// Where the gateway remembers who it is and what it serves; made when it is missing. Without one it
    /// enrols anew each time it starts, and cannot start while Control is away.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state = State::Path(path.into());
        self
    }

    /// Where agents reach the WireGuard socket, best first: a name or an address, with a port if it is
    /// not the one that is listened on. Called once for each. Without any it is the address that is
    /// listened on, if that is a certain one.
    #[must_use]
    pub fn public_address(mut self, address: impl Into<String>) -> Self {
        self.public.push(address.into());
        self
    }

    // Where it listens. A port of 0 is one of the system's choice.

    /// The address of the HTTP port, which sends visitors to HTTPS. Without it there is none.
    #[must_use]
    pub fn http(mut self, address: &str) -> Self {
        self.http = Some(Given::parse(address));
        self
    }

    /// The address of the HTTPS port; `[::]:443`, without. `[::]` takes IPv4 too.
    #[must_use]
    pub fn https(mut self, address: &str) -> Self {
        self.https = Given::parse(address);
        self
    }

    /// The address at which WireGuard's datagrams are received; `[::]:51820`, without.
    #[must_use]
    pub fn wireguard(mut self, address: &str) -> Self {
        self.wireguard = Given::parse(address);
        self
    }

    /// The address on which the ports of TCP services are opened; that of HTTPS, without.
    #[must_use]
    pub const fn tcp(mut self, address: IpAddr) -> Self {
        self.tcp = Some(address);
        self
    }

    /// The port at which visitors reach HTTPS, if it is not the one that is listened on.
    #[must_use]
    pub const fn public_https_port(mut self, port: u16) -> Self {
        self.public_https = Some(port);
        self
    }

    // Who visitors are, and what they see.

    /// The certificates of served names; those of a CA of the gateway's own, without.
    #[must_use]
    pub fn certificates(mut self, certificates: impl Into<Certificates>) -> Self {
        self.certificates = certificates.into();
        self
    }

    /// Proves who visitors are, for services that ask for it.
    #[must_use]
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.hooks.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// Is asked about visitors whom the policy lets in, and may object.
    #[must_use]
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.hooks.authorizer = Some(Arc::new(authorizer));
        self
    }

    // What few need.

    /// The name that the gateway would like to have; Control gives it another one if that is taken.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.parse());
        self
    }

    /// A state directory that is open already.
    #[must_use]
    pub fn state(mut self, state: StateDir) -> Self {
        self.state = State::Open(state);
        self
    }

    /// Verifies `https` targets that have no roots of their own by these; by the system's, without.
    #[must_use]
    pub fn target_roots(mut self, roots: RootCertStore) -> Self {
        self.roots = Some(roots);
        self
    }

    /// The cryptography for TLS toward visitors and targets; ring's, without. It is used for this
    /// gateway, and not installed process-wide. The keys of certificates are made, read and signed with by
    /// ring all the same, and session tickets sealed by it.
    #[must_use]
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Deadlines.
    #[must_use]
    pub const fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Bounds.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How the program calls itself, name and version, for those who look at the gateway in Control.
    #[must_use]
    pub fn software(mut self, software: impl Into<String>) -> Self {
        self.software = software.into();
        self
    }

    /// Starts the gateway. It never waits for the network: what is on the disk is served at once, and
    /// Control is looked for from then on.
    ///
    /// # Errors
    /// When what it was given cannot work, or the system has no thread, socket or memory for it.
    /// Nothing is left running then.
    pub async fn spawn(self) -> Result<Gateway, SpawnError> {
        let (answer, answered) = oneshot::channel();
        // The disk may take its time, and the caller's runtime has others to serve.
        std::thread::Builder::new()
            .name("kakuremichi-start".to_owned())
            .spawn(move || {
                // Whoever asked may be gone: then the gateway ends with its handle.
                let _ = answer.send(self.start());
            })
            .map_err(|source| SpawnError::Engine(engine::SpawnError::Thread(source)))?;
        answered.await.unwrap_or_else(|_| {
            Err(SpawnError::Engine(engine::SpawnError::Thread(
                std::io::Error::other("it panicked"),
            )))
        })
    }

    fn start(self) -> Result<Gateway, SpawnError> {
        let wireguard = self.wireguard.get()?;
        let tcp = match self.tcp {
            Some(address) => address,
            None => self.https.get()?.ip(),
        };
        let https = bind(self.https.get()?)?;
        let http = self
            .http
            .as_ref()
            .map(|given| bind(given.get()?).map_err(SpawnError::from));
        let http = http.transpose()?;
        let state = match self.state {
            State::Path(path) => StateDir::open(&path)?,
            State::Open(state) => state,
        };
        let keys = state.keys()?;
        let name = match self.name {
            Some(name) => name.map_err(SpawnError::Name)?,
            None => presumed_name(&keys).map_err(SpawnError::Name)?,
        };
        let provider = self
            .provider
            .unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
        let table: Arc<ArcSwap<RouteTable>> = Arc::default();
        let (certificates, ca) = certificates(self.certificates, &state, &self.limits)?;
        let tls = Resolver::server_config(Arc::clone(&table), certificates, Arc::clone(&provider))?;
        let target_tls = TargetTls::new(provider, self.roots.unwrap_or_else(link::system_roots))?;
        // The system may choose the port, which agents are told: the socket comes before them.
        let config = ShardConfig::new(
            "gateway",
            keys.wireguard_private(),
            vec![wireguard],
            keys::random()?,
        );
        let public_port = self.public_https.unwrap_or_else(|| https.address.port());
        let counters: Arc<Counters> = Arc::default();
        let blueprint = Blueprint {
            table,
            tls,
            target_tls,
            hooks: self.hooks,
            access_key: keys::random()?,
            numbers: Numbers::new(u64::from_be_bytes(keys::random()?)),
            timeouts: self.timeouts,
            limits: self.limits,
            counters: Arc::clone(&counters),
            public_port,
            tcp,
        };
        let (requests, requested) = mpsc::channel(REQUESTS);
        let (status, statuses) = watch::channel(Arc::new(initial()));
        let inner = Inner {
            requests,
            status: statuses,
            counters,
            http: http.as_ref().map(|bound| bound.address),
            https: https.address,
            ca,
            keys: keys.clone(),
        };
        let last = network::from_text(&state.read_own(PEERS)?.unwrap_or_default());
        let (wire, wired) = oneshot::channel::<Wiring>();
        let shard = ShardHandle::spawn(config, move |local| {
            let start = local.clone();
            local.spawn(async move {
                // What follows needs the shard's own addresses; it may also fail, and there is none.
                if let Ok(wiring) = wired.await {
                    blueprint.build(&start, wiring, status, requested, last);
                }
            });
        })?;
        let info = NodeInfo {
            software: self.software,
            gateway: Some(GatewayInfo {
                endpoints: endpoints(&self.public, shard.local_addresses())?,
                https_port: public_port,
            }),
        };
        let (supply, node) = link::supply(Role::Gateway, name, keys, state.clone(), info);
        let source = self.source.open(supply)?;
        let wiring = Wiring {
            node,
            state,
            source,
            http,
            https,
        };
        // The shard runs as long as the handle that is returned.
        let _ = wire.send(wiring);
        Ok(Gateway::new(shard, inner))
    }
}

fn certificates(
    certificates: Certificates,
    state: &StateDir,
    limits: &Limits,
) -> Result<(Arc<dyn CertificateSource>, Option<String>), LocalCaError> {
    match certificates {
        Certificates::LocalCa => {
            let ca = LocalCa::open(state, limits.certificates)?;
            let pem = ca.pem().to_owned();
            Ok((Arc::new(ca), Some(pem)))
        }
        Certificates::Source(source) => Ok((source, None)),
    }
}

/// Where agents find the gateway.
fn endpoints(public: &[String], bound: &[SocketAddr]) -> Result<Vec<Endpoint>, SpawnError> {
    let port = bound.first().map_or(WIREGUARD, SocketAddr::port);
    if public.is_empty() {
        let certain = bound.iter().filter(|address| !address.ip().is_unspecified());
        return Ok(certain
            .map(|address| Endpoint {
                host: kakuremichi_core::net::Host::Address(address.ip()),
                port: address.port(),
            })
            .collect());
    }
    public
        .iter()
        .map(|text| {
            Endpoint::parse_with_port(text, port).map_err(|_| SpawnError::PublicAddress(text.clone()))
        })
        .collect()
}

/// `gateway-` and the start of the node's identity: another name for each gateway.
fn presumed_name(keys: &NodeKeys) -> Result<Label, NameError> {
    let identity = BASE32_NOPAD.encode(&keys.identity().as_bytes()[..5]);
    format!("gateway-{identity}").parse()
}

fn initial() -> GatewayStatus {
    GatewayStatus {
        phase: Phase::Running,
        link: LinkStatus::Idle,
        revision: None,
        settled: false,
        peers: Vec::new(),
        services: Arc::default(),
        ports: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_told_public_addresses_or_certain_ones() {
        let bound = ["127.0.0.1:1".parse().unwrap(), "[::]:1".parse().unwrap()];
        let told = |public: &[&str]| {
            let public: Vec<String> = public.iter().map(ToString::to_string).collect();
            let told = endpoints(&public, &bound)?;
            Ok::<_, SpawnError>(told.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(told(&[]).unwrap(), ["127.0.0.1:1"]);
        assert_eq!(
            told(&["gw.example.net", "[2001:db8::1]:7"]).unwrap(),
            ["gw.example.net:1", "[2001:db8::1]:7"]
        );
        assert!(matches!(told(&["no good"]), Err(SpawnError::PublicAddress(text)) if text == "no good"));
    }
}
