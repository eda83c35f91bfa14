//! The settings of a gateway.

use std::{net::SocketAddr, num::NonZeroU16, path::PathBuf};

use kakuremichi_bins_common::{Failure, Setting, settings::FirstSecret};
use kakuremichi_tunnel::gateway::{CertificateFiles, Certificates, GatewayBuilder, Limits};
use serde::Deserialize;

/// What a gateway can be told, besides what every role can.
pub const SETTINGS: &[Setting] = &[
    Setting::text(
        "control",
        "URL",
        "Control's public URL, such as https://control.example.net:7443",
    ),
    Setting::secret(
        "token",
        "token-file",
        "TOKEN",
        "An enrolment token; needed at the first start only",
    )
    .at_first_start(),
    Setting::text(
        "data",
        "DIR",
        "Where its keys and its last plan are; made when missing",
    ),
    Setting::text(
        "name",
        "NAME",
        "The name that it would like to have; Control finds another if it is taken",
    ),
    Setting::text("http", "ADDR", "Where plain HTTP is redirected to HTTPS").or("[::]:80"),
    Setting::text("https", "ADDR", "Where visitors are served").or("[::]:443"),
    Setting::text(
        "wireguard",
        "ADDR",
        "Where agents and sites send their datagrams (UDP)",
    )
    .or("[::]:51820"),
    Setting::list(
        "public-address",
        "HOST[:PORT]",
        "Where agents reach --wireguard, best first; may be repeated",
    ),
    Setting::number(
        "udp-idle",
        "SECONDS",
        "A session at a UDP service ends when no datagram passes for so long",
    )
    .or("60"),
    Setting::number(
        "public-https-port",
        "PORT",
        "The port at which visitors reach --https, if it is another one",
    ),
    SHARDS,
    Setting::number(
        "connections",
        "N",
        "Visitors' connections at once; beyond, a new one is closed",
    )
    .or("16384"),
    Setting::number(
        "connections-per-address",
        "N",
        "The same of one address (IPv6: of one /64); more where a balancer stands in front",
    )
    .or("1024"),
    Setting::number(
        "flow-memory",
        "MIB",
        "Memory for what agents' and visitors' flows have under way; 512 MiB a shard when left out",
    ),
    Setting::number(
        "flow-memory-per-agent",
        "MIB",
        "The same of one agent or site; beyond, its largest flows are reset",
    )
    .or("256"),
    Setting::number(
        "lane-connections",
        "N",
        "Connections of one agent's lane of TLS streams: its flows at once",
    )
    .or("512"),
    Setting::number(
        "rotate-keys-after",
        "DAYS",
        "The age of its keys at which it makes new ones by itself; never when left out",
    ),
    Setting::text(
        "geo-country",
        "FILE",
        "A database of countries in MaxMind's format (.mmdb), for rules about them; read again when it changes",
    ),
    Setting::text("geo-asn", "FILE", "The same of autonomous systems"),
    Setting::list(
        "tls-cert",
        "FILE",
        "A certificate chain (PEM), read again when it changes; without any the gateway is its own authority",
    ),
    Setting::list(
        "tls-key",
        "FILE",
        "The key of the --tls-cert at the same place (PEM)",
    ),
];

/// On how many threads a gateway works.
pub const SHARDS: Setting = Setting::number(
    "shards",
    "N",
    "Threads that serve visitors and move packets, 1 to 64; one per core that it may use, when left out",
);

/// The settings as they were given.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Control's public URL.
    pub control: String,
    /// The enrolment token.
    pub token: Option<FirstSecret>,
    /// The data directory.
    pub data: PathBuf,
    /// The name that it would like to have.
    pub name: Option<String>,
    /// Where plain HTTP is redirected.
    pub http: SocketAddr,
    /// Where visitors are served.
    pub https: SocketAddr,
    /// Where WireGuard's datagrams arrive.
    pub wireguard: SocketAddr,
    /// Where agents reach it.
    #[serde(default)]
    pub public_address: Vec<String>,
    /// A session at a UDP service ends when no datagram passes for so many seconds.
    pub udp_idle: u64,
    /// The port at which visitors reach HTTPS.
    pub public_https_port: Option<u16>,
    /// On how many threads it works.
    pub shards: Option<u64>,
    /// Visitors' connections at once.
    pub connections: usize,
    /// Those of one address.
    pub connections_per_address: usize,
    /// MiB of memory for flows.
    pub flow_memory: Option<usize>,
    /// Those of one agent or site.
    pub flow_memory_per_agent: usize,
    /// Connections of one agent's lane of TLS streams.
    pub lane_connections: usize,
    /// The age of its keys at which it makes new ones, in days.
    pub rotate_keys_after: Option<NonZeroU16>,
    /// A database of countries.
    pub geo_country: Option<PathBuf>,
    /// A database of autonomous systems.
    pub geo_asn: Option<PathBuf>,
    /// Certificate chains.
    #[serde(default)]
    pub tls_cert: Vec<PathBuf>,
    /// Their keys.
    #[serde(default)]
    pub tls_key: Vec<PathBuf>,
}

impl Settings {
    /// How much the gateway keeps at once. Less than one of anything would be no gateway.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.connections = self.connections.max(1);
        limits.connections_per_address = self.connections_per_address.max(1);
        limits.flow_memory = self.flow_memory.map(|mib| mib.saturating_mul(1 << 20));
        limits.flow_memory_per_peer = self.flow_memory_per_agent.saturating_mul(1 << 20);
        limits.lane_connections = self.lane_connections.max(1);
        limits
    }

    /// The certificates that were given, or those of an authority of the gateway's own.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or a certificate has no key.
    pub fn certificates(&self) -> Result<Certificates, Failure> {
        if self.tls_cert.len() != self.tls_key.len() {
            return Err(Failure::usage(
                "--tls-cert and --tls-key go together, as many of one as of the other",
            ));
        }
        if self.tls_cert.is_empty() {
            return Ok(Certificates::LocalCa);
        }
        let pairs = self.tls_cert.iter().cloned().zip(self.tls_key.iter().cloned());
        let files = CertificateFiles::open(pairs)
            .map_err(|error| Failure::because("--tls-cert and --tls-key", &error))?;
        Ok(files.into())
    }
}

/// As many shards as were asked for.
///
/// # Errors
///
/// When there cannot be so many.
pub fn shards(given: Option<u64>) -> Result<Option<u8>, Failure> {
    let most = GatewayBuilder::MAX_SHARDS;
    let fits = |given| {
        u8::try_from(given)
            .ok()
            .filter(|shards| (1..=most).contains(shards))
    };
    match given {
        None => Ok(None),
        Some(given) => match fits(given) {
            Some(shards) => Ok(Some(shards)),
            None => Err(Failure::usage(format!(
                "--shards {given}: there can be 1 to {most}"
            ))),
        },
    }
}
