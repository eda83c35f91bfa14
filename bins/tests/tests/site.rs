//! A stock WireGuard device as a site.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use http::{Method, StatusCode};
use kakuremichi_tests::deployment::Gateway;
use kakuremichi_tests::{Deployment, Host, Origin, StockPeer, component, stock, wait};
use serde_json::{Value, json};

/// A network behind the device that the gateway is told about.
const BEHIND: &str = "10.77.0.0/24";
const BEHIND_ADDRESS: &str = "10.77.0.1";

#[test]
fn a_stock_device_shakes_hands_and_what_lies_behind_it_is_served() {
    if !component::have(&stock::COMPONENTS) {
        return;
    }
    let Some(world) = Deployment::start() else { return };
    let office = world.network.host_behind_nat("office");
    let origin = Origin::on(&office, "office");
    let device = StockPeer::start(&office, 0, &[]);
    let site = register(&world, &device);
    device.address(&format!("{BEHIND_ADDRESS}/32"));
    for service in [
        over("by-v6", &site["address"], origin.port()),
        over("by-v4", &site["address_v4"], origin.port()),
        over("behind", &json!(BEHIND_ADDRESS), origin.port()),
    ] {
        world.control.rest().create("services", &service);
    }

    // With another key than the gateway's there is no handshake, and visitors are told that nobody is there.
    let stranger = StockPeer::start(&world.visitors, 0, &[]);
    let (gateway, endpoint) = (world.control.rest().node("gateway-1"), world.gateways[0].host());
    let networks = networks(&gateway);
    let peer = |public_key| stock::Peer {
        public_key,
        endpoint: Some(endpoint.at(Gateway::WIREGUARD)),
        allowed: &networks,
        keepalive: 1,
    };
    device.peer(&peer(stranger.public_key()));
    let page = world.answered(0, "https://by-v6.test/hello", StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.text().contains("KKM-G005"), "{}", page.text());
    device.forget(stranger.public_key());

    let key = gateway["wireguard_key"].as_str().unwrap();
    device.peer(&peer(key));
    device.handshake(key);
    for name in ["by-v6", "by-v4", "behind"] {
        world.served(&format!("https://{name}.test/hello"));
    }
    let url = "https://behind.test/request";
    let told = world.get(url).json();
    let v4 = gateway["gateway"]["address_v4"].as_str().unwrap();
    assert!(
        told["peer"].as_str().unwrap().contains(v4),
        "the gateway itself comes: {told}"
    );

    // The device was configured by hand: the gateway gets another identity, and the key that the device has stays.
    let rest = world.control.rest();
    let id = gateway["id"].as_str().unwrap();
    let rotated = |overlap: u32| {
        let before = rest.node("gateway-1")["identity_key"].clone();
        let asked = json!({ "overlap": overlap });
        let reply = rest.send(Method::POST, &format!("nodes/{id}/rotate-keys"), Some(&asked));
        assert_eq!(reply.status, StatusCode::OK);
        wait::until("the gateway has new keys", || {
            let node = rest.node("gateway-1");
            (node["identity_key"] != before).then(|| node["wireguard_key"].clone())
        })
    };
    assert_eq!(rotated(3600), gateway["wireguard_key"]);
    world.served(url);
    // Unless somebody else has it: then it counts for nothing, and the device gets the new one by hand.
    let new = rotated(0);
    assert_ne!(new, gateway["wireguard_key"]);
    world.answered(0, url, StatusCode::SERVICE_UNAVAILABLE);
    device.forget(key);
    let key = new.as_str().unwrap();
    device.peer(&peer(key));
    device.handshake(key);
    world.served(url);
}

#[test]
fn a_device_that_waits_is_called_by_the_gateway() {
    if !component::have(&stock::COMPONENTS) {
        return;
    }
    let Some(world) = Deployment::start() else { return };
    let office: Host = world.network.host("office");
    let origin = Origin::on(&office, "office");
    let device = StockPeer::start(&office, 51_820, &[]);
    let gateway = world.control.rest().node("gateway-1");
    let site = json!({
        "name": "office", "wireguard_key": device.public_key(), "endpoint": office.at(51_820).to_string(),
    });
    let site = world.control.rest().create("sites", &site);
    device.address(&format!("{}/128", site["address"].as_str().unwrap()));
    let key = gateway["wireguard_key"].as_str().unwrap();
    device.peer(&stock::Peer {
        public_key: key,
        endpoint: None,
        allowed: &networks(&gateway),
        keepalive: 0,
    });
    world
        .control
        .rest()
        .create("services", &over("web", &site["address"], origin.port()));
    world.served("https://web.test/hello");
    device.handshake(key);
}

/// Tells Control of a device, and gives the device the addresses that it is to have.
fn register(world: &Deployment, device: &StockPeer<'_>) -> Value {
    let site = json!({ "name": "office", "wireguard_key": device.public_key(), "networks": [BEHIND] });
    let site = world.control.rest().create("sites", &site);
    device.address(&format!("{}/128", site["address"].as_str().unwrap()));
    device.address(&format!("{}/32", site["address_v4"].as_str().unwrap()));
    site
}

/// The addresses of a gateway in the overlay.
fn networks(gateway: &Value) -> Vec<String> {
    vec![
        format!("{}/128", gateway["address"].as_str().unwrap()),
        format!("{}/32", gateway["gateway"]["address_v4"].as_str().unwrap()),
    ]
}

/// A service at an address behind the site.
fn over(name: &str, address: &Value, port: u16) -> Value {
    let address = address.as_str().unwrap();
    let address = std::net::SocketAddr::new(address.parse().unwrap(), port);
    json!({
        "name": name,
        "http": { "hosts": [format!("{name}.test")], "routes": [{
            "targets": [{ "site": "office", "address": address.to_string() }],
        }] },
        "policy": { "access": "public" },
    })
}
