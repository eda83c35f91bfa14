//! Control, a gateway and an agent, from the release binaries, on loopback.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use crate::{
    machine::{Process, Scratch, Trouble, free_port, output, sibling, wait_for},
    rest::Rest,
};

/// The agent's name.
const AGENT: &str = "bench";

/// The three roles, each a process of its own; they end with the value.
#[derive(Debug)]
pub struct Deployment {
    gateway: Process,
    agent: Process,
    _control: Process,
    rest: Rest,
    url: String,
    wireguard: SocketAddr,
    scratch: Scratch,
}

impl Deployment {
    /// Starts the three, enrols gateway and agent, and waits until all say that they are ready. The agent is
    /// given further flags; `name` tells this deployment from others of the same program.
    ///
    /// # Errors
    ///
    /// [`Trouble::NotBuilt`] without the binaries; whatever keeps them from starting.
    pub fn start(name: &str, flags: &[&str]) -> Result<Self, Trouble> {
        let scratch = Scratch::new(&format!("deployment-{name}"))?;
        let data = |name: &str| scratch.path().join(name);
        let made = |words: &[&str]| made(scratch.path(), words);
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        let url = format!("http://{address}");
        let start = |name: &str, words: &[&str]| start(name, &data(name), words);
        let (control, control_ready) = start("control", &["--listen", &address, "--public-url", &url])?;
        control_ready.wait("Control")?;
        // Control makes its database and its key when it runs for the first time.
        let gateway_token = made(&["token", "create", "--role", "gateway"])?;
        let agent_token = made(&["token", "create", "--role", "agent"])?;
        let key = made(&["api-key", "create"])?;

        let (http, https, wireguard_port) = (free_port()?, free_port()?, free_port()?);
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        let (http, https, wireguard) = (loopback(http), loopback(https), loopback(wireguard_port));
        let (gateway, gateway_ready) = start(
            "gateway",
            &[
                "--control",
                &url,
                "--token",
                &gateway_token,
                "--http",
                &http,
                "--https",
                &https,
                "--wireguard",
                &wireguard,
                "--public-address",
                &wireguard,
                // All visitors are at one address here, and all of them have the same agent.
                "--connections-per-address",
                "16384",
                "--lane-connections",
                "16384",
            ],
        )?;
        let (agent, agent_ready) = start(
            "agent",
            &[
                &["--control", &url, "--token", &agent_token, "--name", AGENT],
                flags,
            ]
            .concat(),
        )?;
        gateway_ready.wait("the gateway")?;
        agent_ready.wait("the agent")?;
        Ok(Self {
            gateway,
            agent,
            _control: control,
            rest: Rest::with_key(port, key),
            url,
            wireguard: SocketAddr::from(([127, 0, 0, 1], wireguard_port)),
            scratch,
        })
    }

    /// Publishes a port of loopback at another one of the gateway, for everybody, and returns when Control
    /// has taken it.
    ///
    /// # Errors
    ///
    /// [`Trouble::Refused`] and the other troubles of a request.
    pub fn publish_tcp(&self, name: &str, port: u16, target: u16) -> Result<(), Trouble> {
        let service = json!({
            "name": name,
            "tcp": {
                "port": port,
                "targets": [{ "agent": AGENT, "address": format!("127.0.0.1:{target}") }],
            },
            "policy": { "access": "public" },
        });
        self.rest.post("/api/v1/services", &service).map(drop)
    }

    /// Enrols another agent and ends it: its state directory.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being enrolled.
    pub fn enrol(&self, name: &str) -> Result<PathBuf, Trouble> {
        let token = made(self.scratch.path(), &["token", "create", "--role", "agent"])?;
        let data = self.scratch.path().join(name);
        let words = ["--control", &self.url, "--token", &token, "--name", name];
        let (process, ready) = start("agent", &data, &words)?;
        ready.wait(name)?;
        drop(process);
        Ok(data)
    }

    /// Where the gateway receives WireGuard's datagrams.
    #[must_use]
    pub const fn wireguard(&self) -> SocketAddr {
        self.wireguard
    }

    /// The gateway and the agent, each by its process identifier.
    #[must_use]
    pub fn ends(&self) -> [u32; 2] {
        [self.gateway.id(), self.agent.id()]
    }
}

fn role(name: &str) -> Result<PathBuf, Trouble> {
    sibling(&format!("kakuremichi-{name}"))
}

/// What a command of Control's, with its data in `scratch`, prints.
fn made(scratch: &Path, words: &[&str]) -> Result<String, Trouble> {
    let mut command = Command::new(role("control")?);
    let text = output(command.args(words).arg("--data").arg(scratch.join("control")))?;
    Ok(text.trim().to_owned())
}

/// Starts a role with its data in a directory, and its log beside it.
fn start(name: &str, data: &Path, words: &[&str]) -> Result<(Process, Ready), Trouble> {
    let admin = free_port()?;
    let mut command = Command::new(role(name)?);
    command.arg("run").arg("--data").arg(data).args(words);
    command.args(["--admin", &format!("127.0.0.1:{admin}"), "--log", "warn"]);
    let log = data.with_extension("log");
    Process::start(&mut command, Some(&log)).map(|process| (process, Ready { admin, log }))
}

/// How a role tells that it is ready, or why it is not.
struct Ready {
    admin: u16,
    log: PathBuf,
}

impl Ready {
    fn wait(&self, what: &str) -> Result<(), Trouble> {
        let admin = Rest::open(self.admin);
        wait_for(what, || admin.is_ok("/readyz")).map_err(|trouble| {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            match trouble {
                Trouble::Late { what } if !said.is_empty() => Trouble::Failed { program: what, said },
                trouble => trouble,
            }
        })
    }
}
