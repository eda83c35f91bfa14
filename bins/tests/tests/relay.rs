//! A gateway that does not reach an agent has one that does pass flows on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use kakuremichi_tests::deployment::target;
use kakuremichi_tests::{Deployment, Echo, Families, Origin, wait};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const URL: &str = "https://web.test/hello";
/// A gateway that is gone is told to visitors within this time.
const TOLD: Duration = Duration::from_secs(15);

/// LESSONS: "502 when DNS picks a gateway without the tunnel". DESIGN section 2, invariant 1: also with Control gone.
#[test]
fn a_gateway_without_the_lane_serves_through_one_that_has_it() {
    let Some(mut world) = Deployment::with(Families::Both, 2) else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    let echo = Echo::on(world.edge());
    world.publish("web", origin.port());
    world.control.rest().create(
        "services",
        &json!({
            "name": "database",
            "tcp": { "port": 5432, "targets": [target(echo.port())] },
            "policy": { "access": "public" },
        }),
    );
    let second = world.control.rest().node("gateway-2")["id"].clone();
    let second = second.as_str().unwrap().to_owned();
    wait::until_right("an open port at the first gateway", || echoed(&world));
    wait::until_right("the gateways know each other", || {
        holds(&world, 0, "kakuremichi_sibling_agents{gateway=\"gateway-2\"} 1")
    });
    world.control.kill();

    // The agent and the first gateway lose each other: the second one passes on. Who comes before the first has
    // noticed waits, and is served, too.
    world.edge().loses(world.gateways[0].host());
    wait::until_right("a flow that is passed on", || {
        let answer = world.get(URL);
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        match counted(&world, 0, "kakuremichi_relay_flows_total") {
            0 => Err("none yet".to_owned()),
            _ => Ok(()),
        }
    });
    let traffic = world.traffic(0, URL);
    traffic.more(100);
    traffic.without_one_failure();
    echoed(&world).unwrap();
    assert!(counted(&world, 1, "kakuremichi_relayed_flows_total") > 1);
    // Both say so in their logs.
    let noted = format!("\"relay\":\"{second}\"");
    world.gateways[0].process().line_with(&noted);
    world.gateways[1].process().line_with("kakuremichi::relay");

    // They find each other again: new flows go straight.
    world.edge().finds();
    wait::until_right("the first gateway's own lane", || {
        holds(&world, 0, "kakuremichi_peer_up{peer=\"edge\"} 1")
    });
    let before = counted(&world, 0, "kakuremichi_relay_flows_total");
    let traffic = world.traffic(0, URL);
    traffic.more(20);
    traffic.without_one_failure();
    assert_eq!(counted(&world, 0, "kakuremichi_relay_flows_total"), before);

    // Lost again, and the second gateway is gone, too: visitors are told, soon.
    world.edge().loses(world.gateways[0].host());
    wait::until_right("a lane that is down", || {
        holds(&world, 0, "kakuremichi_peer_up{peer=\"edge\"} 0")
    });
    world.answered(0, URL, StatusCode::OK);
    world.gateways[1].kill();
    let begun = Instant::now();
    world.answered(0, URL, StatusCode::SERVICE_UNAVAILABLE);
    assert!(begun.elapsed() < TOLD, "{:?}", begun.elapsed());
    // It comes back, by the plan on its disk and without being told anything.
    world.gateways[1].start_again();
    world.answered(0, URL, StatusCode::OK);
}

/// Gateways that get other keys stay siblings: what one passes on for the other is passed on all the while.
#[test]
fn gateways_that_get_other_keys_pass_on_without_a_break() {
    let Some(world) = Deployment::with(Families::Both, 2) else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    wait::until_right("the gateways know each other", || {
        holds(&world, 0, "kakuremichi_sibling_agents{gateway=\"gateway-2\"} 1")
    });
    world.edge().loses(world.gateways[0].host());
    wait::until_right("a flow that is passed on", || {
        let answer = world.get(URL);
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        match counted(&world, 0, "kakuremichi_relay_flows_total") {
            0 => Err("none yet".to_owned()),
            _ => Ok(()),
        }
    });
    let rest = world.control.rest();
    let traffic = world.traffic(0, URL);
    traffic.more(100);
    for name in ["gateway-1", "gateway-2"] {
        let before = rest.node(name);
        let path = format!("nodes/{}/rotate-keys", before["id"].as_str().unwrap());
        let asked = rest.send(Method::POST, &path, Some(&json!({ "overlap": 3600 })));
        assert_eq!(asked.status, StatusCode::OK);
        wait::until("the gateway has new keys", || {
            (rest.node(name)["wireguard_key"] != before["wireguard_key"]).then_some(())
        });
        traffic.more(200);
    }
    traffic.without_one_failure();
}

/// Whether a line stands in the metrics of a gateway.
fn holds(world: &Deployment, gateway: usize, line: &str) -> Result<(), String> {
    let metrics = world.gateways[gateway].admin("/metrics");
    let found = metrics.lines().any(|shown| shown == line);
    found.then_some(()).ok_or(metrics)
}

/// What a counter of a gateway says.
fn counted(world: &Deployment, gateway: usize, name: &str) -> u64 {
    let metrics = world.gateways[gateway].admin("/metrics");
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("{name} is not in {metrics}"))
}

/// Sends some bytes to the TCP service at the first gateway, and gets them back.
fn echoed(world: &Deployment) -> Result<(), String> {
    let address = world.gateways[0].host().at(5432);
    let echoed = world.visitors.block_on(async || {
        let talk = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"hello").await?;
            let mut back = [0; 5];
            stream.read_exact(&mut back).await?;
            std::io::Result::Ok(back)
        };
        tokio::time::timeout(wait::PATIENCE, talk).await
    });
    match echoed {
        Ok(Ok(back)) if back == *b"hello" => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
