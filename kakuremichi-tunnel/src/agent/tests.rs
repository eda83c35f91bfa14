//! An agent against a shard that plays the gateway, over loopback.

#![expect(clippy::disallowed_methods, reason = "tests wait for sockets, within a time")]

mod declare;
mod flows;
mod gate;
mod health;
mod life;
mod sessions;

use std::{future::Future, net::Ipv6Addr, path::Path, time::Duration};

use kakuremichi_core::{
    id::{AgentId, GatewayId, OrganizationId, ServiceId, TargetId},
    key::{IdentityKey, WireGuardKey},
    model::{HealthCheck, TargetAddress, Transport, VirtualPort},
    plan::{AgentGateway, AgentNode, AgentPlan, AgentRecord, AgentService, AgentTarget, Plan, Revision},
};
use tokio::time::timeout;

use self::gate::Gate;
use super::Agent;
use crate::{
    link::FixedPlan,
    state::StateDir,
    status::{AgentEvent, Events},
};

const LIMIT: Duration = Duration::from_secs(20);
const AGENT: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// Nothing takes longer.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap()
}

/// The first event that is wanted.
async fn find<T>(events: &mut Events, mut wanted: impl FnMut(AgentEvent) -> Option<T>) -> T {
    soon(async {
        loop {
            let event = events.next().await.unwrap();
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    })
    .await
}

fn service_id(number: u8) -> ServiceId {
    ServiceId::from_bytes([number; 16])
}

fn target_id(number: u8) -> TargetId {
    TargetId::from_bytes([number; 16])
}

fn port(number: u8) -> u16 {
    2000 + u16::from(number)
}

/// A service of the plan with one target; its number tells everything about it.
#[derive(Clone)]
struct Planned {
    number: u8,
    host: Option<&'static str>,
    transport: Transport,
    address: TargetAddress,
    health: Option<HealthCheck>,
}

impl Planned {
    fn http(number: u8, host: &'static str) -> Self {
        Self {
            number,
            host: Some(host),
            transport: Transport::Tcp,
            address: TargetAddress::InProcess,
            health: None,
        }
    }

    fn tcp(number: u8, address: TargetAddress) -> Self {
        Self {
            number,
            host: None,
            transport: Transport::Tcp,
            address,
            health: None,
        }
    }

    fn udp(number: u8, address: TargetAddress) -> Self {
        Self {
            transport: Transport::Udp,
            ..Self::tcp(number, address)
        }
    }

    fn record(&self) -> AgentRecord {
        AgentRecord::Service(AgentService {
            id: service_id(self.number),
            name: format!("service-{}", self.number).parse().unwrap(),
            transport: self.transport,
            hosts: self.host.iter().map(|host| host.parse().unwrap()).collect(),
            port: self.host.is_none().then_some(u16::from(self.number)),
            urls: self
                .host
                .iter()
                .map(|host| format!("https://{host}:8443/"))
                .collect(),
            targets: vec![AgentTarget {
                id: target_id(self.number),
                port: VirtualPort::new(port(self.number)).unwrap(),
                address: self.address.clone(),
                tls: false,
                health: self.health.clone(),
            }],
        })
    }
}

fn gateway_id() -> GatewayId {
    GatewayId::from_bytes([2; 16])
}

fn plan(revision: u64, gateway: WireGuardKey, endpoints: &[&str], services: &[Planned]) -> AgentPlan {
    let node = AgentNode {
        id: AgentId::from_bytes([5; 16]),
        organization: OrganizationId::from_bytes([1; 16]),
        name: "edge".parse().unwrap(),
        address: AGENT,
    };
    let gateway = AgentGateway {
        id: gateway_id(),
        name: "gate".parse().unwrap(),
        identity: IdentityKey::from_bytes([2; 32]),
        wireguard: gateway,
        address: GATEWAY,
        endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
        streams: Vec::new(),
    };
    let services = services.iter().map(Planned::record);
    Plan::new(
        Revision(revision),
        [AgentRecord::Node(node), AgentRecord::Gateway(gateway)]
            .into_iter()
            .chain(services),
    )
}

/// An agent with a fixed plan, and its gateway, when the lane is up.
async fn pair(state: &Path, services: &[Planned]) -> (Agent, Gate) {
    let state = StateDir::open(state).unwrap();
    let gate = Gate::start(&state.keys().unwrap());
    let plan = plan(1, gate.key(), &[&gate.endpoint()], services);
    let agent = Agent::with_source(FixedPlan::new(plan))
        .state(state)
        .spawn()
        .await
        .unwrap();
    soon(agent.online()).await;
    soon(gate.online()).await;
    (agent, gate)
}
