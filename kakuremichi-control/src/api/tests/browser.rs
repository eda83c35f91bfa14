//! Signing in with a browser that has no script, and its cookie at the API.

use super::*;

const ORIGIN: (&str, &str) = ("origin", "https://control.example.net");
const SAME_ORIGIN: (&str, &str) = ("sec-fetch-site", "same-origin");

/// What a browser keeps between requests.
#[derive(Default, Clone)]
pub(super) struct Tab {
    pub(super) cookies: std::collections::BTreeMap<String, String>,
}

impl Tab {
    /// Opens a path, as if a link on another site had led there.
    pub(super) async fn open(&mut self, api: &Api, path: &str) -> Answer {
        self.send(api, "GET", path, &[("sec-fetch-site", "cross-site")], "")
            .await
    }

    /// Sends a form of a page of ours.
    pub(super) async fn post(&mut self, api: &Api, path: &str, form: &[(&str, &str)]) -> Answer {
        self.send(api, "POST", path, &[ORIGIN, SAME_ORIGIN], &encoded(form))
            .await
    }

    pub(super) async fn send(
        &mut self,
        api: &Api,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        let cookies: Vec<_> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if !cookies.is_empty() {
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        if !body.is_empty() {
            let kind = match body.starts_with('{') {
                true => "application/json",
                false => "application/x-www-form-urlencoded",
            };
            request = request.header(header::CONTENT_TYPE, kind);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let answer = Answer::to(api.router.clone(), request).await;
        for cookie in answer.headers.get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            assert!(
                cookie.ends_with("; HttpOnly; SameSite=Lax; Secure") && cookie.contains("; Path=/; "),
                "{cookie}"
            );
            let (name, rest) = cookie.split_once('=').unwrap();
            assert!(name.starts_with("__Host-"));
            let (value, rest) = rest.split_once(';').unwrap();
            match rest.contains("Max-Age=0;") {
                true => self.cookies.remove(name),
                false => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        answer
    }

    /// Signs in with a password, and goes where the page leads.
    pub(super) async fn sign_in(&mut self, api: &Api, email: &str) {
        let answer = self
            .post(api, "/sign-in", &[("email", email), ("password", PASSWORD)])
            .await;
        answer.leads_to("https://control.example.net/km/sign-in");
    }
}

impl Answer {
    #[track_caller]
    pub(super) fn leads_to(&self, location: &str) {
        assert_eq!(
            (self.status, self.header(header::LOCATION)),
            (StatusCode::SEE_OTHER, location),
            "{self:?}"
        );
    }

    #[track_caller]
    pub(super) fn says(&self, status: u16, text: &str) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert!(self.text.contains(text), "{text}: {}", self.text);
    }

    /// The value of a hidden field.
    pub(super) fn field(&self, name: &str) -> String {
        let (_, rest) = self
            .text
            .split_once(&format!("name=\"{name}\" value=\""))
            .unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }
}

fn encoded(form: &[(&str, &str)]) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let pairs = form
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    pairs.collect::<Vec<_>>().join("&")
}

#[tokio::test]
async fn a_browser_signs_in_and_out_without_a_script() {
    let api = Api::start().await;
    api.administrator().await;
    let mut tab = Tab::default();
    tab.open(&api, "/account?tab=1&x=%2F")
        .await
        .leads_to("https://control.example.net/km/sign-in?return=%2Faccount%3Ftab%3D1%26x%3D%252F");
    let page = tab
        .open(&api, "/sign-in?return=%2Faccount%3Ftab%3D1%26x%3D%252F")
        .await;
    page.says(200, "name=\"password\"");
    let policy = page.header(header::CONTENT_SECURITY_POLICY);
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"));
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"));
    assert_eq!(page.header(header::STRICT_TRANSPORT_SECURITY), "max-age=31536000");
    assert_eq!(page.header(header::REFERRER_POLICY), "same-origin");
    assert_eq!(page.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
    let back = page.field("return").replace("&#38;", "&");
    assert_eq!(back, "/account?tab=1&x=%2F");

    let form = [
        ("email", "root@example.net"),
        ("password", "wrong"),
        ("return", back.as_str()),
    ];
    let wrong = tab.post(&api, "/sign-in", &form).await;
    wrong.says(401, "role=\"alert\"");
    wrong.says(401, "value=\"root@example.net\"");
    assert!(tab.cookies.is_empty());
    let form = [
        ("email", "root@example.net"),
        ("password", PASSWORD),
        ("return", back.as_str()),
    ];
    tab.post(&api, "/sign-in", &form)
        .await
        .leads_to("https://control.example.net/km/sign-in?return=%2Faccount%3Ftab%3D1%26x%3D%252F");
    tab.open(&api, "/sign-in?return=%2Faccount%3Ftab%3D1%26x%3D%252F")
        .await
        .says(
            200,
            "content=\"0; url=https://control.example.net/km/account?tab=1&#38;x=%2F\"",
        );
    tab.open(&api, "/account").await.says(200, "root@example.net");

    // LESSONS, advisory 12: another sign-in has another session.
    let first = tab.cookies.clone();
    tab.sign_in(&api, "Root@example.net").await;
    assert_ne!(first, tab.cookies);

    let kept = tab.cookies.clone();
    tab.post(&api, "/sign-out", &[])
        .await
        .leads_to("https://control.example.net/km/sign-in");
    assert!(tab.cookies.is_empty());
    tab.cookies = kept;
    tab.open(&api, "/account")
        .await
        .leads_to("https://control.example.net/km/sign-in?return=%2Faccount");
}

#[tokio::test]
async fn a_code_is_asked_for_on_a_page_of_its_own() {
    let api = Api::start().await;
    let token = api.administrator().await;
    let drawn = api.with(&token, "POST", "/account/totp/secret", None).await;
    let secret = text(&drawn.body["secret"]);
    let code = |back: u64| {
        let key = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
        let app = totp_rs::Builder::new().with_secret(key).build().unwrap();
        let now = u64::try_from(crate::service::now().as_millis()).unwrap() / 1000;
        app.generate(now - back).to_string()
    };
    let set = json!({"secret": secret, "code": code(30), "password": PASSWORD});
    let made = api.with(&token, "PUT", "/account/totp", Some(set)).await;
    made.is(200, "");

    let mut tab = Tab::default();
    let form = [
        ("email", "root@example.net"),
        ("password", PASSWORD),
        ("return", "/account"),
    ];
    let asked = tab.post(&api, "/sign-in", &form).await;
    asked.says(200, "autocomplete=\"one-time-code\"");
    assert!(tab.cookies.is_empty(), "half a sign-in is none");
    let continuation = asked.field("continuation");
    assert!(!continuation.contains(PASSWORD));
    let with = |continuation: &str, code: &str| {
        encoded(&[
            ("continuation", continuation),
            ("code", code),
            ("return", "/account"),
        ])
    };
    let sent = [ORIGIN];
    tab.send(
        &api,
        "POST",
        "/sign-in/code",
        &sent,
        &with(&continuation, "000000"),
    )
    .await
    .says(401, "autocomplete=\"one-time-code\"");
    let forged = format!("{}A", &continuation[..continuation.len() - 1]);
    for bad in ["", "x", &forged] {
        let answer = tab
            .send(&api, "POST", "/sign-in/code", &sent, &with(bad, &code(0)))
            .await;
        answer.says(401, "name=\"password\"");
    }
    tab.send(
        &api,
        "POST",
        "/sign-in/code",
        &sent,
        &with(&continuation, &code(0)),
    )
    .await
    .leads_to("https://control.example.net/km/sign-in?return=%2Faccount");
    tab.open(&api, "/account").await.says(200, "root@example.net");
    // The continuation is of one password.
    let token = text(&made.body["token"]);
    let change = json!({"password": PASSWORD, "new_password": "another password"});
    api.with(&token, "PUT", "/account/password", Some(change))
        .await
        .is(200, "");
    let recovery = text(&made.body["recovery_codes"][0]);
    tab.send(
        &api,
        "POST",
        "/sign-in/code",
        &sent,
        &with(&continuation, &recovery),
    )
    .await
    .says(401, "name=\"password\"");
}

/// A person needs no other program to set up a second factor.
#[tokio::test]
async fn an_app_is_set_up_and_taken_away_on_the_pages() {
    let api = Api::start().await;
    api.administrator().await;
    let mut tab = Tab::default();
    tab.open(&api, "/account/totp")
        .await
        .leads_to("https://control.example.net/km/sign-in?return=%2Faccount%2Ftotp");
    tab.sign_in(&api, "root@example.net").await;
    tab.open(&api, "/account")
        .await
        .says(200, "/account/totp\">Set one up");
    let page = tab.open(&api, "/account/totp").await;
    page.says(200, "<svg class=\"code\"");
    assert!(!page.text.contains("current_code"), "there is none yet");
    let secret = page.field("secret");
    page.says(200, &format!("<code>{secret}</code>"));
    let code = |back: u64| {
        let key = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
        let app = totp_rs::Builder::new().with_secret(key).build().unwrap();
        let now = u64::try_from(crate::service::now().as_millis()).unwrap() / 1000;
        app.generate(now - back).to_string()
    };
    let form = |code: &str, password: &'static str| {
        encoded(&[("secret", &secret), ("code", code), ("password", password)])
    };
    let right = form(&code(30), PASSWORD);
    let foreign = [
        ("origin", "https://elsewhere.example"),
        ("sec-fetch-site", "cross-site"),
    ];
    let forged = tab.send(&api, "POST", "/account/totp", &foreign, &right).await;
    assert_eq!(forged.status, 403, "LESSONS, advisory 15");
    for (wrong, status) in [(form("000000", PASSWORD), 400), (form(&code(30), "wrong"), 403)] {
        let again = tab.send(&api, "POST", "/account/totp", &[ORIGIN], &wrong).await;
        again.says(status, "role=\"alert\"");
        assert_eq!(again.field("secret"), secret, "the app has it already");
    }
    let before = tab.cookies.clone();
    let made = tab.send(&api, "POST", "/account/totp", &[ORIGIN], &right).await;
    made.says(200, "<li><code>");
    assert_ne!(before, tab.cookies, "the sessions of before are over");
    tab.open(&api, "/account").await.says(200, "Set up another app");
    tab.open(&api, "/account/totp").await.says(200, "current_code");
    let form = [("email", "root@example.net"), ("password", PASSWORD)];
    let asked = Tab::default().post(&api, "/sign-in", &form).await;
    asked.says(200, "autocomplete=\"one-time-code\"");

    let wrong = [("code", "000000"), ("password", PASSWORD)];
    let kept = tab.post(&api, "/account/totp/remove", &wrong).await;
    assert!(kept.status.is_client_error(), "{kept:?}");
    let code = code(0);
    let right = [("code", code.as_str()), ("password", PASSWORD)];
    tab.post(&api, "/account/totp/remove", &right)
        .await
        .leads_to("https://control.example.net/km/account");
    tab.open(&api, "/account").await.says(200, "Set one up");
    Tab::default().sign_in(&api, "root@example.net").await;
}

/// Codes are guessed no faster on the page than at the API.
#[tokio::test]
async fn guesses_on_the_page_slow_down() {
    let api = Api::start().await;
    api.administrator().await;
    let mut tab = Tab::default();
    let nobody = [("email", "nobody@example.net"), ("password", "not the password")];
    let somebody = [("email", "root@example.net"), ("password", "not the password")];
    let nobody = tab.post(&api, "/sign-in", &nobody).await;
    let wrong = tab.post(&api, "/sign-in", &somebody).await;
    assert_eq!(nobody.text.replace("nobody", "root"), wrong.text);
    for _ in 0..4 {
        tab.post(&api, "/sign-in", &somebody)
            .await
            .says(401, "role=\"alert\"");
    }
    let limited = tab
        .post(
            &api,
            "/sign-in",
            &[("email", "root@example.net"), ("password", PASSWORD)],
        )
        .await;
    limited.says(429, "role=\"alert\"");
    assert!(!limited.header(header::RETRY_AFTER).is_empty());
}

/// LESSONS, advisory 15: Origin is looked at.
#[tokio::test]
async fn advisory_15_forms_of_other_sites_are_refused() {
    let api = Api::start().await;
    api.administrator().await;
    let mut tab = Tab::default();
    let form = encoded(&[("email", "root@example.net"), ("password", PASSWORD)]);
    let evil = ("origin", "https://evil.example");
    for headers in [
        &[][..],
        &[evil],
        &[("origin", "null")],
        &[ORIGIN, ("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
    ] {
        tab.send(&api, "POST", "/sign-in", headers, &form)
            .await
            .says(403, "https://control.example.net/km");
    }
    tab.sign_in(&api, "root@example.net").await;
    tab.send(&api, "POST", "/sign-out", &[evil], "")
        .await
        .says(403, "");
    tab.open(&api, "/account").await.says(200, "root@example.net");
}

#[tokio::test]
async fn nobody_is_sent_to_another_site() {
    let api = Api::start().await;
    api.administrator().await;
    let mut tab = Tab::default();
    for bad in [
        "https%3A%2F%2Fevil.example",
        "%2F%2Fevil.example",
        "%2F%5Cevil.example",
        "%2F..%2Fother",
        "x",
    ] {
        tab.open(&api, &format!("/sign-in?return={bad}"))
            .await
            .says(400, "role=\"alert\"");
        let form = format!("email=root%40example.net&password=x&return={bad}");
        tab.send(&api, "POST", "/sign-in", &[ORIGIN], &form)
            .await
            .says(400, "role=\"alert\"");
    }
    let odd = encoded(&[("email", "\"><script>"), ("password", "x")]);
    let odd = tab.send(&api, "POST", "/sign-in", &[ORIGIN], &odd).await;
    odd.says(401, "value=\"&#34;&#62;&#60;script&#62;\"");
    let big = format!("email={}&password=x", "a".repeat(20_000));
    tab.send(&api, "POST", "/sign-in", &[ORIGIN], &big)
        .await
        .says(413, "role=\"alert\"");
    tab.send(&api, "POST", "/sign-in", &[ORIGIN], "email=a")
        .await
        .says(422, "role=\"alert\"");
}

/// A browser sends its cookie along with what another site has it ask, too.
#[tokio::test]
async fn the_api_takes_a_cookie_from_our_own_pages_only() {
    let api = Api::start().await;
    let token = api.administrator().await;
    let mut tab = Tab::default();
    tab.sign_in(&api, "root@example.net").await;
    tab.send(&api, "GET", "/api/v1/me", &[SAME_ORIGIN], "")
        .await
        .is(200, "");
    tab.send(&api, "GET", "/api/v1/me", &[ORIGIN], "")
        .await
        .is(200, "");
    for headers in [
        &[][..],
        &[("sec-fetch-site", "none")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site"), ORIGIN],
        &[("origin", "https://evil.example")],
        &[SAME_ORIGIN, ("authorization", "Bearer nonsense")],
    ] {
        tab.send(&api, "GET", "/api/v1/me", headers, "")
            .await
            .is(401, "KKM-A002");
    }
    // The text of a session that a program has is good as a cookie; that of an API key is not.
    let of = |text: &str| Tab {
        cookies: [("__Host-kkm_session".to_owned(), text.to_owned())].into(),
    };
    of(&token)
        .send(&api, "GET", "/api/v1/me", &[SAME_ORIGIN], "")
        .await
        .is(200, "");
    of(&api.key)
        .send(&api, "GET", "/api/v1/me", &[SAME_ORIGIN], "")
        .await
        .is(401, "KKM-A002");

    // What ends all sessions gives the browser another cookie, and its scripts nothing to read.
    let before = tab.cookies.clone();
    let change = json!({"password": PASSWORD, "new_password": "another password"}).to_string();
    let changed = tab
        .send(&api, "PUT", "/api/v1/account/password", &[SAME_ORIGIN], &change)
        .await;
    changed.is(200, "");
    assert_eq!(changed.body["token"], Value::Null);
    assert_ne!(before, tab.cookies);
    tab.send(&api, "GET", "/api/v1/me", &[SAME_ORIGIN], "")
        .await
        .is(200, "");
    tab.send(&api, "DELETE", "/api/v1/sessions/current", &[SAME_ORIGIN], "")
        .await
        .is(204, "");
    assert!(tab.cookies.is_empty());
}
