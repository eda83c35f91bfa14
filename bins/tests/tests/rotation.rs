//! Nodes get new keys while visitors are served, and whoever died at the wrong moment comes up with the right ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, StatusCode};
use kakuremichi_tests::{Deployment, Origin, deployment::Rest, wait};
use serde_json::{Value, json};

/// So many requests show that nothing has happened to them.
const ENOUGH: u64 = 100;
const NODES: [&str; 2] = ["edge", "gateway-1"];

/// Asks something of a node, and reads it.
fn ask(rest: &Rest, name: &str, what: &str, body: Option<&Value>) -> Value {
    let id = rest.node(name)["id"].as_str().unwrap().to_owned();
    let reply = rest.send(Method::POST, &format!("nodes/{id}/{what}"), body);
    assert_eq!(reply.status, StatusCode::OK, "{what}");
    reply.json()
}

fn identity(rest: &Rest, name: &str) -> String {
    rest.node(name)["identity_key"].as_str().unwrap().to_owned()
}

fn wireguard(rest: &Rest, name: &str) -> String {
    rest.node(name)["wireguard_key"].as_str().unwrap().to_owned()
}

/// Asks a node for keys, and waits until it has them.
fn rotate(rest: &Rest, name: &str, overlap: u32) {
    let (before, tunnel) = (identity(rest, name), wireguard(rest, name));
    ask(rest, name, "rotate-keys", Some(&json!({ "overlap": overlap })));
    wait::until("the node has new keys", || {
        (identity(rest, name) != before).then_some(())
    });
    let node = rest.node(name);
    assert!(
        node["keys_asked_at"].is_null() && node["keys_rotated_at"].is_string(),
        "{node}"
    );
    assert_ne!(wireguard(rest, name), tunnel);
}

#[test]
fn keys_are_rotated_under_load_and_nobody_notices() {
    for flags in [&[][..], &["--lane", "tls"][..]] {
        let Some(mut world) = Deployment::with_agent(flags) else {
            return;
        };
        let origin = Origin::on(world.edge(), "origin");
        world.publish("web", origin.port());
        let url = "https://web.test/hello";
        let rest = world.control.rest();
        let traffic = world.traffic(0, url);
        traffic.more(ENOUGH);
        let visitor = world.visitor_at(0);
        world.visitors.block_on(async || {
            let mut socket = visitor.websocket("https://web.test/ws").await.unwrap();
            for name in NODES {
                rotate(&rest, name, 3600);
                assert!(rest.node(name)["previous_keys_until"].is_string());
                traffic.more(ENOUGH);
                // What was open stays open.
                socket.send(name.into()).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), name);
            }
            // Another time, while the keys of before count still.
            rotate(&rest, "edge", 3600);
            traffic.more(ENOUGH);
            traffic.without_one_failure();
            for name in NODES {
                let node = ask(&rest, name, "revoke-previous-keys", None);
                assert!(node["previous_keys_until"].is_null());
            }
            // What was proven over TLS by keys of before has gone with them; a tunnel has gone over to the new ones.
            if flags.is_empty() {
                socket.send("still".into()).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), "still");
            }
        });
        world.served(url);

        // The new ones are on the disk.
        let before = NODES.map(|name| identity(&rest, name));
        assert!(world.agent.stop().success());
        world.agent.start_again();
        world.agent.ready();
        world.served(url);
        assert_eq!(NODES.map(|name| identity(&rest, name)), before);
    }
}

/// Control, or the node, dies between the decision and the answer; or the node was away for so long that its keys of
/// before count no more.
#[test]
fn who_did_not_hear_of_its_new_keys_comes_up_with_them() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let rest = world.control.rest();

    // Wherever Control dies, the node has new keys in the end.
    let before = identity(&rest, "edge");
    let traffic = world.traffic(0, "https://web.test/hello");
    traffic.more(ENOUGH);
    ask(&rest, "edge", "rotate-keys", Some(&json!({})));
    world.control.kill();
    world.control.start_again();
    let rest = world.control.rest();
    wait::until("the node has new keys", || {
        (identity(&rest, "edge") != before).then_some(())
    });
    traffic.more(ENOUGH);
    traffic.without_one_failure();

    for counts in [true, false] {
        rotate(&rest, "edge", 3600);
        let rotated = identity(&rest, "edge");
        if !counts {
            ask(&rest, "edge", "revoke-previous-keys", None);
        }
        let data = world.agent.data().to_owned();
        wait::until("the node has promoted them", || {
            (!data.join("keys.next").exists()).then_some(())
        });
        assert!(world.agent.stop().success());
        // As if the node had died before it heard: it has the keys of before, and beside them those to be.
        let read = |name: &str| fs::read(data.join(name)).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let next = format!(
            "kakuremichi keys 1\nidentity {}\nwireguard {}\n",
            BASE64.encode(&read("identity.pk8")),
            text(read("wireguard.key")).trim()
        );
        let previous = text(read("keys.previous"));
        let old = |name: &str| {
            let mut lines = previous.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(key, _)| *key == name).unwrap().1
        };
        let pkcs8 = BASE64.decode(old("identity").as_bytes()).unwrap();
        fs::write(data.join("identity.pk8"), pkcs8).unwrap();
        fs::write(data.join("wireguard.key"), old("wireguard")).unwrap();
        fs::write(data.join("keys.next"), next).unwrap();
        world.agent.start_again();
        world.agent.ready();
        wait::until("it has the new ones", || {
            (!data.join("keys.next").exists()).then_some(())
        });
        wait::until("it is connected", || {
            (rest.node("edge")["connected"] == true).then_some(())
        });
        world.served("https://web.test/hello");
        assert_eq!(identity(&rest, "edge"), rotated, "no others were made");
    }
}

#[test]
fn keys_of_before_are_refused_once_they_count_no_more() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let rest = world.control.rest();
    let data = world.agent.data().to_owned();
    let stolen = fs::read(data.join("identity.pk8")).unwrap();
    // Somebody else has them: they count for no moment longer.
    rotate(&rest, "edge", 0);
    assert!(rest.node("edge")["previous_keys_until"].is_null());
    wait::until("the node has promoted them", || {
        (fs::read(data.join("identity.pk8")).unwrap() != stolen).then_some(())
    });
    assert!(world.agent.stop().success());
    fs::write(data.join("identity.pk8"), stolen).unwrap();
    world.agent.start_again();
    let said = world.agent.process().line_with("KKM-E015");
    assert!(said.contains("not the keys of the node"), "{said}");
}

/// A node whose keys are old makes new ones by itself, and those of before are gone by themselves once their time is over.
#[test]
fn old_keys_are_rotated_without_being_asked_and_the_overlap_ends() {
    let Some(mut world) = Deployment::with_agent(&["--rotate-keys-after", "1"]) else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let rest = world.control.rest();
    let before = identity(&rest, "edge");
    let data = world.agent.data().to_owned();
    assert!(world.agent.stop().success());
    // The age of keys is that of their file.
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
    let file = File::options()
        .write(true)
        .open(data.join("identity.pk8"))
        .unwrap();
    file.set_modified(long_ago).unwrap();
    world.agent.start_again();
    world.agent.ready();
    wait::until("the node has new keys", || {
        (identity(&rest, "edge") != before).then_some(())
    });
    let node = rest.node("edge");
    assert!(
        node["keys_asked_at"].is_null() && node["previous_keys_until"].is_string(),
        "{node}"
    );
    world.served("https://web.test/hello");
    wait::until("the node has promoted them", || {
        (!data.join("keys.next").exists()).then_some(())
    });

    // Those that it has now are not old. The next ones are asked for, so that the overlap ends soon.
    let stolen = fs::read(data.join("identity.pk8")).unwrap();
    rotate(&rest, "edge", 2);
    wait::until("Control has forgotten those of before", || {
        rest.node("edge")["previous_keys_until"].is_null().then_some(())
    });
    wait::until("the node has forgotten them, too", || {
        (!data.join("keys.previous").exists()).then_some(())
    });
    world.served("https://web.test/hello");
    assert!(world.agent.stop().success());
    fs::write(data.join("identity.pk8"), stolen).unwrap();
    world.agent.start_again();
    let said = world.agent.process().line_with("KKM-E015");
    assert!(said.contains("not the keys of the node"), "{said}");
}
