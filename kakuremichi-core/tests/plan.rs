//! Properties of plans: a difference always leads where it says.

#![expect(clippy::unwrap_used, reason = "what is unwrapped here is constant")]

use kakuremichi_core::{
    id::{AgentId, OrganizationId, ServiceId},
    model::Transport,
    plan::{AgentNode, AgentPlan, AgentRecord, AgentService, Revision},
};
use proptest::prelude::*;

fn plan(revision: u64) -> impl Strategy<Value = AgentPlan> {
    let service = (0u8..6, "[a-c]").prop_map(|(id, name)| {
        AgentRecord::Service(AgentService {
            id: ServiceId::from_bytes([id; 16]),
            name: name.as_str().parse().unwrap(),
            transport: Transport::Tcp,
            hosts: Vec::new(),
            port: Some(80),
            urls: Vec::new(),
            targets: Vec::new(),
        })
    });
    let node = any::<bool>().prop_map(|other| {
        AgentRecord::Node(AgentNode {
            id: AgentId::from_bytes([1; 16]),
            organization: OrganizationId::from_bytes([2; 16]),
            name: if other { "other" } else { "one" }.parse().unwrap(),
            address: std::net::Ipv6Addr::LOCALHOST,
        })
    });
    (
        proptest::option::of(node),
        proptest::collection::vec(service, 0..6),
    )
        .prop_map(move |(node, services)| {
            AgentPlan::new(Revision(revision), node.into_iter().chain(services))
        })
}

proptest! {
    #[test]
    fn a_delta_leads_to_the_newer_plan(mut old in plan(1), new in plan(2)) {
        let delta = old.diff(&new);
        prop_assert_eq!(delta.upserts.is_empty() && delta.removals.is_empty(), old.same_records(&new));
        old.apply(delta).unwrap();
        prop_assert_eq!(old, new);
    }

    #[test]
    fn a_delta_from_elsewhere_changes_nothing(old in plan(1), new in plan(2), other in plan(3)) {
        let mut third = other.clone();
        prop_assert!(third.apply(old.diff(&new)).is_err());
        prop_assert_eq!(third, other);
    }
}
