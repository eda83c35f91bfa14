//! Service tokens, and the policies that take them.

use super::*;

#[tokio::test]
async fn a_service_token_is_shown_once_and_stored_hashed() {
    let api = Api::start().await;
    let made = api
        .post("/service-tokens", json!({"name": "ci", "expires_in": 3600}))
        .await;
    made.is(201, "");
    let secret = made.body["token"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("kkm_service_"), "{secret}");
    let path = format!("/service-tokens/{}", made.body["id"].as_str().unwrap());
    for answer in [api.get(&path).await, api.get("/service-tokens").await] {
        answer.is(200, "");
        assert!(!answer.text.contains("kkm_service_"), "it is never shown again");
    }
    let id: kakuremichi_core::store::RecordId = made.body["id"].as_str().unwrap().parse().unwrap();
    let store = api.control.use_cases().store();
    let stored = store.get(id).await.unwrap().unwrap();
    let text: kakuremichi_proto::identity::ServiceTokenText = secret.parse().unwrap();
    let kakuremichi_core::store::StoreRecord::ServiceToken(token) = stored.value else {
        panic!("a service token")
    };
    assert_eq!(token.secret_hash, text.secret_hash());
    // It is no credential for the API.
    let bearer = format!("Bearer {secret}");
    api.send("GET", "/api/v1/me", &[("authorization", &bearer)], None)
        .await
        .is(401, "KKM-A002");

    api.post("/service-tokens", json!({"name": "ci"}))
        .await
        .is(409, "KKM-A005");
    let past = json!({"name": "late", "expires_at": "2020-01-01T00:00:00Z"});
    api.post("/service-tokens", past).await.is(400, "KKM-A001");
    let path = format!("{PREFIX}{path}");
    let renamed = api
        .send(
            "PATCH",
            &path,
            &[("if-match", "\"1\"")],
            Some(json!({"name": "cd"})),
        )
        .await;
    assert_eq!((&renamed.body["name"], renamed.version()), (&json!("cd"), "2"));
    assert_eq!(
        renamed.body["expires_at"], made.body["expires_at"],
        "what is left out stays"
    );
    api.send("DELETE", &path, &[], None).await.is(204, "");
    api.send("GET", &path, &[], None).await.is(404, "KKM-A004");
    let audit = api.get("/audit").await.text;
    for action in [
        "service_token.create",
        "service_token.update",
        "service_token.delete",
    ] {
        assert!(audit.contains(action), "{action}");
    }
    assert!(!audit.contains("kkm_service_"));
}

#[tokio::test]
async fn policies_name_service_tokens() {
    let api = Api::start().await;
    let token = async |name: &str| {
        let made = api.post("/service-tokens", json!({"name": name})).await;
        made.body["id"].as_str().unwrap().to_owned()
    };
    let (ci, other) = (token("ci").await, token("other").await);
    let service = |method: Value| {
        json!({"name": "s", "http": {"hosts": ["s.example"], "routes": [{"targets": []}]},
               "policy": {"access": {"any_of": [{"service_token": method}]}}})
    };
    let made = api.post("/services", service(json!({"tokens": ["ci"]}))).await;
    made.is(201, "");
    let method = &made.body["policy"]["access"]["any_of"][0]["service_token"];
    assert_eq!(method, &json!({"tokens": [ci]}));
    let unknown = service(json!({"tokens": ["nobody"]}));
    let path = format!("{PREFIX}/services/{}", made.body["id"].as_str().unwrap());
    let refused = api.send("PUT", &path, &[], Some(unknown)).await;
    refused.names("policy.access.any_of[0].service_token.tokens[0]");

    let decision = async |visitor: Value| {
        let asked = json!({"url": "https://s.example/", "address": "192.0.2.1", "visitor": visitor});
        let told = api.post("/simulate", asked).await;
        told.is(200, "");
        (text(&told.body["decision"]), text(&told.body["reason"]))
    };
    assert_eq!(
        decision(json!({"service_token": {"token": "ci"}})).await.0,
        "permit"
    );
    assert_eq!(
        decision(json!({"service_token": {"token": other}})).await.0,
        "deny"
    );
    let (asked, how) = decision(Value::Null).await;
    assert!(
        asked == "challenge" && how.contains("to show a service token"),
        "{how}"
    );

    // A token that is gone opens nothing, and the policy can be described as it was.
    let gone = format!("{PREFIX}/service-tokens/{ci}");
    api.send("DELETE", &gone, &[], None).await.is(204, "");
    let same = service(json!({"tokens": [ci]}));
    api.send("PUT", &path, &[], Some(same)).await.is(200, "");
    let any = api.send("PUT", &path, &[], Some(service(json!({})))).await;
    any.is(200, "");
    assert_eq!(
        decision(json!({"service_token": {"token": other}})).await.0,
        "permit"
    );
}
