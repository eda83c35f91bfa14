//! People who sign in to a service, with a browser, at real gateways and a real Control.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    ACCEPT, CONTENT_TYPE, COOKIE, HeaderName, HeaderValue, LOCATION, SET_COOKIE, WWW_AUTHENTICATE,
};
use http::{Method, StatusCode};
use kakuremichi_tests::client::{request, request_with};
use kakuremichi_tests::deployment::{Control, public};
use kakuremichi_tests::{Deployment, Families, Origin, Reply, Version, Visitor, wait};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";
const EMAIL: &str = "root@example.net";
const CONTROL: &str = "https://control.test:7443";

/// By host and by name.
type Cookies = BTreeMap<String, BTreeMap<String, String>>;

/// A browser of somebody: it keeps cookies for each host, as browsers do with those that are for a host.
struct Browser<'a> {
    world: &'a Deployment,
    /// The gateway at which names of services end.
    gateway: usize,
    cookies: Cookies,
}

impl<'a> Browser<'a> {
    fn at(world: &'a Deployment, gateway: usize) -> Self {
        Self {
            world,
            gateway,
            cookies: BTreeMap::new(),
        }
    }

    /// The same browser, as it was.
    fn with(world: &'a Deployment, gateway: usize, cookies: &Cookies) -> Self {
        Self {
            cookies: cookies.clone(),
            ..Self::at(world, gateway)
        }
    }

    /// Goes to a page, and wherever it sends to. Returns the last answer, and where that is.
    fn go(&mut self, url: &str) -> (Reply, String) {
        let mut url = url.to_owned();
        for _ in 0..10 {
            let reply = self.ask(Method::GET, &url, None);
            let location = reply
                .headers
                .get(LOCATION)
                .map(|to| to.to_str().unwrap().to_owned());
            match location.or_else(|| onward(&reply)) {
                Some(to) if to.starts_with('/') => url = format!("{}{to}", origin(&url)),
                Some(to) => url = to,
                None => return (reply, url),
            }
        }
        panic!("round and round: {url}");
    }

    /// Fills in the form of the page on which people sign in, and goes where that sends to.
    fn signs_in(&mut self, page: &Reply) -> (Reply, String) {
        let text = page.text();
        let back = text.split("name=\"return\" value=\"").nth(1).unwrap();
        let back = back
            .split('"')
            .next()
            .unwrap()
            .replace("&#38;", "&")
            .replace("&amp;", "&");
        let fields = [("email", EMAIL), ("password", PASSWORD), ("return", &back)];
        let fields = fields.map(|(name, value)| format!("{name}={}", encoded(value)));
        let sent = self.ask(
            Method::POST,
            &format!("{CONTROL}/sign-in"),
            Some(&fields.join("&")),
        );
        assert_eq!(sent.status, StatusCode::SEE_OTHER, "{}", sent.text());
        self.go(sent.headers[LOCATION].to_str().unwrap())
    }

    fn ask(&mut self, method: Method, url: &str, form: Option<&str>) -> Reply {
        let origin = origin(url);
        let mut asked = match form {
            Some(form) => request_with(method, url, form.to_owned()),
            None => request(method, url),
        };
        let headers = asked.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("text/html,*/*;q=0.8"));
        headers.insert(name("sec-fetch-mode"), HeaderValue::from_static("navigate"));
        headers.insert(name("sec-fetch-dest"), HeaderValue::from_static("document"));
        if form.is_some() {
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(CONTENT_TYPE, kind);
            headers.insert(name("sec-fetch-site"), HeaderValue::from_static("same-origin"));
        }
        if let Some(cookies) = self.cookie(&origin) {
            headers.insert(COOKIE, cookies);
        }
        let visitor = self.visitor(&origin);
        let reply = self
            .world
            .visitors
            .block_on(async || visitor.send(Version::Http1, asked).await)
            .unwrap_or_else(|error| panic!("{url}: {error}"));
        let jar = self.cookies.entry(host(&origin)).or_default();
        for cookie in reply.headers.get_all(SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if cookie.contains("Max-Age=0") {
                jar.remove(name);
            } else {
                jar.insert(name.to_owned(), value.to_owned());
            }
        }
        reply
    }

    fn visitor(&self, origin: &str) -> Visitor {
        if origin != CONTROL {
            return self.world.visitor_at(self.gateway);
        }
        let control = &self.world.control;
        let authority = std::fs::read_to_string(control.data().join("ca.pem")).unwrap();
        Visitor::trusting(&[&authority]).at(control.host().address())
    }

    fn cookie(&self, origin: &str) -> Option<HeaderValue> {
        let jar = self.cookies.get(&host(origin)).filter(|jar| !jar.is_empty())?;
        let pairs: Vec<_> = jar
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Some(HeaderValue::from_str(&pairs.join("; ")).unwrap())
    }

    /// How one request without following anything ends.
    fn status(&mut self, url: &str) -> StatusCode {
        self.ask(Method::GET, url, None).status
    }
}

fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    format!("{scheme}://{}", rest.split('/').next().unwrap())
}

fn host(origin: &str) -> String {
    origin
        .split("://")
        .nth(1)
        .unwrap()
        .split(':')
        .next()
        .unwrap()
        .to_owned()
}

/// Where a page sends by itself.
fn onward(reply: &Reply) -> Option<String> {
    let text = reply.text();
    let to = text.split("content=\"0; url=").nth(1)?.split('"').next()?;
    Some(to.replace("&#38;", "&").replace("&amp;", "&"))
}

fn encoded(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    bytes.collect()
}

/// The first user, who has a role and can be in groups.
struct Person {
    /// The token of a session at the API.
    token: String,
    member: Value,
}

fn first_user(control: &mut Control) -> Person {
    let link = wait::until("the link of the first start", || {
        let out = control.process().stdout();
        out.lines()
            .find(|line| line.starts_with(CONTROL))
            .map(str::to_owned)
    });
    let rest = control.rest();
    let body = json!({
        "invitation": link.split_once('#').unwrap().1, "email": EMAIL, "name": "Root", "password": PASSWORD,
    });
    let joined = rest.create("invitations/accept", &body);
    let members = rest.get("members");
    Person {
        token: joined["token"].as_str().unwrap().to_owned(),
        member: members["items"][0].clone(),
    }
}

/// A service for people who have signed in and are in a group.
fn for_group(name: &str, port: u16, group: &str) -> Value {
    let mut service = public(name, port);
    service["policy"] = json!({ "access": { "any_of": [{ "signed_in_as": { "groups": [group] } }] } });
    service
}

/// What the target was sent, by the names of fields.
fn told(reply: &Reply) -> BTreeMap<String, String> {
    let seen = reply.json();
    let fields = seen["headers"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    fields.map(|field| (text(&field[0]), text(&field[1]))).collect()
}

/// The claims of an assertion that verifies with a key of the set.
fn verified(set: &Value, assertion: &str) -> Value {
    let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    let mut keys = set["keys"].as_array().unwrap().iter();
    let key = keys.find(|key| key["kid"] == header["kid"]).unwrap();
    let key = UnparsedPublicKey::new(&ED25519, decode(key["x"].as_str().unwrap()));
    key.verify(signed.as_bytes(), &decode(signature)).unwrap();
    serde_json::from_slice(&decode(claims)).unwrap()
}

fn sign_in_page(reply: &Reply) -> bool {
    reply.status == StatusCode::OK && reply.text().contains("name=\"password\"")
}

/// FEATURES E4, E5; DESIGN section 7: "verified offline everywhere".
#[test]
fn a_person_signs_in_once_and_is_known_at_every_gateway() {
    let Some(mut world) = Deployment::with(Families::Both, 2) else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    let person = first_user(&mut world.control);
    let rest = world.control.rest();
    let group = rest.create("groups", &json!({ "name": "berlin" }));
    let member = format!("members/{}", person.member["id"].as_str().unwrap());
    let place = |groups: &[&Value]| {
        let groups: Vec<_> = groups.iter().map(|group| group["id"].clone()).collect();
        json!({ "roles": person.member["roles"], "groups": groups })
    };
    rest.replace(&member, &place(&[&group]));
    rest.create("services", &for_group("web", origin.port(), "berlin"));
    for gateway in 0..2 {
        world.answered(gateway, "https://web.test/hello", StatusCode::UNAUTHORIZED);
    }

    // A browser is sent to Control, signs in, and comes back to where it wanted.
    let mut browser = Browser::at(&world, 0);
    let deep = "https://web.test/request?a=b&c=%2Fd";
    let (page, _) = wait::until("gateways take sign-ins", || {
        let went = browser.go(deep);
        sign_in_page(&went.0).then_some(went)
    });
    let (reply, url) = browser.signs_in(&page);
    assert_eq!(
        (reply.status, url.as_str()),
        (StatusCode::OK, deep),
        "{}",
        reply.text()
    );
    assert!(
        !reply.text().contains("__Host-kkm"),
        "the target does not see it: {}",
        reply.text()
    );
    let told = told(&reply);
    assert_eq!(told["x-kakuremichi-user"], EMAIL);
    assert_eq!(told["x-kakuremichi-groups"], "berlin");
    assert_eq!(told["x-kakuremichi-strength"], "one-factor");
    // Whichever gateway shows the keys, it is the gateway's word that verifies with them.
    for gateway in 0..2 {
        browser.gateway = gateway;
        let set = browser.ask(Method::GET, "https://web.test/.kakuremichi/jwks.json", None);
        let claims = verified(&set.json(), &told["x-kakuremichi-assertion"]);
        assert_eq!(
            (
                &claims["iss"],
                &claims["aud"],
                &claims["email"],
                &claims["groups"]
            ),
            (
                &json!(CONTROL),
                &json!("web.test"),
                &json!(EMAIL),
                &json!(["berlin"])
            )
        );
        assert_eq!(claims["sub"], told["x-kakuremichi-user-id"]);
    }
    browser.gateway = 0;

    // The other gateway knows who it is, without asking anybody.
    browser.gateway = 1;
    assert_eq!(browser.status(deep), StatusCode::OK);
    browser.gateway = 0;

    // Another service sends it to Control, which knows it already.
    rest.create("services", &for_group("wiki", origin.port(), "berlin"));
    world.answered(0, "https://wiki.test/hello", StatusCode::UNAUTHORIZED);
    let (reply, url) = browser.go("https://wiki.test/hello");
    assert_eq!(
        (reply.status, url.as_str()),
        (StatusCode::OK, "https://wiki.test/hello")
    );

    // A service that wants more than a password: a program is told so, and the browser ends on a page that says what to
    // set up. One that wants a recent sign-in has it, and the browser notices nothing.
    let of_web = rest.get("services");
    let mut of_web = of_web["items"].as_array().unwrap().iter();
    let id = of_web.find(|service| service["name"] == "web").unwrap()["id"].clone();
    let web = format!("services/{}", id.as_str().unwrap());
    let asks = |policy: Value, browser: &mut Browser<'_>, sent_to: &str| {
        let mut service = for_group("web", origin.port(), "berlin");
        service["policy"] = policy;
        rest.replace(&web, &service);
        wait::until("the new policy", || {
            let answer = browser.ask(Method::GET, deep, None);
            let location = answer.headers.get(LOCATION);
            location?.to_str().unwrap().ends_with(sent_to).then_some(())
        });
    };
    asks(
        json!({"access": {"any_of": [{"signed_in_as": {"strength": "two_factors"}}]}}),
        &mut browser,
        "&strength=two-factors",
    );
    let mut program = request(Method::GET, deep);
    let cookies = browser.cookie("https://web.test").unwrap();
    program.headers_mut().insert(COOKIE, cookies);
    let visitor = world.visitor_at(0);
    let refused = world
        .visitors
        .block_on(async || visitor.send(Version::Http2, program).await)
        .unwrap();
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(refused.text().contains("KKM-G017"), "{}", refused.text());
    let asked = refused.headers[WWW_AUTHENTICATE].to_str().unwrap();
    assert!(asked.contains("insufficient_user_authentication"), "{asked}");
    let (page, url) = browser.go(deep);
    assert!(
        url.starts_with(CONTROL) && page.status == StatusCode::FORBIDDEN,
        "{url}"
    );
    assert!(page.text().contains("add a passkey"), "{}", page.text());
    asks(
        json!({"access": {"any_of": [{"signed_in_as": {"groups": ["berlin"], "max_age": 900}}]}}),
        &mut browser,
        "&strength=one-factor&max_age=900",
    );
    let (reply, url) = browser.go(deep);
    assert_eq!(
        (reply.status, url.as_str()),
        (StatusCode::OK, deep),
        "{}",
        reply.text()
    );
    // A rule that denies the weak asks for the same, and leads to the same page.
    let weak = json!({"name": "weak", "when": {"not": {"strength": "two_factors"}}, "effect": "deny"});
    asks(
        json!({"rules": [weak], "access": {"any_of": ["signed_in"]}}),
        &mut browser,
        "&strength=two-factors",
    );
    let (page, url) = browser.go(deep);
    assert!(
        url.starts_with(CONTROL) && page.text().contains("add a passkey"),
        "{url}"
    );
    rest.replace(&web, &for_group("web", origin.port(), "berlin"));

    // Whoever leaves the group is cut off within a second, and not sent round and round.
    let cookie = browser.cookie("https://web.test").unwrap();
    let visitor = world.visitor_at(0);
    let closed_after = world.visitors.block_on(async || {
        let mut socket = visitor
            .websocket_with("https://web.test/ws", &[(COOKIE, cookie)])
            .await
            .unwrap();
        socket.send("hello".into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), "hello");
        rest.replace(&member, &place(&[]));
        let since = Instant::now();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() {
                break;
            }
        }
        since.elapsed()
    });
    assert!(closed_after < Duration::from_secs(10), "{closed_after:?}");
    assert_eq!(browser.go(deep).0.status, StatusCode::FORBIDDEN);
    rest.replace(&member, &place(&[&group]));
    wait::until("the group counts again", || {
        (browser.status(deep) == StatusCode::OK).then_some(())
    });

    // Without Control, and after a restart of the gateway, the session goes on.
    let cookies = std::mem::take(&mut browser.cookies);
    world.control.kill();
    world.gateways[0].kill();
    world.gateways[0].start_again();
    world.gateways[0].ready();
    {
        let mut browser = Browser::with(&world, 0, &cookies);
        wait::until("the restarted gateway has its lane again", || {
            let status = browser.status(deep);
            assert_ne!(status, StatusCode::SEE_OTHER, "the session goes on");
            (status == StatusCode::OK).then_some(())
        });
    }
    world.control.start_again();

    // Whose session at Control ends is nobody at any gateway.
    let own = world.control.rest().with_bearer(&person.token);
    let sessions = own.get("sessions");
    for session in sessions["items"].as_array().unwrap() {
        if session["current"] != true {
            own.delete(&format!("sessions/{}", session["id"].as_str().unwrap()));
        }
    }
    for gateway in 0..2 {
        let mut browser = Browser::with(&world, gateway, &cookies);
        wait::until("the session has ended at the gateways", || {
            (browser.status(deep) == StatusCode::SEE_OTHER).then_some(())
        });
    }
}
