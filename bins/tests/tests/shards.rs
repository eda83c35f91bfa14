//! A gateway that works on four threads, and several agents behind NATs of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use kakuremichi_tests::deployment::{Node, start_agent};
use kakuremichi_tests::{Deployment, Families, Origin, wait};
use serde_json::json;

const AGENTS: usize = 4;
/// So many requests, each on a connection of its own, reach every shard.
const REQUESTS: usize = 24;

/// Agents beside the deployment's own, each with a target that says which one it is.
struct Edge {
    // In the order in which they have to be dropped.
    agent: Node,
    _origin: Origin,
    url: String,
    text: String,
}

fn deployment() -> Option<(Deployment, Vec<Edge>)> {
    let mut world = Deployment::with(Families::Both, 0)?;
    world.add_gateway(&["--shards", "4"]);
    let edges = (1..=AGENTS).map(|number| edge(&world, number)).collect();
    Some((world, edges))
}

fn edge(world: &Deployment, number: usize) -> Edge {
    let name = format!("edge-{number}");
    let host = world.network.host_behind_nat(&name);
    let origin = Origin::on(&host, &name);
    let token = world.control.token("agent", &[]);
    let mut agent = start_agent(host, &world.control, &world.data(&name), &name, &token);
    agent.ready();
    let target = json!({ "agent": name, "address": format!("127.0.0.1:{}", origin.port()) });
    let service = json!({
        "name": name,
        "http": { "hosts": [format!("{name}.test")], "routes": [{ "targets": [target] }] },
        "policy": { "access": "public" },
    });
    world.control.rest().create("services", &service);
    let url = format!("https://{name}.test/hello");
    world.served(&url);
    Edge {
        agent,
        _origin: origin,
        url,
        text: format!("hello from {name}\n"),
    }
}

/// What the gateway counts under a name.
fn counted(world: &Deployment, name: &str) -> u64 {
    let page = world.gateways[0].admin("/metrics");
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}: {page}")).parse().unwrap()
}

#[test]
fn every_agent_is_served_whichever_shard_a_visitor_comes_to() {
    let Some((mut world, mut edges)) = deployment() else {
        return;
    };
    assert_eq!(counted(&world, "kakuremichi_shards"), 4);
    let all_served = |world: &Deployment, edges: &[Edge]| {
        for edge in edges {
            for _ in 0..REQUESTS {
                assert_eq!(world.get(&edge.url).text(), edge.text);
            }
        }
    };
    all_served(&world, &edges);
    assert_eq!(counted(&world, "kakuremichi_handover_dropped_total"), 0);

    // Agents that are killed come back from other ports, to whichever shard the kernel likes; their owners
    // are told.
    for edge in &mut edges {
        edge.agent.kill();
        edge.agent.start_again();
        edge.agent.ready();
        wait::until("the agent is back", || {
            world
                .visit(async |visitor| visitor.get(&edge.url).await)
                .is_ok_and(|reply| reply.status == 200)
                .then_some(())
        });
    }
    all_served(&world, &edges);

    // The gateway ends by itself, with all its shards, and calls its agents when it is back.
    assert!(world.gateways[0].stop().success());
    world.gateways[0].start_again();
    world.gateways[0].ready();
    all_served(&world, &edges);
    world.agent.ready();
}
