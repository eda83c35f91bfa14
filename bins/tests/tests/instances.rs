//! Several instances of Control on one database.
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
use kakuremichi_tests::deployment::{Control, Rest, public};
use kakuremichi_tests::{Deployment, Families, Network, Origin, Postgres, Program, component, net, wait};
use serde_json::{Value, json};

/// So many requests show that nothing has happened to them.
const ENOUGH: u64 = 100;
/// Writes that are answered before an instance is killed.
const WRITES: usize = 25;

/// Whether a node is connected to any instance, as one of them says.
fn knows(rest: &Rest, node: &str) -> bool {
    rest.node(node)["connected"] == true
}

/// What a node said of itself, as one instance tells it.
fn status(rest: &Rest, node: &str) -> Value {
    let id = rest.node(node)["id"].as_str().unwrap().to_owned();
    rest.get(&format!("nodes/{id}/status"))
}

/// Whether a node is connected to this very instance.
fn has(rest: &Rest, node: &str) -> bool {
    let status = status(rest, node);
    status["software"].is_string() && status["elsewhere"] == false
}

/// Makes tokens through both instances, as fast as they are answered, while `kill` does its work. Returns those that
/// were answered for.
fn under_load(instances: [&Rest; 2], kill: impl FnOnce()) -> BTreeSet<String> {
    let (made, over) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    thread::scope(|scope| {
        for rest in instances {
            let (made, over) = (&made, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let body = json!({ "name": "test", "role": "agent" });
                    if let Ok(reply) = rest.try_send(Method::POST, "tokens", Some(&body))
                        && reply.status == StatusCode::CREATED
                    {
                        let id = reply.json()["id"].as_str().unwrap().to_owned();
                        made.lock().unwrap().insert(id);
                    }
                }
            });
        }
        wait::until("writes", || (made.lock().unwrap().len() >= WRITES).then_some(()));
        kill();
        over.store(true, Ordering::Relaxed);
    });
    made.into_inner().unwrap()
}

/// Kills the instance that the gateway is at, under load. Every node is at the other one soon, where nothing that was
/// answered for is missing, and from where changes reach them. Then starts it again.
fn kill_one(world: &mut Deployment, second: &mut Control) {
    let first_dies = !has(&second.rest(), "gateway-1");
    let (rest, other) = if first_dies {
        (second.rest(), world.control.rest())
    } else {
        (world.control.rest(), second.rest())
    };
    for node in ["edge", "gateway-1"] {
        for rest in [&rest, &other] {
            wait::until("each instance to know of the nodes", || {
                knows(rest, node).then_some(())
            });
        }
    }
    // Each tells what the nodes say of themselves, whichever of the two they say it to.
    for rest in [&rest, &other] {
        wait::until("the lanes of the gateway", || {
            let status = status(rest, "gateway-1");
            let up = status["lanes"]
                .as_array()?
                .iter()
                .any(|lane| lane["state"] == "up");
            (up && status["software"].is_string()).then_some(())
        });
    }
    let victim = if first_dies {
        &mut world.control
    } else {
        &mut *second
    };
    let made = under_load([&rest, &other], || victim.kill());
    for node in ["edge", "gateway-1"] {
        wait::until("the nodes come over", || has(&rest, node).then_some(()));
    }
    for id in made {
        assert_eq!(rest.get(&format!("tokens/{id}"))["id"], id.as_str());
    }
    let origin = Origin::on(world.edge(), "later");
    let later = rest.create("services", &public("later", origin.port()));
    world.served("https://later.test/hello");
    rest.delete(&format!("services/{}", later["id"].as_str().unwrap()));
    world.gone(0, "https://later.test/hello");
    if first_dies {
        world.control.start_again();
    } else {
        second.start_again();
    }
}

/// DESIGN section 2, invariants 1 and 3: an instance that dies costs nobody anything.
#[test]
fn the_nodes_of_a_killed_instance_go_to_another_and_no_visitor_notices() {
    if !component::have(&[component::POSTGRESQL]) {
        return;
    }
    let server = Postgres::start();
    let Some((mut world, mut second)) = Deployment::with_two_controls(&server.database()) else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let traffic = world.traffic(0, "https://web.test/hello");
    traffic.more(ENOUGH);

    // A change at either instance reaches nodes that are at the other.
    for (number, rest) in [world.control.rest(), second.rest()].into_iter().enumerate() {
        let name = format!("from-{number}");
        rest.create("services", &public(&name, origin.port()));
        world.served(&format!("https://{name}.test/hello"));
    }
    kill_one(&mut world, &mut second);
    kill_one(&mut world, &mut second);
    traffic.more(ENOUGH);
    traffic.without_one_failure();
}

/// Nodes would refuse an instance that is somebody else, and could not say why to anybody.
#[test]
fn an_instance_with_another_identity_is_refused_with_a_sentence() {
    if !component::have(&net::COMPONENTS) || !component::have(&[component::POSTGRESQL]) {
        return;
    }
    let Some(server) = Postgres::shared() else {
        return;
    };
    let network = Network::new(Families::Both);
    let directory = tempfile::tempdir().unwrap();
    let url = server.database();
    let data = |name: &str| directory.path().join(name);
    let _first = Control::start_on_database(network.host("control"), &data("control"), &url);
    let stranger = network.host("stranger");
    let program = Program::ours("kakuremichi-control").arg("run").on(&stranger);
    let program = program.args(["--public-url", "https://control.test:7443", "--database", &url]);
    let said = program.arg("--data").arg(data("stranger")).finish();
    assert!(!said.status.success());
    assert!(said.err.contains("identity.p8"), "{}", said.err);
}
