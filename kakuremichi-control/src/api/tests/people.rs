//! People, and what they may do.

use kakuremichi_core::{
    model::Permission,
    store::{Mutation, conformance::sample},
    time::Timestamp,
};

use super::*;

pub(super) const PASSWORD: &str = "correct horse battery";

impl Api {
    pub(super) async fn with(&self, bearer: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let credential = format!("Bearer {bearer}");
        let headers = [("authorization", credential.as_str())];
        self.send(method, &format!("{PREFIX}{path}"), &headers, body)
            .await
    }

    /// Somebody who makes an account with an invitation; the token of their session.
    async fn accept(&self, invitation: &str, email: &str) -> Answer {
        let body =
            json!({"invitation": invitation, "email": email, "name": "Somebody", "password": PASSWORD});
        self.with("", "POST", "/invitations/accept", Some(body)).await
    }

    /// The first user, who administers this Control.
    pub(super) async fn administrator(&self) -> String {
        let link = self.control.set_up_link().await.unwrap().unwrap();
        let (page, invitation) = link.expose().split_once('#').unwrap();
        assert_eq!(page, "https://control.example.net/km/join");
        let accepted = self.accept(invitation, "root@example.net").await;
        accepted.is(201, "");
        text(&accepted.body["token"])
    }

    /// Somebody with a role of these permissions, or with the named one.
    pub(super) async fn person(&self, email: &str, permissions: Value) -> String {
        let name = email.split('@').next().unwrap();
        let role = self
            .post("/roles", json!({"name": name, "permissions": permissions}))
            .await;
        role.is(201, "");
        let invited = self
            .post(
                "/invitations",
                json!({"email": email, "roles": [role.body["id"]]}),
            )
            .await;
        invited.is(201, "");
        let accepted = self
            .accept(invited.body["invitation"].as_str().unwrap(), email)
            .await;
        accepted.is(201, "");
        text(&accepted.body["token"])
    }

    async fn sign_in(&self, email: &str, password: &str, code: Option<&str>) -> Answer {
        let body = json!({"email": email, "password": password, "code": code});
        self.with("", "POST", "/sessions", Some(body)).await
    }

    async fn key_with(&self, permissions: Value) -> String {
        let made = self
            .post("/api-keys", json!({"name": "some", "permissions": permissions}))
            .await;
        made.is(201, "");
        text(&made.body["key"])
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// LESSONS, advisory 16: no default credentials, but a link that is good once, and ends.
#[tokio::test]
async fn advisory_16_the_first_user_comes_by_a_link_that_is_good_once() {
    let api = Api::start().await;
    api.sign_in("admin@example.net", "admin", None)
        .await
        .is(401, "KKM-A002");
    let first = api.control.set_up_link().await.unwrap().unwrap();
    let second = api.control.set_up_link().await.unwrap().unwrap();
    let invitation = |link: &str| link.split_once('#').unwrap().1.to_owned();
    let stale = invitation(first.expose());
    api.accept(&stale, "root@example.net").await.is(409, "KKM-A014");
    let good = invitation(second.expose());
    let weak = json!({"invitation": good, "email": "root@example.net", "name": "R", "password": "short"});
    api.with("", "POST", "/invitations/accept", Some(weak))
        .await
        .names("password");
    let accepted = api.accept(&good, "root@example.net").await;
    accepted.is(201, "");
    let me = api
        .with(accepted.body["token"].as_str().unwrap(), "GET", "/me", None)
        .await;
    assert_eq!(me.body["administrator"], true);
    assert_eq!(
        (&me.body["authority"], &me.body["permissions"]),
        (&json!("user"), &json!(["*"]))
    );
    assert!(api.control.set_up_link().await.unwrap().is_none());
    api.accept(&good, "again@example.net").await.is(409, "KKM-A014");
}

/// LESSONS, advisory 11: of several who use one invitation at once, one does.
#[tokio::test]
async fn advisory_11_an_invitation_is_consumed_once() {
    let api = Api::start().await;
    let link = api.control.set_up_link().await.unwrap().unwrap();
    let invitation = link.expose().split_once('#').unwrap().1;
    let emails: Vec<_> = (0..6).map(|n| format!("user-{n}@example.net")).collect();
    let all = futures_util::future::join_all(emails.iter().map(|email| api.accept(invitation, email))).await;
    let accepted = all
        .iter()
        .filter(|answer| answer.status == StatusCode::CREATED)
        .count();
    assert_eq!(accepted, 1, "{all:?}");
    assert_eq!(
        api.control
            .use_cases()
            .store()
            .all::<kakuremichi_core::model::User>(None)
            .await
            .unwrap()
            .len(),
        1
    );
}

/// Nobody learns who has an account, and guessing gets slower and slower.
#[tokio::test]
async fn signing_in_tells_nothing_and_slows_down() {
    let api = Api::start().await;
    api.administrator().await;
    let wrong = api.sign_in("root@example.net", "not the password", None).await;
    let nobody = api.sign_in("nobody@example.net", "not the password", None).await;
    let nonsense = api.sign_in("no address", "not the password", None).await;
    for answer in [&nobody, &nonsense] {
        assert_eq!((answer.status, &answer.body), (wrong.status, &wrong.body));
    }
    wrong.is(401, "KKM-A002");
    for _ in 0..4 {
        api.sign_in("Root@Example.net", "wrong again", None)
            .await
            .is(401, "KKM-A002");
    }
    let limited = api.sign_in("root@example.net", PASSWORD, None).await;
    limited.is(429, "KKM-A011");
    let wait: u64 = limited.header(header::RETRY_AFTER).parse().unwrap();
    assert!((1..=2).contains(&wait));
}

#[tokio::test]
async fn sessions_are_listed_and_end() {
    let api = Api::start().await;
    let first = api.administrator().await;
    let second = api.sign_in("ROOT@example.net", PASSWORD, None).await;
    second.is(201, "");
    let (second, id) = (text(&second.body["token"]), text(&second.body["session"]["id"]));
    let listed = api.with(&first, "GET", "/sessions", None).await;
    let items = listed.body["items"].as_array().unwrap();
    assert_eq!(
        (items.len(), &items[0]["id"], &items[0]["current"]),
        (2, &json!(id), &json!(false))
    );
    api.with(&second, "DELETE", "/sessions/current", None)
        .await
        .is(204, "");
    api.with(&second, "GET", "/me", None).await.is(401, "KKM-A002");
    // Somebody else's session is not there.
    let other = api.person("anna@example.net", json!(["services.read"])).await;
    let mine = text(&api.with(&first, "GET", "/sessions", None).await.body["items"][0]["id"]);
    api.with(&other, "DELETE", &format!("/sessions/{mine}"), None)
        .await
        .is(404, "KKM-A004");
    api.with(&first, "DELETE", &format!("/sessions/{mine}"), None)
        .await
        .is(204, "");
    api.with(&first, "GET", "/sessions", None)
        .await
        .is(401, "KKM-A002");
    // A key has no account.
    api.get("/sessions").await.is(403, "KKM-A003");
    api.get("/account").await.is(403, "KKM-A003");
}

#[tokio::test]
async fn a_session_ends_by_itself() {
    let api = Api::start().await;
    let token = api.administrator().await;
    let store = api.control.use_cases().store();
    let sessions = store.all::<kakuremichi_core::model::Session>(None).await.unwrap();
    let mut session = sessions[0].value.clone();
    session.expires = Timestamp::from_millis(crate::service::now().as_millis() - 1);
    let batch = kakuremichi_core::store::Batch {
        mutations: vec![Mutation::Update(session.into(), sessions[0].version)],
        audit: sample::audit("test.expire"),
        request: None,
    };
    store.commit(batch).await.unwrap();
    api.with(&token, "GET", "/me", None).await.is(401, "KKM-A002");
}

/// LESSONS, advisory 12: what was signed in before a change of the password is not any more.
#[tokio::test]
async fn advisory_12_a_new_password_ends_all_sessions() {
    let api = Api::start().await;
    let first = api.administrator().await;
    let other = text(&api.sign_in("root@example.net", PASSWORD, None).await.body["token"]);
    let change = |password: &str, new: &str| Some(json!({"password": password, "new_password": new}));
    api.with(
        &first,
        "PUT",
        "/account/password",
        change("wrong password", "another password"),
    )
    .await
    .is(403, "KKM-A013");
    api.with(&first, "PUT", "/account/password", change(PASSWORD, "short"))
        .await
        .names("new_password");
    let changed = api
        .with(
            &first,
            "PUT",
            "/account/password",
            change(PASSWORD, "another password"),
        )
        .await;
    changed.is(200, "");
    for gone in [&first, &other] {
        api.with(gone, "GET", "/me", None).await.is(401, "KKM-A002");
    }
    api.with(changed.body["token"].as_str().unwrap(), "GET", "/me", None)
        .await
        .is(200, "");
    api.sign_in("root@example.net", PASSWORD, None)
        .await
        .is(401, "KKM-A002");
    api.sign_in("root@example.net", "another password", None)
        .await
        .is(201, "");
}

#[tokio::test]
async fn a_second_factor_is_asked_for() {
    let api = Api::start().await;
    let token = api.administrator().await;
    let drawn = api.with(&token, "POST", "/account/totp/secret", None).await;
    let secret = text(&drawn.body["secret"]);
    assert!(text(&drawn.body["uri"]).starts_with("otpauth://totp/kakuremichi:root@example.net?secret="));
    let code = |back: u64| {
        let key = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
        let app = totp_rs::Builder::new().with_secret(key).build().unwrap();
        let now = u64::try_from(crate::service::now().as_millis()).unwrap() / 1000;
        app.generate(now - back).to_string()
    };
    let set = |code: &str| Some(json!({"secret": secret, "code": code, "password": PASSWORD}));
    api.with(&token, "PUT", "/account/totp", set("12345"))
        .await
        .names("code");
    let used = code(30);
    let made = api.with(&token, "PUT", "/account/totp", set(&used)).await;
    made.is(200, "");
    api.with(&token, "GET", "/me", None).await.is(401, "KKM-A002");
    let token = text(&made.body["token"]);
    assert_eq!(made.body["recovery_codes"].as_array().unwrap().len(), 10);
    assert_eq!(api.with(&token, "GET", "/account", None).await.body["totp"], true);

    api.sign_in("root@example.net", PASSWORD, None)
        .await
        .is(401, "KKM-A012");
    api.sign_in("root@example.net", PASSWORD, Some(&used))
        .await
        .is(401, "KKM-A002");
    let signed_in = api.sign_in("root@example.net", PASSWORD, Some(&code(0))).await;
    signed_in.is(201, "");
    assert_eq!(signed_in.body["session"]["sign_in"], "password+totp");
    let recovery = text(&made.body["recovery_codes"][3]);
    let recovered = api.sign_in("root@example.net", PASSWORD, Some(&recovery)).await;
    recovered.is(201, "");
    assert_eq!(recovered.body["session"]["sign_in"], "password+recovery-code");
    api.sign_in("root@example.net", PASSWORD, Some(&recovery))
        .await
        .is(401, "KKM-A002");
    let account = api.with(&token, "GET", "/account", None).await;
    assert_eq!(account.body["recovery_codes"], 9);
    // A password alone takes it away no more than it lets in.
    let without = Some(json!({"password": PASSWORD}));
    api.with(&token, "DELETE", "/account/totp", without)
        .await
        .is(401, "KKM-A012");
    let code = json!({"password": PASSWORD, "code": made.body["recovery_codes"][7]});
    let removed = api.with(&token, "DELETE", "/account/totp", Some(code)).await;
    removed.is(200, "");
    api.sign_in("root@example.net", PASSWORD, None).await.is(201, "");
}

/// Asking without a code, with the right password, forgives no wrong code.
#[tokio::test]
async fn codes_cannot_be_guessed() {
    let api = Api::start().await;
    let token = api.administrator().await;
    let drawn = api.with(&token, "POST", "/account/totp/secret", None).await;
    let secret = text(&drawn.body["secret"]);
    let key = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
    let app = totp_rs::Builder::new().with_secret(key).build().unwrap();
    let now = u64::try_from(crate::service::now().as_millis()).unwrap() / 1000;
    let code = app.generate(now).to_string();
    let set = json!({"secret": secret, "code": code, "password": PASSWORD});
    api.with(&token, "PUT", "/account/totp", Some(set))
        .await
        .is(200, "");
    let mut wrong = 0;
    loop {
        let answer = api.sign_in("root@example.net", PASSWORD, Some(&code)).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        answer.is(401, "KKM-A002");
        wrong += 1;
        assert!(wrong < 10, "codes can be guessed without end");
        api.sign_in("root@example.net", PASSWORD, None).await;
    }
}

/// Taking one permission away makes exactly its routes answer 403.
#[tokio::test]
async fn each_permission_opens_exactly_its_routes() {
    let api = Api::start().await;
    let everything: Vec<_> = Permission::ALL
        .iter()
        .map(|permission| permission.as_str())
        .collect();
    for missing in Permission::ALL {
        let rest: Vec<_> = everything
            .iter()
            .filter(|name| **name != missing.as_str())
            .collect();
        let key = api.key_with(json!(rest)).await;
        for route in routes::routes() {
            if route.requirement.is_open() {
                continue;
            }
            let path = route.path.replace("{id}", "svc_aaaaaaaaaaaaaaaaaaaaaaaaaa");
            let answer = api.with(&key, route.method.as_str(), &path, None).await;
            let expected = match route.requirement {
                Requirement::Permission(permission) => permission == *missing,
                Requirement::Person | Requirement::Administrator => true,
                Requirement::Public | Requirement::Link | Requirement::Anybody => false,
            };
            assert_eq!(
                answer.status == StatusCode::FORBIDDEN,
                expected,
                "{} {path} without {missing}: {answer:?}",
                route.method
            );
            if expected && let Requirement::Permission(permission) = route.requirement {
                assert!(text(&answer.body["detail"]).contains(permission.as_str()));
            }
        }
    }
}

/// A role without anything opens nothing but what everybody has.
#[tokio::test]
async fn a_weak_role_opens_nothing() {
    let api = Api::start().await;
    api.administrator().await;
    let weak = api.person("weak@example.net", json!([])).await;
    for route in routes::routes() {
        let path = route.path.replace("{id}", "svc_aaaaaaaaaaaaaaaaaaaaaaaaaa");
        if path == "/sessions/current" || route.requirement.is_open() {
            continue;
        }
        let answer = api.with(&weak, route.method.as_str(), &path, None).await;
        let closed = matches!(
            route.requirement,
            Requirement::Permission(_) | Requirement::Administrator
        );
        assert_eq!(
            answer.status == StatusCode::FORBIDDEN,
            closed,
            "{} {path}: {answer:?}",
            route.method
        );
    }
}

/// Whoever may make roles, members, invitations or keys does not become more than they are by it.
#[tokio::test]
async fn nobody_gives_what_they_do_not_have() {
    let api = Api::start().await;
    let root = api.administrator().await;
    let roles = api.get("/roles").await;
    let owner = text(&roles.body["items"][0]["id"]);
    assert_eq!(
        (
            &roles.body["items"][0]["name"],
            &roles.body["items"][0]["built_in"]
        ),
        (&json!("owner"), &json!(true))
    );
    let hr = json!([
        "members.read",
        "members.write",
        "roles.read",
        "roles.write",
        "api-keys.write"
    ]);
    let anna = api.person("anna@example.net", hr).await;
    let refused = |answer: Answer| answer.is(403, "KKM-A003");
    for permissions in [json!(["*"]), json!(["services.read", "members.read"])] {
        let role = Some(json!({"name": "more", "permissions": permissions}));
        refused(api.with(&anna, "POST", "/roles", role).await);
        let key = Some(json!({"name": "more", "permissions": permissions}));
        refused(api.with(&anna, "POST", "/api-keys", key).await);
    }
    let invite = Some(json!({"email": "b@example.net", "roles": [owner]}));
    refused(api.with(&anna, "POST", "/invitations", invite).await);
    let members = api.with(&anna, "GET", "/members", None).await;
    let id_of = |email: &str| {
        let items = members.body["items"].as_array().unwrap();
        text(&items.iter().find(|item| item["email"] == email).unwrap()["id"])
    };
    let (hers, roots) = (id_of("anna@example.net"), id_of("root@example.net"));
    let promote = Some(json!({"roles": [owner]}));
    refused(api.with(&anna, "PUT", &format!("/members/{hers}"), promote).await);
    let demote = Some(json!({"roles": []}));
    refused(api.with(&anna, "PUT", &format!("/members/{roots}"), demote).await);
    refused(
        api.with(&anna, "DELETE", &format!("/members/{roots}"), None)
            .await,
    );
    // Publishing by way of an agent is publishing.
    let enrols = api.key_with(json!(["tokens.write"])).await;
    let token = |hosts: Value| Some(json!({"name": "t", "role": "agent", "declare": {"hosts": hosts}}));
    refused(
        api.with(&enrols, "POST", "/tokens", token(json!(["*.example.net"])))
            .await,
    );
    api.with(&enrols, "POST", "/tokens", token(json!([])))
        .await
        .is(201, "");
    // A key is good in its own organization.
    let elsewhere = [("kakuremichi-organization", "elsewhere")];
    refused(api.send("GET", "/api/v1/services", &elsewhere, None).await);
    // Built in is built in, for everybody.
    let change = Some(json!({"name": "owner", "permissions": []}));
    api.with(&root, "PUT", &format!("/roles/{owner}"), change)
        .await
        .is(409, "KKM-A005");
    api.with(&root, "DELETE", &format!("/roles/{owner}"), None)
        .await
        .is(409, "KKM-A005");
    // What she has, she gives: to a key, too, which has it by itself.
    let key = api
        .with(&anna, "POST", "/api-keys", Some(json!({"name": "mine"})))
        .await;
    key.is(201, "");
    assert_eq!(key.body["permissions"].as_array().unwrap().len(), 5);
}

/// What changes of a role or a member counts from the next request on.
#[tokio::test]
async fn a_change_counts_at_once() {
    let api = Api::start().await;
    let root = api.administrator().await;
    let anna = api.person("anna@example.net", json!(["services.read"])).await;
    api.with(&anna, "GET", "/services", None).await.is(200, "");
    let roles = api.get("/roles").await;
    let items = roles.body["items"].as_array().unwrap();
    let role = text(&items.iter().find(|item| item["name"] == "anna").unwrap()["id"]);
    api.send("DELETE", &format!("/api/v1/roles/{role}"), &[], None)
        .await
        .is(409, "KKM-A009");
    let less = Some(json!({"name": "anna", "permissions": ["nodes.read"]}));
    let stale = [("if-match", "\"7\"")];
    api.send("PUT", &format!("/api/v1/roles/{role}"), &stale, less.clone())
        .await
        .is(412, "KKM-A006");
    api.send("PUT", &format!("/api/v1/roles/{role}"), &[], less)
        .await
        .is(200, "");
    api.with(&anna, "GET", "/services", None)
        .await
        .is(403, "KKM-A003");
    api.with(&anna, "GET", "/nodes", None).await.is(200, "");
    let users = api.with(&root, "GET", "/users", None).await;
    let of = |email: &str| {
        let items = users.body["items"].as_array().unwrap();
        format!(
            "/users/{}",
            text(&items.iter().find(|item| item["email"] == email).unwrap()["id"])
        )
    };
    let disabled = |yes: bool| Some(json!({"disabled": yes}));
    api.with(&root, "PATCH", &of("anna@example.net"), disabled(true))
        .await
        .is(200, "");
    api.with(&anna, "GET", "/nodes", None).await.is(401, "KKM-A002");
    api.sign_in("anna@example.net", PASSWORD, None)
        .await
        .is(401, "KKM-A002");
    api.with(&root, "PATCH", &of("anna@example.net"), disabled(false))
        .await
        .is(200, "");
    let anna = text(&api.sign_in("anna@example.net", PASSWORD, None).await.body["token"]);
    // Somebody always administers this Control.
    api.with(&root, "PATCH", &of("root@example.net"), disabled(true))
        .await
        .is(409, "KKM-A005");
    let demote = Some(json!({"administrator": false}));
    api.with(&root, "PATCH", &of("root@example.net"), demote)
        .await
        .is(409, "KKM-A005");
    api.with(&root, "DELETE", &of("root@example.net"), None)
        .await
        .is(409, "KKM-A005");
    api.with(&root, "DELETE", &of("anna@example.net"), None)
        .await
        .is(204, "");
    api.with(&anna, "GET", "/me", None).await.is(401, "KKM-A002");
    assert_eq!(
        api.get("/members").await.body["items"].as_array().unwrap().len(),
        1
    );
    api.send("DELETE", &format!("/api/v1/roles/{role}"), &[], None)
        .await
        .is(204, "");
}

/// LESSONS, advisory 12, whatever sessions there are: those that ended by themselves, and as many as there can be.
#[tokio::test]
async fn advisory_12_old_and_many_sessions_are_no_obstacle() {
    let api = Api::start().await;
    api.administrator().await;
    let mut token = String::new();
    for _ in 0..crate::service::MAX_SESSIONS + 1 {
        token = text(&api.sign_in("root@example.net", PASSWORD, None).await.body["token"]);
    }
    let store = api.control.use_cases().store();
    let sessions = store.all::<kakuremichi_core::model::Session>(None).await.unwrap();
    assert_eq!(sessions.len(), crate::service::MAX_SESSIONS);
    let oldest = sessions
        .iter()
        .min_by_key(|session| session.value.created)
        .unwrap();
    let mut over = oldest.value.clone();
    over.expires = Timestamp::from_millis(crate::service::now().as_millis() - 1);
    let batch = kakuremichi_core::store::Batch {
        mutations: vec![Mutation::Update(over.into(), oldest.version)],
        audit: sample::audit("test.expire"),
        request: None,
    };
    store.commit(batch).await.unwrap();
    let change = json!({"password": PASSWORD, "new_password": "another password"});
    api.with(&token, "PUT", "/account/password", Some(change))
        .await
        .is(200, "");
    let sessions = store.all::<kakuremichi_core::model::Session>(None).await.unwrap();
    assert_eq!(sessions.len(), 1);
}

/// An account is its owner's, whatever organizations they are in.
#[tokio::test]
async fn who_is_in_no_organization_keeps_their_account() {
    let api = Api::start().await;
    api.administrator().await;
    let anna = api.person("anna@example.net", json!(["services.read"])).await;
    let members = api.get("/members").await;
    let items = members.body["items"].as_array().unwrap();
    let hers = items
        .iter()
        .find(|item| item["email"] == "anna@example.net")
        .unwrap();
    let path = format!("/api/v1/members/{}", text(&hers["id"]));
    api.send("DELETE", &path, &[], None).await.is(204, "");
    api.with(&anna, "GET", "/services", None)
        .await
        .is(403, "KKM-A003");
    api.with(&anna, "GET", "/account", None).await.is(200, "");
    let role = text(&hers["roles"][0]);
    let again = api
        .post(
            "/invitations",
            json!({"email": "anna@example.net", "roles": [role]}),
        )
        .await;
    let join = Some(json!({"invitation": again.body["invitation"]}));
    api.with(&anna, "POST", "/account/organizations", join)
        .await
        .is(201, "");
    api.with(&anna, "GET", "/services", None).await.is(200, "");
    api.with(&anna, "DELETE", "/sessions/current", None)
        .await
        .is(204, "");
}

/// A person is in several organizations, and in each of them as something else.
#[tokio::test]
async fn a_person_acts_in_the_organization_of_their_choice() {
    let api = Api::start().await;
    let root = api.administrator().await;
    let anna = api.person("anna@example.net", json!(["services.read"])).await;
    api.with(&anna, "POST", "/organizations", Some(json!({"name": "acme"})))
        .await
        .is(403, "KKM-A003");
    let acme = api
        .with(&root, "POST", "/organizations", Some(json!({"name": "acme"})))
        .await;
    acme.is(201, "");
    let within = async |bearer: &str, organization: &str, method: &str, path: &str, body: Option<Value>| {
        let credential = format!("Bearer {bearer}");
        let headers = [
            ("authorization", credential.as_str()),
            ("kakuremichi-organization", organization),
        ];
        api.send(method, &format!("{PREFIX}{path}"), &headers, body).await
    };
    within(&anna, "acme", "GET", "/me", None)
        .await
        .is(403, "KKM-A003");
    let owner = within(&root, "acme", "GET", "/roles", None).await;
    let owner = text(&owner.body["items"][0]["id"]);
    let invite = Some(json!({"email": "anna@example.net", "roles": [owner]}));
    let invited = within(&root, "acme", "POST", "/invitations", invite).await;
    let invitation = invited.body["invitation"].as_str().unwrap();
    // She has an account: another one with her address is none.
    api.accept(invitation, "anna@example.net")
        .await
        .is(409, "KKM-A005");
    api.accept(invitation, "bert@example.net").await.names("email");
    let bert = api.person("bert@example.net", json!([])).await;
    let join = Some(json!({"invitation": invitation}));
    api.with(&bert, "POST", "/account/organizations", join.clone())
        .await
        .is(409, "KKM-A014");
    api.with(&anna, "POST", "/account/organizations", join.clone())
        .await
        .is(201, "");
    api.with(&anna, "POST", "/account/organizations", join)
        .await
        .is(409, "KKM-A014");
    api.with(&anna, "GET", "/services", None)
        .await
        .is(400, "KKM-A015");
    within(&anna, "no such", "GET", "/me", None)
        .await
        .names("Kakuremichi-Organization");
    within(&anna, "nowhere", "GET", "/me", None)
        .await
        .is(403, "KKM-A003");
    let there = within(&anna, "acme", "GET", "/me", None).await;
    assert_eq!(there.body["permissions"], json!(["*"]));
    let here = within(&anna, "default", "GET", "/me", None).await;
    assert_eq!(here.body["permissions"], json!(["services.read"]));
    let both = within(&anna, "acme", "GET", "/organizations", None).await;
    assert_eq!(both.body["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        within(&anna, "acme", "GET", "/members", None).await.body["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let path = format!("/organizations/{}", text(&acme.body["id"]));
    api.with(&root, "DELETE", &path, None).await.is(204, "");
    api.with(&anna, "GET", "/services", None).await.is(200, "");
}

/// What somebody made can do no more than they: not what they lost, and nothing once they are gone.
#[tokio::test]
async fn keys_and_invitations_are_worth_what_their_maker_is() {
    let api = Api::start().await;
    let root = api.administrator().await;
    let rights = json!(["api-keys.write", "members.write", "members.read", "nodes.read"]);
    let anna = api.person("anna@example.net", rights).await;
    let make = |bearer: String, permissions: Value| {
        let (api, body) = (&api, json!({"name": "made", "permissions": permissions}));
        async move {
            let made = api.with(&bearer, "POST", "/api-keys", Some(body)).await;
            made.is(201, "");
            text(&made.body["key"])
        }
    };
    let first = make(
        anna.clone(),
        json!(["api-keys.write", "nodes.read", "members.write"]),
    )
    .await;
    // A key that a key made is that person's, too.
    let second = make(first.clone(), json!(["nodes.read"])).await;
    let roles = api.get("/roles").await;
    let role = roles.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|role| role["name"] == "anna");
    let role = text(&role.unwrap()["id"]);
    let invite = |bearer: String, email: &'static str, roles: Value| {
        let (api, body) = (&api, json!({"email": email, "roles": roles}));
        async move {
            let made = api.with(&bearer, "POST", "/invitations", Some(body)).await;
            made.is(201, "");
            text(&made.body["invitation"])
        }
    };
    let with_role = invite(anna.clone(), "b@example.net", json!([role])).await;
    let without = invite(first.clone(), "c@example.net", json!([])).await;
    for key in [&first, &second] {
        api.with(key, "GET", "/nodes", None).await.is(200, "");
    }

    let fewer = json!({"name": "fewer", "permissions": ["api-keys.write", "members.write"]});
    let fewer = api.post("/roles", fewer).await;
    let members = api.get("/members").await;
    let member = members.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|member| member["email"] == "anna@example.net");
    let member = format!("/members/{}", text(&member.unwrap()["id"]));
    let demoted = json!({"roles": [fewer.body["id"]]});
    api.send("PUT", &format!("{PREFIX}{member}"), &[], Some(demoted))
        .await
        .is(200, "");
    for key in [&first, &second] {
        api.with(key, "GET", "/nodes", None).await.is(403, "KKM-A003");
    }
    api.with(&second, "GET", "/me", None).await.is(200, "");
    api.accept(&with_role, "b@example.net").await.is(409, "KKM-A014");
    // Whoever may delete keys may delete each: that gives nobody anything.
    let all = api.get("/api-keys").await;
    let strong = all.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["name"] == "test")
        .unwrap();
    let path = format!("/api-keys/{}", text(&strong["id"]));
    api.with(&first, "DELETE", &path, None).await.is(204, "");

    api.with(&root, "DELETE", &member, None).await.is(204, "");
    for key in [&first, &second] {
        api.with(key, "GET", "/me", None).await.is(401, "KKM-A002");
    }
    api.accept(&without, "c@example.net").await.is(409, "KKM-A014");
}
