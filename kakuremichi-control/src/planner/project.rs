//! The projection of one organization into the records of one node's plan.

use std::{collections::BTreeSet, net::IpAddr};

use kakuremichi_core::{
    id::{AgentId, GatewayId, NodeId, PeerId, PolicyId, ServiceId, ServiceTokenId},
    model::{NodeKind, Pool, Service, ServiceKind, Target, TargetAddress, TargetPlace, TargetScheme},
    name::Hostname,
    net::{Cidr, Endpoint, Host},
    plan::{
        AgentGateway, AgentNode, AgentRecord, AgentService, AgentTarget, GatewayNode, GatewayPeer,
        GatewayPolicy, GatewayRecord, GatewayService, GatewayServiceToken, GatewaySibling, GatewaySigner,
        PlannedKind, PlannedPool, PlannedRoute, PlannedTarget, Via,
    },
    policy::SharedPolicy,
};
use kakuremichi_proto::plan::{EncodePlanError, PlanRecord};

use super::{
    landscape::{Landscape, gateway_of},
    service_urls,
};

/// A node that lost its connection to Control stays in everything here: only revocation takes it out.
impl Landscape {
    /// What a gateway is told of itself.
    pub(super) fn gateway_node(&self, id: GatewayId) -> Option<GatewayNode> {
        let node = self.active(id.into())?;
        let NodeKind::Gateway { address_v4, .. } = &node.kind else {
            return None;
        };
        Some(GatewayNode {
            id,
            organization: node.organization,
            name: node.name.clone(),
            address: self.overlay.address(id.as_bytes()),
            address_v4: *address_v4,
        })
    }

    /// What an agent is told of itself.
    pub(super) fn agent_node(&self, id: AgentId) -> Option<AgentNode> {
        let node = self.active(id.into())?;
        Some(AgentNode {
            id,
            organization: node.organization,
            name: node.name.clone(),
            address: self.overlay.address(id.as_bytes()),
        })
    }

    /// What agents are told of a gateway.
    pub(super) fn agent_gateway(&self, id: GatewayId) -> Option<AgentGateway> {
        let node = self.active(id.into())?;
        let (endpoints, https_port) = gateway_of(node)?;
        Some(AgentGateway {
            id,
            name: node.name.clone(),
            identity: node.identity,
            wireguard: node.wireguard,
            address: self.overlay.address(id.as_bytes()),
            endpoints: endpoints.to_vec(),
            streams: streams(endpoints, https_port),
        })
    }

    /// What gateways are told of each other.
    pub(super) fn gateway_sibling(&self, id: GatewayId) -> Option<GatewaySibling> {
        let node = self.active(id.into())?;
        let (endpoints, _) = gateway_of(node)?;
        Some(GatewaySibling {
            id,
            organization: node.organization,
            name: node.name.clone(),
            wireguard: node.wireguard,
            address: self.overlay.address(id.as_bytes()),
            endpoints: endpoints.to_vec(),
        })
    }

    /// What gateways are told of a peer. Its packets may come from its own addresses and, of a site, from the
    /// networks behind it.
    pub(super) fn peer(&self, id: PeerId) -> Option<GatewayPeer> {
        match id {
            PeerId::Agent(agent) => {
                let node = self.active(agent.into())?;
                let address = self.overlay.address(agent.as_bytes());
                Some(GatewayPeer {
                    id,
                    name: node.name.clone(),
                    identity: Some(node.identity),
                    wireguard: node.wireguard,
                    address,
                    allowed_ips: vec![Cidr::host(address.into())],
                    endpoint: None,
                })
            }
            PeerId::Site(site) => {
                let site = self.sites.get(&site)?;
                let address = self.overlay.address(site.id.as_bytes());
                let own = [IpAddr::from(address), site.address_v4.into()].map(Cidr::host);
                Some(GatewayPeer {
                    id,
                    name: site.name.clone(),
                    identity: None,
                    wireguard: site.wireguard,
                    address,
                    allowed_ips: own.into_iter().chain(site.networks.iter().copied()).collect(),
                    endpoint: site.endpoint.clone(),
                })
            }
        }
    }

    /// What gateways are told of a service. Targets whose agent was revoked are left out: nobody could reach
    /// them.
    pub(super) fn gateway_service(&self, id: ServiceId) -> Option<GatewayService> {
        let service = self.services.get(&id)?;
        Some(gateway_service(service, |place| match place {
            TargetPlace::Agent { agent, .. } => self.active((*agent).into()).is_some(),
            TargetPlace::Site { site, .. } => self.sites.contains_key(site),
        }))
    }

    /// What gateways are told of a shared policy. One that nothing is guarded by is of no use to them.
    pub(super) fn gateway_policy(&self, id: PolicyId) -> Option<GatewayPolicy> {
        let policy = self.policies.get(&id)?;
        self.is_attached(id).then(|| gateway_policy(policy))
    }

    /// What gateways are told of a service token: never more than the hash of its secret.
    pub(super) fn gateway_service_token(&self, id: ServiceTokenId) -> Option<GatewayServiceToken> {
        let token = self.service_tokens.get(&id)?;
        Some(GatewayServiceToken {
            id,
            organization: token.organization,
            secret_hash: token.secret_hash,
            expires: token.expires,
        })
    }

    /// By which keys the session cookies of a gateway are taken.
    pub(super) fn gateway_signer(&self, id: GatewayId) -> Option<GatewaySigner> {
        match &self.active(id.into())?.kind {
            NodeKind::Gateway { signing_keys, .. } => Some(GatewaySigner {
                id,
                keys: signing_keys.clone(),
            }),
            NodeKind::Agent { .. } => None,
        }
    }

    /// What an agent is told of a service, if it has anything to do with it.
    pub(super) fn agent_service(&self, agent: AgentId, id: ServiceId) -> Option<AgentService> {
        let service = self.services.get(&id)?;
        let gateways = self
            .gateways()
            .filter_map(|gateway| self.nodes.get(&NodeId::from(gateway)));
        Some(agent_service(service, agent, service_urls(service, gateways)))
    }
}

/// Where a gateway takes TLS stream lanes: its HTTPS port, on each host at which it is reached.
fn streams(endpoints: &[Endpoint], https_port: u16) -> Vec<Endpoint> {
    let mut streams = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let stream = Endpoint {
            host: endpoint.host.clone(),
            port: https_port,
        };
        if !streams.contains(&stream) {
            streams.push(stream);
        }
    }
    streams
}

/// The length of a service in the plan where it is longest, in bytes, without its URLs: gateways are told of
/// all targets, and each agent how its own are dialled and checked.
pub(crate) fn encoded_len(service: &Service) -> Result<usize, EncodePlanError> {
    let record = GatewayRecord::Service(gateway_service(service, |_| true)).to_wire()?;
    let mut longest = record.encoded_len();
    let agents = service.targets().filter_map(|target| match &target.place {
        TargetPlace::Agent { agent, .. } => Some(*agent),
        TargetPlace::Site { .. } => None,
    });
    for agent in agents.collect::<BTreeSet<_>>() {
        let record = AgentRecord::Service(agent_service(service, agent, Vec::new())).to_wire()?;
        longest = longest.max(record.encoded_len());
    }
    Ok(longest)
}

fn agent_service(service: &Service, agent: AgentId, urls: Vec<String>) -> AgentService {
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
    let (hosts, port) = match &service.kind {
        ServiceKind::Http { hosts, .. } => (hosts.clone(), None),
        ServiceKind::Tcp { port, .. } | ServiceKind::Udp { port, .. } => (Vec::new(), Some(*port)),
    };
    AgentService {
        id: service.id,
        name: service.name.clone(),
        transport: service.kind.transport(),
        hosts,
        port,
        urls,
        targets: service
            .pools()
            .flat_map(|pool| pool.targets.iter().filter_map(move |target| mine(target, pool)))
            .collect(),
    }
}

fn gateway_service(service: &Service, reachable: impl Fn(&TargetPlace) -> bool) -> GatewayService {
    let planned = |pool: &Pool| PlannedPool {
        targets: pool
            .targets
            .iter()
            .filter(|target| reachable(&target.place))
            .map(|target| planned_target(target, pool))
            .collect(),
    };
    let kind = match &service.kind {
        ServiceKind::Http {
            hosts,
            routes,
            identity,
        } => PlannedKind::Http {
            hosts: hosts.clone(),
            routes: routes
                .iter()
                .map(|route| PlannedRoute {
                    id: route.id,
                    path: route.path.clone(),
                    pool: planned(&route.pool),
                    policies: route.policies.clone(),
                })
                .collect(),
            identity: *identity,
        },
        ServiceKind::Tcp { port, pool } => PlannedKind::Tcp {
            port: *port,
            pool: planned(pool),
        },
        ServiceKind::Udp { port, pool } => PlannedKind::Udp {
            port: *port,
            pool: planned(pool),
        },
    };
    GatewayService {
        id: service.id,
        organization: service.organization,
        name: service.name.clone(),
        kind,
        policy: service.policy.clone(),
        policies: service.policies.clone(),
    }
}

fn gateway_policy(policy: &SharedPolicy) -> GatewayPolicy {
    GatewayPolicy {
        id: policy.id,
        rules: policy.rules.clone(),
        access: policy.access.clone(),
    }
}

/// The length of a shared policy in the plan of a gateway, in bytes.
pub(crate) fn encoded_policy_len(policy: &SharedPolicy) -> Result<usize, EncodePlanError> {
    Ok(GatewayRecord::Policy(gateway_policy(policy))
        .to_wire()?
        .encoded_len())
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
        // No TLS is spoken to a UDP target.
        TargetAddress::Unix(_) | TargetAddress::InProcess | TargetAddress::Udp(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{
        id::TargetId,
        model::IdentityForm,
        net::Overlay,
        store::{StoreRecord, conformance::sample},
    };

    use super::*;
    use crate::planner::Touched;

    fn landscape(records: impl IntoIterator<Item = StoreRecord>) -> Landscape {
        let mut landscape = Landscape::new(Overlay::from_global_id([1; 5]));
        for record in records {
            landscape.set(record.id(), Some(record), &mut Touched::default());
        }
        landscape
    }

    #[test]
    fn streams_are_taken_at_the_https_port_of_each_host_once() {
        let endpoints = [
            "gw.example.net:51820",
            "[2001:db8::1]:51820",
            "gw.example.net:51821",
        ];
        let told = streams(&endpoints.map(|endpoint| endpoint.parse().unwrap()), 8443);
        let told: Vec<_> = told.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["gw.example.net:8443", "[2001:db8::1]:8443"]);
    }

    #[test]
    fn allowed_ips_are_exact() {
        let (agent, site) = (sample::agent(0, 1), sample::site(0, 2));
        let landscape = landscape([agent.clone().into(), site.clone().into()]);
        let NodeId::Agent(agent_id) = agent.id else {
            panic!("an agent")
        };
        let peer = landscape.peer(agent_id.into()).unwrap();
        assert_eq!(peer.allowed_ips, [Cidr::host(peer.address.into())]);
        let peer = landscape.peer(site.id.into()).unwrap();
        let own = [
            Cidr::host(peer.address.into()),
            Cidr::host(site.address_v4.into()),
        ];
        assert_eq!(peer.allowed_ips, [own.as_slice(), &site.networks].concat());
        assert_eq!(peer.endpoint, site.endpoint);
    }

    #[test]
    fn a_revoked_agent_is_in_no_plan() {
        let mut agent = sample::agent(0, 1);
        let NodeId::Agent(id) = agent.id else {
            panic!("an agent")
        };
        let service = sample::http_service(0, 1);
        let active = landscape([agent.clone().into(), service.clone().into()]);
        let targets = |landscape: &Landscape| match landscape.gateway_service(service.id).unwrap().kind {
            PlannedKind::Http { routes, .. } => {
                routes.iter().map(|route| route.pool.targets.len()).sum::<usize>()
            }
            PlannedKind::Tcp { .. } | PlannedKind::Udp { .. } => panic!("it is HTTP"),
        };
        assert_eq!(targets(&active), 4);
        agent.revoked = Some(sample::NOW);
        let revoked = landscape([agent.into(), service.clone().into()]);
        assert_eq!(targets(&revoked), 0);
        assert!(revoked.peer(id.into()).is_none() && revoked.agent_node(id).is_none());
    }

    #[test]
    fn an_agent_is_told_its_own_targets_only() {
        let (one, two) = (sample::http_service(0, 1), sample::http_service(0, 2));
        let agent = sample::agent(0, 1);
        let NodeId::Agent(id) = agent.id else {
            panic!("an agent")
        };
        let landscape = landscape([agent.into(), one.clone().into(), two.clone().into()]);
        let told = landscape.agent_service(id, one.id).unwrap();
        assert_eq!(told.targets.len(), 4);
        assert!(told.targets[1].tls && told.targets[1].health.is_some());
        assert_eq!(told.targets[0].id, TargetId::from_bytes(sample::bytes(1)));
        assert!(landscape.agent_service(id, two.id).unwrap().targets.is_empty());
    }

    #[test]
    fn what_targets_are_told_is_in_the_plan() {
        let mut service = sample::http_service(0, 4);
        for form in IdentityForm::ALL {
            if let ServiceKind::Http { identity, .. } = &mut service.kind {
                *identity = form;
            }
            let planned = gateway_service(&service, |_| true).kind;
            assert!(matches!(planned, PlannedKind::Http { identity, .. } if identity == form));
        }
    }

    #[test]
    fn an_https_target_is_verified_under_the_name_it_is_dialled_by() {
        let mut service = sample::http_service(0, 1);
        let ServiceKind::Http { routes, .. } = &mut service.kind else {
            panic!("it is HTTP")
        };
        routes[0].pool.targets[0].scheme = TargetScheme::Tls {
            server_name: None,
            roots: Vec::new(),
        };
        let PlannedKind::Http { routes, .. } = gateway_service(&service, |_| true).kind else {
            panic!("it is HTTP");
        };
        let name = |target: usize| {
            routes[0].pool.targets[target]
                .server_name
                .as_ref()
                .map(Hostname::as_str)
        };
        assert_eq!(
            (name(0), name(1), name(2)),
            (Some("backend.internal"), Some("backend"), None)
        );
        assert!(encoded_len(&service).unwrap() > 100);
    }
}
