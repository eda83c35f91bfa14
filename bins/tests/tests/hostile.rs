//! A hostile agent beside one that is in order, at one gateway.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use http::StatusCode;
use kakuremichi_tests::deployment::{Gateway, start_agent};
use kakuremichi_tests::{Deployment, Origin, Pattern, Version, wait};
use kakuremichi_tunnel::testing::hostile::{Attack, Hostile, Place};
use serde_json::json;

/// The name of the hostile agent.
const NAME: &str = "mallory";
/// What a visitor of the other one fetches during each attack, in bytes.
const LENGTH: u64 = 4 * 1024 * 1024;
/// The port of the hostile agent's service.
const SLOW: u16 = 5999;
/// How many of its visitors there are.
const VISITORS: usize = 20;
/// Flows that the other agent may have while nobody visits: its feed, and connections that wait for a request.
const KEPT: u64 = 4;

/// Everything it can send, one after the other: visitors of the other agent get what they ask for all the same,
/// what was refused is counted, and nothing of it stays.
#[test]
fn a_hostile_agent_stops_nobody_else() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let place = enrolled(&world);
    let host = world.network.host("den");
    let mut hostile = host.namespace().run(|| Hostile::new(place).unwrap());
    let before = world.gateways[0].process().resident_memory();
    let attacks = [
        (Attack::WrongMac, "kakuremichi_handshakes_bad_mac_total"),
        (Attack::Replays, "kakuremichi_datagrams_replayed_total"),
        (Attack::Garbage, "kakuremichi_datagrams_malformed_total"),
        (Attack::Foreign, "kakuremichi_tunnel_packets_disallowed_total"),
        (Attack::Syns(1), "kakuremichi_tunnel_flows_overflowed_total"),
        (Attack::Scan, "kakuremichi_tunnel_flows_refused_total"),
        (Attack::Segments(1), "kakuremichi_tunnel_segments_stray_total"),
        (Attack::Flows(2), "kakuremichi_bad_prefaces_total"),
        (Attack::Datagrams, "kakuremichi_tunnel_unreachables_sent_total"),
        (Attack::Echoes, "kakuremichi_tunnel_answers_shed_total"),
        (Attack::Fragments, "kakuremichi_tunnel_fragments_dropped_total"),
        // Last: it may cost the agent its own session.
        (Attack::Initiations, "kakuremichi_handshakes_challenged_total"),
    ];
    for (attack, counter) in attacks {
        wait::until("its session", || {
            hostile.attend();
            hostile.is_connected().then_some(())
        });
        during(&mut hostile, attack, || {
            let was = counted(&world, counter);
            fetch(&world);
            wait::until(counter, || (counted(&world, counter) > was + 10).then_some(()));
            fetch(&world);
        });
    }
    drop(hostile);
    wait::until("its flows end", || {
        (counted(&world, "kakuremichi_tunnel_flows ") <= KEPT).then_some(())
    });
    let grown = world.gateways[0]
        .process()
        .resident_memory()
        .saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "the gateway grew by {grown} bytes");
}

/// An agent that takes flows and reads nothing keeps only its own visitors waiting.
#[test]
fn an_agent_that_never_reads_keeps_only_its_own_visitors_waiting() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let rest = world.control.rest();
    let place = enrolled(&world);
    let slow = json!({
        "name": "slow", "policy": { "access": "public" },
        "tcp": { "port": SLOW, "targets": [{ "agent": NAME, "address": "127.0.0.1:9" }] },
    });
    rest.create("services", &slow);
    let host = world.network.host("den");
    let mut hostile = host.namespace().run(|| Hostile::new(place).unwrap());
    let before = world.gateways[0].process().resident_memory();
    let address = world.gateways[0].host().at(SLOW);
    let visitors = during(&mut hostile, Attack::Echoes, || {
        let visitors: Vec<TcpStream> = (0..VISITORS).map(|_| stuffed(&world, address)).collect();
        fetch(&world);
        visitors
    });
    assert!(hostile.heard().taken >= VISITORS as u64, "{:?}", hostile.heard());
    let grown = world.gateways[0]
        .process()
        .resident_memory()
        .saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "the gateway grew by {grown} bytes");
    drop(visitors);
    drop(hostile);
    wait::within(3 * wait::PATIENCE, "its flows end", || {
        (counted(&world, "kakuremichi_tunnel_flows ") <= KEPT).then_some(())
    });
}

/// An agent that was enrolled like any other, and whose place is free now.
fn enrolled(world: &Deployment) -> Place {
    let token = world.control.token("agent", &[]);
    let host = world.network.host(NAME);
    let data = world.data(NAME);
    let mut agent = start_agent(host, &world.control, &data, NAME, &token);
    agent.ready();
    agent.kill();
    let endpoint = world.gateways[0].host().at(Gateway::WIREGUARD);
    Place::of_agent(&data, endpoint).unwrap()
}

/// Does something while the attack goes on, at some ten thousand datagrams a second.
fn during<T>(hostile: &mut Hostile, attack: Attack, work: impl FnOnce() -> T) -> T {
    hostile.prepare(attack);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                hostile.attend();
                hostile.strike(attack, 20);
                thread::sleep(Duration::from_millis(2));
            }
        });
        // Also when it panics: the thread is waited for.
        let _stop = Stop(&stop);
        work()
    })
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A visitor of the honest agent gets every byte.
fn fetch(world: &Deployment) {
    world.visit(async |visitor| {
        let url = format!("https://web.test/bytes/{LENGTH}?7");
        let (status, bytes, digest) = visitor.download(Version::Http1, &url).await.unwrap();
        assert_eq!((status, bytes), (StatusCode::OK, LENGTH));
        assert_eq!(digest, Pattern::new(7).digest(LENGTH));
    });
}

/// A visitor who has sent as much as goes.
fn stuffed(world: &Deployment, address: SocketAddr) -> TcpStream {
    world.visitors.namespace().run(|| {
        let mut stream = wait::until("the service's port", || TcpStream::connect(address).ok());
        stream.set_nonblocking(true).unwrap();
        let piece = [7; 64 * 1024];
        let mut quiet = 0;
        // Full for a while, not just for a moment.
        while quiet < 20 {
            let wrote = stream.write(&piece);
            if wrote.is_ok_and(|bytes| bytes > 0) {
                quiet = 0;
            } else {
                quiet += 1;
                thread::sleep(Duration::from_millis(5));
            }
        }
        let cut = stream.read(&mut [0]);
        assert!(!matches!(cut, Ok(0)), "the visitor is kept waiting, not cut");
        stream
    })
}

fn counted(world: &Deployment, name: &str) -> u64 {
    let page = world.gateways[0].admin("/metrics");
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} is not in /metrics"))
        .trim()
        .parse()
        .unwrap()
}
