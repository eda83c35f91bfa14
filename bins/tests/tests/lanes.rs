//! Lanes of TLS streams: where UDP does not get through, and where an operator wants them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, Instant};

use kakuremichi_tests::deployment::target;
use kakuremichi_tests::{Deployment, Echo, Origin, Pattern, Proxy, wait};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// UDP that is not answered is noticed, and flows moved, within this time.
const NOTICED: Duration = Duration::from_secs(15);

/// The same where TLS streams stand by.
const TAKEN_OVER: Duration = Duration::from_secs(10);

/// DESIGN section 6: upgraded and downgraded by a path state machine.
#[test]
fn flows_move_to_tls_when_udp_is_swallowed_and_back_when_it_passes() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let url = "https://web.test/hello";
    assert!(!over_tls(&world));

    world.edge().swallows_udp();
    let begun = Instant::now();
    wait::until_right("flows over TLS", || {
        let shown = over_tls(&world) && up(&world);
        shown.then_some(()).ok_or_else(|| world.agent.admin("/metrics"))
    });
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    world.served(url);
    let traffic = world.traffic(0, url);
    traffic.more(100);
    // The agent is ready, and the gateway says what it goes by.
    world.agent.ready();
    let metrics = world.gateways[0].admin("/metrics");
    assert!(
        metrics.contains("kakuremichi_peer_over_tls{peer=\"edge\"} 1"),
        "{metrics}"
    );

    world.edge().passes_udp();
    wait::until_right("flows over WireGuard", || {
        let shown = !over_tls(&world) && up(&world);
        shown.then_some(()).ok_or_else(|| world.agent.admin("/metrics"))
    });
    traffic.more(100);
    traffic.without_one_failure();
}

/// Issue 4: new flows go to the healthy lane within seconds. With TLS streams that stand by they do before it is
/// known that WireGuard is dead, and nobody has to dial then.
#[test]
fn a_standby_takes_over_when_udp_is_swallowed_and_stands_by_again() {
    let Some(world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let url = "https://web.test/hello";
    wait::until_right("a standby", || {
        let shown = stands_by(&world) && !over_tls(&world);
        shown.then_some(()).ok_or_else(|| world.agent.admin("/metrics"))
    });

    world.edge().swallows_udp();
    let begun = Instant::now();
    wait::until("flows over TLS", || over_tls(&world).then_some(()));
    let took = begun.elapsed();
    // The lane never counted as down: it was left while it was in doubt.
    assert!(up(&world) && took < TAKEN_OVER, "{took:?}");
    world.served(url);
    let traffic = world.traffic(0, url);
    traffic.more(100);

    world.edge().passes_udp();
    wait::until("flows over WireGuard", || (!over_tls(&world)).then_some(()));
    traffic.more(100);
    traffic.without_one_failure();
    assert!(stands_by(&world) && up(&world));
}

#[test]
fn a_pinned_lane_carries_everything_without_udp() {
    const LENGTH: usize = 64 * 1024 * 1024;
    let Some(world) = Deployment::with_agent(&["--lane", "tls"]) else {
        return;
    };
    world.edge().swallows_udp();
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    assert!(over_tls(&world) && up(&world));

    // As much again and again in both directions, to the byte.
    let echo = Echo::on(world.edge());
    world.control.rest().create(
        "services",
        &json!({
            "name": "database",
            "tcp": { "port": 5432, "targets": [target(echo.port())] },
            "policy": { "access": "public" },
        }),
    );
    let address = world.gateways[0].host().at(5432);
    wait::until_right("an open port", || {
        let connected = world
            .visitors
            .block_on(async || TcpStream::connect(address).await);
        connected.map(drop).map_err(|error| error.to_string())
    });
    let bytes = Pattern::new(7).bytes(LENGTH);
    let back = world.visitors.block_on(async || {
        let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        let mut back = Vec::with_capacity(LENGTH);
        let send = async {
            write.write_all(&bytes).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let both = async { tokio::join!(send, read.read_to_end(&mut back)).1 };
        tokio::time::timeout(wait::PATIENCE * 2, both)
            .await
            .unwrap()
            .unwrap();
        back
    });
    assert!(
        back == bytes,
        "{} bytes came back, some of them others",
        back.len()
    );
}

/// The network lets nothing out but through a proxy: Control and the gateway are reached all the same.
#[test]
fn everything_leaves_through_a_connect_proxy() {
    through_a_proxy("http");
}

#[test]
fn everything_leaves_through_a_socks_proxy() {
    through_a_proxy("socks5");
}

fn through_a_proxy(scheme: &str) {
    // The proxy, which lives in this process, resolves no names of the test.
    let Some(mut world) = Deployment::by_address() else {
        return;
    };
    let host = world.network.host("proxy");
    let proxy = Proxy::on(&host, 3128);
    let origin = Origin::on(world.edge(), "origin");
    world.agent.kill();
    world.edge().leaves_only_to(proxy.port());
    let url = proxy.url(scheme);
    world
        .agent
        .start_again_with(&["--lane", "tls", "--egress-proxy", &url]);
    world.agent.ready();
    world.publish("web", origin.port());
    assert!(over_tls(&world) && up(&world));
    // The link to Control, the lane's control connection, and those for flows.
    assert!(proxy.led() >= 4, "{}", proxy.led());
}

/// A revoked agent is cut off, over TLS too.
#[test]
fn a_revoked_agent_serves_nobody() {
    let Some(world) = Deployment::with_agent(&["--lane", "tls"]) else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let rest = world.control.rest();
    let edge = rest.node("edge")["id"].as_str().unwrap().to_owned();
    rest.revoke(&format!("nodes/{edge}"));
    wait::until_right("nothing over TLS", || {
        let metrics = world.gateways[0].admin("/metrics");
        if metrics.contains("kakuremichi_peer_over_tls{peer=\"edge\"}") {
            return Err(metrics);
        }
        Ok(())
    });
    world.answered(0, "https://web.test/hello", http::StatusCode::SERVICE_UNAVAILABLE);
}

fn over_tls(world: &Deployment) -> bool {
    lane(world, "kakuremichi_lane_over_tls")
}

fn stands_by(world: &Deployment) -> bool {
    lane(world, "kakuremichi_lane_standby")
}

fn up(world: &Deployment) -> bool {
    lane(world, "kakuremichi_lane_up")
}

/// Whether a gauge of the lane to the first gateway is one.
fn lane(world: &Deployment, name: &str) -> bool {
    let line = format!("{name}{{gateway=\"gateway-1\"}} 1");
    world.agent.admin("/metrics").lines().any(|shown| shown == line)
}
