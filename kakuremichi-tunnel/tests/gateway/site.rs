//! A target behind a stock WireGuard device, which knows nothing of ours.

use std::{net::SocketAddr, sync::Arc};

use kakuremichi_core::{
    id::{OrganizationId, PeerId, RouteId, ServiceId, SiteId, TargetId},
    model::{IdentityForm, TargetScheme},
    plan::{
        GatewayPeer, GatewayRecord, GatewayService, PlannedKind, PlannedPool, PlannedRoute, PlannedTarget,
        Via,
    },
    policy::Policy,
};
use kakuremichi_tunnel::{
    engine::{Listen, Network, PeerSettings, ShardConfig, ShardHandle},
    state::StateDir,
    wg::PeerConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::scene::{HOST, Scene, soon};

/// A device at 100.64.0.9 whose port 8080 answers whoever speaks HTTP.
fn device(private_key: [u8; 32], gateway: &Scene) -> ShardHandle {
    let config = ShardConfig::new(
        "site",
        private_key.into(),
        vec!["127.0.0.1:0".parse().unwrap()],
        [9; 16],
    );
    let shard = ShardHandle::spawn(config, |local| {
        let own = local.clone();
        local.on_incoming(move |flow| {
            assert!(flow.preface.is_empty());
            let mut stream = flow.accept_stream(Arc::default());
            own.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                assert!(head.starts_with(b"GET /"));
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbehind")
                    .await;
                let _ = stream.shutdown().await;
            });
        });
    })
    .unwrap();
    let mut wireguard = PeerConfig::new(
        gateway.gateway.wireguard_key(),
        vec!["100.64.0.0/10".parse().unwrap()],
    );
    wireguard.endpoint = Some(gateway.gateway.wireguard_addresses()[0]);
    shard.configure(Network {
        addresses: vec!["100.64.0.9".parse().unwrap()],
        peers: vec![PeerSettings {
            wireguard,
            probe: None,
        }],
        listen: vec![Listen {
            port: 8080,
            preface: None,
        }],
        listen_udp: vec![Listen {
            port: 8080,
            preface: None,
        }],
    });
    shard
}

/// A private key, and the public half that a state directory makes of it.
fn key() -> ([u8; 32], kakuremichi_core::key::WireGuardKey) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(&directory.path().join("site")).unwrap();
    let public = state.keys().unwrap().wireguard();
    let text = std::fs::read_to_string(directory.path().join("site").join("wireguard.key")).unwrap();
    let private = data_encoding::BASE64.decode(text.trim().as_bytes()).unwrap();
    (private.try_into().unwrap(), public)
}

#[tokio::test]
async fn a_target_behind_a_stock_device_is_served() {
    let scene = Scene::start(&[]).await;
    let (private, public) = key();
    let device = device(private, &scene);
    let site = SiteId::from_bytes([7; 16]);
    let address: SocketAddr = "100.64.0.9:8080".parse().unwrap();
    let peer = GatewayPeer {
        id: PeerId::Site(site),
        name: "office".parse().unwrap(),
        identity: None,
        wireguard: public,
        address: "fd00::9".parse().unwrap(),
        allowed_ips: vec!["100.64.0.9/32".parse().unwrap()],
        endpoint: Some(device.local_addresses()[0].to_string().parse().unwrap()),
    };
    let target = PlannedTarget {
        id: TargetId::from_bytes([7; 16]),
        via: Via::Site { site, address },
        scheme: TargetScheme::Plain,
        server_name: None,
        checked: false,
    };
    let service = GatewayService {
        id: ServiceId::from_bytes([7; 16]),
        organization: OrganizationId::from_bytes([1; 16]),
        name: "office".parse().unwrap(),
        kind: PlannedKind::Http {
            hosts: vec![HOST.parse().unwrap()],
            routes: vec![PlannedRoute {
                id: RouteId::from_bytes([7; 16]),
                path: "/".parse().unwrap(),
                pool: PlannedPool {
                    targets: vec![target],
                },
                policies: Vec::new(),
            }],
            identity: IdentityForm::default(),
        },
        policy: Policy::public(),
        policies: Vec::new(),
    };
    scene
        .publish_records([GatewayRecord::Peer(peer), GatewayRecord::Service(service)])
        .await;
    soon(async {
        loop {
            let answer = scene.get("/").await;
            if answer.ends_with("behind") {
                return;
            }
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            tokio::task::yield_now().await;
        }
    })
    .await;
}
