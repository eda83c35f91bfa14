//! Who may reach a service.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use kakuremichi_tests::client::request;
use kakuremichi_tests::deployment::public;
use kakuremichi_tests::{Deployment, Origin, Reply, Version, wait};
use serde_json::{Value, json};

/// DESIGN section 2, invariant 5.
#[test]
fn without_a_policy_everybody_is_denied() {
    let Some(world) = Deployment::start() else { return };
    let origin = Origin::on(world.edge(), "origin");
    let mut service = public("web", origin.port());
    service.as_object_mut().unwrap().remove("policy");
    world.control.rest().create("services", &service);
    let page = world.answered(0, "https://web.test/hello", StatusCode::FORBIDDEN);
    assert!(page.text().contains("KKM-G003"), "{}", page.text());
    assert_eq!(origin.requests(), 0, "the target never heard of it");
}

#[test]
fn a_password_opens_a_service_and_is_not_passed_on() {
    let Some(world) = Deployment::start() else { return };
    let origin = Origin::on(world.edge(), "origin");
    let mut service = public("web", origin.port());
    service["policy"] = json!({
        "rules": [{ "name": "open-page", "when": { "path": "/status" }, "effect": "allow" }],
        "access": { "any_of": [{ "basic": { "users": [{ "name": "alice", "password": "correct horse" }] } }] },
    });
    let created = world.control.rest().create("services", &service);
    assert!(
        !created.to_string().contains("horse"),
        "a password is never shown: {created}"
    );
    let page = world.answered(0, "https://web.test/request", StatusCode::UNAUTHORIZED);
    assert!(
        page.headers[WWW_AUTHENTICATE]
            .to_str()
            .unwrap()
            .starts_with("Basic ")
    );
    assert!(page.text().contains("KKM-G004"), "{}", page.text());
    for wrong in ["alice:wrong", "bob:correct horse", "alice:", "alice"] {
        assert_eq!(
            with_basic(&world, wrong).status,
            StatusCode::UNAUTHORIZED,
            "{wrong}"
        );
    }
    assert_eq!(origin.requests(), 0);
    for _ in 0..3 {
        let reply = with_basic(&world, "alice:correct horse");
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert!(!reply.text().contains("authorization"), "{}", reply.text());
    }
    // A rule lets visitors past without a password.
    assert_eq!(
        world.get("https://web.test/status/204").status,
        StatusCode::NO_CONTENT
    );
}

/// DESIGN section 2, invariant 5: a revoked visitor's open flow is closed.
#[test]
fn what_is_open_is_closed_when_the_policy_changes() {
    let Some(world) = Deployment::start() else { return };
    let origin = Origin::on(world.edge(), "origin");
    let service = world.publish("web", origin.port());
    let path = format!("services/{}", service["id"].as_str().unwrap());
    let rest = world.control.rest();
    world.visit(async |visitor| {
        let mut socket = visitor.websocket("https://web.test/ws").await.unwrap();
        socket.send("here".into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), "here");
        // Another change of the plan leaves it alone.
        rest.create("services", &public("other", origin.port()));
        wait::until_async("the other service", async || {
            let reply = visitor.get("https://other.test/hello").await.ok()?;
            (reply.status == StatusCode::OK).then_some(())
        })
        .await;
        socket.send("still here".into()).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap().to_text().unwrap(),
            "still here"
        );

        let mut denied = public("web", origin.port());
        denied["policy"] = Value::Object(serde_json::Map::new());
        rest.replace(&path, &denied);
        let ends = async {
            loop {
                match socket.next().await {
                    Some(Ok(message)) if !message.is_close() => {}
                    _ => return,
                }
            }
        };
        tokio::time::timeout(wait::PATIENCE, ends).await.unwrap();
    });
    world.answered(0, "https://web.test/hello", StatusCode::FORBIDDEN);
}

/// A request with a user's name and password.
fn with_basic(world: &Deployment, credential: &str) -> Reply {
    let mut asked = request(Method::GET, "https://web.test/request");
    let value = format!("Basic {}", base64(credential.as_bytes()));
    let value = HeaderValue::from_str(&value).unwrap();
    asked.headers_mut().insert(AUTHORIZATION, value);
    world
        .visit(async |visitor| visitor.send(Version::Http1, asked).await)
        .unwrap()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut three = [0; 4];
        three[1..=chunk.len()].copy_from_slice(chunk);
        let number = u32::from_be_bytes(three);
        for place in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place > chunk.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
    text
}
