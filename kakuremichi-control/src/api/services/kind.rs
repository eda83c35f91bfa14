//! What a service publishes, and where it goes.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use kakuremichi_core::{
    model::{
        Health, HealthCheck, IdentityForm, Pool, ServiceKind, Target, TargetAddress, TargetPlace,
        TargetScheme, Transport,
    },
    name::PathPattern,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        problem::Problem,
        text::{
            AgentText, EndpointText, HostPatternText, HostText, Named, PolicyText, SiteText, policy_texts,
        },
    },
    service::{FieldError, KindDraft, PlaceDraft, PoolDraft, Reference, RouteDraft, TargetDraft},
    text::Text,
};

/// HTTP at host names, on the gateways' HTTPS port.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpView {
    /// The hosts: names, or wildcards for one label.
    #[schema(value_type = Vec<String>, example = json!(["billing.example.net"]))]
    hosts: Vec<HostPatternText>,
    /// The routes. The most specific path wins.
    routes: Vec<RouteView>,
    /// In which form the targets are told who a visitor is: not at all, by header fields such as `X-Kakuremichi-User`
    /// (which whoever reaches a target past the gateway can write, too), by `X-Kakuremichi-Assertion`, a JSON Web Token that
    /// the gateway signs, or by both, which is what it is if left out. Whichever it is, what visitors send under the names
    /// of these header fields does not reach them.
    #[serde(default)]
    #[schema(default = "both")]
    identity: IdentityFormView,
}

/// In which form targets are told who a visitor is.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IdentityFormView {
    /// They are not told.
    None,
    /// Header fields such as `X-Kakuremichi-User`. Who reaches a target past the gateway can write them, too.
    Headers,
    /// `X-Kakuremichi-Assertion`, a JSON Web Token that the gateway signs.
    Assertion,
    /// Both.
    #[default]
    Both,
}

impl From<IdentityFormView> for IdentityForm {
    fn from(view: IdentityFormView) -> Self {
        match view {
            IdentityFormView::None => Self::Nothing,
            IdentityFormView::Headers => Self::Headers,
            IdentityFormView::Assertion => Self::Assertion,
            IdentityFormView::Both => Self::Both,
        }
    }
}

impl From<IdentityForm> for IdentityFormView {
    fn from(form: IdentityForm) -> Self {
        match form {
            IdentityForm::Nothing => Self::None,
            IdentityForm::Headers => Self::Headers,
            IdentityForm::Assertion => Self::Assertion,
            IdentityForm::Both => Self::Both,
        }
    }
}

/// A path and where its requests go.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteView {
    /// The path, with all below it; with `=` before it, only the path itself. `/` if left out.
    #[schema(value_type = String, example = "/")]
    #[serde(default = "everything")]
    path: Text<PathPattern>,
    /// The targets, taken in turn.
    targets: Vec<TargetView>,
    /// How agents check the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<HealthView>,
    /// The shared policies, by identifier or name, that go before the service's own for this route, and behind
    /// those of the service.
    #[schema(value_type = Vec<String>)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    policies: Vec<PolicyText>,
}

/// Raw TCP on a port of every gateway.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TcpView {
    /// The port.
    #[schema(example = 5432)]
    port: u16,
    /// The targets, taken in turn.
    targets: Vec<TargetView>,
    /// How agents check the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<HealthView>,
}

/// Datagrams on a UDP port of every gateway.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UdpView {
    /// The port.
    #[schema(example = 53)]
    port: u16,
    /// The targets, taken in turn: each has an `address`, and no `tls`.
    targets: Vec<TargetView>,
}

/// A target: at an `agent` with an `address` or a `unix` socket, or behind a `site` with an `address`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetView {
    /// Its identifier. It is given by Control, and ignored in requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The agent that delivers, by identifier or name.
    #[schema(value_type = Option<String>, example = "home")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<AgentText>,
    /// The site that it is behind, by identifier or name.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    site: Option<SiteText>,
    /// `host:port`, as the agent sees it; behind a site, an IP address and a port.
    #[schema(value_type = Option<String>, example = "127.0.0.1:8080")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<EndpointText>,
    /// The path of a Unix socket on the agent's host.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unix: Option<PathBuf>,
    /// The target is a listener in the program that embeds the agent. Only agents declare such targets.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    in_process: bool,
    /// Speak TLS to it, and verify it; plain if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<TlsView>,
}

/// TLS to a target.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsView {
    /// The name in its certificate; that of its address if left out.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<HostText>,
    /// Certificates (PEM) that are trusted instead of the public ones.
    roots: Vec<String>,
}

/// How a target is checked.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HealthView {
    /// What counts as alive.
    check: CheckView,
    /// From one check to the next, in milliseconds.
    #[serde(default = "interval")]
    interval_ms: u64,
    /// The time in which a check must succeed, in milliseconds.
    #[serde(default = "deadline")]
    timeout_ms: u64,
    /// So many failures in a row take a target out.
    #[serde(default = "unhealthy_after")]
    unhealthy_after: u8,
    /// So many successes in a row bring it back.
    #[serde(default = "healthy_after")]
    healthy_after: u8,
}

/// What counts as alive.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CheckView {
    /// A TCP connection can be made.
    Tcp,
    /// A GET answers 200 to 399.
    Http(HttpCheckView),
}

/// The GET of a health check.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpCheckView {
    /// The path and query.
    #[schema(example = "/healthz")]
    path: String,
    /// The Host header; the target's own address if left out.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<HostText>,
}

fn everything() -> Text<PathPattern> {
    Text(PathPattern::any())
}

const fn interval() -> u64 {
    5_000
}

const fn deadline() -> u64 {
    2_000
}

const fn unhealthy_after() -> u8 {
    2
}

const fn healthy_after() -> u8 {
    1
}

impl TryFrom<HttpView> for KindDraft {
    type Error = Problem;

    fn try_from(view: HttpView) -> Result<Self, Problem> {
        let mut routes = Vec::with_capacity(view.routes.len());
        for (index, route) in view.routes.into_iter().enumerate() {
            let at = format!("http.routes[{index}]");
            routes.push(RouteDraft {
                path: route.path.0,
                pool: pool(&at, route.targets, route.health, Transport::Tcp)?,
                policies: route.policies.into_iter().map(|policy| policy.0.0).collect(),
            });
        }
        Ok(Self::Http {
            hosts: view.hosts.into_iter().map(|host| host.0).collect(),
            routes,
            identity: view.identity.into(),
        })
    }
}

impl TryFrom<TcpView> for KindDraft {
    type Error = Problem;

    fn try_from(view: TcpView) -> Result<Self, Problem> {
        Ok(Self::Tcp {
            port: view.port,
            pool: pool("tcp", view.targets, view.health, Transport::Tcp)?,
        })
    }
}

impl TryFrom<UdpView> for KindDraft {
    type Error = Problem;

    fn try_from(view: UdpView) -> Result<Self, Problem> {
        Ok(Self::Udp {
            port: view.port,
            pool: pool("udp", view.targets, None, Transport::Udp)?,
        })
    }
}

fn pool(
    at: &str,
    targets: Vec<TargetView>,
    health: Option<HealthView>,
    transport: Transport,
) -> Result<PoolDraft, Problem> {
    let targets = targets
        .into_iter()
        .enumerate()
        .map(|(index, target)| {
            draft(target, transport).map_err(|(field, message)| {
                Problem::fields(vec![FieldError::new(
                    format!("{at}.targets[{index}].{field}"),
                    message,
                )])
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(PoolDraft {
        targets,
        health: health.map(Into::into),
    })
}

fn draft(view: TargetView, transport: Transport) -> Result<TargetDraft, (&'static str, String)> {
    let wrong = |field, message: &str| Err((field, message.to_owned()));
    let place = match (view.agent, view.site, view.address, view.unix) {
        _ if view.in_process => {
            return wrong(
                "in_process",
                "only the program that embeds the agent can declare this",
            );
        }
        (Some(agent), None, Some(address), None) => PlaceDraft::Agent {
            agent: agent.0.0,
            address: match transport {
                Transport::Tcp => TargetAddress::Tcp(address.0),
                Transport::Udp => TargetAddress::Udp(address.0),
            },
        },
        (Some(_), None, None, Some(_)) if transport == Transport::Udp => {
            return wrong("unix", "a UDP service has its targets at addresses");
        }
        (Some(agent), None, None, Some(path)) => {
            if !path.is_absolute() {
                return wrong("unix", "the path of a socket starts with `/`");
            }
            PlaceDraft::Agent {
                agent: agent.0.0,
                address: TargetAddress::Unix(path),
            }
        }
        (None, Some(site), Some(address), None) => match address.0.host {
            kakuremichi_core::net::Host::Address(ip) => PlaceDraft::Site {
                site: site.0.0,
                address: SocketAddr::new(ip, address.0.port),
            },
            kakuremichi_core::net::Host::Name(_) => {
                return wrong(
                    "address",
                    "behind a site a target has an IP address: nobody resolves names there",
                );
            }
        },
        (Some(_), Some(_), _, _) | (None, None, _, _) => {
            return wrong("agent", "give either `agent` or `site`");
        }
        (_, _, Some(_), Some(_)) => return wrong("unix", "give either `address` or `unix`"),
        (_, _, None, _) => return wrong("address", "give the `address` of the target"),
    };
    let scheme = match view.tls {
        None => TargetScheme::Plain,
        Some(_) if transport == Transport::Udp => {
            return wrong("tls", "no TLS is spoken to the targets of a UDP service");
        }
        Some(tls) => TargetScheme::Tls {
            server_name: tls.server_name.map(|name| name.0),
            roots: roots(&tls.roots)
                .ok_or_else(|| ("tls.roots", "each root is one certificate in PEM".to_owned()))?,
        },
    };
    Ok(TargetDraft { place, scheme })
}

fn roots(pems: &[String]) -> Option<Vec<Vec<u8>>> {
    let root = |pem: &String| {
        CertificateDer::from_pem_slice(pem.as_bytes())
            .ok()
            .map(|der| der.to_vec())
    };
    pems.iter().map(root).collect()
}

impl From<HealthView> for HealthCheck {
    fn from(view: HealthView) -> Self {
        Self {
            check: match view.check {
                CheckView::Tcp => Health::Tcp,
                CheckView::Http(http) => Health::Http {
                    path: http.path,
                    host: http.host.map(|host| host.0),
                },
            },
            interval: Duration::from_millis(view.interval_ms),
            timeout: Duration::from_millis(view.timeout_ms),
            unhealthy_after: view.unhealthy_after,
            healthy_after: view.healthy_after,
        }
    }
}

/// A service in the form in which it could be asked for: one of these.
#[derive(Default)]
pub(super) struct Views {
    pub(super) http: Option<HttpView>,
    pub(super) tcp: Option<TcpView>,
    pub(super) udp: Option<UdpView>,
}

/// The service as it is.
pub(super) fn views(kind: &ServiceKind) -> Views {
    let mut views = Views::default();
    match kind {
        ServiceKind::Http {
            hosts,
            routes,
            identity,
        } => {
            let routes = routes.iter().map(|route| RouteView {
                path: Text(route.path.clone()),
                targets: targets(&route.pool),
                health: route.pool.health.as_ref().map(Into::into),
                policies: policy_texts(&route.policies),
            });
            views.http = Some(HttpView {
                hosts: hosts.iter().cloned().map(HostPatternText).collect(),
                routes: routes.collect(),
                identity: (*identity).into(),
            });
        }
        ServiceKind::Tcp { port, pool } => {
            views.tcp = Some(TcpView {
                port: *port,
                targets: targets(pool),
                health: pool.health.as_ref().map(Into::into),
            });
        }
        ServiceKind::Udp { port, pool } => {
            views.udp = Some(UdpView {
                port: *port,
                targets: targets(pool),
            });
        }
    }
    views
}

fn targets(pool: &Pool) -> Vec<TargetView> {
    pool.targets.iter().map(target).collect()
}

fn target(target: &Target) -> TargetView {
    let mut view = TargetView {
        id: Some(target.id.to_string()),
        agent: None,
        site: None,
        address: None,
        unix: None,
        in_process: false,
        tls: match &target.scheme {
            TargetScheme::Plain => None,
            TargetScheme::Tls { server_name, roots } => Some(TlsView {
                server_name: server_name.clone().map(HostText),
                roots: roots.iter().map(|der| pem(der)).collect(),
            }),
        },
    };
    match &target.place {
        TargetPlace::Agent { agent, address, .. } => {
            view.agent = Some(AgentText(Named(Reference::Id(*agent))));
            match address {
                TargetAddress::Tcp(endpoint) | TargetAddress::Udp(endpoint) => {
                    view.address = Some(EndpointText(endpoint.clone()));
                }
                TargetAddress::Unix(path) => view.unix = Some(path.clone()),
                TargetAddress::InProcess => view.in_process = true,
            }
        }
        TargetPlace::Site { site, address } => {
            view.site = Some(SiteText(Named(Reference::Id(*site))));
            view.address = Some(EndpointText(kakuremichi_core::net::Endpoint {
                host: kakuremichi_core::net::Host::Address(address.ip()),
                port: address.port(),
            }));
        }
    }
    view
}

fn pem(der: &[u8]) -> String {
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    // 48 bytes are 64 characters, the line that RFC 7468 asks for.
    for line in der.chunks(48) {
        pem.push_str(&data_encoding::BASE64.encode(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

impl From<&HealthCheck> for HealthView {
    fn from(health: &HealthCheck) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            check: match &health.check {
                Health::Tcp => CheckView::Tcp,
                Health::Http { path, host } => CheckView::Http(HttpCheckView {
                    path: path.clone(),
                    host: host.clone().map(HostText),
                }),
            },
            interval_ms: millis(health.interval),
            timeout_ms: millis(health.timeout),
            unhealthy_after: health.unhealthy_after,
            healthy_after: health.healthy_after,
        }
    }
}
