//! A shard that plays the gateway.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use kakuremichi_core::{id::TargetId, key::WireGuardKey, net::Cidr};
use kakuremichi_proto::{
    flow::FlowReply,
    lane::{self, FEED_PORT, FeedFrame},
    preface::{ConnectionId, Preface},
};
use tokio::{io::AsyncReadExt as _, sync::watch};

use super::{AGENT, GATEWAY, gateway_id, port, service_id, soon, target_id};
use crate::{
    engine::{Connect, Listen, Network, OpenSession, PeerSettings, PeerView, ShardConfig, ShardHandle},
    keys::NodeKeys,
    session::TunnelSession,
    stream::{FlowRefused, TunnelStream},
    wg::PeerConfig,
};

pub(super) type Health = BTreeMap<TargetId, bool>;

pub(super) struct Gate {
    shard: ShardHandle,
    keys: NodeKeys,
    agent: WireGuardKey,
    /// What the agent said of its targets.
    pub(super) health: watch::Receiver<Health>,
}

impl Gate {
    pub(super) fn start(agent: &NodeKeys) -> Self {
        let keys = NodeKeys::generate().unwrap();
        let config = ShardConfig::new(
            "gate",
            keys.wireguard_private(),
            vec!["127.0.0.1:0".parse().unwrap()],
            [7; 16],
        );
        let (report, health) = watch::channel(Health::new());
        let shard = ShardHandle::spawn(config, move |local| {
            let report = Arc::new(report);
            local.on_incoming(move |flow| {
                assert_eq!(flow.local.port(), FEED_PORT);
                let stream = flow.accept_stream(Arc::default());
                tokio::task::spawn_local(read_feed(stream, Arc::clone(&report)));
            });
        })
        .unwrap();
        let mut wireguard = PeerConfig::new(agent.wireguard(), vec![Cidr::host(AGENT.into())]);
        wireguard.endpoint = None;
        shard.configure(Network {
            addresses: vec![GATEWAY.into()],
            peers: vec![PeerSettings {
                wireguard,
                probe: Some(AGENT.into()),
            }],
            listen: vec![Listen {
                port: FEED_PORT,
                preface: None,
            }],
            listen_udp: Vec::new(),
        });
        Self {
            shard,
            keys,
            agent: agent.wireguard(),
            health,
        }
    }

    pub(super) fn key(&self) -> WireGuardKey {
        self.keys.wireguard()
    }

    pub(super) fn endpoint(&self) -> String {
        self.shard.local_addresses()[0].to_string()
    }

    /// Waits until the lane carries, as seen from here.
    pub(super) async fn online(&self) {
        let mut peers = self.shard.watch_peers();
        let agent = self.agent;
        let up = peers.wait_for(|peers| peers.get(&agent).is_some_and(PeerView::is_online));
        up.await.unwrap();
    }

    /// What a visitor of the service `number` brings.
    pub(super) fn preface(number: u8) -> Preface {
        Preface {
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.1:443".parse().unwrap(),
            gateway: gateway_id(),
            relay: None,
            connection: ConnectionId([2; 16]),
            service: service_id(number),
            target: target_id(number),
            tls: None,
            principal: None,
        }
    }

    /// Opens a flow to a port of the agent's.
    pub(super) async fn open(&self, port: u16, preface: &Preface) -> TunnelStream {
        let mut bytes = Vec::new();
        preface.encode(&mut bytes).unwrap();
        let mut connect = Connect::new(self.agent, SocketAddr::from((AGENT, port)));
        connect.preface = Some(bytes);
        connect.expect_reply = true;
        soon(self.shard.connect(connect)).await.unwrap()
    }

    /// Opens a UDP session to a port of the agent's.
    pub(super) async fn open_udp(&self, port: u16, preface: &Preface) -> TunnelSession {
        let mut bytes = Vec::new();
        preface.encode_datagram(&mut bytes).unwrap();
        let open = OpenSession {
            peer: self.agent,
            remote: SocketAddr::from((AGENT, port)),
            preface: Some(bytes),
            idle: Duration::from_secs(60),
            meter: Arc::default(),
        };
        soon(self.shard.open_session(open)).await.unwrap()
    }

    /// A visitor of the service `number`.
    pub(super) async fn visit(&self, number: u8) -> TunnelStream {
        self.open(port(number), &Self::preface(number)).await
    }

    /// Why the agent refuses a flow.
    pub(super) async fn refusal(&self, port: u16, preface: &Preface) -> FlowReply {
        let mut stream = self.open(port, preface).await;
        let error = soon(stream.read(&mut [0; 1])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
        let refused = error
            .get_ref()
            .and_then(|source| source.downcast_ref::<FlowRefused>());
        refused.unwrap().0
    }
}

async fn read_feed(mut stream: TunnelStream, report: Arc<watch::Sender<Health>>) {
    let mut bytes = Vec::new();
    loop {
        while let Some((frame, length)) = lane::parse(&bytes).unwrap() {
            bytes.drain(..length);
            if let FeedFrame::Targets { replace, targets } = frame {
                report.send_modify(|health| {
                    if replace {
                        health.clear();
                    }
                    health.extend(targets.iter().map(|told| (told.target, told.passing)));
                });
            }
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}
