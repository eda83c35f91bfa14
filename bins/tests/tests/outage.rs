//! Nobody's absence stops what the others can do without them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use futures_util::{SinkExt as _, StreamExt as _};
use kakuremichi_tests::deployment::public;
use kakuremichi_tests::{Deployment, Origin, wait};

/// So many requests show that nothing has happened to them.
const ENOUGH: u64 = 100;

/// DESIGN section 2, invariant 1: with Control gone, gateways and agents keep serving, and also restart and serve.
#[test]
fn without_control_everything_goes_on_and_also_starts_again() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let url = "https://web.test/hello";

    // Control is killed: neither a new request nor an open WebSocket notices.
    let traffic = world.traffic(0, url);
    traffic.more(ENOUGH);
    let visitor = world.visitor_at(0);
    let control = &mut world.control;
    world.visitors.block_on(async || {
        let mut socket = visitor.websocket("https://web.test/ws").await.unwrap();
        control.kill();
        traffic.more(ENOUGH);
        socket.send("still there".into()).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap().to_text().unwrap(),
            "still there"
        );
        socket.close(None).await.unwrap();
    });
    traffic.without_one_failure();

    // The gateway is started again, and serves by the plan on its disk.
    assert!(world.gateways[0].stop().success());
    world.gateways[0].start_again();
    world.gateways[0].ready();
    let traffic = world.traffic(0, url);
    traffic.more(ENOUGH);
    traffic.without_one_failure();

    // So is the agent, which the gateway has given up meanwhile: as soon as the agent says that it is
    // ready, the gateway knows it.
    assert!(world.agent.stop().success());
    let gateway = &world.gateways[0];
    wait::until("the gateway notices", || {
        gateway
            .admin("/metrics")
            .contains("kakuremichi_peer_up{peer=\"edge\"} 0")
            .then_some(())
    });
    world.agent.start_again();
    world.agent.ready();
    let traffic = world.traffic(0, url);
    traffic.more(ENOUGH);

    // Control is back, and both take up what is new.
    world.control.start_again();
    let rest = world.control.rest();
    for node in ["edge", "gateway-1"] {
        wait::until("the nodes come back to Control", || {
            (rest.node(node)["connected"] == true).then_some(())
        });
    }
    let later = rest.create("services", &public("later", origin.port()));
    world.served("https://later.test/hello");
    rest.delete(&format!("services/{}", later["id"].as_str().unwrap()));
    world.gone(0, "https://later.test/hello");
    traffic.without_one_failure();
}

/// LESSONS: "online but dead, agent must be restarted by hand".
#[test]
fn a_node_that_is_killed_is_back_as_soon_as_it_is_started() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    for _ in 0..2 {
        world.gateways[0].kill();
        world.gateways[0].start_again();
        world.gateways[0].ready();
        world.served("https://web.test/hello");
        world.agent.kill();
        world.agent.start_again();
        world.agent.ready();
        let traffic = world.traffic(0, "https://web.test/hello");
        traffic.more(ENOUGH);
        traffic.without_one_failure();
    }
}
