//! Targets that are down, slow, sick or several, and what visitors are told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use http::header::{ACCEPT, HeaderValue};
use http::{Method, StatusCode};
use kakuremichi_tests::client::request;
use kakuremichi_tests::deployment::{public, target};
use kakuremichi_tests::{Deployment, Origin, Version, wait};
use serde_json::json;

#[test]
fn a_page_says_whether_the_target_refused_timed_out_or_broke_off() {
    let Some(world) = Deployment::start() else { return };
    let origin = Origin::on(world.edge(), "origin");
    let (nobody, hole) = (4001, 4002);
    world.edge().swallows(hole);
    let mut service = public("web", origin.port());
    let routes = service["http"]["routes"].as_array_mut().unwrap();
    routes.push(json!({ "path": "/refused", "targets": [target(nobody)] }));
    routes.push(json!({ "path": "/hole", "targets": [target(hole)] }));
    world.control.rest().create("services", &service);
    world.served("https://web.test/hello");

    let expectations = [
        ("/refused", StatusCode::BAD_GATEWAY, "KKM-G006", "refused"),
        ("/hole", StatusCode::GATEWAY_TIMEOUT, "KKM-G007", "in time"),
        (
            "/cut",
            StatusCode::BAD_GATEWAY,
            "KKM-G008",
            "closed the connection",
        ),
    ];
    for (path, status, code, words) in expectations {
        let url = format!("https://web.test{path}");
        for kind in ["text/html", "application/json", "*/*"] {
            let mut asked = request(Method::GET, &url);
            asked.headers_mut().insert(ACCEPT, HeaderValue::from_static(kind));
            if path == "/hole" && kind != "text/html" {
                continue; // Once is slow enough.
            }
            let reply = world
                .visit(async |visitor| visitor.send(Version::Http1, asked).await)
                .unwrap();
            let page = reply.text();
            assert_eq!(reply.status, status, "{path}: {page}");
            assert!(page.contains(code) && page.contains(words), "{path}: {page}");
            assert!(
                kind != "text/html" || page.starts_with("<!doctype html>"),
                "{page}"
            );
            assert!(kind != "application/json" || page.starts_with('{'), "{page}");
        }
    }
}

#[test]
fn a_page_says_that_the_agent_is_offline_until_it_is_back() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    world.agent.kill();
    // From the first request on, although the gateway cannot know yet.
    let page = world.get("https://web.test/hello");
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{}", page.text());
    assert!(page.text().contains("KKM-G005"), "{}", page.text());
    assert!(page.headers.contains_key("retry-after"));
    world.agent.start_again();
    world.served("https://web.test/hello");
}

/// DESIGN section 2, invariant 6: online means that the target answers its health check, too.
#[test]
fn sick_targets_are_left_out_until_they_are_well() {
    let Some(world) = Deployment::start() else { return };
    let one = Origin::on(world.edge(), "one");
    let two = Origin::on(world.edge(), "two");
    let service = json!({
        "name": "web",
        "http": { "hosts": ["web.test"], "routes": [{
            "targets": [target(one.port()), target(two.port())],
            "health": {
                "check": { "http": { "path": "/hello" } },
                "interval_ms": 200, "timeout_ms": 2000, "unhealthy_after": 1, "healthy_after": 1,
            },
        }] },
        "policy": { "access": "public" },
    });
    world.control.rest().create("services", &service);
    world.served("https://web.test/hello");
    answered_by(&world, &["one", "two"]);
    let port = two.port();
    drop(two);
    answered_by(&world, &["one"]);
    let two = Origin::on_port(world.edge(), port, "two");
    answered_by(&world, &["one", "two"]);
    drop((one, two));
    let page = world.answered(0, "https://web.test/hello", StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.text().contains("KKM-G010"), "{}", page.text());
}

/// Waits until ten requests in a row are answered by these origins, in turn, and by no other.
#[track_caller]
fn answered_by(world: &Deployment, names: &[&str]) {
    wait::until_right("answers of the right targets", || {
        let answers: Vec<String> = (0..10)
            .map(|_| world.get("https://web.test/hello").text())
            .collect();
        let right = |answer: &String| names.iter().any(|name| *answer == format!("hello from {name}\n"));
        let each = |name: &&str| answers.contains(&format!("hello from {name}\n"));
        if answers.iter().all(right) && names.iter().all(each) {
            Ok(())
        } else {
            Err(format!("{answers:?}"))
        }
    });
}

#[test]
fn what_is_not_published_is_not_there() {
    let Some(world) = Deployment::start() else { return };
    let origin = Origin::on(world.edge(), "origin");
    let mut service = public("web", origin.port());
    service["http"]["routes"][0]["path"] = json!("/hello");
    world.control.rest().create("services", &service);
    world.served("https://web.test/hello");
    let page = world.get("https://web.test/other");
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.text().contains("KKM-G002"), "{}", page.text());
    // There is no certificate for a name that no service has.
    world.gone(0, "https://other.test/");
    // Nor does the certificate of one service open another.
    let mut asked = request(Method::GET, "https://web.test/hello");
    asked
        .headers_mut()
        .insert("host", HeaderValue::from_static("other.test"));
    let page = world
        .visit(async |visitor| visitor.send(Version::Http1, asked).await)
        .unwrap();
    assert!(
        page.status.is_client_error() && page.text().contains("KKM-G001"),
        "{}",
        page.text()
    );
}
