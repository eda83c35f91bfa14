//! Where everything is, for people and for programs.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf};

use kakuremichi_bins_common::DataDir;
use serde::Serialize;

use super::{
    config::{Config, DEMO},
    roles::Roles,
};

/// Where everything is.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    control: String,
    /// Where the first user makes an account, as long as there is none: good once, for a day.
    set_up: Option<String>,
    openapi: String,
    http: Option<SocketAddr>,
    https: SocketAddr,
    wireguard: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    data: PathBuf,
    /// The certificate to trust for the services.
    ca: PathBuf,
    /// The certificate to trust for Control.
    control_ca: Option<PathBuf>,
    /// A key for the REST API.
    api_key_file: PathBuf,
    services: Vec<Published>,
}

#[derive(Debug, Serialize)]
struct Published {
    name: String,
    url: String,
}

impl Summary {
    pub(super) fn new(config: &Config, data: &DataDir, roles: &Roles, admin: Option<SocketAddr>) -> Self {
        let https = roles.https();
        let names = std::iter::once(DEMO).chain(config.expose.iter().map(|one| one.name.as_str()));
        let published = |name: &str| Published {
            name: name.to_owned(),
            url: url(name, https.port()),
        };
        Self {
            control: roles.control_url(),
            set_up: roles.set_up(),
            openapi: format!("{}/api/v1/openapi.json", roles.control_url()),
            http: roles.http(),
            https,
            wireguard: roles.wireguard(),
            admin,
            data: data.path().to_owned(),
            ca: data.file(super::roles::CA),
            control_ca: roles.control_ca(),
            api_key_file: data.file(super::roles::API_KEY),
            services: names.map(published).collect(),
        }
    }

    /// One line of JSON.
    pub(super) fn json(&self) -> String {
        // A struct of texts and numbers always has a JSON form.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// A page for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("\nkakuremichi runs. Services:\n");
        for service in &self.services {
            let _ = writeln!(text, "  {:<12} {}", service.name, service.url);
        }
        let _ = write!(
            text,
            "\nTry it:      curl --cacert {} {}\n\
             Control:     {} (REST API described at {})\n\
             API key:     in {}\n\
             Gateway:     https {}, http {}, wireguard {}\n\
             Data:        {}\n",
            self.ca.display(),
            self.services.first().map_or("", |service| &service.url),
            self.control,
            self.openapi,
            self.api_key_file.display(),
            self.https,
            self.http
                .map_or_else(|| "off".to_owned(), |http| http.to_string()),
            self.wireguard
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" and "),
            self.data.display(),
        );
        if let Some(link) = &self.set_up {
            let _ = writeln!(text, "Your account: {link} (good once, for a day)");
        }
        if let Some(admin) = self.admin {
            let _ = writeln!(text, "Admin:       http://{admin}/readyz and /metrics");
        }
        text.push_str("\nEnd it with Ctrl-C.\n");
        text
    }
}

fn url(name: &str, port: u16) -> String {
    if port == 443 {
        format!("https://{name}.localhost/")
    } else {
        format!("https://{name}.localhost:{port}/")
    }
}
