//! Passkeys over the API, with an authenticator in software.

use kakuremichi_core::{
    model::{MAX_PASSKEYS, User},
    time::Timestamp,
};

use super::*;
use crate::service::{Acting, RECENT_SIGN_IN, SoftKey};

const PASSKEYS: &str = "/account/passkeys";

impl Api {
    pub(super) async fn add(&self, bearer: &str, key: &mut SoftKey, name: &str) -> Answer {
        let asked = self
            .with(bearer, "POST", "/account/passkeys/challenge", None)
            .await;
        asked.is(200, "");
        let credential = key.create(&asked.body["options"]);
        let body = json!({"challenge": asked.body["challenge"], "name": name, "credential": credential});
        self.with(bearer, "POST", PASSKEYS, Some(body)).await
    }

    /// A challenge to sign in; after a password, if there is one.
    async fn asked(&self, with: Value) -> Value {
        let asked = self
            .with("", "POST", "/sessions/passkey/challenge", Some(with))
            .await;
        asked.is(200, "");
        asked.body
    }

    async fn answer(&self, asked: &Value, credential: &Value) -> Answer {
        let body = json!({"challenge": asked["challenge"], "credential": credential});
        self.with("", "POST", "/sessions/passkey", Some(body)).await
    }

    /// Signs in with a passkey alone.
    async fn enter(&self, key: &mut SoftKey) -> Answer {
        let asked = self.asked(json!({})).await;
        let credential = key.get(&asked["options"]);
        self.answer(&asked, &credential).await
    }

    async fn with_password(&self, email: &str, code: Option<&str>) -> Answer {
        let body = json!({"email": email, "password": PASSWORD, "code": code});
        self.with("", "POST", "/sessions", Some(body)).await
    }

    async fn user(&self, bearer: &str) -> User {
        let use_cases = self.control.use_cases();
        let actor = use_cases.person_of(bearer, Acting::Account).await.unwrap();
        use_cases.own_user(&actor.unwrap()).await.unwrap().value
    }
}

#[tokio::test]
async fn a_passkey_signs_in_and_is_a_second_factor() {
    let api = Api::start().await;
    let anna = api.person("anna@example.net", json!(["sites.read"])).await;
    let other = text(&api.with_password("anna@example.net", None).await.body["token"]);
    let mut key = SoftKey::new();
    let made = api.add(&anna, &mut key, "Phone").await;
    made.is(201, "");
    assert_eq!(made.body["passkey"]["name"], "Phone");
    let codes = made.body["recovery_codes"].as_array().unwrap().clone();
    assert_eq!(codes.len(), 10);
    // The session goes on, others end.
    assert_eq!(api.with(&anna, "GET", "/account", None).await.body["passkeys"], 1);
    api.with(&other, "GET", "/account", None)
        .await
        .is(401, "KKM-A002");

    // Alone: two factors that no other site can pass on.
    let asked = api.asked(json!({})).await;
    assert_eq!(asked["options"]["publicKey"]["userVerification"], "required");
    assert_eq!(asked["options"]["publicKey"]["allowCredentials"], json!([]));
    let credential = key.get(&asked["options"]);
    let begun = api.answer(&asked, &credential).await;
    begun.is(201, "");
    assert_eq!(begun.body["session"]["sign_in"], "passkey");
    // LESSONS, advisory 11: an answer is taken once.
    api.answer(&asked, &credential).await.is(401, "KKM-A030");
    let path = format!("{PREFIX}/organization/accounts");
    let strict = json!({"multi_factor": true, "passwords": false});
    api.send("PUT", &path, &[], Some(strict)).await.is(200, "");
    let token = text(&begun.body["token"]);
    api.with(&token, "GET", "/sites", None).await.is(200, "");
    let listed = api.with(&token, "GET", PASSKEYS, None).await;
    assert!(listed.body["items"][0]["used_at"].is_string(), "{listed:?}");

    // After a password, which is not enough any more.
    api.with_password("anna@example.net", None)
        .await
        .is(401, "KKM-A012");
    let asked = api
        .asked(json!({"email": "anna@example.net", "password": PASSWORD}))
        .await;
    assert_eq!(
        asked["options"]["publicKey"]["allowCredentials"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // An authenticator that is told which passkey does not have to say whose it is.
    key.says_whose = false;
    let credential = key.get(&asked["options"]);
    let begun = api.answer(&asked, &credential).await;
    begun.is(201, "");
    assert_eq!(begun.body["session"]["sign_in"], "password+passkey");
    api.with(&text(&begun.body["token"]), "GET", "/sites", None)
        .await
        .is(403, "KKM-A032");
    let wrong = json!({"email": "anna@example.net", "password": "not the password"});
    api.with("", "POST", "/sessions/passkey/challenge", Some(wrong))
        .await
        .is(401, "KKM-A002");

    // Whoever has lost it has the codes.
    let code = codes[0].as_str();
    let begun = api.with_password("anna@example.net", code).await;
    begun.is(201, "");
    assert_eq!(begun.body["session"]["sign_in"], "password+recovery-code");
    api.with_password("anna@example.net", code)
        .await
        .is(401, "KKM-A002");
}

/// LESSONS, advisory 11: of many who answer one challenge at once, one signs in.
#[tokio::test]
async fn advisory_11_a_challenge_is_answered_once() {
    let api = Api::start().await;
    let root = api.administrator().await;
    let mut key = SoftKey::new();
    api.add(&root, &mut key, "Phone").await.is(201, "");
    let asked = api.asked(json!({})).await;
    let credential = key.get(&asked["options"]);
    let all = futures_util::future::join_all((0..6).map(|_| api.answer(&asked, &credential))).await;
    let begun = all.iter().filter(|answer| answer.status == StatusCode::CREATED);
    assert_eq!(begun.count(), 1, "{all:?}");
}

#[tokio::test]
async fn what_a_passkey_does_not_prove_lets_nobody_in() {
    let api = Api::start().await;
    let root = api.administrator().await;
    let mut key = SoftKey::new();
    api.add(&root, &mut key, "Phone").await.is(201, "");
    api.enter(&mut key).await.is(201, "");

    let good = key.origin.clone();
    key.origin = "https://control.example.net.evil.example".to_owned();
    api.enter(&mut key).await.is(401, "KKM-A050");
    key.origin = good;
    key.host = "evil.example".to_owned();
    api.enter(&mut key).await.is(401, "KKM-A050");
    key.host = "control.example.net".to_owned();
    key.verifies = false;
    api.enter(&mut key).await.is(401, "KKM-A050");
    key.verifies = true;
    key.says_whose = false;
    api.enter(&mut key).await.is(401, "KKM-A050");
    key.says_whose = true;
    let mut stranger = SoftKey::new();
    stranger.create(&json!({"publicKey": {"user": {"id": "AAAAAAAAAAAAAAAAAAAAAA"}}}));
    api.enter(&mut stranger).await.is(401, "KKM-A050");

    // Guesses are counted as those at passwords are, until one is right.
    api.enter(&mut key).await.is(201, "");
    // An answer is for its challenge, a challenge is ours, and of this kind.
    let (one, two) = (api.asked(json!({})).await, api.asked(json!({})).await);
    let credential = key.get(&one["options"]);
    api.answer(&two, &credential).await.is(401, "KKM-A050");
    let adding = api.with(&root, "POST", "/account/passkeys/challenge", None).await;
    adding.is(403, "KKM-A052");
    for bad in ["", "x", "AAAA"] {
        api.answer(&json!({"challenge": bad}), &credential)
            .await
            .is(401, "KKM-A030");
    }
    api.answer(&one, &json!({"id": 1})).await.names("credential");

    // A counter that goes back is one of two copies.
    key.counter = 0;
    api.enter(&mut key).await.is(401, "KKM-A050");
    let audit = api.get("/audit?limit=100").await;
    assert!(audit.text.contains("user.passkey_copied"), "{}", audit.text);
    key.counter = 100;
    let begun = api.enter(&mut key).await;
    begun.is(201, "");

    // Whose account is disabled does not get in.
    let anna = api.person("anna@example.net", json!([])).await;
    let mut hers = SoftKey::new();
    api.add(&anna, &mut hers, "Phone").await.is(201, "");
    let id = api.user(&anna).await.id;
    let disable = Some(json!({"disabled": true}));
    let root = text(&begun.body["token"]);
    api.with(&root, "PATCH", &format!("/users/{id}"), disable)
        .await
        .is(200, "");
    api.enter(&mut hers).await.is(401, "KKM-A050");
}

#[tokio::test]
async fn passkeys_are_added_by_whoever_signed_in_just_now() {
    let api = Api::start().await;
    let anna = api.person("anna@example.net", json!([])).await;
    let mut key = SoftKey::new();
    let challenge = api
        .with(&anna, "POST", "/account/passkeys/challenge", None)
        .await
        .body;
    let credential = key.create(&challenge["options"]);
    let body = json!({"challenge": challenge["challenge"], "name": "Phone", "credential": credential});
    // In the session that asked, and nobody else's.
    let other = text(&api.with_password("anna@example.net", None).await.body["token"]);
    api.with(&other, "POST", PASSKEYS, Some(body.clone()))
        .await
        .is(401, "KKM-A030");
    api.with(&anna, "POST", PASSKEYS, Some(body.clone()))
        .await
        .is(201, "");
    // Now a password is not all that the account has.
    api.with(&anna, "POST", PASSKEYS, Some(body.clone()))
        .await
        .is(403, "KKM-A052");
    let anna = text(&api.enter(&mut key).await.body["token"]);
    api.with(&anna, "POST", PASSKEYS, Some(body))
        .await
        .is(401, "KKM-A030");
    api.add(&anna, &mut key, "Again").await.is(409, "KKM-A005");

    let mut unverified = SoftKey::new();
    unverified.verifies = false;
    api.add(&anna, &mut unverified, "Key").await.is(401, "KKM-A050");
    let path = format!("{PASSKEYS}/pky_aaaaaaaaaaaaaaaaaaaaaaaaaa");
    let name = Some(json!({"name": "Laptop"}));
    api.with(&anna, "PATCH", &path, name.clone())
        .await
        .is(404, "KKM-A004");
    api.with(&anna, "DELETE", &path, None).await.is(404, "KKM-A004");
    let own = api.user(&anna).await.passkeys[0].id;
    let renamed = api.with(&anna, "PATCH", &format!("{PASSKEYS}/{own}"), name).await;
    assert_eq!(renamed.body["name"], "Laptop", "{renamed:?}");

    for n in 1..MAX_PASSKEYS {
        api.add(&anna, &mut SoftKey::new(), &format!("Key {n}"))
            .await
            .is(201, "");
    }
    api.with(&anna, "POST", "/account/passkeys/challenge", None)
        .await
        .is(409, "KKM-A010");

    api.changes_session(&anna, |session| {
        let recent = i64::try_from(RECENT_SIGN_IN.as_millis()).unwrap();
        session.created = Timestamp::from_millis(session.created.as_millis() - recent);
    })
    .await;
    api.with(&anna, "POST", "/account/passkeys/challenge", None)
        .await
        .is(403, "KKM-A052");
    api.with(&anna, "DELETE", &format!("{PASSKEYS}/{own}"), None)
        .await
        .is(403, "KKM-A052");
}

#[tokio::test]
async fn the_last_second_factor_stays_where_two_are_asked_for() {
    let api = Api::start().await;
    let anna = api.person("anna@example.net", json!([])).await;
    let mut key = SoftKey::new();
    api.add(&anna, &mut key, "Phone").await.is(201, "");
    let path = format!("{PREFIX}/organization/accounts");
    let asks = |multi_factor| Some(json!({"multi_factor": multi_factor, "passwords": true}));
    api.send("PUT", &path, &[], asks(true)).await.is(200, "");
    let (one, two) = (api.enter(&mut key).await, api.enter(&mut key).await);
    let (one, two) = (text(&one.body["token"]), text(&two.body["token"]));
    let id = api.user(&one).await.passkeys[0].id;
    let own = format!("{PASSKEYS}/{id}");
    api.with(&one, "DELETE", &own, None).await.is(409, "KKM-A053");
    api.send("PUT", &path, &[], asks(false)).await.is(200, "");
    api.with(&one, "DELETE", &own, None).await.is(204, "");
    api.with(&two, "GET", "/account", None).await.is(401, "KKM-A002");
    let user = api.user(&one).await;
    assert!(user.passkeys.is_empty() && user.recovery_codes.is_empty());
    api.enter(&mut key).await.is(401, "KKM-A050");
    // A password is enough again.
    api.with_password("anna@example.net", None).await.is(201, "");
}

#[tokio::test]
async fn without_a_name_there_are_no_passkeys() {
    let api = Api::start_with(|builder| builder.public_url("https://192.0.2.7:7443")).await;
    let anna = api.person("anna@example.net", json!([])).await;
    let credential = format!("Bearer {anna}");
    let host = ("host", "192.0.2.7:7443");
    for (path, bearer) in [
        ("/api/v1/sessions/passkey/challenge", ""),
        ("/api/v1/account/passkeys/challenge", credential.as_str()),
    ] {
        let headers = [("authorization", bearer), host];
        api.send("POST", path, &headers, Some(json!({})))
            .await
            .is(409, "KKM-A051");
    }
}

/// Whoever came with a passkey just now needs no code to set an app up, on the page either: the field that asks for one
/// is sent empty.
#[tokio::test]
async fn a_passkey_stands_for_the_code_when_an_app_is_set_up() {
    let api = Api::start().await;
    let anna = api.person("anna@example.net", json!([])).await;
    let mut key = SoftKey::new();
    api.add(&anna, &mut key, "Phone").await.is(201, "");
    let entered = api.enter(&mut key).await;
    let mut tab = browser::Tab::default();
    tab.cookies
        .insert("__Host-kkm_session".to_owned(), text(&entered.body["token"]));
    let page = tab.open(&api, "/account/totp").await;
    page.says(200, "name=\"current_code\"");
    let secret = page.field("secret");
    let key = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
    let app = totp_rs::Builder::new().with_secret(key).build().unwrap();
    let now = u64::try_from(crate::service::now().as_millis()).unwrap() / 1000;
    let code = app.generate(now).to_string();
    let form = [
        ("secret", secret.as_str()),
        ("code", &code),
        ("password", PASSWORD),
        ("current_code", ""),
    ];
    tab.post(&api, "/account/totp", &form)
        .await
        .says(200, "<li><code>");
}
