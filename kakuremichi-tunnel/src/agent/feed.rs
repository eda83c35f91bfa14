//! What a gateway hears of the agent's targets, through their lane: also with Control gone.

#![expect(clippy::disallowed_methods, reason = "a feed waits before it is tried again")]

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use kakuremichi_core::id::TargetId;
use kakuremichi_proto::{
    lane::{FEED_PORT, TargetHealth, encode_draining, encode_targets},
    report::TargetState,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
    time,
};

use super::{checks::Checked, lanes::is_up};
use crate::{
    engine::{Connect, Peers, Shard},
    peer::PeerKeys,
    stream::TunnelStream,
};

/// The pause before a feed that broke is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// The health of every target of which it is known, and whether the agent drains. The newest is told; what came between is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Report {
    targets: BTreeMap<TargetId, bool>,
    /// The agent is about to stop.
    draining: bool,
}

impl Report {
    /// Takes the present state; says whether it is another.
    pub(super) fn update(&mut self, draining: bool, checked: impl Iterator<Item = Checked>) -> bool {
        let known = |checked: Checked| match checked.state {
            TargetState::Unknown => None,
            TargetState::Passing => Some((checked.target, true)),
            TargetState::Failing => Some((checked.target, false)),
        };
        let now = Self {
            targets: checked.filter_map(known).collect(),
            draining,
        };
        let changed = *self != now;
        *self = now;
        changed
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let health = |(target, passing): (&TargetId, &bool)| TargetHealth {
            target: *target,
            passing: *passing,
        };
        let targets: Vec<_> = self.targets.iter().map(health).collect();
        let mut frames = Vec::new();
        encode_draining(self.draining, &mut frames);
        encode_targets(true, &targets, &mut frames);
        frames
    }
}

/// Keeps a feed to one gateway, for as long as its lane is up.
pub(super) async fn run(
    shard: Shard,
    gateway: PeerKeys,
    address: Ipv6Addr,
    mut peers: watch::Receiver<Arc<Peers>>,
    mut reports: watch::Receiver<Report>,
) {
    let remote = SocketAddr::from((address, FEED_PORT));
    loop {
        if peers.wait_for(|peers| is_up(peers, gateway)).await.is_err() {
            return;
        }
        let key = gateway.known(|key| peers.borrow().contains_key(&key));
        match shard.connect(Connect::new(key, remote)).await {
            Ok(stream) => tell(stream, &mut reports).await,
            Err(error) => tracing::debug!(%key, %error, "no feed to a gateway"),
        }
        time::sleep(PAUSE).await;
    }
}

/// Tells everything, and again whatever changes, until the flow breaks.
async fn tell(stream: TunnelStream, reports: &mut watch::Receiver<Report>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut answer = [0; 64];
    loop {
        let frames = reports.borrow_and_update().encode();
        if writer.write_all(&frames).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                changed = reports.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                // A gateway says nothing; a newer one may, and what it says is skipped.
                read = reader.read(&mut answer) => if !matches!(read, Ok(1..)) {
                    return;
                },
            }
        }
    }
}
