//! People at Control's pages and at a service, in Chromium.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE32_NOPAD;
use http::{Method, StatusCode};
use kakuremichi_tests::chromium::Chromium;
use kakuremichi_tests::deployment::public;
use kakuremichi_tests::{Deployment, Families, Origin, wait};
use ring::hmac;
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";
const EMAIL: &str = "root@example.net";
const CONTROL: &str = "https://control.test:7443";

/// The code of an app at a step of 30 seconds (RFC 6238).
fn code(secret: &[u8], step: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let at = usize::from(tag[19] & 0xf);
    let number = u32::from_be_bytes(tag[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

fn step() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs() / 30
}

fn page(path: &str) -> String {
    format!("{CONTROL}{path}")
}

fn enter_password(browser: &mut Chromium) {
    browser.fill("#email", EMAIL);
    browser.fill("#password", PASSWORD);
    browser.press("Sign in");
}

/// FEATURES F2, E1 and E5: from the link of the first start to a service that takes only passkeys.
#[test]
fn a_person_comes_with_a_browser_and_stays_with_a_passkey() {
    let Some(mut world) = Deployment::with(Families::Both, 1) else {
        return;
    };
    let link = wait::until("the link of the first start", || {
        let out = world.control.process().stdout();
        let link = out.lines().find(|line| line.starts_with(CONTROL));
        link.map(str::to_owned)
    });
    let control = &world.control;
    let control_authority = std::fs::read_to_string(control.data().join("ca.pem")).unwrap();
    let names = [
        ("control.test", control.host().address()),
        ("web.test", world.gateways[0].host().address()),
    ];
    let authorities = [control_authority, world.gateways[0].authority()];
    let data = world.data("chromium");
    let Some(mut browser) = Chromium::start(&world.visitors, &data, &names, &authorities) else {
        return;
    };
    let authenticator = browser.add_authenticator();

    // The first account, by the link.
    browser.open(&link);
    browser.fill("#email", EMAIL);
    browser.fill("#name", "Root");
    browser.fill("#password", PASSWORD);
    browser.press("Make the account");
    browser.until("document.getElementById('done')?.checkVisibility()");

    // An app as the second factor, which the pages do not set up.
    let rest = control.rest();
    let session = rest.create("sessions", &json!({"email": EMAIL, "password": PASSWORD}));
    let own = rest.with_bearer(session["token"].as_str().unwrap());
    let drawn = own.send(Method::POST, "account/totp/secret", None).json();
    let secret = BASE32_NOPAD
        .decode(drawn["secret"].as_str().unwrap().as_bytes())
        .unwrap();
    let set = json!({"secret": drawn["secret"], "code": code(&secret, step()), "password": PASSWORD});
    let set = own.send(Method::PUT, "account/totp", Some(&set));
    assert_eq!(set.status, StatusCode::OK, "{}", set.text());

    // A password and a code.
    browser.open(&page("/account"));
    browser.until("location.pathname === '/sign-in'");
    enter_password(&mut browser);
    // The code of before is used; that of the step after is good already.
    browser.fill("#code", &code(&secret, step() + 1));
    browser.press("Sign in");
    browser.shows(&page("/account"), "There are none yet.");

    // Whoever turns away from the authenticator is told that nothing came of it.
    browser.person_is_verified(&authenticator, false);
    browser.press("Add a passkey");
    browser.until("document.querySelector('[role=alert]')?.innerText.startsWith('Nothing came of it')");
    browser.person_is_verified(&authenticator, true);
    browser.fill("#name", "Chromium");
    browser.press("Add a passkey");
    browser.until("document.readyState === 'complete' && document.querySelector('form[action$=\"/rename\"] input')?.value === 'Chromium'");
    browser.press("Sign out");

    // With the passkey alone.
    browser.until("location.pathname === '/sign-in'");
    browser.press("Sign in with a passkey");
    browser.shows(&page("/account"), "You are signed in as Root");
    browser.press("Sign out");
    browser.until("location.pathname === '/sign-in'");
    browser.person_is_verified(&authenticator, false);
    browser.press("Sign in with a passkey");
    browser.until("document.querySelector('form[data-passkey] [role=alert]')?.innerText.startsWith('Nothing came of it')");
    browser.person_is_verified(&authenticator, true);

    // As the second factor.
    enter_password(&mut browser);
    browser.press("Use a passkey");
    browser.shows(&page("/account"), "You are signed in as Root");
    browser.press("Sign out");
    browser.until("location.pathname === '/sign-in'");

    // A service that takes nothing weaker; the deep link is kept.
    let origin = Origin::on(world.edge(), "origin");
    let mut service = public("web", origin.port());
    let asked = json!({"any_of": [{"signed_in_as": {"strength": "phishing_resistant"}}]});
    service["policy"] = json!({ "access": asked });
    rest.create("services", &service);
    world.answered(0, "https://web.test/hello", StatusCode::UNAUTHORIZED);
    let deep = "https://web.test/request?a=b&c=%2Fd";
    wait::until("gateways take sign-ins", || {
        browser.open(deep);
        wait::until("a page", || {
            (browser.value("document.readyState") == "complete").then_some(())
        });
        (browser.value("location.pathname") == "/sign-in").then_some(())
    });
    browser.press("Sign in with a passkey");
    browser.shows(deep, "/request?a=b&c=%2Fd");
    browser.forget_cookies();

    // Without scripts the pages work as ever, but for passkeys.
    browser.runs_scripts(false);
    browser.open(&page("/sign-in"));
    browser.until("document.readyState === 'complete' && document.querySelector('#email') !== null");
    assert_eq!(
        browser.value("document.querySelector('form[data-passkey]').checkVisibility()"),
        false
    );
    enter_password(&mut browser);
    let recovery = set.json()["recovery_codes"][0].as_str().unwrap().to_owned();
    browser.fill("#code", &recovery);
    browser.press("Sign in");
    browser.shows(&page("/account"), "You are signed in as Root");
    // Whoever came in more weakly than the service wants steps up, and comes back to the deep link.
    browser.open(deep);
    browser.until("document.body?.innerText.includes('Your passkey needs JavaScript')");
    browser.runs_scripts(true);
    browser.open(deep);
    browser.press("Use a passkey");
    browser.shows(deep, "/request?a=b&c=%2Fd");
    browser.open("https://web.test/request");
    browser.until(r#"document.body?.innerText.includes('"x-kakuremichi-strength","phishing-resistant"')"#);
}

/// What comes of asking for a passkey of Control in the page that is shown: the credential as JSON, or the name of the
/// error that the browser made of it.
fn use_passkey(browser: &mut Chromium, asked: &Value) -> String {
    browser.value("delete window.came");
    browser.value(&format!(
        "navigator.credentials
            .get({{ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON({asked}) }})
            .then((credential) => JSON.stringify(credential.toJSON()), (error) => error.name)
            .then((came) => {{ window.came = came; }})"
    ));
    browser.until("window.came !== undefined");
    browser.value("window.came").as_str().unwrap().to_owned()
}

/// A page at another name gets no passkey of Control's; one at a name below, to which browsers give one, gets nothing for
/// it.
#[test]
fn a_passkey_is_of_no_use_to_pages_at_another_origin() {
    let Some(mut world) = Deployment::with(Families::Both, 1) else {
        return;
    };
    let link = wait::until("the link of the first start", || {
        let out = world.control.process().stdout();
        let link = out.lines().find(|line| line.starts_with(CONTROL));
        link.map(str::to_owned)
    });
    let control = &world.control;
    let control_authority = std::fs::read_to_string(control.data().join("ca.pem")).unwrap();
    let gateway = world.gateways[0].host().address();
    let names = [
        ("control.test", control.host().address()),
        ("below.control.test", gateway),
        ("web.test", gateway),
    ];
    let authorities = [control_authority, world.gateways[0].authority()];
    let data = world.data("chromium");
    let Some(mut browser) = Chromium::start(&world.visitors, &data, &names, &authorities) else {
        return;
    };
    browser.add_authenticator();
    let origin = Origin::on(world.edge(), "origin");
    let rest = control.rest();
    let mut service = public("web", origin.port());
    service["http"]["hosts"] = json!(["web.test", "below.control.test"]);
    rest.create("services", &service);
    world.served("https://web.test/hello");

    browser.open(&link);
    browser.fill("#email", EMAIL);
    browser.fill("#name", "Root");
    browser.fill("#password", PASSWORD);
    browser.press("Make the account");
    browser.until("document.getElementById('done')?.checkVisibility()");
    browser.open(&page("/account"));
    browser.until("location.pathname === '/sign-in'");
    enter_password(&mut browser);
    browser.shows(&page("/account"), "There are none yet.");
    browser.fill("#name", "Chromium");
    browser.press("Add a passkey");
    browser.shows(&page("/account/passkeys"), "It is done.");

    let ask = || {
        rest.send(Method::POST, "sessions/passkey/challenge", Some(&json!({})))
            .json()
    };
    let sign_in = |asked: &Value, credential: &str| {
        let credential: Value = serde_json::from_str(credential).unwrap();
        let shown = json!({"challenge": asked["challenge"], "credential": credential});
        rest.send(Method::POST, "sessions/passkey", Some(&shown))
    };
    // At the origin of Control it is as good as in its own pages.
    let asked = ask();
    let credential = use_passkey(&mut browser, &asked["options"]["publicKey"]);
    assert_eq!(sign_in(&asked, &credential).status, StatusCode::CREATED);

    // The browser gives it to no page at another name, whatever that asks for.
    browser.open("https://web.test/hello");
    browser.until("document.readyState === 'complete' && location.host === 'web.test'");
    let mut public_key = ask()["options"]["publicKey"].clone();
    assert_eq!(use_passkey(&mut browser, &public_key), "SecurityError");
    public_key.as_object_mut().unwrap().remove("rpId");
    assert_eq!(use_passkey(&mut browser, &public_key), "NotAllowedError");

    // It does below that name: Control then is told where, and refuses.
    browser.open("https://below.control.test/hello");
    browser.until("document.readyState === 'complete' && location.host === 'below.control.test'");
    let asked = ask();
    let credential = use_passkey(&mut browser, &asked["options"]["publicKey"]);
    let refused = sign_in(&asked, &credential);
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{}", refused.text());
}
