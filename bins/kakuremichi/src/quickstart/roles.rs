//! Starts the three roles, one after the other, and stops them in the other order.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use kakuremichi_bins_common::{AdminSource, DataDir, Failure, Role as ProcessRole};
use kakuremichi_control::{
    NODE_DOWN_AFTER,
    service::{ApiKeyDraft, TokenDraft, UseCaseError},
};
use kakuremichi_control_bin::{self as control_bin, ControlRole, Security};
use kakuremichi_core::{
    model::{DeclareScope, Permissions, Role},
    name::{HostPattern, Label},
    secret::Secret,
    time::Timestamp,
};
use kakuremichi_tunnel::{
    agent::{Agent, Forward, Service, TunnelListener},
    gateway::Gateway,
    link::{ControlLink, LinkStatus},
    state::StateDir,
};
use tokio::{task::JoinHandle, time::timeout};

use super::{
    check,
    config::{Config, DEMO, Expose},
    demo,
};

/// The certificate of the gateway's authority, in the data directory.
pub(super) const CA: &str = "ca.pem";
/// A key for the REST API, in the data directory.
pub(super) const API_KEY: &str = "api-key";
/// The enrolment tokens are of use for this long.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// The three roles, running. They end when dropped.
#[derive(Debug)]
pub(super) struct Roles {
    control: ControlRole,
    control_url: String,
    set_up: Option<Secret<String>>,
    gateway: Gateway,
    agent: Agent,
    demo: JoinHandle<std::io::Result<()>>,
    _forwards: Vec<Forward>,
}

impl Roles {
    /// Starts everything, and waits until a request to each service would get through.
    pub(super) async fn start(config: &Config, data: &DataDir) -> Result<Self, Failure> {
        let (control, control_url) = start_control(config, data).await?;
        let issuer = Issuer {
            control: &control,
            data,
        };
        issuer.api_key().await?;
        let gateway = start_gateway(config, &issuer, &control_url).await?;
        let ca = gateway.ca_certificate().unwrap_or_default().to_owned();
        data.write_public(CA, ca.as_bytes())?;
        let agent = start_agent(&issuer, &control_url).await?;
        let set_up = control.set_up_link().await?;
        let published = tokio::select! {
            published = publish(config, &gateway, &agent, &ca) => published,
            failure = failed(&gateway, &agent) => Err(failure),
        };
        let (demo, forwards) = published?;
        Ok(Self {
            control,
            control_url,
            set_up,
            gateway,
            agent,
            demo,
            _forwards: forwards,
        })
    }

    /// Waits until a role ends by itself, which none should.
    pub(super) async fn failed(&self) -> Failure {
        failed(&self.gateway, &self.agent).await
    }

    /// Lets what is under way end, for at most `grace`.
    pub(super) async fn shutdown(self, grace: Duration) {
        // The gateway first: it is what lets visitors finish, over the agent that is still there.
        self.gateway.shutdown(grace).await;
        self.agent.shutdown(grace).await;
        self.demo.abort();
        self.control.shutdown(grace).await;
    }

    /// What each role tells on the admin address.
    pub(super) fn sources(&self) -> Vec<(ProcessRole, Box<dyn AdminSource>)> {
        let control = control_bin::Source::new(self.control.control().clone());
        let gateway = kakuremichi_gateway_bin::Source::new(&self.gateway);
        let agent = kakuremichi_agent_bin::Source::new(&self.agent);
        vec![
            (ProcessRole::Control, Box::new(control)),
            (ProcessRole::Gateway, Box::new(gateway)),
            (ProcessRole::Agent, Box::new(agent)),
        ]
    }

    pub(super) fn control_url(&self) -> String {
        self.control_url.clone()
    }

    /// Where the first user makes an account.
    pub(super) fn set_up(&self) -> Option<String> {
        self.set_up.as_ref().map(|link| link.expose().clone())
    }

    pub(super) fn control_ca(&self) -> Option<PathBuf> {
        self.control.ca().cloned()
    }

    pub(super) fn http(&self) -> Option<SocketAddr> {
        self.gateway.http_address()
    }

    pub(super) fn https(&self) -> SocketAddr {
        self.gateway.https_address()
    }

    pub(super) fn wireguard(&self) -> Vec<SocketAddr> {
        self.gateway.wireguard_addresses().to_vec()
    }
}

async fn start_control(config: &Config, data: &DataDir) -> Result<(ControlRole, String), Failure> {
    let listener = control_bin::bind(config.control).await?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::because("--control", &error))?;
    // What listens on all addresses is reached at loopback here.
    let host = if address.ip().is_unspecified() {
        "localhost".to_owned()
    } else {
        host_of(address)
    };
    let control_url = format!("https://{host}:{}", address.port());
    let public_url = control_url
        .parse()
        .map_err(|error| Failure::because("--control", &error))?;
    let config = control_bin::Config {
        data: data.file("control"),
        database: None,
        listen: address,
        public_url,
        security: Security::OwnAuthority,
        mail: None,
        private_webhooks: false,
        audit_retention: None,
        node_down_after: NODE_DOWN_AFTER,
        door: control_bin::Door::default(),
    };
    let role = ControlRole::start(&config, data.subdirectory("control")?, listener).await?;
    Ok((role, control_url))
}

fn host_of(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

async fn start_gateway(config: &Config, issuer: &Issuer<'_>, control_url: &str) -> Result<Gateway, Failure> {
    let state = issuer.data.subdirectory("gateway")?;
    let token = issuer
        .token(&state, Role::Gateway, DeclareScope::default())
        .await?;
    let mut builder = Gateway::builder(ControlLink::new(control_url, token.expose().as_str()))
        .state_dir(state.path())
        .name("quickstart")
        .http(&config.http.to_string())
        .https(&config.https.to_string())
        .wireguard(&config.wireguard.to_string());
    if let Some(shards) = config.shards {
        builder = builder.shards(shards);
    }
    if config.wireguard.ip().is_unspecified() {
        builder = builder.public_address("localhost");
    }
    builder
        .spawn()
        .await
        .map_err(|error| Failure::because("cannot start the gateway", &error))
}

async fn start_agent(issuer: &Issuer<'_>, control_url: &str) -> Result<Agent, Failure> {
    let state = issuer.data.subdirectory("agent")?;
    let everything = "*.localhost"
        .parse::<HostPattern>()
        .map_err(|error| Failure::because("quickstart", &error))?;
    let scope = DeclareScope {
        hosts: vec![everything],
        ports: Vec::new(),
    };
    let token = issuer.token(&state, Role::Agent, scope).await?;
    let builder = Agent::builder(control_url, token.expose().as_str())
        .state_dir(state.path())
        .name("quickstart-agent");
    let agent = builder
        .spawn()
        .await
        .map_err(|error| Failure::because("cannot start the agent", &error))?;
    Ok(agent)
}

/// Publishes everything, and waits until a request to each service would get through.
async fn publish(
    config: &Config,
    gateway: &Gateway,
    agent: &Agent,
    ca: &str,
) -> Result<(JoinHandle<std::io::Result<()>>, Vec<Forward>), Failure> {
    let patient = Patient { gateway, agent };
    patient
        .wait("a lane between gateway and agent", agent.online())
        .await?;
    let service = Service::http(&host(DEMO)).named(DEMO).public();
    let listener = patient.wait("the demo service", agent.expose(service)).await?;
    let listener = listener.map_err(|error| Failure::because("cannot publish the demo service", &error))?;
    // The demo ends with whoever listens for it, so that nothing is left when something below fails.
    let demo = tokio::spawn(serve_demo(listener));
    let mut forwards = Vec::with_capacity(config.expose.len());
    for one in &config.expose {
        let published = patient.wait(one.name.as_str(), forward(agent, one)).await?;
        forwards.push(published?);
    }
    for name in std::iter::once(DEMO).chain(config.expose.iter().map(|one| one.name.as_str())) {
        check::reachable(gateway.https_address(), &host(name), ca).await?;
    }
    Ok((demo, forwards))
}

/// Waits until the gateway or the agent ends by itself.
async fn failed(gateway: &Gateway, agent: &Agent) -> Failure {
    tokio::select! {
        reason = agent.closed() => Failure::because("the agent ended", &reason),
        reason = kakuremichi_gateway_bin::refusal(gateway) => Failure::because("the gateway ended", &reason),
    }
}

/// Waits as long as a first request is waited for, and says what did not come.
struct Patient<'a> {
    gateway: &'a Gateway,
    agent: &'a Agent,
}

impl Patient<'_> {
    async fn wait<T>(&self, what: &str, comes: impl Future<Output = T>) -> Result<T, Failure> {
        timeout(check::PATIENCE, comes).await.map_err(|_| {
            let gateway = self.gateway.watch_status().borrow().link.clone();
            let agent = self.agent.watch_status().borrow().link.clone();
            let why = [("gateway", gateway), ("agent", agent)];
            let why = why.iter().filter_map(|(role, link)| match link {
                LinkStatus::Waiting { error, .. } => {
                    Some(format!("; the {role} has no link to Control: {error}"))
                }
                _ => None,
            });
            let seconds = check::PATIENCE.as_secs();
            Failure::refused(format!(
                "waited {seconds} s in vain for {what}{}",
                why.collect::<String>()
            ))
        })
    }
}

async fn serve_demo(listener: TunnelListener) -> std::io::Result<()> {
    let service = demo::router().into_make_service_with_connect_info::<kakuremichi_tunnel::agent::Visitor>();
    axum::serve(listener, service).await
}

async fn forward(agent: &Agent, one: &Expose) -> Result<Forward, Failure> {
    let mut service = Service::http(&host(one.name.as_str()))
        .named(one.name.as_str())
        .public();
    if one.tls {
        service = service.tls(&one.target.host.to_string(), Vec::new());
    }
    let forwarded = agent.forward(service, &one.target.to_string()).await;
    forwarded.map_err(|error| Failure::because(&format!("cannot publish {}", one.name), &error))
}

fn host(name: &str) -> String {
    format!("{name}.localhost")
}

/// Makes credentials, as an operator would.
struct Issuer<'a> {
    control: &'a ControlRole,
    data: &'a DataDir,
}

impl Issuer<'_> {
    /// Leaves a key for the REST API in the data directory, if there is none.
    async fn api_key(&self) -> Result<(), Failure> {
        if self.data.read(API_KEY)?.is_some() {
            return Ok(());
        }
        let use_cases = self.control.control().use_cases();
        let actor = use_cases.control().await.map_err(refused)?;
        let draft = ApiKeyDraft {
            name: name()?,
            permissions: Permissions::EVERYTHING,
            expires: None,
        };
        let key = use_cases.create_api_key(&actor, draft).await.map_err(refused)?;
        self.data.write_secret(API_KEY, key.text.expose().as_bytes())?;
        Ok(())
    }

    /// A token for one node, of use for a few minutes. A node that enrolled in an earlier run needs none, and
    /// gets an empty one.
    async fn token(
        &self,
        state: &DataDir,
        role: Role,
        declare: DeclareScope,
    ) -> Result<Secret<String>, Failure> {
        let enrolment = StateDir::open(state.path()).and_then(|state| state.enrolment());
        let enrolment =
            enrolment.map_err(|error| Failure::because("a node's directory cannot be used", &error))?;
        if enrolment.is_some() {
            return Ok(Secret::new(String::new()));
        }
        let use_cases = self.control.control().use_cases();
        let actor = use_cases.control().await.map_err(refused)?;
        let draft = TokenDraft {
            name: name()?,
            role,
            uses: Some(1),
            expires: Some(Timestamp::from(SystemTime::now()).after(TOKEN_LIFE)),
            declare,
            approval: false,
            labels: Default::default(),
        };
        Ok(use_cases.create_token(&actor, draft).await.map_err(refused)?.text)
    }
}

fn name() -> Result<Label, Failure> {
    "quickstart"
        .parse()
        .map_err(|error| Failure::because("quickstart", &error))
}

fn refused(error: UseCaseError) -> Failure {
    Failure::because("Control refuses a credential", &error)
}
