//! Who the visitor is, as targets are told.

use data_encoding::BASE64URL_NOPAD;
use hyper::client::conn::http2 as client2;
use hyper_util::rt::TokioExecutor;
use kakuremichi_core::{key::IdentityKey, model::IdentityForm};
use kakuremichi_proto::identity::{Signature, Verifier as _};
use serde_json::{Value, json};

use super::{
    signing_in::{Office, anna},
    *,
};
use crate::{
    gateway::{
        access::wall_clock,
        testing::{argon2id, basic_policy, local},
    },
    keys::RingVerifier,
};

/// Every spelling that some server takes for the one that the gateway writes (LESSONS, advisory 3).
const SPELLINGS: [&str; 9] = [
    "X-Kakuremichi-User",
    "x_kakuremichi_user",
    "X.Kakuremichi.User",
    "X-Kakuremichi_User-Id",
    "x-kakuremichi.groups",
    "X_KAKUREMICHI-ROLES",
    "X-Kakuremichi-Assertion",
    "x_kakuremichi_assertion",
    "X-Kakuremichi-Anything",
];

/// What a visitor sends who would like to be somebody else.
fn pretence() -> String {
    let fields = SPELLINGS.map(|name| format!("{name}: root@evil.example\r\n"));
    format!(
        "{}Connection: X-Kakuremichi-User, x-kakuremichi-assertion\r\n",
        fields.concat()
    )
}

/// What the target was told under any spelling of names of ours, in order.
fn told(answer: &str) -> Vec<(String, String)> {
    let fields = answer.lines().filter_map(|line| line.split_once(": "));
    let folded = |name: &str| name.replace(['_', '.'], "-").to_ascii_lowercase();
    let mut told: Vec<_> = fields
        .filter(|(name, _)| folded(name).starts_with("x-kakuremichi"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    told.sort_unstable();
    told
}

fn value<'a>(told: &'a [(String, String)], name: &str) -> &'a str {
    let mut found = told.iter().filter(|(found, _)| found == name);
    let value = found.next().unwrap_or_else(|| panic!("no {name} in {told:?}"));
    assert!(found.next().is_none(), "{name} stands twice: {told:?}");
    &value.1
}

/// The claims of an assertion that verifies with one of the keys that the host shows.
async fn verified(scene: &Scene, assertion: &str) -> Value {
    let set = scene.get("/.kakuremichi/jwks.json", "").await;
    assert!(
        set.starts_with("HTTP/1.1 200 ") && set.contains("application/jwk-set+json"),
        "{set}"
    );
    let set: Value = serde_json::from_str(set.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap();
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    assert_eq!((&header["alg"], &header["typ"]), (&json!("EdDSA"), &json!("JWT")));
    let key = set["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["kid"] == header["kid"]);
    let key = decode(key.unwrap()["x"].as_str().unwrap());
    let key = IdentityKey::from_bytes(key.try_into().unwrap());
    let signature = Signature(decode(signature).try_into().unwrap());
    assert!(RingVerifier.verify(&key, signed.as_bytes(), &signature));
    serde_json::from_slice(&decode(claims)).unwrap()
}

/// LESSONS, advisories 2 and 3: what a visitor sends under the names of ours does not reach the target, and removes
/// nothing of ours.
#[test]
fn advisory_3_a_target_is_told_who_the_visitor_is_whatever_the_visitor_says() {
    local(async {
        let office = Office::open().await;
        let mut member = anna();
        member.groups = vec!["berlin".parse().unwrap(), "kyoto".parse().unwrap()];
        office.plan(3, Some(member));
        let session = office.signs_in().await;
        let lines = format!("{}Cookie: {session}\r\n", pretence());
        let answer = office.scene.get("/", &lines).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && !answer.contains("evil"),
            "{answer}"
        );
        let told = told(&answer);
        let user = anna().user.to_string();
        for (name, expected) in [
            ("x-kakuremichi-user", "anna@example.net"),
            ("x-kakuremichi-user-id", &user),
            ("x-kakuremichi-roles", "developer"),
            ("x-kakuremichi-groups", "berlin,kyoto"),
            ("x-kakuremichi-organization", &anna().organization.to_string()),
            ("x-kakuremichi-method", "user"),
            ("x-kakuremichi-strength", "one-factor"),
        ] {
            assert_eq!(value(&told, name), expected, "{name}");
        }
        assert_eq!(told.len(), 8, "{told:?}");
        let claims = verified(&office.scene, value(&told, "x-kakuremichi-assertion")).await;
        for (name, expected) in [
            ("iss", json!("https://control.example:7443/km")),
            ("aud", json!("h.example")),
            ("sub", json!(user)),
            ("email", json!("anna@example.net")),
            ("groups", json!(["berlin", "kyoto"])),
            ("roles", json!(["developer"])),
            ("acr", json!("one-factor")),
            ("method", json!("user")),
        ] {
            assert_eq!(claims[name], expected, "{name}");
        }
        let now = wall_clock().as_millis() / 1000;
        let (made, ends) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert!(made <= now && now < ends && ends - made <= 300, "{claims}");

        // One assertion serves the requests that follow, and another plan makes another one.
        let again = |answer: String| value(&self::told(&answer), "x-kakuremichi-assertion").to_owned();
        let first = value(&told, "x-kakuremichi-assertion");
        assert_eq!(again(office.scene.get("/", &lines).await), first);
        office.plan(4, Some(anna()));
        let claims = verified(&office.scene, &again(office.scene.get("/", &lines).await)).await;
        assert_eq!(claims["groups"], json!([]));
    });
}

/// A service says what its targets are told. What the visitor sends under the names of ours does not reach them whatever
/// it says (LESSONS, advisories 2 and 3).
#[test]
fn a_target_is_told_who_the_visitor_is_in_the_form_that_its_service_has() {
    local(async {
        let mut office = Office::open().await;
        let session = office.signs_in().await;
        for (revision, form) in (3..).zip(IdentityForm::ALL) {
            office.identity = form;
            office.plan(revision, Some(anna()));
            let lines = format!("{}Cookie: {session}\r\n", pretence());
            let answer = office.scene.get("/", &lines).await;
            assert!(
                answer.starts_with("HTTP/1.1 200 ") && !answer.contains("evil"),
                "{answer}"
            );
            let told = told(&answer);
            let is_assertion = |(name, _): &&(String, String)| name == "x-kakuremichi-assertion";
            let assertions = told.iter().filter(is_assertion).count();
            assert_eq!(assertions, usize::from(form.has_assertion()), "{form:?}");
            assert_eq!(told.len() > assertions, form.has_headers(), "{form:?}: {told:?}");
            if form.has_headers() {
                assert_eq!(value(&told, "x-kakuremichi-user"), "anna@example.net");
            }
            if form.has_assertion() {
                let claims = verified(&office.scene, value(&told, "x-kakuremichi-assertion")).await;
                assert_eq!(claims["email"], json!("anna@example.net"));
            }
        }
    });
}

#[test]
fn advisory_3_a_visitor_whom_nobody_knows_is_nobody() {
    local(async {
        let scene = Scene::answering(echo).await;
        let answer = scene.get("/", &pretence()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(told(&answer), []);
        // Without a plan that has keys there is one to verify with nonetheless.
        let set = scene.get("/.kakuremichi/jwks.json", "").await;
        assert!(set.contains("\"crv\":\"Ed25519\""), "{set}");
    });
}

#[test]
fn a_password_tells_its_name_and_websockets_and_http_2_are_told_the_same() {
    local(async {
        let policy = basic_policy("ann", &argon2id("open sesame"));
        let scene = Scene::with(policy, 1, Timeouts::default());
        scene.online(1, serve_target(echo).await);
        let credential = format!("Basic {}", data_encoding::BASE64.encode(b"ann:open sesame"));
        let lines = format!("Authorization: {credential}\r\n{}", pretence());
        let first = told(&scene.get("/", &lines).await);
        assert_eq!(value(&first, "x-kakuremichi-user"), "ann");
        assert_eq!(value(&first, "x-kakuremichi-user-id"), "basic:ann");
        assert_eq!(value(&first, "x-kakuremichi-method"), "basic");
        let claims = verified(&scene, value(&first, "x-kakuremichi-assertion")).await;
        assert_eq!(
            (&claims["iss"], &claims["sub"]),
            (&json!("https://h.example"), &json!("basic:ann"))
        );
        assert_eq!((claims.get("email"), claims.get("groups")), (None, None));

        let visitor = scene.visit(Protocol::Http2).await;
        let (mut sender, driver) = client2::handshake(TokioExecutor::new(), TokioIo::new(visitor))
            .await
            .unwrap();
        tokio::task::spawn_local(driver);
        let mut request = Request::get("https://h.example/").header("authorization", &credential);
        // HTTP/2 has lower case names only, and no `Connection`.
        for name in SPELLINGS {
            request = request.header(name.to_ascii_lowercase(), "root@evil.example");
        }
        let answer = sender
            .send_request(request.body(Full::<Bytes>::default()).unwrap())
            .await
            .unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(told(&String::from_utf8_lossy(&body)), first);

        let notes = Notes::default();
        let heads = notes.clone();
        let target = script(move |mut stream, _| {
            let notes = heads.clone();
            async move { notes.note(read_head(&mut stream).await) }
        });
        scene.online(1, target.await);
        let ask = format!(
            "GET /ws HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
        );
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor.write_all(ask.as_bytes()).await.unwrap();
        until(|| !notes.all().is_empty()).await;
        assert_eq!(told(&notes.all()[0]), first);
    });
}
