//! Several gateways: each of them serves everything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use kakuremichi_tests::deployment::public;
use kakuremichi_tests::{Deployment, Families, Origin, TestCa, Visitor};

const URL: &str = "https://web.test/hello";

/// DESIGN section 2, invariant 4: losing a gateway costs at most the requests in flight on it.
#[test]
fn when_one_gateway_is_killed_the_other_serves() {
    let Some(mut world) = Deployment::with(Families::Both, 2) else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let traffic = world.traffic(1, URL);
    traffic.more(50);
    world.gateways[0].kill();
    traffic.more(100);
    // What is published now is served by the one that is left.
    world
        .control
        .rest()
        .create("services", &public("later", origin.port()));
    let url = "https://later.test/hello";
    world.answered(1, url, http::StatusCode::OK);
    // The other learns of it when it is back.
    world.gateways[0].start_again();
    world.gateways[0].ready();
    world.answered(0, url, http::StatusCode::OK);
    world.answered(0, URL, http::StatusCode::OK);
    traffic.without_one_failure();
}

/// LESSONS: "502 when DNS picks a gateway without the tunnel".
#[test]
fn a_gateway_that_joins_later_serves_what_was_there_before() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let traffic = world.traffic(0, URL);
    world.add_gateway(&[]);
    world.answered(1, URL, http::StatusCode::OK);
    traffic.more(10);
    traffic.without_one_failure();
}

#[test]
fn given_certificates_are_chosen_by_name() {
    let Some(mut world) = Deployment::with(Families::Both, 0) else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    let ca = TestCa::new("given");
    let (one, other) = (ca.issue(&["one.test"]), ca.issue(&["*.other.test"]));
    let mut flags = Vec::new();
    for (name, issued) in [("one", &one), ("other", &other)] {
        let (certificate, key) = (
            world.data(&format!("{name}.pem")),
            world.data(&format!("{name}.key")),
        );
        std::fs::write(&certificate, &issued.certificate_pem).unwrap();
        std::fs::write(&key, &issued.key_pem).unwrap();
        flags.extend(["--tls-cert".to_owned(), certificate.display().to_string()]);
        flags.extend(["--tls-key".to_owned(), key.display().to_string()]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let address = world.add_gateway(&flags).host().address();
    let mut service = public("one", origin.port());
    service["http"]["hosts"] = serde_json::json!(["one.test", "a.other.test"]);
    world.control.rest().create("services", &service);
    let visitor = Visitor::trusting(&[ca.pem()]).at(address);
    for url in ["https://one.test/hello", "https://a.other.test/hello"] {
        kakuremichi_tests::wait::until_right(url, || {
            let reply = world.visitors.block_on(async || visitor.get(url).await);
            match reply {
                Ok(reply) if reply.status.is_success() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}
