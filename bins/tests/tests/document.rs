//! Whether the REST API does what its document says, asked by a program that nobody here wrote.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::time::Duration;

use kakuremichi_tests::deployment::Control;
use kakuremichi_tests::{Families, Network, Program, component, net, wait};

/// More than the run takes, on a machine that builds something else meanwhile.
const PATIENCE: Duration = Duration::from_secs(300);
/// The cases that are made up of each operation, besides those that follow from the document.
const EXAMPLES: &str = "4";
/// What is answered to what the document allows: it is done, or the caller may not do it, or it is about a thing that is
/// not there, not in that state, or not as it was read, or there were too many guesses at an account. Where whether something is valid is more than a schema of one
/// field says, Control may find that it is not: of a cursor, of two fields of which one excludes the other, of names of
/// things, and of what is inside of texts.
const ACCEPTANCE: &str = r#"
[phases.stateful.generation]
max-examples = 50

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "304", "401", "403", "404", "409", "412", "422", "429"]

[[operations]]
include-name-regex = '^GET /api/v1/(api-keys|audit|groups|invitations|members|nodes|notification-channels|organizations|policies|roles|service-tokens|services|sites|tokens|usage|users)$'
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403"]

[[operations]]
include-name-regex = '^(POST|PUT|PATCH) /api/v1/(api-keys|identity-providers|invitations|invitations/accept|notification-channels|policies|service-tokens|services|sessions/passkey|sessions/passkey/challenge|simulate|sites|tokens)(/\{id\})?$'
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "412", "422", "429"]
"#;

/// Schemathesis reads the document that Control serves, and asks each operation what the document allows and what it does
/// not, and then follows the links from what makes things to what can be done with them. Every status, media type, header
/// and body has to be one that the document has; nothing is a failure of Control's, nothing that is not valid is taken,
/// nothing that is valid is refused, and nobody is let in without a credential.
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
    let acceptance = directory.path().join("schemathesis.toml");
    fs::write(&acceptance, ACCEPTANCE).unwrap();
    let program = Program::other(component::path("schemathesis").unwrap()).on(control.host());
    let program = program
        .arg("--config-file")
        .arg(&acceptance)
        .arg("run")
        .arg(format!("{}/api/v1/openapi.json", control.url()))
        .args(["--header", &format!("Authorization: Bearer {}", control.key())])
        .arg("--tls-verify")
        .arg(control.data().join("ca.pem"))
        .args(["--phases", "examples,coverage,fuzzing,stateful", "--checks", "all"])
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
