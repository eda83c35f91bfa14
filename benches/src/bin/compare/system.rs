//! The systems, each a way from a visitor to the two services.

mod dumbpipe;
mod http;
mod kakuremichi;
mod newt;
mod origin;
mod plain;
mod rathole;
mod ssh;
mod tsnet;

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
};

use kakuremichi_benches::{
    deployment::Deployment,
    machine::{Namespace, Process, Scratch, Trouble, cpu_seconds, resident_bytes},
};

pub(crate) use self::{
    dumbpipe::NAME as DUMBPIPE,
    kakuremichi::{TLS, WIREGUARD},
    newt::{NAME as NEWT, NATIVE as NEWT_NATIVE},
    origin::Origin,
    plain::TWO_HOPS,
    rathole::{NOISE as RATHOLE_NOISE, PLAIN as RATHOLE_PLAIN, TLS as RATHOLE_TLS},
    ssh::NAME as SSH,
    tsnet::NAME as TSNET,
};

/// How a system is begun.
pub(crate) type Begin = fn(&Origin) -> Result<System, Trouble>;

/// All systems, by name, in the order of the table.
pub(crate) const ALL: [(&str, Begin); 19] = [
    (plain::DIRECT, plain::direct),
    (plain::NGINX, plain::nginx),
    (plain::HAPROXY, plain::haproxy),
    (TWO_HOPS, plain::two_hops),
    (SSH, ssh::start),
    (RATHOLE_PLAIN, rathole::plain),
    (RATHOLE_NOISE, rathole::noise),
    (RATHOLE_TLS, rathole::tls),
    (plain::BORE, plain::bore),
    (NEWT, newt::netstack),
    (NEWT_NATIVE, newt::native),
    (TSNET, tsnet::start),
    (DUMBPIPE, dumbpipe::start),
    (WIREGUARD, kakuremichi::wireguard),
    (TLS, kakuremichi::tls),
    (http::NGINX, http::nginx),
    (http::HAPROXY, http::haproxy),
    (kakuremichi::HTTP_WIREGUARD, kakuremichi::http_wireguard),
    (kakuremichi::HTTP_TLS, kakuremichi::http_tls),
];

/// The name under which a system that reads HTTP serves the origin: it resolves everywhere, and wrk takes the name
/// that it tells in the TLS handshake from its URL only.
pub(crate) const HOST: &str = "localhost";

/// A way to the services. It ends with the value.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) name: &'static str,
    /// Where visitors find the iperf3 server.
    pub(crate) bulk: SocketAddr,
    /// Where visitors find the HTTP origin.
    pub(crate) http: SocketAddr,
    /// The file with the certificate that visitors trust there, where a system reads HTTP and speaks TLS with them.
    pub(crate) trusted: Option<PathBuf>,
    /// The first is where the visitors are; without any, they are on the host.
    namespaces: Vec<Namespace>,
    /// The ends of the tunnel: what is counted.
    ends: Vec<Process>,
    deployment: Option<Deployment>,
    /// What the ends need besides.
    beside: Vec<Process>,
    scratch: Vec<Scratch>,
}

impl System {
    /// A system of which nothing runs yet, with its two ports on loopback.
    fn new(name: &'static str, bulk: u16, http: u16) -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            name,
            bulk: at(bulk),
            http: at(http),
            trusted: None,
            namespaces: Vec::new(),
            ends: Vec::new(),
            deployment: None,
            beside: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Starts one end of the tunnel, with what it says in a file.
    fn end(&mut self, command: &mut Command) -> Result<(), Trouble> {
        let process = self.logged(command)?;
        self.ends.push(process);
        Ok(())
    }

    /// Starts what the ends need besides.
    fn beside(&mut self, command: &mut Command) -> Result<(), Trouble> {
        let process = self.logged(command)?;
        self.beside.push(process);
        Ok(())
    }

    fn logged(&self, command: &mut Command) -> Result<Process, Trouble> {
        let log = match self.scratch.first() {
            Some(scratch) => {
                let number = self.ends.len() + self.beside.len();
                Some(scratch.path().join(format!("{number}.log")))
            }
            None => None,
        };
        Process::start(command, log.as_deref())
    }

    /// Where wrk finds the HTTP origin.
    pub(crate) fn url(&self) -> String {
        match self.trusted {
            Some(_) => format!("https://{HOST}:{}/", self.http.port()),
            None => format!("http://{}/", self.http),
        }
    }

    /// A program that runs where the visitors are.
    pub(crate) fn visitor(&self, program: impl AsRef<OsStr>) -> Command {
        match self.namespaces.first() {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        }
    }

    /// Seconds of processor time that both ends took so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.processes().into_iter().map(cpu_seconds).sum()
    }

    /// Bytes of resident memory of both ends.
    pub(crate) fn resident_bytes(&self) -> f64 {
        self.processes().into_iter().map(resident_bytes).sum()
    }

    fn processes(&self) -> Vec<u32> {
        let ends = self.ends.iter().flat_map(Process::tree);
        let ours = self.deployment.iter().flat_map(Deployment::ends);
        ends.chain(ours).collect()
    }
}
