//! Declaring, against a Control made of the protocol's own server session.

use kakuremichi_core::{code::Code, id::NodeId, policy::Policy};
use kakuremichi_proto::{declare::DeclaredService, report::Refusal, session::Reason};
use tempfile::TempDir;

use super::*;
use crate::{
    agent::Service,
    error::{CloseReason, ExposeError},
    link::tests::control::FakeControl,
    status::ServiceState,
};

fn node() -> NodeId {
    NodeId::Agent(AgentId::from_bytes([5; 16]))
}

async fn agent(control: &FakeControl, state: &Path) -> Agent {
    Agent::with_source(control.link())
        .state_dir(state)
        .name("edge")
        .spawn()
        .await
        .unwrap()
}

fn empty_plan() -> AgentPlan {
    plan(1, WireGuardKey::from_bytes([9; 32]), &["127.0.0.1:9"], &[])
}

fn full_plan() -> AgentPlan {
    let service = Planned::http(7, "a.example");
    plan(2, WireGuardKey::from_bytes([9; 32]), &["127.0.0.1:9"], &[service])
}

#[tokio::test]
async fn what_control_accepts_is_served_and_what_it_refuses_is_an_error() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let agent = agent(&control, temp.path()).await;
    let mut connection = control.accept().await;
    connection.welcome(node()).await;
    connection.give(&empty_plan()).await;
    let asking = tokio::spawn({
        let agent = agent.clone();
        async move { agent.expose(Service::http("a.example").public()).await }
    });
    let (request, declaration) = connection.declare().await;
    assert_eq!(declaration.policy, Policy::public());
    assert!(declaration.ephemeral);
    let status = agent.watch_status().borrow().clone();
    assert_eq!(status.services[0].state, ServiceState::Declaring);
    let accepted = DeclaredService {
        service: service_id(7),
        urls: vec!["https://a.example/".to_owned()],
    };
    connection.answer(request, Ok(accepted)).await;
    let drive = tokio::spawn(async move {
        connection.give(&full_plan()).await;
        connection
    });
    let listener = soon(asking).await.unwrap().unwrap();
    assert_eq!(listener.service(), Some(service_id(7)));
    let mut connection = soon(drive).await.unwrap();

    let asking = tokio::spawn({
        let agent = agent.clone();
        async move { agent.expose(Service::http("b.example").public()).await }
    });
    let (request, _) = connection.declare().await;
    let refusal = Refusal::new(Code::SCOPE_HOST, "b.example is not in the token's scope");
    connection.answer(request, Err(refusal.clone())).await;
    let refused = soon(asking).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Some(Code::SCOPE_HOST));
    assert!(matches!(refused, ExposeError::Refused(said) if said == refusal));

    // What was refused is not asked for again, and an ephemeral service goes with its listener.
    assert_eq!(connection.undeclare().await.as_str(), "b-example");
    drop(listener);
    assert_eq!(connection.undeclare().await.as_str(), "a-example");
}

/// DESIGN invariant 1: with Control away, an agent restarts and serves.
#[tokio::test]
async fn a_service_of_the_plan_on_disk_is_exposed_with_control_away() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let first = agent(&control, temp.path()).await;
    let mut connection = control.accept().await;
    connection.welcome(node()).await;
    connection.give(&full_plan()).await;
    drop(connection);
    soon(first.shutdown(Duration::from_secs(1))).await;
    drop(first);
    let url = control.url();
    control.close().await;
    let again = Agent::builder(url, "")
        .state_dir(temp.path())
        .spawn()
        .await
        .unwrap();
    let listener = soon(again.expose(Service::http("a.example").public()))
        .await
        .unwrap();
    assert_eq!(listener.url(), "https://a.example:8443/");
}

/// What an earlier process declared, and its plan still has, is nothing that Control has agreed to now.
#[tokio::test]
async fn with_a_link_control_answers_and_not_the_plan() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let agent = agent(&control, temp.path()).await;
    let mut connection = control.accept().await;
    connection.welcome(node()).await;
    connection.give(&full_plan()).await;
    let asking = tokio::spawn({
        let agent = agent.clone();
        async move { agent.expose(Service::http("a.example").public()).await }
    });
    let (request, _) = connection.declare().await;
    assert!(!asking.is_finished());
    let accepted = DeclaredService {
        service: service_id(8),
        urls: vec!["https://a.example/".to_owned()],
    };
    connection.answer(request, Ok(accepted)).await;
    let drive = tokio::spawn(async move { connection.event().await });
    let listener = soon(asking).await.unwrap().unwrap();
    assert_eq!(listener.service(), Some(service_id(8)));
    drive.abort();
}

#[tokio::test]
async fn a_refused_node_is_seen_by_everybody_who_waits() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let agent = agent(&control, temp.path()).await;
    let mut events = agent.events();
    let asking = tokio::spawn({
        let agent = agent.clone();
        async move { agent.expose(Service::http("a.example")).await }
    });
    let mut connection = control.accept().await;
    connection.event().await;
    connection
        .refuse(Reason::permanent(Code::TOKEN_REVOKED, "the token was revoked"))
        .await;
    let error = soon(asking).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::TOKEN_REVOKED));
    match soon(agent.closed()).await {
        CloseReason::Link(end) => assert_eq!(end.code(), Some(Code::TOKEN_REVOKED)),
        other => panic!("{other:?}"),
    }
    let ended = find(&mut events, |event| match event {
        AgentEvent::LinkEnded(end) => Some(end),
        _ => None,
    });
    assert_eq!(ended.await.code(), Some(Code::TOKEN_REVOKED));
}
