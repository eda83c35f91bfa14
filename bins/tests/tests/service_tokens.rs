//! Programs that come with a service token, at real gateways and a real Control.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use kakuremichi_tests::client::request;
use kakuremichi_tests::deployment::public;
use kakuremichi_tests::{Deployment, Origin, Reply, Version, wait};
use serde_json::{Value, json};

const URL: &str = "https://web.test/request";
const FIELD: HeaderName = HeaderName::from_static("x-kakuremichi-service-token");

#[test]
fn a_service_token_opens_what_names_it_until_it_is_deleted() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    let rest = world.control.rest();
    let token = |name: &str| {
        let made = rest.create("service-tokens", &json!({ "name": name }));
        let text = made["token"].as_str().unwrap().to_owned();
        (format!("service-tokens/{}", made["id"].as_str().unwrap()), text)
    };
    let ((ci, secret), (_, other)) = (token("ci"), token("other"));
    let mut service = public("web", origin.port());
    service["policy"] = json!({ "access": { "any_of": [{ "service_token": { "tokens": ["ci"] } }] } });
    rest.create("services", &service);

    let page = world.answered(0, URL, StatusCode::UNAUTHORIZED);
    let asked = page.headers[WWW_AUTHENTICATE].to_str().unwrap();
    assert!(asked.starts_with("Bearer "), "{asked}");
    assert!(page.text().contains("KKM-G004"), "{}", page.text());
    wait::until("the token to be known", || {
        let reply = with(&world, &FIELD, &secret);
        (reply.status == StatusCode::OK).then_some(())
    });
    let bearer = format!("Bearer {secret}");
    for (field, value) in [(&AUTHORIZATION, &bearer), (&FIELD, &secret)] {
        let reply = with(&world, field, value);
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let seen = reply.text();
        assert!(
            !seen.contains("kkm_service_")
                && !seen.contains("x-kakuremichi-service-token")
                && !seen.contains("authorization"),
            "the target never sees it: {seen}"
        );
        let id = ci.strip_prefix("service-tokens/").unwrap();
        assert!(
            seen.contains(id) && seen.contains("x-kakuremichi-assertion"),
            "but who it is: {seen}"
        );
    }
    let served = origin.requests();
    assert_eq!(with(&world, &FIELD, &other).status, StatusCode::FORBIDDEN);
    let mut wrong = secret.clone();
    wrong.replace_range(wrong.len() - 1.., if secret.ends_with('a') { "b" } else { "a" });
    assert_eq!(with(&world, &FIELD, &wrong).status, StatusCode::UNAUTHORIZED);
    assert_eq!(origin.requests(), served, "the target never heard of those");

    // What is open goes with the token.
    let shown = HeaderValue::from_str(&secret).unwrap();
    world.visit(async |visitor| {
        let mut socket = visitor
            .websocket_with("https://web.test/ws", &[(FIELD, shown)])
            .await
            .unwrap();
        socket.send("here".into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), "here");
        rest.delete(&ci);
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
    assert_eq!(with(&world, &FIELD, &secret).status, StatusCode::UNAUTHORIZED);

    // Gateways verify by themselves: with Control gone, a token that is good goes on to be.
    service["policy"] = json!({ "access": { "any_of": [{ "service_token": {} }] } });
    let path = format!("services/{}", service_id(&rest.get("services")));
    rest.replace(&path, &service);
    wait::until("the new policy", || {
        (with(&world, &FIELD, &other).status == StatusCode::OK).then_some(())
    });
    world.control.kill();
    assert_eq!(with(&world, &FIELD, &other).status, StatusCode::OK);
    assert_eq!(with(&world, &FIELD, &secret).status, StatusCode::UNAUTHORIZED);
}

fn service_id(services: &Value) -> String {
    services["items"][0]["id"].as_str().unwrap().to_owned()
}

fn with(world: &Deployment, field: &HeaderName, value: &str) -> Reply {
    let mut asked = request(Method::GET, URL);
    asked
        .headers_mut()
        .insert(field, HeaderValue::from_str(value).unwrap());
    world
        .visit(async |visitor| visitor.send(Version::Http1, asked).await)
        .unwrap()
}
