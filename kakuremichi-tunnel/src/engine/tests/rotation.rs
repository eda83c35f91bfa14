//! WireGuard keys that are rotated while flows are open.

use std::net::SocketAddr;

use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};

use super::{
    shards::{GATE, agents, echoes, gate, open},
    support::*,
};
use crate::{
    engine::{Connect, Listen, Network, PeerSettings, PeerView, ShardSetHandle},
    wg::{PeerConfig, public_key},
};

const fn secret(number: u8) -> Secret<[u8; 32]> {
    Secret::new([number; 32])
}

/// Another key of a node.
fn newer(number: u8) -> WireGuardKey {
    public_key(&secret(number + 100))
}

/// Tells the gate the keys of these agents; the newest only, once the overlap is over.
fn tell(gate: &ShardSetHandle, numbers: &[u8], overlap: bool) {
    let settings = numbers.iter().map(|&number| {
        let mut wireguard = PeerConfig::new(newer(number), vec![Cidr::host(overlay(number))]);
        wireguard.previous_key = overlap.then(|| key(number));
        PeerSettings {
            wireguard,
            probe: Some(overlay(number)),
        }
    });
    gate.configure(Network {
        addresses: vec![overlay(GATE)],
        peers: settings.collect(),
        listen: vec![Listen {
            port: PLAIN,
            preface: None,
        }],
        listen_udp: Vec::new(),
    });
}

#[tokio::test]
async fn a_flow_goes_on_while_both_ends_rotate() {
    let (one, two) = pair(echo).await;
    let mut stream = one.shard.connect(to(PLAIN)).await.unwrap();
    echoes(&mut stream, b"before").await;
    let rotated = async |node: &Node| node.shard.metrics().await.unwrap().wireguard.rotated;
    two.shard.rekey(&secret(102));
    assert_eq!(two.shard.public_key(), newer(2));
    one.meet_as(2, (newer(2), Some(key(2))), None);
    let through = async {
        while rotated(&one).await == 0 || rotated(&two).await == 0 {
            echoes(&mut stream, b"meanwhile").await;
        }
    };
    within(through).await;
    one.shard.rekey(&secret(101));
    let address = Some(one.address());
    two.meet_as(1, (newer(1), Some(key(1))), address);
    let through = async {
        while rotated(&one).await < 2 || rotated(&two).await < 2 {
            echoes(&mut stream, b"and again").await;
        }
    };
    within(through).await;
    one.shard.forget_previous_key();
    two.shard.forget_previous_key();
    one.meet_as(2, (newer(2), None), None);
    two.meet_as(1, (newer(1), None), address);
    echoes(&mut stream, b"afterwards").await;
    // It is found by its newest key, and online as before.
    let peers = one.shard.watch_peers();
    let known = within(async {
        let mut peers = peers;
        let only = |peers: &crate::engine::Peers| peers.keys().eq([&newer(2)]);
        peers.wait_for(|peers| only(peers)).await.unwrap().clone()
    });
    assert!(known.await.values().all(PeerView::is_online));
    let connect = Connect::new(newer(2), SocketAddr::new(overlay(2), PLAIN));
    let mut another = within(one.shard.connect(connect)).await.unwrap();
    echoes(&mut another, b"one more").await;
    one.has_flows(2).await;
    assert_eq!(one.shard.metrics().await.unwrap().wireguard.disallowed, 0);
}

/// Each agent stays with its shard, whichever end has another key, and no flow notices.
#[tokio::test]
async fn a_node_with_several_shards_rotates() {
    for steering in [true, false] {
        let gate = gate(steering, "127.0.0.1:0").unwrap();
        let address = gate.local_addresses()[0];
        let numbers = [10, 11, 12, 13, 14, 15];
        let agents = agents(&gate, numbers.into_iter(), address).await;
        let mut streams = Vec::new();
        for number in numbers {
            let mut stream = open(&gate, number).await;
            echoes(&mut stream, b"before").await;
            streams.push(stream);
        }
        let owners = numbers.map(|number| gate.owner_of(&key(number)));
        gate.rekey(&secret(101));
        for agent in &agents {
            agent.meet_as(GATE, (newer(GATE), Some(key(GATE))), Some(address));
        }
        within(goes_over(&gate, &mut streams, 6)).await;
        for agent in &agents {
            agent.shard.rekey(&secret(agent.number() + 100));
        }
        tell(&gate, &numbers, true);
        within(goes_over(&gate, &mut streams, 12)).await;
        gate.forget_previous_key();
        tell(&gate, &numbers, false);
        for stream in &mut streams {
            echoes(stream, b"afterwards").await;
        }
        assert_eq!(numbers.map(|number| gate.owner_of(&newer(number))), owners);
        for number in numbers {
            let connect = Connect::new(newer(number), SocketAddr::new(overlay(number), PLAIN));
            let mut stream = within(gate.connect(connect)).await.unwrap();
            echoes(&mut stream, b"one more").await;
        }
    }
}

/// Uses the streams until so many peers have gone over in all.
async fn goes_over(gate: &ShardSetHandle, streams: &mut [crate::stream::TunnelStream], count: u64) {
    while gate.metrics().await.unwrap().wireguard.rotated < count {
        for stream in &mut *streams {
            echoes(stream, b"meanwhile").await;
        }
    }
}
