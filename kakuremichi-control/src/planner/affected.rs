//! Whose plan a change can touch.

use kakuremichi_core::{
    id::{AgentId, NodeId},
    model::{Service, TargetPlace},
    store::{RecordId, StoreRecord},
};

/// The nodes of an organization whose plans can differ after a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Affects {
    /// Every gateway of the organization.
    pub gateways: bool,
    /// Every agent of the organization.
    pub all_agents: bool,
    /// These agents.
    pub agents: Vec<AgentId>,
}

impl Affects {
    /// What a change of `record` touches, given the record before and after it (`None`: not there).
    #[must_use]
    pub fn by(record: RecordId, before: Option<&StoreRecord>, after: Option<&StoreRecord>) -> Self {
        match record {
            // A gateway is in every agent's plan, and its port is in every URL.
            RecordId::Node(NodeId::Gateway(_)) => Self {
                gateways: true,
                all_agents: true,
                agents: Vec::new(),
            },
            // Only what gateways and the agent itself are told of an agent: not its port counter.
            RecordId::Node(NodeId::Agent(id)) => Self {
                gateways: !same_peer(before, after),
                all_agents: false,
                agents: vec![id],
            },
            RecordId::Site(_) => Self {
                gateways: true,
                ..Self::default()
            },
            RecordId::Service(_) => Self {
                gateways: true,
                all_agents: false,
                agents: [before, after]
                    .into_iter()
                    .flatten()
                    .flat_map(agents_of)
                    .collect(),
            },
            RecordId::Organization(_) | RecordId::Token(_) | RecordId::ApiKey(_) => Self::default(),
        }
    }

    /// Whether no plan differs.
    #[must_use]
    pub const fn nobody(&self) -> bool {
        !self.gateways && !self.all_agents && self.agents.is_empty()
    }

    /// Whether the plan of `node` can differ.
    #[must_use]
    pub fn includes(&self, node: NodeId) -> bool {
        match node {
            NodeId::Gateway(_) => self.gateways,
            NodeId::Agent(id) => self.all_agents || self.agents.contains(&id),
        }
    }

    /// Adds what another change touches.
    pub fn merge(&mut self, other: Self) {
        self.gateways |= other.gateways;
        self.all_agents |= other.all_agents;
        for agent in other.agents {
            if !self.agents.contains(&agent) {
                self.agents.push(agent);
            }
        }
    }
}

fn same_peer(before: Option<&StoreRecord>, after: Option<&StoreRecord>) -> bool {
    match (before, after) {
        (Some(StoreRecord::Node(before)), Some(StoreRecord::Node(after))) => {
            before.name == after.name
                && before.wireguard == after.wireguard
                && before.is_active() == after.is_active()
        }
        _ => false,
    }
}

fn agents_of(record: &StoreRecord) -> Vec<AgentId> {
    let StoreRecord::Service(service) = record else {
        return Vec::new();
    };
    let by_target = Service::targets(service).filter_map(|target| match &target.place {
        TargetPlace::Agent { agent, .. } => Some(*agent),
        TargetPlace::Site { .. } => None,
    });
    by_target.chain(service.lifetime.declared_by()).collect()
}
