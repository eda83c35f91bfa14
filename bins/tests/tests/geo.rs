//! Rules about where a visitor is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;

use http::StatusCode;
use kakuremichi_tests::deployment::target;
use kakuremichi_tests::geo::{asn, country, database};
use kakuremichi_tests::{Deployment, Families, Origin};
use serde_json::{Value, json};

const URL: &str = "https://web.test/hello";

/// What a database has to say of the visitors, whose host may come from either of its addresses.
fn of_visitors(world: &Deployment, kind: &str, data: &Value) -> Vec<u8> {
    let v4 = world.visitors.v4().map(|address| format!("{address}/32"));
    let v6 = world.visitors.v6().map(|address| format!("{address}/128"));
    let networks: Vec<String> = v4.into_iter().chain(v6).collect();
    let networks: Vec<_> = networks
        .iter()
        .map(|network| (network.as_str(), data.clone()))
        .collect();
    database(kind, &networks)
}

fn only(name: &str, when: &Value) -> Value {
    json!({ "name": name, "when": { "not": when }, "effect": "deny" })
}

/// FEATURES E9, LESSONS advisory 5: missing, damaged and repaired while visitors come.
#[test]
fn rules_about_country_and_network_follow_the_databases() {
    let Some(mut world) = Deployment::with(Families::Both, 0) else {
        return;
    };
    let (countries, systems) = (world.data("country.mmdb"), world.data("asn.mmdb"));
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    world.add_gateway(&["--geo-country", &path(&countries), "--geo-asn", &path(&systems)]);
    world.agent.ready();
    let origin = Origin::on(world.edge(), "origin");
    let rest = world.control.rest();
    let service = |rules: &[Value]| {
        json!({
            "name": "web",
            "http": { "hosts": ["web.test"], "routes": [{ "targets": [target(origin.port())] }] },
            "policy": { "rules": rules, "access": "public" },
        })
    };
    let japan = only("abroad", &json!({ "country": "JP" }));
    let network = only("elsewhere", &json!({ "asn": 64_500 }));
    let made = rest.create("services", &service(&[japan.clone(), network]));

    // Neither is there: nobody passes, and the gateway is up nevertheless.
    world.answered(0, URL, StatusCode::FORBIDDEN);
    fs::write(
        &countries,
        of_visitors(&world, "GeoLite2-Country", &country("JP")),
    )
    .unwrap();
    fs::write(&systems, "garbage").unwrap();
    let one = format!("services/{}", made["id"].as_str().unwrap());
    rest.replace(&one, &service(&[japan]));
    world.answered(0, URL, StatusCode::OK);

    // The other one is repaired, and then says that the visitors' network is another one.
    let network = only("elsewhere", &json!({ "asn": 64_500 }));
    rest.replace(&one, &service(std::slice::from_ref(&network)));
    world.answered(0, URL, StatusCode::FORBIDDEN);
    fs::write(&systems, of_visitors(&world, "GeoLite2-ASN", &asn(64_500))).unwrap();
    world.answered(0, URL, StatusCode::OK);
    // Whatever a system's clock can tell apart, its length differs.
    let moved = of_visitors(&world, "GeoLite2-ASN of the next week", &asn(64_501));
    fs::write(&systems, moved).unwrap();
    world.answered(0, URL, StatusCode::FORBIDDEN);
}
