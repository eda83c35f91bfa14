//! Signing in by an identity provider, with a real one.

use std::collections::BTreeMap;

use axum::http::Method;
use kakuremichi_tests::{
    client::{Reply, Version, request},
    oidc::{CLIENT_ID, CLIENT_SECRET, IdentityProvider},
};

use super::{browser::Tab, *};

const CONTROL: &str = "https://control.example.net/km";
const CALLBACK: &str = "https://control.example.net/km/sign-in/callback";
const ORIGIN: (&str, &str) = ("origin", "https://control.example.net");
const SAME_ORIGIN: (&str, &str) = ("sec-fetch-site", "same-origin");

/// Control and an identity provider.
struct World {
    api: Api,
    provider: IdentityProvider,
}

/// A browser: what it keeps of Control, and of the provider.
#[derive(Default, Clone)]
struct Browser {
    tab: Tab,
    cookies: BTreeMap<String, String>,
}

impl World {
    async fn start() -> Option<Self> {
        Some(Self::with(IdentityProvider::oidc(CALLBACK)?).await)
    }

    async fn with(provider: IdentityProvider) -> Self {
        let api = Api::start_with(|builder| builder.trust(roots(provider.authority()))).await;
        Self { api, provider }
    }

    async fn create(&self, path: &str, body: Value) -> Value {
        let made = self.api.post(path, body).await;
        made.is(201, "");
        made.body
    }

    /// Who signs in at the provider next.
    async fn next(&self, sub: &str, groups: &[&str]) {
        let person = json!({"sub": sub, "email": format!("{sub}@example.net"), "email_verified": true,
                            "name": sub, "groups": groups});
        self.provider.next(&person).await.unwrap();
    }

    fn oidc(&self, name: &str, more: Value) -> Value {
        let mut provider = json!({"name": name, "oidc": {"issuer": self.provider.issuer()},
            "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            "scopes": ["email", "profile", "groups"], "provision": true});
        let all = provider.as_object_mut().unwrap();
        all.extend(more.as_object().unwrap().clone());
        provider
    }

    /// A page of Control, by its URL.
    async fn open(&self, browser: &mut Browser, url: &str) -> Answer {
        browser
            .tab
            .open(&self.api, url.strip_prefix(CONTROL).unwrap())
            .await
    }

    async fn ask_provider(&self, browser: &mut Browser, url: &str) -> Reply {
        let mut asked = request(Method::GET, url);
        let pairs: Vec<_> = browser
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if !pairs.is_empty() {
            asked
                .headers_mut()
                .insert(header::COOKIE, pairs.join("; ").parse().unwrap());
        }
        let reply = self.provider.visitor().send(Version::Http1, asked).await.unwrap();
        for cookie in reply.headers.get_all(header::SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            browser.cookies.insert(name.to_owned(), value.to_owned());
        }
        reply
    }

    /// Goes to the provider with what Control gave, and comes back with what the provider gives: the URL at Control.
    async fn at_provider(&self, browser: &mut Browser, url: &str) -> String {
        let mut url = url.to_owned();
        for _ in 0..6 {
            if url.starts_with(CONTROL) {
                return url;
            }
            let reply = self.ask_provider(browser, &url).await;
            assert!(
                reply.status.is_redirection(),
                "{url}: {} {}",
                reply.status,
                reply.text()
            );
            url = reply.headers[header::LOCATION].to_str().unwrap().to_owned();
            if url.starts_with('/') {
                url.insert_str(0, self.provider.issuer());
            }
        }
        panic!("the provider leads nowhere: {url}");
    }

    /// Begins to sign in: where Control sends the browser.
    async fn begin(&self, browser: &mut Browser, provider: &str) -> String {
        let url = format!("{CONTROL}/sign-in/with/{provider}?return=%2Faccount");
        let begun = self.open(browser, &url).await;
        assert_eq!(begun.status, StatusCode::SEE_OTHER, "{begun:?}");
        begun.header(header::LOCATION).to_owned()
    }

    /// Signs in by a provider: what Control answers in the end.
    async fn sign_in(&self, browser: &mut Browser, provider: &str) -> Answer {
        let begun = self.begin(browser, provider).await;
        let back = self.at_provider(browser, &begun).await;
        self.open(browser, &back).await
    }

    /// The same with a parameter changed on the way to the provider.
    async fn sign_in_with(&self, provider: &str, parameter: &str, value: &str) -> Answer {
        let mut browser = Browser::default();
        let begun = self.begin(&mut browser, provider).await;
        let (before, rest) = begun.split_once(parameter).unwrap();
        let rest = rest.split_once('&').map_or("", |(_, rest)| rest);
        let back = self
            .at_provider(&mut browser, &format!("{before}{parameter}{value}&{rest}"))
            .await;
        self.open(&mut browser, &back).await
    }

    /// What the person in a browser may do.
    async fn me(&self, browser: &mut Browser) -> Answer {
        browser
            .tab
            .send(&self.api, "GET", "/api/v1/me", &[SAME_ORIGIN], "")
            .await
    }
}

fn roots(pem: &str) -> rustls::RootCertStore {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    roots
}

fn id(value: &Value) -> String {
    text(&value["id"])
}

#[tokio::test]
async fn people_of_an_organization_come_by_its_provider() {
    let Some(world) = World::start().await else {
        return;
    };
    let root = world.api.administrator().await;
    let role = async |name: &str, permission: &str| {
        id(&world
            .create("/roles", json!({"name": name, "permissions": [permission]}))
            .await)
    };
    let (everybody, ops) = (
        role("everybody", "sites.read").await,
        role("ops", "nodes.write").await,
    );
    let mapped = json!({"default_roles": [everybody], "group_roles": {"Ops": ops}});
    let made = world
        .create("/identity-providers", world.oidc("staff", mapped.clone()))
        .await;
    assert_eq!(made["redirect_uri"], CALLBACK);
    assert!(!made.to_string().contains(CLIENT_SECRET));
    let staff = id(&made);

    // The button is on the page for the organization.
    let mut browser = Browser::default();
    let page = world
        .open(&mut browser, &format!("{CONTROL}/sign-in?organization=default"))
        .await;
    page.says(200, &format!("/km/sign-in/with/{staff}"));
    let page = world.open(&mut browser, &format!("{CONTROL}/sign-in")).await;
    assert!(!page.text.contains(&staff));

    world.next("anna", &["Ops", "Others"]).await;
    let signed_in = world.sign_in(&mut browser, &staff).await;
    signed_in.leads_to(&format!("{CONTROL}/sign-in?return=%2Faccount"));
    let me = world.me(&mut browser).await;
    assert_eq!(me.body["permissions"], json!(["nodes.write", "sites.read"]));
    world
        .open(&mut browser, &format!("{CONTROL}/account"))
        .await
        .says(200, "anna@example.net");

    // A role of a group comes and goes with the group.
    let mut again = Browser::default();
    for (groups, permissions) in [
        (&["Others"][..], json!(["sites.read"])),
        (&["Ops"], json!(["nodes.write", "sites.read"])),
    ] {
        world.next("anna", groups).await;
        world.sign_in(&mut Browser::default(), &staff).await;
        assert_eq!(world.me(&mut browser).await.body["permissions"], permissions);
    }
    world.sign_in(&mut again, &staff).await;

    // Whoever runs the provider changes nothing of the account elsewhere.
    let name = r#"{"name":"Mallory"}"#;
    let renamed = browser
        .tab
        .send(&world.api, "PATCH", "/api/v1/account", &[SAME_ORIGIN], name)
        .await;
    renamed.is(403, "KKM-A034");

    // Without provisioning, strangers stay out.
    let mut closed = world.oidc("staff", mapped);
    closed["provision"] = json!(false);
    let path = format!("/api/v1/identity-providers/{staff}");
    world.api.send("PUT", &path, &[], Some(closed)).await.is(200, "");
    world.next("bert", &["Ops"]).await;
    let stranger = world.sign_in(&mut Browser::default(), &staff).await;
    stranger.says(403, "leads to no account");
    world.next("anna", &[]).await;
    let known = world.sign_in(&mut Browser::default(), &staff).await;
    assert_eq!(known.status, StatusCode::SEE_OTHER);

    // Nor does who is disabled come in.
    let users = world.api.with(&root, "GET", "/users", None).await.body;
    let mut users = users["items"].as_array().unwrap().iter();
    let anna = users.find(|user| user["email"] == "anna@example.net").unwrap();
    assert_eq!(
        anna["verified"], false,
        "an organization's provider verifies no address"
    );
    let off = json!({"disabled": true});
    world
        .api
        .with(&root, "PATCH", &format!("/users/{}", id(anna)), Some(off))
        .await
        .is(200, "");
    let disabled = world.sign_in(&mut Browser::default(), &staff).await;
    disabled.says(403, "disabled");
    world.me(&mut again).await.is(401, "KKM-A002");
}

/// LESSONS, advisory 12: a sign-in is good once, and bound to the browser.
#[tokio::test]
async fn advisory_12_what_comes_back_from_a_provider_is_checked() {
    let Some(world) = World::start().await else {
        return;
    };
    let staff = id(&world
        .create("/identity-providers", world.oidc("staff", json!({})))
        .await);
    world.next("anna", &[]).await;
    // Another browser has not begun it.
    let mut browser = Browser::default();
    let begun = world.begin(&mut browser, &staff).await;
    assert!(
        begun.contains("code_challenge_method=S256") && begun.contains("nonce="),
        "{begun}"
    );
    let back = world.at_provider(&mut browser, &begun).await;
    world
        .open(&mut Browser::default(), &back)
        .await
        .says(401, "begin it again");
    // It is good once, even for whoever keeps the cookie.
    let mut kept = browser.clone();
    assert_eq!(
        world.open(&mut browser, &back).await.status,
        StatusCode::SEE_OTHER
    );
    world.open(&mut browser, &back).await.says(401, "begin it again");
    world.open(&mut kept, &back).await.says(401, "begin it again");

    world
        .sign_in_with(&staff, "state=", "another")
        .await
        .says(401, "begin it again");
    world
        .sign_in_with(&staff, "nonce=", "another")
        .await
        .says(502, "does not answer as it should");
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let other = world.sign_in_with(&staff, "code_challenge=", challenge).await;
    other.says(502, "does not answer as it should");

    // What another provider says is not listened to.
    let mut browser = Browser::default();
    let begun = world.begin(&mut browser, &staff).await;
    let back = world.at_provider(&mut browser, &begun).await;
    assert!(back.contains("iss=https%3A%2F%2Flocalhost"), "{back}");
    let back = back.replace("iss=https%3A%2F%2Flocalhost", "iss=https%3A%2F%2Fevil.example");
    world
        .open(&mut browser, &back)
        .await
        .says(403, "another identity provider");
}

/// LESSONS, advisory 11: nobody becomes somebody else by an address.
#[tokio::test]
async fn advisory_11_an_address_alone_leads_to_no_account() {
    let Some(world) = World::start().await else {
        return;
    };
    let (root, path) = (world.api.administrator().await, "/identity-providers");
    let staff = id(&world.create(path, world.oidc("staff", json!({}))).await);
    world.next("root", &[]).await;
    world
        .sign_in(&mut Browser::default(), &staff)
        .await
        .says(403, "link it there");
    let wide = world.oidc("all", json!({"server_wide": true}));
    world.api.post(path, wide.clone()).await.is(403, "KKM-A003");
    let leads = world.oidc("all", json!({"link_verified": true}));
    world
        .api
        .with(&root, "POST", path, Some(leads))
        .await
        .names("link_verified");
    let made = world.api.with(&root, "POST", path, Some(wide)).await;
    made.is(201, "");
    let all = id(&made.body);
    world
        .sign_in(&mut Browser::default(), &all)
        .await
        .says(403, "link it there");

    // Whoever is signed in links their account.
    let mut browser = Browser::default();
    browser.tab.sign_in(&world.api, "root@example.net").await;
    let account = world.open(&mut browser, &format!("{CONTROL}/account")).await;
    account.says(200, &format!("/km/account/link/{all}"));
    let path = format!("/account/link/{all}");
    let elsewhere = browser.tab.send(&world.api, "POST", &path, &[], "").await;
    elsewhere.says(403, "did not come from a page");
    let page = browser.tab.send(&world.api, "POST", &path, &[ORIGIN], "").await;
    page.says(200, "<a href=\"");
    let (_, url) = page.text.split_once("<a href=\"").unwrap();
    let url = url.split_once('"').unwrap().0.replace("&#38;", "&");
    let back = world.at_provider(&mut browser, &url).await;
    world
        .open(&mut browser, &back)
        .await
        .leads_to(&format!("{CONTROL}/account"));
    let mut elsewhere = Browser::default();
    assert_eq!(
        world.sign_in(&mut elsewhere, &all).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(world.me(&mut elsewhere).await.body["administrator"], true);

    let account = world.api.with(&root, "GET", "/account", None).await;
    assert_eq!(account.body["identities"][0]["subject"], "root");
    let path = format!("/account/identities/{all}");
    world.api.with(&root, "DELETE", &path, None).await.is(204, "");
    world
        .api
        .with(&root, "DELETE", &path, None)
        .await
        .is(404, "KKM-A004");
    world.me(&mut elsewhere).await.is(401, "KKM-A002");
    world
        .sign_in(&mut Browser::default(), &all)
        .await
        .says(403, "link it there");

    // Where an administrator says so, an address that the provider verified is enough.
    let leads = world.oidc("all", json!({"server_wide": true, "link_verified": true}));
    let path = format!("/identity-providers/{all}");
    world.api.with(&root, "PUT", &path, Some(leads)).await.is(200, "");
    let mut browser = Browser::default();
    assert_eq!(
        world.sign_in(&mut browser, &all).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(world.me(&mut browser).await.body["administrator"], true);
}

#[tokio::test]
async fn identity_providers_are_described_and_deleted() {
    let api = Api::start().await;
    let path = "/identity-providers";
    let git = json!({"name": "git", "client_id": "c", "client_secret": "hidden secret",
        "oauth2": {"authorize_url": "https://git.example.net/authorize",
                   "token_url": "https://git.example.net/token",
                   "userinfo_url": "https://git.example.net/user"},
        "claims": {"subject": "id"}});
    let made = api.post(path, git.clone()).await;
    made.is(201, "");
    assert_eq!(
        (&made.body["claims"]["subject"], &made.body["claims"]["email"]),
        (&json!("id"), &json!("email"))
    );
    assert_eq!(made.body["require_verified"], true);
    api.post(path, git.clone()).await.is(409, "KKM-A005");
    let with = |name: &str, value: Value| {
        let mut changed = git.clone();
        changed[name] = value;
        changed
    };
    for (name, value, field) in [
        ("oidc", json!({"issuer": "https://id.example.net"}), "oidc"),
        ("oauth2", Value::Null, "oidc"),
        ("client_id", json!(""), "client_id"),
        ("client_secret", Value::Null, "client_secret"),
        ("scopes", json!(["a b"]), "scopes"),
        ("claims", json!({"email": ""}), "claims"),
        (
            "default_roles",
            json!(["rol_aaaaaaaaaaaaaaaaaaaaaaaaaa"]),
            "roles",
        ),
    ] {
        api.post(path, with(name, value)).await.names(field);
    }
    let plain = json!({"authorize_url": "http://127.0.0.1/a", "token_url": "https://git.example.net/token",
                       "userinfo_url": "https://git.example.net/user"});
    api.post(path, with("oauth2", plain))
        .await
        .names("oauth2.authorize_url");

    let path = format!("{path}/{}", id(&made.body));
    let put = async |body: Value| api.send("PUT", &format!("{PREFIX}{path}"), &[], Some(body)).await;
    // The secret stays, but for another provider it is given again.
    put(with("client_secret", Value::Null)).await.is(200, "");
    let mut moved = with("client_secret", Value::Null);
    moved["oauth2"]["token_url"] = json!("https://evil.example/token");
    put(moved).await.names("client_secret");
    let weak = api
        .person("anna@example.net", json!(["identity-providers.read"]))
        .await;
    api.with(&weak, "GET", &path, None).await.is(200, "");
    api.with(&weak, "DELETE", &path, None).await.is(403, "KKM-A003");
    // Nobody gives by a provider what they do not have.
    let some = api
        .person("bert@example.net", json!(["identity-providers.write"]))
        .await;
    let owner = api.get("/roles").await.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|role| role["name"] == "owner")
        .map(id)
        .unwrap();
    let more = with("group_roles", json!({"Ops": owner}));
    api.with(&some, "PUT", &path, Some(more))
        .await
        .is(403, "KKM-A003");
    assert_eq!(
        api.get("/identity-providers").await.body["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    api.with(&some, "DELETE", &path, None).await.is(204, "");
    api.get(&path).await.is(404, "KKM-A004");
}

/// FEATURES F3: GitHub and the like, which know nothing of OpenID Connect.
#[tokio::test]
async fn people_come_by_a_provider_that_speaks_oauth2_only() {
    let Some(provider) = IdentityProvider::oauth2(CALLBACK) else {
        return;
    };
    let world = World::with(provider).await;
    world.api.administrator().await;
    let everybody = world
        .create(
            "/roles",
            json!({"name": "everybody", "permissions": ["sites.read"]}),
        )
        .await;
    let at = |path: &str| format!("{}{path}", world.provider.issuer());
    let described = json!({
        "name": "git",
        "oauth2": {"authorize_url": at("/authorize"), "token_url": at("/token"), "userinfo_url": at("/user")},
        "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "scopes": ["read:user", "user:email"],
        "claims": {"subject": "id"}, "provision": true, "require_verified": false,
        "default_roles": [everybody["id"]],
    });
    let made = world.create("/identity-providers", described.clone()).await;
    let git = id(&made);

    // What it says is what a git host says: a number, no groups, nothing about the address.
    let person =
        |number: u32, email: Value| json!({"id": number, "login": "anna", "email": email, "name": "Anna"});
    world
        .provider
        .next(&person(42, json!("anna@example.net")))
        .await
        .unwrap();
    let mut browser = Browser::default();
    let signed_in = world.sign_in(&mut browser, &git).await;
    signed_in.leads_to(&format!("{CONTROL}/sign-in?return=%2Faccount"));
    let me = world.me(&mut browser).await;
    assert_eq!(me.body["permissions"], json!(["sites.read"]), "{me:?}");
    let account = world.open(&mut browser, &format!("{CONTROL}/account")).await;
    account.says(200, "anna@example.net");

    // The number is who it is, whatever the address is by now.
    world
        .provider
        .next(&person(42, json!("other@example.net")))
        .await
        .unwrap();
    let mut again = Browser::default();
    world.sign_in(&mut again, &git).await;
    let account = world.open(&mut again, &format!("{CONTROL}/account")).await;
    account.says(200, "anna@example.net");
    for (number, email) in [(7, json!("root@example.net")), (8, Value::Null)] {
        world.provider.next(&person(number, email)).await.unwrap();
        let stranger = world.sign_in(&mut Browser::default(), &git).await;
        assert_eq!(stranger.status, StatusCode::FORBIDDEN, "{stranger:?}");
    }

    // A code is for whoever began, and what was asked for on the way there was ours (RFC 7636).
    let mut begun = Browser::default();
    world.provider.next(&person(42, Value::Null)).await.unwrap();
    let url = world.begin(&mut begun, &git).await;
    assert!(url.contains("scope=read%3Auser+user%3Aemail"), "{url}");
    let back = world.at_provider(&mut begun, &url).await;
    world
        .open(&mut Browser::default(), &back)
        .await
        .says(401, "begin it again");
    let other = world.sign_in_with(&git, "code_challenge=", &"A".repeat(43)).await;
    assert_eq!(other.status, StatusCode::BAD_GATEWAY, "{other:?}");
    // A secret that the provider does not know lets nobody in.
    let mut wrong = described;
    wrong["client_secret"] = json!("not the secret");
    let path = format!("/api/v1/identity-providers/{git}");
    world.api.send("PUT", &path, &[], Some(wrong)).await.is(200, "");
    let refused = world.sign_in(&mut Browser::default(), &git).await;
    assert_eq!(refused.status, StatusCode::BAD_GATEWAY, "{refused:?}");
}
