//! Garbage on every port is survived, and what is published is still served.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "abuse/garbage.rs"]
mod garbage;

use http::StatusCode;
use kakuremichi_tests::deployment::{Control, Gateway, target};
use kakuremichi_tests::{Deployment, Echo, Host, Origin, Process, Version, Visitor};
use serde_json::json;

use garbage::{datagrams, every_kind, link, requests};

const MIB: u64 = 1024 * 1024;

/// How much a process may grow by all of it.
const GROWTH_MAX: u64 = 64 * MIB;

#[test]
fn garbage_on_every_port_is_survived() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    let echo = Echo::on(world.edge());
    let tcp = json!({
        "name": "database", "tcp": { "port": 5432, "targets": [target(echo.port())] }, "policy": { "access": "public" },
    });
    world.control.rest().create("services", &tcp);
    // What is published later is served later, so both are served then.
    world.publish("web", origin.port());
    let before: Vec<(u32, u64)> = processes(&mut world)
        .map(|process| (process.id(), process.resident_memory()))
        .into();

    let (control, gateway) = (world.control.host(), world.gateways[0].host());
    // What stands open during all of it, and says nothing.
    let places = [
        control.at(Control::PORT),
        gateway.at(80),
        gateway.at(443),
        gateway.at(5432),
    ];
    let idle = world.visitors.block_on(async || garbage::idle(&places, 50).await);

    // Over TCP, from anywhere.
    for place in places {
        world.visitors.block_on(async || every_kind(place).await);
    }
    // Inside TLS.
    let visitor = world.visitor_at(0);
    world
        .visitors
        .block_on(async || requests(&visitor, "web.test", gateway.at(443)).await);
    let authority = std::fs::read_to_string(world.control.data().join("ca.pem")).unwrap();
    let client = Visitor::trusting(&[&authority]).at(control.address());
    world
        .visitors
        .block_on(async || requests(&client, "control.test", control.at(Control::PORT)).await);
    world
        .visitors
        .block_on(async || link(&client, world.control.url()).await);
    // On loopback, where the admin addresses are.
    for (host, port) in [(control, Control::ADMIN), (gateway, 7672), (world.edge(), 7673)] {
        host.block_on(async || every_kind(([127, 0, 0, 1], port).into()).await);
    }
    // Over UDP, to the gateway from anywhere, and to the agent from its own host.
    world
        .visitors
        .block_on(async || datagrams(gateway.at(Gateway::WIREGUARD)).await);
    for port in udp_ports(world.edge()) {
        world
            .edge()
            .block_on(async || datagrams(([127, 0, 0, 1], port).into()).await);
    }

    assert_eq!(world.get("https://web.test/hello").text(), "hello from origin\n");
    let h2 = world.visit(async |visitor| {
        let request = kakuremichi_tests::client::request(http::Method::GET, "https://web.test/hello");
        visitor.send(Version::Http2, request).await
    });
    assert_eq!(h2.unwrap().status, StatusCode::OK);
    world.publish("later", origin.port());
    for (name, port) in [("control", Control::ADMIN), ("gateway", 7672), ("agent", 7673)] {
        let process = match name {
            "control" => world.control.process(),
            "gateway" => world.gateways[0].process(),
            _ => world.agent.process(),
        };
        let ready = process.admin(port, "/readyz").unwrap();
        assert!(ready.starts_with("HTTP/1.1 200 "), "{name}: {ready}");
    }
    for (process, (id, memory)) in processes(&mut world).into_iter().zip(before) {
        let program = process.program();
        assert_eq!(process.id(), id, "{program:?} is still the same");
        let growth = process.resident_memory().saturating_sub(memory);
        assert!(growth <= GROWTH_MAX, "{program:?} grew by {} MiB", growth / MIB);
        for line in process.stderr().lines() {
            assert!(
                !line.contains("panicked") && !line.contains("\"level\":\"ERROR\""),
                "{program:?}: {line}"
            );
        }
    }
    drop(idle);
}

/// LESSONS, advisory 15: a page in a browser on the same machine reaches no admin address.
#[test]
fn an_admin_address_answers_to_its_own_name_only() {
    let Some(world) = Deployment::start() else { return };
    let hosts = [
        (world.control.host(), Control::ADMIN),
        (world.gateways[0].host(), 7672),
        (world.edge(), 7673),
    ];
    for (host, port) in hosts {
        let ask = |name: &str| {
            let mut asked = kakuremichi_tests::client::request(
                http::Method::GET,
                &format!("http://127.0.0.1:{port}/metrics"),
            );
            asked.headers_mut().insert("host", name.parse().unwrap());
            host.block_on(async || Visitor::trusting(&[]).send(Version::Http1, asked).await)
                .unwrap()
        };
        assert_eq!(ask("localhost").status, StatusCode::OK);
        assert_eq!(ask(&format!("127.0.0.1:{port}")).status, StatusCode::OK);
        for stranger in ["evil.example", "localhost.evil.example", "192.0.2.1", ""] {
            let status = ask(stranger).status;
            assert!(status.is_client_error(), "{stranger:?}: {status}");
        }
    }
}

fn processes(world: &mut Deployment) -> [&Process; 3] {
    [
        world.control.process(),
        world.gateways[0].process(),
        world.agent.process(),
    ]
}

/// The UDP ports that are open on a host.
fn udp_ports(host: &Host) -> Vec<u16> {
    let table = host
        .namespace()
        .run(|| std::fs::read_to_string("/proc/thread-self/net/udp").unwrap());
    let mut ports = Vec::new();
    for line in table.lines().skip(1) {
        let local = line.split_whitespace().nth(1).unwrap();
        let port = local.rsplit(':').next().unwrap();
        ports.push(u16::from_str_radix(port, 16).unwrap());
    }
    assert!(!ports.is_empty(), "the agent has a socket: {table}");
    ports
}
