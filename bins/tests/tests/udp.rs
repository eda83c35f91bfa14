//! UDP services: their ports open and close with the plan, and visitors have sessions at them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kakuremichi_tests::deployment::{AGENT, Gateway};
use kakuremichi_tests::{Deployment, Families, Host, StockPeer, component, stock, wait};
use serde_json::{Value, json};

/// How long a datagram may take before it is sent again.
const AGAIN: Duration = Duration::from_millis(300);
/// The port of the service.
const PORT: u16 = 5300;

/// LESSONS: "new raw port = three file edits and a restart".
#[test]
fn a_udp_port_opens_moves_and_closes_with_the_plan() {
    let Some(world) = Deployment::start() else { return };
    let echo = UdpEcho::on(world.edge());
    let rest = world.control.rest();
    let service = rest.create("services", &udp(PORT, echo.port, &json!("public")));
    let port = service["udp"]["port"].as_u64().unwrap();
    assert_eq!(port, u64::from(PORT));
    let url = service["urls"][0].as_str().unwrap();
    assert!(url.starts_with("udp://"), "{url}");
    let path = format!("services/{}", service["id"].as_str().unwrap());
    let one = visitor(&world, PORT);
    is_echoed(&one, b"hello");
    // DNS over EDNS, and what is longer than any packet of the tunnel.
    for length in [0, 512, 1_232, 4_096, 20_000] {
        is_echoed(&one, &vec![length as u8; length]);
    }

    wait::until("what the engine counts", || {
        let long = counter(&world, "kakuremichi_tunnel_datagrams_fragmented_total");
        (long >= 2 && counter(&world, "kakuremichi_tunnel_sessions_opened_total") >= 1).then_some(())
    });
    let mtu = format!("kakuremichi_peer_mtu_bytes{{peer=\"{AGENT}\"}}");
    wait::until("the length of packets", || {
        (counter(&world, &mtu) == 1_420).then_some(())
    });

    rest.replace(&path, &udp(PORT + 1, echo.port, &json!("public")));
    is_echoed(&visitor(&world, PORT + 1), b"moved");
    is_silent(&one);

    rest.delete(&path);
    is_silent(&visitor(&world, PORT + 1));
}

#[test]
fn many_visitors_at_once_have_sessions_of_their_own() {
    const VISITORS: usize = 200;
    let Some(world) = Deployment::start() else { return };
    let echo = UdpEcho::on(world.edge());
    let service = udp(PORT, echo.port, &json!("public"));
    let service = world.control.rest().create("services", &service);
    let sockets: Vec<_> = (0..VISITORS).map(|_| visitor(&world, PORT)).collect();
    for round in 0..3_u8 {
        for (number, socket) in sockets.iter().enumerate() {
            let _ = socket.send(&[number as u8, round]);
        }
        for (number, socket) in sockets.iter().enumerate() {
            is_echoed(socket, &[number as u8, round]);
        }
    }
    let path = format!("services/{}/usage", service["id"].as_str().unwrap());
    wait::until("the sessions are counted", || {
        let used = world.control.rest().get(&path);
        (used["connections"].as_u64()? >= VISITORS as u64).then_some(())
    });
}

/// DESIGN section 2, invariant 5: what is no longer permitted is closed, open or not.
#[test]
fn a_session_ends_when_its_policy_denies_it() {
    let Some(world) = Deployment::start() else { return };
    let echo = UdpEcho::on(world.edge());
    let rest = world.control.rest();
    let service = rest.create("services", &udp(PORT, echo.port, &json!("public")));
    let path = format!("services/{}", service["id"].as_str().unwrap());
    let socket = visitor(&world, PORT);
    is_echoed(&socket, b"hello");
    let own = socket.local_addr().unwrap().ip();
    let mut ruled = udp(PORT, echo.port, &json!("public"));
    ruled["policy"]["rules"] =
        json!([{ "name": "banned", "when": { "source": format!("{own}") }, "effect": "deny" }]);
    rest.replace(&path, &ruled);
    is_silent(&socket);
    assert!(counter(&world, "kakuremichi_revoked_total") >= 1);
    rest.replace(&path, &udp(PORT, echo.port, &json!("public")));
    is_echoed(&socket, b"again");
}

#[test]
fn a_target_that_refuses_is_counted_and_an_agent_that_is_started_again_goes_on() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let echo = UdpEcho::on(world.edge());
    let port = echo.port;
    drop(echo);
    world
        .control
        .rest()
        .create("services", &udp(PORT, port, &json!("public")));
    let socket = visitor(&world, PORT);
    wait::until("the target refuses", || {
        let _ = socket.send(b"anybody?");
        (counter(&world, "kakuremichi_udp_refusals_total") > 0).then_some(())
    });
    let _echo = UdpEcho::on_port(world.edge(), port);
    is_echoed(&socket, b"at last");

    // The session goes on with an agent that knows nothing of it.
    world.agent.kill();
    world.agent.start_again();
    world.agent.ready();
    is_echoed(&socket, b"as before");
}

#[test]
fn a_target_behind_a_stock_device_gets_plain_datagrams() {
    if !component::have(&stock::COMPONENTS) {
        return;
    }
    let Some(world) = Deployment::start() else { return };
    let office = world.network.host_behind_nat("office");
    let echo = UdpEcho::on(&office);
    let device = StockPeer::start(&office, 0, &[]);
    let rest = world.control.rest();
    let site = json!({ "name": "office", "wireguard_key": device.public_key(), "networks": [] });
    let site = rest.create("sites", &site);
    let (v6, v4) = (
        site["address"].as_str().unwrap(),
        site["address_v4"].as_str().unwrap(),
    );
    device.address(&format!("{v6}/128"));
    device.address(&format!("{v4}/32"));
    let gateway = rest.node("gateway-1");
    let networks = [
        format!("{}/128", gateway["address"].as_str().unwrap()),
        format!("{}/32", gateway["gateway"]["address_v4"].as_str().unwrap()),
    ];
    let key = gateway["wireguard_key"].as_str().unwrap();
    device.peer(&stock::Peer {
        public_key: key,
        endpoint: Some(world.gateways[0].host().at(Gateway::WIREGUARD)),
        allowed: &networks,
        keepalive: 1,
    });
    device.handshake(key);
    for (name, port, address) in [("names-v6", PORT, v6), ("names-v4", PORT + 1, v4)] {
        let at = SocketAddr::new(address.parse().unwrap(), echo.port);
        let service = json!({
            "name": name,
            "udp": { "port": port, "targets": [{ "site": "office", "address": at.to_string() }] },
            "policy": { "access": "public" },
        });
        rest.create("services", &service);
        let socket = visitor(&world, port);
        for length in [4, 1_200, 4_096] {
            is_echoed(&socket, &vec![length as u8; length]);
        }
    }
}

#[test]
fn a_pinned_lane_carries_datagrams_where_udp_is_blocked() {
    let Some(mut world) = Deployment::with_agent(&["--lane", "tls"]) else {
        return;
    };
    world.edge().swallows_udp();
    let echo = UdpEcho::on(world.edge());
    let service = udp(PORT, echo.port, &json!("public"));
    world.control.rest().create("services", &service);
    let one = visitor(&world, PORT);
    for length in [0, 5, 1_232, 4_096, 20_000] {
        is_echoed(&one, &vec![length as u8; length]);
    }
    // Others meanwhile have sessions, and connections, of their own.
    let others: Vec<_> = (0..40).map(|_| visitor(&world, PORT)).collect();
    for (number, other) in others.iter().enumerate() {
        is_echoed(other, &[number as u8]);
    }
    is_echoed(&one, b"still here");
    assert!(counter(&world, "kakuremichi_lane_sessions_total") >= 41);

    // The agent is started again: the sessions begin anew.
    world.agent.kill();
    world.agent.start_again();
    world.agent.ready();
    is_echoed(&one, b"as before");
}

/// DESIGN section 6: upgraded and downgraded by a path state machine, for sessions too.
#[test]
fn a_session_moves_to_tls_when_udp_is_swallowed() {
    let Some(world) = Deployment::start() else { return };
    let echo = UdpEcho::on(world.edge());
    let service = udp(PORT, echo.port, &json!("public"));
    world.control.rest().create("services", &service);
    let socket = visitor(&world, PORT);
    is_echoed(&socket, b"over WireGuard");
    assert_eq!(counter(&world, "kakuremichi_lane_sessions_total"), 0);

    world.edge().swallows_udp();
    // The visitor goes on asking all the time: its session never idles.
    is_echoed(&socket, b"over TLS");
    assert!(counter(&world, "kakuremichi_lane_sessions_total") >= 1);

    world.edge().passes_udp();
    is_echoed(&socket, b"and still");
    let up = || counter(&world, &format!("kakuremichi_peer_over_tls{{peer=\"{AGENT}\"}}")) == 0;
    wait::until("flows over WireGuard", || up().then_some(()));
    let before = counter(&world, "kakuremichi_lane_sessions_total");
    is_echoed(&visitor(&world, PORT), b"new ones go over WireGuard");
    assert_eq!(counter(&world, "kakuremichi_lane_sessions_total"), before);
}

/// LESSONS: "502 when DNS picks a gateway without the tunnel".
#[test]
fn a_gateway_without_the_lane_serves_sessions_through_one_that_has_it() {
    let Some(world) = Deployment::with(Families::Both, 2) else {
        return;
    };
    let echo = UdpEcho::on(world.edge());
    let service = udp(PORT, echo.port, &json!("public"));
    world.control.rest().create("services", &service);
    let socket = visitor(&world, PORT);
    is_echoed(&socket, b"straight");
    let told = "kakuremichi_sibling_agents{gateway=\"gateway-2\"}";
    wait::until("the gateways know each other", || {
        (counter(&world, told) == 1).then_some(())
    });

    // The session that is open begins anew, as new ones do.
    world.edge().loses(world.gateways[0].host());
    is_echoed(&socket, b"through the second");
    for length in [0, 1_232, 20_000] {
        is_echoed(&visitor(&world, PORT), &vec![length as u8; length]);
    }
    assert!(counter(&world, "kakuremichi_relay_flows_total") >= 4);
    assert!(counter_at(&world, 1, "kakuremichi_relayed_sessions_total") >= 4);

    world.edge().finds();
    let up = format!("kakuremichi_peer_up{{peer=\"{AGENT}\"}}");
    wait::until("the first gateway's own lane", || {
        (counter(&world, &up) == 1).then_some(())
    });
    let before = counter(&world, "kakuremichi_relay_flows_total");
    is_echoed(&visitor(&world, PORT), b"straight again");
    assert_eq!(counter(&world, "kakuremichi_relay_flows_total"), before);
}

fn udp(port: u16, target_port: u16, access: &Value) -> Value {
    let target = json!({ "agent": AGENT, "address": format!("127.0.0.1:{target_port}") });
    json!({
        "name": "names",
        "udp": { "port": port, "targets": [target] },
        "policy": { "access": access },
    })
}

/// A counter of the first gateway's.
fn counter(world: &Deployment, name: &str) -> u64 {
    counter_at(world, 0, name)
}

fn counter_at(world: &Deployment, gateway: usize, name: &str) -> u64 {
    let page = world.gateways[gateway].admin("/metrics");
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

/// A visitor's socket toward a port of the gateway.
fn visitor(world: &Deployment, port: u16) -> UdpSocket {
    let address = world.gateways[0].host().at(port);
    let socket = bind(&world.visitors, 0, address.is_ipv6());
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(AGAIN)).unwrap();
    socket
}

fn bind(host: &Host, port: u16, v6: bool) -> UdpSocket {
    let any = if v6 { "::" } else { "0.0.0.0" };
    host.block_on(async || UdpSocket::bind((any, port)).unwrap())
}

/// Whether `data` comes back, asked once. What came late of an earlier question is skipped.
fn answers(socket: &UdpSocket, data: &[u8]) -> bool {
    let mut buffer = vec![0; 65_535];
    // A port that is closed is an error of the socket's.
    if socket.send(data).is_err() {
        return false;
    }
    while let Ok(length) = socket.recv(&mut buffer) {
        if buffer[..length] == *data {
            return true;
        }
    }
    false
}

#[track_caller]
fn is_echoed(socket: &UdpSocket, data: &[u8]) {
    wait::until(&format!("an echo of {} bytes", data.len()), || {
        answers(socket, data).then_some(())
    });
}

#[track_caller]
fn is_silent(socket: &UdpSocket) {
    wait::until("silence", || (!answers(socket, b"anybody?")).then_some(()));
}

/// A UDP server on a host that returns what it gets. It ends when dropped.
struct UdpEcho {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    fn on(host: &Host) -> Self {
        Self::on_port(host, 0)
    }

    fn on_port(host: &Host, port: u16) -> Self {
        let socket = bind(host, port, true);
        let port = socket.local_addr().unwrap().port();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_535];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Self {
            port,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}
