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
    gateway: Role,
    agent: Role,
    others: Vec<Role>,
    control: Role,
    rest: Rest,
    https: SocketAddr,
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
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        let url = format!("http://{address}");
        let control = Role::start(
            scratch.path(),
            "control",
            "control",
            &["--listen", &address, "--public-url", &url],
        )?;
        control.wait()?;
        // Control makes its database and its key when it runs for the first time.
        let token = |role: &str| made(scratch.path(), &["token", "create", "--role", role]);
        let (gateway_token, agent_token) = (token("gateway")?, token("agent")?);
        let key = made(scratch.path(), &["api-key", "create"])?;

        let loopback = || free_port().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (http, https, wireguard) = (loopback()?, loopback()?, loopback()?);
        let gateway = Role::start(
            scratch.path(),
            "gateway",
            "gateway",
            &[
                "--control",
                &url,
                "--token",
                &gateway_token,
                "--http",
                &http.to_string(),
                "--https",
                &https.to_string(),
                "--wireguard",
                &wireguard.to_string(),
                "--public-address",
                &wireguard.to_string(),
                // All visitors are at one address here, and all of them have the same agent.
                "--connections-per-address",
                "16384",
                "--lane-connections",
                "16384",
            ],
        )?;
        let words = [
            "--control",
            &url,
            "--token",
            &agent_token,
            "--name",
            AGENT,
            // The agent's bound on the same; it is the lower of both that counts.
            "--lane-connections",
            "16384",
        ];
        let agent = Role::start(scratch.path(), "agent", "agent", &[&words, flags].concat())?;
        gateway.wait()?;
        agent.wait()?;
        Ok(Self {
            gateway,
            agent,
            others: Vec::new(),
            control,
            rest: Rest::with_key(port, key),
            https,
            wireguard,
            scratch,
        })
    }

    /// Starts a further agent of that name, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from starting.
    pub fn add_agent(&mut self, name: &str) -> Result<(), Trouble> {
        let agent = self.further_agent(name)?;
        self.others.push(agent);
        Ok(())
    }

    /// Enrols a further agent and ends it: its data directory.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being enrolled.
    pub fn enrol(&self, name: &str) -> Result<PathBuf, Trouble> {
        self.further_agent(name)?;
        Ok(self.scratch.path().join(name))
    }

    fn further_agent(&self, name: &str) -> Result<Role, Trouble> {
        let token = made(self.scratch.path(), &["token", "create", "--role", "agent"])?;
        let url = format!("http://127.0.0.1:{}", self.rest.port());
        let words = ["--control", &url, "--token", &token, "--name", name];
        let agent = Role::start(self.scratch.path(), "agent", name, &words)?;
        agent.wait()?;
        Ok(agent)
    }

    /// Publishes a port of loopback at another one of the gateway, for everybody, and returns when Control
    /// has taken it.
    ///
    /// # Errors
    ///
    /// [`Trouble::Refused`] and the other troubles of a request.
    pub fn publish_tcp(&self, name: &str, port: u16, target: u16) -> Result<(), Trouble> {
        self.publish_tcp_at(AGENT, name, port, target)
    }

    /// The same at a further agent.
    ///
    /// # Errors
    ///
    /// Those of [`publish_tcp`](Self::publish_tcp).
    pub fn publish_tcp_at(&self, agent: &str, name: &str, port: u16, target: u16) -> Result<(), Trouble> {
        let service = json!({
            "name": name,
            "tcp": {
                "port": port,
                "targets": [{ "agent": agent, "address": format!("127.0.0.1:{target}") }],
            },
            "policy": { "access": "public" },
        });
        self.rest.post("/api/v1/services", &service).map(drop)
    }

    /// Publishes an HTTP server at a port of loopback under a name at the gateway's HTTPS port, for everybody, and
    /// returns when Control has taken it.
    ///
    /// # Errors
    ///
    /// Those of [`publish_tcp`](Self::publish_tcp).
    pub fn publish_http(&self, name: &str, host: &str, target: u16) -> Result<(), Trouble> {
        let target = json!({ "agent": AGENT, "address": format!("127.0.0.1:{target}") });
        let service = json!({
            "name": name,
            "http": { "hosts": [host], "routes": [{ "targets": [target] }] },
            "policy": { "access": "public" },
        });
        self.rest.post("/api/v1/services", &service).map(drop)
    }

    /// The gateway and the agent, each by its process identifier.
    #[must_use]
    pub fn ends(&self) -> [u32; 2] {
        [self.gateway.process.id(), self.agent.process.id()]
    }

    /// The further agents, by their process identifiers.
    pub fn further_agents(&self) -> impl Iterator<Item = u32> + '_ {
        self.others.iter().map(|agent| agent.process.id())
    }

    /// Where the gateway serves visitors of HTTP services.
    #[must_use]
    pub const fn https(&self) -> SocketAddr {
        self.https
    }

    /// The certificate of the gateway's own authority.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.gateway_data().join("ca.pem")
    }

    /// Where the gateway's WireGuard socket is.
    #[must_use]
    pub const fn wireguard(&self) -> SocketAddr {
        self.wireguard
    }

    /// The gateway's data directory.
    #[must_use]
    pub fn gateway_data(&self) -> PathBuf {
        self.scratch.path().join("gateway")
    }

    /// What the gateway tells on its admin address.
    #[must_use]
    pub const fn gateway_admin(&self) -> Rest {
        Rest::open(self.gateway.admin)
    }

    /// Ends Control at once: the other roles go on by the plans that they have.
    pub fn stop_control(&mut self) {
        self.control.process.stop();
    }

    /// Ends the gateway at once, without a chance to say goodbye.
    pub fn stop_gateway(&mut self) {
        self.gateway.process.stop();
    }

    /// Starts the gateway again. Nothing is waited for.
    ///
    /// # Errors
    ///
    /// [`Trouble::Io`].
    pub fn start_gateway(&mut self) -> Result<(), Trouble> {
        self.gateway.start_again()
    }
}

/// Has Control's program make something, such as a token.
fn made(data: &Path, words: &[&str]) -> Result<String, Trouble> {
    let mut command = Command::new(sibling("kakuremichi-control")?);
    let text = output(command.args(words).arg("--data").arg(data.join("control")))?;
    Ok(text.trim().to_owned())
}

/// A role's process, and how it tells that it is ready, or why it is not.
#[derive(Debug)]
struct Role {
    process: Process,
    command: Command,
    name: String,
    admin: u16,
    log: PathBuf,
}

impl Role {
    /// Starts one of a binary, with its data in a directory of its name.
    fn start(scratch: &Path, binary: &str, name: &str, words: &[&str]) -> Result<Self, Trouble> {
        let admin = free_port()?;
        let mut command = Command::new(sibling(&format!("kakuremichi-{binary}"))?);
        command
            .arg("run")
            .arg("--data")
            .arg(scratch.join(name))
            .args(words);
        command.args(["--admin", &format!("127.0.0.1:{admin}"), "--log", "warn"]);
        let log = scratch.join(format!("{name}.log"));
        let process = Process::start(&mut command, Some(&log))?;
        Ok(Self {
            process,
            command,
            name: name.to_owned(),
            admin,
            log,
        })
    }

    fn start_again(&mut self) -> Result<(), Trouble> {
        self.process = Process::start(&mut self.command, Some(&self.log))?;
        Ok(())
    }

    fn wait(&self) -> Result<(), Trouble> {
        let admin = Rest::open(self.admin);
        wait_for(&self.name, || admin.is_ok("/readyz")).map_err(|trouble| {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            match trouble {
                Trouble::Late { what } if !said.is_empty() => Trouble::Failed { program: what, said },
                trouble => trouble,
            }
        })
    }
}
