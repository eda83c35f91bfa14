//! Notification channels.

use super::*;

const WEBHOOK: &str = "https://hooks.example.net/kakuremichi";

#[tokio::test]
async fn a_webhook_shows_its_secret_once() {
    let api = Api::start().await;
    let made = api
        .post(
            "/notification-channels",
            json!({"name": "siem", "webhook": WEBHOOK, "events": ["node.", "sign_in.failures"]}),
        )
        .await;
    made.is(201, "");
    let secret = text(&made.body["secret"]);
    assert!(secret.starts_with("whsec_"));
    let path = format!("/notification-channels/{}", text(&made.body["id"]));
    let read = api.get(&path).await;
    read.is(200, "");
    assert_eq!(read.body["webhook"], WEBHOOK);
    assert_eq!(read.body["events"], json!(["node.", "sign_in.failures"]));
    assert_eq!(read.body["delivery"]["failures"], 0);
    let listed = api.get("/notification-channels").await;
    assert_eq!(listed.body["items"].as_array().unwrap().len(), 1);
    for answer in [&read, &listed] {
        assert!(!answer.text.contains("whsec_") && !answer.text.contains("sealed"));
    }

    // It keeps its secret unless another one is asked for.
    let full = format!("{PREFIX}{path}");
    let change = |new: bool| Some(json!({"name": "all", "webhook": WEBHOOK, "new_secret": new}));
    let tag = format!("\"{}\"", made.version());
    let headers = [("if-match", tag.as_str())];
    let changed = api.send("PUT", &full, &headers, change(false)).await;
    changed.is(200, "");
    assert_eq!(
        (&changed.body["secret"], &changed.body["events"]),
        (&Value::Null, &json!([]))
    );
    api.send("PUT", &full, &headers, change(false))
        .await
        .is(412, "KKM-A006");
    let changed = api.send("PUT", &full, &[], change(true)).await;
    assert_ne!(text(&changed.body["secret"]), secret);
    api.send("DELETE", &full, &[], None).await.is(204, "");
    api.get(&path).await.is(404, "KKM-A004");
}

#[tokio::test]
async fn what_is_no_channel_is_refused_by_its_field() {
    let api = Api::start().await;
    let refused = async |body: Value, field: &str| {
        api.post("/notification-channels", body).await.names(field);
    };
    refused(json!({"name": "a"}), "webhook").await;
    refused(json!({"name": "a", "webhook": WEBHOOK, "mail": []}), "webhook").await;
    for url in ["http://hooks.example.net/", "https://u:p@hooks.example.net/", "x"] {
        refused(json!({"name": "a", "webhook": url}), "webhook").await;
    }
    for event in ["", "node", ".down", "Node.down", "node.down "] {
        let body = json!({"name": "a", "webhook": WEBHOOK, "events": ["node.up", event]});
        refused(body, "events[1]").await;
    }
    let many: Vec<_> = (0..33).map(|_| "node.up").collect();
    refused(json!({"name": "a", "webhook": WEBHOOK, "events": many}), "events").await;
    // No mail server is set.
    let body = json!({"name": "a", "mail": ["anna@example.net"]});
    assert_eq!(api.post("/notification-channels", body).await.status, 409);
}

#[tokio::test]
async fn an_organization_has_sixteen_channels() {
    let api = Api::start().await;
    let make = async |n: usize| {
        let body = json!({"name": format!("channel-{n}"), "webhook": WEBHOOK});
        api.post("/notification-channels", body).await
    };
    for n in 0..16 {
        make(n).await.is(201, "");
    }
    assert_eq!(make(16).await.status, 409);
    let again = api.post(
        "/notification-channels",
        json!({"name": "channel-1", "webhook": WEBHOOK}),
    );
    assert_eq!(again.await.status, 409);
}

/// Whoever gets events reads the audit: permission to make channels is not enough.
#[tokio::test]
async fn a_channel_gives_nobody_more_than_they_may_read() {
    let api = Api::start().await;
    let body = json!({"name": "k", "permissions": ["notification-channels.write"]});
    let key = text(&api.post("/api-keys", body).await.body["key"]);
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let path = format!("{PREFIX}/notification-channels");
    let body = Some(json!({"name": "a", "webhook": WEBHOOK}));
    assert_eq!(api.send("POST", &path, &headers, body).await.status, 403);
}

/// What the audit of an organization says of sign-ins.
async fn told(api: &Api) -> Vec<(String, String)> {
    let rows = api.get("/audit?action=sign_in.&first=oldest").await;
    let items = rows.body["items"].as_array().unwrap();
    let told = items
        .iter()
        .map(|item| (text(&item["action"]), text(&item["subject"])));
    told.collect()
}

/// Many wrong passwords are told to the organizations of whom they were tried at, and of nobody else.
#[tokio::test]
async fn many_failures_at_an_account_are_told() {
    let api = Api::start().await;
    let token = api.person("anna@example.net", json!(["nodes.read"])).await;
    let account = api.with(&token, "GET", "/account", None).await;
    let user = text(&account.body["id"]);
    for email in ["anna@example.net", "nobody@example.net"] {
        for guess in 0..6 {
            let body = json!({"email": email, "password": "a wrong password", "code": null});
            let answer = api.with("", "POST", "/sessions", Some(body)).await;
            assert_eq!(answer.status == StatusCode::TOO_MANY_REQUESTS, guess == 5);
        }
    }
    let expected = [("sign_in.failures".to_owned(), user)];
    kakuremichi_tests::wait::until_async("the event", async || (told(&api).await == expected).then_some(()))
        .await;
}
