//! The projection of one organization into the plan of one node.

use std::net::IpAddr;

use kakuremichi_core::{
    id::{AgentId, GatewayId, NodeId, PeerId},
    model::{
        Node, NodeKind, Pool, Route, Service, ServiceKind, Site, Target, TargetAddress, TargetPlace,
        TargetScheme,
    },
    name::{HostPattern, Hostname},
    net::{Cidr, Host, Overlay},
    plan::{
        AgentGateway, AgentNode, AgentPlan, AgentRecord, AgentService, AgentTarget, GatewayNode, GatewayPeer,
        GatewayPlan, GatewayRecord, GatewayService, PlannedKind, PlannedPool, PlannedRoute, PlannedTarget,
        Revision, Via,
    },
};

/// The port that a URL with `https` need not name.
const HTTPS_PORT: u16 = 443;

/// What Control knows of one organization.
#[derive(Debug, Clone)]
pub struct Landscape {
    /// The overlay of this Control.
    pub overlay: Overlay,
    /// Nodes, revoked ones too.
    pub nodes: Vec<Node>,
    /// Stock WireGuard devices.
    pub sites: Vec<Site>,
    /// Services.
    pub services: Vec<Service>,
}

impl Landscape {
    /// The plan of a gateway; `None` when it is not of this organization, or revoked.
    ///
    /// A node that lost its connection to Control stays in it: only revocation takes it out.
    #[must_use]
    pub fn gateway_plan(&self, id: GatewayId, revision: Revision) -> Option<GatewayPlan> {
        let node = self.active(id.into())?;
        let NodeKind::Gateway { address_v4, .. } = &node.kind else {
            return None;
        };
        let own = GatewayRecord::Node(GatewayNode {
            id,
            organization: node.organization,
            name: node.name.clone(),
            address: self.overlay.address(id.as_bytes()),
            address_v4: *address_v4,
        });
        let agents = self
            .agents()
            .map(|(id, agent)| GatewayRecord::Peer(self.agent_peer(id, agent)));
        let sites = self
            .sites
            .iter()
            .map(|site| GatewayRecord::Peer(self.site_peer(site)));
        let services = self
            .services
            .iter()
            .map(|service| GatewayRecord::Service(self.gateway_service(service)));
        Some(GatewayPlan::new(
            revision,
            std::iter::once(own).chain(agents).chain(sites).chain(services),
        ))
    }

    /// The plan of an agent; `None` when it is not of this organization, or revoked.
    #[must_use]
    pub fn agent_plan(&self, id: AgentId, revision: Revision) -> Option<AgentPlan> {
        let node = self.active(id.into())?;
        let own = AgentRecord::Node(AgentNode {
            id,
            organization: node.organization,
            name: node.name.clone(),
            address: self.overlay.address(id.as_bytes()),
        });
        let gateways = self.gateways().map(|(id, gateway, endpoints, _)| {
            AgentRecord::Gateway(AgentGateway {
                id,
                name: gateway.name.clone(),
                wireguard: gateway.wireguard,
                address: self.overlay.address(id.as_bytes()),
                endpoints: endpoints.to_vec(),
            })
        });
        let services = self
            .services
            .iter()
            .filter_map(|service| self.agent_service(id, service));
        let services = services.map(AgentRecord::Service);
        Some(AgentPlan::new(
            revision,
            std::iter::once(own).chain(gateways).chain(services),
        ))
    }

    fn active(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id && node.is_active())
    }

    fn agents(&self) -> impl Iterator<Item = (AgentId, &Node)> {
        self.nodes
            .iter()
            .filter(|node| node.is_active())
            .filter_map(|node| match node.id {
                NodeId::Agent(id) => Some((id, node)),
                NodeId::Gateway(_) => None,
            })
    }

    fn gateways(&self) -> impl Iterator<Item = (GatewayId, &Node, &[kakuremichi_core::net::Endpoint], u16)> {
        self.nodes
            .iter()
            .filter(|node| node.is_active())
            .filter_map(|node| match (&node.kind, node.id) {
                (
                    NodeKind::Gateway {
                        endpoints,
                        https_port,
                        ..
                    },
                    NodeId::Gateway(id),
                ) => Some((id, node, endpoints.as_slice(), *https_port)),
                _ => None,
            })
    }

    fn agent_peer(&self, id: AgentId, agent: &Node) -> GatewayPeer {
        let address = self.overlay.address(id.as_bytes());
        GatewayPeer {
            id: PeerId::Agent(id),
            name: agent.name.clone(),
            wireguard: agent.wireguard,
            address,
            allowed_ips: vec![Cidr::host(address.into())],
            endpoint: None,
        }
    }

    fn site_peer(&self, site: &Site) -> GatewayPeer {
        let address = self.overlay.address(site.id.as_bytes());
        let own = [IpAddr::from(address), site.address_v4.into()].map(Cidr::host);
        GatewayPeer {
            id: PeerId::Site(site.id),
            name: site.name.clone(),
            wireguard: site.wireguard,
            address,
            allowed_ips: own.into_iter().chain(site.networks.iter().copied()).collect(),
            endpoint: site.endpoint.clone(),
        }
    }

    fn gateway_service(&self, service: &Service) -> GatewayService {
        let kind = match &service.kind {
            ServiceKind::Http { hosts, routes } => PlannedKind::Http {
                hosts: hosts.clone(),
                routes: routes.iter().map(|route| self.route(route)).collect(),
            },
            ServiceKind::Tcp { port, pool } => PlannedKind::Tcp {
                port: *port,
                pool: self.pool(pool),
            },
        };
        GatewayService {
            id: service.id,
            organization: service.organization,
            name: service.name.clone(),
            kind,
            policy: service.policy.clone(),
        }
    }

    fn route(&self, route: &Route) -> PlannedRoute {
        PlannedRoute {
            id: route.id,
            path: route.path.clone(),
            pool: self.pool(&route.pool),
        }
    }

    /// Targets whose agent was revoked or whose site is gone are left out: nobody could reach them.
    fn pool(&self, pool: &Pool) -> PlannedPool {
        let reachable = pool.targets.iter().filter(|target| match &target.place {
            TargetPlace::Agent { agent, .. } => self.active((*agent).into()).is_some(),
            TargetPlace::Site { site, .. } => self.sites.iter().any(|known| known.id == *site),
        });
        PlannedPool {
            targets: reachable.map(|target| planned_target(target, pool)).collect(),
        }
    }

    fn agent_service(&self, agent: AgentId, service: &Service) -> Option<AgentService> {
        let mine = |target: &Target, pool: &Pool| match &target.place {
            TargetPlace::Agent {
                agent: of,
                port,
                address,
            } if *of == agent => Some(AgentTarget {
                id: target.id,
                port: *port,
                address: address.clone(),
                tls: matches!(target.scheme, TargetScheme::Tls { .. }),
                health: pool.health.clone(),
            }),
            TargetPlace::Agent { .. } | TargetPlace::Site { .. } => None,
        };
        let targets: Vec<_> = service
            .pools()
            .flat_map(|pool| pool.targets.iter().filter_map(move |target| mine(target, pool)))
            .collect();
        // A service that the agent declared is told to it even when its target moved elsewhere.
        if targets.is_empty() && service.lifetime.declared_by() != Some(agent) {
            return None;
        }
        let (hosts, port) = match &service.kind {
            ServiceKind::Http { hosts, .. } => (hosts.clone(), None),
            ServiceKind::Tcp { port, .. } => (Vec::new(), Some(*port)),
        };
        let urls = service_urls(service, &self.nodes);
        Some(AgentService {
            id: service.id,
            name: service.name.clone(),
            hosts,
            port,
            urls,
            targets,
        })
    }
}

fn planned_target(target: &Target, pool: &Pool) -> PlannedTarget {
    let (via, name, checked) = match &target.place {
        TargetPlace::Agent { agent, port, address } => (
            Via::Agent {
                agent: *agent,
                port: *port,
            },
            target_name(address),
            pool.health.is_some(),
        ),
        TargetPlace::Site { site, address } => (
            Via::Site {
                site: *site,
                address: *address,
            },
            None,
            false,
        ),
    };
    let server_name = match &target.scheme {
        TargetScheme::Plain => None,
        TargetScheme::Tls { server_name, .. } => server_name.clone().or(name),
    };
    PlannedTarget {
        id: target.id,
        via,
        scheme: target.scheme.clone(),
        server_name,
        checked,
    }
}

/// The name under which a target is dialled, which its certificate has unless told otherwise.
fn target_name(address: &TargetAddress) -> Option<Hostname> {
    match address {
        TargetAddress::Tcp(endpoint) => match &endpoint.host {
            Host::Name(name) => Some(name.clone()),
            Host::Address(_) => None,
        },
        TargetAddress::Unix(_) | TargetAddress::InProcess => None,
    }
}

/// Where visitors find a service: one URL for each host and each HTTPS port that the active gateways among
/// `nodes` have, or one for each gateway's first endpoint at a TCP service. In the order of hosts and nodes,
/// each once.
#[must_use]
pub fn service_urls(service: &Service, nodes: &[Node]) -> Vec<String> {
    let gateways = nodes
        .iter()
        .filter(|node| node.is_active())
        .filter_map(|node| match &node.kind {
            NodeKind::Gateway {
                endpoints,
                https_port,
                ..
            } => Some((endpoints, *https_port)),
            NodeKind::Agent { .. } => None,
        });
    let mut urls: Vec<String> = Vec::new();
    for (endpoints, https_port) in gateways {
        let found: Vec<String> = match &service.kind {
            ServiceKind::Http { hosts, .. } => hosts.iter().map(|host| https_url(host, https_port)).collect(),
            ServiceKind::Tcp { port, .. } => endpoints
                .first()
                .map(|endpoint| {
                    let public = kakuremichi_core::net::Endpoint {
                        host: endpoint.host.clone(),
                        port: *port,
                    };
                    format!("tcp://{public}")
                })
                .into_iter()
                .collect(),
        };
        for url in found {
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    urls
}

fn https_url(host: &HostPattern, port: u16) -> String {
    if port == HTTPS_PORT {
        format!("https://{host}/")
    } else {
        format!("https://{host}:{port}/")
    }
}
