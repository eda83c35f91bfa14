//! The settings of Control, and what they mean together.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use kakuremichi_bins_common::{Failure, Setting, settings};
use kakuremichi_control::{
    MailError, Mailer,
    api::{Origin, Rate, Rates},
};
use kakuremichi_core::{
    name::Hostname,
    net::{Cidr, Host},
    secret::Secret,
};
use kakuremichi_proto::identity::CanonicalUrl;
use serde::Deserialize;

/// A day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What Control can be told, besides what every role can.
pub const SETTINGS: &[Setting] = &[
    Setting::text(
        "data",
        "DIR",
        "Where the database and the keys are; made when missing",
    ),
    Setting::secret(
        "database",
        "database-file",
        "URL",
        "A PostgreSQL database, postgres://USER:PASSWORD@HOST/DATABASE; a file in --data when left out",
    ),
    Setting::text("listen", "ADDR", "Where nodes and API clients connect").or("[::]:7443"),
    Setting::text(
        "public-url",
        "URL",
        "How nodes and API clients reach it, such as https://control.example.net:7443",
    ),
    Setting::text(
        "tls-cert",
        "FILE",
        "The certificate chain (PEM); without it Control is its own authority",
    ),
    Setting::text("tls-key", "FILE", "The key of --tls-cert (PEM)"),
    Setting::switch(
        "behind-proxy",
        "A reverse proxy ends TLS: serve plain HTTP and believe its X-Forwarded-For",
    ),
    Setting::list(
        "trusted-proxy",
        "CIDR",
        "Where the reverse proxies are, such as 10.0.0.2 or 10.0.0.0/8; on this machine when left out",
    ),
    Setting::list(
        "allow-host",
        "NAME",
        "A name that requests to the API may be for, besides that of --public-url; a proxy in front may use another",
    ),
    Setting::list(
        "allow-origin",
        "ORIGIN",
        "Whose pages in a browser may use the API, such as https://dash.example.net; nobody's when left out",
    ),
    Setting::number(
        "caller-rate",
        "N",
        "API requests a second that one caller may send, ten times as many at once; 0 is without a bound",
    )
    .or("100"),
    Setting::number(
        "address-rate",
        "N",
        "API requests a second without a good credential from one address, twenty times as many at once; 0 is without a \
         bound",
    )
    .or("20"),
    Setting::secret(
        "smtp-url",
        "smtp-url-file",
        "URL",
        "By which server mail is sent: smtps://user:password@host, or smtp://user:password@host?tls=required; none when \
         left out",
    ),
    Setting::number(
        "audit-retention",
        "DAYS",
        "How many days entries of the audit are kept; for ever when left out",
    ),
    Setting::number(
        "node-down-after",
        "SECONDS",
        "How long a node may be gone before its organization is told",
    )
    .or("90"),
    Setting::switch(
        "private-webhooks",
        "Webhooks may lead to private addresses; whoever makes one then chooses what Control connects to in its network",
    ),
    Setting::text(
        "mail-from",
        "ADDRESS",
        "Who mails are from, such as 'kakuremichi <no-reply@example.net>'",
    ),
];

/// The settings as they were given.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    data: PathBuf,
    #[serde(default, deserialize_with = "settings::optional_secret")]
    database: Option<Secret<String>>,
    listen: SocketAddr,
    public_url: String,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(default)]
    behind_proxy: bool,
    #[serde(default)]
    trusted_proxy: Vec<String>,
    #[serde(default)]
    allow_host: Vec<String>,
    #[serde(default)]
    allow_origin: Vec<String>,
    caller_rate: u32,
    address_rate: u32,
    #[serde(default, deserialize_with = "settings::optional_secret")]
    smtp_url: Option<Secret<String>>,
    mail_from: Option<String>,
    #[serde(default)]
    private_webhooks: bool,
    audit_retention: Option<NonZeroU32>,
    node_down_after: NonZeroU32,
}

/// Settings that make sense together.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the database and the keys are.
    pub data: PathBuf,
    /// The URL of the database, when it is not a file in `data`.
    pub database: Option<Secret<String>>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// How it is reached.
    pub public_url: CanonicalUrl,
    /// What protects connections.
    pub security: Security,
    /// How mail is sent.
    pub mail: Option<Mailer>,
    /// Whether webhooks may lead to private addresses.
    pub private_webhooks: bool,
    /// How long entries of the audit are kept, if not for ever.
    pub audit_retention: Option<Duration>,
    /// How long a node may be gone before its organization is told.
    pub node_down_after: Duration,
    /// Whom the API answers.
    pub door: Door,
}

/// Whom the REST API answers, and how often.
#[derive(Debug, Clone, Default)]
pub struct Door {
    /// Names that requests may be for, besides that of the public URL.
    pub hosts: Vec<Hostname>,
    /// Whose pages in a browser may use it.
    pub origins: Vec<Origin>,
    /// How many requests it takes.
    pub rates: Rates,
}

/// What protects connections to Control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// TLS with a given certificate.
    Given {
        /// The chain, PEM.
        certificate: PathBuf,
        /// The key, PEM.
        key: PathBuf,
    },
    /// TLS with a certificate of an authority of its own.
    OwnAuthority,
    /// A reverse proxy in front ends TLS.
    BehindProxy {
        /// Where the proxies are; nobody else's `X-Forwarded-For` counts.
        proxies: Vec<Cidr>,
    },
    /// Nothing: everything stays on this machine.
    Loopback,
}

impl TryFrom<Settings> for Config {
    type Error = Failure;

    fn try_from(settings: Settings) -> Result<Self, Failure> {
        let public_url: CanonicalUrl = settings
            .public_url
            .parse()
            .map_err(|error| Failure::usage(format!("--public-url {}: {error}", settings.public_url)))?;
        if !settings.behind_proxy && !settings.trusted_proxy.is_empty() {
            return Err(Failure::usage(
                "--trusted-proxy is only of use with --behind-proxy",
            ));
        }
        let security = match (settings.tls_cert, settings.tls_key, settings.behind_proxy) {
            (Some(certificate), Some(key), false) => Security::Given { certificate, key },
            (None, None, true) => Security::BehindProxy {
                proxies: proxies(&settings.trusted_proxy)?,
            },
            (None, None, false) if public_url.is_secure() => Security::OwnAuthority,
            (None, None, false) if is_local(&public_url) && settings.listen.ip().is_loopback() => {
                Security::Loopback
            }
            (None, None, false) => {
                return Err(Failure::usage(
                    "--public-url with http:// is only for --listen on loopback or --behind-proxy: use https://",
                ));
            }
            (Some(_), None, _) | (None, Some(_), _) => {
                return Err(Failure::usage("--tls-cert and --tls-key go together"));
            }
            (Some(_), Some(_), true) => {
                return Err(Failure::usage(
                    "--behind-proxy and --tls-cert exclude each other: who ends TLS?",
                ));
            }
        };
        if matches!(security, Security::Given { .. }) && !public_url.is_secure() {
            return Err(Failure::usage(
                "--tls-cert is given, but --public-url does not start with https://",
            ));
        }
        let mail = match (&settings.smtp_url, &settings.mail_from) {
            (Some(url), Some(from)) => Some(Mailer::smtp(url, from).map_err(|error| {
                let setting = match error {
                    MailError::Sender(_) => "--mail-from",
                    _ => "--smtp-url",
                };
                Failure::because(setting, &error)
            })?),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::usage("--smtp-url and --mail-from go together"));
            }
        };
        let door = Door {
            hosts: each("--allow-host", &settings.allow_host)?,
            origins: each("--allow-origin", &settings.allow_origin)?,
            rates: Rates {
                caller: rate(settings.caller_rate, 10),
                address: rate(settings.address_rate, 20),
            },
        };
        Ok(Self {
            data: settings.data,
            database: settings.database,
            listen: settings.listen,
            public_url,
            security,
            mail,
            private_webhooks: settings.private_webhooks,
            audit_retention: settings.audit_retention.map(|days| DAY * days.get()),
            node_down_after: Duration::from_secs(settings.node_down_after.get().into()),
            door,
        })
    }
}

impl Config {
    /// The names and addresses that a certificate of Control's own authority has: that of the public URL and
    /// those of this machine.
    #[must_use]
    pub fn certificate_names(&self) -> Vec<String> {
        let public = self.public_url.endpoint().host.to_string();
        let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        std::iter::once(public.clone())
            .chain(local.into_iter().filter(|name| *name != public))
            .collect()
    }
}

fn each<T: FromStr<Err: std::fmt::Display>>(setting: &str, listed: &[String]) -> Result<Vec<T>, Failure> {
    let parse = |text: &String| {
        text.parse()
            .map_err(|error| Failure::usage(format!("{setting} {text}: {error}")))
    };
    listed.iter().map(parse).collect()
}

/// So many requests a second, and so many times that at once; without a bound where it is none.
fn rate(per_second: u32, times: u32) -> Option<Rate> {
    let per_second = NonZeroU32::new(per_second)?;
    Some(Rate {
        per_second,
        burst: per_second.saturating_mul(NonZeroU32::new(times)?),
    })
}

/// The proxies that were listed; without a list only those on this machine.
fn proxies(listed: &[String]) -> Result<Vec<Cidr>, Failure> {
    if listed.is_empty() {
        let loopback = [
            Cidr::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
            Cidr::new(Ipv6Addr::LOCALHOST.into(), 128),
        ];
        return Ok(loopback.into_iter().flatten().collect());
    }
    each("--trusted-proxy", listed)
}

fn is_local(url: &CanonicalUrl) -> bool {
    match &url.endpoint().host {
        Host::Address(IpAddr::V4(address)) => address.is_loopback(),
        Host::Address(IpAddr::V6(address)) => address.is_loopback(),
        Host::Name(name) => name.as_str() == "localhost" || name.as_str().ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(public_url: &str) -> Settings {
        Settings {
            data: "/data".into(),
            database: None,
            listen: "[::1]:7443".parse().unwrap(),
            public_url: public_url.to_owned(),
            tls_cert: None,
            tls_key: None,
            behind_proxy: false,
            trusted_proxy: Vec::new(),
            allow_host: Vec::new(),
            allow_origin: Vec::new(),
            caller_rate: 100,
            address_rate: 20,
            smtp_url: None,
            private_webhooks: false,
            audit_retention: None,
            node_down_after: NonZeroU32::MIN,
            mail_from: None,
        }
    }

    fn security(settings: Settings) -> Result<Security, String> {
        Config::try_from(settings)
            .map(|config| config.security)
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn security_follows_from_the_settings() {
        assert_eq!(
            security(settings("https://c.example")),
            Ok(Security::OwnAuthority)
        );
        assert_eq!(
            security(settings("http://localhost:7443")),
            Ok(Security::Loopback)
        );
        let proxied = Settings {
            behind_proxy: true,
            ..settings("https://c.example")
        };
        assert!(matches!(security(proxied), Ok(Security::BehindProxy { .. })));
        let given = Settings {
            tls_cert: Some("c".into()),
            tls_key: Some("k".into()),
            ..settings("https://c.example")
        };
        assert!(matches!(security(given), Ok(Security::Given { .. })));
    }

    /// LESSONS, advisory 4: forwarded headers count only from listed peers, and who listed nobody meant the
    /// proxy beside Control.
    #[test]
    fn advisory_4_only_proxies_on_this_machine_are_trusted_without_a_list() {
        let proxies = |listed: &[&str]| {
            let settings = Settings {
                behind_proxy: true,
                trusted_proxy: listed.iter().map(ToString::to_string).collect(),
                ..settings("https://c.example")
            };
            match security(settings) {
                Ok(Security::BehindProxy { proxies }) => {
                    Ok(proxies.iter().map(ToString::to_string).collect::<Vec<_>>())
                }
                Ok(other) => Err(format!("{other:?}")),
                Err(error) => Err(error),
            }
        };
        assert_eq!(proxies(&[]).unwrap(), ["127.0.0.0/8", "::1/128"]);
        assert_eq!(
            proxies(&["10.0.0.2", "2001:db8::/32"]).unwrap(),
            ["10.0.0.2/32", "2001:db8::/32"]
        );
        assert!(
            proxies(&["10.0.0.2/33"])
                .unwrap_err()
                .contains("--trusted-proxy 10.0.0.2/33")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_sentence() {
        let open = Settings {
            listen: "0.0.0.0:80".parse().unwrap(),
            ..settings("http://localhost")
        };
        assert!(security(open).unwrap_err().contains("loopback"));
        assert!(
            security(settings("http://c.example"))
                .unwrap_err()
                .contains("https://")
        );
        assert!(
            security(settings("c.example"))
                .unwrap_err()
                .contains("--public-url")
        );
        let half = Settings {
            tls_cert: Some("c".into()),
            ..settings("https://c.example")
        };
        assert!(security(half).unwrap_err().contains("go together"));
        let both = Settings {
            tls_cert: Some("c".into()),
            tls_key: Some("k".into()),
            behind_proxy: true,
            ..settings("https://c.example")
        };
        assert!(security(both).unwrap_err().contains("exclude"));
        let unsent = Settings {
            mail_from: Some("a@example.net".to_owned()),
            ..settings("https://c.example")
        };
        assert!(security(unsent).unwrap_err().contains("go together"));
        let door = |host: &str, origin: &str| {
            let settings = Settings {
                allow_host: vec![host.to_owned()],
                allow_origin: vec![origin.to_owned()],
                ..settings("https://c.example")
            };
            security(settings)
        };
        assert!(door("behind", "https://dash.example").is_ok());
        assert!(
            door("a b", "https://dash.example")
                .unwrap_err()
                .contains("--allow-host")
        );
        assert!(door("behind", "*").unwrap_err().contains("--allow-origin"));
        let mail = |url: &str, from: &str| {
            let settings = Settings {
                smtp_url: Some(Secret::new(url.to_owned())),
                mail_from: Some(from.to_owned()),
                ..settings("https://c.example")
            };
            security(settings)
        };
        assert!(mail("smtps://u:p@mail.example", "K <k@example.net>").is_ok());
        assert!(
            mail("https://mail.example", "k@example.net")
                .unwrap_err()
                .contains("--smtp-url")
        );
        assert!(
            mail("smtps://mail.example", "nobody")
                .unwrap_err()
                .contains("--mail-from")
        );
        let listed = Settings {
            trusted_proxy: vec!["10.0.0.2".to_owned()],
            ..settings("https://c.example")
        };
        assert!(security(listed).unwrap_err().contains("--behind-proxy"));
    }

    #[test]
    fn the_certificate_names_each_address_once() {
        let config = Config::try_from(settings("https://localhost:7443")).unwrap();
        assert_eq!(config.certificate_names(), ["localhost", "127.0.0.1", "::1"]);
    }
}
