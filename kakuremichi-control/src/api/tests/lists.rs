//! Lists, part by part, and filters.

use std::collections::BTreeSet;

use serde_json::json;

use super::Api;

#[tokio::test]
async fn lists_come_in_parts() {
    let api = Api::start().await;
    let mut made = BTreeSet::new();
    for n in 0..5 {
        let body = json!({"name": format!("t{n}"), "role": "gateway", "unlimited": true, "expires_in": 60});
        made.insert(
            api.post("/tokens", body).await.body["id"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let (mut seen, mut path) = (BTreeSet::new(), "/tokens?limit=2".to_owned());
    for items in [2, 2, 1] {
        let part = api.get(&path).await;
        let found = part.body["items"].as_array().unwrap();
        assert_eq!(found.len(), items);
        assert!(
            found
                .iter()
                .all(|item| item.get("token").is_none() && item.get("uses_left").is_none())
        );
        seen.extend(found.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        path = format!(
            "/tokens?limit=2&cursor={}",
            part.body["next_cursor"].as_str().unwrap_or_default()
        );
    }
    assert_eq!(seen, made);
    let id = made.first().unwrap();
    let revoked = api.post(&format!("/tokens/{id}/revoke"), json!({})).await;
    assert!(revoked.body["revoked_at"].is_string());
    let path = format!("/api/v1/tokens/{id}");
    api.send("DELETE", &path, &[], None).await.is(204, "");
    api.send("GET", &path, &[], None).await.is(404, "KKM-A004");
    api.send("DELETE", &path, &[], None).await.is(404, "KKM-A004");
}

/// The names of the things in a list.
async fn names(api: &Api, path: &str) -> Vec<String> {
    let list = api.get(path).await;
    let items = list.body["items"].as_array().expect(path);
    let names = items.iter().map(|item| item["name"].as_str().unwrap().to_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[tokio::test]
async fn lists_are_filtered() {
    let api = Api::start().await;
    let agent = api.agent("home").await;
    api.agent("attic").await;
    let site = json!({"name": "office", "wireguard_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        "networks": ["10.1.0.0/16"]});
    let site = api.post("/sites", site).await.body["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let shared = api.post("/policies", json!({"name": "closed"})).await.body["id"].clone();
    let target = json!({"agent": "home", "address": "127.0.0.1:80"});
    let web = json!({"name": "web", "http": {"hosts": ["www.example.com"], "routes": [{"targets": [target]}]}, "policies": [shared]});
    let service = api.post("/services", web).await;
    service.is(201, "");
    let tcp = json!({"name": "ssh", "tcp": {"port": 2222, "targets": [{"site": "office", "address": "10.1.0.1:22"}]}});
    let service = api.post("/services", tcp).await;
    service.is(201, "");

    for (path, found) in [
        ("/nodes?search=TT", vec!["attic"]),
        ("/nodes?role=agent&state=active", vec!["attic", "home"]),
        ("/nodes?role=gateway", vec![]),
        ("/nodes?state=revoked", vec![]),
        ("/services?search=example", vec!["web"]),
        ("/services?search=ss", vec!["ssh"]),
        ("/services?kind=tcp", vec!["ssh"]),
        (&format!("/services?agent={agent}"), vec!["web"]),
        (&format!("/services?site={site}"), vec!["ssh"]),
        (&format!("/services?site={site}&kind=http"), vec![]),
        (
            &format!("/services?policy={}", shared.as_str().unwrap()),
            vec!["web"],
        ),
        ("/sites?search=off", vec!["office"]),
        ("/policies?search=open", vec![]),
        ("/tokens?role=agent&search=a", vec![]),
    ] {
        assert_eq!(names(&api, path).await, found, "{path}");
    }
    for (path, field) in [
        ("/nodes?role=both", "role"),
        ("/nodes?search=", "search"),
        ("/nodes?state=maybe", "state"),
        ("/services?agent=home", "agent"),
        ("/services?revoked=true", "revoked"),
        ("/nodes?search=a&search=b", "query"),
    ] {
        api.get(path).await.names(field);
    }
}

/// A part of a filtered list costs bounded work, and nothing is missing from all parts together.
#[tokio::test]
async fn filtered_lists_come_in_parts() {
    let api = Api::start().await;
    for name in ["a-odd", "b-even", "c-odd", "d-even", "e-odd"] {
        api.agent(name).await;
    }
    for limit in [1, 2, 3] {
        let base = format!("/nodes?search=-even&limit={limit}");
        let (mut seen, mut path) = (Vec::new(), base.clone());
        loop {
            let part = api.get(&path).await;
            let items = part.body["items"].as_array().unwrap();
            assert!(items.len() <= limit);
            seen.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
            let Some(next) = part.body["next_cursor"].as_str() else {
                break;
            };
            path = format!("{base}&cursor={next}");
        }
        seen.sort();
        assert_eq!(seen, ["b-even", "d-even"], "{limit}");
    }
}
