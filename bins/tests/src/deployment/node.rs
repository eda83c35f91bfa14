//! Gateways and agents as processes.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use super::{Control, everywhere, logged};
use crate::net::Host;
use crate::process::{Process, Program};

/// The port of an agent's admin address, on its loopback.
pub(super) const AGENT_ADMIN: u16 = 7673;
/// The same of a gateway.
const GATEWAY_ADMIN: u16 = 7672;
/// Seconds that a node may take to drain: longer than a test waits for it.
pub(super) const GRACE: &str = "300";

/// A gateway or an agent on a host of its own. It ends when dropped.
#[derive(Debug)]
pub struct Node {
    process: Process,
    data: PathBuf,
    admin: u16,
    host: Host,
}

impl Node {
    /// Starts a program, with `--data`, on a host. Nothing is waited for.
    #[must_use]
    pub fn start(host: Host, program: Program, data: &Path, admin: u16) -> Self {
        let program = logged(program.arg("--data").arg(data).on(&host));
        Self {
            process: program.start(),
            data: data.to_owned(),
            admin,
            host,
        }
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The host that it is on.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Its process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    ///
    /// It never is.
    #[track_caller]
    pub fn ready(&mut self) {
        self.process.ready(self.admin);
    }

    /// What a page of its admin address says.
    ///
    /// # Panics
    ///
    /// There is no answer.
    #[must_use]
    #[track_caller]
    pub fn admin(&self, path: &str) -> String {
        self.process.admin(self.admin, path).unwrap()
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    ///
    /// It does not.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.process.stop()
    }

    /// Ends it without a chance to say goodbye.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, with further flags from now on. Nothing is waited for.
    pub fn start_again_with(&mut self, flags: &[&str]) {
        let program = self.process.program().clone();
        self.process = program.args(flags.iter().copied()).start();
    }

    /// Starts it again, as it was. Nothing is waited for.
    pub fn start_again(&mut self) {
        self.process = self.process.program().start();
    }
}

/// A gateway on a host of its own, with HTTP and HTTPS on their usual ports. It ends when dropped.
#[derive(Debug)]
pub struct Gateway(Node);

impl Gateway {
    /// The port of its WireGuard socket.
    pub const WIREGUARD: u16 = 51820;

    /// Starts one, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// It does not come up.
    #[must_use]
    pub fn start(
        host: Host,
        control: &Control,
        data: &Path,
        name: &str,
        token: &str,
        flags: &[&str],
    ) -> Self {
        let mut gateway = Self::start_without_waiting(host, control, data, name, token, flags);
        gateway.ready();
        gateway
    }

    /// Starts one.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    #[must_use]
    pub fn start_without_waiting(
        host: Host,
        control: &Control,
        data: &Path,
        name: &str,
        token: &str,
        flags: &[&str],
    ) -> Self {
        control.is_known_on(&host);
        let mut program = Program::ours("kakuremichi-gateway").arg("run");
        program = program.args(["--control", control.url(), "--token", token, "--name", name]);
        program = program.args(["--grace", GRACE]);
        for (flag, port) in [("--http", 80), ("--https", 443), ("--wireguard", Self::WIREGUARD)] {
            program = program.args([flag, &everywhere(&host, port)]);
        }
        if let Some(address) = host.v6() {
            program = program.args(["--public-address", &format!("[{address}]")]);
        }
        if let Some(address) = host.v4() {
            program = program.args(["--public-address", &address.to_string()]);
        }
        let program = program.args(flags.iter().copied());
        Self(Node::start(host, program, data, GATEWAY_ADMIN))
    }

    /// The certificate of its own authority.
    ///
    /// # Panics
    ///
    /// It has none.
    #[must_use]
    #[track_caller]
    pub fn authority(&self) -> String {
        fs::read_to_string(self.data().join("ca.pem")).unwrap()
    }
}

impl Deref for Gateway {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0
    }
}

impl DerefMut for Gateway {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.0
    }
}
