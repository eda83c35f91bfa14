//! The README's one command.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Method, StatusCode};
use kakuremichi_tests::client::request;
use kakuremichi_tests::{Origin, Process, Program, Reply, Version, Visitor};
use serde_json::Value;

#[test]
fn one_command_publishes_a_demo_and_services_of_ones_own() {
    let origin = Origin::here("mine");
    let data = tempfile::tempdir().unwrap();
    let expose = format!("web=http://127.0.0.1:{}", origin.port());
    let (mut process, said) = quickstart(
        &data.path().join("data"),
        &["127.0.0.1:0"; 5],
        &["--expose", &expose],
    );

    // That this target has nothing at `/` is its own affair.
    // When it says where everything is, a request succeeds: no second try.
    let runtime = runtime();
    let ca = fs::read_to_string(said["ca"].as_str().unwrap()).unwrap();
    let visitor = Visitor::trusting(&[&ca]);
    let urls: Vec<(&str, &str)> = services(&said);
    let [("demo", demo), ("web", web)] = urls[..] else {
        panic!("{said}");
    };
    let page = runtime.block_on(visitor.get(demo)).unwrap();
    assert_eq!(page.status, StatusCode::OK);
    assert!(
        page.text().contains("127.0.0.1"),
        "it says who visits: {}",
        page.text()
    );
    let page = runtime.block_on(visitor.get(&format!("{web}hello"))).unwrap();
    assert_eq!(page.text(), "hello from mine\n");
    let port = demo.rsplit(':').next().unwrap().trim_end_matches('/');
    assert_eq!(demo, format!("https://demo.localhost:{port}/"));
    let plain = format!("http://demo.localhost:{}/", port_of(&said["http"]));
    let page = runtime.block_on(visitor.get(&plain)).unwrap();
    assert_eq!(page.headers["location"], demo, "{page:?}");

    // Its REST API is there, for those who have the key.
    let control_ca = fs::read_to_string(said["control_ca"].as_str().unwrap()).unwrap();
    let client = Visitor::trusting(&[&control_ca]);
    let listed = api(&said, Method::GET, "services");
    assert_eq!(listed.status, StatusCode::OK, "{}", listed.text());
    assert_eq!(listed.json()["items"].as_array().unwrap().len(), 2);
    let document = runtime
        .block_on(client.get(said["openapi"].as_str().unwrap()))
        .unwrap();
    assert!(document.json()["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(
        process
            .admin(port_of(&said["admin"]), "/readyz")
            .unwrap()
            .starts_with("HTTP/1.1 200 ")
    );

    // Three roles on one page: each metric stands there once, with the samples of all.
    let page = process.admin(port_of(&said["admin"]), "/metrics").unwrap();
    let mut families: Vec<&str> = page.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    families.sort_unstable();
    assert!(families.windows(2).all(|two| two[0] != two[1]), "{page}");
    for role in ["gateway", "agent"] {
        let sample = format!("kakuremichi_link_up{{role=\"{role}\"}} 1\n");
        assert!(page.contains(&sample), "{page}");
    }

    private(&data.path().join("data"));
    assert!(process.stop().success());
    assert_eq!(
        process.stdout().lines().count(),
        1,
        "one line of JSON and nothing else: {}",
        process.stdout()
    );
}

#[test]
fn started_again_it_is_the_same() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("data");
    let (mut first, said) = quickstart(&data, &["127.0.0.1:0"; 5], &[]);
    let ca = fs::read_to_string(said["ca"].as_str().unwrap()).unwrap();
    let ports: Vec<String> = ["control", "http", "https", "wireguard", "admin"]
        .map(|name| format!("127.0.0.1:{}", port_of(first_of(&said[name]))))
        .into();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    first.kill();
    let (mut second, mut again) = quickstart(&data, &ports, &[]);
    // Nobody has an account yet: each start makes another link, and the one before is good no more.
    let mut said = said;
    let link = |said: &mut Value| said.as_object_mut().unwrap().remove("set_up").unwrap();
    let (before, now) = (link(&mut said), link(&mut again));
    assert!(before.as_str().unwrap().contains("/join#kkm_invite_") && before != now);
    assert_eq!(said, again);
    assert_eq!(fs::read_to_string(again["ca"].as_str().unwrap()).unwrap(), ca);
    let (_, demo) = services(&again)[0];
    let page = runtime().block_on(Visitor::trusting(&[&ca]).get(demo)).unwrap();
    assert_eq!(page.status, StatusCode::OK);
    // Two at once on one directory would spoil it.
    let program = Program::ours("kakuremichi").args(["quickstart", "--json", "--admin", "off", "--data"]);
    let third = program.arg(&data).finish();
    assert_eq!(third.status.code(), Some(1), "{third:?}");
    assert!(third.err.contains("in use"), "{}", third.err);
    assert!(second.stop().success());
}

/// Nobody waits for what never comes.
#[test]
fn it_ends_with_a_sentence_when_its_gateway_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("data");
    let (mut process, said) = quickstart(&data, &["127.0.0.1:0"; 5], &[]);
    let nodes = api(&said, Method::GET, "nodes").json();
    let nodes = nodes["items"].as_array().unwrap();
    let gateway = nodes.iter().find(|node| node["name"] == "quickstart").unwrap();
    let revoke = format!("nodes/{}/revoke", gateway["id"].as_str().unwrap());
    let revoked = api(&said, Method::POST, &revoke);
    assert!(revoked.status.is_success(), "{}", revoked.text());
    assert_eq!(process.ended().code(), Some(1));
    let again = Program::ours("kakuremichi").args(["quickstart", "--json", "--data"]);
    let again = addresses(again.arg(&data), &["127.0.0.1:0"; 5]).finish();
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(
        again.err.contains("the gateway ended") && again.err.contains("KKM-E011"),
        "{}",
        again.err
    );
}

/// A node that has enrolled needs no token, and none is left behind at each start.
#[test]
fn tokens_are_made_for_nodes_that_have_not_enrolled_only() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("data");
    for _ in 0..2 {
        let (mut process, said) = quickstart(&data, &["127.0.0.1:0"; 5], &[]);
        let tokens = api(&said, Method::GET, "tokens").json();
        assert_eq!(tokens["items"].as_array().unwrap().len(), 2, "{tokens}");
        assert!(process.stop().success());
    }
}

#[test]
fn on_other_ports_an_old_directory_works_too() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("data");
    for _ in 0..2 {
        let (mut process, said) = quickstart(&data, &["127.0.0.1:0"; 5], &[]);
        let ca = fs::read_to_string(said["ca"].as_str().unwrap()).unwrap();
        let (_, demo) = services(&said)[0];
        let page = runtime().block_on(Visitor::trusting(&[&ca]).get(demo)).unwrap();
        assert_eq!(page.status, StatusCode::OK);
        assert!(process.stop().success());
    }
}

#[test]
fn people_get_a_page_instead_of_json() {
    let data = tempfile::tempdir().unwrap();
    let program = Program::ours("kakuremichi").arg("quickstart");
    let program = addresses(program, &["127.0.0.1:0"; 5]);
    let mut process = program.arg("--data").arg(data.path().join("data")).start();
    process.line_with("Ctrl-C");
    let page = process.stdout();
    assert!(
        page.contains("https://demo.localhost:") && page.contains("curl --cacert"),
        "{page}"
    );
    assert!(process.stop().success());
}

/// Starts it, and waits for its line.
#[track_caller]
fn quickstart(data: &Path, places: &[&str], flags: &[&str]) -> (Process, Value) {
    let program = Program::ours("kakuremichi").args(["quickstart", "--json"]);
    let program = addresses(program, places).args(flags.iter().copied());
    let mut process = program.arg("--data").arg(data).start();
    process.line_with("\"api_key_file\":");
    let said = process.stdout();
    (process, serde_json::from_str(&said).unwrap())
}

/// Asks the REST API, with the key that quickstart left.
#[track_caller]
fn api(said: &Value, method: Method, path: &str) -> Reply {
    let ca = fs::read_to_string(said["control_ca"].as_str().unwrap()).unwrap();
    let key = fs::read_to_string(said["api_key_file"].as_str().unwrap()).unwrap();
    let url = format!("{}/api/v1/{path}", said["control"].as_str().unwrap());
    let mut asked = request(method, &url);
    let bearer = HeaderValue::from_str(&format!("Bearer {}", key.trim())).unwrap();
    asked.headers_mut().insert(AUTHORIZATION, bearer);
    let client = Visitor::trusting(&[&ca]);
    runtime().block_on(client.send(Version::Http1, asked)).unwrap()
}

fn addresses(mut program: Program, places: &[&str]) -> Program {
    for (flag, place) in ["--control", "--http", "--https", "--wireguard", "--admin"]
        .iter()
        .zip(places)
    {
        program = program.args([flag, place]);
    }
    program
}

fn services(said: &Value) -> Vec<(&str, &str)> {
    let services = said["services"].as_array().unwrap().iter();
    services
        .map(|service| {
            (
                service["name"].as_str().unwrap(),
                service["url"].as_str().unwrap(),
            )
        })
        .collect()
}

/// One of several, if there are several.
fn first_of(value: &Value) -> &Value {
    value.get(0).unwrap_or(value)
}

fn port_of(address: &Value) -> u16 {
    let text = address.as_str().unwrap().trim_end_matches('/');
    text.rsplit(':').next().unwrap().parse().unwrap()
}

#[track_caller]
fn private(directory: &Path) {
    assert_eq!(
        fs::metadata(directory).unwrap().mode() & 0o7777,
        0o700,
        "{}",
        directory.display()
    );
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            private(&path);
        } else if let Ok(metadata) = fs::metadata(&path) {
            let expected = if path.ends_with("ca.pem") { 0o644 } else { 0o600 };
            assert_eq!(metadata.mode() & 0o7777, expected, "{}", path.display());
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
