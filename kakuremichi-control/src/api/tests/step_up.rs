//! People who are signed in, and confirm it because a service wants that.

use kakuremichi_core::time::Timestamp;

use super::{browser::Tab, *};
use crate::service::SoftKey;

const STEP_UP: &str = "/sign-in/step-up";
const COOKIE: &str = "__Host-kkm_session";

/// Where a gateway sends a browser, and what for.
struct Door<'a> {
    api: &'a Api,
    path: String,
}

impl<'a> Door<'a> {
    /// Publishes a service.
    async fn open(api: &'a Api) -> Self {
        let agent = api.agent("home").await;
        let route = json!({"path": "/", "targets": [{"agent": agent, "address": "127.0.0.1:8080"}]});
        let service = json!({"name": "web", "http": {"hosts": ["web.example.net"], "routes": [route]}});
        let made = api.post("/services", service).await;
        made.is(201, "");
        let id = text(&made.body["id"]);
        let binding = data_encoding::BASE64URL_NOPAD.encode(&[7; 32]);
        Self {
            api,
            path: format!("/sign-in/service?service={id}&host=web.example.net&port=8443&binding={binding}"),
        }
    }

    /// Sends a browser there. That there is a gateway at the port is said again until it is heard: the planner, which
    /// knows of none, may just have said the opposite.
    async fn send(&self, tab: &mut Tab, wanted: &str) -> Answer {
        let use_cases = self.api.control.use_cases();
        let organization = use_cases.control().await.unwrap().organization;
        loop {
            use_cases.planned(organization, 0, [8443].into());
            let answer = tab.open(self.api, &self.back(wanted)).await;
            if answer.status != StatusCode::NOT_FOUND {
                return answer;
            }
        }
    }

    /// Where the page goes back to.
    fn back(&self, wanted: &str) -> String {
        format!("{}&strength={wanted}", self.path)
    }
}

impl Answer {
    #[track_caller]
    fn is_ticket(&self) {
        let location = self.header(header::LOCATION);
        let expected = "https://web.example.net:8443/.kakuremichi/signed-in?ticket=";
        assert!(
            self.status == StatusCode::SEE_OTHER && location.starts_with(expected),
            "{self:?}"
        );
    }

    #[track_caller]
    fn goes_on(&self) {
        let location = self.header(header::LOCATION);
        let expected = "https://control.example.net/km/sign-in?return=%2Fsign%2Din%2Fservice";
        assert!(
            self.status == StatusCode::SEE_OTHER && location.starts_with(expected),
            "{self:?}"
        );
    }

    fn attribute(&self, name: &str) -> String {
        let (_, rest) = self.text.split_once(&format!("{name}=\"")).unwrap();
        let value = rest.split_once('"').unwrap().0;
        value.replace("&#34;", "\"").replace("&#38;", "&")
    }
}

async fn ages(api: &Api, tab: &Tab, seconds: i64) {
    let text = &tab.cookies[COOKIE];
    api.changes_session(text, |session| {
        let at = session.authenticated.as_millis() - seconds * 1000;
        session.authenticated = Timestamp::from_millis(at);
    })
    .await;
}

/// FEATURES E1. LESSONS, advisory 12: session ids change at every privilege change.
#[tokio::test]
async fn advisory_12_a_person_steps_up_with_a_passkey_and_has_another_secret() {
    let api = Api::start().await;
    api.administrator().await;
    let door = Door::open(&api).await;
    let mut tab = Tab::default();
    tab.sign_in(&api, "root@example.net").await;
    door.send(&mut tab, "one-factor").await.is_ticket();

    // Who has nothing for it is told what to set up, and where; nothing goes round.
    let told = door.send(&mut tab, "phishing-resistant").await;
    told.says(403, "add a passkey to <a href=\"/km/account\">");
    told.says(403, "try again</a>");
    let mut key = SoftKey::new();
    let bearer = tab.cookies[COOKIE].clone();
    api.add(&bearer, &mut key, "Phone").await.is(201, "");

    let asked = door.send(&mut tab, "phishing-resistant").await;
    asked.says(403, "data-passkey=\"get\"");
    assert!(
        !asked.text.contains("name=\"code\""),
        "a code is not strong enough"
    );
    let options: Value = serde_json::from_str(&asked.attribute("data-options")).unwrap();
    let credential = key.get(&options).to_string();
    let (challenge, back) = (asked.field("challenge"), door.back("phishing-resistant"));
    let form = [
        ("return", back.as_str()),
        ("challenge", challenge.as_str()),
        ("credential", credential.as_str()),
    ];
    let mut before = tab.clone();
    tab.post(&api, STEP_UP, &form).await.goes_on();
    assert_ne!(before.cookies, tab.cookies);
    door.send(&mut tab, "phishing-resistant").await.is_ticket();
    // It is the same session, as strong as it can be; what opened it before opens nothing.
    let sessions = api.with(&tab.cookies[COOKIE], "GET", "/sessions", None).await;
    let current = sessions.body["items"].as_array().unwrap();
    let current: Vec<_> = current
        .iter()
        .filter(|session| session["current"] == true)
        .collect();
    assert_eq!(current[0]["sign_in"], "password+passkey", "{sessions:?}");
    api.with(&bearer, "GET", "/me", None).await.is(401, "KKM-A002");
    let away = before.open(&api, "/account").await;
    assert_eq!(away.status, StatusCode::SEE_OTHER);
    // LESSONS, advisory 11: an answer is taken once.
    tab.post(&api, STEP_UP, &form).await.says(401, "role=\"alert\"");
    before.post(&api, STEP_UP, &form).await.goes_on();
    assert!(!before.cookies.contains_key(COOKIE) || before.cookies[COOKIE] == bearer);
}

#[tokio::test]
async fn a_sign_in_that_is_too_long_ago_is_confirmed_by_what_the_account_has() {
    let api = Api::start().await;
    api.administrator().await;
    let door = Door::open(&api).await;
    let mut tab = Tab::default();
    tab.sign_in(&api, "root@example.net").await;
    let recent = "one-factor&max_age=300";
    door.send(&mut tab, recent).await.is_ticket();
    // No gateway asks for less than that.
    door.send(&mut tab, "one-factor&max_age=299")
        .await
        .says(400, "no link of a gateway");

    ages(&api, &tab, 240).await;
    door.send(&mut tab, "one-factor").await.is_ticket();
    let asked = door.send(&mut tab, recent).await;
    asked.says(403, "name=\"password\"");
    assert!(
        !asked.text.contains("name=\"code\"") && !asked.text.contains("add a"),
        "{}",
        asked.text
    );
    let back = door.back(recent);
    let form = |password| [("return", back.as_str()), ("password", password)];
    // LESSONS, advisory 15: a form of another site confirms nothing.
    let sent = format!("password={}", PASSWORD.replace(' ', "+"));
    tab.send(
        &api,
        "POST",
        STEP_UP,
        &[("origin", "https://evil.example")],
        &sent,
    )
    .await
    .says(403, "");
    tab.post(&api, STEP_UP, &form("wrong"))
        .await
        .says(401, "name=\"password\"");
    door.send(&mut tab, recent).await.says(403, "name=\"password\"");
    tab.post(&api, STEP_UP, &form(PASSWORD)).await.goes_on();
    door.send(&mut tab, recent).await.is_ticket();

    // Who has a second factor proves that they still have it.
    let drawn = api
        .with(&tab.cookies[COOKIE], "POST", "/account/totp/secret", None)
        .await;
    let secret = text(&drawn.body["secret"]);
    let code = |back: u64| {
        let key = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
        let app = totp_rs::Builder::new().with_secret(key).build().unwrap();
        let now = u64::try_from(crate::service::now().as_millis()).unwrap() / 1000;
        app.generate(now - back).to_string()
    };
    let set = json!({"secret": secret, "code": code(30), "password": PASSWORD});
    let made = api
        .with(&tab.cookies[COOKIE], "PUT", "/account/totp", Some(set))
        .await;
    made.is(200, "");
    tab.cookies.insert(COOKIE.to_owned(), text(&made.body["token"]));
    ages(&api, &tab, 240).await;
    let asked = door.send(&mut tab, recent).await;
    asked.says(403, "name=\"code\"");
    assert!(!asked.text.contains("name=\"password\""), "{}", asked.text);
    tab.post(&api, STEP_UP, &form(PASSWORD))
        .await
        .says(401, "name=\"code\"");
    let codes = [("return", back.as_str()), ("code", &code(0))];
    tab.post(&api, STEP_UP, &codes).await.goes_on();
    door.send(&mut tab, "two-factors&max_age=300").await.is_ticket();

    // Whoever came by a provider, and has nothing here, signs in anew.
    api.changes_session(&tab.cookies[COOKIE], |session| {
        session.sign_in = kakuremichi_core::model::SignIn::Provider;
    })
    .await;
    door.send(&mut tab, "two-factors")
        .await
        .says(403, "name=\"code\"");
    let codes = [("return", back.as_str()), ("code", "000000")];
    tab.post(&api, STEP_UP, &codes).await.says(401, "name=\"code\"");
    let recovery = text(&made.body["recovery_codes"][0]);
    let codes = [("return", back.as_str()), ("code", recovery.as_str())];
    tab.post(&api, STEP_UP, &codes).await.goes_on();
    door.send(&mut tab, "two-factors").await.is_ticket();

    Tab::default().post(&api, STEP_UP, &codes).await.goes_on();
    tab.post(&api, STEP_UP, &codes[1..]).await.says(400, "not whole");
}

#[tokio::test]
async fn who_has_one_factor_where_two_are_asked_for_is_told_what_to_set_up() {
    let api = Api::start().await;
    api.administrator().await;
    let door = Door::open(&api).await;
    let mut tab = Tab::default();
    tab.sign_in(&api, "root@example.net").await;
    api.asks(json!({"multi_factor": true, "passwords": true}))
        .await
        .is(200, "");
    let told = door.send(&mut tab, "one-factor").await;
    told.says(
        403,
        "add a passkey, or an app that shows codes, to <a href=\"/km/account\">",
    );
}

#[tokio::test]
async fn a_policy_says_how_long_ago_a_sign_in_may_be() {
    let api = Api::start().await;
    Door::open(&api).await;
    let id = text(&api.get("/services").await.body["items"][0]["id"]);
    let path = format!("{PREFIX}/services/{id}");
    let read = api.send("GET", &path, &[], None).await;
    let service = |age: u32| {
        let requirement = json!({"strength": "two_factors", "max_age": age});
        let policy = json!({"access": {"any_of": [{"signed_in_as": requirement}]}});
        json!({"name": "web", "http": read.body["http"], "policy": policy})
    };
    for wrong in [299, 86_401] {
        let refused = api.send("PUT", &path, &[], Some(service(wrong))).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
    }
    let changed = api.send("PUT", &path, &[], Some(service(600))).await;
    changed.is(200, "");
    let shown = &changed.body["policy"]["access"]["any_of"][0]["signed_in_as"];
    assert_eq!(*shown, json!({"strength": "two_factors", "max_age": 600}));
    let tried = async |minutes: Option<&str>| {
        let visitor = json!({
            "user": {"authority": "user", "subject": "usr_x"}, "strength": "two_factors",
            "authenticated_at": minutes.map(|minutes| format!("2030-01-01T12:{minutes}:00Z")),
        });
        let input = json!({
            "url": "https://web.example.net/", "address": "192.0.2.1", "at": "2030-01-01T12:30:00Z",
            "visitor": {"signed_in": visitor},
        });
        let simulated = api.post("/simulate", input).await;
        simulated.is(200, "");
        (text(&simulated.body["decision"]), text(&simulated.body["reason"]))
    };
    assert_eq!(tried(Some("21")).await.0, "permit");
    let expected = "the visitor is asked to sign in with two factors, no longer than 10 minutes ago";
    for old in [Some("20"), None] {
        assert_eq!(tried(old).await, ("challenge".to_owned(), expected.to_owned()));
    }
}

/// The simulator says what somebody who is too weak for a rule is asked for, and what would be decided of them as they are.
#[tokio::test]
async fn the_simulator_says_that_a_rule_asks_for_a_stronger_sign_in() {
    let api = Api::start().await;
    Door::open(&api).await;
    let id = text(&api.get("/services").await.body["items"][0]["id"]);
    let path = format!("{PREFIX}/services/{id}");
    let read = api.send("GET", &path, &[], None).await;
    let rule = |when, effect| json!([{"name": "strong", "when": when, "effect": effect}]);
    let strong = json!({"strength": "two_factors"});
    for (rules, access, why) in [
        (
            rule(strong.clone(), "allow"),
            json!("deny"),
            "the policy lets nobody in",
        ),
        (
            rule(json!({"not": strong}), "deny"),
            json!({"any_of": ["signed_in"]}),
            "the rule strong denies",
        ),
    ] {
        let policy = json!({"rules": rules, "access": access});
        let service = json!({"name": "web", "http": read.body["http"], "policy": policy});
        api.send("PUT", &path, &[], Some(service)).await.is(200, "");
        let tried = async |strength: &str| {
            let user = json!({"authority": "user", "subject": "usr_x"});
            let visitor = json!({"signed_in": {"user": user, "strength": strength}});
            let input = json!({
                "url": "https://web.example.net/", "address": "192.0.2.1", "visitor": visitor,
            });
            let simulated = api.post("/simulate", input).await;
            simulated.is(200, "");
            (text(&simulated.body["decision"]), text(&simulated.body["reason"]))
        };
        let expected = format!("the visitor is asked to sign in with two factors: as they signed in, {why}");
        assert_eq!(tried("one_factor").await, ("challenge".to_owned(), expected));
        assert_eq!(tried("two_factors").await.0, "permit");
    }
}
