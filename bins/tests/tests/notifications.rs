//! What an organization is told of, through the real binaries.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use kakuremichi_tests::ca::Issued;
use kakuremichi_tests::client::request_with;
use kakuremichi_tests::deployment::{Control, public};
use kakuremichi_tests::{
    Deployment, Families, Hooks, Host, Mails, Network, Origin, Postgres, TestCa, Version, Visitor, component,
    net, wait,
};
use serde_json::{Value, json};

const HOOKS: &str = "hooks.test";
/// After so many seconds a node is down.
const GRACE: &str = "3";
/// A node that is connected for so many seconds was seen: it is looked several times in the grace.
const SEEN: Duration = Duration::from_secs(6);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const EMAIL: &str = "root@example.net";
const PASSWORD: &str = "correct horse battery";

/// Starts a Control again that trusts the receiver, and soon takes a node for down.
fn equip(control: &mut Control, authority: &Path, hooks: &Hooks, host: &Host) {
    fs::write(authority, hooks.authority()).unwrap();
    control.host().resolves(&[(HOOKS, host.address())]);
    let program = control.process().program().clone();
    let program = program.env("SSL_CERT_FILE", authority);
    let program = program.args(["--private-webhooks", "--node-down-after", GRACE]);
    control.kill();
    *control.process() = program.start();
    control.process().ready(Control::ADMIN);
}

/// What was told: which node, and what happened to it. A Control that is killed sends what it does not know to have been
/// taken again, and receivers know it by its place in the audit.
fn told(hooks: &Hooks) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let events = hooks.events();
    let mut known = BTreeSet::new();
    let told = events
        .iter()
        .filter(|event| known.insert(text(&event["sequence"])))
        .map(|event| (text(&event["subject_name"]), text(&event["action"])));
    told.collect()
}

fn event(node: &str, action: &str) -> (String, String) {
    (node.to_owned(), action.to_owned())
}

/// Each of these nodes is connected, and stays so for a while.
fn settled(control: &Control, nodes: &[&str]) {
    let rest = control.rest();
    for node in nodes {
        let mut first: Option<(Value, Instant)> = None;
        wait::until("the nodes settle", || {
            let seen = rest.node(node);
            let at = seen["connected_at"].clone();
            if seen["connected"] != true {
                first = None;
                return None;
            }
            match &first {
                Some((since, seen)) if *since == at => (seen.elapsed() >= SEEN).then_some(()),
                _ => {
                    first = Some((at, Instant::now()));
                    None
                }
            }
        });
    }
}

fn make_channel(control: &Control, hooks: &Hooks, events: &str) {
    let channel = json!({"name": "hooks", "webhook": hooks.url(), "events": [events]});
    let made = control.rest().create("notification-channels", &channel);
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    let id = made["id"].as_str().unwrap();
    let path = format!("notification-channels/{id}/test");
    let tested = control.rest().try_send(Method::POST, &path, None).unwrap().json();
    assert_eq!(tested["delivered"], true, "{tested}");
}

fn tells(hooks: &Hooks, expected: &[(String, String)]) {
    wait::until("the event", || {
        (told(hooks).len() >= expected.len()).then_some(())
    });
    assert_eq!(told(hooks), expected);
}

/// A node that goes down is told once; neither a node that comes back at once nor a Control that restarts is told.
#[test]
fn a_node_that_goes_down_is_told_and_a_restart_of_control_is_not() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let host = world.network.host("hooks");
    let mut hooks = Hooks::on(&host, HOOKS);
    let authority = world.data("hooks.pem");
    equip(&mut world.control, &authority, &hooks, &host);
    make_channel(&world.control, &hooks, "node.");
    let test = event("hooks", "notification_channel.test");
    settled(&world.control, &["edge", "gateway-1"]);

    world.control.kill();
    world.control.start_again();
    world.agent.kill();
    world.agent.start_again();
    settled(&world.control, &["edge", "gateway-1"]);

    // The receiver is away when it happens, and learns of it still.
    hooks.stop();
    world.agent.kill();
    let rest = world.control.rest();
    wait::until("a delivery that fails", || {
        let listed = rest.get("notification-channels");
        let failures = listed["items"][0]["delivery"]["failures"].as_u64()?;
        (failures > 0).then_some(())
    });
    hooks.start_again();
    let down = event("edge", "node.down");
    tells(&hooks, &[test.clone(), down.clone()]);
    world.control.kill();
    world.control.start_again();
    world.agent.start_again();
    tells(&hooks, &[test, down, event("edge", "node.up")]);
}

/// Of several instances one tells, and when it is killed, another one does.
#[test]
fn of_several_instances_one_tells() {
    if !component::have(&[component::POSTGRESQL]) {
        return;
    }
    let server = Postgres::start();
    let Some((mut world, mut second)) = Deployment::with_two_controls(&server.database()) else {
        return;
    };
    let host = world.network.host("hooks");
    let hooks = Hooks::on(&host, HOOKS);
    let authority = world.data("hooks.pem");
    equip(&mut world.control, &authority, &hooks, &host);
    equip(&mut second, &authority, &hooks, &host);
    make_channel(&world.control, &hooks, "node.");
    let test = event("hooks", "notification_channel.test");
    settled(&world.control, &["edge", "gateway-1"]);
    settled(&second, &["edge", "gateway-1"]);
    world.agent.kill();
    let down = event("edge", "node.down");
    tells(&hooks, &[test.clone(), down.clone()]);
    world.control.kill();
    world.agent.start_again();
    tells(&hooks, &[test, down, event("edge", "node.up")]);
}

/// A certificate that nobody renews is told of, once; a renewed one is served without a restart.
#[test]
fn a_certificate_that_is_not_renewed_is_told_of() {
    const URL: &str = "https://one.test/hello";
    let Some(mut world) = Deployment::with(Families::Both, 0) else {
        return;
    };
    let host = world.network.host("hooks");
    let hooks = Hooks::on(&host, HOOKS);
    let authority = world.data("hooks.pem");
    equip(&mut world.control, &authority, &hooks, &host);
    make_channel(&world.control, &hooks, "certificate.");
    let test = event("hooks", "notification_channel.test");

    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let (chain, key) = (world.data("one.pem"), world.data("one.key"));
    let write = |issued: Issued| {
        fs::write(&chain, issued.certificate_pem).unwrap();
        fs::write(&key, issued.key_pem).unwrap();
    };
    write(old.issue_for(&["one.test"], 80 * DAY, 10 * DAY));
    let flags = [
        "--tls-cert",
        chain.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    let address = world.add_gateway(&flags).host().address();
    let expiring = event("gateway-1", "certificate.expiring");
    tells(&hooks, &[test.clone(), expiring.clone()]);
    let rest = world.control.rest();
    let id = rest.node("gateway-1")["id"].as_str().unwrap().to_owned();
    let status = rest.get(&format!("nodes/{id}/status"));
    assert_eq!(status["certificates"][0]["name"], "one.test", "{status}");

    let origin = Origin::on(world.edge(), "origin");
    let mut service = public("one", origin.port());
    service["http"]["hosts"] = json!(["one.test"]);
    rest.create("services", &service);
    let served = |authority: &TestCa| {
        let visitor = Visitor::trusting(&[authority.pem()]).at(address);
        wait::until_right(URL, || {
            match world.visitors.block_on(async || visitor.get(URL).await) {
                Ok(reply) if reply.status.is_success() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    served(&old);
    write(new.issue_for(&["one.test"], DAY, 89 * DAY));
    served(&new);

    // Another restart tells nothing; what was renewed and is let go again is told of as another one.
    world.control.kill();
    world.control.start_again();
    write(old.issue_for(&["one.test"], 80 * DAY, 9 * DAY));
    tells(&hooks, &[test, expiring.clone(), expiring]);
}

/// The certificate that Control itself serves is read again without a restart, and that it is not renewed is told once.
#[test]
fn the_certificate_of_control_is_read_again_and_its_end_is_told() {
    if !component::have(&net::COMPONENTS) {
        return;
    }
    let (network, directory) = (Network::new(Families::Both), tempfile::tempdir().unwrap());
    let mut control = Control::start(network.host("control"), &directory.path().join("control"));
    let host = network.host("hooks");
    let hooks = Hooks::on(&host, HOOKS);
    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let (chain, key) = (
        directory.path().join("control.pem"),
        directory.path().join("control.key"),
    );
    let write = |issued: Issued| {
        fs::write(&chain, issued.certificate_pem).unwrap();
        fs::write(&key, issued.key_pem).unwrap();
    };
    write(new.issue_for(&["control.test"], DAY, 89 * DAY));
    // Whoever asks it trusts what its own authority was.
    let trusted = format!("{}{}", old.pem(), new.pem());
    fs::write(control.data().join("ca.pem"), trusted).unwrap();
    let program = control.process().program().clone();
    *control.process() = program
        .arg("--tls-cert")
        .arg(&chain)
        .arg("--tls-key")
        .arg(&key)
        .start();
    equip(&mut control, &directory.path().join("hooks.pem"), &hooks, &host);
    make_channel(&control, &hooks, "certificate.");

    let served = |control: &Control, authority: &TestCa| {
        let visitor = Visitor::trusting(&[authority.pem()]).at(control.host().address());
        let url = format!("{}/api/v1/openapi.json", control.url());
        wait::until_right(&url, || {
            match control.host().block_on(async || visitor.get(&url).await) {
                Ok(reply) if reply.status.is_success() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    served(&control, &new);
    let test = event("hooks", "notification_channel.test");
    let organization = control.rest().get("organization");
    let expiring = event(organization["name"].as_str().unwrap(), "certificate.expiring");
    write(old.issue_for(&["control.test"], 80 * DAY, 10 * DAY));
    served(&control, &old);
    tells(&hooks, &[test.clone(), expiring.clone()]);
    assert_eq!(hooks.events()[1]["subject"], organization["id"]);

    // A restart tells nothing, and neither does one that was renewed in time.
    control.kill();
    control.start_again();
    write(new.issue_for(&["control.test"], DAY, 89 * DAY));
    served(&control, &new);
    write(old.issue_for(&["control.test"], 80 * DAY, 9 * DAY));
    tells(&hooks, &[test, expiring.clone(), expiring]);
}

/// Somebody signs in from somewhere else: whoever gets mail and whoever has a webhook hears of it, once.
#[test]
fn a_sign_in_from_an_address_that_is_new_is_told_once() {
    if !component::have(&net::COMPONENTS) || !component::have(&[component::AIOSMTPD]) {
        return;
    }
    // Of IPv6 the network would be one address.
    let (network, directory) = (Network::new(Families::V4), tempfile::tempdir().unwrap());
    let host = network.host("control");
    let mails = Mails::start(&host, &directory.path().join("mails"));
    let smtp = format!("smtp://{}", Mails::ADDRESS);
    let flags = [
        "--smtp-url",
        &smtp,
        "--mail-from",
        "kakuremichi <no-reply@control.test>",
    ];
    let mut control = Control::start_with(host, &directory.path().join("control"), &flags);
    let hooks_host = network.host("hooks");
    let hooks = Hooks::on(&hooks_host, HOOKS);
    equip(
        &mut control,
        &directory.path().join("hooks.pem"),
        &hooks,
        &hooks_host,
    );
    make_channel(&control, &hooks, "sign_in.");
    let invitation = wait::until("the link of the first start", || {
        let out = control.process().stdout();
        let link = out.lines().find_map(|line| line.split_once('#'));
        link.map(|(_, invitation)| invitation.trim().to_owned())
    });
    let rest = control.rest();
    let first = json!({"invitation": invitation, "email": EMAIL, "name": "Root", "password": PASSWORD});
    rest.create("invitations/accept", &first);
    let channel = json!({"name": "mail", "mail": [EMAIL], "events": ["sign_in."]});
    rest.create("notification-channels", &channel);

    let authority = fs::read_to_string(control.data().join("ca.pem")).unwrap();
    let (address, url) = (
        control.host().address(),
        format!("{}/api/v1/sessions", control.url()),
    );
    let sign_in = |from: &Host| {
        let visitor = Visitor::trusting(&[&authority]).at(address);
        let body = json!({"email": EMAIL, "password": PASSWORD});
        let mut asked = request_with(Method::POST, &url, body.to_string());
        let json = HeaderValue::from_static("application/json");
        asked.headers_mut().insert(CONTENT_TYPE, json);
        let reply = from.block_on(async || visitor.send(Version::Http1, asked).await);
        assert_eq!(reply.unwrap().status, StatusCode::CREATED);
    };
    let (cafe, office) = (network.host("cafe"), network.host("office"));
    // From where the account was made, from somewhere else, twice, and from a third place.
    for from in [control.host(), &cafe, &cafe, &office, &cafe, control.host()] {
        sign_in(from);
    }
    let expected = [&cafe, &office].map(|from| format!("{EMAIL} from {}", from.address()));
    let told_of = |name: &String| event(name, "sign_in.new_address");
    let [from_cafe, from_office] = expected.each_ref().map(told_of);
    tells(
        &hooks,
        &[
            event("hooks", "notification_channel.test"),
            from_cafe,
            from_office,
        ],
    );
    wait::until("the mails", || {
        let mails = mails.all();
        let lines = mails.iter().flat_map(|mail| mail.text.lines());
        let mut lines: Vec<_> = lines
            .filter(|line| line.contains("A sign-in from an address that is new"))
            .collect();
        lines.sort_by_key(|line| expected.iter().position(|name| line.contains(name.as_str())));
        let right = lines.len() == expected.len()
            && lines
                .iter()
                .zip(&expected)
                .all(|(line, name)| line.contains(name.as_str()));
        assert!(lines.len() <= expected.len(), "{lines:?}");
        right.then_some(())
    });
}
