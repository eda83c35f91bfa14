//! Backups by the command line, and a Control that moves to another machine and another database.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kakuremichi_tests::deployment::Control;
use kakuremichi_tests::process::Finished;
use kakuremichi_tests::{Families, Network, Postgres, Program, component, net};
use serde_json::json;

fn run(words: &[&str], file: &Path, data: &Path, passphrase: &str) -> Finished {
    Program::ours("kakuremichi-control")
        .args(words)
        .arg(file)
        .arg("--data")
        .arg(data)
        .env("KAKUREMICHI_PASSPHRASE", passphrase)
        .finish()
}

#[test]
fn a_control_moves_with_its_keys_to_another_database() {
    if !component::have(&net::COMPONENTS) || !component::have(&[component::POSTGRESQL]) {
        return;
    }
    let network = Network::new(Families::Both);
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    let control = Control::start(network.host("control"), &old);
    let made = control
        .rest()
        .create("tokens", &json!({ "name": "kept", "role": "agent" }));
    let authority = fs::read(old.join("ca.pem")).unwrap();
    let identity = fs::read(old.join("identity.p8")).unwrap();

    // Beside the Control that runs.
    let file = directory.path().join("backup");
    let said = run(&["backup"], &file, &old, "correct horse");
    assert!(said.status.success(), "{}", said.err);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = run(&["backup"], &file, &old, "correct horse");
    assert!(!again.status.success(), "a backup is never written over");
    let without = run(&["backup"], &directory.path().join("none"), &old, "");
    assert_eq!(without.status.code(), Some(2), "{}", without.err);

    let server = Postgres::start();
    let url = server.database();
    let words = ["restore", "--database", url.as_str()];
    let wrong = run(&words, &file, &new, "correct mule");
    assert!(wrong.err.contains("the passphrase is wrong"), "{}", wrong.err);
    let used = run(&["restore"], &file, &old, "correct horse");
    assert!(used.err.contains("in use by process"), "{}", used.err);
    let said = run(&words, &file, &new, "correct horse");
    assert!(said.status.success(), "{}", said.err);
    drop(control);
    let kept = run(&["restore"], &file, &old, "correct horse");
    assert!(kept.err.contains("--replace"), "{}", kept.err);

    assert_eq!(fs::read(new.join("ca.pem")).unwrap(), authority);
    assert_eq!(fs::read(new.join("identity.p8")).unwrap(), identity);
    let control = Control::start_on_database(network.host("other"), &new, &url);
    let token = control
        .rest()
        .get(&format!("tokens/{}", made["id"].as_str().unwrap()));
    assert_eq!(token["name"], "kept");
    // Without the database's URL a command says what is missing.
    let said = Program::ours("kakuremichi-control")
        .args(["api-key", "create", "--data"])
        .arg(&new)
        .finish();
    assert!(said.err.contains("KAKUREMICHI_DATABASE"), "{}", said.err);
}
