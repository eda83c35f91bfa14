//! The settings of quickstart.

use std::{net::SocketAddr, path::PathBuf};

use kakuremichi_bins_common::{Failure, Setting};
use kakuremichi_core::{name::Label, net::Endpoint};
use serde::Deserialize;

/// What quickstart can be told, besides what every role can.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting::text(
        "data",
        "DIR",
        "Where everything is kept; in the user's data directory when left out",
    ),
    Setting::text("control", "ADDR", "Where Control listens").or("127.0.0.1:7443"),
    Setting::text("http", "ADDR", "Where the gateway redirects plain HTTP to HTTPS").or("127.0.0.1:8080"),
    Setting::text("https", "ADDR", "Where the gateway serves visitors").or("127.0.0.1:8443"),
    Setting::text("wireguard", "ADDR", "Where the gateway's WireGuard socket is").or("127.0.0.1:51820"),
    kakuremichi_gateway_bin::SHARDS,
    Setting::list(
        "expose",
        "NAME=URL",
        "Publish a service of yours at https://NAME.localhost:PORT/; may be repeated",
    ),
    Setting::switch("json", "Print one line of JSON instead of a page"),
];

/// The settings as they were given.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Settings {
    data: Option<PathBuf>,
    control: SocketAddr,
    http: SocketAddr,
    https: SocketAddr,
    wireguard: SocketAddr,
    shards: Option<u64>,
    #[serde(default)]
    expose: Vec<String>,
    #[serde(default)]
    json: bool,
}

/// Settings that make sense.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) data: PathBuf,
    pub(crate) control: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) wireguard: SocketAddr,
    pub(crate) shards: Option<u8>,
    pub(crate) expose: Vec<Expose>,
    pub(crate) json: bool,
}

/// A service of the user's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expose {
    /// It is published at `NAME.localhost`.
    pub(crate) name: Label,
    /// Where it is.
    pub(crate) target: Endpoint,
    /// It speaks TLS.
    pub(crate) tls: bool,
}

/// The name of the built-in service.
pub(crate) const DEMO: &str = "demo";

impl TryFrom<Settings> for Config {
    type Error = Failure;

    fn try_from(settings: Settings) -> Result<Self, Failure> {
        let data = match settings.data {
            Some(data) => data,
            None => default_data(&|name| std::env::var_os(name))?,
        };
        let expose: Vec<Expose> = settings
            .expose
            .iter()
            .map(|text| expose(text))
            .collect::<Result<_, _>>()?;
        for (at, one) in expose.iter().enumerate() {
            if one.name.as_str() == DEMO || expose[..at].iter().any(|other| other.name == one.name) {
                return Err(Failure::usage(format!(
                    "--expose: the name {} is taken",
                    one.name
                )));
            }
        }
        Ok(Self {
            data,
            control: settings.control,
            http: settings.http,
            https: settings.https,
            wireguard: settings.wireguard,
            shards: kakuremichi_gateway_bin::shards(settings.shards)?,
            expose,
            json: settings.json,
        })
    }
}

/// Where a user's programs keep data, by the XDG base directory specification.
fn default_data(environment: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Result<PathBuf, Failure> {
    let path = |name| {
        environment(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    path("XDG_DATA_HOME")
        .or_else(|| path("HOME").map(|home| home.join(".local/share")))
        .map(|share| share.join("kakuremichi/quickstart"))
        .ok_or_else(|| Failure::usage("--data is needed: this user has no home directory"))
}

fn expose(text: &str) -> Result<Expose, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!(
            "--expose {text}: {why}; it looks like web=http://127.0.0.1:3000"
        ))
    };
    let (name, url) = text.split_once('=').ok_or_else(|| wrong("there is no `=`"))?;
    let name = name
        .parse()
        .map_err(|error| wrong(&format!("the name cannot be used ({error})")))?;
    let (tls, rest) = match url.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        _ => return Err(wrong("the URL starts with neither http:// nor https://")),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(wrong("the URL has more than a host and a port"));
    }
    let target = Endpoint::parse_with_port(authority, if tls { 443 } else { 80 })
        .map_err(|error| wrong(&error.to_string()))?;
    Ok(Expose { name, target, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_of_ones_own_is_a_name_and_a_url() {
        let one = expose("Web=https://intranet.example.net/").unwrap();
        assert_eq!((one.name.as_str(), one.tls), ("web", true));
        assert_eq!(one.target.to_string(), "intranet.example.net:443");
        assert_eq!(
            expose("a=http://[::1]:3000").unwrap().target.to_string(),
            "[::1]:3000"
        );
    }

    #[test]
    fn what_is_no_service_gets_one_sentence() {
        for text in [
            "web",
            "web=3000",
            "web=ftp://x",
            "web=http://",
            "web=http://h/path",
            "we b=http://h",
            "=http://h",
        ] {
            let failure = expose(text).unwrap_err().to_string();
            assert!(
                failure.contains("--expose") && failure.contains("it looks like"),
                "{failure}"
            );
        }
    }

    #[test]
    fn data_goes_where_the_users_data_is() {
        let home = |name: &str| (name == "HOME").then(|| "/home/u".into());
        assert_eq!(
            default_data(&home).unwrap(),
            PathBuf::from("/home/u/.local/share/kakuremichi/quickstart")
        );
        let xdg = |name: &str| (name == "XDG_DATA_HOME").then(|| "/data".into());
        assert_eq!(
            default_data(&xdg).unwrap(),
            PathBuf::from("/data/kakuremichi/quickstart")
        );
        assert!(default_data(&|_| None).is_err());
    }
}
