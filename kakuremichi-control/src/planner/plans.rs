//! The plans of one organization's nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use kakuremichi_core::{
    id::{AgentId, GatewayId, NodeId},
    net::Overlay,
    plan::{AgentRecord, GatewayKey, GatewayRecord, Revision},
    store::{RecordId, StoreRecord},
};
use kakuremichi_proto::plan::{Change, PlanBuilder, PlanError, PlanRecord, WirePlan, WireRecord};

use super::{Landscape, Planned, Touched};

/// The plans of one organization's nodes, and what they are made of.
#[derive(Debug)]
pub(super) struct Plans {
    landscape: Landscape,
    /// What every gateway has: peers and services. Each record is encoded once.
    common: BTreeMap<GatewayKey, Arc<WireRecord>>,
    /// What every agent has.
    gateways: BTreeMap<GatewayId, Arc<WireRecord>>,
    /// What every other gateway has.
    siblings: BTreeMap<GatewayId, Arc<WireRecord>>,
    plans: BTreeMap<NodeId, Arc<WirePlan>>,
    touched: Touched,
}

impl Plans {
    pub(super) fn new(overlay: Overlay) -> Self {
        Self {
            landscape: Landscape::new(overlay),
            common: BTreeMap::new(),
            gateways: BTreeMap::new(),
            siblings: BTreeMap::new(),
            plans: BTreeMap::new(),
            touched: Touched::default(),
        }
    }

    /// Takes a record as it is now; plans differ only after [`refresh`](Self::refresh).
    pub(super) fn set(&mut self, id: RecordId, record: Option<StoreRecord>) {
        self.landscape.set(id, record, &mut self.touched);
    }

    /// Makes anew the plans that what was set can make different. Returns those that are, and the nodes that
    /// have none any more.
    pub(super) fn refresh(&mut self, revision: Revision) -> Vec<(NodeId, Planned)> {
        let touched = std::mem::take(&mut self.touched);
        for peer in &touched.peers {
            let record = self.landscape.peer(*peer).map(GatewayRecord::Peer);
            self.set_common(GatewayKey::Peer(*peer), record);
        }
        for service in &touched.services {
            let record = self
                .landscape
                .gateway_service(*service)
                .map(GatewayRecord::Service);
            self.set_common(GatewayKey::Service(*service), record);
        }
        for policy in &touched.policies {
            let record = self.landscape.gateway_policy(*policy).map(GatewayRecord::Policy);
            self.set_common(GatewayKey::Policy(*policy), record);
        }
        for gateway in &touched.gateways {
            let record = self.landscape.agent_gateway(*gateway).map(AgentRecord::Gateway);
            match record.as_ref().and_then(encode) {
                Some(record) => self.gateways.insert(*gateway, record),
                None => self.gateways.remove(gateway),
            };
            let record = self
                .landscape
                .gateway_sibling(*gateway)
                .map(GatewayRecord::Sibling);
            match record.as_ref().and_then(encode) {
                Some(record) => self.siblings.insert(*gateway, record),
                None => self.siblings.remove(gateway),
            };
        }
        let (mut gateways, mut agents) = (touched.gateways, touched.agents);
        if !gateways.is_empty() {
            agents.extend(self.landscape.agents());
        }
        // A gateway is in the plan of every other one, too.
        let common =
            !touched.peers.is_empty() || !touched.services.is_empty() || !touched.policies.is_empty();
        if !gateways.is_empty() || common {
            gateways.extend(self.landscape.gateways());
        }
        self.republish(&gateways, &agents, revision)
    }

    fn republish(
        &mut self,
        gateways: &BTreeSet<GatewayId>,
        agents: &BTreeSet<AgentId>,
        revision: Revision,
    ) -> Vec<(NodeId, Planned)> {
        let mut changed = Vec::new();
        for id in gateways {
            let plan = self.gateway_plan(*id, revision);
            self.publish((*id).into(), plan, &mut changed);
        }
        for id in agents {
            let plan = self.agent_plan(*id, revision);
            self.publish((*id).into(), plan, &mut changed);
        }
        changed
    }

    fn gateway_plan(&self, id: GatewayId, revision: Revision) -> Option<WirePlan> {
        let own = GatewayRecord::Node(self.landscape.gateway_node(id)?);
        let siblings = self.siblings.iter().filter(|(sibling, _)| **sibling != id);
        let records = encode(&own)
            .into_iter()
            .chain(siblings.map(|(_, record)| Arc::clone(record)))
            .chain(self.common.values().cloned());
        Some(self.build(id.into(), records, revision))
    }

    fn agent_plan(&self, id: AgentId, revision: Revision) -> Option<WirePlan> {
        let own = AgentRecord::Node(self.landscape.agent_node(id)?);
        let services = self.landscape.users_of(id.into());
        let services = services.filter_map(|service| self.landscape.agent_service(id, service));
        let services = services.filter_map(|service| encode(&AgentRecord::Service(service)));
        let records = encode(&own)
            .into_iter()
            .chain(self.gateways.values().cloned())
            .chain(services);
        Some(self.build(id.into(), records, revision))
    }

    /// The bytes of the largest plan.
    pub(super) fn largest(&self) -> usize {
        self.plans
            .values()
            .map(|plan| plan.size())
            .max()
            .unwrap_or_default()
    }

    /// Whether anything was set since the last refresh.
    pub(super) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// A plan of these records. When they are more than a plan can have, the newest services are left out: what
    /// was denied, revoked or deleted is always told.
    fn build(
        &self,
        node: NodeId,
        records: impl Iterator<Item = Arc<WireRecord>>,
        revision: Revision,
    ) -> WirePlan {
        let mut records: Vec<_> = records.collect();
        if let Ok(whole) = build(&records, revision) {
            return whole;
        }
        let age = |record: &Arc<WireRecord>| {
            let service = record.service().and_then(|id| self.landscape.services.get(&id));
            service.map(|service| (service.created, service.id))
        };
        // What is no service comes first.
        records.sort_by_cached_key(age);
        let mut builder = PlanBuilder::default();
        let mut left = records.len();
        for record in records {
            if let Err(error) = builder.apply(Change::Put(record)) {
                tracing::error!(%node, %error, left, "a plan is full: the newest services are left out of it");
                break;
            }
            left -= 1;
        }
        builder.finish(revision)
    }

    fn publish(&mut self, id: NodeId, plan: Option<WirePlan>, changed: &mut Vec<(NodeId, Planned)>) {
        match plan {
            Some(plan) => {
                if self.plans.get(&id).is_some_and(|old| old.hash() == plan.hash()) {
                    return;
                }
                let plan = Arc::new(plan);
                self.plans.insert(id, Arc::clone(&plan));
                changed.push((id, Planned::Plan(plan)));
            }
            None => {
                self.plans.remove(&id);
                let gone = match self.landscape.nodes.get(&id) {
                    Some(_) => Planned::Revoked,
                    None => Planned::Deleted,
                };
                changed.push((id, gone));
            }
        }
    }

    fn set_common(&mut self, key: GatewayKey, record: Option<GatewayRecord>) {
        match record.as_ref().and_then(encode) {
            Some(record) => self.common.insert(key, record),
            None => self.common.remove(&key),
        };
    }
}

/// What cannot be encoded is left out and reported; use cases do not let it come so far.
fn encode<R: PlanRecord + fmt::Debug>(record: &R) -> Option<Arc<WireRecord>> {
    match record.to_wire() {
        Ok(wire) => Some(Arc::new(wire)),
        Err(error) => {
            tracing::error!(key = ?record.key(), %error, "a record of a plan cannot be sent");
            None
        }
    }
}

fn build(records: &[Arc<WireRecord>], revision: Revision) -> Result<WirePlan, PlanError> {
    let mut builder = PlanBuilder::default();
    for record in records {
        builder.apply(Change::Put(Arc::clone(record)))?;
    }
    Ok(builder.finish(revision))
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{
        plan::{AgentPlan, GatewayPlan},
        store::conformance::sample,
    };

    use super::*;

    fn plans(records: impl IntoIterator<Item = StoreRecord>) -> (Plans, BTreeMap<NodeId, Planned>) {
        let mut plans = Plans::new(Overlay::from_global_id([1; 5]));
        for record in records {
            plans.set(record.id(), Some(record));
        }
        let changed = plans.refresh(Revision(7)).into_iter().collect();
        (plans, changed)
    }

    fn gateway(n: u8) -> kakuremichi_core::model::Node {
        kakuremichi_core::model::Node {
            revoked: None,
            ..sample::gateway(0, n)
        }
    }

    /// DESIGN, invariant 4: every gateway of an organization can serve each of its services, and an agent
    /// holds lanes to all its gateways.
    #[test]
    fn every_gateway_has_everything_and_agents_have_every_gateway() {
        let (one, two) = (gateway(1), gateway(2));
        let (agent, idle) = (sample::agent(0, 1), sample::agent(0, 2));
        let service = sample::http_service(0, 1);
        let (_, changed) = plans([
            one.clone().into(),
            two.clone().into(),
            agent.clone().into(),
            idle.clone().into(),
            sample::site(0, 3).into(),
            service.clone().into(),
        ]);
        for id in [one.id, two.id] {
            let Planned::Plan(wire) = &changed[&id] else {
                panic!("it has a plan")
            };
            let decoded = wire.to_plan::<GatewayRecord>(id).unwrap();
            assert_eq!(decoded.rejected, []);
            let plan: GatewayPlan = decoded.plan;
            assert_eq!((plan.revision(), plan.peers().count()), (Revision(7), 3));
            let other = if id == one.id { &two } else { &one };
            let siblings: Vec<_> = plan.siblings().map(|sibling| NodeId::from(sibling.id)).collect();
            assert_eq!(siblings, [other.id], "each other one, and not itself");
            assert_eq!(
                plan.services().map(|service| service.id).collect::<Vec<_>>(),
                [service.id]
            );
        }
        let services = |id: NodeId| {
            let Planned::Plan(wire) = &changed[&id] else {
                panic!("it has a plan")
            };
            let plan: AgentPlan = wire.to_plan::<AgentRecord>(id).unwrap().plan;
            assert_eq!(plan.gateways().count(), 2);
            plan.services()
                .map(|service| service.targets.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(services(agent.id), [4]);
        assert!(services(idle.id).is_empty());
    }

    /// A service whose record has half a MiB, made at `n`.
    fn heavy(n: u8) -> kakuremichi_core::model::Service {
        use kakuremichi_core::model::{ServiceKind, TargetScheme};
        let mut service = sample::http_service(0, n);
        service.created = kakuremichi_core::time::Timestamp::from_millis(n.into());
        if let ServiceKind::Http { routes, .. } = &mut service.kind {
            routes[0].pool.targets[0].scheme = TargetScheme::Tls {
                server_name: Some("backend".parse().unwrap()),
                roots: vec![vec![n; 500 * 1024]],
            };
        }
        service
    }

    #[test]
    fn a_full_plan_leaves_out_the_newest_services_and_tells_every_removal() {
        const MANY: u8 = 140;
        let gateway = gateway(1);
        let agents = (1..=MANY).map(|n| sample::agent(0, n).into());
        let records = (1..=MANY).map(|n| heavy(n).into()).chain(agents);
        let (mut plans, changed) = plans(records.chain([gateway.clone().into()]));
        let told = |planned: &Planned| {
            let Planned::Plan(wire) = planned else {
                panic!("it has a plan")
            };
            assert!(wire.size() <= kakuremichi_proto::plan::MAX_PLAN_BYTES);
            let plan: GatewayPlan = wire.to_plan::<GatewayRecord>(gateway.id).unwrap().plan;
            plan.services().map(|service| service.id).collect::<BTreeSet<_>>()
        };
        let first = told(&changed[&gateway.id]);
        assert!(first.contains(&heavy(1).id) && !first.contains(&heavy(MANY).id));
        assert!(first.len() > 100);
        // One goes: that is told, and makes room for the next.
        plans.set(heavy(1).id.into(), None);
        let (_, changed) = plans.refresh(Revision(8)).into_iter().next().unwrap();
        let then = told(&changed);
        assert!(!then.contains(&heavy(1).id));
        assert_eq!(then.len(), first.len());
        assert!(plans.largest() > crate::service::MAX_PLANNED_BYTES);
    }

    /// A policy that many services share is told once, and only while it is attached to one.
    #[test]
    fn a_shared_policy_is_one_record() {
        let gateway = gateway(1);
        let policy = sample::shared_policy(0, 7);
        let guarded = |n: u8| {
            let mut service = sample::tcp_service(0, n);
            service.policies = vec![policy.id];
            service
        };
        let records = (1..=3).map(|n| guarded(n).into());
        let (mut plans, changed) = plans(records.chain([gateway.clone().into(), policy.clone().into()]));
        let Planned::Plan(before) = changed[&gateway.id].clone() else {
            panic!("it has a plan")
        };
        let policies = |plan: &WirePlan| {
            let plan: GatewayPlan = plan.to_plan::<GatewayRecord>(gateway.id).unwrap().plan;
            assert!(plan.services().all(|service| service.policies == [policy.id]));
            plan.policies()
                .map(|policy| policy.rules.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(policies(&before), [policy.rules.len()]);

        let mut shorter = policy.clone();
        shorter.rules.truncate(1);
        plans.set(policy.id.into(), Some(shorter.into()));
        let changed = plans.refresh(Revision(8));
        let [(_, Planned::Plan(after))] = changed.as_slice() else {
            panic!("only the gateway's plan differs")
        };
        assert_eq!(policies(after), [1]);
        assert_eq!(before.changes_to(after).len(), 1);

        for n in 1..=3 {
            plans.set(guarded(n).id.into(), None);
        }
        let changed = plans.refresh(Revision(9));
        let last = changed.iter().find_map(|(id, planned)| match planned {
            Planned::Plan(plan) if *id == gateway.id => Some(plan),
            _ => None,
        });
        assert!(policies(last.unwrap()).is_empty());
    }

    #[test]
    fn a_change_makes_only_the_plans_that_differ() {
        let (agent, idle, gateway) = (sample::agent(0, 1), sample::agent(0, 2), gateway(1));
        let service = sample::http_service(0, 1);
        let (mut plans, _) = plans([
            gateway.clone().into(),
            agent.clone().into(),
            idle.clone().into(),
            service.clone().into(),
        ]);
        // Nothing differs when nothing changed, or only what no plan tells.
        plans.set(agent.id.into(), Some(agent.clone().into()));
        assert!(plans.refresh(Revision(8)).is_empty());

        let mut public = service.clone();
        public.policy = kakuremichi_core::policy::Policy::public();
        plans.set(service.id.into(), Some(public.into()));
        let changed = plans.refresh(Revision(9));
        assert_eq!(
            changed.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [gateway.id]
        );

        plans.set(service.id.into(), None);
        let changed = plans.refresh(Revision(10));
        assert_eq!(
            changed.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [gateway.id, agent.id]
        );

        let mut revoked = idle.clone();
        revoked.revoked = Some(sample::NOW);
        plans.set(idle.id.into(), Some(revoked.into()));
        let changed = plans.refresh(Revision(11));
        assert!(
            matches!(changed.as_slice(), [(a, Planned::Plan(_)), (b, Planned::Revoked)]
            if *a == gateway.id && *b == idle.id)
        );
        plans.set(gateway.id.into(), None);
        let changed = plans.refresh(Revision(12));
        assert!(
            changed
                .iter()
                .any(|(id, planned)| *id == gateway.id && matches!(planned, Planned::Deleted))
        );
        assert!(
            changed
                .iter()
                .any(|(id, planned)| *id == agent.id && matches!(planned, Planned::Plan(_)))
        );
    }
}
