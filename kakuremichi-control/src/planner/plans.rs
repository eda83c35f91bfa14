//! The plans of one organization's nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use kakuremichi_core::{
    id::{AgentId, GatewayId, NodeId, OrganizationId, UserId},
    model::NodeState,
    net::Overlay,
    plan::{AgentRecord, GatewayKey, GatewayRecord, GatewaySignIn, Revision},
    store::{RecordId, StoreRecord},
};
use kakuremichi_proto::plan::{Change, PlanBuilder, PlanError, PlanRecord, WirePlan, WireRecord};

use super::{Landscape, NodeKeys, Planned, Touched};

/// The plans of one organization's nodes, and what they are made of.
#[derive(Debug)]
pub(super) struct Plans {
    organization: OrganizationId,
    landscape: Landscape,
    /// What every gateway has: peers and services. Each record is encoded once.
    common: BTreeMap<GatewayKey, Arc<WireRecord>>,
    /// What every agent has.
    gateways: BTreeMap<GatewayId, Arc<WireRecord>>,
    /// The keys that gateways had before, for every agent.
    previous: BTreeMap<GatewayId, Arc<WireRecord>>,
    /// What every other gateway has.
    siblings: BTreeMap<GatewayId, Arc<WireRecord>>,
    plans: BTreeMap<NodeId, Arc<WirePlan>>,
    /// The nodes whose plan would be past its bound, so that something was left out of it.
    partial: BTreeSet<NodeId>,
    touched: Touched,
    news: News,
    sign_in: Option<GatewaySignIn>,
    https_ports: BTreeSet<u16>,
}

impl Plans {
    pub(super) fn new(organization: OrganizationId, overlay: Overlay) -> Self {
        Self {
            organization,
            landscape: Landscape::new(overlay),
            common: BTreeMap::new(),
            gateways: BTreeMap::new(),
            previous: BTreeMap::new(),
            siblings: BTreeMap::new(),
            plans: BTreeMap::new(),
            partial: BTreeSet::new(),
            touched: Touched::default(),
            news: News::default(),
            sign_in: None,
            https_ports: BTreeSet::new(),
        }
    }

    /// Takes a record as it is now; plans differ only once they are made anew.
    pub(super) fn set(&mut self, id: RecordId, record: Option<StoreRecord>) {
        self.landscape.set(id, record, &mut self.touched);
    }

    /// Whether the user is a member of the organization.
    pub(super) fn has_member(&self, user: UserId) -> bool {
        self.landscape.people.has(user)
    }

    /// Says where visitors sign in, and whose tickets count.
    pub(super) fn set_sign_in(&mut self, sign_in: &GatewaySignIn) {
        self.sign_in = Some(sign_in.clone());
        self.touched.sign_in = true;
    }

    /// The ports at which visitors reach the HTTPS listeners of active gateways.
    pub(super) const fn https_ports(&self) -> &BTreeSet<u16> {
        &self.https_ports
    }

    /// Takes what was set into the records, and says whose plans can differ. Each of them is to be made anew
    /// with [`replan`](Self::replan).
    pub(super) fn stale(&mut self) -> Vec<NodeId> {
        let touched = std::mem::take(&mut self.touched);
        let mut news = Vec::new();
        for peer in &touched.peers {
            let record = self.landscape.peer(*peer).map(GatewayRecord::Peer);
            news.extend(put(&mut self.common, GatewayKey::Peer(*peer), record));
        }
        for service in &touched.services {
            let record = self.landscape.gateway_service(*service);
            let record = record.map(GatewayRecord::Service);
            news.extend(put(&mut self.common, GatewayKey::Service(*service), record));
        }
        for user in &touched.people {
            let record = self.landscape.people.told(*user).map(GatewayRecord::Member);
            let key = GatewayKey::Member(self.organization, *user);
            news.extend(put(&mut self.common, key, record));
        }
        for policy in &touched.policies {
            let record = self.landscape.gateway_policy(*policy).map(GatewayRecord::Policy);
            news.extend(put(&mut self.common, GatewayKey::Policy(*policy), record));
        }
        for token in &touched.service_tokens {
            let record = self.landscape.gateway_service_token(*token);
            let record = record.map(GatewayRecord::ServiceToken);
            news.extend(put(&mut self.common, GatewayKey::ServiceToken(*token), record));
        }
        if touched.sign_in {
            let record = self.sign_in.clone().map(GatewayRecord::SignIn);
            news.extend(put(&mut self.common, GatewayKey::SignIn, record));
        }
        let (mut gateways, mut agents) = (touched.gateways, touched.agents);
        let nodes = agents.iter().map(|id| NodeId::from(*id));
        for node in nodes.chain(gateways.iter().map(|id| NodeId::from(*id))) {
            let record = self
                .landscape
                .previous_keys(node)
                .map(GatewayRecord::PreviousKeys);
            news.extend(put(&mut self.common, GatewayKey::PreviousKeys(node), record));
        }
        if !gateways.is_empty() {
            self.https_ports = self.landscape.https_ports();
        }
        let (mut siblings, mut told_to_agents) = (BTreeMap::new(), false);
        for gateway in &gateways {
            let record = self.landscape.agent_gateway(*gateway).map(AgentRecord::Gateway);
            told_to_agents |= put(&mut self.gateways, *gateway, record).is_some();
            let record = self.landscape.previous_keys((*gateway).into());
            let record = record.map(AgentRecord::PreviousKeys);
            told_to_agents |= put(&mut self.previous, *gateway, record).is_some();
            let record = self.landscape.gateway_signer(*gateway).map(GatewayRecord::Signer);
            news.extend(put(&mut self.common, GatewayKey::Signer(*gateway), record));
            let record = self.landscape.gateway_sibling(*gateway);
            let change = put(&mut self.siblings, *gateway, record.map(GatewayRecord::Sibling));
            siblings.extend(change.map(|change| (*gateway, change)));
        }
        if told_to_agents {
            agents.extend(self.landscape.agents());
        }
        // A gateway is in the plan of every other one, too.
        if !news.is_empty() || !siblings.is_empty() {
            gateways.extend(self.landscape.gateways());
        }
        self.news = News {
            common: news,
            siblings,
        };
        let gateways = gateways.into_iter().map(NodeId::from);
        gateways.chain(agents.into_iter().map(NodeId::from)).collect()
    }

    /// By which keys a node speaks, as far as it takes part.
    pub(super) fn keys(&self, node: NodeId) -> NodeKeys {
        self.landscape.active(node).map(NodeKeys::of).unwrap_or_default()
    }

    /// Makes the plan of a node anew. `None` when it is as it was.
    pub(super) fn replan(&mut self, node: NodeId, revision: Revision) -> Option<Planned> {
        let made = match node {
            NodeId::Gateway(id) => self.gateway_plan(id, revision),
            NodeId::Agent(id) => self.agent_plan(id, revision),
        };
        let Some(Made { plan, whole }) = made else {
            self.plans.remove(&node);
            self.partial.remove(&node);
            return Some(match self.landscape.nodes.get(&node) {
                Some(node) if node.state() == NodeState::Pending => Planned::Pending,
                Some(_) => Planned::Revoked,
                None => Planned::Deleted,
            });
        };
        if whole {
            self.partial.remove(&node);
        } else {
            self.partial.insert(node);
        }
        if self.plans.get(&node).is_some_and(|old| old.hash() == plan.hash()) {
            return None;
        }
        let plan = Arc::new(plan);
        self.plans.insert(node, Arc::clone(&plan));
        Some(Planned::Plan(plan))
    }

    fn gateway_plan(&self, id: GatewayId, revision: Revision) -> Option<Made> {
        let own = encode(&GatewayRecord::Node(self.landscape.gateway_node(id)?));
        if let Some(plan) = self.changed(id, own.as_ref(), revision) {
            return Some(Made { plan, whole: true });
        }
        let siblings = self.siblings.iter().filter(|(sibling, _)| **sibling != id);
        let records = own
            .into_iter()
            .chain(siblings.map(|(_, record)| Arc::clone(record)))
            .chain(self.common.values().cloned());
        Some(self.build(id.into(), records, revision))
    }

    /// The plan that a gateway had, with what is new: of many records few change at a time. `None` when it had
    /// none, or only a part of it.
    fn changed(&self, id: GatewayId, own: Option<&Arc<WireRecord>>, revision: Revision) -> Option<WirePlan> {
        let had = self.plans.get(&id.into())?;
        if self.partial.contains(&id.into()) {
            return None;
        }
        let siblings = self.news.siblings.iter().filter(|(sibling, _)| **sibling != id);
        let news = self.news.common.iter().chain(siblings.map(|(_, change)| change));
        let own = own.map(|own| Change::Put(Arc::clone(own)));
        let mut builder = PlanBuilder::from_plan(had);
        news.cloned()
            .chain(own)
            .try_for_each(|change| builder.apply(change))
            .ok()?;
        Some(builder.finish(revision))
    }

    fn agent_plan(&self, id: AgentId, revision: Revision) -> Option<Made> {
        let own = AgentRecord::Node(self.landscape.agent_node(id)?);
        let services = self.landscape.users_of(id.into());
        let services = services.filter_map(|service| self.landscape.agent_service(id, service));
        let services = services.filter_map(|service| encode(&AgentRecord::Service(service)));
        let records = encode(&own)
            .into_iter()
            .chain(self.gateways.values().cloned())
            .chain(self.previous.values().cloned())
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

    /// Whether anything was set since [`stale`](Self::stale) was asked last.
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
    ) -> Made {
        let mut records: Vec<_> = records.collect();
        if let Ok(plan) = build(&records, revision) {
            return Made { plan, whole: true };
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
        Made {
            plan: builder.finish(revision),
            whole: false,
        }
    }
}

/// A plan that was made, and whether everything is in it that should be.
struct Made {
    plan: WirePlan,
    whole: bool,
}

/// What is different in the plans of gateways since they were made last.
#[derive(Debug, Default)]
struct News {
    /// For every gateway.
    common: Vec<Change>,
    /// For every gateway but this one.
    siblings: BTreeMap<GatewayId, Change>,
}

/// Puts a record where it belongs, or takes it away. Returns what that changes, if anything.
fn put<K: Ord, R: PlanRecord + fmt::Debug>(
    records: &mut BTreeMap<K, Arc<WireRecord>>,
    key: K,
    record: Option<R>,
) -> Option<Change> {
    let Some(record) = record.as_ref().and_then(encode) else {
        return records.remove(&key).map(|old| Change::Remove(old.key().clone()));
    };
    if records.get(&key).is_some_and(|old| **old == *record) {
        return None;
    }
    records.insert(key, Arc::clone(&record));
    Some(Change::Put(record))
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

    impl Plans {
        /// Makes everything anew that can differ; returns what does.
        fn refresh(&mut self, revision: Revision) -> Vec<(NodeId, Planned)> {
            let stale = self.stale();
            let planned = |node| Some((node, self.replan(node, revision)?));
            stale.into_iter().filter_map(planned).collect()
        }
    }

    fn plans(records: impl IntoIterator<Item = StoreRecord>) -> (Plans, BTreeMap<NodeId, Planned>) {
        let mut plans = Plans::new(sample::organization(0).id, Overlay::from_global_id([1; 5]));
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

    /// However a plan came about, it is the one that is made of all records at once.
    #[test]
    fn changes_lead_to_the_plan_that_a_fresh_start_makes() {
        let (one, two) = (gateway(1), gateway(2));
        let mut moved = two.clone();
        if let kakuremichi_core::model::NodeKind::Gateway { https_port, .. } = &mut moved.kind {
            *https_port += 1;
        }
        let service = sample::http_service(0, 1);
        let steps: Vec<(RecordId, Option<StoreRecord>)> = vec![
            (one.id.into(), Some(one.clone().into())),
            (service.id.into(), Some(service.clone().into())),
            (two.id.into(), Some(two.clone().into())),
            (sample::agent(0, 1).id.into(), Some(sample::agent(0, 1).into())),
            (two.id.into(), Some(moved.into())),
            (sample::site(0, 3).id.into(), Some(sample::site(0, 3).into())),
            (service.id.into(), None),
            (one.id.into(), None),
        ];
        let mut grown = Plans::new(sample::organization(0).id, Overlay::from_global_id([1; 5]));
        let mut now = BTreeMap::new();
        for (id, record) in steps {
            grown.set(id, record.clone());
            grown.refresh(Revision(8));
            now.insert(id, record);
            let (fresh, _) = plans(now.values().flatten().cloned());
            let hashes = |plans: &Plans| -> BTreeMap<_, _> {
                plans
                    .plans
                    .iter()
                    .map(|(node, plan)| (*node, plan.hash()))
                    .collect()
            };
            assert_eq!(hashes(&grown), hashes(&fresh), "after {id}");
        }
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
