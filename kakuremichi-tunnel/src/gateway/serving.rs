//! What everything that serves visitors on one shard shares.

use std::{
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use kakuremichi_core::plan::{GatewayPlan, PlannedTarget};
use kakuremichi_proto::preface::ConnectionId;

use super::{
    access::AccessControl,
    balance::{self, Reach, Unavailable},
    draining::Draining,
    flows::OpenFlows,
    health::SharedHealth,
    http::TargetTls,
    metrics::Counters,
    per_address::PerAddress,
    settings::{Limits, Timeouts},
    sign_in::SignInDesk,
    table::{Pool, RouteTable},
    upstream::Upstream,
    usage::UsageBook,
};

/// How often what is open is decided about anew where that depends on the time: so much longer than a rule
/// allows it, a flow can last.
const TIME_PASSES: Duration = Duration::from_secs(15);

/// What the visitors of one shard are served from. Only what is open there is the shard's own.
#[derive(Debug)]
pub(crate) struct Serving<U> {
    /// The way to targets.
    pub(crate) upstream: U,
    /// What is published; swapped whole on a new plan.
    pub(crate) table: Arc<ArcSwap<RouteTable>>,
    /// Decides about visitors.
    pub(crate) access: Arc<AccessControl>,
    /// Where visitors sign in.
    pub(crate) sign_in: Arc<SignInDesk>,
    /// How many requests each address has open.
    pub(crate) requests: Arc<PerAddress>,
    /// What is open.
    pub(crate) flows: Rc<OpenFlows>,
    /// Agents that are about to stop.
    pub(crate) draining: Rc<Draining>,
    /// What agents say about targets.
    pub(crate) health: SharedHealth,
    /// TLS to targets.
    pub(crate) target_tls: Arc<TargetTls>,
    /// Deadlines.
    pub(crate) timeouts: Timeouts,
    /// Bounds.
    pub(crate) limits: Limits,
    /// What is counted.
    pub(crate) counters: Arc<Counters>,
    /// What services used.
    pub(crate) usage: Arc<UsageBook>,
    /// Numbers connections and requests.
    pub(crate) numbers: Numbers,
}

impl<U: Upstream> Serving<U> {
    /// Publishes a new plan, to all shards, and follows it on this one.
    pub(crate) fn apply(&self, plan: &GatewayPlan) {
        let table = Arc::new(RouteTable::new(plan));
        if table.conflicts() > 0 {
            tracing::warn!(
                conflicts = table.conflicts(),
                revision = %table.revision(),
                "hosts or ports of the plan are claimed twice"
            );
        }
        self.health.write().apply(plan);
        self.table.store(table);
        self.access.plan_changed();
        self.follow();
    }

    /// Follows the plan that was published. Nothing that stays permitted is disturbed.
    pub(crate) fn follow(&self) {
        let table = self.table.load_full();
        let revoked = self.flows.decide_anew(&table);
        self.counters.revoked.add(revoked as u64);
    }

    /// Closes what is no longer permitted at its time of the week, for as long as somebody serves.
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock is looked at now and then: nothing else tells that hours are over"
    )]
    pub(crate) async fn pass_time(serving: Weak<Self>) {
        loop {
            tokio::time::sleep(TIME_PASSES).await;
            let Some(serving) = serving.upgrade() else { return };
            if serving.table.load().depends_on_time() {
                serving.follow();
            }
        }
    }

    /// The targets of a pool to be tried, in order.
    pub(crate) fn candidates(&self, pool: &Pool) -> Result<Vec<Arc<PlannedTarget>>, Unavailable> {
        let health = self.health.read();
        let state = |target: &PlannedTarget| {
            match self.upstream.reach(&target.via) {
                // What the agent last said here is old.
                Reach::Relayed => (Reach::Relayed, self.upstream.relayed_health(target)),
                _ if self.draining.has(target) => (Reach::Offline, health.of(target)),
                reach => (reach, health.of(target)),
            }
        };
        balance::order(&pool.targets, pool.next_turn(), state)
            .map(|targets| targets.into_iter().map(Arc::clone).collect())
    }
}

/// Numbers connections and requests, across all shards of a gateway.
#[derive(Debug, Clone)]
pub(crate) struct Numbers(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    run: u64,
    connections: AtomicU64,
    requests: AtomicU64,
}

impl Numbers {
    /// `run` is random: it tells what one start of the process numbered from what another did.
    pub(crate) fn new(run: u64) -> Self {
        Self(Arc::new(Counted {
            run,
            connections: AtomicU64::new(1),
            requests: AtomicU64::new(1),
        }))
    }

    /// Names a new connection.
    pub(crate) fn connection(&self) -> ConnectionId {
        let number = self.0.connections.fetch_add(1, Ordering::Relaxed);
        let name = u128::from(self.0.run) << 64 | u128::from(number);
        ConnectionId(name.to_be_bytes())
    }

    /// The identifier of a new request, for the visitor and the logs. It is not secret.
    pub(crate) fn request(&self) -> String {
        let number = self.0.requests.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}{number:08x}", self.0.run & 0xffff_ffff)
    }
}
