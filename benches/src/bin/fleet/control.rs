//! The Control that is measured.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use kakuremichi_benches::{
    machine::{Process, Scratch, Trouble, free_port, output, sibling, wait_for},
    rest::Rest,
};

/// A Control in its process, with TLS by an authority of its own.
pub(crate) struct Control {
    process: Process,
    command: Command,
    admin: Rest,
    address: SocketAddr,
    database: Option<String>,
    scratch: Scratch,
}

impl Control {
    /// Starts one on a new file, or on an empty database of a server, and waits until it is ready.
    pub(crate) fn start(database: Option<&str>) -> Result<Self, Trouble> {
        let scratch = Scratch::new("fleet")?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let admin = free_port()?;
        let mut command = Command::new(sibling("kakuremichi-control")?);
        command.arg("run").arg("--data").arg(data(&scratch));
        command.args(["--listen", &address.to_string()]);
        command.args(["--public-url", &format!("https://{address}")]);
        command.args(["--admin", &format!("127.0.0.1:{admin}"), "--log", "warn"]);
        if let Some(url) = database {
            command.env("KAKUREMICHI_DATABASE", url);
        }
        let process = Process::start(&mut command, Some(&log(&scratch)))?;
        let control = Self {
            process,
            command,
            admin: Rest::open(admin),
            address,
            database: database.map(str::to_owned),
            scratch,
        };
        control.wait()?;
        Ok(control)
    }

    /// Ends it at once and starts it again; nothing is waited for.
    pub(crate) fn restart(&mut self) -> Result<(), Trouble> {
        self.process.stop();
        self.process = Process::start(&mut self.command, Some(&log(&self.scratch)))?;
        Ok(())
    }

    /// Waits until it is ready.
    pub(crate) fn wait(&self) -> Result<(), Trouble> {
        wait_for("control", || self.admin.is_ok("/readyz")).map_err(|trouble| {
            match std::fs::read_to_string(log(&self.scratch)) {
                Ok(said) if !said.is_empty() => Trouble::Failed {
                    program: "control".to_owned(),
                    said,
                },
                _ => trouble,
            }
        })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The certificate of its authority.
    pub(crate) fn authority(&self) -> PathBuf {
        data(&self.scratch).join("ca.pem")
    }

    /// A token with which so many nodes of a role can enrol.
    pub(crate) fn token(&self, role: &str, uses: u32) -> Result<String, Trouble> {
        self.made(&["token", "create", "--role", role, "--uses", &uses.to_string()])
    }

    /// A key for the REST API.
    pub(crate) fn key(&self) -> Result<String, Trouble> {
        self.made(&["api-key", "create"])
    }

    fn made(&self, words: &[&str]) -> Result<String, Trouble> {
        let mut command = Command::new(sibling("kakuremichi-control")?);
        command.args(words).arg("--data").arg(data(&self.scratch));
        if let Some(url) = &self.database {
            command.env("KAKUREMICHI_DATABASE", url);
        }
        Ok(output(&mut command)?.trim().to_owned())
    }
}

fn data(scratch: &Scratch) -> PathBuf {
    scratch.path().join("control")
}

fn log(scratch: &Scratch) -> PathBuf {
    Path::new(scratch.path()).join("control.log")
}
