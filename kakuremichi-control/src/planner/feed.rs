//! Reads the store's changes and keeps everybody's plan up to date.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kakuremichi_core::{
    id::{OrganizationId, UserId},
    model::{Group, Member, Node, Service, ServiceToken, Site, User, UserRole},
    net::Overlay,
    plan::{GatewaySignIn, Revision},
    policy::SharedPolicy,
    store::{Change, Entity, RecordId, Sequence, Store, StoreRecord, Stored},
};
use tokio::{sync::watch, task::yield_now, time::timeout};

use super::{PlanBoard, plans::Plans};
use crate::service::{TicketKeys, UseCaseError, UseCases, now};

/// How long a change of another process (the command line) may go unnoticed where the store hears of none.
const POLL: Duration = Duration::from_secs(2);
/// The pause after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// Runs for ever. `ready` turns true when each node's plan is on the board.
pub(crate) async fn run(use_cases: UseCases, board: Arc<PlanBoard>, ready: watch::Sender<bool>) {
    let mut commits = use_cases.commits();
    let mut feed = loop {
        match Feed::load(&use_cases).await {
            Ok(feed) => break feed,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot read the model");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    feed.publish(&use_cases, &board).await;
    ready.send_replace(true);
    loop {
        match feed.turn_keys(&use_cases) {
            Ok(true) => feed.publish(&use_cases, &board).await,
            Ok(false) => {}
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "there are no keys of tickets"
            ),
        }
        match feed.follow(use_cases.store()).await {
            Ok(true) => feed.publish(&use_cases, &board).await,
            Ok(false) => {
                // In each case it is time to look: somebody wrote here, or elsewhere, or perhaps did.
                tokio::select! {
                    _ = timeout(POLL, commits.changed()) => {}
                    () = use_cases.store().wake(feed.sequence) => {}
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot read the changes of the model"
                );
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

struct Feed {
    overlay: Overlay,
    organizations: BTreeMap<OrganizationId, Plans>,
    /// How far the change feed was read. It is the revision of what is planned next: the feed goes on after
    /// a restart, so revisions never go back.
    sequence: Sequence,
    /// Of the keys of tickets.
    generation: u64,
    sign_in: GatewaySignIn,
}

impl Feed {
    async fn load(use_cases: &UseCases) -> Result<Self, UseCaseError> {
        let overlay = use_cases.start().await?.overlay;
        // Before the records: what changes while they are read is read again.
        let sequence = use_cases.mark_start().await?;
        let mut feed = Self {
            overlay,
            organizations: BTreeMap::new(),
            sequence,
            generation: TicketKeys::generation(now()),
            sign_in: use_cases.gateway_sign_in()?,
        };
        feed.load_all::<Node>(use_cases.store()).await?;
        feed.load_all::<Site>(use_cases.store()).await?;
        feed.load_all::<Service>(use_cases.store()).await?;
        feed.load_all::<SharedPolicy>(use_cases.store()).await?;
        feed.load_all::<ServiceToken>(use_cases.store()).await?;
        feed.load_all::<UserRole>(use_cases.store()).await?;
        feed.load_all::<Group>(use_cases.store()).await?;
        feed.load_people(use_cases.store()).await?;
        Ok(feed)
    }

    /// Reads members, and users for each organization that they are in.
    async fn load_people(&mut self, store: &dyn Store) -> Result<(), UseCaseError> {
        let mut joined: BTreeMap<UserId, Vec<OrganizationId>> = BTreeMap::new();
        for Stored { value: member, .. } in store.all::<Member>(None).await? {
            joined.entry(member.user).or_default().push(member.organization);
            self.plans(member.organization)
                .set(member.id.into(), Some(member.into()));
        }
        for Stored { value: user, .. } in store.all::<User>(None).await? {
            for organization in joined.remove(&user.id).unwrap_or_default() {
                self.plans(organization)
                    .set(user.id.into(), Some(user.clone().into()));
            }
        }
        Ok(())
    }

    /// Tells gateways of the keys of tickets, if those are others than before.
    fn turn_keys(&mut self, use_cases: &UseCases) -> Result<bool, UseCaseError> {
        let generation = TicketKeys::generation(now());
        if generation == self.generation {
            return Ok(false);
        }
        self.sign_in = use_cases.gateway_sign_in()?;
        self.generation = generation;
        for plans in self.organizations.values_mut() {
            plans.set_sign_in(&self.sign_in);
        }
        Ok(true)
    }

    async fn load_all<E: Entity>(&mut self, store: &dyn Store) -> Result<(), UseCaseError> {
        for stored in store.all::<E>(None).await? {
            let record: StoreRecord = stored.value.into();
            if let Some(organization) = record.organization() {
                self.plans(organization).set(record.id(), Some(record));
            }
        }
        Ok(())
    }

    /// Reads a part of the feed. Returns whether there was any.
    async fn follow(&mut self, store: &dyn Store) -> Result<bool, UseCaseError> {
        let changes = store.changes(self.sequence).await?;
        let Some(last) = changes.last().map(|change| change.sequence) else {
            return Ok(false);
        };
        for Change {
            record, organization, ..
        } in changes
        {
            let touches = organization.is_some() || matches!(record, RecordId::User(_));
            if !touches {
                continue;
            }
            // As it is now, which may be newer than the change: then its own change follows, and changes
            // nothing.
            let now = store.get(record).await?.map(|stored| stored.value);
            match (organization, record) {
                (Some(organization), _) => {
                    if let Some(StoreRecord::Member(member)) = &now {
                        // Whoever joins may have been a user for long.
                        let user = store.get(member.user.into()).await?.map(|stored| stored.value);
                        self.plans(organization).set(member.user.into(), user);
                    }
                    self.plans(organization).set(record, now);
                }
                (None, RecordId::User(user)) => {
                    let joined = self.organizations.values_mut();
                    for plans in joined.filter(|plans| plans.has_member(user)) {
                        plans.set(record, now.clone());
                    }
                }
                (None, _) => {}
            }
        }
        self.sequence = last;
        Ok(true)
    }

    async fn publish(&mut self, use_cases: &UseCases, board: &PlanBoard) {
        let revision = Revision(self.sequence.0);
        for (organization, plans) in &mut self.organizations {
            if !plans.is_touched() {
                continue;
            }
            for node in plans.stale() {
                board.publish_keys(node, plans.keys(node));
                if let Some(planned) = plans.replan(node, revision) {
                    board.publish(node, planned);
                }
                // A change may concern ten thousand nodes. Others have something to do on this thread, too.
                yield_now().await;
            }
            use_cases.planned(*organization, plans.largest(), plans.https_ports().clone());
        }
    }

    fn plans(&mut self, organization: OrganizationId) -> &mut Plans {
        self.organizations.entry(organization).or_insert_with(|| {
            let mut plans = Plans::new(organization, self.overlay);
            plans.set_sign_in(&self.sign_in);
            plans
        })
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{
        id::NodeId,
        key::{IdentityKey, WireGuardKey},
        model::{DeclareScope, Role},
        store::MemoryStore,
    };
    use kakuremichi_proto::{identity::TokenText, session::EnrolRequest};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::{
        planner::Planned,
        service::{TokenDraft, UseCases},
    };

    fn start(store: &Arc<dyn Store>) -> (UseCases, Arc<PlanBoard>, JoinHandle<()>) {
        let use_cases = UseCases::new(crate::service::Wiring::tests(Arc::clone(store)));
        let board = Arc::new(PlanBoard::default());
        let task = tokio::spawn(run(
            use_cases.clone(),
            Arc::clone(&board),
            watch::Sender::new(false),
        ));
        (use_cases, board, task)
    }

    async fn enrol(use_cases: &UseCases, role: Role, n: u8) -> NodeId {
        let actor = use_cases.control().await.unwrap();
        let draft = TokenDraft {
            name: "test".parse().unwrap(),
            role,
            uses: None,
            expires: None,
            declare: DeclareScope::default(),
            approval: false,
            labels: Default::default(),
        };
        let made = use_cases.create_token(&actor, draft).await.unwrap();
        let token: TokenText = made.text.expose().parse().unwrap();
        let request = EnrolRequest {
            secret_hash: token.secret_hash(),
            role,
            name: "node".parse().unwrap(),
            identity: IdentityKey::from_bytes([n; 32]),
            wireguard: WireGuardKey::from_bytes([n; 32]),
        };
        use_cases.enrol(&request).await.unwrap().id
    }

    /// Waits until the plan of `node` has so many records. A gateway has one of itself, one of its signing keys and one of
    /// where visitors sign in.
    async fn plan(board: &PlanBoard, node: NodeId, records: usize) -> (Revision, [u8; 32]) {
        let mut plans = board.subscribe(node);
        let planned = plans
            .wait_for(|planned| matches!(planned, Planned::Plan(plan) if plan.records().len() == records));
        match &*planned.await.unwrap() {
            Planned::Plan(plan) => (plan.revision(), plan.hash().0),
            other => panic!("a plan was expected, not {other:?}"),
        }
    }

    /// LESSONS: "in-memory version counter": revisions go on after a restart.
    #[tokio::test]
    async fn plans_follow_the_model_and_revisions_never_go_back() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let (use_cases, board, task) = start(&store);
        let gateway = enrol(&use_cases, Role::Gateway, 1).await;
        let (first, _) = plan(&board, gateway, 3).await;
        let agent = enrol(&use_cases, Role::Agent, 2).await;
        let (second, hash) = plan(&board, gateway, 4).await;
        assert!(second > first);
        plan(&board, agent, 2).await;
        task.abort();

        let (use_cases, board, task) = start(&store);
        let (third, same) = plan(&board, gateway, 4).await;
        assert!(third >= second && same == hash, "nothing has changed");
        // Another process writes to the same store: it is noticed too, a little later.
        let (other, ..) = start(&store);
        enrol(&other, Role::Agent, 3).await;
        assert!(plan(&board, gateway, 5).await.0 > third);
        let actor = use_cases.control().await.unwrap();
        use_cases.revoke_node(&actor, agent).await.unwrap();
        plan(&board, gateway, 4).await;
        let mut gone = board.subscribe(agent);
        gone.wait_for(|planned| matches!(planned, Planned::Revoked))
            .await
            .unwrap();
        // Once it is told, the board forgets the node.
        let mut gone = board.subscribe(gateway);
        use_cases.delete_node(&actor, gateway, None).await.unwrap();
        gone.wait_for(|planned| matches!(planned, Planned::Deleted))
            .await
            .unwrap();
        task.abort();
    }
}
