use kakuremichi_core::model::Health;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::{
    agent::Service,
    status::{ServiceState, TargetState},
};

fn check() -> HealthCheck {
    HealthCheck {
        check: Health::Tcp,
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(1),
        unhealthy_after: 2,
        healthy_after: 2,
    }
}

/// DESIGN invariant 6, and the lane feed: gateways learn of a target's health with Control away.
#[tokio::test]
async fn gateways_hear_when_a_target_fails_and_comes_back() {
    let temp = TempDir::new().unwrap();
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let target = TargetAddress::Tcp(address.to_string().parse().unwrap());
    let mut planned = Planned::tcp(7, target);
    planned.health = Some(check());
    let (agent, mut gate) = pair(temp.path(), &[planned]).await;
    let mut events = agent.events();
    let state = |passing: bool| move |health: &gate::Health| health.get(&target_id(7)) == Some(&passing);
    soon(gate.health.wait_for(state(true))).await.unwrap();
    drop(server);
    soon(gate.health.wait_for(state(false))).await.unwrap();
    let why = find(&mut events, |event| match event {
        AgentEvent::Target {
            state: TargetState::Failing,
            error,
            ..
        } => error,
        _ => None,
    });
    assert!(why.await.contains("refused"));
    let mut status = agent.watch_status();
    let status = soon(status.wait_for(|status| status.services[0].targets[0].state == TargetState::Failing))
        .await
        .unwrap()
        .clone();
    assert!(status.services[0].targets[0].last_error.is_some());
    let _server = TcpListener::bind(address).await.unwrap();
    soon(gate.health.wait_for(state(true))).await.unwrap();
}

#[tokio::test]
async fn a_listener_in_this_process_passes_while_it_is_there() {
    let temp = TempDir::new().unwrap();
    let mut planned = Planned::http(7, "a.example");
    planned.health = Some(HealthCheck {
        interval: Duration::from_secs(3600),
        unhealthy_after: 1,
        healthy_after: 1,
        ..check()
    });
    let (agent, mut gate) = pair(temp.path(), &[planned]).await;
    let state = |passing: bool| move |health: &gate::Health| health.get(&target_id(7)) == Some(&passing);
    soon(gate.health.wait_for(state(false))).await.unwrap();
    assert_eq!(
        agent.watch_status().borrow().services[0].state,
        ServiceState::Unserved
    );
    let listener = soon(agent.expose(Service::http("a.example"))).await.unwrap();
    soon(gate.health.wait_for(state(true))).await.unwrap();
    assert_eq!(
        agent.watch_status().borrow().services[0].state,
        ServiceState::Published
    );
    drop(listener);
    soon(gate.health.wait_for(state(false))).await.unwrap();
}
