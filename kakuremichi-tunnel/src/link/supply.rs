//! Where a node's plan comes from, and what goes the other way.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kakuremichi_core::{
    id::ServiceId,
    key::SigningKey,
    model::Role,
    name::Label,
    plan::{Plan, Record},
    time::Timestamp,
};
use kakuremichi_proto::{
    declare::{Declaration, DeclaredService},
    plan::PlanRecord,
    report::{Amount, Incident, NodeInfo, Refusal, Status},
    session::MAX_USAGE_SERVICES,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{LinkEnd, LinkStatus, SetupError};
use crate::{
    keys::{KeyRing, NodeKeys},
    state::StateDir,
};

/// The incidents that wait to be reported; beyond, new ones are dropped.
const INCIDENTS: usize = 64;
/// The commands that wait to be obeyed; beyond, Control's are refused.
const COMMANDS: usize = 16;
/// Those who wait for new keys; beyond, they are refused.
const ROTATIONS: usize = 4;

/// A record of a gateway's or an agent's plan. Whatever has the bounds is one.
pub trait NodeRecord: Record<Key: Send + Sync> + PlanRecord + Send + Sync + 'static {}

impl<R: Record<Key: Send + Sync> + PlanRecord + Send + Sync + 'static> NodeRecord for R {}

/// What a source runs until it ends for good. Dropping it ends it at once.
pub type SourceFuture = Pin<Box<dyn Future<Output = LinkEnd> + Send>>;

/// Where the plan of a node comes from: Control ([`ControlLink`](super::ControlLink)), a file or a value
/// ([`FixedPlan`](super::FixedPlan)), or something else.
///
/// `R` is [`AgentRecord`](kakuremichi_core::plan::AgentRecord) or
/// [`GatewayRecord`](kakuremichi_core::plan::GatewayRecord).
pub trait PlanSource<R: NodeRecord>: fmt::Debug + Send + Sync + 'static {
    /// Looks at what it was given and at the state directory, [publishes](Supply::publish) the plan it
    /// has at once, if it has one, and returns what keeps it current. It may block for the disk, and
    /// must not wait for the network: the returned future does, on the node's shard, where it must not
    /// block.
    ///
    /// # Errors
    /// When what it was given cannot work, whatever the network says. The node is not started then.
    fn open(&self, supply: Supply<R>) -> Result<SourceFuture, SetupError>;
}

/// The source's end: it publishes plans, and takes what the node reports. A source that has no use for
/// reports ignores them.
#[derive(Debug)]
pub struct Supply<R: NodeRecord> {
    common: Arc<Common>,
    plan: watch::Sender<Arc<Plan<R>>>,
    served: watch::Receiver<Arc<Plan<R>>>,
    status: watch::Sender<LinkStatus>,
    answers: watch::Sender<Arc<Answers>>,
    orders: mpsc::Sender<Order>,
    pub(super) wishes: watch::Receiver<Arc<Wishes>>,
    pub(super) report: watch::Receiver<Arc<Status>>,
    pub(super) signing: watch::Receiver<Arc<[SigningKey]>>,
    pub(super) incidents: mpsc::Receiver<Incident>,
    pub(super) rotations: mpsc::Receiver<RotationAnswer>,
    pub(super) stop: watch::Receiver<bool>,
}

/// The node's end.
#[derive(Debug)]
pub(crate) struct NodeSide<R: NodeRecord> {
    common: Arc<Common>,
    /// The newest plan; the empty one until the source has any.
    pub(crate) plan: watch::Receiver<Arc<Plan<R>>>,
    /// How the source is.
    pub(crate) status: watch::Receiver<LinkStatus>,
    /// What was answered to the wishes.
    #[cfg_attr(not(feature = "agent"), expect(dead_code, reason = "only agents declare"))]
    pub(crate) answers: watch::Receiver<Arc<Answers>>,
    /// What the source wants done.
    pub(crate) orders: mpsc::Receiver<Order>,
    /// What the node asks to publish.
    #[cfg_attr(not(feature = "agent"), expect(dead_code, reason = "only agents declare"))]
    pub(crate) wishes: watch::Sender<Arc<Wishes>>,
    /// The state of lanes and targets.
    pub(crate) report: watch::Sender<Arc<Status>>,
    /// The public halves of what a gateway signs sessions with; an agent signs none.
    #[cfg_attr(not(feature = "gateway"), expect(dead_code, reason = "only gateways sign"))]
    pub(crate) signing: watch::Sender<Arc<[SigningKey]>>,
    /// Things that happened.
    pub(crate) incidents: mpsc::Sender<Incident>,
    /// Whoever wants the node to have new keys.
    pub(crate) rotations: mpsc::Sender<RotationAnswer>,
    /// The plan that the node serves.
    served: watch::Sender<Arc<Plan<R>>>,
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct Common {
    role: Role,
    name: Label,
    keys: OwnKeys,
    state: StateDir,
    info: NodeInfo,
    usage: Mutex<BTreeMap<ServiceId, Amount>>,
}

/// Where it is said what came of new keys.
pub(crate) type RotationAnswer = oneshot::Sender<Result<(), RotateKeysError>>;

/// The keys that a node holds, and how they follow each other.
#[derive(Debug, Clone)]
pub(crate) struct OwnKeys {
    pub(crate) ring: KeyRing,
    /// Until when those of before count.
    pub(crate) previous_until: Option<Timestamp>,
    /// The age at which the node wants other ones by itself.
    pub(crate) rotate_after: Option<Duration>,
}

/// Why a node has no new keys.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RotateKeysError {
    /// Its plan does not come from a Control, or the node has ended.
    #[error("there is no link to Control over which keys are rotated")]
    NoControl,
    /// Others asked before, and are not answered.
    #[error("new keys are being asked for already")]
    Busy,
    /// Control did not take them, or they could not be made. The node has those that it had.
    #[error(transparent)]
    Refused(Refusal),
}

/// What a node asks to publish: all of it, by name. The number tells a later wish from an earlier one
/// of the same name.
pub type Wishes = BTreeMap<Label, (u64, Declaration)>;

/// The answers to wishes, by name, with the number of the wish.
pub type Answers = BTreeMap<Label, (u64, Result<DeclaredService, Refusal>)>;

/// What a source wants a node to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Get ready to stop. An agent takes no new flows, and those there are may end. A gateway says that it
    /// is not [ready](crate::gateway::GatewayStatus::is_ready), so that visitors are sent elsewhere, and
    /// goes on serving those that come: nothing else would answer them.
    Drain,
    /// The order is taken back.
    Undrain,
}

/// Makes the two ends for a node.
pub(crate) fn supply<R: NodeRecord>(
    role: Role,
    name: Label,
    keys: OwnKeys,
    state: StateDir,
    info: NodeInfo,
) -> (Supply<R>, NodeSide<R>) {
    let common = Arc::new(Common {
        role,
        name,
        keys,
        state,
        info,
        usage: Mutex::default(),
    });
    let (plan, plans) = watch::channel(Arc::default());
    let (serve, served) = watch::channel(Arc::clone(&plan.borrow()));
    let (status, statuses) = watch::channel(LinkStatus::Idle);
    let (answer, answers) = watch::channel(Arc::default());
    let (order, orders) = mpsc::channel(COMMANDS);
    let (wish, wishes) = watch::channel(Arc::default());
    let (report, reports) = watch::channel(Arc::default());
    let (sign, signing) = watch::channel(Arc::default());
    let (incident, incidents) = mpsc::channel(INCIDENTS);
    let (rotate, rotations) = mpsc::channel(ROTATIONS);
    let (stop, stopped) = watch::channel(false);
    let supply = Supply {
        common: Arc::clone(&common),
        plan,
        served,
        status,
        answers: answer,
        orders: order,
        wishes,
        report: reports,
        signing,
        incidents,
        rotations,
        stop: stopped,
    };
    let node = NodeSide {
        common,
        plan: plans,
        status: statuses,
        answers,
        orders,
        wishes: wish,
        report,
        signing: sign,
        incidents: incident,
        rotations: rotate,
        served: serve,
        stop,
    };
    (supply, node)
}

impl<R: NodeRecord> Supply<R> {
    /// What the node is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.common.role
    }

    /// The name that the node would like to have.
    #[must_use]
    pub fn name(&self) -> &Label {
        &self.common.name
    }

    /// The keys that the node has.
    #[must_use]
    pub fn keys(&self) -> NodeKeys {
        self.common.keys.ring.current()
    }

    /// All keys that it holds.
    pub(super) fn own_keys(&self) -> &OwnKeys {
        &self.common.keys
    }

    /// The node's state directory.
    #[must_use]
    pub fn state(&self) -> &StateDir {
        &self.common.state
    }

    /// The node is to be this from now on.
    pub fn publish(&self, plan: Plan<R>) {
        self.plan.send_replace(Arc::new(plan));
    }

    /// Waits until the node serves the plan that was [published](Self::publish) last, on all its shards.
    /// False when the node has ended.
    pub async fn served(&self) -> bool {
        let plan = Arc::clone(&self.plan.borrow());
        let mut served = self.served.clone();
        let served = served.wait_for(|served| Arc::ptr_eq(served, &plan));
        served.await.is_ok()
    }

    /// Says how the source is.
    pub fn set_status(&self, status: LinkStatus) {
        self.status.send_replace(status);
    }

    /// What the node asks to publish, as a state: each change is the whole of it.
    #[must_use]
    pub fn wishes(&self) -> watch::Receiver<Arc<Wishes>> {
        self.wishes.clone()
    }

    /// Answers the wish `number` of the name `name`.
    pub fn answer(&self, name: &Label, number: u64, answer: Result<DeclaredService, Refusal>) {
        let wishes = self.wishes.borrow().clone();
        self.answers.send_modify(|answers| {
            let answers = Arc::make_mut(answers);
            // As many answers as wishes: that bounds them.
            answers.retain(|name, _| wishes.contains_key(name));
            answers.insert(name.clone(), (number, answer));
        });
    }

    /// Asks the node to do something. Returns whether it will: it may have too much to do.
    pub fn order(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }

    /// What Control should know about the process.
    #[must_use]
    pub fn info(&self) -> &NodeInfo {
        &self.common.info
    }

    /// The state of the node's lanes and targets.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<Arc<Status>> {
        self.report.clone()
    }

    /// The public halves of what a gateway signs the sessions of visitors with, as a state; none of an agent.
    #[must_use]
    pub fn signing_keys(&self) -> watch::Receiver<Arc<[SigningKey]>> {
        self.signing.clone()
    }

    /// Waits until the node stops. The source has a moment then to say goodbye.
    pub async fn stopping(&self) {
        stopped(self.stop.clone()).await;
    }

    /// Takes what was used since it was taken last.
    #[must_use]
    pub fn take_usage(&self) -> BTreeMap<ServiceId, Amount> {
        std::mem::take(&mut *self.common.usage())
    }
}

impl<R: NodeRecord> NodeSide<R> {
    /// A plan is served, as a whole.
    pub(crate) fn serves(&self, plan: &Arc<Plan<R>>) {
        self.served.send_replace(Arc::clone(plan));
    }

    /// Serves whatever comes, for as long as the source is there.
    #[cfg(test)]
    pub(crate) fn obeys(&self) -> impl Future<Output = ()> + use<R> {
        let (mut plans, served) = (self.plan.clone(), self.served.clone());
        async move {
            loop {
                let plan = Arc::clone(&plans.borrow_and_update());
                served.send_replace(plan);
                if plans.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// The node stops: the source says goodbye and ends.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Counts the use of a service. Beyond [`MAX_USAGE_SERVICES`] services that the source has not
    /// taken, it is not counted.
    pub(crate) fn record_usage(&self, service: ServiceId, amount: Amount) {
        let mut usage = self.common.usage();
        if usage.len() < MAX_USAGE_SERVICES || usage.contains_key(&service) {
            usage.entry(service).or_default().add(amount);
        }
    }
}

/// Asks the link for new keys, and waits for what comes of it: as long as there is no link to Control.
pub(crate) async fn rotate(
    rotations: &mpsc::Sender<RotationAnswer>,
    fixed: bool,
) -> Result<(), RotateKeysError> {
    if fixed {
        return Err(RotateKeysError::NoControl);
    }
    let (answer, answered) = oneshot::channel();
    rotations.try_send(answer).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => RotateKeysError::Busy,
        mpsc::error::TrySendError::Closed(_) => RotateKeysError::NoControl,
    })?;
    answered.await.unwrap_or(Err(RotateKeysError::NoControl))
}

pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the node is gone, which is the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Common {
    fn usage(&self) -> MutexGuard<'_, BTreeMap<ServiceId, Amount>> {
        // Counting does not panic half way.
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
