//! The gateway's part of the overlay, as the engine is told it, and where peers were last.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use kakuremichi_core::{
    id::PeerId,
    key::WireGuardKey,
    plan::{GatewayPeer, GatewayPlan},
};
use kakuremichi_proto::lane::{FEED_PORT, RELAY_PORT};

use crate::{
    engine::{Listen, Network, PeerSettings, Peers, proxy_v2_length},
    peer::PeerKeys,
};

/// A site that is reached at an address of its own is kept awake this often, so that its session
/// stands before a visitor comes.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// The longest text of remembered endpoints that is read, in bytes: room for as many as a device has peers.
const MAX_TEXT: usize = 8 * 1024 * 1024;
/// The first line of that text.
const HEADER: &str = "kakuremichi peers 1";

/// Where each peer was last.
pub(crate) type Endpoints = BTreeMap<WireGuardKey, SocketAddr>;

/// Makes the network of a plan; `None` while the plan does not know this gateway. `last` is where peers
/// were before this process, `resolved` where names of the plan lead, `siblings` what else is a peer.
pub(crate) fn network(
    plan: &GatewayPlan,
    last: &Endpoints,
    resolved: &BTreeMap<PeerId, SocketAddr>,
    siblings: Vec<PeerSettings>,
) -> Option<Network> {
    let node = plan.node()?;
    let settings = |peer: &GatewayPeer| {
        let keys = keys(plan, peer);
        let mut wireguard = keys.config(peer.allowed_ips.clone());
        // An agent is where it was; it would otherwise be unreachable until it notices by itself that
        // this gateway was started again.
        wireguard.endpoint = resolved
            .get(&peer.id)
            .or_else(|| keys.find(|key| last.get(&key)))
            .copied();
        let probe = match peer.id {
            PeerId::Agent(_) => Some(peer.address.into()),
            // A stock device answers no probe that it was not set up for.
            PeerId::Site(_) => None,
        };
        if probe.is_none() && peer.endpoint.is_some() {
            wireguard.persistent_keepalive = Some(KEEP_ALIVE);
        }
        PeerSettings { wireguard, probe }
    };
    Some(Network {
        addresses: vec![IpAddr::V6(node.address), IpAddr::V4(node.address_v4)],
        peers: plan.peers().map(settings).chain(siblings).collect(),
        listen: vec![
            Listen {
                port: FEED_PORT,
                preface: None,
            },
            Listen {
                port: RELAY_PORT,
                preface: Some(proxy_v2_length),
            },
        ],
        listen_udp: vec![Listen {
            port: RELAY_PORT,
            preface: Some(proxy_v2_length),
        }],
    })
}

/// How a peer of the plan is known to the engine.
pub(crate) fn keys(plan: &GatewayPlan, peer: &GatewayPeer) -> PeerKeys {
    let before = match peer.id {
        PeerId::Agent(agent) => plan.previous_keys(agent.into()),
        // Nobody rotates the key of a stock device.
        PeerId::Site(_) => None,
    };
    PeerKeys::new(peer.wireguard, before)
}

/// Where the peers are that can be reached now.
pub(crate) fn endpoints(peers: &Peers) -> Endpoints {
    peers
        .iter()
        .filter(|(_, view)| view.is_online())
        .filter_map(|(key, view)| Some((*key, view.endpoint?)))
        .collect()
}

/// Writes endpoints as a text, one `key address` per line.
pub(crate) fn to_text(endpoints: &Endpoints) -> String {
    let mut text = format!("{HEADER}\n");
    for (key, address) in endpoints {
        text.push_str(&format!("{key} {address}\n"));
    }
    text
}

/// Reads such a text. Lines that are damaged are skipped: all that is lost is a little time.
pub(crate) fn from_text(bytes: &[u8]) -> Endpoints {
    let lines = bytes.strip_prefix(HEADER.as_bytes());
    let Some(lines) = lines.filter(|_| bytes.len() <= MAX_TEXT) else {
        return Endpoints::new();
    };
    lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let (key, address) = std::str::from_utf8(line).ok()?.split_once(' ')?;
            Some((key.parse().ok()?, address.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{
        id::{AgentId, GatewayId, OrganizationId, SiteId},
        plan::{GatewayNode, GatewayRecord, Revision},
    };

    use super::*;

    fn key(number: u8) -> WireGuardKey {
        WireGuardKey::from_bytes([number; 32])
    }

    fn peer(number: u8, id: PeerId, endpoint: Option<&str>) -> GatewayRecord {
        GatewayRecord::Peer(GatewayPeer {
            id,
            name: "peer".parse().unwrap(),
            identity: None,
            wireguard: key(number),
            address: format!("fd00::{number}").parse().unwrap(),
            allowed_ips: vec![format!("fd00::{number}/128").parse().unwrap()],
            endpoint: endpoint.map(|endpoint| endpoint.parse().unwrap()),
        })
    }

    #[test]
    fn agents_are_probed_and_sites_kept_awake() {
        let node = GatewayRecord::Node(GatewayNode {
            id: GatewayId::from_bytes([1; 16]),
            organization: OrganizationId::from_bytes([1; 16]),
            name: "gate".parse().unwrap(),
            address: "fd00::ff".parse().unwrap(),
            address_v4: "100.64.0.1".parse().unwrap(),
        });
        let site = PeerId::Site(SiteId::from_bytes([2; 16]));
        let plan = GatewayPlan::new(
            Revision(1),
            [
                node,
                peer(1, PeerId::Agent(AgentId::from_bytes([1; 16])), None),
                peer(2, site, Some("wg.example.net:51820")),
                peer(3, PeerId::Site(SiteId::from_bytes([3; 16])), None),
            ],
        );
        let last = Endpoints::from([(key(1), "192.0.2.1:1".parse().unwrap())]);
        let resolved = BTreeMap::from([(site, "192.0.2.2:51820".parse().unwrap())]);
        let network = network(&plan, &last, &resolved, Vec::new()).unwrap();
        assert_eq!(network.addresses.len(), 2);
        assert_eq!(network.listen[0].port, FEED_PORT);
        let told = |number: u8| {
            let found = |settings: &&PeerSettings| settings.wireguard.public_key == key(number);
            let settings = network.peers.iter().find(found).unwrap();
            let wireguard = &settings.wireguard;
            (
                settings.probe.is_some(),
                wireguard.endpoint.map(|endpoint| endpoint.to_string()),
                wireguard.persistent_keepalive.is_some(),
            )
        };
        assert_eq!(told(1), (true, Some("192.0.2.1:1".to_owned()), false));
        assert_eq!(told(2), (false, Some("192.0.2.2:51820".to_owned()), true));
        assert_eq!(told(3), (false, None, false));
        assert!(super::network(&GatewayPlan::default(), &last, &resolved, Vec::new()).is_none());
    }

    #[test]
    fn endpoints_survive_the_disk_and_damage_costs_a_line() {
        let endpoints = Endpoints::from([
            (key(1), "192.0.2.1:1".parse().unwrap()),
            (key(2), "[2001:db8::1]:2".parse().unwrap()),
        ]);
        let text = to_text(&endpoints);
        assert_eq!(from_text(text.as_bytes()), endpoints);
        assert_eq!(from_text(format!("{text}garbage\nx y\n").as_bytes()), endpoints);
        let mut torn = text.clone().into_bytes();
        torn.extend_from_slice(b"\xff\xfe\0\n");
        torn.extend_from_slice(text.lines().next_back().unwrap_or_default().as_bytes());
        assert_eq!(from_text(&torn), endpoints);
        assert!(from_text(b"\xff\xfe").is_empty() && from_text(b"").is_empty());
    }
}
