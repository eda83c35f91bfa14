//! Chromium, driven over the DevTools protocol.
//!
//! The protocol is JSON over a WebSocket, which is here already: a driver from elsewhere would bring more than it does.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::path::Path;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client::client};

use crate::component::{self, CHROMIUM, NSS_TOOLS};
use crate::net::Host;
use crate::process::{Process, Program};
use crate::wait;

/// A browser with one page, on a host of the test. It ends when dropped.
pub struct Chromium {
    _process: Process,
    socket: WebSocket<TcpStream>,
    calls: u64,
    /// What the page is called in calls.
    page: String,
}

impl std::fmt::Debug for Chromium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chromium").field("page", &self.page).finish()
    }
}

/// An authenticator inside the browser (Web Authentication, section 11). It keeps passkeys.
#[derive(Debug, Clone)]
pub struct Authenticator(String);

impl Chromium {
    /// Starts one that trusts these authorities, given in PEM, and finds these names; nothing when it is to be done
    /// without. What it keeps is in `data`.
    ///
    /// # Panics
    ///
    /// It is missing, or does not come up.
    #[must_use]
    pub fn start(host: &Host, data: &Path, names: &[(&str, IpAddr)], authorities: &[String]) -> Option<Self> {
        if !component::have(&[CHROMIUM, NSS_TOOLS]) {
            return None;
        }
        trust(data, authorities);
        let rules: Vec<_> = names
            .iter()
            .map(|(name, address)| match address {
                IpAddr::V4(address) => format!("MAP {name} {address}"),
                IpAddr::V6(address) => format!("MAP {name} [{address}]"),
            })
            .collect();
        let program = Program::other(component::path("chromium").unwrap()).on(host);
        let program = program.env("HOME", data).args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--remote-debugging-port=0",
        ]);
        let program = program.arg(format!("--user-data-dir={}", data.join("profile").display()));
        let program = program.arg(format!("--host-resolver-rules={}", rules.join(",")));
        let mut process = program.arg("about:blank").start();
        let line = process.line_with("DevTools listening on ");
        let url = line.split("listening on ").nth(1).unwrap().trim().to_owned();
        let address = url.split('/').nth(2).unwrap().to_owned();
        // A connection stays where it was made.
        let stream = host
            .block_on(async || TcpStream::connect(&address))
            .expect("the browser listens");
        let (socket, _) = client(url, stream).expect("the browser speaks the protocol");
        let mut browser = Self {
            _process: process,
            socket,
            calls: 0,
            page: String::new(),
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach);
        browser.page = attached["sessionId"].as_str().unwrap().to_owned();
        browser.call("Page.enable", json!({}));
        Some(browser)
    }

    /// Calls a method of the protocol, and returns its result.
    ///
    /// # Panics
    ///
    /// The browser refuses it, or is gone.
    #[track_caller]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !self.page.is_empty() {
            message["sessionId"] = json!(self.page);
        }
        let message = Message::text(message.to_string());
        self.socket.send(message).expect("the browser takes a call");
        loop {
            let answer = self.socket.read().expect("the browser answers");
            let Message::Text(text) = answer else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// Goes to a URL, as somebody who follows a link.
    ///
    /// # Panics
    ///
    /// There is no page.
    #[track_caller]
    pub fn open(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url }));
        assert!(went["errorText"].is_null(), "{url}: {went}");
    }

    /// What an expression is in the page; nothing while there is none between two pages.
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "userGesture": true});
        self.call("Runtime.evaluate", parameters)["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    ///
    /// # Panics
    ///
    /// It never is; the message shows the page.
    #[track_caller]
    pub fn until(&mut self, expression: &str) {
        wait::until_right(expression, || match self.value(expression) {
            Value::Bool(true) => Ok(()),
            _ => {
                let page = self.value("location.href + ' ' + (document.body?.innerText ?? '')");
                Err(page.as_str().unwrap_or_default().to_owned())
            }
        });
    }

    /// Waits until the page is at a URL, and shows a text.
    ///
    /// # Panics
    ///
    /// It never does.
    #[track_caller]
    pub fn shows(&mut self, url: &str, text: &str) {
        self.until(&format!(
            "document.readyState === 'complete' && location.href === {} && document.body.innerText.includes({})",
            json!(url),
            json!(text)
        ));
    }

    /// Types into a field.
    ///
    /// # Panics
    ///
    /// There is none such.
    #[track_caller]
    pub fn fill(&mut self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!("document.querySelector({selector}) !== null"));
        self.value(&format!("document.querySelector({selector}).value = {text}"));
    }

    /// Presses the button that says this, once it can be seen and pressed.
    ///
    /// # Panics
    ///
    /// There is none such.
    #[track_caller]
    pub fn press(&mut self, says: &str) {
        let button = format!(
            "[...document.querySelectorAll('button')].find((button) => button.innerText === {})",
            json!(says)
        );
        self.until(&format!(
            "document.readyState === 'complete' && {button}?.checkVisibility() && !{button}.disabled"
        ));
        self.value(&format!("{button}.click()"));
    }

    /// Lets pages run scripts, or not, from the next page on.
    pub fn runs_scripts(&mut self, allowed: bool) {
        self.call(
            "Emulation.setScriptExecutionDisabled",
            json!({ "value": !allowed }),
        );
    }

    /// Forgets all cookies.
    pub fn forget_cookies(&mut self) {
        self.call("Network.clearBrowserCookies", json!({}));
    }

    /// Gives the browser an authenticator that is part of its device, and knows its person.
    ///
    /// # Panics
    ///
    /// The browser refuses it.
    pub fn add_authenticator(&mut self) -> Authenticator {
        self.call("WebAuthn.enable", json!({}));
        let options = json!({
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": true,
            "hasUserVerification": true, "isUserVerified": true, "automaticPresenceSimulation": true,
        });
        let added = self.call("WebAuthn.addVirtualAuthenticator", json!({ "options": options }));
        Authenticator(added["authenticatorId"].as_str().unwrap().to_owned())
    }

    /// Says whether the person proves to the authenticator who they are, or turns away.
    pub fn person_is_verified(&mut self, authenticator: &Authenticator, verified: bool) {
        let parameters = json!({"authenticatorId": authenticator.0, "isUserVerified": verified});
        self.call("WebAuthn.setUserVerified", parameters);
    }
}

/// Makes the database of certificates that a browser with this home looks at.
fn trust(home: &Path, authorities: &[String]) {
    let database = home.join(".pki/nssdb");
    fs::create_dir_all(&database).unwrap();
    let database = format!("sql:{}", database.display());
    let certutil = || Program::other(component::path("certutil").unwrap()).args(["-d", &database]);
    let run = |program: Program| {
        let done = program.finish();
        assert!(done.status.success(), "certutil: {}", done.err);
    };
    run(certutil().args(["-N", "--empty-password"]));
    for (number, authority) in authorities.iter().enumerate() {
        let file = home.join(format!("authority-{number}.pem"));
        fs::write(&file, authority).unwrap();
        let name = format!("authority {number}");
        run(certutil().args(["-A", "-t", "C,,", "-n", &name, "-i"]).arg(file));
    }
}
