//! What is decided before a handler: hosts, origins, rates, tags.

use std::num::NonZeroU32;

use super::*;

async fn api(change: impl FnOnce(ControlBuilder) -> ControlBuilder) -> Api {
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path().join("control.db")).await.unwrap();
    let builder = Control::builder(store)
        .public_url("https://control.example.net")
        .identity(identity_key().unwrap().expose());
    let control = change(builder).build().unwrap();
    let actor = control.use_cases().control().await.unwrap();
    Api {
        key: Api::key_for(&control, &actor).await,
        router: control.router(),
        control,
        _directory: directory,
    }
}

fn rate(burst: u32) -> Option<Rate> {
    let number = |number| NonZeroU32::new(number).unwrap();
    Some(Rate {
        per_second: number(1),
        burst: number(burst),
    })
}

/// LESSONS, advisory 15: Host and Origin are checked.
#[tokio::test]
async fn advisory_15_a_request_for_another_host_is_refused() {
    let api = api(|builder| builder.allow_host("behind".parse().unwrap())).await;
    for host in ["control.example.net", "behind:80", "127.0.0.1:7443", "localhost"] {
        api.send("GET", "/api/v1/me", &[("host", host)], None)
            .await
            .is(200, "");
    }
    for host in ["evil.example", "control.example.net.evil.example", ""] {
        api.send("GET", "/api/v1/me", &[("host", host)], None)
            .await
            .is(421, "KKM-A019");
    }
    let two = [("host", "control.example.net"), ("host", "evil.example")];
    api.send("GET", "/api/v1/me", &two, None)
        .await
        .is(421, "KKM-A019");
}

#[tokio::test]
async fn pages_of_listed_origins_may_read_answers() {
    let api = api(|builder| builder.allow_origin("https://dash.example.net".parse().unwrap())).await;
    let from = |origin| [("origin", origin), ("access-control-request-method", "PUT")];
    for (origin, allowed) in [
        ("https://dash.example.net", true),
        ("https://evil.example", false),
    ] {
        let read = api.send("GET", "/api/v1/me", &from(origin)[..1], None).await;
        read.is(200, "");
        let asked = api.send("OPTIONS", "/api/v1/me", &from(origin), None).await;
        for answer in [read, asked] {
            let says = answer.header(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(says == origin, allowed, "{answer:?}");
            assert_eq!(answer.headers.get(header::ACCESS_CONTROL_ALLOW_CREDENTIALS), None);
        }
    }
}

#[tokio::test]
async fn a_caller_and_an_address_have_rates() {
    let rates = Rates {
        caller: rate(3),
        address: rate(2),
    };
    let api = api(|builder| builder.rates(rates)).await;
    let from = |router: Router, address: [u8; 4], key: String| async move {
        let mut request = Request::builder()
            .uri("/api/v1/me")
            .header("authorization", format!("Bearer {key}"))
            .body(Body::empty())
            .unwrap();
        let address = axum::extract::ConnectInfo(std::net::SocketAddr::from((address, 1)));
        request.extensions_mut().insert(address);
        Answer::to(router, request).await
    };
    let ask = |last, key: &str| from(api.router.clone(), [192, 0, 2, last], key.to_owned());
    // Whoever is somebody pays by themselves, wherever they are.
    for left in ["2", "1", "0"] {
        let answer = ask(1, &api.key).await;
        answer.is(200, "");
        let level = answer.header(HeaderName::from_static("ratelimit"));
        assert!(level.starts_with(&format!("\"caller\";r={left};")), "{level}");
    }
    let answer = ask(2, &api.key).await;
    answer.is(429, "KKM-A018");
    assert_eq!(answer.header(header::RETRY_AFTER), "1");
    assert_eq!(
        answer.header(HeaderName::from_static("ratelimit-policy")),
        "\"caller\";q=3;w=3"
    );
    // Whoever is nobody pays by their address.
    ask(3, "nonsense").await.is(401, "KKM-A002");
    ask(3, "nonsense").await.is(401, "KKM-A002");
    ask(3, "nonsense").await.is(429, "KKM-A018");
    ask(4, "nonsense").await.is(401, "KKM-A002");
}

#[tokio::test]
async fn what_is_known_is_not_sent_again() {
    let api = api(|builder| builder).await;
    let made = api.post("/tokens", json!({"name": "t", "role": "agent"})).await;
    let path = format!("/api/v1/tokens/{}", text(&made.body["id"]));
    let tag = api
        .send("GET", &path, &[], None)
        .await
        .header(header::ETAG)
        .to_owned();
    for known in [&tag, "*", &format!("W/{tag}"), &format!("\"0\", {tag}")] {
        let answer = api.send("GET", &path, &[("if-none-match", known)], None).await;
        answer.is(304, "");
        assert_eq!((answer.header(header::ETAG), &answer.body), (&*tag, &Value::Null));
        assert_eq!(answer.headers.get(header::CONTENT_TYPE), None);
    }
    api.send("GET", &path, &[("if-none-match", "\"0\"")], None)
        .await
        .is(200, "");
    api.send("POST", &format!("{path}/revoke"), &[], None)
        .await
        .is(200, "");
    api.send("GET", &path, &[("if-none-match", &tag)], None)
        .await
        .is(200, "");
}

/// What is shown of a node changes without its record, and then so does its tag, which is good for `If-Match` still.
#[tokio::test]
async fn a_tag_covers_what_is_not_in_the_record() {
    let api = api(|builder| builder).await;
    let agent = api.agent("a").await;
    let target = json!({"agent": agent, "address": "127.0.0.1:80"});
    let service =
        json!({"name": "s", "tcp": {"port": 5000, "targets": [target]}, "policy": {"access": "public"}});
    let made = api.post("/services", service.clone()).await;
    made.is(201, "");
    let path = format!("/api/v1/services/{}", text(&made.body["id"]));
    let tag = |answer: &Answer| answer.header(header::ETAG).to_owned();
    let before = tag(&api.send("GET", &path, &[], None).await);
    assert_eq!(before, tag(&made));
    let found = api.control.use_cases();
    let actor = found.control().await.unwrap();
    let token = api.post("/tokens", json!({"name": "g", "role": "gateway"})).await;
    let token: TokenText = text(&token.body["token"]).parse().unwrap();
    let gateway = found
        .enrol(&EnrolRequest {
            secret_hash: token.secret_hash(),
            role: Role::Gateway,
            name: "g".parse().unwrap(),
            identity: IdentityKey::from_bytes([200; 32]),
            wireguard: WireGuardKey::from_bytes([200; 32]),
        })
        .await
        .unwrap();
    let endpoint = "gw.example.net:51820".parse().unwrap();
    found
        .set_gateway(&actor, gateway.id, &[endpoint], 443)
        .await
        .unwrap();
    let after = api.send("GET", &path, &[("if-none-match", &before)], None).await;
    after.is(200, "");
    assert_ne!(tag(&after), before);
    api.send("PUT", &path, &[("if-match", &before)], Some(service))
        .await
        .is(200, "");
}

#[tokio::test]
async fn browsers_stay_with_tls_where_there_is_tls() {
    let api = api(|builder| builder).await;
    for path in ["/api/v1/me", "/join", "/reference"] {
        let answer = api.send("GET", path, &[], None).await;
        answer.is(200, "");
        assert_eq!(
            answer.header(header::STRICT_TRANSPORT_SECURITY),
            "max-age=31536000"
        );
    }
}
