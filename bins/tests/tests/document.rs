//! Whether the REST API does what its document says, asked by a program that nobody here wrote.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use kakuremichi_tests::deployment::Control;
use kakuremichi_tests::{Families, Network, Program, component, net, wait};

/// More than the run takes, on a machine that builds something else meanwhile.
const PATIENCE: Duration = Duration::from_secs(300);
/// The cases that are made up of each operation, besides those that follow from the document.
const EXAMPLES: &str = "4";

/// Schemathesis reads the document that Control serves, and asks each operation what the document allows and what it does
/// not. Every status, media type, header and body has to be one that the document has; nothing is a failure of Control's,
/// nothing that is not valid is taken, and nobody is let in without a credential.
#[test]
fn the_api_does_what_its_document_says() {
    if !component::have(&net::COMPONENTS) || !component::have(&[component::SCHEMATHESIS]) {
        return;
    }
    let network = Network::new(Families::Both);
    let directory = tempfile::tempdir().unwrap();
    // So many requests are asked that the usual rates would refuse them.
    let flags = ["--caller-rate", "0", "--address-rate", "0"];
    let control = Control::start_with(network.host("control"), &directory.path().join("control"), &flags);
    control.is_known_on(control.host());
    let program = Program::other(component::path("schemathesis").unwrap()).on(control.host());
    let program = program
        .arg("run")
        .arg(format!("{}/api/v1/openapi.json", control.url()))
        .args(["--header", &format!("Authorization: Bearer {}", control.key())])
        .arg("--tls-verify")
        .arg(control.data().join("ca.pem"))
        .args(["--phases", "examples,coverage,fuzzing"])
        // Whether what a schema allows means something, such as a name of a thing that is there, is no matter of schemas.
        .args(["--checks", "all", "--exclude-checks", "positive_data_acceptance"])
        // A WebSocket, which the document can only say is there.
        .args(["--exclude-path", "/api/v1/link"])
        .args(["--seed", "1", "--max-examples", EXAMPLES, "--generation-deterministic"])
        // One thread: what makes the cases up changes the interpreter's bound on recursion, which all threads share.
        .args(["--workers", "1", "--no-color"])
        .env("HOME", directory.path());
    let mut asking = program.start();
    let status = wait::within(PATIENCE, "schemathesis", || asking.try_ended());
    assert!(status.success(), "{}\n{}", asking.stdout(), asking.stderr());
}
