//! People, from the link of the first start on, with the mails that they get.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use kakuremichi_tests::client::{Reply, Version, Visitor, request, request_with};
use kakuremichi_tests::{Families, Host, Mails, Network, Process, Program, component, net, wait};
use serde_json::{Value, json};

const CONTROL: &str = "https://control.test:7443";
const PASSWORD: &str = "correct horse battery";

/// Control, and a mail server beside it, on a host of their own.
struct World {
    control: Process,
    data: PathBuf,
    mails: Read,
    host: Host,
    _network: Network,
    _directory: tempfile::TempDir,
}

/// What the mail server got, and what of it was read.
struct Read {
    mails: Mails,
    read: BTreeSet<PathBuf>,
}

impl World {
    fn start() -> Option<Self> {
        if !component::have(&net::COMPONENTS) || !component::have(&[component::AIOSMTPD]) {
            return None;
        }
        let network = Network::new(Families::Both);
        let host = network.host("control");
        let directory = tempfile::tempdir().unwrap();
        let mails = Read {
            mails: Mails::start(&host, &directory.path().join("mails")),
            read: BTreeSet::new(),
        };
        let data = directory.path().join("control");
        let program = Program::ours("kakuremichi-control").arg("run").on(&host);
        let program = program.args(["--public-url", CONTROL, "--listen", "[::]:7443"]);
        let program = program.args(["--smtp-url", "smtp://127.0.0.1:2525"]);
        let program = program.args(["--mail-from", "kakuremichi <no-reply@control.test>"]);
        let program = program.arg("--admin").arg("127.0.0.1:7671");
        let mut control = program.arg("--data").arg(&data).start();
        control.ready(7671);
        Some(Self {
            control,
            data,
            mails,
            host,
            _network: network,
            _directory: directory,
        })
    }

    fn ask(&self, bearer: &str, method: Method, path: &str, body: Option<&Value>) -> Reply {
        let url = format!("{CONTROL}/{path}");
        let mut asked = match body {
            Some(body) => request_with(method, &url, body.to_string()),
            None => request(method, &url),
        };
        let headers = asked.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !bearer.is_empty() {
            headers.insert(AUTHORIZATION, format!("Bearer {bearer}").parse().unwrap());
        }
        let authority = fs::read_to_string(self.data.join("ca.pem")).unwrap();
        let visitor = Visitor::trusting(&[&authority]).at(self.host.address());
        let sent = self
            .host
            .block_on(async || visitor.send(Version::Http1, asked).await);
        sent.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    #[track_caller]
    fn post(&self, bearer: &str, path: &str, body: &Value, status: u16) -> Value {
        let reply = self.ask(bearer, Method::POST, &format!("api/v1/{path}"), Some(body));
        assert_eq!(reply.status.as_u16(), status, "{path}: {}", reply.text());
        serde_json::from_slice(&reply.body).unwrap_or_default()
    }

    fn account(&self, bearer: &str) -> Reply {
        self.ask(bearer, Method::GET, "api/v1/account", None)
    }

    /// An account of whoever has this link; the token of its session.
    fn join(&self, link: &str, body: Value) -> String {
        let (page, invitation) = link.split_once('#').unwrap();
        let page = self.ask(
            "",
            Method::GET,
            page.strip_prefix(&format!("{CONTROL}/")).unwrap(),
            None,
        );
        assert_eq!(page.status, StatusCode::OK);
        assert!(page.text().contains("join.js"));
        let mut body = body;
        body["invitation"] = json!(invitation);
        body["password"] = json!(PASSWORD);
        let joined = self.post("", "invitations/accept", &body, 201);
        text(&joined["token"])
    }

    /// Sets a new password by this link.
    fn reset(&self, link: &str, password: &str, status: u16) -> Value {
        let (page, reset) = link.split_once('#').unwrap();
        assert_eq!(page, format!("{CONTROL}/reset"));
        self.post(
            "",
            "password-resets/complete",
            &json!({"reset": reset, "password": password}),
            status,
        )
    }
}

impl Read {
    /// The link in the next mail to this address.
    fn link_for(&mut self, address: &str) -> String {
        let mail = wait::until("a mail", || {
            let wanted = format!("To: {address}");
            let mut new = self.mails.all().into_iter();
            let mail = new.find(|mail| mail.text.contains(&wanted) && !self.read.contains(&mail.path))?;
            self.read.insert(mail.path);
            Some(mail.text)
        });
        assert!(mail.contains("no-reply@control.test"), "{mail}");
        let link = mail.lines().find(|line| line.starts_with(CONTROL));
        link.unwrap_or_else(|| panic!("no link: {mail}"))
            .trim()
            .to_owned()
    }

    /// How many there are of which the link was not looked at.
    fn unread(&self) -> usize {
        let mails = self.mails.all();
        mails
            .iter()
            .filter(|mail| !self.read.contains(&mail.path))
            .count()
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

#[test]
fn people_come_by_links_and_get_mail() {
    let Some(mut world) = World::start() else {
        return;
    };
    let link = wait::until("the link of the first start", || {
        let out = world.control.stdout();
        let link = out.lines().find(|line| line.starts_with(CONTROL));
        link.map(str::to_owned)
    });
    let root = world.join(&link, json!({"email": "root@example.net", "name": "Root"}));
    let account = world.account(&root).json();
    assert_eq!(
        (&account["administrator"], &account["verified"]),
        (&json!(true), &json!(false))
    );

    world.post(&root, "account/verification", &json!({}), 202);
    let link = world.mails.link_for("root@example.net");
    let verification = json!({"verification": link.split_once('#').unwrap().1});
    world.post("", "verifications", &verification, 204);
    world.post("", "verifications", &verification, 409);
    assert_eq!(world.account(&root).json()["verified"], true);

    let roles = world.ask(&root, Method::GET, "api/v1/roles", None).json();
    let owner = text(&roles["items"][0]["id"]);
    let invitation = json!({"email": "Anna@Example.net", "roles": [owner]});
    world.post(&root, "invitations", &invitation, 201);
    let link = world.mails.link_for("anna@example.net");
    let anna = world.join(&link, json!({"name": "Anna"}));
    assert_eq!(world.account(&anna).json()["email"], "anna@example.net");

    // The same answer whether there is an account or not, and mail only where there is one.
    for email in ["nobody@example.net", "anna@example.net"] {
        world.post("", "password-resets", &json!({"email": email}), 202);
    }
    let link = world.mails.link_for("anna@example.net");
    assert_eq!(world.mails.unread(), 0);
    world.reset(&link, "short", 400);
    let session = world.reset(&link, "another good password", 201);
    assert_eq!(world.account(&anna).status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.account(&text(&session["token"])).status, StatusCode::OK);
    world.reset(&link, "yet another password", 409);
    let with = |password: &str| json!({"email": "anna@example.net", "password": password});
    world.post("", "sessions", &with(PASSWORD), 401);
    world.post("", "sessions", &with("another good password"), 201);

    // Who may read the data directory helps who reads no mail.
    let recover = Program::ours("kakuremichi-control").args(["user", "recover", "anna@example.net"]);
    let said = recover.arg("--data").arg(&world.data).finish();
    assert!(said.status.success(), "{}", said.err);
    world.reset(said.out.trim(), "a third good password", 201);
    let nobody = Program::ours("kakuremichi-control").args(["user", "recover", "nobody@example.net"]);
    let said = nobody.arg("--data").arg(&world.data).finish();
    assert!(
        !said.status.success() && said.err.contains("nobody@example.net"),
        "{}",
        said.err
    );
    assert!(world.control.stop().success());
}
