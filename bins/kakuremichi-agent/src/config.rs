//! The settings of an agent.

use std::{num::NonZeroU16, path::PathBuf};

use kakuremichi_bins_common::{
    Setting,
    settings::{self, FirstSecret},
};
use kakuremichi_core::secret::Secret;
use kakuremichi_tunnel::agent::LanePreference;
use serde::Deserialize;

/// What an agent can be told, besides what every role can.
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
    Setting::text(
        "lane",
        "auto|wireguard|tls",
        "The lane that carries flows: TLS streams where WireGuard does not get through, without",
    ),
    Setting::switch(
        "standby",
        "Keep one idle TLS connection to each gateway, so that flows leave a WireGuard that breaks at once",
    )
    .or("true"),
    Setting::number(
        "lane-connections",
        "N",
        "Connections to one gateway over TLS streams, 1 to 65535: flows at once, beyond which they wait",
    )
    .or("256"),
    Setting::number(
        "flow-memory",
        "MIB",
        "Memory for what flows over WireGuard have under way; beyond, the largest are reset",
    )
    .or("256"),
    Setting::number(
        "rotate-keys-after",
        "DAYS",
        "The age of its keys at which it makes new ones by itself; never when left out",
    ),
    Setting::secret(
        "egress-proxy",
        "egress-proxy-file",
        "URL",
        "The proxy through which Control and TLS streams are reached: http://[USER:PASSWORD@]HOST:PORT or socks5://...",
    ),
];

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
    /// The lane that carries flows.
    #[serde(default)]
    pub lane: Lane,
    /// Whether TLS streams stand by while flows take WireGuard.
    pub standby: bool,
    /// Connections of the lane of TLS streams to one gateway.
    pub lane_connections: NonZeroU16,
    /// MiB of memory for flows over WireGuard.
    pub flow_memory: usize,
    /// The age of its keys at which it makes new ones, in days.
    pub rotate_keys_after: Option<NonZeroU16>,
    /// The proxy through which Control and TLS streams are reached.
    #[serde(default, deserialize_with = "settings::optional_secret")]
    pub egress_proxy: Option<Secret<String>>,
}

/// The lane that carries flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// WireGuard, and TLS streams for as long as it does not get through.
    #[default]
    Auto,
    /// WireGuard only.
    WireGuard,
    /// TLS streams only.
    Tls,
}

impl From<Lane> for LanePreference {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Auto => Self::Auto,
            Lane::WireGuard => Self::WireGuard,
            Lane::Tls => Self::Tls,
        }
    }
}
