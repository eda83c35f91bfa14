//! The main job: what a visitor sends reaches a target behind NAT, and what the target answers comes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use kakuremichi_tests::client::request;
use kakuremichi_tests::deployment::{public, target};
use kakuremichi_tests::{Deployment, Families, Origin, Pattern, Process, TestCa, Version};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const MIB: u64 = 1024 * 1024;

/// How much each process may grow while bytes pass, however many.
const GROWTH_MAX: u64 = 64 * MIB;

#[test]
fn a_gibibyte_each_way_arrives_whole_and_no_process_grows_with_it() {
    const LENGTH: u64 = 1024 * MIB;
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let before: Vec<u64> = processes(&mut world).map(resident).into();
    there_and_back(&world, Version::Http1, LENGTH);
    for (process, before) in processes(&mut world).into_iter().zip(before) {
        let growth = process.peak_memory().saturating_sub(before);
        let program = process.program();
        assert!(growth <= GROWTH_MAX, "{program:?} grew by {} MiB", growth / MIB);
    }
}

#[test]
fn everything_works_over_ipv6_alone() {
    over(Families::V6, Version::Http2);
}

#[test]
fn everything_works_over_ipv4_alone() {
    over(Families::V4, Version::Http1);
}

fn over(families: Families, version: Version) {
    let Some(world) = Deployment::with(families, 1) else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    there_and_back(&world, version, 64 * MIB);
}

#[test]
fn the_agents_host_cannot_be_reached_from_outside() {
    let Some(world) = Deployment::start() else { return };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let target = world.edge().at(origin.port());
    let outsiders = [&world.visitors, world.gateways[0].host(), world.control.host()];
    for host in outsiders {
        let connected = host.block_on(async || {
            let connect = TcpStream::connect(target);
            matches!(
                tokio::time::timeout(Duration::from_millis(300), connect).await,
                Ok(Ok(_))
            )
        });
        assert!(!connected, "{target} was reached from outside");
    }
    assert_eq!(world.get("https://web.test/hello").text(), "hello from origin\n");
}

#[test]
fn the_target_is_told_who_asks_and_what_for() {
    let Some(world) = Deployment::start() else { return };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    for version in [Version::Http1, Version::Http2] {
        let mut asked = request(Method::GET, "https://web.test/request?a=1");
        // LESSONS, advisory 3: what a visitor claims about itself never gets through, however it is spelled.
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded-proto",
            "x-forwarded-host",
        ] {
            let claim = HeaderValue::from_static("203.0.113.66");
            asked.headers_mut().insert(HeaderName::from_static(name), claim);
        }
        let told = world
            .visit(async |visitor| visitor.send(version, asked).await)
            .unwrap()
            .json();
        assert_eq!(told["uri"], "/request?a=1", "{told}");
        assert_eq!(header(&told, "host"), ["web.test"], "{told}");
        assert_eq!(
            header(&told, "x-forwarded-for"),
            [world.visitors.address().to_string()],
            "{told}"
        );
        assert_eq!(header(&told, "x-forwarded-proto"), ["https"], "{told}");
        assert_eq!(header(&told, "x-forwarded-host"), ["web.test"], "{told}");
        assert!(header(&told, "x_forwarded_for").is_empty(), "{told}");
        let peer: SocketAddr = told["peer"].as_str().unwrap().parse().unwrap();
        assert!(
            peer.ip().to_canonical().is_loopback(),
            "the agent itself comes to its target: {peer}"
        );
    }
}

#[test]
fn plain_http_is_redirected_to_https() {
    let Some(world) = Deployment::start() else { return };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let reply = world.get("http://web.test/request?a=1");
    assert!(reply.status.is_redirection(), "{reply:?}");
    assert_eq!(reply.headers[LOCATION], "https://web.test/request?a=1");
}

#[test]
fn an_https_target_is_verified_through_the_tunnel() {
    let Some(world) = Deployment::start() else { return };
    let ca = TestCa::new("inside");
    let origin = Origin::on_with_tls(world.edge(), "origin", &ca.issue(&["inside.test"]));
    let stranger = TestCa::new("stranger");
    let service = |name: &str, root: &TestCa| {
        json!({
            "name": name,
            "http": { "hosts": [format!("{name}.test")], "routes": [{ "targets": [{
                "agent": "edge", "address": format!("127.0.0.1:{}", origin.port()),
                "tls": { "server_name": "inside.test", "roots": [root.pem()] },
            }] }] },
            "policy": { "access": "public" },
        })
    };
    let rest = world.control.rest();
    rest.create("services", &service("good", &ca));
    world.served("https://good.test/hello");
    rest.create("services", &service("bad", &stranger));
    let page = world.answered(0, "https://bad.test/hello", StatusCode::BAD_GATEWAY);
    assert!(page.text().contains("KKM-G009"), "{}", page.text());
}

#[test]
fn a_service_goes_where_its_routes_say() {
    let Some(world) = Deployment::start() else { return };
    let (front, back) = (
        Origin::on(world.edge(), "front"),
        Origin::on(world.edge(), "back"),
    );
    let mut service = public("web", front.port());
    let route = json!({ "path": "/status", "targets": [target(back.port())] });
    service["http"]["routes"].as_array_mut().unwrap().push(route);
    let created = world.control.rest().create("services", &service);
    assert_eq!(created["urls"], json!(["https://web.test/"]), "{created}");
    world.served("https://web.test/hello");
    assert_eq!(
        world.get("https://web.test/status/201").text(),
        "/status/201 from back\n"
    );
    assert_eq!(world.get("https://web.test/hello").text(), "hello from front\n");
    // LESSONS, advisory 1: one path, normalised once, is routed and forwarded.
    assert_eq!(
        world.get("https://web.test//%73tatus/202").text(),
        "/status/202 from back\n"
    );
    for ambiguous in [
        "/hello/../status/203",
        "/hello/%2e%2e/status/203",
        "/status%2F203",
        "/hello%00",
    ] {
        let reply = world.get(&format!("https://web.test{ambiguous}"));
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{ambiguous}");
    }
}

/// Downloads and uploads a pattern, and compares what arrived.
fn there_and_back(world: &Deployment, version: Version, length: u64) {
    let pattern = Pattern::new(7);
    let expected = pattern.digest(length);
    world.visit(async |visitor| {
        let url = format!("https://web.test/bytes/{length}?7");
        let (status, bytes, digest) = visitor.download(version, &url).await.unwrap();
        assert_eq!((status, bytes), (StatusCode::OK, length));
        assert_eq!(digest, expected, "downloaded bytes differ");

        let reply = visitor
            .upload(version, "https://web.test/digest", &pattern, length)
            .await
            .unwrap();
        assert_eq!(
            reply.json(),
            json!({ "bytes": length, "sha256": expected }),
            "uploaded bytes differ"
        );
    });
}

fn processes(world: &mut Deployment) -> [&Process; 3] {
    [
        world.gateways[0].process(),
        world.agent.process(),
        world.control.process(),
    ]
}

fn resident(process: &Process) -> u64 {
    process.forget_peak();
    process.resident_memory()
}

/// The values of a header that `/request` tells.
fn header<'a>(told: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = told["headers"].as_array().unwrap().iter();
    headers
        .filter(|pair| pair[0] == name)
        .filter_map(|pair| pair[1].as_str())
        .collect()
}
