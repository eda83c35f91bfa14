//! Requests that are sent again.

use super::*;

async fn keyed(api: &Api, method: &str, path: &str, key: &str, body: Option<Value>) -> Answer {
    let headers = [("idempotency-key", key)];
    api.send(method, &format!("{PREFIX}{path}"), &headers, body).await
}

fn replayed(answer: &Answer) -> bool {
    answer.header(HeaderName::from_static("idempotency-replayed")) == "true"
}

async fn count(api: &Api, path: &str) -> usize {
    api.get(path).await.body["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_request_with_a_key_is_carried_out_once_and_answered_as_it_was() {
    let api = Api::start().await;
    let role = |name: &str| Some(json!({"name": name, "permissions": ["nodes.read"]}));
    let made = keyed(&api, "POST", "/roles", "\"one\"", role("first")).await;
    made.is(201, "");
    assert!(!replayed(&made));
    // The key is the same with and without quotes.
    let again = keyed(&api, "POST", "/roles", "one", role("first")).await;
    again.is(201, "");
    assert!(replayed(&again));
    assert_eq!(
        (
            &again.body,
            again.header(header::ETAG),
            again.header(header::CONTENT_TYPE)
        ),
        (
            &made.body,
            made.header(header::ETAG),
            made.header(header::CONTENT_TYPE)
        )
    );
    keyed(&api, "POST", "/roles", "one", role("second"))
        .await
        .is(422, "KKM-A020");
    keyed(&api, "POST", "/groups", "one", role("first"))
        .await
        .is(422, "KKM-A020");
    assert_eq!(count(&api, "/roles").await, 2);

    let path = format!("/roles/{}", text(&made.body["id"]));
    for _ in 0..2 {
        keyed(&api, "DELETE", &path, "two", None).await.is(204, "");
    }
    api.send("DELETE", &format!("{PREFIX}{path}"), &[], None)
        .await
        .is(404, "KKM-A004");

    // Another caller's key is another key, and what was refused is tried anew.
    let other = api.post("/api-keys", json!({"name": "other"})).await;
    let bearer = format!("Bearer {}", text(&other.body["key"]));
    let headers = [("authorization", &*bearer), ("idempotency-key", "one")];
    let body = Some(json!({"name": "theirs"}));
    api.send("POST", "/api/v1/groups", &headers, body)
        .await
        .is(201, "");
    keyed(&api, "POST", "/groups", "three", Some(json!({"name": "theirs"})))
        .await
        .is(409, "KKM-A005");
    keyed(&api, "POST", "/groups", "three", Some(json!({"name": "ours"})))
        .await
        .is(201, "");
    for bad in ["", "\"\"", &"x".repeat(256)] {
        keyed(&api, "POST", "/groups", bad, Some(json!({"name": "none"})))
            .await
            .names("Idempotency-Key");
    }
}

#[tokio::test]
async fn what_is_shown_once_is_not_kept() {
    let api = Api::start().await;
    let owner = api.get("/roles").await.body["items"][0]["id"].clone();
    let bodies = [
        ("/tokens", "token", json!({"name": "t", "role": "agent"})),
        ("/api-keys", "key", json!({"name": "k"})),
        (
            "/invitations",
            "invitation",
            json!({"email": "a@example.net", "roles": [owner]}),
        ),
    ];
    let mut secrets = Vec::new();
    for (path, field, body) in bodies {
        let made = keyed(&api, "POST", path, path, Some(body.clone())).await;
        made.is(201, "");
        secrets.push(text(&made.body[field]));
        let before = count(&api, path).await;
        let again = keyed(&api, "POST", path, path, Some(body)).await;
        again.is(409, "KKM-A022");
        assert!(
            text(&again.body["detail"]).contains(&text(&made.body["id"])),
            "{again:?}"
        );
        assert_eq!(count(&api, path).await, before);
    }
    for file in std::fs::read_dir(api._directory.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for secret in &secrets {
            assert!(
                !bytes
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes())
            );
        }
    }
}

#[tokio::test]
async fn of_two_at_once_one_is_carried_out() {
    let api = Api::start().await;
    let ask = || keyed(&api, "POST", "/groups", "same", Some(json!({"name": "g"})));
    let both = tokio::join!(ask(), ask());
    for answer in [&both.0, &both.1] {
        match answer.status.as_u16() {
            201 => {}
            _ => answer.is(409, "KKM-A021"),
        }
    }
    assert_eq!(count(&api, "/groups").await, 1);
    let after = ask().await;
    after.is(201, "");
    assert!(replayed(&after));
}
