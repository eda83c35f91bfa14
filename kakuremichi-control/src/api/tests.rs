//! The API through its router, on a real database.

use std::collections::BTreeSet;

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use kakuremichi_core::{
    auth::{
        Authentication, AuthenticationError, AuthenticationRequest, Authenticator, Credential, Principal,
    },
    id::OrganizationId,
    key::{IdentityKey, WireGuardKey},
    model::{Permission, Permissions, Role},
};
use kakuremichi_proto::{identity::TokenText, session::EnrolRequest};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::{
    Control, ControlBuilder, identity_key,
    service::{Actor, ApiKeyDraft},
    store::SqlStore,
};

mod accounts;
mod audit;
mod browser;
mod channels;
mod door;
mod lists;
mod passkeys;
mod people;
mod providers;
mod repeats;
mod service_tokens;
mod step_up;
mod usage;

use people::{PASSWORD, text};

struct Api {
    control: Control,
    router: Router,
    key: String,
    _directory: tempfile::TempDir,
}

impl Api {
    async fn start() -> Self {
        Self::start_with(|builder| builder).await
    }

    async fn start_with(more: impl FnOnce(ControlBuilder) -> ControlBuilder) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(directory.path().join("control.db")).await.unwrap();
        let builder = Control::builder(store)
            .public_url("https://control.example.net/km")
            .identity(identity_key().unwrap().expose())
            .authenticator(Directory);
        let control = more(builder).build().unwrap();
        let actor = control.use_cases().control().await.unwrap();
        Self {
            key: Self::key_for(&control, &actor).await,
            router: control.router(),
            control,
            _directory: directory,
        }
    }

    async fn key_for(control: &Control, actor: &Actor) -> String {
        let draft = ApiKeyDraft {
            name: "test".parse().unwrap(),
            permissions: Permissions::EVERYTHING,
            expires: None,
        };
        let made = control.use_cases().create_api_key(actor, draft).await.unwrap();
        made.text.expose().clone()
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", format!("Bearer {}", self.key));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json; charset=utf-8")
                .body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        Answer::to(self.router.clone(), request.unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", &format!("{PREFIX}{path}"), &[], None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", &format!("{PREFIX}{path}"), &[], Some(body))
            .await
    }

    /// An agent that enrolled; its identifier.
    async fn agent(&self, name: &str) -> String {
        let made = self
            .post("/tokens", json!({"name": "t", "role": "agent"}))
            .await
            .body;
        let token: TokenText = made["token"].as_str().unwrap().parse().unwrap();
        let key = name.as_bytes().first().copied().unwrap_or_default();
        let request = EnrolRequest {
            secret_hash: token.secret_hash(),
            role: Role::Agent,
            name: name.parse().unwrap(),
            identity: IdentityKey::from_bytes([key; 32]),
            wireguard: WireGuardKey::from_bytes([key; 32]),
        };
        self.control
            .use_cases()
            .enrol(&request)
            .await
            .unwrap()
            .id
            .to_string()
    }
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
    text: String,
}

impl Answer {
    async fn to(router: Router, request: Request<Body>) -> Self {
        let response = router.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Self {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    fn header(&self, name: HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The version that the tag begins with.
    fn version(&self) -> &str {
        let tag = self.header(header::ETAG).trim_matches('"');
        tag.split('.').next().unwrap_or_default()
    }

    #[track_caller]
    fn is(&self, status: u16, code: &str) {
        assert_eq!(
            (
                self.status.as_u16(),
                self.body["code"].as_str().unwrap_or_default()
            ),
            (status, code),
            "{self:?}"
        );
        if !code.is_empty() {
            assert_eq!(self.header(header::CONTENT_TYPE), "application/problem+json");
        }
    }

    #[track_caller]
    fn names(&self, field: &str) {
        self.is(400, "KKM-A001");
        assert_eq!(self.body["errors"][0]["field"], field, "{self:?}");
    }
}

/// Knows one user, and fails for another.
#[derive(Debug)]
struct Directory;

#[async_trait]
impl Authenticator for Directory {
    fn name(&self) -> &'static str {
        "directory"
    }

    async fn authenticate(
        &self,
        request: AuthenticationRequest<'_>,
    ) -> Result<Authentication, AuthenticationError> {
        match request.credential {
            Credential::Basic { name, password } if name == "alice" && password.expose() == "secret" => Ok(
                Authentication::Proven(Principal::new("directory", "alice").into()),
            ),
            Credential::Basic { name, .. } if name == "down" => Err(AuthenticationError {
                authenticator: "directory",
                source: "the directory is down".into(),
            }),
            Credential::Basic { .. } => Ok(Authentication::Refused),
            _ => Ok(Authentication::NotMine),
        }
    }
}

/// DESIGN, section 8: a route without a permission fails the build. Routes are rows of a table that says it;
/// here each is documented, says so in the document, and lets nobody in without a credential.
#[tokio::test]
async fn no_route_is_without_a_permission() {
    let api = Api::start().await;
    let document = serde_json::to_value(document()).unwrap();
    let (mut documented, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            documented.insert((method.to_uppercase(), path.clone()));
            assert!(names.insert(operation["operationId"].to_string()), "{operation}");
        }
    }
    for route in routes::routes() {
        let path = format!("{PREFIX}{}", route.path);
        assert!(
            documented.remove(&(route.method.to_string(), path.clone())),
            "{} {path}",
            route.method
        );
        let secured = &document["paths"][&path][route.method.as_str().to_lowercase()]["security"];
        assert_eq!(secured.is_null(), route.requirement.is_open(), "{path}");
        if route.requirement.is_open() {
            continue;
        }
        let path = path.replace("{id}", "svc_aaaaaaaaaaaaaaaaaaaaaaaaaa");
        for credential in ["", "Bearer nonsense", "Basic YTpi", "Basic ZG93bjp4"] {
            let answer = api
                .send(
                    route.method.as_str(),
                    &path,
                    &[("authorization", credential)],
                    None,
                )
                .await;
            answer.is(401, "KKM-A002");
            assert_eq!(answer.header(header::WWW_AUTHENTICATE), "Bearer");
        }
    }
    assert!(documented.is_empty(), "documented, but not there: {documented:?}");
}

/// Whoever made a thing finds in the document what can be done with it.
#[test]
fn what_makes_a_thing_links_to_what_can_be_done_with_it() {
    let document = serde_json::to_value(document()).unwrap();
    let schemas = &document["components"]["schemas"];
    let routes = routes::routes();
    let mut linked = 0;
    for maker in routes.iter().filter(|route| route.method == Method::POST) {
        let made = &document["paths"][format!("{PREFIX}{}", maker.path)]["post"]["responses"]["201"];
        let below = format!("{}/{{id}}", maker.path);
        for route in routes.iter().filter(|route| route.path.starts_with(&below)) {
            let path = format!("{PREFIX}{}", route.path);
            let operation = &document["paths"][path][route.method.as_str().to_lowercase()];
            let id = operation["operationId"].as_str().unwrap();
            let link = &made["links"][id];
            assert_eq!(link["operationId"], id, "{} {}", maker.path, route.path);
            let pointer = link["parameters"]["id"].as_str().unwrap();
            let schema = made["content"]["application/json"]["schema"]["$ref"]
                .as_str()
                .unwrap();
            let schema = &schemas[schema.rsplit('/').next().unwrap()];
            let field = pointer
                .strip_prefix("$response.body#/")
                .unwrap()
                .split('/')
                .next()
                .unwrap();
            let parts = schema["allOf"].as_array().into_iter().flatten();
            assert!(
                parts
                    .chain([schema])
                    .any(|part| !part["properties"][field].is_null() || !part["$ref"].is_null()),
                "{schema}"
            );
            linked += 1;
        }
    }
    assert_eq!(linked, 39);
}

/// Whatever can be changed or deleted can be so only as it was read.
#[tokio::test]
async fn every_deletion_can_be_made_conditional() {
    let api = Api::start().await;
    let agent = api.agent("a").await;
    let token = api.post("/tokens", json!({"name": "t", "role": "agent"})).await;
    let key = api.post("/api-keys", json!({"name": "k"})).await;
    let id = |made: &Answer| made.body["id"].as_str().unwrap().to_owned();
    for path in [
        format!("/api/v1/nodes/{agent}"),
        format!("/api/v1/tokens/{}", id(&token)),
        format!("/api/v1/api-keys/{}", id(&key)),
    ] {
        let read = api.send("GET", &path, &[], None).await;
        let etag = read.header(header::ETAG).to_owned();
        api.send("DELETE", &path, &[("if-match", "\"99\"")], None)
            .await
            .is(412, "KKM-A006");
        api.send("DELETE", &path, &[("if-match", &etag)], None)
            .await
            .is(204, "");
    }
}

/// The document is committed, so that a change of the API is seen when it is made. To make it anew:
/// `KAKUREMICHI_WRITE_OPENAPI=1 cargo test -p kakuremichi-control --lib committed_one`.
#[test]
fn the_openapi_document_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let made = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
    if std::env::var_os("KAKUREMICHI_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == made,
        "the API has changed: look at the difference after KAKUREMICHI_WRITE_OPENAPI=1"
    );
    assert!(made.starts_with("{\n  \"openapi\": \"3.1"));
}

#[tokio::test]
async fn the_document_served_says_where_control_is() {
    let api = Api::start().await;
    let answer = api
        .send("GET", "/api/v1/openapi.json", &[("authorization", "")], None)
        .await;
    answer.is(200, "");
    assert_eq!(answer.body["servers"][0]["url"], "https://control.example.net/km");
}

#[tokio::test]
async fn a_caller_is_who_the_key_or_the_authenticator_says() {
    let api = Api::start().await;
    let me = api.get("/me").await;
    assert_eq!(
        (&me.body["authority"], &me.body["organization"]["name"]),
        (&json!("api-key"), &json!("default"))
    );
    let alice = api
        .send(
            "GET",
            "/api/v1/me",
            &[("authorization", "Basic YWxpY2U6c2VjcmV0")],
            None,
        )
        .await;
    assert_eq!(
        (&alice.body["authority"], &alice.body["subject"]),
        (&json!("directory"), &json!("alice"))
    );
    assert_eq!(
        api.get("/organization").await.body["id"],
        me.body["organization"]["id"]
    );
}

#[tokio::test]
async fn answers_are_of_no_use_to_a_page_in_a_browser() {
    let api = Api::start().await;
    for answer in [api.get("/me").await, api.get("/nothing").await] {
        assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
        assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
        assert!(
            answer
                .header(header::CONTENT_SECURITY_POLICY)
                .contains("default-src 'none'")
        );
        assert_eq!(answer.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN), None);
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_said_with_its_field() {
    let api = Api::start().await;
    api.get("/nothing/here").await.is(404, "KKM-A004");
    api.get("/services/nonsense").await.is(404, "KKM-A004");
    api.get("/services/svc_aaaaaaaaaaaaaaaaaaaaaaaaaa")
        .await
        .is(404, "KKM-A004");
    api.send("PUT", "/api/v1/services", &[], None)
        .await
        .is(405, "KKM-A001");
    api.get("/services?limit=0").await.names("limit");
    api.get("/services?cursor=x").await.names("cursor");
    api.get("/services?page=2").await.names("page");
    api.send("POST", "/api/v1/tokens", &[], None)
        .await
        .is(415, "KKM-A001");
    let huge = json!({"name": "x".repeat(MAX_BODY), "role": "agent"});
    api.post("/tokens", huge).await.is(413, "KKM-A007");
    for (body, field) in [
        (json!([]), "body"),
        (json!({"role": "agent"}), "body"),
        (json!({"name": "a b", "role": "agent"}), "name"),
        (json!({"name": "a", "role": "boss"}), "role"),
        (json!({"name": "a", "role": "agent", "colour": "red"}), "colour"),
        (
            json!({"name": "a", "role": "agent", "uses": 1, "unlimited": true}),
            "uses",
        ),
        (
            json!({"name": "a", "role": "agent", "expires_at": "soon"}),
            "expires_at",
        ),
        (
            json!({"name": "a", "role": "agent", "expires_at": "2020-01-01T00:00:00Z"}),
            "expires",
        ),
        (
            json!({"name": "a", "role": "agent", "declare": {"hosts": ["ok.example", "*"]}}),
            "declare.hosts[1]",
        ),
    ] {
        api.post("/tokens", body).await.names(field);
    }
    // An object's fields in their order are no object.
    api.post("/groups", json!(["engineers"])).await.names("body");
    let http = |routes: Value| json!({"name": "s", "http": {"hosts": ["s.example"], "routes": routes}});
    for (body, field) in [
        (json!({"name": "s"}), "http"),
        (
            json!({"name": "s", "tcp": {"port": 0, "targets": []}}),
            "tcp.port",
        ),
        (
            json!({"name": "s", "udp": {"port": 0, "targets": []}}),
            "udp.port",
        ),
        (
            json!({"name": "s", "udp": {"port": 53, "targets": [{"agent": "home", "unix": "/run/dns"}]}}),
            "udp.targets[0].unix",
        ),
        (
            json!({"name": "s", "tcp": {"port": 53, "targets": []}, "udp": {"port": 53, "targets": []}}),
            "http",
        ),
        (
            http(json!([{"targets": [{"address": "h:1"}]}])),
            "http.routes[0].targets[0].agent",
        ),
        (
            http(json!([{"targets": [{"agent": "home"}]}])),
            "http.routes[0].targets[0].address",
        ),
        (
            http(json!([{"targets": [{"agent": "home", "address": "h:1"}]}])),
            "http.routes[0].targets[0].agent",
        ),
        (
            http(json!([{"targets": [{"agent": "home", "address": "::1:80"}]}])),
            "http.routes[0].targets[0].address",
        ),
        (
            http(json!([{"targets": [{"agent": "home", "in_process": true}]}])),
            "http.routes[0].targets[0].in_process",
        ),
        (http(json!([{"path": "x", "targets": []}])), "http.routes[0].path"),
        (
            http(json!([{"targets": [], "health": {"check": "ping"}}])),
            "http.routes[0].health.check",
        ),
        (
            json!({"name": "s", "http": {"hosts": [], "routes": []}}),
            "http.hosts",
        ),
    ] {
        api.post("/services", body).await.names(field);
    }
}

#[tokio::test]
async fn a_service_says_what_its_targets_are_told() {
    let api = Api::start().await;
    let of = |identity: Value| {
        let mut http = json!({"hosts": ["a.example"], "routes": []});
        if !identity.is_null() {
            http["identity"] = identity;
        }
        json!({"name": "a", "http": http})
    };
    let made = api.post("/services", of(json!("none"))).await;
    made.is(201, "");
    assert_eq!(made.body["http"]["identity"], "none");
    let path = format!("/api/v1/services/{}", made.body["id"].as_str().unwrap());
    for (asked, told) in [
        (json!("headers"), "headers"),
        (json!("assertion"), "assertion"),
        (json!(null), "both"),
        (json!("none"), "none"),
        (json!("both"), "both"),
    ] {
        api.send("PUT", &path, &[], Some(of(asked))).await.is(200, "");
        let read = api.send("GET", &path, &[], None).await;
        assert_eq!(read.body["http"]["identity"], told);
    }
    let unknown = api.send("PUT", &path, &[], Some(of(json!("loud")))).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST, "{unknown:?}");
}

#[tokio::test]
async fn a_service_is_published_changed_and_deleted() {
    let api = Api::start().await;
    let agent = api.agent("home").await;
    let wanted = json!({
        "name": "billing",
        "http": {
            "hosts": ["Bücher.example", "*.b.example"],
            "routes": [{
                "targets": [
                    {"agent": "home", "address": "127.0.0.1:8080"},
                    {"agent": agent, "unix": "/run/app.sock"},
                    {"agent": agent, "address": "backend.internal:443", "tls": {}},
                ],
                "health": {"check": {"http": {"path": "/healthz"}}},
            }],
        },
        "policy": {
            "rules": [{"name": "office", "effect": "allow",
                       "when": {"all": [{"source": "192.0.2.0/24"}, {"not": {"path": "/admin"}}]}}],
            "access": {"any_of": [{"basic": {"users": [{"name": "alice", "password": "correct horse"}]}}, "signed_in"]},
        },
    });
    let made = api.post("/services", wanted.clone()).await;
    made.is(201, "");
    assert_eq!(made.version(), "1");
    assert_eq!(made.body["http"]["hosts"][0], "xn--bcher-kva.example");
    assert_eq!(made.body["http"]["routes"][0]["targets"][0]["agent"], agent);
    assert_eq!(made.body["lifetime"], "configured");
    assert!(!made.body.to_string().contains("argon2") && !made.body.to_string().contains("correct"));
    let path = format!("/api/v1/services/{}", made.body["id"].as_str().unwrap());
    let read = api.send("GET", &path, &[], None).await;
    assert_eq!(
        (&read.body, read.header(header::ETAG)),
        (&made.body, made.header(header::ETAG))
    );
    let listed = api.get("/services").await;
    assert_eq!(listed.body["items"], json!([made.body]));

    // What was read can be asked for again; nothing changes, and the password stays.
    let again = json!({"name": "billing", "http": read.body["http"], "policy": read.body["policy"]});
    let unchanged = api
        .send("PUT", &path, &[("if-match", "\"1\"")], Some(again.clone()))
        .await;
    unchanged.is(200, "");
    assert_eq!((&unchanged.body, unchanged.version()), (&made.body, "1"));

    let mut renamed = again;
    renamed["name"] = json!("accounts");
    let changed = api
        .send("PUT", &path, &[("if-match", "\"1\"")], Some(renamed.clone()))
        .await;
    assert_eq!(
        (changed.version(), &changed.body["name"]),
        ("2", &json!("accounts"))
    );
    assert_eq!(
        changed.body["http"]["routes"][0]["targets"],
        made.body["http"]["routes"][0]["targets"]
    );
    api.send("PUT", &path, &[("if-match", "\"1\"")], Some(renamed))
        .await
        .is(412, "KKM-A006");
    api.send("PUT", &path, &[("if-match", "1")], Some(json!({})))
        .await
        .names("If-Match");
    let taken = json!({"name": "other", "http": {"hosts": ["x.b.example", "*.b.example"], "routes": []}});
    let conflict = api.post("/services", taken).await;
    conflict.is(409, "KKM-A005");
    assert!(conflict.body["detail"].as_str().unwrap().contains("*.b.example"));
    api.send("DELETE", &format!("/api/v1/nodes/{agent}"), &[], None)
        .await
        .is(409, "KKM-A009");

    let usage = api.send("GET", &format!("{path}/usage"), &[], None).await;
    assert_eq!(
        usage.body,
        json!({"connections": 0, "requests": 0, "bytes_in": 0, "bytes_out": 0})
    );
    api.send("DELETE", &path, &[("if-match", "\"1\"")], None)
        .await
        .is(412, "KKM-A006");
    api.send("DELETE", &path, &[("if-match", "\"2\"")], None)
        .await
        .is(204, "");
    api.send("DELETE", &path, &[], None).await.is(404, "KKM-A004");
    api.send("DELETE", &format!("/api/v1/nodes/{agent}"), &[], None)
        .await
        .is(204, "");
}

#[tokio::test]
async fn a_policy_is_shared_and_says_what_it_would_decide() {
    let api = Api::start().await;
    let rules = json!([
        {"name": "abroad", "when": {"not": {"country": "JP"}}, "effect": "deny"},
        {"name": "robots", "when": {"header": {"name": "User-Agent", "is": {"contains": "bot"}}},
         "effect": "deny", "dry_run": true},
        {"name": "night", "when": {"time": {"from": "22:00", "to": "06:00", "utc_offset_minutes": 540}},
         "effect": "continue"},
        {"name": "admins", "when": {"all": [{"path": "/admin"}, {"role": "admin"}]}, "effect": "allow"}
    ]);
    let access = json!({"any_of": [{"signed_in_as": {"groups": ["ops"], "strength": "two_factors"}}]});
    let made = api
        .post(
            "/policies",
            json!({"name": "base", "rules": rules, "access": access}),
        )
        .await;
    made.is(201, "");
    assert_eq!(made.body["rules"][1]["dry_run"], true);
    let id = made.body["id"].as_str().unwrap().to_owned();
    assert_eq!(api.get(&format!("/policies/{id}")).await.body, made.body);

    let mut service = json!({
        "name": "web",
        "http": {"hosts": ["web.example.net"],
                 "routes": [{"targets": []}, {"path": "/open", "targets": [], "policies": ["open"]}]},
        "policies": ["base"]
    });
    let missing = api.post("/services", service.clone()).await;
    missing.names("http.routes[1].policies[0]");
    let open = json!({"name": "open", "access": "public"});
    api.post("/policies", open).await.is(201, "");
    let published = api.post("/services", service.clone()).await;
    published.is(201, "");
    assert_eq!(published.body["policies"], json!([id]));
    let delete = format!("{PREFIX}/policies/{id}");
    api.send("DELETE", &delete, &[], None).await.is(409, "KKM-A009");

    let simulate = async |extra: Value| {
        let mut asked = json!({"url": "https://web.example.net/admin", "address": "203.0.113.7",
                               "country": "JP", "at": "2024-01-01T03:00:00Z"});
        for (name, value) in extra.as_object().unwrap() {
            asked[name] = value.clone();
        }
        let answer = api.post("/simulate", asked).await;
        answer.is(200, "");
        answer.body
    };
    let abroad = simulate(json!({"country": null})).await;
    assert_eq!(
        (&abroad["decision"], &abroad["rule"]["name"]),
        (&json!("deny"), &json!("abroad"))
    );
    assert_eq!(abroad["rule"]["policy"], "base");
    assert_eq!(abroad["trail"][0]["holds"], "unknown");
    let stranger = simulate(json!({"headers": {"User-Agent": "Some-Bot"}})).await;
    assert_eq!(stranger["decision"], "challenge");
    assert_eq!(stranger["trail"][1]["would_have_acted"], true);
    let signed_in = |extra: Value| {
        let mut who = json!({"user": {"authority": "directory", "subject": "bob"}});
        for (name, value) in extra.as_object().unwrap() {
            who[name] = value.clone();
        }
        json!({"visitor": {"signed_in": who}})
    };
    let bob = simulate(signed_in(json!({"roles": ["admin"]}))).await;
    assert_eq!(
        (&bob["decision"], &bob["rule"]["name"]),
        (&json!("permit"), &json!("admins"))
    );
    let bob = simulate(signed_in(json!({"roles": [], "groups": ["ops"]}))).await;
    assert_eq!(
        bob["decision"], "challenge",
        "a second factor is asked for: {bob}"
    );
    let bob = simulate(signed_in(
        json!({"roles": [], "groups": ["ops"], "strength": "two_factors"}),
    ))
    .await;
    assert_eq!((&bob["decision"], &bob["rule"]), (&json!("permit"), &Value::Null));
    let open = simulate(json!({"url": "https://web.example.net/open/x"})).await;
    assert_eq!(
        (&open["decision"], &open["route"]),
        (&json!("permit"), &json!("/open"))
    );
    let nowhere = json!({"url": "https://other.example.net/", "address": "::1"});
    api.post("/simulate", nowhere).await.names("url");

    // What nothing is attached to can go.
    service["policies"] = json!([]);
    let id_of_service = published.body["id"].as_str().unwrap();
    let path = format!("{PREFIX}/services/{id_of_service}");
    api.send("PUT", &path, &[], Some(service)).await.is(200, "");
    api.send("DELETE", &delete, &[], None).await.is(204, "");
}

#[tokio::test]
async fn a_policy_that_cannot_be_is_refused_with_its_field() {
    let api = Api::start().await;
    let with = async |rule: Value| api.post("/policies", json!({"name": "a", "rules": [rule]})).await;
    let header = json!({"header": {"name": "x-forwarded-for", "is": "present"}});
    // LESSONS, advisory 4: nothing is let past because of a forwarded header.
    with(json!({"name": "a", "when": header, "effect": "allow"}))
        .await
        .names("rules");
    let time = json!({"time": {"from": "25:00", "to": "06:00"}});
    with(json!({"name": "a", "when": time, "effect": "deny"}))
        .await
        .names("rules[0].when");
    let methods = json!({"name": "a", "access": {"all_of": []}});
    api.post("/policies", methods).await.names("rules");
    let user = json!({"any_of": [{"basic": {"users": [{"name": "ann"}]}}]});
    let access = json!({"name": "a", "access": user});
    api.post("/policies", access)
        .await
        .names("access.any_of[0].basic.users[0].password");
}

#[tokio::test]
async fn nodes_and_sites_are_managed() {
    let api = Api::start().await;
    let agent = api.agent("home").await;
    let path = format!("/api/v1/nodes/{agent}");
    let node = api.send("GET", &path, &[], None).await;
    assert_eq!(
        (&node.body["role"], &node.body["connected"]),
        (&json!("agent"), &json!(false))
    );
    assert!(node.body["address"].as_str().unwrap().starts_with("fd"));
    let renamed = api
        .send(
            "PATCH",
            &path,
            &[("if-match", "\"1\"")],
            Some(json!({"name": "Attic"})),
        )
        .await;
    assert_eq!((&renamed.body["name"], renamed.version()), (&json!("attic"), "2"));
    let status = api.send("GET", &format!("{path}/status"), &[], None).await;
    assert_eq!(
        (&status.body["connected"], &status.body["lanes"]),
        (&json!(false), &json!([]))
    );
    assert!(api.send("POST", &format!("{path}/revoke"), &[], None).await.body["revoked_at"].is_string());

    let wanted = json!({"name": "office", "wireguard_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
                        "networks": ["192.168.7.0/24"], "endpoint": "office.example.net:51820"});
    let made = api.post("/sites", wanted.clone()).await;
    made.is(201, "");
    assert!(made.body["address_v4"].as_str().unwrap().starts_with("100."));
    let path = format!("/api/v1/sites/{}", made.body["id"].as_str().unwrap());
    let behind = json!({"name": "nas", "tcp": {"port": 5000, "targets": [{"site": "office", "address": "192.168.7.9:80"}]}});
    api.post("/services", behind).await.is(201, "");
    let names = json!({"name": "names", "udp": {"port": 5000, "targets": [{"site": "office", "address": "192.168.7.9:53"}]}});
    let made_udp = api.post("/services", names).await;
    made_udp.is(201, "");
    assert_eq!(made_udp.body["udp"]["port"], 5000);
    assert_eq!(made_udp.body["udp"]["targets"][0]["address"], "192.168.7.9:53");
    let again = json!({"name": "other", "udp": {"port": 5000, "targets": []}});
    api.post("/services", again).await.is(409, "KKM-A005");
    let mut moved = wanted.clone();
    moved["networks"] = json!(["192.168.8.0/24"]);
    api.send("PUT", &path, &[], Some(moved)).await.is(409, "KKM-A009");
    let mut dials = wanted;
    dials.as_object_mut().unwrap().remove("endpoint");
    let changed = api
        .send("PUT", &path, &[("if-match", "\"3\"")], Some(dials))
        .await;
    changed.is(200, "");
    assert!(changed.body.get("endpoint").is_none());
    assert_eq!(changed.body["address_v4"], made.body["address_v4"]);
    api.send("DELETE", &path, &[], None).await.is(409, "KKM-A009");
    assert_eq!(api.get("/sites").await.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn nodes_are_found_by_their_labels() {
    let api = Api::start().await;
    let (home, attic) = (api.agent("home").await, api.agent("attic").await);
    let node = async |id: &str, change: Value| {
        let path = format!("{PREFIX}/nodes/{id}");
        api.send("PATCH", &path, &[], Some(change)).await
    };
    let changed = node(&home, json!({"labels": {"env": "prod", "example.net/rack": ""}})).await;
    assert_eq!(
        changed.body["labels"],
        json!({"env": "prod", "example.net/rack": ""})
    );
    assert_eq!(changed.body["name"], "home", "what is left out stays");
    node(&attic, json!({"labels": {"env": "test"}})).await.is(200, "");
    let renamed = node(&attic, json!({"name": "cellar"})).await;
    assert_eq!(renamed.body["labels"]["env"], "test");
    for (query, found) in [
        ("label=env%3Dprod", vec![&home]),
        ("label=env!=prod", vec![&attic]),
        ("label=env,example.net/rack", vec![&home]),
        ("label=!zone&role=gateway", vec![]),
        ("state=revoked", vec![]),
        ("label=env&limit=1&state=active&role=agent", vec![&home, &attic]),
    ] {
        let (mut path, mut ids) = (format!("/nodes?{query}"), BTreeSet::new());
        loop {
            let page = api.get(&path).await;
            page.is(200, "");
            ids.extend(
                page.body["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|node| text(&node["id"])),
            );
            let Some(cursor) = page.body["next_cursor"].as_str() else {
                break;
            };
            path = format!("/nodes?{query}&cursor={cursor}");
        }
        assert_eq!(ids, found.into_iter().cloned().collect(), "{query}");
    }
    for bad in [json!({"-env": "x"}), json!({"env": "a b"})] {
        node(&home, json!({"labels": bad})).await.is(400, "KKM-A001");
    }
    api.get("/nodes?label=a/b/c").await.is(400, "KKM-A001");
    api.get("/nodes?colour=red").await.is(400, "KKM-A001");
    api.get("/nodes?limit=0").await.is(400, "KKM-A001");
}

#[tokio::test]
async fn who_may_not_approve_nodes_does_not() {
    let api = Api::start().await;
    let token = json!({"name": "t", "role": "agent", "approval": "required", "labels": {"env": "prod"}});
    let made = api.post("/tokens", token).await;
    assert_eq!(
        (&made.body["approval"], &made.body["labels"]),
        (&json!("required"), &json!({"env": "prod"}))
    );
    let text: TokenText = made.body["token"].as_str().unwrap().parse().unwrap();
    let request = EnrolRequest {
        secret_hash: text.secret_hash(),
        role: Role::Agent,
        name: "new".parse().unwrap(),
        identity: IdentityKey::from_bytes([1; 32]),
        wireguard: WireGuardKey::from_bytes([1; 32]),
    };
    let waits = api.control.use_cases().enrol(&request).await.unwrap_err();
    assert_eq!(waits.code().as_str(), "KKM-E014");
    let pending = api.get("/nodes?state=pending").await.body["items"][0].clone();
    assert_eq!(
        (&pending["name"], &pending["state"]),
        (&json!("new"), &json!("pending"))
    );
    assert!(pending["pending_until"].is_string());
    let path = format!("/nodes/{}", pending["id"].as_str().unwrap());

    let weak = json!({"name": "weak", "permissions": ["nodes.read", "nodes.write"]});
    let weak = format!(
        "Bearer {}",
        api.post("/api-keys", weak).await.body["key"].as_str().unwrap()
    );
    for deed in ["approve", "refuse"] {
        let path = format!("{PREFIX}{path}/{deed}");
        api.send("POST", &path, &[("authorization", &weak)], None)
            .await
            .is(403, "KKM-A003");
    }
    let approved = api.post(&format!("{path}/approve"), json!({})).await;
    assert_eq!(approved.body["state"], "active");
    assert!(approved.body.get("pending_until").is_none());
    api.post(&format!("{path}/refuse"), json!({}))
        .await
        .is(409, "KKM-A005");
    let audit = api.get("/audit").await.body["items"].to_string();
    assert!(
        audit.contains("node.approve") && audit.contains("node.enrol"),
        "{audit}"
    );
}

#[tokio::test]
async fn an_api_key_is_shown_once_and_can_be_deleted() {
    let api = Api::start().await;
    let made = api
        .post("/api-keys", json!({"name": "ci", "expires_in": 3600}))
        .await;
    made.is(201, "");
    let bearer = format!("Bearer {}", made.body["key"].as_str().unwrap());
    let me = api
        .send("GET", "/api/v1/me", &[("authorization", &bearer)], None)
        .await;
    assert_eq!(me.body["subject"], made.body["id"]);
    let path = format!("/api/v1/api-keys/{}", made.body["id"].as_str().unwrap());
    let read = api.send("GET", &path, &[], None).await;
    assert!(read.body.get("key").is_none() && read.body["expires_at"].is_string());
    api.send("DELETE", &path, &[("authorization", &bearer)], None)
        .await
        .is(204, "");
    api.send("GET", "/api/v1/me", &[("authorization", &bearer)], None)
        .await
        .is(401, "KKM-A002");
    assert_eq!(
        api.get("/api-keys").await.body["items"].as_array().unwrap().len(),
        1
    );
}

/// LESSONS, advisory 9: identifiers come from the path; the loaded object's organization is authorized.
#[tokio::test]
async fn another_organizations_things_are_not_found() {
    let api = Api::start().await;
    let agent = api.agent("home").await;
    let service = api
        .post(
            "/services",
            json!({"name": "s", "http": {"hosts": ["s.example"], "routes": []}}),
        )
        .await;
    let site = api
        .post(
            "/sites",
            json!({"name": "o", "wireguard_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="}),
        )
        .await;
    let id = |answer: &Answer| answer.body["id"].as_str().unwrap().to_owned();
    let token = api.get("/tokens").await.body["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let key = text(&api.get("/api-keys").await.body["items"][0]["id"]);
    let service_token = id(&api.post("/service-tokens", json!({"name": "st"})).await);
    api.administrator().await;
    let role = text(&api.get("/roles").await.body["items"][0]["id"]);
    let member = text(&api.get("/members").await.body["items"][0]["id"]);
    let group = id(&api.post("/groups", json!({"name": "g"})).await);
    let invitation = json!({"email": "a@example.net", "roles": [role]});
    let invitation = id(&api.post("/invitations", invitation).await);

    let organization = kakuremichi_core::model::Organization {
        id: OrganizationId::from_bytes([9; 16]),
        name: "other".parse().unwrap(),
        accounts: Default::default(),
        created: crate::service::now(),
    };
    let actor = Actor::control(organization.id);
    let batch = kakuremichi_core::store::Batch {
        mutations: vec![kakuremichi_core::store::Mutation::Create(organization.into())],
        audit: kakuremichi_core::store::conformance::sample::audit("test.create"),
        request: None,
    };
    api.control.use_cases().store().commit(batch).await.unwrap();
    let stranger = format!("Bearer {}", Api::key_for(&api.control, &actor).await);

    let body = |path: &str, method: &str| match (path, method) {
        ("/roles/{id}", "PUT") => Some(json!({"name": "mine", "permissions": []})),
        ("/groups/{id}", "PUT") => Some(json!({"name": "mine"})),
        ("/members/{id}", "PUT") => Some(json!({"roles": []})),
        ("/service-tokens/{id}", "PATCH") => Some(json!({"name": "mine"})),
        ("/nodes/{id}", "PATCH") => Some(json!({"name": "mine"})),
        ("/nodes/{id}/rotate-keys", "POST") => Some(json!({})),
        ("/sites/{id}", "PUT") => {
            Some(json!({"name": "o", "wireguard_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="}))
        }
        ("/services/{id}", "PUT") => {
            Some(json!({"name": "s", "http": {"hosts": ["s.example"], "routes": []}}))
        }
        _ => None,
    };
    let mut walked = 0;
    for route in routes::routes() {
        let of = match route.path.split('/').nth(1) {
            Some("nodes") => &agent,
            Some("services") => &id(&service),
            Some("sites") => &id(&site),
            Some("tokens") => &token,
            Some("api-keys") => &key,
            Some("service-tokens") => &service_token,
            Some("roles") => &role,
            Some("groups") => &group,
            Some("members") => &member,
            Some("invitations") => &invitation,
            _ => continue,
        };
        let path = format!("{PREFIX}{}", route.path.replace("{id}", of));
        let credential = [("authorization", stranger.as_str())];
        if route.path.contains("{id}") {
            let body = body(route.path, route.method.as_str());
            api.send(route.method.as_str(), &path, &credential, body)
                .await
                .is(404, "KKM-A004");
            walked += 1;
        } else if route.method == Method::GET {
            let items = api.send("GET", &path, &credential, None).await.body["items"]
                .as_array()
                .unwrap()
                .len();
            assert_eq!(items, usize::from(route.path == "/api-keys"), "{path}");
        }
    }
    assert_eq!(walked, 35);
    assert_eq!(
        api.get("/services").await.body["items"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn it_mounts_below_a_path_with_parameters() {
    let api = Api::start().await;
    let made = api.post("/tokens", json!({"name": "t", "role": "agent"})).await;
    let nested = Router::new()
        .nest("/{tenant}/km", api.control.router())
        .merge(api.control.router());
    let path = format!("/acme/km/api/v1/tokens/{}", made.body["id"].as_str().unwrap());
    let request = Request::get(path).header("authorization", format!("Bearer {}", api.key));
    let answer = Answer::to(nested, request.body(Body::empty()).unwrap()).await;
    answer.is(200, "");
    assert_eq!(answer.body["id"], made.body["id"]);
}

#[tokio::test]
async fn the_link_is_a_websocket_with_our_subprotocol() {
    let api = Api::start().await;
    api.send("GET", "/api/v1/link", &[("authorization", "")], None)
        .await
        .is(400, "KKM-A001");
}

/// Likewise, for people; made anew in the same way.
#[test]
fn the_permission_table_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/PERMISSIONS.md");
    let made = permission_table();
    if std::env::var_os("KAKUREMICHI_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == made,
        "routes or permissions have changed: look at the difference after KAKUREMICHI_WRITE_OPENAPI=1"
    );
    for permission in Permission::ALL {
        assert!(
            made.contains(&format!("## `{permission}`")),
            "{permission} opens nothing"
        );
    }
}
