//! What Control has answered for stays, whatever ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use http::{Method, StatusCode};
use kakuremichi_tests::deployment::{Control, Rest};
use kakuremichi_tests::{Families, Network, Postgres, component, net, wait};
use serde_json::json;

/// How often it is killed.
const ROUNDS: usize = 3;
/// The writers at work when it is.
const WRITERS: usize = 4;
/// The writes that are answered before it is.
const WRITES: usize = 25;

/// Makes tokens from several threads, as fast as they are answered, and calls `kill` in the midst of it. Adds the
/// identifiers of those that were answered for.
fn under_load(rest: &Rest, acknowledged: &mut BTreeSet<String>, kill: impl FnOnce()) {
    let before = acknowledged.len();
    let made = Mutex::new(acknowledged);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let body = json!({ "name": "test", "role": "agent" });
                    match rest.try_send(Method::POST, "tokens", Some(&body)) {
                        Ok(reply) if reply.status == StatusCode::CREATED => {
                            let id = reply.json()["id"].as_str().unwrap().to_owned();
                            made.lock().unwrap().insert(id);
                        }
                        // Not answered for: it may be there or not.
                        Ok(_) | Err(_) => {}
                    }
                }
            });
        }
        wait::until("writes", || {
            (made.lock().unwrap().len() >= before + WRITES).then_some(())
        });
        kill();
        over.store(true, Ordering::Relaxed);
    });
}

/// All tokens that there are.
fn tokens(rest: &Rest) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut path = "tokens".to_owned();
    loop {
        let page = rest.get(&path);
        for item in page["items"].as_array().unwrap() {
            found.insert(item["id"].as_str().unwrap().to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("tokens?cursor={cursor}"),
            None => return found,
        }
    }
}

#[track_caller]
fn all_there(rest: &Rest, acknowledged: &BTreeSet<String>) {
    let found = tokens(rest);
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(
        lost.is_empty(),
        "{} of {} are lost",
        lost.len(),
        acknowledged.len()
    );
}

#[test]
fn killing_control_on_sqlite_loses_no_acknowledged_write() {
    if !component::have(&net::COMPONENTS) {
        return;
    }
    let network = Network::new(Families::Both);
    let directory = tempfile::tempdir().unwrap();
    let mut control = Control::start(network.host("control"), &directory.path().join("control"));
    let rest = control.rest();
    let mut acknowledged = BTreeSet::new();
    for _ in 0..ROUNDS {
        under_load(&rest, &mut acknowledged, || control.kill());
        control.start_again();
        all_there(&rest, &acknowledged);
    }
}

#[test]
fn killing_control_or_its_postgresql_loses_no_acknowledged_write() {
    if !component::have(&net::COMPONENTS) || !component::have(&[component::POSTGRESQL]) {
        return;
    }
    let network = Network::new(Families::Both);
    let directory = tempfile::tempdir().unwrap();
    let mut server = Postgres::start();
    let data = directory.path().join("control");
    let mut control = Control::start_on_database(network.host("control"), &data, &server.database());
    let rest = control.rest();
    let mut acknowledged = BTreeSet::new();
    for _ in 0..ROUNDS {
        under_load(&rest, &mut acknowledged, || server.kill());
        server.start_again();
        // Control goes on by itself.
        wait::until("Control's connections", || {
            let reply = rest.try_send(Method::GET, "tokens", None).ok()?;
            (reply.status == StatusCode::OK).then_some(())
        });
        all_there(&rest, &acknowledged);
        under_load(&rest, &mut acknowledged, || control.kill());
        control.start_again();
        all_there(&rest, &acknowledged);
    }
    // The files hold no database, and no secret of the server.
    assert!(!data.join("control.db").exists());
    let serving = std::fs::read_to_string(data.join("serving")).unwrap();
    assert!(
        serving.contains("database-server") && !serving.contains("postgres://"),
        "{serving}"
    );
}
