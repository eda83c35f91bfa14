//! The audit by the command line, beside a Control that runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use kakuremichi_tests::deployment::Control;
use kakuremichi_tests::process::Finished;
use kakuremichi_tests::{Families, Network, Program, component, net};
use serde_json::{Value, json};

fn audit(words: &[&str], data: &Path) -> Finished {
    Program::ours("kakuremichi-control")
        .arg("audit")
        .args(words)
        .arg("--data")
        .arg(data)
        .finish()
}

#[test]
fn the_audit_is_verified_and_exported_by_the_command_line() {
    if !component::have(&net::COMPONENTS) {
        return;
    }
    let network = Network::new(Families::Both);
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("control");
    let control = Control::start(network.host("control"), &data);
    for name in ["one", "two"] {
        control
            .rest()
            .create("tokens", &json!({ "name": name, "role": "agent" }));
    }
    let first = audit(&["verify"], &data);
    assert!(first.status.success(), "{}", first.err);
    let head = first.out.trim().to_owned();
    control
        .rest()
        .create("tokens", &json!({ "name": "three", "role": "agent" }));
    let second = audit(&["verify", "--head", &head], &data);
    assert!(second.status.success(), "{}", second.err);
    let other = format!("1:{}", "ab".repeat(32));
    let other = audit(&["verify", "--head", &other], &data);
    assert!(!other.status.success());
    assert!(other.err.contains("is not in the chain"), "{}", other.err);
    let wrong = audit(&["verify", "--head", "latest"], &data);
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.err);

    let exported = audit(&["export", "--action", "token."], &data);
    assert!(exported.status.success(), "{}", exported.err);
    let lines: Vec<Value> = exported
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3, "{}", exported.out);
    assert!(lines.iter().all(|line| line["action"] == "token.create"));
    let table = audit(&["export", "--format", "csv", "--action", "token."], &data);
    assert_eq!(table.out.lines().count(), 4, "{}", table.out);
}
