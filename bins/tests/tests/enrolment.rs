//! Who may join, and what those are told who may not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use kakuremichi_core::secret::Secret;
use kakuremichi_proto::identity::TokenText;
use kakuremichi_tests::deployment::{Control, Gateway, start_agent};
use kakuremichi_tests::process::Finished;
use kakuremichi_tests::{Deployment, Families, Origin, wait};
use serde_json::json;

#[test]
fn a_token_that_is_of_no_use_is_refused_with_its_reason() {
    let Some(world) = Deployment::with(Families::Both, 0) else {
        return;
    };
    let control = &world.control;
    let rest = control.rest();
    let create = |role: &str| rest.create("tokens", &json!({ "name": "test", "role": role }));
    let text = |token: &serde_json::Value| token["token"].as_str().unwrap().to_owned();

    let good: TokenText = control.token("agent", &[]).parse().unwrap();
    let wrong = TokenText::new(Secret::new([7; 32]), good.control(), good.ca().copied());
    refused(&world, wrong.to_text().expose(), "KKM-E001");

    let once = control.token("agent", &["--uses", "1"]);
    let mut first = agent(&world, "first", &once);
    first.process().line_with("the agent runs");
    wait::until("the first agent", || {
        let nodes = rest.get("nodes");
        let mut nodes = nodes["items"].as_array().unwrap().iter();
        nodes.any(|node| node["name"] == "first").then_some(())
    });
    refused(&world, &once, "KKM-E002");

    let made = Instant::now();
    let short = control.token("agent", &["--expires-in", "1"]);
    wait::until("the end of a token", || {
        (made.elapsed() > Duration::from_millis(1500)).then_some(())
    });
    refused(&world, &short, "KKM-E003");

    let revoked = create("agent");
    rest.revoke(&format!("tokens/{}", revoked["id"].as_str().unwrap()));
    refused(&world, &text(&revoked), "KKM-E004");

    refused(&world, &text(&create("gateway")), "KKM-E005");

    // A Control that proves to be another than the token says.
    let other = world.network.host("other");
    let other = Control::start_by_address(other, &world.data("other"));
    let others: TokenText = other.token("agent", &[]).parse().unwrap();
    let mixed = TokenText::new(good.secret().clone(), others.control(), good.ca().copied());
    refused(&world, mixed.to_text().expose(), "KKM-E006");
    // One that shows a certificate of another authority could be anybody: it is told nothing, and asked again.
    let mut asking = agent(&world, "asking", others.to_text().expose());
    asking.process().line_with("TLS with Control failed");
    asking.process().kill();
    let nodes = rest.get("nodes").to_string();
    assert!(!nodes.contains("asking") && !nodes.contains("refused"), "{nodes}");

    // What is no token at all is noticed before anything is asked.
    for damaged in [&once[..once.len() - 3], "kkm_enroll_", "secret", ""] {
        let said = run(&world, damaged);
        assert_eq!(said.status.code(), Some(1), "{damaged}: {said:?}");
        assert!(said.err.contains("token"), "{damaged}: {}", said.err);
    }
}

#[test]
fn a_node_waits_until_somebody_approves_it() {
    let Some(world) = Deployment::start() else {
        return;
    };
    let rest = world.control.rest();
    let flags = ["--approval", "--label", "env=prod", "--uses", "2"];
    let token = world.control.token("agent", &flags);
    let mut waiting = agent(&world, "waiting", &token);
    let said = waiting.process().line_with("KKM-E014");
    assert!(said.contains("waits for approval"), "{said}");
    let node = rest.node("waiting");
    assert_eq!(
        (&node["state"], &node["connected"]),
        (&json!("pending"), &json!(false))
    );
    let pending = rest.get("nodes?state=pending&label=env%3Dprod");
    assert_eq!(pending["items"].as_array().unwrap().len(), 1);

    // It can be given something to publish meanwhile, and there is no way to it.
    let origin = Origin::on(waiting.host(), "origin");
    let mut service = kakuremichi_tests::deployment::public("web", origin.port());
    service["http"]["routes"][0]["targets"][0]["agent"] = json!("waiting");
    rest.create("services", &service);
    world.answered(0, "https://web.test/hello", http::StatusCode::SERVICE_UNAVAILABLE);
    assert!(!waiting.data().join("plan").exists(), "it has no plan");

    let decide = |node: &serde_json::Value, how: &str| {
        let path = format!("nodes/{}/{how}", node["id"].as_str().unwrap());
        rest.send(http::Method::POST, &path, None)
    };
    assert_eq!(decide(&node, "approve").json()["state"], "active");
    waiting.ready();
    world.served("https://web.test/hello");

    let mut refused = agent(&world, "unwanted", &token);
    refused.process().line_with("KKM-E014");
    assert_eq!(
        decide(&rest.node("unwanted"), "refuse").json()["state"],
        "revoked"
    );
    assert_eq!(refused.process().ended().code(), Some(1));
    assert!(last(&refused.process().stderr()).contains("KKM-E011"));
}

#[test]
fn who_is_revoked_is_cut_off_and_told() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let rest = world.control.rest();
    let id = |name| rest.node(name)["id"].as_str().unwrap().to_owned();
    rest.revoke(&format!("nodes/{}", id("edge")));
    let status = world.agent.process().ended();
    assert_eq!(status.code(), Some(1));
    assert!(last(&world.agent.process().stderr()).contains("KKM-E011"));
    world.answered(0, "https://web.test/hello", http::StatusCode::SERVICE_UNAVAILABLE);
    // It is not let in again, whatever it remembers.
    world.agent.start_again();
    assert_eq!(world.agent.process().ended().code(), Some(1));
    assert!(last(&world.agent.process().stderr()).contains("KKM-E011"));

    rest.revoke(&format!("nodes/{}", id("gateway-1")));
    assert_eq!(world.gateways[0].process().ended().code(), Some(1));
    assert!(last(&world.gateways[0].process().stderr()).contains("KKM-E011"));
}

/// An identity is a key: whoever comes with another one is another node.
#[test]
fn a_gateway_with_a_wrong_key_is_refused() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let (mine, others) = (world.gateways[0].data().to_owned(), world.agent.data().to_owned());
    for (key, code) in [("identity.pk8", "KKM-E015"), ("wireguard.key", "KKM-A005")] {
        assert!(world.gateways[0].stop().success());
        let right = fs::read(mine.join(key)).unwrap();
        fs::copy(others.join(key), mine.join(key)).unwrap();

        // With a plan on its disk it goes on, but nobody trusts it.
        world.gateways[0].start_again();
        let said = world.gateways[0]
            .process()
            .line_with("Control refuses this gateway");
        assert!(said.contains(code), "{said}");
        world.gateways[0].kill();

        // Without one it has nothing to do.
        let plan = fs::read(mine.join("plan")).unwrap();
        fs::remove_file(mine.join("plan")).unwrap();
        world.gateways[0].start_again();
        assert_eq!(world.gateways[0].process().ended().code(), Some(1));
        let said = world.gateways[0].process().stderr();
        assert!(last(&said).contains(code), "{said}");

        fs::write(mine.join("plan"), plan).unwrap();
        fs::write(mine.join(key), right).unwrap();
        world.gateways[0].start_again();
        world.gateways[0].ready();
        world.served("https://web.test/hello");
    }
}

/// A gateway that answers at the right address, but cannot prove that it is the one in the plan, gets no flow.
#[test]
fn an_agent_makes_no_lane_to_a_gateway_with_other_keys() {
    let Some(mut world) = Deployment::with(Families::V4, 2) else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    world.control.kill();
    let (first, second) = (
        world.gateways[0].data().to_owned(),
        world.gateways[1].data().to_owned(),
    );
    assert!(world.gateways[0].stop().success());
    assert!(world.gateways[1].stop().success());
    assert_ne!(
        fs::read(first.join("plan")).unwrap(),
        fs::read(second.join("plan")).unwrap()
    );
    // A lane over UDP is proven by the one, a lane of TLS streams by the other.
    let right = ["wireguard.key", "identity.pk8"].map(|key| {
        let right = fs::read(first.join(key)).unwrap();
        fs::copy(second.join(key), first.join(key)).unwrap();
        (key, right)
    });
    world.gateways[0].start_again();
    let page = world.answered(0, "https://web.test/hello", http::StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.text().contains("KKM-G005"), "{}", page.text());
    assert!(world.gateways[0].stop().success());
    for (key, right) in right {
        fs::write(first.join(key), right).unwrap();
    }
    world.gateways[0].start_again();
    world.answered(0, "https://web.test/hello", http::StatusCode::OK);
}

#[test]
fn control_restarted_elsewhere_with_another_identity_is_not_believed() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let data = world.control.data().to_owned();
    assert!(world.control.process().stop().success());
    let kept = world.data("kept");
    fs::rename(&data, &kept).unwrap();
    world.control.start_again();
    // It has a certificate of another authority: the nodes do not even tell it who they are.
    let traffic = world.traffic(0, "https://web.test/hello");
    traffic.more(50);
    traffic.without_one_failure();
    let metrics = world.agent.admin("/metrics");
    assert!(metrics.contains("kakuremichi_link_up 0"), "{metrics}");
    // An agent tells what its engine does, as a gateway does.
    assert!(metrics.contains("kakuremichi_tunnel_flows "), "{metrics}");
    let quiet = "kakuremichi_datagrams_received_total 0\n";
    assert!(!metrics.contains(quiet), "{metrics}");
    assert!(world.control.process().stop().success());
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&kept, &data).unwrap();
    world.control.start_again();
    let rest = world.control.rest();
    for node in ["edge", "gateway-1"] {
        wait::until("the nodes come back to Control", || {
            (rest.node(node)["connected"] == true).then_some(())
        });
    }
}

/// Starts an agent that has to be refused, and checks what it says.
#[track_caller]
fn refused(world: &Deployment, token: &str, code: &str) {
    let said = run(world, token);
    assert_eq!(said.status.code(), Some(1), "{code}: {said:?}");
    let sentence = last(&said.err);
    assert!(
        sentence.starts_with("kakuremichi-agent: ") && sentence.contains(code),
        "{code}: {sentence}"
    );
}

/// Runs an agent with a token until it ends.
#[track_caller]
fn run(world: &Deployment, token: &str) -> Finished {
    let mut agent = agent(world, "refused", token);
    let finished = Finished {
        status: agent.process().ended(),
        out: agent.process().stdout(),
        err: agent.process().stderr(),
    };
    let _ = fs::remove_dir_all(agent.data());
    finished
}

fn agent(world: &Deployment, name: &str, token: &str) -> kakuremichi_tests::deployment::Node {
    let host = world.network.host(name);
    let data: &Path = &world.data(name);
    start_agent(host, &world.control, data, name, token)
}

fn last(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[test]
fn a_gateway_with_a_used_token_says_so_too() {
    let Some(world) = Deployment::start() else { return };
    let token = world.control.token("gateway", &[]);
    let start = |name: &str| {
        let host = world.network.host(name);
        Gateway::start_without_waiting(host, &world.control, &world.data(name), name, &token, &[])
    };
    let mut good = start("good");
    good.ready();
    let mut late = start("late");
    assert_eq!(late.process().ended().code(), Some(1));
    let said = late.process().stderr();
    assert!(last(&said).contains("KKM-E002"), "{said}");
}
