//! The audit through the API.

use super::*;

impl Api {
    async fn text(&self, path: &str) -> (HeaderMap, String) {
        let request = Request::builder()
            .uri(format!("{PREFIX}{path}"))
            .header("authorization", format!("Bearer {}", self.key))
            .body(Body::empty())
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.headers, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn actions(&self, query: &str) -> Vec<String> {
        let answer = self.get(&format!("/audit{query}")).await;
        answer.is(200, "");
        let items = answer.body["items"].as_array().unwrap();
        items.iter().map(|item| text(&item["action"])).collect()
    }
}

#[tokio::test]
async fn the_audit_is_read_by_filters_and_parts() {
    let api = Api::start().await;
    let group = api.post("/groups", json!({"name": "one"})).await;
    group.is(201, "");
    let id = text(&group.body["id"]);
    api.send("DELETE", &format!("{PREFIX}/groups/{id}"), &[], None)
        .await
        .is(204, "");
    assert_eq!(api.actions("?limit=2").await, ["group.delete", "group.create"]);
    assert_eq!(
        api.actions("?action=group.&first=oldest").await,
        ["group.create", "group.delete"]
    );
    assert_eq!(
        api.actions(&format!("?subject={id}&action=group.create")).await,
        ["group.create"]
    );
    assert_eq!(api.actions("?to=2001-01-01T00:00:00Z").await, [""; 0]);
    assert_eq!(
        api.actions("?from=2001-01-01T00%3A00%3A00Z&limit=1").await,
        ["group.delete"]
    );
    let entry = api.get("/audit?limit=1").await.body["items"][0].clone();
    assert_eq!(entry["authority"], "api-key");
    let by = text(&entry["actor"]);
    assert_eq!(
        api.actions(&format!("?actor={by}")).await,
        ["group.delete", "group.create"]
    );

    // Part by part it is the same as at once.
    let all = api.actions("").await;
    let (mut parts, mut cursor) = (Vec::new(), String::new());
    loop {
        let part = api.get(&format!("/audit?limit=1{cursor}")).await.body;
        parts.extend(
            part["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| text(&item["action"])),
        );
        let Some(next) = part["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(parts, all);

    for (query, field) in [
        ("?limit=0", "limit"),
        ("?cursor=x", "cursor"),
        ("?who=me", "query"),
        ("?format=csv", "format"),
    ] {
        api.get(&format!("/audit{query}")).await.names(field);
    }
    api.get("/audit/export?limit=1").await.names("limit");
}

#[tokio::test]
async fn the_audit_of_another_organization_is_not_read() {
    let api = Api::start().await;
    let root = api.administrator().await;
    let made = api
        .with(&root, "POST", "/organizations", Some(json!({"name": "other"})))
        .await;
    made.is(201, "");
    let credential = format!("Bearer {root}");
    let headers = [
        ("authorization", credential.as_str()),
        ("kakuremichi-organization", "other"),
    ];
    let path = format!("{PREFIX}/groups");
    api.send("POST", &path, &headers, Some(json!({"name": "theirs"})))
        .await
        .is(201, "");
    let theirs = api.send("GET", &format!("{PREFIX}/audit"), &headers, None).await;
    assert!(theirs.body.to_string().contains("group.create"), "{theirs:?}");
    assert!(!api.actions("").await.contains(&"group.create".to_owned()));
    let (_, exported) = api.text("/audit/export").await;
    assert!(!exported.contains("group.create"), "{exported}");
}

#[tokio::test]
async fn the_audit_is_exported_and_verified() {
    let api = Api::start().await;
    for name in ["one", "two"] {
        api.post("/groups", json!({"name": name})).await.is(201, "");
    }
    let (headers, lines) = api.text("/audit/export?action=group.").await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/jsonl");
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["action"] == "group.create"));
    let (headers, table) = api.text("/audit/export?format=csv&action=group.").await;
    assert_eq!(headers[header::CONTENT_TYPE], "text/csv; charset=utf-8");
    assert_eq!(table.split("\r\n").count(), 4, "{table}");
    assert!(table.starts_with("sequence,at,"), "{table}");
    let (_, none) = api.text("/audit/export?action=nothing").await;
    assert_eq!(none, "");

    let root = api.administrator().await;
    api.get("/audit/verify").await.is(403, "KKM-A003");
    let verified = api.with(&root, "GET", "/audit/verify", None).await;
    assert_eq!(verified.body["intact"], true, "{verified:?}");
    let head = text(&verified.body["head"]);
    let again = api
        .with(&root, "GET", &format!("/audit/verify?head={head}"), None)
        .await;
    assert_eq!(again.body["intact"], true, "{again:?}");
    let other = format!("/audit/verify?head=1:{}", "ab".repeat(32));
    let other = api.with(&root, "GET", &other, None).await;
    assert_eq!(
        (&other.body["intact"], &other.body["at"]),
        (&json!(false), &json!("1")),
        "{other:?}"
    );
    api.with(&root, "GET", "/audit/verify?head=1", None)
        .await
        .names("query");
}
