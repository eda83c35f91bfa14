//! Services that agents declare.

use std::{sync::Arc, time::Duration};

use kakuremichi_control::store::SqlStore;
use kakuremichi_core::{
    code::Code,
    id::{AgentId, ServiceId},
    model::{DeclareScope, Lifetime, Role, TargetAddress, TargetScheme},
    name::Label,
    policy::Policy,
    store::Store,
    time::Timestamp,
};
use kakuremichi_proto::{
    declare::{Declaration, DeclaredKind, DeclaredService, DeclaredTarget},
    report::{GatewayInfo, LaneEnd, LaneKind, LaneState, LaneStatus, NodeInfo, Refusal, Status},
    session::ClientEvent,
};

use super::{
    node::Node,
    store::on_each_store,
    world::{World, eventually},
};

on_each_store! {
    what_is_in_scope_is_published_and_nothing_else
    names_belong_to_whoever_has_them
    declaring_again_changes_the_service
    stopping_is_not_deleting
    what_an_agent_no_longer_declares_when_it_comes_back_goes
    ephemeral_services_go_with_the_lease
    an_agent_that_a_gateway_carries_to_keeps_what_it_declared
    what_a_gone_agent_declared_is_free_later
}

pub(crate) fn http(name: &str, host: &str) -> Declaration {
    Declaration {
        name: name.parse().unwrap(),
        kind: DeclaredKind::Http {
            hosts: vec![host.parse().unwrap()],
            path: "/".parse().unwrap(),
        },
        target: DeclaredTarget {
            address: TargetAddress::InProcess,
            scheme: TargetScheme::Plain,
            health: None,
        },
        policy: Policy::public(),
        ephemeral: true,
    }
}

pub(crate) fn tcp(name: &str, port: u16) -> Declaration {
    Declaration {
        kind: DeclaredKind::Tcp { port },
        ..http(name, "unused.example.net")
    }
}

fn scope() -> DeclareScope {
    DeclareScope {
        hosts: vec!["*.agents.example.net".parse().unwrap()],
        ports: vec!["5000-5010".parse().unwrap()],
    }
}

pub(crate) async fn agent(world: &World, name: &str) -> Node {
    let token = world.scoped_token(Role::Agent, None, scope()).await;
    Node::enrolled_with(world, Role::Agent, name, &token).await
}

pub(crate) async fn declare(node: &mut Node, declaration: Declaration) -> Result<DeclaredService, Refusal> {
    let wanted = declaration.name.clone();
    node.client.declare(declaration).unwrap();
    answer(node, &wanted).await
}

pub(crate) async fn answer(node: &mut Node, wanted: &Label) -> Result<DeclaredService, Refusal> {
    node.until(|event| match event {
        ClientEvent::Declared { name, result } if name == *wanted => Some(result),
        _ => None,
    })
    .await
}

async fn undeclare(node: &mut Node, name: &str, delete: bool) {
    let wanted: Label = name.parse().unwrap();
    assert!(node.client.undeclare(&wanted, delete));
    node.until(|event| match event {
        ClientEvent::Undeclared { name } if name == wanted => Some(()),
        _ => None,
    })
    .await;
}

async fn is_gone(world: &World, id: ServiceId) {
    eventually("the service goes", async || world.service(id).await.is_none()).await;
}

async fn what_is_in_scope_is_published_and_nothing_else(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut gateway = Node::enrolled(&world, Role::Gateway, "gate").await;
    gateway.client.set_info(NodeInfo {
        software: "test 1".to_owned(),
        gateway: Some(GatewayInfo {
            endpoints: vec!["gate.example.net:51820".parse().unwrap()],
            https_port: 443,
        }),
    });
    let mut node = agent(&world, "edge").await;
    // It says so before anything else, and the agent hears of it.
    gateway.flush().await;
    while node
        .agent_plan()
        .await
        .gateways()
        .all(|gateway| gateway.endpoints.is_empty())
    {}
    let published = declare(&mut node, http("web", "web.agents.example.net"))
        .await
        .unwrap();
    assert_eq!(published.urls, ["https://web.agents.example.net/"]);
    while gateway
        .gateway_plan()
        .await
        .services()
        .all(|service| service.id != published.service)
    {}
    let published = declare(&mut node, tcp("database", 5000)).await.unwrap();
    let service = world.service(published.service).await.unwrap();
    assert_eq!(service.lifetime, Lifetime::Ephemeral(node.agent()));

    let refused = declare(&mut node, http("outside", "web.example.net"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(Code::SCOPE_HOST));
    assert!(refused.message().contains("web.example.net"), "{refused}");
    let refused = declare(&mut node, tcp("below", 4999)).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::SCOPE_PORT));

    let mut plain = Node::enrolled(&world, Role::Agent, "plain").await;
    let refused = declare(&mut plain, http("web2", "web2.agents.example.net"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(Code::SCOPE_NONE));
}

async fn names_belong_to_whoever_has_them(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let (mut one, mut two) = (agent(&world, "one").await, agent(&world, "two").await);
    declare(&mut one, http("web", "web.agents.example.net"))
        .await
        .unwrap();
    declare(&mut one, tcp("database", 5000)).await.unwrap();
    for taken in [
        http("web", "other.agents.example.net"),
        http("other", "web.agents.example.net"),
        tcp("other", 5000),
    ] {
        let refused = declare(&mut two, taken).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::NAME_TAKEN), "{refused}");
    }
    // What was configured through the API is not an agent's to change either.
    world.publish("shop", one.agent()).await;
    let refused = declare(&mut one, http("shop", "shop.agents.example.net"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(Code::NAME_TAKEN), "{refused}");
}

async fn declaring_again_changes_the_service(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut node = agent(&world, "edge").await;
    let first = declare(&mut node, http("web", "web.agents.example.net"))
        .await
        .unwrap();
    let before = world.service(first.service).await.unwrap();

    // A reconnect declares the same again, and is answered the same; nothing is written.
    node.cut();
    node.join(&world).await.unwrap();
    let again = answer(&mut node, &before.name).await.unwrap();
    assert_eq!(again.service, first.service);
    assert_eq!(world.service(first.service).await.unwrap(), before);

    let moved = declare(&mut node, http("web", "new.agents.example.net"))
        .await
        .unwrap();
    assert_eq!(moved.service, first.service);
    let after = world.service(first.service).await.unwrap();
    assert_ne!(after, before);
    let ports = |service: &kakuremichi_core::model::Service| {
        service
            .targets()
            .map(|target| target.place.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ports(&after), ports(&before), "connections to it go on");
    // The host that it left is free.
    declare(&mut node, http("web2", "web.agents.example.net"))
        .await
        .unwrap();
}

/// LESSONS: process stop deletes a reserved name (zrok). Stopping is not deleting.
async fn stopping_is_not_deleting(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut node = agent(&world, "edge").await;
    let stays = Declaration {
        ephemeral: false,
        ..http("stays", "stays.agents.example.net")
    };
    let stays = declare(&mut node, stays).await.unwrap().service;
    let goes = declare(&mut node, http("goes", "goes.agents.example.net"))
        .await
        .unwrap()
        .service;
    undeclare(&mut node, "stays", false).await;
    undeclare(&mut node, "goes", false).await;
    assert!(world.service(stays).await.is_some());
    assert!(world.service(goes).await.is_none());

    declare(
        &mut node,
        Declaration {
            ephemeral: false,
            ..http("stays", "stays.agents.example.net")
        },
    )
    .await
    .unwrap();
    undeclare(&mut node, "stays", true).await;
    assert!(world.service(stays).await.is_none());
}

async fn what_an_agent_no_longer_declares_when_it_comes_back_goes(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut node = agent(&world, "edge").await;
    let kept = declare(&mut node, http("kept", "kept.agents.example.net"))
        .await
        .unwrap();
    let dropped = declare(&mut node, http("dropped", "dropped.agents.example.net"))
        .await
        .unwrap();
    // Also when it is another Control that it comes back to.
    let world = world.restart().await;
    node.cut();
    let mut restarted = node.twin();
    restarted
        .client
        .declare(http("kept", "kept.agents.example.net"))
        .unwrap();
    restarted.join(&world).await.unwrap();
    let again = answer(&mut restarted, &"kept".parse().unwrap()).await.unwrap();
    assert_eq!(again.service, kept.service);
    is_gone(&world, dropped.service).await;
}

async fn ephemeral_services_go_with_the_lease(store: Arc<dyn Store>) {
    let lease = Duration::from_millis(300);
    let world = World::with_lease(store, lease).await;
    let mut node = agent(&world, "edge").await;
    let stays = Declaration {
        ephemeral: false,
        ..http("stays", "stays.agents.example.net")
    };
    let stays = declare(&mut node, stays).await.unwrap().service;
    let goes = declare(&mut node, http("goes", "goes.agents.example.net"))
        .await
        .unwrap()
        .service;
    // The other agent's lease ends while this one, which was away for a moment, is connected: an end that
    // came back takes nothing of it.
    node.cut();
    node.join(&world).await.unwrap();
    answer(&mut node, &"goes".parse().unwrap()).await.unwrap();
    let mut other = agent(&world, "other").await;
    let others = declare(&mut other, tcp("others", 5001)).await.unwrap().service;
    other.cut();
    is_gone(&world, others).await;
    assert!(world.service(goes).await.is_some());
    node.cut();
    is_gone(&world, goes).await;
    assert!(world.service(stays).await.is_some());
}

/// DESIGN, invariants 3 and 6: an agent that lost its WebSocket, and nothing else, is there.
async fn an_agent_that_a_gateway_carries_to_keeps_what_it_declared(store: Arc<dyn Store>) {
    let lease = Duration::from_millis(300);
    let world = World::with_lease(store, lease).await;
    let mut node = agent(&world, "edge").await;
    let web = declare(&mut node, http("web", "web.agents.example.net"))
        .await
        .unwrap()
        .service;
    let mut gateway = Node::enrolled(&world, Role::Gateway, "gate").await;
    report_lane(&world, &mut gateway, node.agent(), LaneState::Up).await;
    node.cut();
    // The lease of one that went later, and that nobody carries to, ends meanwhile.
    let mut other = agent(&world, "other").await;
    let others = declare(&mut other, tcp("others", 5001)).await.unwrap().service;
    other.cut();
    is_gone(&world, others).await;
    assert!(world.service(web).await.is_some());
    report_lane(&world, &mut gateway, node.agent(), LaneState::Down).await;
    is_gone(&world, web).await;
}

/// What an agent declared is not taken from it because it went to another instance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_went_to_another_instance_keeps_what_it_declared() {
    let Some(server) = kakuremichi_tests::Postgres::shared() else {
        return;
    };
    // Longer than it takes until an instance has told the others of a node.
    let lease = Duration::from_secs(3);
    let url = server.database();
    let store = async || Arc::new(SqlStore::connect(&url).await.unwrap()) as Arc<dyn Store>;
    let first = World::with_lease(store().await, lease).await;
    let second = first.another_instance(store().await, lease).await;
    let mut node = agent(&first, "edge").await;
    let web = declare(&mut node, http("web", "web.agents.example.net"))
        .await
        .unwrap()
        .service;
    node.cut();
    node.join(&second).await.unwrap();
    answer(&mut node, &"web".parse().unwrap()).await.unwrap();
    // The lease of one that went later ends at the first instance, and so did this one's.
    let mut other = agent(&first, "other").await;
    let others = declare(&mut other, tcp("others", 5001)).await.unwrap().service;
    other.cut();
    is_gone(&first, others).await;
    assert!(second.service(web).await.is_some());
    // When it is nowhere, it goes.
    node.cut();
    is_gone(&second, web).await;
}

async fn report_lane(world: &World, gateway: &mut Node, agent: AgentId, state: LaneState) {
    let end = LaneEnd::Agent(agent);
    let lane = LaneStatus {
        end,
        kind: LaneKind::WireGuard,
        state,
        rtt: None,
        since: Timestamp::from_millis(1),
        error: None,
    };
    gateway.client.set_status(Status {
        certificates: Vec::new(),
        draining: false,
        lanes: vec![lane],
        targets: Vec::new(),
    });
    gateway.flush().await;
    eventually("the lane is known", async || {
        let lanes = world.control.presence(gateway.id()).status.lanes;
        lanes.get(&end).is_some_and(|lane| lane.state == state)
    })
    .await;
}

async fn what_a_gone_agent_declared_is_free_later(store: Arc<dyn Store>) {
    let world = World::start(store).await;
    let mut gone = agent(&world, "edge").await;
    declare(&mut gone, http("web", "web.agents.example.net"))
        .await
        .unwrap();
    let stays = Declaration {
        ephemeral: false,
        ..http("stays", "stays.agents.example.net")
    };
    declare(&mut gone, stays).await.unwrap();
    let id = gone.id();
    gone.cut();
    eventually("Control notices", async || {
        world.control.presence(id).connected.is_none()
    })
    .await;
    // It crashed without its state, and enrolled anew.
    let mut anew = agent(&world, "edge").await;
    for (declared, code) in [
        (http("web", "web.agents.example.net"), Code::TRY_LATER),
        (http("web2", "web.agents.example.net"), Code::TRY_LATER),
        (http("stays", "stays.agents.example.net"), Code::NAME_TAKEN),
    ] {
        let refused = declare(&mut anew, declared).await.unwrap_err();
        assert_eq!(refused.code(), Some(code), "{refused}");
    }
}
