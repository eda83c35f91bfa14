//! The systems, each a way from a visitor on loopback to the two services.

mod kakuremichi;
mod ssh;

use std::process::Command;

use kakuremichi_benches::machine::{Process, Scratch, Trouble, free_port, sibling, wait_for_port};

pub(crate) use ssh::NAME as REFERENCE;

/// The services behind everything: an iperf3 server, and nginx with a file of 1 KB.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) bulk_port: u16,
    pub(crate) http_port: u16,
    _processes: [Process; 2],
    _scratch: Scratch,
}

impl Origin {
    pub(crate) fn start() -> Result<Self, Trouble> {
        let scratch = Scratch::new("origin")?;
        let (bulk_port, http_port) = (free_port()?, free_port()?);
        let iperf3 = Process::start(
            Command::new("iperf3").args(["-s", "-B", "127.0.0.1", "-p", &bulk_port.to_string()]),
            None,
        )?;
        let at = scratch.path().display();
        scratch.write("index.html", &"k".repeat(1024))?;
        let config = scratch.write(
            "nginx.conf",
            &format!(
                "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
                 events {{ worker_connections 4096; }}\n\
                 http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {at}/body;\n\
                 proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi;\n\
                 scgi_temp_path {at}/scgi;\n\
                 server {{ listen 127.0.0.1:{http_port}; root {at}; }} }}\n"
            ),
        )?;
        // Debian has it where only administrators look.
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let nginx = Process::start(
            Command::new("nginx").env("PATH", path).arg("-c").arg(&config),
            None,
        )?;
        wait_for_port(http_port)?;
        Ok(Self {
            bulk_port,
            http_port,
            _processes: [iperf3, nginx],
            _scratch: scratch,
        })
    }
}

/// A way to the services.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) name: &'static str,
    /// Where the visitor finds the iperf3 server.
    pub(crate) bulk_port: u16,
    /// Where the visitor finds the HTTP origin.
    pub(crate) http_port: u16,
    parts: Parts,
}

/// What a system consists of.
#[derive(Debug)]
enum Parts {
    Nothing,
    TwoHops([Process; 2]),
    Ssh(ssh::Ssh),
    Kakuremichi(kakuremichi_benches::deployment::Deployment),
}

impl System {
    /// No system at all.
    pub(crate) const fn direct(origin: &Origin) -> Self {
        Self {
            name: "direct",
            bulk_port: origin.bulk_port,
            http_port: origin.http_port,
            parts: Parts::Nothing,
        }
    }

    /// Two plain TCP copies in a row: what a tunnel costs that does nothing.
    pub(crate) fn two_hops(origin: &Origin) -> Result<Self, Trouble> {
        let (bulk_port, http_port) = (free_port()?, free_port()?);
        let (bulk_middle, http_middle) = (free_port()?, free_port()?);
        let near = copy([(bulk_port, bulk_middle), (http_port, http_middle)])?;
        let far = copy([(bulk_middle, origin.bulk_port), (http_middle, origin.http_port)])?;
        Ok(Self {
            name: "two plain hops",
            bulk_port,
            http_port,
            parts: Parts::TwoHops([near, far]),
        })
    }

    /// Seconds of processor time that both ends took so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        match &self.parts {
            Parts::Nothing => 0.0,
            Parts::TwoHops(hops) => hops.iter().map(Process::cpu_seconds).sum(),
            Parts::Ssh(ssh) => ssh.cpu_seconds(),
            Parts::Kakuremichi(deployment) => deployment.cpu_seconds(),
        }
    }
}

/// One hop: this very program's sibling, which copies between ports.
fn copy(pairs: [(u16, u16); 2]) -> Result<Process, Trouble> {
    let pairs = pairs.map(|(from, to)| format!("{from}:{to}"));
    Process::start(Command::new(sibling("plain-copy")?).args(pairs), None)
}
