//! The link against a Control made of the protocol's own server session, over a real WebSocket.

#![expect(clippy::disallowed_methods, reason = "tests wait for sockets, within a time")]

pub(crate) mod control;
mod rotation;

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use kakuremichi_core::{
    code::Code,
    id::{AgentId, NodeId, OrganizationId, ServiceId},
    model::{Role, TargetAddress, TargetScheme},
    plan::{AgentNode, AgentPlan, AgentRecord, AgentService, Plan, Revision},
    policy::Policy,
    time::Timestamp,
};
use kakuremichi_proto::{
    declare::{Declaration, DeclaredKind, DeclaredService, DeclaredTarget},
    plan::WirePlan,
    report::{Amount, NodeInfo, Refusal},
    session::{Closed, Command, Reason, ServerEvent},
};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};

use self::control::{Connection, FakeControl};
use super::*;
use crate::state::{StateDir, StateError};

const LIMIT: Duration = Duration::from_secs(20);

type Node = NodeSide<AgentRecord>;

/// Ends its task with itself.
struct Running(JoinHandle<LinkEnd>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Running {
    async fn end(&mut self) -> LinkEnd {
        timeout(LIMIT, &mut self.0).await.unwrap().unwrap()
    }
}

/// The process dies: nothing is said to anybody. Returns when the state directory is free again.
async fn kill(node: Node, mut running: Running, state: &Path) {
    drop(node);
    if !running.0.is_finished() {
        running.0.abort();
        let _ = (&mut running.0).await;
    }
    timeout(LIMIT, async {
        while let Err(StateError::InUse(_)) = StateDir::open(state) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

fn open(source: &dyn PlanSource<AgentRecord>, state: &Path) -> Result<(Node, SourceFuture), SetupError> {
    let state = StateDir::open(state).unwrap();
    let (ring, previous_until) = state.key_ring(Timestamp::from(SystemTime::now())).unwrap();
    let (supply, node) = supply(
        Role::Agent,
        "edge".parse().unwrap(),
        OwnKeys {
            ring,
            previous_until,
            rotate_after: None,
        },
        state,
        NodeInfo::default(),
    );
    source.open(supply).map(|future| (node, future))
}

fn start(source: &dyn PlanSource<AgentRecord>, state: &Path) -> (Node, Running) {
    let (node, future) = open(source, state).unwrap();
    tokio::spawn(node.obeys());
    (node, Running(tokio::spawn(future)))
}

async fn status(node: &mut Node, wanted: impl FnMut(&LinkStatus) -> bool) -> LinkStatus {
    timeout(LIMIT, node.status.wait_for(wanted))
        .await
        .unwrap()
        .unwrap()
        .clone()
}

fn node_id() -> NodeId {
    NodeId::Agent(AgentId::from_bytes([5; 16]))
}

fn plan(revision: u64) -> AgentPlan {
    let service = AgentService {
        id: ServiceId::from_bytes([7; 16]),
        transport: kakuremichi_core::model::Transport::Tcp,
        name: format!("web-{revision}").parse().unwrap(),
        hosts: vec!["a.example".parse().unwrap()],
        port: None,
        urls: vec!["https://a.example/".to_owned()],
        targets: Vec::new(),
    };
    let node = AgentNode {
        id: AgentId::from_bytes([5; 16]),
        organization: OrganizationId::from_bytes([1; 16]),
        name: "edge".parse().unwrap(),
        address: "fd00::5".parse().unwrap(),
    };
    Plan::new(
        Revision(revision),
        [AgentRecord::Node(node), AgentRecord::Service(service)],
    )
}

fn declaration(name: &str) -> Declaration {
    Declaration {
        name: name.parse().unwrap(),
        kind: DeclaredKind::Tcp { port: 5432 },
        target: DeclaredTarget {
            address: TargetAddress::InProcess,
            scheme: TargetScheme::Plain,
            health: None,
        },
        policy: Policy::public(),
        ephemeral: true,
    }
}

/// Lets the next node in and gives it the plan of `revision`.
async fn admit(control: &FakeControl, revision: u64) -> Connection {
    let mut connection = control.accept().await;
    connection.welcome(node_id()).await;
    connection.give(&plan(revision)).await;
    connection
}

#[tokio::test]
async fn a_node_enrols_once_and_is_known_from_then_on() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let link = control.link();
    let (mut node, running) = start(&link, temp.path());
    let mut connection = control.accept().await;
    let enrol = match connection.event().await {
        ServerEvent::Enrol(enrol) => enrol,
        other => panic!("{other:?}"),
    };
    assert_eq!(enrol.secret_hash, control.secret_hash());
    assert_eq!((enrol.role, enrol.name.as_str()), (Role::Agent, "edge"));
    connection.accepted(node_id());
    assert!(matches!(connection.event().await, ServerEvent::Ready(resumed) if resumed.plan.is_none()));
    let applied = connection.give(&plan(3)).await;
    // It was on the disk before it was acknowledged.
    let stored = WirePlan::from_bytes(&fs::read(temp.path().join("plan")).unwrap()).unwrap();
    assert_eq!((stored.revision(), stored.hash()), applied);
    assert!(node.plan.borrow().same_records(&plan(3)));
    status(&mut node, LinkStatus::is_up).await;
    drop(connection);
    kill(node, running, temp.path()).await;

    // Again, with a token that is of no use any more, and Control away: the plan is served at once.
    let link = ControlLink::new(control.url(), "kkm_enroll_damaged");
    let (node, running) = start(&link, temp.path());
    assert!(node.plan.borrow().same_records(&plan(3)));
    let mut connection = control.accept().await;
    match connection.event().await {
        ServerEvent::Authenticate(request) => {
            assert_eq!((request.node, request.identity), (node_id(), enrol.identity));
            assert_eq!(request.wireguard, enrol.wireguard);
        }
        other => panic!("{other:?}"),
    }
    connection.accepted(node_id());
    match connection.event().await {
        ServerEvent::Ready(resumed) => assert_eq!(resumed.plan, Some(applied)),
        other => panic!("{other:?}"),
    }
    drop(running);
}

#[tokio::test]
async fn a_refusal_that_stays_ends_the_link_and_says_why() {
    for code in [
        Code::TOKEN_UNKNOWN,
        Code::TOKEN_USED_UP,
        Code::TOKEN_EXPIRED,
        Code::TOKEN_REVOKED,
        Code::TOKEN_ROLE,
        Code::NODE_REVOKED,
        Code::URL_MISMATCH,
        Code::VERSION_UNSUPPORTED,
    ] {
        let temp = TempDir::new().unwrap();
        let control = FakeControl::start().await;
        let (node, mut running) = start(&control.link(), temp.path());
        let mut connection = control.accept().await;
        connection.event().await;
        connection.refuse(Reason::permanent(code, "no")).await;
        let end = running.end().await;
        assert_eq!(end.code(), Some(code), "{end}");
        assert!(matches!(&*node.status.borrow(), LinkStatus::Ended(said) if *said == end));
        assert_eq!(
            fs::read_dir(temp.path()).unwrap().count(),
            3,
            "nothing was enrolled"
        );
    }
}

#[tokio::test]
async fn a_control_under_another_url_refuses() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start_as("https://control.example.net").await;
    let (_node, mut running) = start(&control.link(), temp.path());
    let mut connection = control.accept().await;
    connection.until_closed().await;
    assert_eq!(running.end().await.code(), Some(Code::URL_MISMATCH));
}

#[tokio::test]
async fn another_control_never_sees_the_secret() {
    let temp = TempDir::new().unwrap();
    let (control, impostor) = (FakeControl::start().await, FakeControl::start().await);
    let link = ControlLink::new(impostor.url(), control.token());
    let (_node, mut running) = start(&link, temp.path());
    let mut connection = impostor.accept().await;
    let closed = connection.until_closed().await;
    assert!(!matches!(closed, Closed::Local(_)), "{closed:?}");
    let end = running.end().await;
    assert!(
        matches!(end.code(), Some(Code::OTHER_CONTROL | Code::PROOF_INVALID)),
        "{end}"
    );
}

#[tokio::test]
async fn an_outage_is_bridged_and_the_plan_stays() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let (mut node, mut running) = start(&control.link(), temp.path());
    drop(admit(&control, 1).await);
    match status(&mut node, |status| matches!(status, LinkStatus::Waiting { .. })).await {
        LinkStatus::Waiting { attempts, .. } => assert_eq!(attempts, 1),
        other => panic!("{other:?}"),
    }
    assert!(node.plan.borrow().same_records(&plan(1)));
    let mut connection = admit(&control, 2).await;
    status(&mut node, LinkStatus::is_up).await;
    assert!(node.plan.borrow().same_records(&plan(2)));
    // Control stops for a while, in order.
    connection
        .refuse(Reason::passing(Code::TRY_LATER, "restarting"))
        .await;
    let waiting = status(&mut node, |status| matches!(status, LinkStatus::Waiting { .. })).await;
    assert!(
        matches!(&waiting, LinkStatus::Waiting { error, .. } if matches!(**error, LinkError::Closed(_))),
        "{waiting:?}"
    );
    let _connection = admit(&control, 3).await;
    node.stop();
    assert_eq!(running.end().await, LinkEnd::Stopped);
}

/// DESIGN section 5: `Retry-After` is honoured.
#[tokio::test]
async fn control_says_how_long_to_wait() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let (_node, _running) = start(&control.link(), temp.path());
    let mut connection = control.accept().await;
    connection.event().await;
    let wait = Duration::from_millis(800);
    let asked = Instant::now();
    let busy = Reason::passing(Code::TRY_LATER, "busy").retry_after(wait);
    connection.refuse(busy).await;
    drop(control.accept().await);
    assert!(asked.elapsed() >= wait, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn nobody_there_is_retried_with_the_reason_shown() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let link = control.link();
    control.close().await;
    let (mut node, _running) = start(&link, temp.path());
    let twice =
        |status: &LinkStatus| matches!(status, LinkStatus::Waiting { attempts, .. } if *attempts >= 2);
    match status(&mut node, twice).await {
        LinkStatus::Waiting { error, .. } => assert!(
            matches!(
                &*error,
                LinkError::Connect(ConnectError::Dial(DialError::Refused))
            ),
            "{error}"
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn declarations_are_answered_and_replayed() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let (mut node, _running) = start(&control.link(), temp.path());
    let wishes = ["db", "cache"].map(|name| (name.parse().unwrap(), (1, declaration(name))));
    node.wishes.send_replace(Wishes::from(wishes).into());
    let mut connection = control.accept().await;
    connection.welcome(node_id()).await;
    for _ in 0..2 {
        let (request, declaration) = connection.declare().await;
        let answer = if declaration.name.as_str() == "db" {
            Ok(DeclaredService {
                service: ServiceId::from_bytes([7; 16]),
                urls: vec!["tcp://gate.example:5432".to_owned()],
            })
        } else {
            Err(Refusal::new(Code::SCOPE_PORT, "not this port"))
        };
        connection.answer(request, answer).await;
    }
    let answers = timeout(LIMIT, node.answers.wait_for(|answers| answers.len() == 2))
        .await
        .unwrap()
        .unwrap()
        .clone();
    let answer = |name: &str| answers[&name.parse().unwrap()].clone();
    assert_eq!(answer("db").1.unwrap().service, ServiceId::from_bytes([7; 16]));
    assert_eq!(answer("cache").1.unwrap_err().code(), Some(Code::SCOPE_PORT));
    drop(connection);
    let wishes = [("db".parse().unwrap(), (1, declaration("db")))];
    node.wishes.send_replace(Wishes::from(wishes).into());
    let mut connection = control.accept().await;
    let resumed = connection.welcome(node_id()).await;
    assert_eq!(resumed.declarations, ["db".parse().unwrap()]);
    assert_eq!(connection.declare().await.1, declaration("db"));
}

#[tokio::test]
async fn usage_is_kept_until_it_is_acknowledged() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let service = ServiceId::from_bytes([7; 16]);
    let amount = Amount {
        connections: 1,
        requests: 0,
        received: 10,
        sent: 1 << 40,
    };
    let (node, running) = start(&control.link(), temp.path());
    node.record_usage(service, amount);
    node.record_usage(service, amount);
    let mut connection = control.accept().await;
    connection.welcome(node_id()).await;
    let first = connection.usage().await;
    drop(connection);
    kill(node, running, temp.path()).await;

    // The process died before Control could say that it has it: the same batch comes again.
    let (node, mut running) = start(&control.link(), temp.path());
    let mut connection = control.accept().await;
    connection.welcome(node_id()).await;
    let again = connection.usage().await;
    assert_eq!(again, first);
    assert_eq!(again.entries.len(), 1);
    assert_eq!(
        (again.entries[0].1.connections, again.entries[0].1.sent),
        (2, 2 << 40)
    );
    connection.acknowledge(again.key).await;

    // What is counted last is sent before the link ends.
    node.record_usage(service, amount);
    node.stop();
    let last = connection.usage().await;
    assert_eq!(last.entries[0].1, amount);
    assert_ne!(last.key, first.key);
    connection.acknowledge(last.key).await;
    connection.until_closed().await;
    assert_eq!(running.end().await, LinkEnd::Stopped);
}

/// A gateway serves a plan once all its shards follow it.
#[tokio::test]
async fn a_plan_is_acknowledged_when_the_node_serves_it() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let (node, future) = open(&control.link(), temp.path()).unwrap();
    let _running = Running(tokio::spawn(future));
    let mut connection = control.accept().await;
    connection.welcome(node_id()).await;
    let plan = plan(1);
    let mut giving = Box::pin(connection.give(&plan));
    let mut plans = node.plan.clone();
    tokio::select! {
        biased;
        _ = &mut giving => panic!("nobody serves it"),
        came = plans.wait_for(|plan| plan.node().is_some()) => drop(came.unwrap()),
    }
    assert!(timeout(Duration::from_millis(200), &mut giving).await.is_err());
    let served = Arc::clone(&plans.borrow());
    node.serves(&served);
    timeout(LIMIT, giving).await.unwrap();
}

#[tokio::test]
async fn control_can_drain_a_node() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let (mut node, _running) = start(&control.link(), temp.path());
    let mut connection = control.accept().await;
    connection.welcome(node_id()).await;
    for (command, order) in [
        (
            Command::Drain {
                grace: Duration::from_secs(1),
            },
            Order::Drain,
        ),
        (Command::Undrain, Order::Undrain),
    ] {
        assert_eq!(connection.command(command).await, Ok(()));
        assert_eq!(node.orders.recv().await, Some(order));
    }
}

/// A node whose plan on disk is damaged starts, and gets the plan again.
#[tokio::test]
async fn a_damaged_plan_is_fetched_again() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let (node, running) = start(&control.link(), temp.path());
    drop(admit(&control, 1).await);
    kill(node, running, temp.path()).await;
    let path = temp.path().join("plan");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (node, _running) = start(&control.link(), temp.path());
    assert_eq!(node.plan.borrow().revision(), Revision(0));
    let mut connection = control.accept().await;
    assert_eq!(connection.welcome(node_id()).await.plan, None);
    connection.give(&plan(1)).await;
    assert!(node.plan.borrow().same_records(&plan(1)));
}

#[tokio::test]
async fn what_cannot_work_is_said_before_anything_starts() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let error = |url: &str, token: &str| {
        open(&ControlLink::new(url, token), temp.path())
            .map(|_| ())
            .unwrap_err()
    };
    assert!(matches!(error(&control.url(), ""), SetupError::NoToken));
    assert!(matches!(
        error(&control.url(), "kkm_enroll_x"),
        SetupError::Token(_)
    ));
    assert!(matches!(
        error("http://control.example.net", &control.token()),
        SetupError::Url(UrlError::Clear)
    ));
    let (node, running) = start(&control.link(), temp.path());
    drop(admit(&control, 1).await);
    kill(node, running, temp.path()).await;
    // The state directory of another Control.
    let other = FakeControl::start().await;
    let mixed = error(&other.url(), &other.token());
    assert!(matches!(mixed, SetupError::OtherControl));
    assert_eq!(mixed.code(), Some(Code::OTHER_CONTROL));
}

#[tokio::test]
async fn a_fixed_plan_is_served_from_a_value_or_a_file() {
    let temp = TempDir::new().unwrap();
    let (node, mut running) = start(&FixedPlan::new(plan(4)), temp.path());
    assert!(node.plan.borrow().same_records(&plan(4)));
    assert!(matches!(*node.status.borrow(), LinkStatus::Fixed));
    node.stop();
    assert_eq!(running.end().await, LinkEnd::Stopped);
    kill(node, running, temp.path()).await;
    let path = temp.path().join("a.plan");
    fs::write(&path, WirePlan::from_plan(&plan(5)).unwrap().to_bytes()).unwrap();
    let (node, _running) = start(&FixedPlan::from_file(&path).unwrap(), &temp.path().join("state"));
    assert!(node.plan.borrow().same_records(&plan(5)));
    assert!(matches!(
        FixedPlan::<kakuremichi_core::plan::GatewayRecord>::from_file(&path),
        Err(SetupError::PlanRole)
    ));
    fs::write(&path, "no plan").unwrap();
    assert!(matches!(
        FixedPlan::<AgentRecord>::from_file(&path),
        Err(SetupError::Plan(_))
    ));
}
