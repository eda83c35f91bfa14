//! What an organization asks of its members' accounts.

use kakuremichi_core::{
    model::{Session, SignIn},
    store::{Batch, Mutation, conformance::sample},
    time::Timestamp,
};

use super::*;

const ACCOUNTS: &str = "/organization/accounts";

impl Api {
    pub(super) async fn asks(&self, policy: Value) -> Answer {
        let path = format!("{PREFIX}{ACCOUNTS}");
        self.send("PUT", &path, &[], Some(policy)).await
    }

    /// Changes the session of a token as if it had begun otherwise.
    pub(super) async fn changes_session(&self, token: &str, change: impl Fn(&mut Session)) {
        let use_cases = self.control.use_cases();
        let (stored, _) = use_cases.session_of(token).await.unwrap().unwrap();
        let mut session = stored.value;
        change(&mut session);
        let batch = Batch {
            mutations: vec![Mutation::Update(session.into(), stored.version)],
            audit: sample::audit("test"),
            request: None,
        };
        use_cases.store().commit(batch).await.unwrap();
    }
}

#[tokio::test]
async fn an_organization_asks_for_two_factors() {
    let api = Api::start().await;
    let anna = api.person("anna@example.net", json!(["sites.read"])).await;
    api.with(&anna, "GET", "/sites", None).await.is(200, "");
    api.asks(json!({"multi_factor": true, "passwords": true}))
        .await
        .is(200, "");
    // From the next request on, in sessions that were there before, too.
    api.with(&anna, "GET", "/sites", None).await.is(403, "KKM-A031");
    api.with(&anna, "GET", "/me", None).await.is(403, "KKM-A031");
    // Their account is theirs: the second factor is set up there.
    let drawn = api.with(&anna, "POST", "/account/totp/secret", None).await;
    drawn.is(200, "");
    let key = data_encoding::BASE32_NOPAD
        .decode(text(&drawn.body["secret"]).as_bytes())
        .unwrap();
    let app = totp_rs::Builder::new().with_secret(key).build().unwrap();
    let now = u64::try_from(crate::service::now().as_millis()).unwrap() / 1000;
    let set =
        json!({"secret": drawn.body["secret"], "code": app.generate(now).to_string(), "password": PASSWORD});
    let made = api.with(&anna, "PUT", "/account/totp", Some(set)).await;
    made.is(200, "");
    let anna = text(&made.body["token"]);
    api.with(&anna, "GET", "/sites", None).await.is(200, "");
    // An API key is no account.
    api.get("/sites").await.is(200, "");
    api.changes_session(&anna, |session| session.sign_in = SignIn::Provider)
        .await;
    api.with(&anna, "GET", "/sites", None).await.is(403, "KKM-A031");
    api.changes_session(&anna, |session| session.sign_in = SignIn::ProviderAndSecondFactor)
        .await;
    api.with(&anna, "GET", "/sites", None).await.is(200, "");
}

#[tokio::test]
async fn an_organization_says_how_long_a_session_counts() {
    let api = Api::start().await;
    let anna = api.person("anna@example.net", json!(["sites.read"])).await;
    api.asks(json!({"multi_factor": false, "passwords": true, "session_minutes": 4}))
        .await
        .names("session_minutes");
    api.asks(json!({"multi_factor": false, "passwords": true, "session_minutes": 60}))
        .await
        .is(200, "");
    assert_eq!(api.get(ACCOUNTS).await.body["session_minutes"], 60);
    api.with(&anna, "GET", "/sites", None).await.is(200, "");
    let hour = 60 * 60 * 1000;
    api.changes_session(&anna, |session| {
        session.created = Timestamp::from_millis(session.created.as_millis() - hour);
    })
    .await;
    api.with(&anna, "GET", "/sites", None).await.is(401, "KKM-A033");
    api.with(&anna, "GET", "/account", None).await.is(200, "");
}

#[tokio::test]
async fn an_organization_takes_no_passwords() {
    let api = Api::start().await;
    let root = api.administrator().await;
    let anna = api.person("anna@example.net", json!(["sites.read"])).await;
    let no_passwords = json!({"multi_factor": false, "passwords": false});
    // Nobody shuts themselves out.
    api.with(&root, "PUT", ACCOUNTS, Some(no_passwords.clone()))
        .await
        .is(403, "KKM-A032");
    api.asks(no_passwords).await.is(200, "");
    api.with(&anna, "GET", "/sites", None).await.is(403, "KKM-A032");
    let body = json!({"email": "anna@example.net", "password": PASSWORD});
    let again = api.with("", "POST", "/sessions", Some(body)).await;
    again.is(201, "");
    api.with(&text(&again.body["token"]), "GET", "/sites", None)
        .await
        .is(403, "KKM-A032");
    // Nor does an administrator act there with one.
    api.with(&root, "GET", "/sites", None).await.is(403, "KKM-A032");
    api.changes_session(&anna, |session| session.sign_in = SignIn::Provider)
        .await;
    api.with(&anna, "GET", "/sites", None).await.is(200, "");
}

#[tokio::test]
async fn what_is_asked_of_accounts_is_changed_as_it_was_read() {
    let api = Api::start().await;
    let path = format!("{PREFIX}{ACCOUNTS}");
    let read = api.send("GET", &path, &[], None).await;
    let policy = || Some(json!({"multi_factor": true, "passwords": true}));
    assert_eq!(read.body, json!({"multi_factor": false, "passwords": true}));
    let etag = read.header(header::ETAG).to_owned();
    api.send("PUT", &path, &[("if-match", "\"99\"")], policy())
        .await
        .is(412, "KKM-A006");
    api.send("PUT", &path, &[("if-match", &etag)], policy())
        .await
        .is(200, "");
}

/// Whoever runs an organization's identity provider acts by it in that organization only.
#[tokio::test]
async fn a_session_of_an_organizations_provider_counts_there_only() {
    let api = Api::start().await;
    let root = api.administrator().await;
    let made = api
        .with(&root, "POST", "/organizations", Some(json!({"name": "other"})))
        .await;
    made.is(201, "");
    let other: OrganizationId = text(&made.body["id"]).parse().unwrap();
    api.changes_session(&root, |session| session.organization = Some(other))
        .await;
    let me = api.with(&root, "GET", "/me", None).await;
    assert_eq!(
        (&me.body["organization"]["name"], &me.body["administrator"]),
        (&json!("other"), &json!(false))
    );
    api.with(&root, "GET", "/users", None).await.is(403, "KKM-A003");
    let credential = format!("Bearer {root}");
    let headers = [
        ("authorization", credential.as_str()),
        ("kakuremichi-organization", "default"),
    ];
    api.send("GET", "/api/v1/sites", &headers, None)
        .await
        .is(403, "KKM-A034");
    let name = json!({"name": "Mallory"});
    api.with(&root, "PATCH", "/account", Some(name))
        .await
        .is(403, "KKM-A034");
}
