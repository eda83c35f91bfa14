//! A whole deployment: Control, gateways, and an agent behind NAT whose targets nobody else can reach.
//!
//! Every role is a process of its own in a network namespace of its own, enrolled by a token over the real link.
//!
//! ```text
//!  visitors ── gateways ── edge-nat ── edge (the agent and its targets)
//!                 │           │
//!              control ───────┘
//! ```

mod control;
mod node;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use control::{Control, Rest};
pub use node::{Gateway, Node};

use crate::client::{Reply, Visitor, VisitorError};
use crate::component;
use crate::net::{self, Families, Host, Network};
use crate::process::Program;
use crate::traffic::Traffic;
use crate::wait;

/// What is logged by the processes of a deployment, when it is not what they log by default.
pub const LOG: &str = "KAKUREMICHI_TEST_LOG";

/// The agent's name.
pub const AGENT: &str = "edge";

/// Control, gateways and an agent. Everything ends when this is dropped.
///
/// The fields are in the order in which they have to be dropped: processes before the hosts that they are on.
#[derive(Debug)]
pub struct Deployment {
    /// The agent, behind NAT.
    pub agent: Node,
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// Control.
    pub control: Control,
    /// Where visitors come from.
    pub visitors: Host,
    /// The network that all are on.
    pub network: Network,
    directory: TempDir,
}

impl Deployment {
    /// One gateway, on a network with IPv6 and IPv4. `None` when the test was asked to do without what it needs.
    ///
    /// # Panics
    ///
    /// Something does not come up.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::with(Families::Both, 1)
    }

    /// Any number of gateways on a network with these families.
    ///
    /// # Panics
    ///
    /// Something does not come up.
    #[must_use]
    pub fn with(families: Families, gateways: usize) -> Option<Self> {
        Self::build(families, gateways, &[], Control::start)
    }

    /// One gateway, and an agent that is started with further flags.
    ///
    /// # Panics
    ///
    /// Something does not come up.
    #[must_use]
    pub fn with_agent(flags: &[&str]) -> Option<Self> {
        Self::build(Families::Both, 1, flags, Control::start)
    }

    /// One gateway, and a Control that is known by its address: nodes inside the test cannot resolve its name.
    ///
    /// # Panics
    ///
    /// Something does not come up.
    #[must_use]
    pub fn by_address() -> Option<Self> {
        Self::build(Families::Both, 1, &[], Control::start_by_address)
    }

    /// One gateway, and two instances of Control on a PostgreSQL database. The second one stands beside the
    /// deployment.
    ///
    /// # Panics
    ///
    /// Something does not come up.
    #[must_use]
    pub fn with_two_controls(database: &str) -> Option<(Self, Control)> {
        if !component::have(&net::COMPONENTS) {
            return None;
        }
        let network = Network::new(Families::Both);
        let directory = tempfile::tempdir().unwrap();
        let data = |name: &str| directory.path().join(name);
        let mut control = Control::start_on_database(network.host("control"), &data("control"), database);
        let second = control.another_instance(network.host("control-2"), &data("control-2"));
        Some((Self::around(network, directory, control, 1, &[]), second))
    }

    fn build(
        families: Families,
        gateways: usize,
        flags: &[&str],
        start_control: impl FnOnce(Host, &Path) -> Control,
    ) -> Option<Self> {
        if !component::have(&net::COMPONENTS) {
            return None;
        }
        let network = Network::new(families);
        let directory = tempfile::tempdir().unwrap();
        let control = start_control(network.host("control"), &directory.path().join("control"));
        Some(Self::around(network, directory, control, gateways, flags))
    }

    fn around(
        network: Network,
        directory: TempDir,
        control: Control,
        gateways: usize,
        flags: &[&str],
    ) -> Self {
        let visitors = network.host("visitors");
        let token = control.token("agent", &[]);
        let edge = network.host_behind_nat(AGENT);
        let data = directory.path().join(AGENT);
        let agent = start_agent_with(edge, &control, &data, AGENT, &token, flags);
        let mut deployment = Self {
            agent,
            gateways: Vec::new(),
            control,
            visitors,
            network,
            directory,
        };
        for _ in 0..gateways {
            deployment.add_gateway(&[]);
        }
        if gateways > 0 {
            deployment.agent.ready();
        }
        deployment
    }

    /// Lets one more gateway join, started with further flags.
    ///
    /// # Panics
    ///
    /// It does not come up.
    pub fn add_gateway(&mut self, flags: &[&str]) -> &mut Gateway {
        let name = format!("gateway-{}", self.gateways.len() + 1);
        let token = self.control.token("gateway", &[]);
        let host = self.network.host(&name);
        let data = self.data(&name);
        let gateway = Gateway::start(host, &self.control, &data, &name, &token, flags);
        self.gateways.push(gateway);
        self.gateways.last_mut().unwrap()
    }

    /// A directory of this deployment's own.
    #[must_use]
    pub fn data(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// The host that the agent and its targets are on.
    #[must_use]
    pub const fn edge(&self) -> &Host {
        self.agent.host()
    }

    /// A visitor at one of the gateways, who trusts all gateways' authorities.
    #[must_use]
    pub fn visitor_at(&self, gateway: usize) -> Visitor {
        let authorities: Vec<String> = self.gateways.iter().map(Gateway::authority).collect();
        let authorities: Vec<&str> = authorities.iter().map(String::as_str).collect();
        Visitor::trusting(&authorities).at(self.gateways[gateway].host().address())
    }

    /// Does something as a visitor at the first gateway.
    pub fn visit<T: Send>(&self, work: impl AsyncFnOnce(Visitor) -> T + Send) -> T {
        let visitor = self.visitor_at(0);
        self.visitors.block_on(async || work(visitor).await)
    }

    /// One request at the first gateway.
    ///
    /// # Panics
    ///
    /// There is no answer.
    #[must_use]
    #[track_caller]
    pub fn get(&self, url: &str) -> Reply {
        self.visit(async |visitor| visitor.get(url).await)
            .unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// Publishes a target of the agent to everybody, and waits until every gateway serves it.
    ///
    /// The service has the name and the host `NAME.test`; the target is at this port of the agent's host.
    ///
    /// # Panics
    ///
    /// Control refuses it, or it is not served.
    #[track_caller]
    pub fn publish(&self, name: &str, port: u16) -> Value {
        let service = self.control.rest().create("services", &public(name, port));
        self.served(&format!("https://{name}.test/hello"));
        service
    }

    /// Waits until every gateway answers a request with 200.
    ///
    /// # Panics
    ///
    /// One never does.
    #[track_caller]
    pub fn served(&self, url: &str) {
        for gateway in 0..self.gateways.len() {
            self.answered(gateway, url, StatusCode::OK);
        }
    }

    /// Waits until a gateway answers a request with this status, and returns the answer.
    ///
    /// # Panics
    ///
    /// It never does.
    #[track_caller]
    pub fn answered(&self, gateway: usize, url: &str, status: StatusCode) -> Reply {
        let visitor = self.visitor_at(gateway);
        wait::until_right(url, || {
            let answer = self.visitors.block_on(async || visitor.get(url).await);
            match answer {
                Ok(reply) if reply.status == status => Ok(reply),
                Ok(reply) => Err(reply.text()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// Waits until a gateway does not know the host of a URL any more: it has no certificate for it, and nothing
    /// is there.
    ///
    /// # Panics
    ///
    /// It always does.
    #[track_caller]
    pub fn gone(&self, gateway: usize, url: &str) {
        let visitor = self.visitor_at(gateway);
        wait::until_right(url, || {
            match self.visitors.block_on(async || visitor.get(url).await) {
                Err(VisitorError::Tls(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// Requests at a gateway, one after the other, until it is told to stop.
    #[must_use]
    pub fn traffic(&self, gateway: usize, url: &str) -> Traffic {
        Traffic::start(&self.visitors, self.visitor_at(gateway), url)
    }
}

/// What is asked of Control for [`Deployment::publish`].
#[must_use]
pub fn public(name: &str, port: u16) -> Value {
    json!({
        "name": name,
        "http": { "hosts": [format!("{name}.test")], "routes": [{ "targets": [target(port)] }] },
        "policy": { "access": "public" },
    })
}

/// A target at a port of the agent's host.
#[must_use]
pub fn target(port: u16) -> Value {
    json!({ "agent": AGENT, "address": format!("127.0.0.1:{port}") })
}

/// Starts an agent, without waiting for anything.
///
/// # Panics
///
/// It cannot be started.
#[must_use]
pub fn start_agent(host: Host, control: &Control, data: &Path, name: &str, token: &str) -> Node {
    start_agent_with(host, control, data, name, token, &[])
}

/// The same, started with further flags.
///
/// # Panics
///
/// It cannot be started.
#[must_use]
pub fn start_agent_with(
    host: Host,
    control: &Control,
    data: &Path,
    name: &str,
    token: &str,
    flags: &[&str],
) -> Node {
    control.is_known_on(&host);
    let program = Program::ours("kakuremichi-agent").arg("run");
    let program = program.args(["--control", control.url(), "--token", token, "--name", name]);
    let program = program.args(flags.iter().copied());
    Node::start(
        host,
        program.args(["--grace", node::GRACE]),
        data,
        node::AGENT_ADMIN,
    )
}

/// All addresses of a host, with this port; on one without IPv6, all its IPv4 addresses.
pub(crate) fn everywhere(host: &Host, port: u16) -> String {
    let all = match host.v6() {
        Some(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    SocketAddr::new(all, port).to_string()
}

/// A program with what is logged for the test's sake.
pub(crate) fn logged(program: Program) -> Program {
    match std::env::var(LOG) {
        Ok(filter) => program.args(["--log", &filter]),
        Err(_) => program,
    }
}
