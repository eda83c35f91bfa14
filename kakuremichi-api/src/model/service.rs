//! Services.

use kakuremichi_core::id::ServiceId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, serde::rfc3339};

use super::{policy::Policy, text};
use crate::resource::{Create, Delete, Replace, Resource};

/// A service.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Service {
    /// Its identifier.
    #[serde(deserialize_with = "text::deserialize")]
    pub id: ServiceId,
    /// Its name.
    pub name: String,
    /// HTTP at host names, if it is that.
    pub http: Option<Http>,
    /// Raw TCP on a port, if it is that.
    pub tcp: Option<Tcp>,
    /// Datagrams on a port, if it is that.
    pub udp: Option<Udp>,
    /// Who may reach it. Passwords are not shown.
    pub policy: Policy,
    /// The shared policies that go before it.
    #[serde(default)]
    pub policies: Vec<String>,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Where visitors find it.
    pub urls: Vec<String>,
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A service as somebody asks for it: one of `http`, `tcp` and `udp`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceDraft {
    /// Its name.
    pub name: String,
    /// HTTP at host names, on the gateways' HTTPS port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// Raw TCP on a port of every gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// Datagrams on a UDP port of every gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Udp>,
    /// Who may reach it: nobody, if nothing is said.
    pub policy: Policy,
    /// The shared policies, by identifier or name, that go before it, in this order.
    pub policies: Vec<String>,
}

/// How long a service lives.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// Until it is deleted through the API.
    Configured,
    /// Declared by this agent; it stays when the agent stops.
    Declared(String),
    /// Declared by this agent; it goes with the agent.
    Ephemeral(String),
}

/// HTTP at host names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// The hosts: names, or wildcards for one label.
    pub hosts: Vec<String>,
    /// The routes; the most specific path wins.
    pub routes: Vec<Route>,
    /// In which form the targets are told who a visitor is.
    #[serde(default, skip_serializing_if = "IdentityForm::is_default")]
    pub identity: IdentityForm,
}

/// In which form targets are told who a visitor is. Whichever it is, what visitors send under the names of these header
/// fields does not reach them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IdentityForm {
    /// They are not told.
    None,
    /// Header fields such as `X-Kakuremichi-User`. Who reaches a target past the gateway can write them, too.
    Headers,
    /// `X-Kakuremichi-Assertion`, a JSON Web Token that the gateway signs.
    Assertion,
    /// Both.
    #[default]
    Both,
    /// What this client does not know.
    #[serde(untagged)]
    Other(Value),
}

impl IdentityForm {
    /// An older Control knows of no other one, and takes no field that it does not know.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A path and where its requests go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The path, with all below it; with `=` before it, only the path itself.
    #[serde(default = "root")]
    pub path: String,
    /// The targets, taken in turn.
    pub targets: Vec<Target>,
    /// How agents check the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// The shared policies, by identifier or name, that go before the service's own for this route.
    #[serde(default)]
    pub policies: Vec<String>,
}

/// Raw TCP on a port of every gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tcp {
    /// The port.
    pub port: u16,
    /// The targets, taken in turn.
    pub targets: Vec<Target>,
    /// How agents check the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// Datagrams on a UDP port of every gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Udp {
    /// The port.
    pub port: u16,
    /// The targets, taken in turn: each has an address, and no TLS.
    pub targets: Vec<Target>,
}

/// A target: at an agent with an address or a Unix socket, or behind a site with an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its identifier. Control gives it, and ignores it in requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The agent that delivers, by identifier or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The site that it is behind, by identifier or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// `host:port`, as the agent sees it; behind a site, an IP address and a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The path of a Unix socket on the agent's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<String>,
    /// The target is a listener in the program that embeds the agent. Only agents declare such targets.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_process: bool,
    /// Speak TLS to it, and verify it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TargetTls>,
}

/// TLS to a target, as the API's reference has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TargetTls(pub Value);

/// How a target is checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// What counts as alive, as the API's reference has it.
    pub check: Value,
    /// From one check to the next, in milliseconds; Control's usual time, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// The time in which a check must succeed, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// So many successes in a row bring it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_after: Option<u32>,
    /// So many failures in a row take a target out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_after: Option<u32>,
}

fn root() -> String {
    "/".to_owned()
}

impl Target {
    /// At an agent, by its name or identifier, which dials `host:port`.
    #[must_use]
    pub fn at_agent(agent: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            agent: Some(agent.into()),
            address: Some(address.into()),
            ..Self::default()
        }
    }

    /// Behind a site, by its name or identifier, at an IP address and a port.
    #[must_use]
    pub fn behind_site(site: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            site: Some(site.into()),
            address: Some(address.into()),
            ..Self::default()
        }
    }
}

impl Route {
    /// All paths, to these targets.
    #[must_use]
    pub fn new(targets: impl IntoIterator<Item = Target>) -> Self {
        Self {
            path: root(),
            targets: targets.into_iter().collect(),
            health: None,
            policies: Vec::new(),
        }
    }
}

impl Http {
    /// These hosts, with these routes.
    #[must_use]
    pub fn new(
        hosts: impl IntoIterator<Item = impl Into<String>>,
        routes: impl IntoIterator<Item = Route>,
    ) -> Self {
        Self {
            hosts: hosts.into_iter().map(Into::into).collect(),
            routes: routes.into_iter().collect(),
            identity: IdentityForm::default(),
        }
    }
}

impl ServiceDraft {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            http: None,
            tcp: None,
            udp: None,
            policy: Policy::default(),
            policies: Vec::new(),
        }
    }

    /// HTTP. Nobody may reach it yet.
    #[must_use]
    pub fn http(name: impl Into<String>, http: Http) -> Self {
        Self {
            http: Some(http),
            ..Self::new(name)
        }
    }

    /// Raw TCP. Nobody may reach it yet.
    #[must_use]
    pub fn tcp(name: impl Into<String>, tcp: Tcp) -> Self {
        Self {
            tcp: Some(tcp),
            ..Self::new(name)
        }
    }

    /// Datagrams. Nobody may reach it yet.
    #[must_use]
    pub fn udp(name: impl Into<String>, udp: Udp) -> Self {
        Self {
            udp: Some(udp),
            ..Self::new(name)
        }
    }
}

impl Service {
    /// What it is, to be changed and [put](crate::Api::replace) back.
    #[must_use]
    pub fn draft(&self) -> ServiceDraft {
        ServiceDraft {
            name: self.name.clone(),
            http: self.http.clone(),
            tcp: self.tcp.clone(),
            udp: self.udp.clone(),
            policy: self.policy.clone(),
            policies: self.policies.clone(),
        }
    }
}

impl Resource for Service {
    const COLLECTION: &'static str = "services";
    const SCHEMA: &'static str = "ServiceView";
    type Id = ServiceId;
}

impl Create for Service {
    type Draft = ServiceDraft;
    type Made = Self;
}

impl Replace for Service {}
impl Delete for Service {}
