use std::{collections::BTreeMap, sync::Mutex};

use kakuremichi_proto::report::Amount;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
};

use super::*;
use crate::{
    agent::Service,
    error::{CloseReason, ExposeError},
    link::{LinkEnd, LinkStatus, PlanSource, SetupError, SourceFuture, Supply},
    status::{LaneState, Phase},
};

#[tokio::test]
async fn the_status_is_one_value() {
    let temp = TempDir::new().unwrap();
    let (agent, gate) = pair(temp.path(), &[Planned::http(7, "a.example")]).await;
    let status = agent.watch_status().borrow().clone();
    assert!(status.is_online());
    assert_eq!((&status.phase, status.revision), (&Phase::Running, Revision(1)));
    assert!(matches!(status.link, LinkStatus::Fixed));
    assert_eq!(status.lanes.len(), 1);
    assert_eq!(status.lanes[0].gateway, gateway_id());
    assert!(matches!(status.lanes[0].state, LaneState::Up { .. }));
    assert_eq!(status.services[0].id, Some(service_id(7)));
    let mut events = agent.events();
    drop(gate);
    // The gateway falls silent, and that is noticed.
    let down = find(&mut events, |event| match event {
        AgentEvent::LaneDown { gateway } => Some(gateway),
        _ => None,
    });
    assert_eq!(down.await, gateway_id());
    assert!(!agent.watch_status().borrow().is_online());
}

/// LESSONS: "name resolved once": what does not carry is left for the next address, and tried again.
#[tokio::test]
async fn a_gateway_is_found_at_another_of_its_addresses() {
    let temp = TempDir::new().unwrap();
    let state = StateDir::open(temp.path()).unwrap();
    let gate = Gate::start(&state.keys().unwrap());
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let dead = silent.local_addr().unwrap().to_string();
    let endpoints = ["nowhere.invalid:51820", &dead, &gate.endpoint()];
    let source = FixedPlan::new(plan(1, gate.key(), &endpoints, &[]));
    let agent = Agent::with_source(source).state(state).spawn().await.unwrap();
    soon(agent.online()).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_open_flows() {
    let temp = TempDir::new().unwrap();
    let (agent, gate) = pair(temp.path(), &[Planned::http(7, "a.example")]).await;
    let mut listener = soon(agent.expose(Service::http("a.example"))).await.unwrap();
    let mut visitor = gate.visit(7).await;
    let mut stream = soon(listener.accept()).await.unwrap();
    let stopping = tokio::spawn({
        let agent = agent.clone();
        async move { agent.shutdown(LIMIT).await }
    });
    // The listener ends, and says so as often as it is asked.
    for _ in 0..2 {
        assert_eq!(soon(listener.accept()).await.unwrap_err(), CloseReason::Shutdown);
    }
    assert_eq!(soon(listener.closed()).await, CloseReason::Shutdown);
    assert_eq!(
        gate.refusal(port(7), &Gate::preface(7)).await,
        kakuremichi_proto::flow::FlowReply::Draining
    );
    let late = soon(agent.expose(Service::http("b.example"))).await.unwrap_err();
    assert!(
        matches!(late, ExposeError::Closed(CloseReason::Shutdown)),
        "{late}"
    );
    // The open flow goes on.
    stream.write_all(b"the rest").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    soon(visitor.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "the rest");
    visitor.shutdown().await.unwrap();
    soon(stream.read_to_string(&mut rest)).await.unwrap();
    drop(stream);
    assert_eq!(soon(stopping).await.unwrap().cut, 0);
    assert_eq!(soon(agent.closed()).await, CloseReason::Shutdown);
    // The state directory is free again.
    drop(StateDir::open(temp.path()).unwrap());
}

/// A visitor whose target is being dialled is there, too.
#[tokio::test]
async fn a_shutdown_waits_for_a_dial_that_is_under_way() {
    let temp = TempDir::new().unwrap();
    let slow = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    slow.bind(&any.into()).unwrap();
    slow.listen(0).unwrap();
    let server = std::net::TcpListener::from(slow);
    let address = server.local_addr().unwrap();
    // Its queue is full: who comes next waits until somebody is accepted.
    let _first = std::net::TcpStream::connect(address).unwrap();
    let target = TargetAddress::Tcp(address.to_string().parse().unwrap());
    let (agent, gate) = pair(temp.path(), &[Planned::tcp(7, target)]).await;
    let mut visitor = gate.visit(7).await;
    visitor.write_all(b"question").await.unwrap();
    let waits = timeout(Duration::from_millis(200), visitor.read(&mut [0; 1])).await;
    assert!(waits.is_err(), "the target takes no connections: {waits:?}");
    let mut status = agent.watch_status();
    let stopping = tokio::spawn({
        let agent = agent.clone();
        async move { agent.shutdown(LIMIT).await }
    });
    let draining = status.wait_for(|status| status.phase != Phase::Running);
    soon(draining).await.unwrap();
    server.accept().unwrap();
    let (socket, _) = server.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut socket = tokio::net::TcpStream::from_std(socket).unwrap();
    soon(socket.read_exact(&mut [0; 8])).await.unwrap();
    socket.write_all(b"answer").await.unwrap();
    drop(socket);
    let mut answer = String::new();
    soon(visitor.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answer");
    drop(visitor);
    assert_eq!(soon(stopping).await.unwrap().cut, 0);
}

#[tokio::test]
async fn a_shutdown_says_what_it_cut() {
    let temp = TempDir::new().unwrap();
    let (agent, gate) = pair(temp.path(), &[Planned::http(7, "a.example")]).await;
    let mut listener = soon(agent.expose(Service::http("a.example"))).await.unwrap();
    let mut visitor = gate.visit(7).await;
    let mut stream = soon(listener.accept()).await.unwrap();
    let report = soon(agent.shutdown(Duration::from_millis(300))).await;
    assert_eq!(report.cut, 1);
    assert!(soon(stream.read(&mut [0; 1])).await.is_err());
    assert!(soon(visitor.read(&mut [0; 1])).await.is_err());
}

/// LESSONS: "an accept loop that spins after the stack under it died".
#[tokio::test]
async fn the_last_handle_ends_everything() {
    let temp = TempDir::new().unwrap();
    let (agent, gate) = pair(temp.path(), &[Planned::http(7, "a.example")]).await;
    let mut listener = soon(agent.expose(Service::http("a.example"))).await.unwrap();
    let mut visitor = gate.visit(7).await;
    let _stream = soon(listener.accept()).await.unwrap();
    let clone = agent.clone();
    drop(agent);
    assert!(
        timeout(Duration::from_millis(100), listener.accept())
            .await
            .is_err()
    );
    drop(clone);
    assert_eq!(soon(listener.accept()).await.unwrap_err(), CloseReason::Gone);
    assert_eq!(soon(listener.closed()).await, CloseReason::Gone);
    assert!(soon(visitor.read(&mut [0; 1])).await.is_err());
}

#[tokio::test]
async fn without_control_only_what_is_planned_can_be_served() {
    let temp = TempDir::new().unwrap();
    let (agent, _gate) = pair(temp.path(), &[Planned::http(7, "a.example")]).await;
    let unknown = soon(agent.expose(Service::http("b.example"))).await.unwrap_err();
    assert!(matches!(unknown, ExposeError::NotPlanned), "{unknown}");
    let listener = soon(agent.expose(Service::http("a.example"))).await.unwrap();
    let twice = soon(agent.expose(Service::http("a.example"))).await.unwrap_err();
    assert!(matches!(twice, ExposeError::Taken(_)), "{twice}");
    let target = soon(agent.forward(Service::tcp(1), "not a target"))
        .await
        .unwrap_err();
    assert!(matches!(target, ExposeError::Target), "{target}");
    // Its name is free again when the listener is gone.
    drop(listener);
    let again = soon(async {
        loop {
            match agent.expose(Service::http("a.example")).await {
                Ok(listener) => return listener,
                Err(error) => assert!(matches!(error, ExposeError::Taken(_)), "{error}"),
            }
        }
    });
    again.await;
}

#[tokio::test]
async fn what_cannot_work_is_said_by_spawn() {
    let temp = TempDir::new().unwrap();
    let builder = Agent::builder("https://control.example.net", "").state_dir(temp.path());
    let error = builder.spawn().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "this node has not enrolled yet, and no token was given"
    );
    // Nothing is left running: the directory is free.
    StateDir::open(temp.path()).unwrap();
}

/// A source of its own: a plan, and what was used of it.
#[derive(Debug)]
struct Counting {
    plan: AgentPlan,
    used: Mutex<Option<oneshot::Sender<BTreeMap<ServiceId, Amount>>>>,
}

impl PlanSource<AgentRecord> for Counting {
    fn open(&self, supply: Supply<AgentRecord>) -> Result<SourceFuture, SetupError> {
        supply.publish(self.plan.clone());
        let used = self.used.lock().unwrap().take().unwrap();
        Ok(Box::pin(async move {
            supply.stopping().await;
            used.send(supply.take_usage()).unwrap();
            LinkEnd::Stopped
        }))
    }
}

#[tokio::test]
async fn what_visitors_used_is_counted_per_service() {
    let temp = TempDir::new().unwrap();
    let state = StateDir::open(temp.path()).unwrap();
    let gate = Gate::start(&state.keys().unwrap());
    let (send, used) = oneshot::channel();
    let source = Counting {
        plan: plan(
            1,
            gate.key(),
            &[&gate.endpoint()],
            &[Planned::http(7, "a.example"), Planned::http(8, "b.example")],
        ),
        used: Mutex::new(Some(send)),
    };
    let agent = Agent::with_source(source).state(state).spawn().await.unwrap();
    soon(gate.online()).await;
    let mut listener = soon(agent.expose(Service::http("a.example"))).await.unwrap();
    for _ in 0..2 {
        let mut visitor = gate.visit(7).await;
        let mut stream = soon(listener.accept()).await.unwrap();
        visitor.write_all(b"four").await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut asked = Vec::new();
        soon(stream.read_to_end(&mut asked)).await.unwrap();
        stream.write_all(b"sixsix").await.unwrap();
        stream.shutdown().await.unwrap();
        soon(visitor.read_to_end(&mut asked)).await.unwrap();
    }
    soon(agent.shutdown(LIMIT)).await;
    let amount = Amount {
        connections: 2,
        requests: 0,
        received: 8,
        sent: 12,
    };
    assert_eq!(
        soon(used).await.unwrap(),
        BTreeMap::from([(service_id(7), amount)])
    );
}
