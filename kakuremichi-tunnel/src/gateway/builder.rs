//! How a gateway is set up.

mod start;

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use kakuremichi_core::{
    auth::{Authenticator, Authorizer},
    name::{Label, NameError},
    plan::GatewayRecord,
};
use rustls::{RootCertStore, crypto::CryptoProvider};
use tokio::sync::oneshot;

use super::{
    Gateway,
    access::Hooks,
    certificates::{Certificates, LocalCaError},
    geo::GeoFiles,
    ingress::BindError,
    settings::{Limits, Timeouts},
};
use crate::{
    engine::{self, ShardSetHandle},
    keys::{KeyError, MIN_KEY_AGE},
    link::{PlanSource, SetupError},
    state::{StateDir, StateError},
};

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
    shards: Option<u8>,
    certificates: Certificates,
    hooks: Hooks,
    geo: GeoFiles,
    roots: Option<RootCertStore>,
    provider: Option<Arc<CryptoProvider>>,
    timeouts: Timeouts,
    limits: Limits,
    rotate_keys_after: Option<Duration>,
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
    /// The most [shards](Self::shards).
    pub const MAX_SHARDS: u8 = ShardSetHandle::MAX;

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
            shards: None,
            certificates: Certificates::default(),
            hooks: Hooks::default(),
            geo: GeoFiles::default(),
            roots: None,
            provider: None,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            rotate_keys_after: None,
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

    /// The address on which the ports of TCP and UDP services are opened; that of HTTPS, without.
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

    /// A database in MaxMind's format that says which country an address is in (`country.iso_code`, as GeoLite2
    /// has it), for rules that look at it. It is read again when its file changes. While it is missing or damaged
    /// from the start, no country is known, and those rules let nobody pass.
    #[must_use]
    pub fn geo_country(mut self, path: impl Into<PathBuf>) -> Self {
        self.geo.country = Some(path.into());
        self
    }

    /// The same of autonomous systems (`autonomous_system_number`).
    #[must_use]
    pub fn geo_asn(mut self, path: impl Into<PathBuf>) -> Self {
        self.geo.asn = Some(path.into());
        self
    }

    // What few need.

    /// On how many threads visitors are served and packets moved, 1 to [`MAX_SHARDS`](Self::MAX_SHARDS);
    /// as many as the process may use cores, without. An agent is served by one of them.
    #[must_use]
    pub const fn shards(mut self, shards: u8) -> Self {
        self.shards = Some(shards);
        self
    }

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

    /// The cryptography for TLS toward visitors, agents and targets; without, what
    /// [`crypto::default_provider`](crate::crypto::default_provider) says. It is used for this gateway, and not
    /// installed process-wide. The keys of certificates are made, read and signed with by
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

    /// The age of its keys at which the gateway [rotates](Gateway::rotate_keys) them by itself, at least
    /// [`MIN_KEY_AGE`](crate::keys::MIN_KEY_AGE); without, it does not. The age is that of the file.
    #[must_use]
    pub fn rotate_keys_after(mut self, age: Duration) -> Self {
        self.rotate_keys_after = Some(age.max(MIN_KEY_AGE));
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
}
